"""AWQ (Lin et al. 2023): input channels that carry large activations are scaled up before rounding, and their inputs down.

    W x = (W diag(s)) (diag(1 / s) x)      s = m^a, m the mean magnitude of each input channel (section 3.2, equation 5)

The exponent a is the one of `STEPS` from 0 to 1 whose rounding adds least to the layer's output on a calibration text.
a = 0 is plain rounding, so the best is never worse than it. The maps that share an input share s. Ours: the loss is that
of the maps themselves, from X^T X, and weights are not clipped (the authors' code does both otherwise).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from camelid.quantize import int4
from camelid.quantize.gptq import loss_of_rows

STEPS = 20  # section 5: "a grid size of 20"


@dataclass(frozen=True, eq=False)
class Found:
    """Scales [M] of the input channels, the exponent they came from, and the loss with them and with none."""

    scales: Tensor
    exponent: float
    loss: float
    loss_of_nearest: float


def search(
    maps: Sequence[Tensor],
    gram: Tensor,
    magnitudes: Tensor,
    *,
    group: int = int4.GROUP,
    realised: Callable[[Tensor], Tensor] = lambda scales: scales,
) -> Found:
    """The best scales for the maps [N_i, M] of one input, whose X^T X is `gram` and mean |x| `magnitudes`.

    realised  what scales become where they are put: a norm in 16 bits divides by a rounded number
    """
    whole = [int4.checked(weights) for weights in maps]
    best: Found | None = None
    nearest = 0.0
    for step in range(STEPS + 1):
        exponent = step / STEPS
        wanted = _scales(magnitudes.double(), exponent)
        scales = realised(wanted) if step else wanted
        loss = sum(_loss(weights, scales, gram, group) for weights in whole)
        if best is None:
            nearest = loss
        if best is None or loss < best.loss:
            best = Found(scales, exponent, loss, nearest)
    assert best is not None
    return best


def _scales(magnitudes: Tensor, exponent: float) -> Tensor:
    """m^a, brought to a geometric middle of one, in float32."""
    if exponent == 0:
        return torch.ones(len(magnitudes))
    raised = magnitudes.clamp(min=1e-12).pow(exponent).clamp(min=1e-4)
    return (raised / (raised.max() * raised.min()).sqrt()).float()


def _loss(weights: Tensor, scales: Tensor, gram: Tensor, group: int) -> float:
    stored = int4.encode(weights * scales, group)
    return float(loss_of_rows(int4.decode(stored).double() / scales.double() - weights.double(), gram).sum())
