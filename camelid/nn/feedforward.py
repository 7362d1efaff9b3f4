"""The gated feed-forward of LLaMA (SwiGLU, Shazeer 2020)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camelid.nn import compiled
from camelid.nn.linear import beside, joined
from camelid.nn.once import once


class FeedForward(nn.Module):
    """down(silu(gate(x)) * up(x)): [P, D] -> [P, D], `hidden` wide inside (F)."""

    def __init__(
        self, width: int, hidden: int, *, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False, dtype=dtype, device=device)
        self.up_proj = nn.Linear(width, hidden, bias=False, dtype=dtype, device=device)
        self.down_proj = nn.Linear(hidden, width, bias=False, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        if compiled.on():
            inner = compiled.gate(self.gate_proj(x), self.up_proj(x))
        elif joined(x, self.gate_proj, self.up_proj):
            inner = gated(beside(x, self.gate_proj, self.up_proj))
        else:
            inner = F.silu(self.gate_proj(x)) * self.up_proj(x)
        down: Tensor = self.down_proj(inner)
        return down


def gated(both: Tensor) -> Tensor:
    """silu(left half) * right half: [P, 2 F] -> [P, F]."""
    product: Tensor = _Gated.apply(both)  # type: ignore[no-untyped-call]
    return product


class _Gated(torch.autograd.Function):
    """Keeps only its input, and writes both halves of the gradient where one multiplication can use them."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        ctx.save_for_backward(both)
        gate, up = both.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (both,) = ctx.saved_tensors
        gate, up = both.chunk(2, dim=-1)
        out = torch.empty_like(both)
        to_gate, to_up = out.chunk(2, dim=-1)
        torch.mul(grads[0], F.silu(gate), out=to_up)
        torch.ops.aten.silu_backward.grad_input(grads[0] * up, gate, grad_input=to_gate)
        return out
