"""Several linear maps of the same input in one multiplication, where that is faster."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Where copying the weights side by side costs less than it saves (ours): up to so many of them, for so many rows.
SMALL, MANY = 1 << 20, 64


def joined(x: Tensor, *maps: nn.Module) -> bool:
    """Whether `beside` should stand for calling each: small, for many rows, no bias, no adapter, nobody listening."""
    return len(x) >= MANY and all(map(plain, maps)) and sum(_weight(part).numel() for part in maps) <= SMALL


def beside(x: Tensor, *maps: nn.Module) -> Tensor:
    """The maps of `x` [P, D] side by side, [P, sum of outputs]: x is read once, and so is its gradient written."""
    return F.linear(x, torch.cat([_weight(part) for part in maps]))


def plain(part: nn.Module) -> bool:
    """Whether it is a linear map without bias or adapter, and nobody listens."""
    return type(part) is nn.Linear and part.bias is None and unheard(part)


def unheard(part: nn.Module) -> bool:
    """Whether nobody listens to what passes through it."""
    return not (part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks)


def _weight(part: nn.Module) -> Tensor:
    weight = part.weight
    assert isinstance(weight, Tensor)
    return weight
