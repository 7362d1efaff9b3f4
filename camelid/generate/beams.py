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
import torch
from torch import Tensor

from camelid.generate.answer import Answer, Completion
from camelid.generate.decode import CHUNK, Model, check_prompts, quiet, reach, training
from camelid.generate.sample import largest, log_total, row_of
from camelid.generate.settings import Settings
from camelid.generate.stop import cut
from camelid.models.llama import Cache
from camelid.native.llama import NativeLlama
from camelid.tokenizers.protocol import Tokenizer


@dataclass(frozen=True)
class Beam:
    """A finished answer and its score: the sum of its log-probabilities over (ids ** length_penalty)."""

    completion: Completion
    score: float


@dataclass(frozen=True)
class _Path:
    """Ids with their log-probabilities, and the cache row that holds all but the last."""

    row: int
    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    total: float = 0.0

    def score(self, penalty: float) -> float:
        return self.total / math.pow(len(self.ids), penalty)


def search(
    model: Model,
    prompt_ids: Sequence[int],
    settings: Settings,
    tokenizer: Tokenizer | None = None,
    *,
    starts: bool = False,
) -> list[Beam]:
    """The best `settings.n` of `settings.beams` beams, the best first; arguments and faults as of decode.generate."""
    check_prompts(model.shape, [prompt_ids], [settings])
    room = min(settings.max_tokens, reach(model.shape) - len(prompt_ids))
    Answer(prompt_ids, settings, tokenizer, room=room)  # refuses stop texts without a tokenizer
    if room <= 0:
        return [_beam(_Path(0), prompt_ids, settings, tokenizer, room, starts)]
    steps = _Steps(model, prompt_ids, room)
    ends = frozenset(settings.stop_ids)
    wide = max(2, 1 + len(ends)) * settings.beams  # so many cannot all end, unless room does
    running, finished = [_Path(0)], list[_Path]()
    while running:
        found = _continued(running, steps.logits(running), wide, len(prompt_ids))
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
    """The model and its cache, whose rows are rearranged as beams are chosen."""

    def __init__(self, model: Model, prompt_ids: Sequence[int], room: int) -> None:
        self._model, self._prompt = model, list(prompt_ids)
        self._cache = Cache(model.shape, 1, len(prompt_ids) + room, model.dtype, model.device)

    @torch.inference_mode()
    def logits(self, paths: Sequence[_Path]) -> Tensor:
        """Logits [n, V] after each path; row i of the cache is then that of path i."""
        model, cache = self._model, self._cache
        with quiet(training(model)):
            if not paths[0].ids:
                for first in range(0, len(self._prompt), CHUNK):
                    part = torch.tensor([self._prompt[first : first + CHUNK]], device=model.device)
                    states = model.hidden(part, cache=cache)
                return model.logits(states[:, -1])
            rows = [path.row for path in paths]
            if rows != list(range(cache.batch)):
                cache.keep(rows)
            last = [path.ids[-1] for path in paths]
            if isinstance(model, NativeLlama):
                return model.step(range(len(last)), last, cache)
            found: Tensor = model(torch.tensor(last, device=model.device)[:, None], cache=cache)
            return found[:, 0]


def _continued(paths: Sequence[_Path], logits: Tensor, count: int, start: int) -> list[_Path]:
    """The `count` likeliest continuations by one id, the likeliest first."""
    rows = [row_of(row, start + len(paths[0].ids)) for row in logits]
    logs = np.stack([row - log_total(row) for row in rows])
    totals = (logs + np.array([path.total for path in paths])[:, None]).reshape(-1)
    places = largest(totals, count)
    found = []
    for place in places[np.argsort(-totals[places], kind="stable")].tolist():
        row, id = divmod(place, logs.shape[1])
        path = paths[row]
        found.append(_Path(row, (*path.ids, id), (*path.logprobs, float(logs[row, id])), float(totals[place])))
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
    for id, logprob in zip(path.ids, path.logprobs, strict=True):
        if answer.finish_reason is None:
            answer.add(id, logprob)
    return Beam(answer.completion(), path.score(settings.length_penalty) if path.ids else 0.0)
