"""Speculative decoding: ids that are cheap to guess are read by the model in one pass, and kept as far as it agrees.

    said    ... the camel walked        guessed   to the well and      one pass over 5 rows
    drawn                               to the market                  3 ids at the price of about one

Each row of the pass gives the id that the request draws at its place, with the number that is keyed to that place. A
guess is right where it is that id. So the answer is the plain one, id for id, whatever is guessed, however much of it,
and whether the request is greedy or sampled: no correction of probabilities is needed (Leviathan et al. 2023 need one
because their draws are not keyed). Through the native kernels logits do not depend on how many rows are read together,
and the answer is equal bit for bit; through PyTorch up to rounding, as between any two ways of batching.

How much is guessed follows what guesses were worth of late and what passes cost here (`Odds`): none at all on text that
cannot be guessed. And it is paid for: whatever guesses lost in time, against passes without any, is at most a small share
of the time taken so far and of what other guesses have saved. Both are measured while the answer grows, so that guessing
backs off as well where others are at work and passes of several rows take longer than they promised. Where they hold up
single passes, too, savings cannot be told from luck: a turn of guesses is held against the median of turns without, and
a guess must be able to pay for their spread as well.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Protocol

import torch
from torch import Tensor

from camelid.errors import CamelidError, ProblemList
from camelid.generate.answer import Answer
from camelid.generate.decode import (
    CHUNK,
    GREEDY,
    End,
    Event,
    Model,
    Token,
    check_constraints,
    check_prompts,
    check_single,
    pick,
    quiet,
    reach,
    training,
)
from camelid.generate.sample import Drawn, Sampler
from camelid.generate.settings import Settings
from camelid.generate.single import check_cache, opened
from camelid.models.llama import Cache
from camelid.native.llama import NativeLlama
from camelid.nn.cache import KeyValueCache
from camelid.tokenizers.protocol import Tokenizer

LENGTHS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16)  # ours: guesses of one pass
RUN, LONGEST = (
    3,
    8,
)  # ours: ids that must have come before for what followed them to be a guess; more are not told apart
WEIGHT = 0.15  # ours: of a new observation of how often guesses are right
UNSEEN, HOPED = 0.1, 0.6  # ours: how often guesses are taken to be right before any was seen: those that can be watched
# without being used, and those that cannot
TURNS = 16  # ours: turns without guesses that are remembered
WATCHED = 8  # ours: of these, so many come before a draft reads the prompt, which is paid whatever comes of it
LASTING = 1 / 64  # ours: weight of a new turn in the spread of those without guesses: disturbances are rare and large
KEPT = 5  # ours: passes of each size that are remembered
MARGIN = 1.1  # ours: what guesses must promise over none, for passes are never measured exactly
REST, LONGEST_REST = 128, 1024  # ours: ids until a draft that was given up is tried again; twice as many each time
PLAIN = 32  # ours: of so many passes, one is made without guesses, to know what that takes
LOST = 0.02  # ours: what guesses may lose, as a share of the time so far; with the last of them the goal is 0.05
SAVED = 32.0  # ours: what they have saved may be lost again, up to so many passes without guesses
clock = time.perf_counter


@dataclass
class Tally:
    """What came of it: passes of the model, ids that they gave, ids guessed, and of those the right ones."""

    passes: int = 0
    given: int = 0
    guessed: int = 0
    right: int = 0


class Guesser(Protocol):
    """Whatever guesses what a text goes on with. It is told of every id, of the prompt's first."""

    free: bool  # whether guessing costs nothing worth counting
    cost: float  # seconds for one guess, as measured of late
    kind: int  # what the present guess rests on: guesses of a kind are right equally often

    def begin(self, prompt_ids: Sequence[int], settings: Settings, room: int, starts: bool) -> None:
        """A new text; the answer has at most `room` ids, and `starts` as Answer says."""
        ...

    def said(self, id: int) -> None:
        """The next id of the text."""
        ...

    def guess(self, most: int) -> list[int]:
        """Up to `most` ids that may follow; none where it has no idea."""
        ...


# --- looking up -----------------------------------------------------------------------------------------------------


