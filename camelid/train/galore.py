"""AdamW in a few directions of the gradient (Zhao et al. 2024, algorithm 2): every weight learns, few moments are kept."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from camelid.models.shape import LINEARS
from camelid.train.optim import Optimizer, _Group
from camelid.train.settings import GaLore


class GaLoreOptimizer(Optimizer):
    """Its state has "projection.NAME", [outputs, R] or [inputs, R], and moments of the projected gradient."""

    @property
    def galore(self) -> GaLore:
        return cast(GaLore, self.settings)

    def _begun(self, name: str, master: Tensor) -> dict[str, Tensor]:
        if not self._projected(name, master):
            return super()._begun(name, master)
        outputs, inputs, rank = *master.shape, self.galore.rank
        low = (rank, inputs) if outputs <= inputs else (outputs, rank)
        return {
            "projection": self._zeros(master, (min(outputs, inputs), rank), master.dtype),
            "mean": self._zeros(master, low, master.dtype),
            "square": self._zeros(master, low, master.dtype),
        }

    def _projected(self, name: str, master: Tensor) -> bool:
        map = name.removesuffix(".weight").rpartition(".")[2]
        return map in LINEARS and master.ndim == 2 and min(master.shape) > self.galore.rank

    def _update(self, group: _Group, rate: float, clipping: Tensor | None) -> None:
        projected = [name for name in group.names if "projection" in self._moments[name]]
        rest = [name for name in group.names if name not in set(projected)]
        if rest:
            super()._update(_Group(rest, group.decay, group.factor), rate, clipping)
        for name in projected:
            self._update_projected(name, group.decay, rate, clipping)

    def _update_projected(self, name: str, decay: float, rate: float, clipping: Tensor | None) -> None:
        master, moments = self.masters[name], self._moments[name]
        assert master.grad is not None
        gradient = master.grad if clipping is None else master.grad / clipping.to(master.dtype)
        wide = master.shape[0] <= master.shape[1]
        here = {kind: moment.to(master.device) for kind, moment in moments.items()}
        if self.updates % self.galore.every == 0:
            left, _, right = torch.linalg.svd(gradient, full_matrices=False)
            here["projection"].copy_(left[:, : self.galore.rank] if wide else right[: self.galore.rank].T)
        projection = here["projection"]
        low = projection.T @ gradient if wide else gradient @ projection
        direction = self._direction(name, low.contiguous(), here)
        if decay:
            master.mul_(1 - rate * decay)
        whole = projection @ direction if wide else direction @ projection.T
        master.add_(whole, alpha=rate * self.galore.scale)
        for kind, moment in moments.items():
            if moment.device != master.device:
                moment.copy_(here[kind])

    def _direction(self, name: str, low: Tensor, moments: dict[str, Tensor]) -> Tensor:
        """What AdamW at rate 1 and without decay adds to a weight of this gradient."""
        found = torch.zeros_like(low)
        adamw(
            [found],
            [low],
            [moments["mean"]],
            [moments["square"]],
            [],
            [self._turns[name]],
            fused=True,
            amsgrad=False,
            beta1=self.settings.betas[0],
            beta2=self.settings.betas[1],
            lr=1.0,
            weight_decay=0.0,
            eps=self.settings.eps,
            maximize=False,
        )
        return found
