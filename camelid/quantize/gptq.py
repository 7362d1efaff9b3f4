"""GPTQ (Frantar et al. 2022, algorithm 1): columns are rounded one after the other, and what rounding one adds to the
layer's output is taken back by moving the columns that are still to come.

    H      X^T X over the layer's inputs on a calibration text, plus `damping` of its mean diagonal
    U      the upper Cholesky factor of the inverse of H; column j, rounded with error e, moves column k by -e U[j, k] / U[j, j]
    order  with act_order columns are taken by falling H[j, j]; groups are then cut in that order, and g_idx keeps them

Scales are found when a group begins, from weights as moved so far. Ours: rows are independent, and a row whose output
error on the calibration text came out above that of plain rounding keeps plain rounding, so that none is ever worse.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from camelid.errors import CamelidError
from camelid.quantize import int4
from camelid.quantize.int4 import GROUP, Int4

DAMPING = 0.01  # section 3.3, step 3: one percent of the average diagonal
COLUMNS = 128  # section 3.3, step 2: columns whose moves of the rest are applied together


@dataclass(frozen=True, eq=False)
class Rounded:
    """A matrix in int4, and its error on the layer's output: sum over the text of |(W' - W) x|^2, with GPTQ and without."""

    stored: Int4
    loss: float
    loss_of_nearest: float


def rounded(
    weights: Tensor,
    hessian: Tensor,
    *,
    group: int = GROUP,
    damping: float = DAMPING,
    act_order: bool = False,
    symmetric: bool = True,
) -> Rounded:
    """The matrix [N, M] rounded for inputs whose X^T X is `hessian` [M, M].

    Raises NonFinite for weights that are no numbers, CamelidError for a Hessian that no damping of this size repairs.
    """
    whole = int4.checked(weights)
    gram = hessian.double()
    width = whole.shape[1]
    order = gram.diagonal().argsort(descending=True, stable=True) if act_order else torch.arange(width)
    placed = int4.in_order(width, group)
    moved = _moved(whole[:, order], _factor(gram[order][:, order], damping), placed, symmetric)
    plain = int4.encode(whole[:, order], symmetric=symmetric, groups=placed)
    losses, plain_losses = (loss_of_rows(int4.decode(one) - whole[:, order], gram, order) for one in (moved, plain))
    keep = (losses <= plain_losses)[:, None]
    back = order.argsort()
    stored = Int4(
        torch.where(keep, moved.codes, plain.codes)[:, back],
        torch.where(keep, moved.zeros, plain.zeros),
        torch.where(keep, moved.scales, plain.scales),
        placed[back],
    )
    return Rounded(stored, float(torch.minimum(losses, plain_losses).sum()), float(plain_losses.sum()))


def loss_of_rows(error: Tensor, gram: Tensor, order: Tensor | None = None) -> Tensor:
    """e H e^T for each row e of `error` [N, M], in float64: the error that it adds to the output over the whole text."""
    exact = error.double()
    kept = gram.double() if order is None else gram.double()[order][:, order]
    return (exact @ kept * exact).sum(1).clamp(min=0)


def _factor(gram: Tensor, damping: float) -> Tensor:
    """U, float64 [M, M]. Columns that no input ever reached count as if they had the mean diagonal alone."""
    diagonal = gram.diagonal()
    mean = float(diagonal.mean()) or 1.0
    damped = gram + torch.diag((diagonal == 0) * mean + damping * mean)
    try:
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
        upper: Tensor = torch.linalg.cholesky(inverse, upper=True)
        return upper
    except RuntimeError:  # torch.linalg.LinAlgError, which PyTorch does not export by name
        found = "the inputs of this layer on the calibration text are too much alike to be told apart"
        raise CamelidError(f"gptq: {found}; give a longer text, or more damping than {damping:g}") from None


def _moved(weights: Tensor, factor: Tensor, groups: Tensor, symmetric: bool) -> Int4:
    rest, width = weights.double(), weights.shape[1]
    codes = torch.empty(weights.shape, dtype=torch.uint8)
    scales: list[Tensor] = []
    zeros: list[Tensor] = []
    for start in range(0, width, COLUMNS):
        end = min(start + COLUMNS, width)
        errors = torch.zeros(len(rest), end - start, dtype=torch.float64)
        for column in range(start, end):
            number = int(groups[column])
            if number == len(scales):  # a group begins; what the block still owes it is paid first
                inside = groups == number
                now = rest[:, inside] - errors[:, : column - start] @ factor[start:column, inside] * (
                    torch.nonzero(inside)[:, 0] >= end
                )
                scale, zero = int4.grid(now.float(), symmetric=symmetric)
                scales.append(scale)
                zeros.append(zero)
            value = rest[:, column]
            codes[:, column] = int4.nearest(value.float(), scales[-1], zeros[-1])
            reached = (codes[:, column].double() - zeros[-1].double()) * scales[-1].double()
            error = (value - reached) / factor[column, column]
            errors[:, column - start] = error
            rest[:, column:end] -= error[:, None] * factor[column, column:end]
        rest[:, end:] -= errors @ factor[start:end, end:]
    return Int4(codes, torch.stack(zeros, dim=1), torch.stack(scales, dim=1), groups)