class Lookup:
    """Guesses that what followed the last few ids before follows them again ("prompt lookup", Saxena 2023).

    The latest place counts where the last RUN ids stood before, and the longer the run that agrees there, the better
    the guess (its `kind`). A run that reaches to the end of the text is continued by the guess itself, so that a loop
    is guessed for as long as wanted. It costs a few microseconds for each id.
    """

    free = True
    cost = 0.0

    def __init__(self) -> None:
        self.kind = 0
        self._ids: list[int] = []
        self._next: dict[tuple[int, ...], int] = {}  # where the latest of each run was followed
        self._place: int | None = None

    def begin(self, prompt_ids: Sequence[int], settings: Settings, room: int, starts: bool) -> None:
        self._ids, self._next, self._place = [], {}, None
        for id in prompt_ids:
            self.said(id)

    def said(self, id: int) -> None:
        ids = self._ids
        ids.append(id)
        run = tuple(ids[-RUN:])
        self._place = self._next.get(run)
        self._next[run] = len(ids)

    def guess(self, most: int) -> list[int]:
        ids, place = self._ids, self._place
        if place is None:
            return []
        period = len(ids) - place
        run = RUN
        while run < LONGEST and run < place and ids[place - run - 1] == ids[-run - 1]:
            run += 1
        self.kind = run
        return [ids[place + step % period] for step in range(most)]


# --- a smaller model ------------------------------------------------------------------------------------------------


class Draft:
    """Guesses what a smaller member of the family would say to the same request, drawn with the same numbers.

    It gives up a text with ids that it lacks, or where it fails itself.
    """

    free = False
    kind = 0

    def __init__(self, model: Model, tokenizer: Tokenizer | None = None) -> None:
        self._model, self._tokenizer = model, tokenizer
        self.cost = 0.0
        self._training = training(model)

    def begin(self, prompt_ids: Sequence[int], settings: Settings, room: int, starts: bool) -> None:
        model, vocab = self._model, self._model.shape.vocab
        biases = tuple(bias for bias in settings.logit_bias if bias[0] < vocab)
        own = replace(settings, logit_bias=biases, top_logprobs=0, prompt_logprobs=False)
        self._ids = list(prompt_ids)
        self._lost = any(id >= vocab for id in prompt_ids)
        self._limit = min(reach(model.shape), len(prompt_ids) + room)
        self._cache = Cache(model.shape, 1, self._limit, model.dtype, model.device)
        self._cache.given = len(prompt_ids)
        self._sampler = Sampler(own, prompt_ids, vocab, self._tokenizer, starts=starts)
        self._held = 0  # ids of the text that the cache holds for certain; behind them it holds guesses
        self._guessed: list[int] = []

    def said(self, id: int) -> None:
        self._ids.append(id)
        self._lost = self._lost or id >= self._model.shape.vocab
        if not self._lost:
            self._sampler.take(id)

    def guess(self, most: int) -> list[int]:
        most = min(most, self._limit - len(self._ids))
        if self._lost or most <= 0:
            return []
        try:
            return self._drawn(most)
        except CamelidError:  # what the draft cannot say takes speed from the answer, and nothing else
            self._lost = True
            return []

    def _drawn(self, most: int) -> list[int]:
        fresh, start = self._fresh(), time.perf_counter()
        behind = catching = len(fresh) > 2
        guesses: list[int] = []
        for _ in range(most):
            (drawn,) = pick(self._model, [self._sampler], rows(self._model, self._cache, fresh, self._training)[-1:])
            guesses.append(drawn.id)
            if drawn.id in self._sampler.settings.stop_ids:
                break
            self._sampler.take(drawn.id)
            fresh = [drawn.id]
            if catching:  # having read what came meanwhile is not what a guess costs
                start, catching = time.perf_counter(), False
        self._sampler.undo(self._sampler.position - len(self._ids))
        self._held, self._guessed = len(self._ids), guesses
        steps = len(guesses) - behind
        if steps > 0:
            seconds = (time.perf_counter() - start) / steps
            self.cost = self.cost + 0.2 * (seconds - self.cost) if self.cost else seconds
        return guesses

    def _fresh(self) -> list[int]:
        """The ids that the cache lacks, at least the last; what it holds of guesses that were right stays."""
        came = self._ids[self._held :]
        right = next((n for n, (a, b) in enumerate(zip(came, self._guessed, strict=False)) if a != b), len(came))
        keep = min(self._held + right, self._cache.lengths[0], len(self._ids) - 1)
        self._cache.rollback(keep)
        return self._ids[keep:]


