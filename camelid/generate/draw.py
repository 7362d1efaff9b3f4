"""The engine's door to sampling: one function from rows of logits to ids, each row by the sampler of its own request."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from camelid.errors import CamelidError
from camelid.generate.forward import Model
from camelid.generate.sample import Drawn, Ranked, Sampler, log_probability, log_total, not_finite, ranked, row_of
from camelid.native.llama import NativeLlama


def pick(model: Model, samplers: Sequence[Sampler], logits: Tensor) -> list[Drawn]:
    """The next id of each request from its row of logits [n, V]: all that is plain together, the rest one by one.

    Raises CamelidError, with the position, where logits are not finite.
    """
    found = drawn(model, samplers, logits)
    for each in found:
        if isinstance(each, CamelidError):
            raise each
    return [each for each in found if isinstance(each, Drawn)]


@torch.inference_mode()
def drawn(model: Model, samplers: Sequence[Sampler], logits: Tensor) -> list[Drawn | CamelidError]:
    """The same, with the reason in the place of an id where a request has none; the others get theirs."""
    found: dict[int, Drawn] = {}
    plain = [row for row, sampler in enumerate(samplers) if sampler.plain]
    if plain:
        rows = logits if len(plain) == len(samplers) else logits[plain]
        ids, logprobs, wrong = _largest(model, rows)
        if wrong < 0:
            found = {row: Drawn(id, logprob) for row, id, logprob in zip(plain, ids, logprobs, strict=True)}
    return [found[row] if row in found else _one(model, sampler, logits[row]) for row, sampler in enumerate(samplers)]


def _one(model: Model, sampler: Sampler, row: Tensor) -> Drawn | CamelidError:
    try:
        if not sampler.plain:
            return sampler.draw(row)
        ids, logprobs, wrong = _largest(model, row[None])
        return Drawn(ids[0], logprobs[0]) if wrong < 0 else not_finite(sampler.position)
    except CamelidError as error:
        return error


def _largest(model: Model, logits: Tensor) -> tuple[list[int], list[float], int]:
    """Of each row the largest logit's id, its log-probability, and the first row that is not finite or -1."""
    if isinstance(model, NativeLlama):
        ids, logprobs, wrong = model.pick(logits)
        return ids.tolist(), logprobs.tolist(), wrong
    finite = torch.isfinite(logits).all(dim=-1)
    ids = logits.argmax(dim=-1)
    if logits.is_cpu:  # each in its own shape, so that its bits do not depend on the others
        chosen = [float(log_probability(row.clone(), id)) for row, id in zip(logits, ids, strict=True)]
    else:
        chosen = log_probability(logits, ids).tolist()
    return ids.tolist(), chosen, -1 if finite.all() else int(finite.int().argmin())


def tops(logits: Tensor, count: int, position: int) -> list[Ranked]:
    """The likeliest ids of each row [n, V], the first of which is for `position`; none where none are asked for."""
    rows = [row_of(row, position + place) for place, row in enumerate(logits)] if count else []
    return [ranked(row - log_total(row), count) for row in rows]
