"""Beam search: the likeliest answers that a narrow search finds, ranked by log-probability over length ** penalty.

The search is that of transformers with its default stopping rule (generation/utils.py, `_beam_search`,
early_stopping=False): at each step the best continuations of all beams are looked at, those among the first `beams`
that end are finished, the best that do not end go on, and it stops where no running beam, scored at its present length,
is better than the worst of `beams` finished ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from camelid.generate.answer import Answer, Completion
from camelid.generate.decode import CHUNK, Model, check_prompts, reach
from camelid.generate.forward import read, tile
from camelid.generate.sample import Ranked, largest, log_total, ranked, row_of
from camelid.generate.settings import Settings
from camelid.generate.stop import cut
from camelid.models.llama import paged_cache
from camelid.nn.paged import CacheKind, Ints, PagedTokens
from camelid.tokenizers.protocol import Tokenizer


@dataclass(frozen=True)
class Beam:
    """A finished answer and its score: the sum of its log-probabilities over (ids ** length_penalty)."""

    completion: Completion
    score: float


@dataclass(frozen=True)
class _Path:
    """Ids with their log-probabilities and the likeliest at their places, and the row whose pages hold all but the last."""

    row: int
    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    total: float = 0.0
    tops: tuple[Ranked, ...] = ()

    def score(self, penalty: float) -> float:
        return self.total / math.pow(len(self.ids), penalty)


def search(
    model: Model,
    prompt_ids: Sequence[int],
    settings: Settings,
    tokenizer: Tokenizer | None = None,
    *,
    starts: bool = False,
    cache: CacheKind = "float",
) -> list[Beam]:
    """The best `settings.n` of `settings.beams` beams, the best first; arguments and faults as of decode.generate."""
    check_prompts(model.shape, [prompt_ids], [settings])
    room = min(settings.max_tokens, reach(model.shape) - len(prompt_ids))
    Answer(prompt_ids, settings, tokenizer, room=room)  # refuses stop texts without a tokenizer
    if room <= 0:
        return [_beam(_Path(0), prompt_ids, settings, tokenizer, room, starts)]
    steps = _Steps(model, prompt_ids, room, settings.beams, cache)
    ends = frozenset(settings.stop_ids)
    wide = max(2, 1 + len(ends)) * settings.beams  # so many cannot all end, unless room does
    running, finished = [_Path(0)], list[_Path]()
    while running:
        found = _continued(running, steps.logits(running), wide, len(prompt_ids), settings.top_logprobs)
        done = [_ends(path, ends, settings.stop_texts, room, tokenizer, starts) for path in found]
        finished += [path for path, over in zip(found[: settings.beams], done, strict=False) if over]
        finished = sorted(finished, key=lambda path: -path.score(settings.length_penalty))[: settings.beams]
        running = [path for path, over in zip(found, done, strict=True) if not over][: settings.beams]
        if running and len(finished) == settings.beams:
            worst = finished[-1].score(settings.length_penalty)
            if running[0].score(settings.length_penalty) <= worst:
                break
    return [_beam(path, prompt_ids, settings, tokenizer, room, starts) for path in finished[: settings.n]]


class _Steps:
    """The model and its pages. Beams share the pages of what they have in common; only the last page, where they differ,
    is copied, once for each beam beyond the first that goes on with it."""

    def __init__(self, model: Model, prompt_ids: Sequence[int], room: int, beams: int, kind: CacheKind) -> None:
        self._model, self._prompt = model, list(prompt_ids)
        self._length = len(prompt_ids) + room
        self._cache = paged_cache(model.shape, 0, model.dtype, model.device, kind=kind)
        self._tile = tile(model) if model.device.type == "cpu" else 0
        self._pages: list[list[int]] = [[]]  # of each row, in order
        self._users: list[int] = []  # of each page
        self._tables = np.zeros((beams, -(-self._length // self._cache.page)), np.int32)

    def logits(self, paths: Sequence[_Path]) -> Tensor:
        """Logits [n, V] after each path; row i is then that of path i."""
        if not paths[0].ids:
            for first in range(0, len(self._prompt), CHUNK):
                part = self._prompt[first : first + CHUNK]
                places = range(first, first + len(part))
                found = self._read(part, np.zeros(len(part), np.int32), places, [len(part) - 1])
            return found  # of the last chunk; no prompt is empty
        held = len(self._prompt) + len(paths[0].ids) - 1
        self._rearrange([path.row for path in paths], held)
        count = len(paths)
        ids = [path.ids[-1] for path in paths]
        return self._read(ids, np.arange(count, dtype=np.int32), [held] * count, range(count))

    def _read(self, ids: Sequence[int], slots: Ints, places: Sequence[int], want: Sequence[int]) -> Tensor:
        """Logits of the tokens `want`, after pages were found for all of them."""
        for slot in sorted(set(slots.tolist())):
            own = self._pages[slot]
            while len(own) * self._cache.page <= places[-1]:
                own.append(self._taken())
            self._tables[slot, : len(own)] = own
        self._cache.grow(len(self._users))
        follows = self._model.rope.follows_length
        rooms = np.maximum(len(self._prompt), np.array(places, np.int64) + 1) if follows else None
        new = PagedTokens(
            self._cache, slots, np.array(places, np.int32), self._tables, rooms, exact=self._model.device.type == "cpu"
        )
        return read(self._model, np.array(ids, np.int64), new, np.array(want, np.int32), rows=self._tile)[1]

    def _rearrange(self, rows: Sequence[int], held: int) -> None:
        """Row i goes on from what is now row rows[i]; pages that no row has any more are free again."""
        full = held // self._cache.page
        before, self._pages = self._pages, [list(self._pages[row]) for row in rows]
        for own in self._pages:
            for page in own:
                self._users[page] += 1
        for own in before:
            for page in own:
                self._users[page] -= 1
        copies = []
        for own in self._pages:
            if len(own) > full and self._users[own[full]] > 1:
                page = self._taken()
                self._users[own[full]] -= 1
                copies.append((own[full], page))
                own[full] = page
        self._cache.grow(len(self._users))
        for old, page in copies:
            self._cache.copy(old, page)

    def _taken(self) -> int:
        """A page that nobody has, a new one where there is none."""
        if 0 not in self._users:
            self._users.append(0)
        page = self._users.index(0)
        self._users[page] = 1
        return page


def _continued(paths: Sequence[_Path], logits: Tensor, count: int, start: int, tops: int) -> list[_Path]:
    """The `count` likeliest continuations by one id, the likeliest first; each notes the `tops` likeliest at its place."""
    rows = [row_of(row, start + len(paths[0].ids)) for row in logits]
    logs = np.stack([row - log_total(row) for row in rows])
    likeliest = [(ranked(row, tops),) if tops else () for row in logs]
    totals = (logs + np.array([path.total for path in paths])[:, None]).reshape(-1)
    places = largest(totals, count)
    found = []
    for place in places[np.argsort(-totals[places], kind="stable")].tolist():
        row, id = divmod(place, logs.shape[1])
        path = paths[row]
        logprobs, noted = (*path.logprobs, float(logs[row, id])), (*path.tops, *likeliest[row])
        found.append(_Path(row, (*path.ids, id), logprobs, float(totals[place]), noted))
    return found


def _ends(
    path: _Path,
    stop_ids: frozenset[int],
    stop_texts: Sequence[str],
    room: int,
    tokenizer: Tokenizer | None,
    starts: bool,
) -> bool:
    if len(path.ids) >= room or path.ids[-1] in stop_ids:
        return True
    if not stop_texts or tokenizer is None:
        return False
    known = [id for id in path.ids if id < tokenizer.size]
    return cut(tokenizer.decode(known, starts=starts), stop_texts)[1] is not None


def _beam(
    path: _Path, prompt_ids: Sequence[int], settings: Settings, tokenizer: Tokenizer | None, room: int, starts: bool
) -> Beam:
    answer = Answer(prompt_ids, settings, tokenizer, room=room, starts=starts)
    tops = path.tops or [()] * len(path.ids)
    for id, logprob, top in zip(path.ids, path.logprobs, tops, strict=True):
        if answer.finish_reason is None:
            answer.add(id, logprob, top)
    return Beam(answer.completion(), path.score(settings.length_penalty) if path.ids else 0.0)
