"""Decoding with a key-value cache: one prompt as a stream of events, or many prompts together.

Many prompts of about equal length stand side by side, padded at the END while they are read, so every row has the
positions it has alone; rows that are done leave the batch:

    read     p p p p p .      then, one id per row and step      a a a $
             p p p p . .                                         a $
             p p p p p p                                         a a a a a $

Through the native kernels a row's numbers are the same bits alone and in any company (goal N4, tested). Through
PyTorch they are the same except for rounding: matrix products of other sizes add in another order. Measured on random
models, log-probabilities then differ by less than 1e-5 in float32 and 1e-12 in float64 (tested), and ids are equal
unless two of them are as close as that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from camelid.errors import Problem, ProblemList, UsageError
from camelid.generate.answer import Answer, Completion
from camelid.generate.sample import Drawn, Ranked, Sampler, log_probability, log_total, not_finite, ranked, row_of
from camelid.generate.settings import Settings
from camelid.models.llama import Cache, Llama
from camelid.models.shape import LlamaShape
from camelid.native.llama import NativeLlama
from camelid.nn.cache import KeyValueCache
from camelid.tokenizers.protocol import Tokenizer

CHUNK = 512  # ours: ids of a prompt read at once; bounds the memory of attention scores and prompt log-probabilities
ROWS = 64  # ours: prompts decoded together; beyond it a CPU gains little
CACHE_BYTES = 1 << 30  # ours: a batch's cache takes no more, unless one prompt alone does
FULL = 0.75  # ours: a batch is packed anew, which copies its cache, when fewer of its rows than this are still going

GREEDY = Settings()
Model = Llama | NativeLlama


@dataclass(frozen=True)
class Token:
    """One generated id, its log-probability, and the text that it lets be shown; "" in the middle of a character.

    `top` are the likeliest ids at its place with their log-probabilities, where `Settings.top_logprobs` asks for them.
    """

    id: int
    logprob: float
    text: str
    top: Ranked = ()


@dataclass(frozen=True)
class End:
    """The last event: the whole answer. The texts of all Tokens, joined, are its text."""

    completion: Completion


Event = Token | End


def generate(
    model: Model,
    prompt_ids: Sequence[int],
    settings: Settings = GREEDY,
    tokenizer: Tokenizer | None = None,
    *,
    starts: bool = False,
    cache: KeyValueCache | None = None,
) -> Iterator[Event]:
    """Tokens as they are drawn, then End. Nothing is computed before the first is asked for; faults are raised at once.

    `starts` says whether the answer begins a text of its own (see Answer). `cache` holds a beginning of `prompt_ids`,
    which is then not read again; it needs room for the prompt and `settings.max_tokens`, and afterwards holds all ids
    but the last. Raises UsageError for a prompt that is empty, names unknown ids or does not fit the context.
    """
    check_prompts(model.shape, [prompt_ids], [settings])
    _check_single([settings])
    _check_constraints([settings])
    if cache is not None:
        _check_cache(cache, prompt_ids, settings)
    answer = Answer(prompt_ids, settings, tokenizer, room=_room(model.shape, prompt_ids), starts=starts)
    return _stream(model, answer, settings, tokenizer, cache)


def complete(
    model: Model,
    prompt_ids: Sequence[int],
    settings: Settings = GREEDY,
    tokenizer: Tokenizer | None = None,
    *,
    starts: bool = False,
) -> Completion:
    """The whole answer to one prompt; arguments and faults are those of `generate`."""
    return ended(generate(model, prompt_ids, settings, tokenizer, starts=starts))


def ended(events: Iterator[Event]) -> Completion:
    """The completion at the end of a stream of events."""
    for event in events:
        if isinstance(event, End):
            return event.completion
    raise AssertionError("a stream of events ends with End")


def complete_all(
    model: Model,
    prompts: Sequence[Sequence[int]],
    settings: Settings | Sequence[Settings] = GREEDY,
    tokenizer: Tokenizer | None = None,
    *,
    starts: bool | Sequence[bool] = False,
    rows: int = ROWS,
    finished: Callable[[int, Completion], None] | None = None,
) -> list[Completion]:
    """The answers to many prompts, in their order, decoded `rows` at a time.

    `settings` and `starts` are one for all or one for each; under one seed equal prompts get equal answers, as they
    would alone. `finished` is told the index and the answer of each prompt as soon as it has one. All prompts are
    checked before the first is read: raises UsageError naming every one that `generate` would refuse.
    """
    each = [settings] * len(prompts) if isinstance(settings, Settings) else list(settings)
    begins = [starts] * len(prompts) if isinstance(starts, bool) else list(starts)
    if len(each) != len(prompts) or len(begins) != len(prompts):
        found = f"{len(each)} settings and {len(begins)} starts for {len(prompts)} prompts"
        raise UsageError([Problem("settings", found, "give one for all or one for each")])
    check_prompts(model.shape, prompts, each)
    _check_single(each)
    _check_constraints(each)
    answers = [
        Answer(prompt, own, tokenizer, room=_room(model.shape, prompt), starts=begin)
        for prompt, own, begin in zip(prompts, each, begins, strict=True)
    ]
    for group in _groups(model, answers, each, rows):
        batch = _Batch(model, [answers[index] for index in group], [each[index] for index in group], tokenizer)
        for row in batch.run():
            if finished:
                finished(group[row], answers[group[row]].completion())
    return [answer.completion() for answer in answers]


def reach(shape: LlamaShape) -> int:
    """How many ids a sequence may have: the shape's context, stretched where the rotations follow the length."""
    stretched = shape.scaling is not None and shape.scaling.kind == "dynamic" and shape.scaling.original is None
    return int(shape.context * shape.scaling.factor) if stretched and shape.scaling else shape.context


