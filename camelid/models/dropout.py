"""Residual dropout that rises with depth, put on a finished model for the time of its tuning (Zhou et al. 2023, LIMA).

    rate of layer i = last * i / (L - 1)        0 at the first layer, `last` at the last one

It falls on what attention and feed-forward give, before that is added to the stream. Nothing is added to the weights,
and outside training mode nothing happens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from camelid.errors import CamelidError, Problem, UsageError
from camelid.models.llama import Llama
from camelid.nn.lora import Draws
from camelid.randomness import torch_generator


def rates(layers: int, last: float) -> tuple[float, ...]:
    """The rate of each layer; a model of one layer has the last's."""
    return tuple(last * index / (layers - 1) if layers > 1 else last for index in range(layers))


def add_residual_dropout(model: Llama, last: float) -> Llama:
    """Puts the ramp on `model` in place; returns `model`. Its masks are keyed: call `adapt.set_randomness` first.

    Raises UsageError for a rate that would leave nothing.
    """
    if not 0 <= last < 1:
        raise UsageError([Problem("dropout", f"{last} is no share to leave out", "use 0 or more, less than 1")])
    if last == 0:
        return model
    draws = model.draws or Draws()
    model.draws = draws
    for index, (layer, rate) in enumerate(zip(model.model.layers, rates(model.shape.layers, last), strict=True)):
        if rate:
            for name in ("self_attn", "mlp"):
                layer.get_submodule(name).register_forward_hook(_dropping(f"layers.{index}.{name}", rate, draws))
    return model


def _dropping(name: str, rate: float, draws: Draws) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
    def drop(module: nn.Module, given: Any, out: Tensor) -> Tensor | None:
        if not module.training:
            return None
        if draws.words is None:
            raise CamelidError(
                f"{name}: dropout has nothing to draw from; call set_randomness(model, seed, step, micro) first"
            )
        draw = torch_generator("residual dropout", *draws.words, name, device=str(out.device))
        kept = torch.empty_like(out).bernoulli_(1 - rate, generator=draw)
        return out * kept.div_(1 - rate)

    return drop
