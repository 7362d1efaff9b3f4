"""NF4 with double quantization (Dettmers et al. 2023, sections 3 and 3.1): four bits a weight, scales in eight.

    weights    blocks of 64 neighbours, in row-major order; each weight divided by the block's largest magnitude, and
               replaced by the nearest of 16 levels, the quantiles of a normal distribution
    scales     their mean is taken off, then blocks of 256 are each divided by their largest magnitude, and replaced by
               the nearest of 256 levels (the paper says FP8; the authors' code has the dynamic tree below)
    bits       4 + 8 / 64 + 32 / (64 x 256) = 4.127 a weight

The second set of levels is computed from its description (Dettmers 2016: a run of zeros is a decimal exponent, what is
left a linear fraction).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from camelid.errors import NonFinite, Problem, UsageError
from camelid.quantize import dynamic
from camelid.quantize.dynamic import inverse, nearest

BLOCK = 64  # section 3
SCALE_BLOCK = 256  # section 3.1
CHUNK = 1 << 17  # bytes of codes decoded at once; a multiple of every block
# The paper's appendix E and bitsandbytes, functional.py: get_4bit_type. Eight positive quantiles of a normal distribution,
# zero and seven negative ones, divided by the largest; made in float32, so that published weights need these very bits.
LEVELS = torch.tensor(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    dtype=torch.float32,
)


TREE = dynamic.SIGNED
PAIRS = torch.stack([LEVELS.repeat_interleave(16), LEVELS.repeat(16)], dim=1)  # [256, 2]: what each byte means


@dataclass(frozen=True, eq=False)
class NF4:
    """A tensor in NF4. The even weight of each pair is in the upper half of its byte."""

    shape: tuple[int, ...]
    codes: Tensor  # uint8 [weights / 2]
    scales: Tensor  # uint8 [weights / 64], coded
    largest: Tensor  # float32, one for 256 scales
    mean: Tensor  # float32, of all scales
    # Others also write scales in float32, without double quantization: `largest` is then empty and `mean` zero.

    @property
    def bytes(self) -> int:
        return self.codes.numel() + self.scales.numel() * self.scales.element_size() + 4 * self.largest.numel() + 4


def encode(values: Tensor) -> NF4:
    """The tensor in NF4. Raises UsageError where blocks do not fill it, NonFinite for infinite values and NaN."""
    x = values.detach().cpu().float().reshape(-1)
    if len(x) % BLOCK or not len(x):
        found = f"{len(x)} weights are no whole number of blocks of {BLOCK}"
        raise UsageError([Problem("nf4", found, "leave this tensor unquantised, or use int8")])
    if not bool(x.isfinite().all()):
        raise NonFinite("nf4: weights that are infinite or not a number cannot be stored; nothing was written")
    blocks = x.reshape(-1, BLOCK)
    scales = blocks.abs().amax(1)
    codes = nearest(blocks * inverse(scales)[:, None], LEVELS).reshape(-1, 2)
    mean = scales.mean()
    if not bool(mean.isfinite()):
        raise NonFinite(f"nf4: the mean of the scales is beyond float32 (largest {float(scales.max()):g}); use int8")
    coded, largest = dynamic.encode(scales - mean, TREE, SCALE_BLOCK)
    return NF4(tuple(values.shape), codes[:, 0] << 4 | codes[:, 1], coded, largest, mean)


def decode(stored: NF4) -> Tensor:
    """The weights in float32, [*shape]; nothing but they and a few megabytes is needed meanwhile."""
    device = stored.codes.device
    pairs = PAIRS.to(device).view(torch.float64).flatten()  # two weights are moved as one number
    scales = _decode_scales(stored)
    out = torch.empty(2 * len(stored.codes), dtype=torch.float32, device=device)
    for start in range(0, len(stored.codes), CHUNK):
        codes = stored.codes[start : start + CHUNK]
        part = out[2 * start : 2 * (start + len(codes))]
        torch.index_select(pairs, 0, codes.int(), out=part.view(torch.float64))
        part.view(-1, BLOCK).mul_(scales[2 * start // BLOCK : 2 * (start + len(codes)) // BLOCK, None])
    return out.reshape(stored.shape)


def _decode_scales(stored: NF4) -> Tensor:
    if not len(stored.largest):
        return stored.scales
    tree = TREE.to(stored.codes.device)
    return dynamic.decode(stored.scales, stored.largest, tree, SCALE_BLOCK) + stored.mean


def bound(values: Tensor) -> Tensor:
    """The largest error, in float64 [*shape], at each weight.

    Half the gap between the levels around the weight, times its block's scale; and what coding the scale adds, which is
    at most half the tree's widest gap, times the largest distance of a scale from the mean among its 256.
    """
    blocks = values.detach().double().reshape(-1, BLOCK)
    scales = blocks.abs().amax(1)
    away = (scales - scales.mean()).abs()
    padded = torch.nn.functional.pad(away, (0, -len(away) % SCALE_BLOCK)).reshape(-1, SCALE_BLOCK)
    largest = padded.amax(1).repeat_interleave(SCALE_BLOCK)[: len(scales)]
    scale_error = largest * float(TREE.double().diff().max()) / 2 + scales.mean() * 2.0**-20 + scales * 2.0**-20
    levels = LEVELS.double()
    share = blocks / torch.where(scales == 0, 1.0, scales)[:, None]
    above = torch.searchsorted(levels, share.clamp(-1, 1)).clamp(1, len(levels) - 1)
    gap = (levels[above] - levels[above - 1]) / 2
    rounding = 2.0**-20 * scales[:, None] + 2.0**-126  # blocks of subnormals may be lost
    return (gap * scales[:, None] + scale_error[:, None] + rounding).reshape(values.shape)