def check_prompts(shape: LlamaShape, prompts: Sequence[Sequence[int]], settings: Sequence[Settings]) -> None:
    """Raises UsageError naming each prompt that is empty, has ids the model lacks, or leaves no room for an answer."""
    problems, limit = ProblemList(), reach(shape)
    for index, (prompt, own) in enumerate(zip(prompts, settings, strict=True)):
        where = "prompt" if len(prompts) == 1 else f"prompt {index}"
        unknown = [id for id in prompt if not 0 <= id < shape.vocab]
        if not prompt:
            problems.add(where, "no ids at all", "give at least the token that begins a text")
        if unknown:
            found = f"id {unknown[0]} outside the model's {shape.vocab} ids"
            problems.add(where, found, "use the tokenizer that the model was trained with")
        if len(prompt) > limit or (own.max_tokens and len(prompt) == limit):
            found = f"{len(prompt)} ids leave no room in the model's context of {limit}"
            problems.add(where, found, "shorten the prompt; nothing is cut silently")
        for id in (id for id, _ in own.logit_bias if id >= shape.vocab):
            problems.add("logit_bias", f"id {id} outside the model's {shape.vocab} ids", "name ids of this model")
    problems.raise_usage()


def _check_single(settings: Sequence[Settings]) -> None:
    """Raises UsageError for settings that ask for several answers to a prompt."""
    problems = ProblemList()
    for own in settings:
        for name in ("n", "best_of", "beams"):
            if getattr(own, name) > 1:
                found = f"{getattr(own, name)} answers where one is given"
                problems.add(name, found, "ask choices.complete_choices for several")
    problems.raise_usage()


def _check_constraints(settings: Sequence[Settings]) -> None:
    """Raises UsageError for a constraint that is malformed."""
    for constraint in {own.constraint for own in settings if own.constraint is not None}:
        from camelid.generate.constrain import check

        check(constraint)


def training(model: Model) -> list[nn.Module]:
    """The modules of the model that are in training mode; an adapter's may be where the model itself is not."""
    return [module for module in model.modules() if module.training]


@contextmanager
def quiet(modules: Sequence[nn.Module]) -> Iterator[None]:
    """These modules out of training mode, so that nothing is dropped; afterwards they are in it again."""
    for module in modules:
        vars(module)["training"] = False  # nn.Module's own setter takes a tenth of a small model's step
    try:
        yield
    finally:
        for module in modules:
            vars(module)["training"] = True


def _check_cache(cache: KeyValueCache, prompt: Sequence[int], settings: Settings) -> None:
    """Raises UsageError unless the cache holds one beginning of the prompt, short of at least its last id."""
    problems = ProblemList()
    if cache.batch != 1 or cache.lengths[0] >= len(prompt):
        found = f"holds {cache.lengths} ids of a prompt of {len(prompt)}"
        problems.add("cache", found, "roll it back so that at least the prompt's last id is read")
    elif settings.prompt_logprobs and cache.lengths[0]:
        problems.add("prompt_logprobs", "the cache holds ids that are not read again", "leave the cache out")
    problems.raise_usage()


def _room(shape: LlamaShape, prompt: Sequence[int]) -> int:
    return reach(shape) - len(prompt)


