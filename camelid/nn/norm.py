"""Root-mean-square normalisation (Zhang and Sennrich 2019), which LLaMA puts before each block and before the head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camelid.nn import compiled
from camelid.nn.once import once
from camelid.nn.passes import Passes, passes_for


class RMSNorm(nn.Module):
    """x / sqrt(mean(x ** 2) + eps) * weight over the last axis: [..., D] -> [..., D], in float32 or better inside."""

    def __init__(
        self, width: int, eps: float, *, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width, dtype=dtype, device=device))

    def forward(self, x: Tensor) -> Tensor:
        if compiled.on():
            return compiled.norm(x, self.weight, self.eps)
        if (passes := passes_for(x, self.weight)) is not None:
            passed: Tensor = _Passed.apply(x, self.weight, self.eps, passes)  # type: ignore[no-untyped-call]
            return passed
        if x.is_cpu:
            normed: Tensor = _RMSNorm.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]
            return normed
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)  # one kernel there

    def after(self, x: Tensor, more: Tensor) -> tuple[Tensor, Tensor]:
        """x + more, and that normalised."""
        if compiled.on():
            return compiled.added_norm(x, more, self.weight, self.eps)
        x = x + more
        return x, self(x)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"


class _RMSNorm(torch.autograd.Function):
    """PyTorch's own takes some twenty passes over x on a CPU, forwards and backwards; this takes ten and keeps only x.

    With r = 1 / sqrt(mean(x ** 2) + eps), n = x r and g the gradient: dw = sum(g n), dx = r (g w - n mean(g n w)).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = torch.linalg.vector_norm(exact, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        normed: Tensor = exact * scale
        return normed.mul_(weight).to(x.dtype)

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, scale = ctx.saved_tensors
        exact = scale.dtype
        grad, weights = grads[0].to(exact), weight.to(exact)
        normed = x.to(exact) * scale
        share = grad * normed
        to_weight = share.flatten(0, -2).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, to_weight, None
        mean = (share @ weights).div_(-x.shape[-1]).unsqueeze_(-1)
        return (grad * weights).addcmul_(normed, mean).mul_(scale).to(x.dtype), to_weight, None


class _Passed(torch.autograd.Function):
    """The same by whoever computes a run's passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, passes: Passes) -> Tensor:
        normed, scale = passes.norm(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        ctx.passes = passes
        return normed

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight, scale = ctx.saved_tensors
        to_x, to_weight = ctx.passes.norm_backward(grads[0].contiguous(), x, weight, scale)
        wanted = ctx.needs_input_grad
        return to_x if wanted[0] else None, to_weight if wanted[1] else None, None, None
