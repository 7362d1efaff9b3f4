"""The gated feed-forward of LLaMA (SwiGLU, Shazeer 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camelid.nn.linear import together


class FeedForward(nn.Module):
    """down(silu(gate(x)) * up(x)): [N, D] -> [N, D], `hidden` wide inside (F)."""

    def __init__(
        self, width: int, hidden: int, *, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False, dtype=dtype, device=device)
        self.up_proj = nn.Linear(width, hidden, bias=False, dtype=dtype, device=device)
        self.down_proj = nn.Linear(hidden, width, bias=False, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = together(x, self.gate_proj, self.up_proj)
        down: Tensor = self.down_proj(F.silu(gate) * up)
        return down