def _stream(
    model: Model, answer: Answer, settings: Settings, tokenizer: Tokenizer | None, cache: KeyValueCache | None
) -> Iterator[Event]:
    batch = _Batch(model, [answer], [settings], tokenizer, cache)
    for _, drawn, text in batch.tokens():
        yield Token(drawn.id, drawn.logprob, text, drawn.top)
    yield End(answer.completion())


def _groups(model: Model, answers: Sequence[Answer], settings: Sequence[Settings], rows: int) -> Iterator[list[int]]:
    """Indices of prompts to decode together: of about equal length, as many as rows and memory allow.

    Where rotations follow the length of the text (dynamic NTK), texts beyond the trained context go alone, since all
    rows of a cache share one stretching.
    """
    if rows < 1:
        raise UsageError([Problem("rows", f"{rows} at once", "decode at least one prompt at a time")])
    shape = model.shape
    per_id = 2 * shape.layers * shape.kv_heads * shape.head_width * model.dtype.itemsize
    needs = [min(reach(shape), len(a.prompt_ids) + s.max_tokens) for a, s in zip(answers, settings, strict=True)]
    group: list[int] = []
    widest = 0
    for index in sorted(range(len(answers)), key=lambda index: len(answers[index].prompt_ids)):
        alone = model.rope.follows_length and max(widest, needs[index]) > _trained(shape)
        fits = len(group) < rows and max(widest, needs[index]) * (len(group) + 1) * per_id <= CACHE_BYTES
        if group and (alone or not fits):
            yield group
            group, widest = [], 0
        group.append(index)
        widest = max(widest, needs[index])
    if group:
        yield group


def _trained(shape: LlamaShape) -> int:
    return (shape.scaling.original if shape.scaling else None) or shape.context


class _Batch:
    """Answers decoded together over one cache; `slots[i]` is the cache row of the i-th answer still going."""

    def __init__(
        self,
        model: Model,
        answers: Sequence[Answer],
        settings: Sequence[Settings],
        tokenizer: Tokenizer | None = None,
        cache: KeyValueCache | None = None,
    ) -> None:
        self._model, self._answers, self._settings, self._cache = model, answers, settings, cache
        vocab = model.shape.vocab
        self._samplers = [
            Sampler(own, answer.prompt_ids, vocab, tokenizer, starts=answer.starts)
            for own, answer in zip(settings, answers, strict=True)
        ]
        self._training = training(model)

    def run(self) -> Iterator[int]:
        """Rows, as soon as their answers have ended."""
        asked_for_nothing = [row for row, answer in enumerate(self._answers) if answer.finish_reason]
        for row, _, _ in self.tokens():
            if self._answers[row].finish_reason:
                yield row
        yield from asked_for_nothing

    def tokens(self) -> Iterator[tuple[int, Drawn, str]]:
        """Row, draw and shown text of every id, step by step."""
        logits = self._open()
        going = [row for row, answer in enumerate(self._answers) if answer.finish_reason is None]
        slots = list(going)
        logits = logits[slots]
        while going:
            drawn = pick(self._model, [self._samplers[row] for row in going], logits)
            for row, each in zip(going, drawn, strict=True):
                yield row, each, self._answers[row].add(each.id, each.logprob, each.top)
            stay = [index for index, row in enumerate(going) if self._answers[row].finish_reason is None]
            going, slots, drawn = [going[i] for i in stay], [slots[i] for i in stay], [drawn[i] for i in stay]
            if not going:
                return
            for row, each in zip(going, drawn, strict=True):
                self._samplers[row].take(each.id)
            slots, logits = self._step(slots, [each.id for each in drawn])

    @torch.inference_mode()
    def _open(self) -> Tensor:
        """Reads the prompts; logits [B, V] after the last id of each. Prompt log-probabilities go to the answers."""
        model, answers = self._model, self._answers
        prompts = [answer.prompt_ids for answer in answers]
        limit = reach(model.shape)
        if self._cache is None:
            room = max(min(limit, len(p) + s.max_tokens) for p, s in zip(prompts, self._settings, strict=True))
            self._cache = Cache(model.shape, len(prompts), room, model.dtype, model.device)
        cache, held = self._cache, self._cache.lengths
        last = torch.zeros(len(prompts), model.shape.width, dtype=model.dtype, device=model.device)
        notes: list[list[float]] = [[] for _ in prompts]
        tops: list[list[Ranked]] = [[()] for _ in prompts]
        longest = max(len(prompt) - start for prompt, start in zip(prompts, held, strict=True))
        with quiet(self._training):
            for first in range(0, longest, CHUNK):
                parts = [p[start + first : start + first + CHUNK] for p, start in zip(prompts, held, strict=True)]
                states = model.hidden(_table(parts, model.device), cache=cache, counts=_counts(parts))
                for row, part in enumerate(parts):
                    done = held[row] + first + len(part)
                    if part and done == len(prompts[row]):
                        last[row] = states[row, len(part) - 1]
                    if self._settings[row].prompt_logprobs:
                        following = prompts[row][done - len(part) + 1 : done + 1]
                        logits = model.logits(states[row, : len(following)])
                        notes[row] += scores(model, logits, _ids(following, logits.device)).tolist()
                        tops[row] += _tops(logits, self._settings[row].top_logprobs, len(tops[row]))
        for answer, own, noted, top in zip(answers, self._settings, notes, tops, strict=True):
            answer.prompt_logprobs = (None, *noted) if own.prompt_logprobs else None
            answer.prompt_top_logprobs = tuple(top) if own.prompt_logprobs and own.top_logprobs else None
        return model.logits(last)

    @torch.inference_mode()
    def _step(self, slots: list[int], ids: list[int]) -> tuple[list[int], Tensor]:
        """Feeds one id to each answer still going; their slots and logits [n, V] after it."""
        model, cache = self._model, self._cache
        assert cache is not None
        if isinstance(model, NativeLlama):  # rows that are done cost it nothing
            return slots, model.step(slots, ids, cache)
        if len(slots) < FULL * cache.batch:
            cache.keep(slots)
            slots = list(range(len(slots)))
        if len(slots) == cache.batch:
            with quiet(self._training):
                logits = model(torch.tensor(ids, device=model.device)[:, None], cache=cache)
            return slots, logits[:, 0]
        parts: list[list[int]] = [[] for _ in range(cache.batch)]
        for slot, id in zip(slots, ids, strict=True):
            parts[slot] = [id]
        with quiet(self._training):
            logits = model(_table(parts, model.device), cache=cache, counts=_counts(parts))
        return slots, logits[slots, 0]


