"""The engine's door to sampling: one function from a row of logits, a request's history and settings, to an id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from camelid.errors import CamelidError
from camelid.generate.forward import Model, scores
from camelid.generate.sample import Sampler, not_finite
from camelid.generate.settings import Settings
from camelid.native.llama import NativeLlama


@dataclass(frozen=True)
class Drawn:
    """The next id of a request, and its log-probability."""

    id: int
    logprob: float


class Draws:
    """What one request's draws depend on: its settings, and the ids it has so far."""

    def __init__(self, settings: Settings, prompt_ids: Sequence[int], vocab: int, device: str) -> None:
        self._sampler = Sampler([settings], [prompt_ids], vocab, device)
        self.position = len(prompt_ids)

    @property
    def plain(self) -> bool:
        """Whether the largest logit is taken, as it is."""
        return self._sampler.greedy

    def draw(self, model: Model, logits: Tensor) -> Drawn:
        """The id for the row [V]. Raises CamelidError, with the position, where it is not finite."""
        rows = logits[None]
        chosen = self._sampler.pick(rows, [self.position])
        return Drawn(int(chosen), float(scores(model, rows, chosen)))

    def take(self, id: int) -> None:
        """Remembers that this id was said."""
        self._sampler.note(torch.tensor([id]))
        self.position += 1


@torch.inference_mode()
def draw_all(model: Model, draws: Sequence[Draws], logits: Tensor) -> list[Drawn | CamelidError]:
    """The next id of each request from its row of logits [n, V]; for a row from which none can be drawn, why not."""
    found: list[Drawn | CamelidError | None] = [None] * len(draws)
    plain = [row for row, own in enumerate(draws) if own.plain]
    if plain and isinstance(model, NativeLlama):
        rows = logits if len(plain) == len(draws) else logits[plain]
        ids, logprobs, wrong = model.pick(rows)
        if wrong < 0:
            for row, id, logprob in zip(plain, ids.tolist(), logprobs.tolist(), strict=True):
                found[row] = Drawn(id, logprob)
    return [known if known is not None else _drawn(model, draws[row], logits[row]) for row, known in enumerate(found)]


def _drawn(model: Model, draws: Draws, logits: Tensor) -> Drawn | CamelidError:
    if not bool(torch.isfinite(logits).all()):
        return not_finite(draws.position)
    try:
        return draws.draw(model, logits)
    except CamelidError as error:
        return error
