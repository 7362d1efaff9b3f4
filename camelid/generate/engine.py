"""Many requests through one model: each step reads what there is to read, whoever it is for.

    step    request 0   1   2   3                 every step is one call of the model
    1       p p p p     p p p                     prompts are read in chunks, beside answers that grow
    2       a           p p p p                   whoever comes joins at the next step, whoever is done leaves
    3       a           a   p p p p
    4       a           a   a   -> waits          too few pages: the youngest gives its own back and is read again
    5       $           a       p p               later, and goes on where it was

In exact mode, the default on a CPU, a request's ids and log-probabilities are the same bits alone and in any company,
whatever came when, was cut into which chunks, was preempted, or began with pages that another left (goals N3, N4).
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from operator import attrgetter
from threading import RLock

import numpy as np
import torch

from camelid.errors import CamelidError, Problem, UsageError
from camelid.generate.answer import Answer
from camelid.generate.draw import drawn, tops
from camelid.generate.forward import PAGE, Model, heads, read, scores, tile
from camelid.generate.limits import check_constraints, check_prompts, check_single, reach
from camelid.generate.pages import Pages
from camelid.generate.request import Request
from camelid.generate.sample import Sampler
from camelid.generate.settings import Settings
from camelid.models.llama import paged_cache
from camelid.nn.paged import CacheKind, PagedTokens
from camelid.tokenizers.protocol import Tokenizer

CHUNK = 512  # ours: ids read in one step; bounds the memory of a step
NOTES = 64  # ours: prompt log-probabilities computed at once; bounds the memory of their logits
ROWS = 64  # ours: requests that run together; beyond it a CPU gains little
CACHE_BYTES = 1 << 30  # ours: the cache grows up to this, or to what one request alone needs
FIRST = 64  # ours: pages that are made at first; then it doubles
GREEDY = Settings()
number_of = attrgetter("number")


@dataclass
class Tally:
    """What the engine did so far: calls, ids read, ids found in pages, ids drawn, and requests preempted."""

    steps: int = 0
    read: int = 0
    reused: int = 0
    drawn: int = 0
    preempted: int = 0


@dataclass(frozen=True)
class Share:
    """What one request is to read in a step."""

    request: Request
    count: int

    @property
    def ids(self) -> list[int]:
        held = self.request.held
        return self.request.ids[held : held + self.count]


@dataclass(eq=False)
class Engine:
    """Requests for one model. Nothing runs by itself: `step`, `run`, or listening to a request's events does.

    Pages outlive their requests, so the model's weights are not to change while an engine is in use.

    rows    requests that run together
    chunk   ids read in one step, of all requests together
    bytes   of keys and values, kept ones included; more where one request alone needs it, and for the moment in which
            the room grows, which copies it
    cache   keys and values as the model's floats ("float"), or in int8 (see nn/paged.py), rounded once when they are read
    exact   whether company may change no bit; by default on a CPU. Through the kernels it never does
    """

    model: Model
    tokenizer: Tokenizer | None = None
    rows: int = ROWS
    chunk: int = CHUNK
    bytes: int = CACHE_BYTES
    page: int = PAGE
    exact: bool | None = None
    cache: CacheKind = "float"
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        if self.rows < 1 or self.chunk < 1:
            found = f"{self.rows} at once, {self.chunk} ids a step"
            raise UsageError([Problem("rows, chunk", found, "decode at least one prompt, one id at a time")])
        self._exact = self.model.device.type == "cpu" if self.exact is None else self.exact
        self._tile: int | None = None if self._exact else 0
        shape, dtype = self.model.shape, self.model.dtype
        self._limit = reach(shape)
        self._cache = paged_cache(shape, 0, dtype, self.model.device, page=self.page, kind=self.cache)
        self._pages = Pages(max(self.bytes // self._cache.page_bytes, 1), self.page)
        self._tables = np.zeros((self.rows, 1), np.int32)
        self._slots = list(range(self.rows - 1, -1, -1))
        self._waiting: list[Request] = []
        self._running: list[Request] = []
        self._next = 0
        self._lock = RLock()

    # --- from outside -----------------------------------------------------------------------------------------------

    def submit(
        self,
        prompt_ids: Sequence[int],
        settings: Settings = GREEDY,
        *,
        starts: bool = False,
        owner: Hashable = "",
        streams: bool = True,
    ) -> Request:
        """A request in the queue. `starts` says whether the answer begins a text of its own (see Answer).

        Pages are shared between requests of one `owner` only. `streams` False keeps no events but the completion.
        Raises UsageError for a prompt that is empty, names unknown ids or does not fit the context.
        """
        check_prompts(self.model.shape, [prompt_ids], [settings])
        check_single([settings])
        check_constraints([settings])
        room = min(self._limit, len(prompt_ids) + settings.max_tokens)
        answer = Answer(prompt_ids, settings, self.tokenizer, room=self._limit - len(prompt_ids), starts=starts)
        sampler = Sampler(settings, prompt_ids, self.model.shape.vocab, self.tokenizer, starts=starts)
        rope = self.model.rope
        with self._lock:
            self._pages.limit = max(self._pages.limit, -(-room // self.page))
            request = Request(
                self._next,
                settings,
                answer,
                sampler,
                owner=owner,
                room=max(len(prompt_ids), rope.trained) if rope.follows_length else None,
                streams=streams,
                drive=self._drive,
                release=self.release,
            )
            self._next += 1
            self._waiting.append(request)
            if answer.finish_reason is not None and not settings.prompt_logprobs:  # nothing is asked for
                request.finish()
                self.release(request)
        return request

    def step(self) -> list[Request]:
        """One call of the model for whatever there is to do; the requests that have something to tell, in order."""
        with self._lock:
            self._sweep()
            self._admit()
            plan = self._plan()
            if plan:
                self._advance(plan)
            self._sweep()
            told = [share.request for share in plan if share.request.told]
            if self.idle:
                self.check()
            return told

    def run(self) -> Iterator[Request]:
        """Steps until nothing is left to do; each request as it ends. Leaving early aborts all of them."""
        try:
            while not self.idle:
                yield from (request for request in self.step() if request.state == "ended")
        finally:
            self.close()

    def close(self) -> None:
        """Aborts every request."""
        with self._lock:
            for request in [*self._waiting, *self._running]:
                request.abort()

    @property
    def idle(self) -> bool:
        """Whether nobody waits and nobody runs."""
        return not self._waiting and not self._running

    def check(self) -> None:
        """The conservation of what there is. Raises CamelidError where a slot or a page is lost or held twice."""
        count, slots = self._pages.count(), len(self._slots)
        held = {page for request in self._running if request.lease for page in request.lease.numbers}
        if not count.adds_up or count.used != len(held) or slots + len(self._running) != self.rows:
            raise CamelidError(f"engine: {count}, {len(held)} held by requests, {slots} of {self.rows} slots free")

    def release(self, request: Request) -> None:
        """Gives back all that a request holds: place in the queue, slot, pages; its stream ends. Idempotent."""
        with self._lock:
            if request.state == "ended":
                return
            try:
                if request.state == "waiting":
                    self._waiting.remove(request)
                else:
                    self._running.remove(request)
            finally:
                self._leave(request, keep=request.error is None)
                request.state = "ended"

    # --- one step ---------------------------------------------------------------------------------------------------

    def _drive(self, request: Request) -> None:
        """A step on behalf of whoever waits for this request, unless another thread's step has brought it on."""
        with self._lock:
            if not request.told:
                self.step()

    def _sweep(self) -> None:
        for request in [*self._waiting, *self._running]:
            if request.cancelled:
                self.release(request)

    def _leave(self, request: Request, *, keep: bool = True) -> None:
        """Slot and pages back; what was read has to be found or read again, unless it is not to be kept."""
        lease, request.lease = request.lease, None
        slot, request.slot = request.slot, None
        request.held = 0
        try:
            if lease is not None:
                lease.close(keep=keep)
        finally:
            if slot is not None:
                self._slots.append(slot)

    def _admit(self) -> None:
        """Gives slots to those who came first, while there are slots, and pages for what they would read now."""
        for request in list(self._waiting):
            first = min(request.left, self.chunk)
            spare = len(self._running)  # a page for each who runs, lest the newcomer be the next to leave
            if not self._slots or (self._running and self._pages.left < -(-first // self.page) + spare):
                return
            owner = (request.owner, request.room)  # of equal rotations
            lease = self._pages.lease(owner, request.ids, share=not self._notes(request))
            if lease is None:  # its beginning is just being read for another
                continue
            self._waiting.remove(request)
            request.lease, request.slot, request.state = lease, self._slots.pop(), "running"
            request.held = lease.held
            if not request.preempted:
                request.reused = request.held
                self.tally.reused += request.held
            insort(self._running, request, key=number_of)

    def _notes(self, request: Request) -> bool:
        """Whether the prompt's own log-probabilities are still to be found."""
        return request.settings.prompt_logprobs and len(request.noted) < len(request.prompt_ids) - 1

    def _plan(self) -> list[Share]:
        """Who reads how much: answers that grow first, then prompts, the oldest first; pages are taken for all of it.

        Where there are too few, the youngest gives its own back, until there are enough or it is the youngest itself.
        """
        budget = max(1, self.chunk - sum(request.left == 1 for request in self._running))
        wanted: list[Share] = []
        for request in self._running:
            count = 1 if request.left == 1 else min(request.left, budget)
            budget -= count if request.left > 1 else 0
            if count:
                wanted.append(Share(request, count))
        plan = []
        for share in wanted:
            request = share.request
            while request.lease is not None and not request.lease.reach(request.held + share.count):
                self._preempt(self._running[-1])
            if request.lease is not None:
                plan.append(share)
        return [share for share in plan if share.request.lease is not None]

    def _preempt(self, request: Request) -> None:
        """Back into the queue, where it stands before all who came later; nothing of its answer is lost."""
        self._running.remove(request)
        self._leave(request)
        request.state = "waiting"
        request.preempted += 1
        self.tally.preempted += 1
        insort(self._waiting, request, key=number_of)

    def _advance(self, plan: list[Share]) -> None:
        """Reads, draws, and tells. A call that fails ends the requests that were part of it, and no other."""
        try:
            self._call(plan)
        except Exception as error:
            for share in plan:
                self._fail(share.request, error)

    def _call(self, plan: list[Share]) -> None:
        if self._cache.pages < self._pages.made:
            doubled = max(self._pages.made, min(self._pages.limit, max(FIRST, 2 * self._cache.pages)))
            self._cache.grow(doubled)
        if self._tile is None:
            self._tile = tile(self.model)
        ids = np.array([id for share in plan for id in share.ids], np.int64)
        new = self._tokens(plan)
        ends = list(accumulate(share.count for share in plan))
        whole = [row for row, share in enumerate(plan) if share.count == share.request.left]
        want = np.array([ends[row] - 1 for row in whole], np.int32)
        notes = any(self._notes(share.request) for share in plan)
        states, logits = read(self.model, ids, new, want, rows=self._tile, states=notes)
        self.tally.steps += 1
        self.tally.read += len(ids)
        for share, end in zip(plan, ends, strict=True):
            if states is not None and self._notes(share.request):
                self._note(share, states[end - share.count : end])
            share.request.held += share.count
            self._file(share.request)
        answering = [plan[row].request for row in whole if plan[row].request.answer.finish_reason is None]
        rows = [at for at, row in enumerate(whole) if plan[row].request.answer.finish_reason is None]
        if len(rows) < len(logits):
            logits = logits[rows]
        samplers = [request.sampler for request in answering]
        for request, each in zip(answering, drawn(self.model, samplers, logits), strict=True):
            if isinstance(each, CamelidError):
                self._fail(request, each)
            else:
                self.tally.drawn += 1
                request.say(each)
        for row in whole:
            self._settle(plan[row].request)

    def _settle(self, request: Request) -> None:
        """Ends a request whose answer is whole."""
        if request.state == "running" and request.answer.finish_reason is not None:
            try:
                request.finish()
            finally:
                self.release(request)

    def _fail(self, request: Request, error: BaseException) -> None:
        if request.state != "ended":
            request.error = error
            self.release(request)

    def _tokens(self, plan: list[Share]) -> PagedTokens:
        """Where the tokens of a step stand."""
        for share in plan:
            self._table(share.request)
        counts = [share.count for share in plan]
        slots = np.array([share.request.slot for share in plan], np.int32)
        places = np.array([share.request.held for share in plan], np.int32)
        if sum(counts) > len(plan):
            slots = np.repeat(slots, counts)
            places = np.concatenate(
                [np.arange(start, start + count, dtype=np.int32) for start, count in zip(places, counts, strict=True)]
            )
        rooms = None
        if self.model.rope.follows_length:
            rooms = np.repeat(np.array([share.request.room for share in plan], np.int64), counts)
            rooms = np.maximum(rooms, places + 1)  # an id of the answer turns as the last of the text up to it
        return PagedTokens(self._cache, slots, places, self._tables, rooms, exact=self._exact)

    def _table(self, request: Request) -> None:
        """Writes the request's row of the table, where that has changed."""
        assert request.lease is not None and request.slot is not None
        if not request.lease.changed:
            return
        request.lease.changed = False
        numbers = request.lease.numbers
        if len(numbers) > self._tables.shape[1]:
            wider = np.zeros((self.rows, max(len(numbers), 2 * self._tables.shape[1])), np.int32)
            wider[:, : self._tables.shape[1]] = self._tables
            self._tables = wider
        self._tables[request.slot, : len(numbers)] = numbers

    def _file(self, request: Request) -> None:
        """Puts what is now full into the tree of its owner."""
        assert request.lease is not None
        request.lease.filled(request.ids, request.held)

    def _note(self, share: Share, states: torch.Tensor) -> None:
        """Log-probabilities of the prompt's ids that follow these states."""
        request = share.request
        following = request.prompt_ids[len(request.noted) + 1 : request.held + share.count + 1]
        skipped = len(request.noted) - request.held
        for at in range(0, len(following), NOTES):
            part = following[at : at + NOTES]
            logits = heads(self.model, states[skipped + at : skipped + at + len(part)], rows=self._tile or 0)
            chosen = torch.tensor(part, dtype=torch.int64, device=logits.device)
            with torch.inference_mode():
                request.noted += scores(self.model, logits, chosen).tolist()
            request.tops += tops(logits, request.settings.top_logprobs, len(request.tops))