@torch.inference_mode()
def pick(model: Model, samplers: Sequence[Sampler], logits: Tensor) -> list[Drawn]:
    """The next id of each request from its row of logits [n, V]: all that is plain together, the rest one by one.

    Raises CamelidError, with the position, where logits are not finite.
    """
    plain = [row for row, sampler in enumerate(samplers) if sampler.plain]
    found: dict[int, Drawn] = {}
    if plain:
        rows = logits if len(plain) == len(samplers) else logits[plain]
        ids, logprobs, wrong = _largest(model, rows)
        if wrong >= 0:
            raise not_finite(samplers[plain[wrong]].position)
        found = {row: Drawn(id, logprob) for row, id, logprob in zip(plain, ids, logprobs, strict=True)}
    return [found[row] if row in found else sampler.draw(logits[row]) for row, sampler in enumerate(samplers)]


def _largest(model: Model, logits: Tensor) -> tuple[list[int], list[float], int]:
    """Of each row the largest logit's id, its log-probability, and the first row that is not finite or -1."""
    if isinstance(model, NativeLlama):
        ids, logprobs, wrong = model.pick(logits)
        return ids.tolist(), logprobs.tolist(), wrong
    finite = torch.isfinite(logits).all(dim=-1)
    ids = logits.argmax(dim=-1)
    return ids.tolist(), log_probability(logits, ids).tolist(), -1 if finite.all() else int(finite.int().argmin())


def _tops(logits: Tensor, count: int, position: int) -> list[Ranked]:
    """The likeliest ids of each row; none where none are asked for."""
    rows = [row_of(row, position + place) for place, row in enumerate(logits)] if count else []
    return [ranked(row - log_total(row), count) for row in rows]


def _ids(ids: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(ids, dtype=torch.int64, device=device)


def scores(model: Model, logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities [n] of one id in each row of logits [n, V]."""
    return model.pick(logits, ids)[1] if isinstance(model, NativeLlama) else log_probability(logits, ids)


def _table(parts: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Ids [B, T], padded at the end with id 0, which no real token sees."""
    width = max(len(part) for part in parts)
    return torch.tensor([[*part, *[0] * (width - len(part))] for part in parts], dtype=torch.int64, device=device)


def _counts(parts: Sequence[Sequence[int]]) -> list[int] | None:
    counts = [len(part) for part in parts]
    return None if len(set(counts)) == 1 else counts
