"""A low-rank map, alone or with the frozen one beside it as one operation: what an adapter costs beyond its base, kept small.

Each product is asked for in the one of its forms that MKL and oneDNN are quick at: on one thread l^T g takes a tenth of the
time that g^T l does, and g (B^T)^T half of what g B does (docs/log.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from camelid.nn.once import once


def adapted(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, factor: float) -> Tensor:
    """W x + s B A x: [P, in] -> [P, out], with W frozen; x, W [out, in], A [R, in] and B [out, R] of one dtype.

    The wide result is written once and the product of B added into it; so is the gradient at x, where one is wanted.
    """
    out: Tensor = _Adapted.apply(x, weight, a, b, factor)  # type: ignore[no-untyped-call]
    return out


def low_rank(x: Tensor, a: Tensor, b: Tensor, factor: float) -> Tensor:
    """s B A x in the adapter's own precision, whatever that of x: [P, in] -> [P, out], with A [R, in] and B [out, R]."""
    out: Tensor = _LowRank.apply(x, a, b, factor)  # type: ignore[no-untyped-call]
    return out


class _Adapted(torch.autograd.Function):
    """Keeps x and the [P, R] between A and B; with g the gradient: dB = (l^T g)^T, dl = s g B, dA = dl^T x,
    dx = g W + dl A, where l = s A x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, factor: float) -> Tensor:
        low = F.linear(x, a).mul_(factor)
        ctx.save_for_backward(x, weight, a, b, low)
        ctx.factor = factor
        return _plus(F.linear(x, weight), low, b.T)

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, Tensor | None, Tensor | None, None]:
        x, weight, a, b, low = ctx.saved_tensors
        grad = grads[0]
        to_x, to_a, to_b = ctx.needs_input_grad[0], ctx.needs_input_grad[2], ctx.needs_input_grad[3]
        slope = _inner(grad, b, ctx.factor) if to_x or to_a else grad  # [P, R]
        return (
            _plus(grad @ weight, slope, a) if to_x else None,
            None,
            slope.T @ x if to_a else None,
            (low.T @ grad).T if to_b else None,
            None,
        )


class _LowRank(torch.autograd.Function):
    """Keeps x as it came and the [P, R] between A and B; gradients as above, without W's part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, factor: float) -> Tensor:
        low = F.linear(x.to(a.dtype), a).mul_(factor)
        ctx.save_for_backward(x, a, b, low)
        ctx.factor = factor
        return F.linear(low, b)

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, a, b, low = ctx.saved_tensors
        to_x, to_a, to_b = ctx.needs_input_grad[:3]
        slope = _inner(grads[0], b, ctx.factor) if to_x or to_a else low
        return (
            (slope @ a).to(x.dtype) if to_x else None,
            slope.T @ x.to(a.dtype) if to_a else None,
            (low.T @ grads[0]).T if to_b else None,
            None,
        )


def _inner(grad: Tensor, b: Tensor, factor: float) -> Tensor:
    """The gradient [P, R] between A and B."""
    return F.linear(grad, b.T.contiguous()).mul_(factor)


def _plus(wide: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """`wide` with a product added into it."""
    return torch.addmm(wide, one, other, out=wide)