def check_draft(target: Tokenizer, draft: Tokenizer) -> None:
    """Raises UsageError for a draft model whose ids mean something else."""
    problems = ProblemList()
    shared = min(target.size, draft.size)
    named = {id: name for name, id in target.controls.items()}, {id: name for name, id in draft.controls.items()}
    for id in range(shared):
        if target.bytes_of(id) != draft.bytes_of(id) or named[0].get(id) != named[1].get(id):
            found = f"its id {id} is {draft.piece(id)!r}, where the model's is {target.piece(id)!r}"
            problems.add("draft", found, "take a smaller model with the same tokenizer")
            break
    problems.raise_usage()


# --- how much to guess ----------------------------------------------------------------------------------------------


@dataclass
class Odds:
    """How often guesses are right, by their kind, and how long passes of n rows take: from these, how many pay."""

    unseen: float = HOPED
    right: dict[int, float] = field(default_factory=dict)
    seconds: dict[int, deque[float]] = field(default_factory=dict)  # of the last passes of so many rows
    spent: float = 0.0  # seconds of all passes
    saved: float = 0.0  # seconds that guesses have saved; below zero, lost
    _passes: tuple[float, ...] = ()  # seconds of a pass for each of LENGTHS; () when they are to be worked out anew
    _turns: deque[float] = field(default_factory=lambda: deque(maxlen=TURNS))  # the last ones without guesses
    _middle: float = 0.0  # seconds of these: mean and variance, the older the less they count
    _variance: float = 0.0
    _plain: float = 0.0  # seconds of a turn without guesses: the median of the last
    _taken: int = 0
    _best: dict[int, tuple[float, float, int]] = field(default_factory=dict)  # by kind: chance, cost, and the answer

    def saw(self, kind: int, right: int, wrong: int) -> None:
        """So many guesses were right, and so many wrong."""
        for outcome in (*[1.0] * right, *[0.0] * wrong):
            before = self.chance(kind)
            self.right[kind] = before + WEIGHT * (outcome - before)

    def chance(self, kind: int) -> float:
        """How often a guess of this kind is right; one never seen as often as the kind below, which rests on less."""
        known = self.right.get(kind)
        return known if known is not None else max(self.unseen, self.right.get(kind - 1, self.unseen))

    def took(self, rows: int, seconds: float) -> None:
        """A pass of `rows` rows took so long."""
        last = self.seconds.setdefault(rows, deque(maxlen=KEPT))
        last.append(seconds)
        self._taken += 1
        if len(last) < KEPT or self._taken % 16 == 0:
            self._passes, self._best = (), {}

    def plain_is_unknown(self, every: int) -> bool:
        """Whether a pass without guesses was hardly ever timed, or `every` passes ago."""
        return len(self.seconds.get(1, ())) < 2 or self._taken % every == 0

    def settle(self, given: int, seconds: float, *, guessed: bool) -> None:
        """Books a turn that gave so many ids, all that belongs to it included, against the time of turns without guesses.

        Of these it is the median, of guesses all that they took: what disturbs turns now and then must not look like a
        saving, and where it is part of what guesses cost it is booked.
        """
        self.spent += seconds
        if guessed:
            plain = self._plain
            self.saved = min(self.saved + given * plain - seconds, SAVED * plain)
            return
        self._turns.append(seconds)
        self._plain = median(self._turns)
        away = seconds - self._middle if len(self._turns) > 1 else 0.0
        self._middle += LASTING * away if len(self._turns) > 1 else seconds
        self._variance = (1 - LASTING) * (self._variance + LASTING * away * away)

    @property
    def spread(self) -> float:
        """Seconds by which turns without guesses differ: their standard deviation of late."""
        return math.sqrt(self._variance)

    @property
    def calm(self) -> bool:
        """Whether enough turns without guesses were seen, and they differ by less than one takes."""
        return len(self._turns) >= WATCHED and self.spread < self._plain

    def affordable(self, kind: int, cost: float) -> int:
        """How many guesses to make: those that give most ids per second, fewer where the loss of all being wrong could
        not be paid from what was saved and what may be lost."""
        found = self.best(kind, cost)
        if found:
            purse = LOST * self.spent + self.saved - self.spread
            while found and self._passes_of(found) + found * cost - self._passes_of(0) > purse:
                found = LENGTHS[LENGTHS.index(found) - 1]
        return found

    def _passes_of(self, guesses: int) -> float:
        self._passes = self._passes or tuple(self._pass(each + 1) for each in LENGTHS)
        return self._passes[LENGTHS.index(guesses)]

    def best(self, kind: int, cost: float) -> int:
        """How many guesses give the most ids per second."""
        chance = min(self.chance(kind), 0.99)
        known = self._best.get(kind)
        if known is not None and abs(known[0] - chance) < 0.02 and abs(known[1] - cost) <= 0.1 * cost:
            return known[2]
        self._passes_of(0)
        rates = [
            (1 - chance ** (guesses + 1)) / (1 - chance) / (seconds + guesses * cost)
            for guesses, seconds in zip(LENGTHS, self._passes, strict=True)
        ]
        found = LENGTHS[rates.index(max(rates))] if max(rates) > MARGIN * rates[0] else 0
        self._best[kind] = chance, cost, found
        return found

    def _pass(self, rows: int) -> float:
        """Seconds of a pass of so many rows: the median of the last; before there are many, what others promise if less.

        So a size whose first passes were slow (others were at work, or the kernels tried numbers of threads) is tried
        again while it may pay.
        """
        if len(self.seconds.get(rows, ())) == KEPT:
            return float(median(self.seconds[rows]))
        known: dict[int, float] = {
            size: median(last) for size, last in self.seconds.items() if len(last) == KEPT or size == 1
        }
        below, above = [n for n in known if n < rows], [n for n in known if n > rows]
        promised = 1.0
        if below and above:
            low, high = max(below), min(above)
            promised = known[low] + (rows - low) / (high - low) * (known[high] - known[low])
        elif below:  # ours: a twentieth more for each further row, until it is measured
            promised = known[max(below)] * (1 + (rows - max(below)) / 20)
        elif above:
            promised = known[min(above)]
        return float(min([promised, *self.seconds.get(rows, ())]))


