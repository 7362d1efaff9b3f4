"""Eight bits a weight, one scale for each row: w[i, j] = s[i] q[i, j] with q from -127 to 127, s = largest / 127."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from camelid.errors import NonFinite


@dataclass(frozen=True, eq=False)
class Int8:
    """A matrix [N, M] as signed bytes and the scale of each row, [N, 1] in float32.

    `largest` [N, 1] are the magnitudes that the scales were made from, where they are known: bitsandbytes stores these.
    """

    codes: Tensor
    scales: Tensor
    largest: Tensor | None = None

    @property
    def bytes(self) -> int:
        return self.codes.numel() + 4 * self.scales.numel()


def encode(values: Tensor) -> Int8:
    """The matrix rounded to the nearest step of each row. Raises NonFinite for infinite values and NaN."""
    x = values.detach().float()
    if not bool(x.isfinite().all()):
        raise NonFinite("int8: weights that are infinite or not a number cannot be stored; nothing was written")
    found = of_largest(torch.empty(0, dtype=torch.int8), x.abs().amax(-1, keepdim=True))
    codes = (x / torch.where(found.scales == 0, 1.0, found.scales)).round().clamp(-127, 127).to(torch.int8)
    return replace(found, codes=codes)


def of_largest(codes: Tensor, largest: Tensor) -> Int8:
    """From codes [N, M] and the largest magnitude of each row, [N, 1]."""
    return Int8(codes, largest / 127, largest)


def decode(stored: Int8) -> Tensor:
    """The weights in float32."""
    return stored.codes.float().mul_(stored.scales)


def bound(values: Tensor) -> Tensor:
    """The largest error, in float64, at each weight: half a step, and float32's own rounding."""
    x = values.detach().double()
    scale = x.abs().amax(-1, keepdim=True) / 127
    return (scale / 2 + x.abs() * 2.0**-22 + 2.0**-149 * 128).expand_as(x)  # subnormal scales are rounded by 2^-150
