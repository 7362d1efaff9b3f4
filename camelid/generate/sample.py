"""From logits to the next id.

Every row of a batch carries its own settings, and nothing here mixes rows: a row gives the same id alone and in any
company. Probabilities are computed in float64, so that a draw depends on the logits and not on the width of a sum.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from camelid.errors import CamelidError
from camelid.generate.settings import Settings
from camelid.randomness import key

BITS = 52  # a uniform number u = n / 2^52 keeps u * total below total in float64, whatever the total


def log_probabilities(logits: Tensor) -> Tensor:
    """Natural logarithms of the model's own distribution, [..., V]: log_softmax of the raw logits, before temperature,
    penalties and filters, in float32 (float64 if the logits are)."""
    return torch.log_softmax(_wide(logits), dim=-1)


def log_probability(logits: Tensor, ids: Tensor) -> Tensor:
    """`log_probabilities` of one id per row, [...], without the whole table."""
    wide = _wide(logits)
    return wide.gather(-1, ids[..., None]).squeeze(-1) - torch.logsumexp(wide, dim=-1)


def uniform(seed: int, position: int) -> float:
    """The number in [0, 1) that decides the draw of the id at this position of the sequence."""
    return float(key(seed, "sample", position) >> (63 - BITS)) / float(1 << BITS)


def draw(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Ids [B] drawn from rows [B, V] of unnormalised float64 probabilities, by where `uniforms` [B] in [0, 1) fall.

    The cumulative sum runs in the order of ids, so a rounding error moves borders by as much and never swaps ids.
    """
    cumulative = probabilities.cumsum(dim=-1)
    target = uniforms[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1)


def not_finite(position: int) -> CamelidError:
    """What to say of logits from which nothing can be drawn."""
    return CamelidError(
        f"position {position}: the model's logits are not finite; its weights are damaged or overflow in "
        "this dtype: check the folder, or use float32"
    )


class Sampler:
    """Picks the next id of every row of a batch, each by its own settings."""

    def __init__(self, settings: Sequence[Settings], prompts: Sequence[Sequence[int]], vocab: int, device: str) -> None:
        self._settings = list(settings)
        self._device = device
        self._said: Tensor | None = None
        self._answered: Tensor | None = None
        if any(each.penalises for each in settings):
            self._said = torch.zeros(len(prompts), vocab, dtype=torch.bool, device=device)
            self._answered = torch.zeros(len(prompts), vocab, dtype=torch.float64, device=device)
            for row, prompt in enumerate(prompts):
                self._said[row, torch.tensor(list(prompt), device=device)] = True
        self._columns()

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        self._settings = [self._settings[row] for row in rows]
        if self._said is not None and self._answered is not None:
            chosen = torch.tensor(list(rows), device=self._device)
            self._said, self._answered = self._said[chosen], self._answered[chosen]
        self._columns()

    @property
    def greedy(self) -> bool:
        """Whether every row takes its largest logit, as it is."""
        return not self._any_draw and self._said is None

    def pick(self, logits: Tensor, positions: Sequence[int]) -> Tensor:
        """The next id of each row, [B], from logits [B, V]; `positions` say where in their sequences these will stand.

        Raises CamelidError where logits are not finite: nothing can be drawn from them.
        """
        if not torch.isfinite(logits).all():
            row = int((~torch.isfinite(logits)).any(dim=-1).nonzero()[0])
            raise not_finite(positions[row])
        if self.greedy:
            return logits.argmax(dim=-1)
        scores = self._penalised(logits.double())
        greedy = scores.argmax(dim=-1)
        if not self._any_draw:
            return greedy
        uniforms = [uniform(each.seed, place) for each, place in zip(self._settings, positions, strict=True)]
        drawn = draw(self._probabilities(scores), torch.tensor(uniforms, dtype=torch.float64, device=self._device))
        return torch.where(self._greedy, greedy, drawn)

    def note(self, ids: Tensor) -> None:
        """Remembers that the rows answered with these ids [B], for settings that penalise repetition."""
        if self._said is not None and self._answered is not None:
            rows = torch.arange(len(ids), device=ids.device)
            self._said[rows, ids] = True
            self._answered[rows, ids] += 1

    def _columns(self) -> None:
        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64, device=self._device)[:, None]

        each = self._settings
        self._any_draw = any(row.draws for row in each)
        self._any_filter = any(row.top_k or row.top_p < 1 or row.min_p for row in each)
        self._greedy = column([not row.draws for row in each]).squeeze(-1).bool()
        self._temperature = column([row.temperature if row.draws else 1.0 for row in each])
        self._top_k = column([row.top_k or float("inf") for row in each])
        self._top_p = column([row.top_p if row.top_p < 1 else float("inf") for row in each])
        self._min_p = column([row.min_p for row in each])
        self._repetition = column([row.repetition_penalty for row in each])
        self._presence = column([row.presence for row in each])
        self._frequency = column([row.frequency for row in each])

    def _penalised(self, scores: Tensor) -> Tensor:
        if self._said is None or self._answered is None:
            return scores
        again = torch.where(scores < 0, scores * self._repetition, scores / self._repetition)
        scores = torch.where(self._said, again, scores)
        return scores - self._presence * (self._answered > 0) - self._frequency * self._answered

    def _probabilities(self, scores: Tensor) -> Tensor:
        """Unnormalised probabilities after temperature and filters, [B, V]; what is filtered out is exactly 0."""
        scores = (scores - scores.amax(dim=-1, keepdim=True)) / self._temperature  # the largest is 0: no overflow
        if not self._any_filter:
            return scores.exp()
        ranked, ids = scores.sort(dim=-1, descending=True, stable=True)  # equals stay in the order of ids
        rank = torch.arange(scores.shape[-1], device=scores.device)
        mass = torch.where(rank < self._top_k, ranked.exp(), 0.0)
        mass = mass / mass.sum(dim=-1, keepdim=True)
        before = mass.cumsum(dim=-1) - mass
        keep = ((before < self._top_p) | (rank == 0)) & (mass >= self._min_p * mass[:, :1])
        return torch.zeros_like(scores).scatter_(-1, ids, torch.where(keep, mass, 0.0))


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