# --- decoding -------------------------------------------------------------------------------------------------------


def generate(
    model: Model,
    prompt_ids: Sequence[int],
    settings: Settings,
    tokenizer: Tokenizer | None,
    guesser: Guesser,
    *,
    starts: bool = False,
    cache: KeyValueCache | None = None,
    tally: Tally | None = None,
) -> Iterator[Event]:
    """What decode.generate gives, sooner where guesses are right; `tally` counts what came of them."""
    check_prompts(model.shape, [prompt_ids], [settings])
    check_single([settings])
    check_constraints([settings])
    if cache is not None:
        check_cache(cache, prompt_ids, settings)
    room = reach(model.shape) - len(prompt_ids)
    answer = Answer(prompt_ids, settings, tokenizer, room=room, starts=starts)
    return _stream(model, answer, settings, tokenizer, guesser, cache, tally or Tally())


def _stream(
    model: Model,
    answer: Answer,
    settings: Settings,
    tokenizer: Tokenizer | None,
    guesser: Guesser,
    held: KeyValueCache | None,
    tally: Tally,
) -> Iterator[Event]:
    logits, cache = opened(model, answer, settings, held)
    inner = training(model)
    sampler = Sampler(settings, answer.prompt_ids, model.shape.vocab, tokenizer, starts=answer.starts)
    if answer.finish_reason is None:
        left = min(settings.max_tokens, reach(model.shape) - len(answer.prompt_ids))
        guesser.begin(answer.prompt_ids, settings, left, answer.starts)
    turn = _Turn(guesser, Odds(UNSEEN if guesser.free else HOPED))
    guesses: list[int] = []
    began: float | None = None  # the prompt's pass is not one of those that are compared
    while answer.finish_reason is None:
        drawn = _agreed(model, sampler, logits, guesses)
        tokens = []
        for each in drawn:
            tokens.append(Token(each.id, each.logprob, answer.add(each.id, each.logprob, each.top), each.top))
            if answer.finish_reason is not None:
                break
            guesser.said(each.id)
        right = sum(one.id == guess for one, guess in zip(drawn, guesses, strict=False))
        if guesses:
            cache.rollback(cache.lengths[0] - (len(guesses) - right))
        turn.saw(right, len(guesses), drawn[0].id)
        if began is not None and not turn.reads:
            turn.odds.settle(len(tokens), clock() - began, guessed=turn.tried)
        tally.passes, tally.given = tally.passes + 1, tally.given + len(tokens)
        tally.guessed, tally.right = tally.guessed + len(guesses), tally.right + right
        yield from tokens
        if answer.finish_reason is None:
            began = clock()
            guesses = turn.guess(cache.length - cache.lengths[0] - 1)
            start = clock()
            logits = rows(model, cache, [drawn[-1].id, *guesses], inner)
            turn.odds.took(1 + len(guesses), clock() - start)
    yield End(answer.completion())


