"""Dynamic tree quantization by blocks (Dettmers 2016; Dettmers et al. 2021, sections 2.1 and 2.2): eight bits for numbers
whose sizes differ by decades, such as the moments of Adam and the scales of NF4.

    levels     a run of zeros is a decimal exponent, what is left a linear fraction; 256 of them from -1 to 1, or from 0
    values     blocks of neighbours, each divided by its largest magnitude and replaced by the nearest level

A tensor need not fill its blocks: the last one is shorter.
"""

from __future__ import annotations

import torch
from torch import Tensor


def tree(signed: bool) -> Tensor:
    """The 256 levels, ascending: seven decades of 2^k midpoints each way (2^(k+1) where none is negative), zero and one."""
    levels = [0.0, 1.0]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2 ** (decade + (not signed)) + 1, dtype=torch.float32)
        middles = 10.0 ** (decade - 6) * (edges[:-1] + edges[1:]) / 2
        levels += middles.tolist() + ((-middles).tolist() if signed else [])
    return torch.tensor(sorted(levels), dtype=torch.float32)


SIGNED, UNSIGNED = tree(True), tree(False)


def encode(values: Tensor, levels: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """uint8 codes and float32 scales of values that lie flat: [N] -> [N], [blocks]."""
    padded = torch.nn.functional.pad(values, (0, -len(values) % block)).reshape(-1, block)
    largest = padded.abs().amax(1)
    return nearest(padded * inverse(largest)[:, None], levels).reshape(-1)[: len(values)], largest


def decode(codes: Tensor, largest: Tensor, levels: Tensor, block: int) -> Tensor:
    """The values in float32: [N], [blocks] -> [N]."""
    values = levels.index_select(0, codes.int())
    whole = len(values) // block * block
    values[:whole].view(-1, block).mul_(largest[: whole // block, None])
    values[whole:].mul_(largest[-1:])
    return values


def inverse(scales: Tensor) -> Tensor:
    """1 / scale; 0 where that is beyond float32, so that a block of nothing stays nothing."""
    inverse = 1 / scales
    return torch.where(inverse.isfinite(), inverse, 0.0)


def nearest(x: Tensor, levels: Tensor) -> Tensor:
    """The place of the nearest level, as uint8; the lower one half way between two."""
    return torch.bucketize(x.clamp(-1, 1).contiguous(), (levels[:-1] + levels[1:]) / 2, out_int32=True).to(torch.uint8)
