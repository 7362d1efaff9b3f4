"""Four bits a weight in groups of columns, as GPTQ and AWQ store them: w[i, j] = s[i, g(j)] (q[i, j] - z[i, g(j)]).

q runs from 0 to 15; scales are half floats, rounded before the weights are, so that no weight meets another scale than
the one that is stored.

    symmetric    z = 8 and s = 2 largest / 15: the levels reach from -8 s to 7 s (AutoGPTQ, quantization/quantizer.py)
    asymmetric   s = (highest - lowest) / 15 with zero between the two, z = -lowest / s rounded
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from camelid.errors import NonFinite, Problem, UsageError

GROUP = 128  # Frantar et al. 2022, section 4 (its smaller groups); Lin et al. 2023, section 5
LEVELS = 15
MIDDLE = 8
SMALLEST = 2.0**-24  # of half floats


@dataclass(frozen=True, eq=False)
class Int4:
    """A matrix [N, M] in G groups of columns."""

    codes: Tensor  # uint8 [N, M]
    zeros: Tensor  # uint8 [N, G]
    scales: Tensor  # float16 [N, G]
    groups: Tensor  # int64 [M], the group of each column

    @property
    def bytes(self) -> int:
        """Two codes a byte, a scale of two bytes and half a byte of zero a group; the groups follow from the columns."""
        return self.codes.numel() // 2 + 2 * self.scales.numel() + (self.zeros.numel() + 1) // 2


def in_order(width: int, group: int) -> Tensor:
    """The group of each column, side by side; the last may be narrower."""
    return torch.arange(width) // group


def encode(values: Tensor, group: int = GROUP, *, symmetric: bool = False, groups: Tensor | None = None) -> Int4:
    """The matrix rounded to the nearest level of each group. Raises NonFinite for infinite values and NaN.

    groups  the group of each column, where they do not lie side by side
    """
    x = checked(values)
    placed = in_order(x.shape[1], group) if groups is None else groups
    found = [grid(x[:, placed == number], symmetric=symmetric) for number in range(int(placed.max()) + 1)]
    scales, zeros = (torch.stack(each, dim=1) for each in zip(*found, strict=True))
    codes = nearest(x, scales[:, placed], zeros[:, placed])
    return Int4(codes, zeros, scales, placed)


def decode(stored: Int4) -> Tensor:
    """The weights in float32, exact: a half float times a whole number below 16."""
    steps = stored.codes.float() - stored.zeros.float()[:, stored.groups]
    return steps * stored.scales.float()[:, stored.groups]


def bound(values: Tensor, stored: Int4) -> Tensor:
    """The largest error, in float64, at each weight: half a step, and where the rounded scale falls short of the ends."""
    steps = stored.scales.double()[:, stored.groups]
    return steps / 2 + values.detach().double().abs() * 2.0**-10 + LEVELS * SMALLEST


def grid(values: Tensor, *, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Scale (float16) and zero (uint8) of each row of one group [N, g]. Raises NonFinite beyond half floats."""
    low, high = values.amin(1).clamp(max=0), values.amax(1).clamp(min=0)
    if symmetric:
        high = torch.maximum(-low, high)
        low = -high
    scales = ((high - low) / LEVELS).clamp(min=SMALLEST).half()
    if not bool(scales.isfinite().all()):
        raise NonFinite(f"int4: weights of {float(high.max() - low.min()):g} are beyond half-float scales; use int8")
    zeros = torch.full_like(low, MIDDLE) if symmetric else (-low / scales.float()).round().clamp(0, LEVELS)
    return scales, zeros.to(torch.uint8)


def nearest(values: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """The code of each value, as uint8, for scales and zeros of the same shape."""
    return ((values / scales.float()).round() + zeros.float()).clamp(0, LEVELS).to(torch.uint8)


def checked(values: Tensor) -> Tensor:
    """A matrix in float32. Raises NonFinite for values that are no numbers, UsageError for what is no matrix."""
    x = values.detach().float()
    if x.ndim != 2 or not x.numel():
        raise UsageError([Problem("int4", f"shape {list(x.shape)} is no matrix", "leave this tensor unquantised")])
    if not bool(x.isfinite().all()):
        raise NonFinite("int4: weights that are infinite or not a number cannot be stored; nothing was written")
    return x