def _agreed(model: Model, sampler: Sampler, logits: Tensor, guesses: Sequence[int]) -> list[Drawn]:
    """The ids drawn row by row, up to and with the first that is not the guess for its place; they are taken."""
    found: list[Drawn] = []
    every: list[Drawn] = []
    if sampler.plain and len(logits) > 1:
        with suppress(CamelidError):  # a row after a wrong guess may be of no use; whether it counts is seen below
            every = pick(model, [sampler] * len(logits), logits)
    for place in range(len(logits)):
        drawn = every[place] if every else pick(model, [sampler], logits[place : place + 1])[0]
        found.append(drawn)
        sampler.take(drawn.id)
        if drawn.id in sampler.settings.stop_ids or (place < len(guesses) and drawn.id != guesses[place]):
            break
    return found


@dataclass
class _Turn:
    """Decides before each pass how much is guessed, and learns after it what that was worth."""

    guesser: Guesser
    odds: Odds
    idle: int = 0  # passes since a guess was last wanted
    rest: int = REST
    warm: bool = False  # whether a draft has guessed before
    reads: bool = False  # whether it does so in the present turn for the first time, which is compared with nothing
    tried: bool = False  # whether the present turn is one of guesses, or of the cost of making them
    silent: list[int] = field(default_factory=list)  # a guess that was not read, to see whether it was right

    def guess(self, most: int) -> list[int]:
        """The guesses for the next pass."""
        free = self.guesser.free
        self.tried = self.reads = False
        if free:  # looking costs nothing, and shows what the guess rests on
            self.silent = self.guesser.guess(1)
            if not self.silent:
                return []
        if self.odds.plain_is_unknown(PLAIN):
            return []
        if not free and not self.warm and not self.odds.calm:
            return []
        wanted = min(most, self.odds.affordable(self.guesser.kind, self.guesser.cost))
        if wanted <= 0:
            self.idle += 1
            if free or most <= 0 or self.idle < self.rest or self.odds.saved + LOST * self.odds.spent <= 0:
                return []
            self.rest, wanted = min(2 * self.rest, LONGEST_REST), min(most, 1)
        elif self.idle:
            self.rest = REST
        self.idle, self.silent, self.tried = 0, [], free or self.warm
        if not free and not self.warm:  # reads the prompt first, which is what a draft costs whatever comes of it
            self.warm, self.reads, wanted = True, True, 1
        return self.guesser.guess(wanted)

    def saw(self, right: int, guessed: int, first: int) -> None:
        """Of so many guesses so many were right; `first` is the first id that came."""
        if guessed:
            self.odds.saw(self.guesser.kind, right, int(right < guessed))
        elif self.silent:
            self.odds.saw(self.guesser.kind, int(self.silent[0] == first), int(self.silent[0] != first))
        self.silent = []


@torch.inference_mode()
def rows(model: Model, cache: KeyValueCache, ids: Sequence[int], inner: Sequence[torch.nn.Module]) -> Tensor:
    """Logits [n, V] after each of n further ids of the cache's one text; of many, after the last CHUNK at least."""
    if isinstance(model, NativeLlama) and len(ids) <= CHUNK:
        return model.follow(ids, cache)
    with quiet(inner):
        for first in range(0, len(ids), CHUNK):
            part = torch.tensor([ids[first : first + CHUNK]], dtype=torch.int64, device=model.device)
            states = model.hidden(part, cache=cache)
        return model.logits(states[0])


__all__ = ["GREEDY", "Draft", "Guesser", "Lookup", "Odds", "Tally", "check_draft", "generate"]
