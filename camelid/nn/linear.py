"""Several linear maps of the same input in one multiplication, where that is faster."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Parameters up to which copying the weights side by side costs less than it saves (ours, see benchmarks/step_tiny.py).
SMALL = 1 << 20


def together(x: Tensor, *maps: nn.Module) -> tuple[Tensor, ...]:
    """Each map of `x` [N, D]. Small plain maps are joined: x is read once, and so is its gradient written."""
    weights = [weight for weight in map(_only_weight, maps) if weight is not None]
    if len(weights) < len(maps) or sum(weight.numel() for weight in weights) > SMALL:
        return tuple(part(x) for part in maps)
    return torch.split(F.linear(x, torch.cat(weights)), [len(weight) for weight in weights], dim=-1)


def _only_weight(part: nn.Module) -> Tensor | None:
    """The weight, if calling `part` is exactly one multiplication by it: no bias, no adapter, nobody listening."""
    plain = type(part) is nn.Linear and part.bias is None and not (part._forward_hooks or part._forward_pre_hooks)
    return part.weight if plain and isinstance(part.weight, Tensor) else None
