"""AdamW whose moments lie in eight bits each (Dettmers et al. 2021): decoded, updated and coded again by blocks.

The arithmetic between is that of bitsandbytes' AdamW8bit on a CPU, operation by operation. Codes are the nearest levels,
as in the paper; the tests show where bitsandbytes' CPU kernel chooses a neighbour instead.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from camelid.quantize import dynamic
from camelid.train.optim import Optimizer, _Group
from camelid.train.settings import AdamW8bit

LEAST = 4096  # bitsandbytes, min_8bit_size: smaller weights keep float32 moments
CHUNK = 1 << 16  # numbers decoded at once, or one block


class Optimizer8bit(Optimizer):
    """Its state has "mean.NAME" and "square.NAME" as codes, and the largest of each block as "mean_scale.NAME" ..."""

    @property
    def block(self) -> int:
        return cast(AdamW8bit, self.settings).block

    def _begun(self, name: str, master: Tensor) -> dict[str, Tensor]:
        if master.numel() < LEAST or "embed_tokens" in name:
            return super()._begun(name, master)
        blocks = [-(-master.numel() // self.block)]
        zero = {True: int(dynamic.SIGNED.eq(0).nonzero()), False: int(dynamic.UNSIGNED.eq(0).nonzero())}
        moments = {}
        for kind, signed in (("mean", True), ("square", False)):
            moments[kind] = self._zeros(master, master.shape, torch.uint8).fill_(zero[signed])
            moments[f"{kind}_scale"] = self._zeros(master, blocks, torch.float32)
        return moments

    def _update(self, group: _Group, rate: float, clipping: Tensor | None) -> None:
        coded = [name for name in group.names if "mean_scale" in self._moments[name]]
        rest = [name for name in group.names if name not in set(coded)]
        if rest:
            super()._update(_Group(rest, group.decay, group.factor), rate, clipping)
        for name in coded:
            self._update_coded(name, group.decay, rate, clipping)

    def _update_coded(self, name: str, decay: float, rate: float, clipping: Tensor | None) -> None:
        master = self.masters[name]
        assert master.grad is not None
        weight, gradient = master.view(-1), master.grad.reshape(-1)
        step = max(1, CHUNK // self.block)
        for first in range(0, -(-len(weight) // self.block), step):
            numbers = slice(first * self.block, (first + step) * self.block)
            part = gradient[numbers].float()
            mean, square = self._decoded(name, numbers, first, step, weight.device)
            self._adamw(weight[numbers], part if clipping is None else part / clipping, mean, square, decay, rate)
            self._code(name, numbers, first, step, mean, square)

    def _decoded(self, name: str, numbers: slice, first: int, step: int, device: torch.device) -> tuple[Tensor, Tensor]:
        found = []
        for kind, levels in (("mean", dynamic.SIGNED), ("square", dynamic.UNSIGNED)):
            codes = self._moments[name][kind].view(-1)[numbers].to(device)
            scales = self._moments[name][f"{kind}_scale"][first : first + step].to(device)
            found.append(dynamic.decode(codes, scales, levels.to(device), self.block))
        return found[0], found[1]

    def _adamw(self, weight: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, decay: float, rate: float) -> None:
        one, two = self.settings.betas
        turn = self.updates + 1
        mean.mul_(one).add_(gradient, alpha=1 - one)
        square.mul_(two).addcmul_(gradient, gradient, value=1 - two)
        root = (square.sqrt() / math.sqrt(1 - two**turn)).add_(self.settings.eps)
        if decay:
            weight.mul_(1 - rate * decay)
        weight.addcdiv_(mean, root, value=-rate / (1 - one**turn))

    def _code(self, name: str, numbers: slice, first: int, step: int, mean: Tensor, square: Tensor) -> None:
        for kind, values, levels in (("mean", mean, dynamic.SIGNED), ("square", square, dynamic.UNSIGNED)):
            codes, scales = dynamic.encode(values, levels.to(values.device), self.block)
            self._moments[name][kind].view(-1)[numbers] = codes.to(self._moments[name][kind].device)
            self._moments[name][f"{kind}_scale"][first : first + step] = scales.to(self._moments[name][kind].device)
