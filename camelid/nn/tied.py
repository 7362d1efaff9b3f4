"""A matrix that is both embedding and head: both gradients in one matrix of its size, where two would be held and added."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from camelid.nn.once import once


class Tie:
    """Hands the head's gradient of one forward pass to the embedding, whose backward step comes last.

    Who makes the head's gradient leaves it here instead of giving it to autograd; `embedded` adds its rows into it and
    gives the sum, bit for bit what adding two whole matrices gives. It serves one backward pass, and only a head that
    works on what came of that embedding: then its step is always the earlier one.
    """

    def __init__(self) -> None:
        self.weight: Tensor | None = None  # whose gradients meet here
        self.gradient: Tensor | None = None

    def take(self) -> Tensor | None:
        gradient, self.gradient = self.gradient, None
        return gradient


def embedded(ids: Tensor, weight: Tensor, tie: Tie) -> Tensor:
    """Rows [P, D] of `weight` [V, D] for ids [P]; its gradient is one with what the head leaves in `tie`."""
    tie.weight = weight
    rows: Tensor = _Embedded.apply(weight, ids, tie)  # type: ignore[no-untyped-call]
    return rows


class _Embedded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, tie: Tie) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.rows, ctx.tie = len(weight), tie
        return F.embedding(ids, weight)

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (ids,) = ctx.saved_tensors
        together = ctx.tie.take()
        if together is None:
            return _summed(grads[0], ids, ctx.rows), None, None
        seen, place = torch.unique(ids, return_inverse=True)
        return together.index_add_(0, seen, _summed(grads[0], place, len(seen)).to(together.dtype)), None, None


def _summed(grad: Tensor, ids: Tensor, rows: int) -> Tensor:
    """[P, D] -> [rows, D]: to each row what belongs to its id, in the order of places."""
    return torch.ops.aten.embedding_dense_backward(grad, ids, rows, -1, False)  # type: ignore[no-any-return]
