"""Rotary position embedding (Su et al. 2021) in Hugging Face's layout: pair i is (x[i], x[i + E/2]).

Angles are computed in float64 from float64 speeds, and only cosine and sine are rounded, so that position 131,072 is as
exact as position 1 (a float32 product would be off by up to 0.008 radians there).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camelid.nn import compiled
from camelid.nn.once import once
from camelid.nn.scaling import RopeScaling, frequencies

TABLE = 1 << 15  # positions kept as a table (ours: 32 MiB at head width 128); farther ones are computed when met


class Rope:
    """Cosines and sines by position for one head width; holds no parameter and no state that matters."""

    def __init__(self, head_width: int, theta: float, scaling: RopeScaling | None, context: int) -> None:
        self.head_width, self.theta, self.scaling, self.context = head_width, theta, scaling, context
        self._tables: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    @property
    def follows_length(self) -> bool:
        """Whether the speeds depend on the length of the text (dynamic NTK)."""
        return self.scaling is not None and self.scaling.kind == "dynamic"

    @property
    def trained(self) -> int:
        """The context of the training, up to whose length no text is stretched."""
        return (self.scaling.original if self.scaling is not None else None) or self.context

    def rotations(
        self,
        positions: NDArray[np.int64],
        *,
        lengths: NDArray[np.int64] | None = None,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Tensor:
        """[2, N, 1, E]: cosines and sines for `positions` [N]; `lengths` [N] of each token's text matter to dynamic.

        The first half of the sines is negated: a rotation is `x * cos + swap(x) * sin`, swap exchanging the halves.
        float64 for a float64 model, otherwise float32.
        """
        kept = torch.float64 if dtype == torch.float64 else torch.float32
        if self.follows_length:
            return self._by_length(positions, lengths).to(device=device, dtype=kept)
        last = int(positions.max(initial=0))
        if last >= TABLE:
            return _rotations(positions, *self._speeds(None)).to(device=device, dtype=kept)
        table = self._table(last, kept, device)
        return table.index_select(1, torch.from_numpy(positions).to(device, non_blocking=True))

    def table(self, last: int) -> Tensor | None:
        """[2, R, 1, E] in float32, row by position, R > `last`; None where a table does not serve: positions beyond
        32,767, and speeds that depend on the length."""
        return None if self.follows_length or last >= TABLE else self._table(last, torch.float32, torch.device("cpu"))

    def _table(self, last: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        table = self._tables.get((dtype, device))
        if table is None or table.shape[1] <= last:
            rows = max(256, 1 << last.bit_length())
            table = _rotations(np.arange(rows), *self._speeds(None)).to(device=device, dtype=dtype)
            self._tables[dtype, device] = table
        return table

    def _by_length(self, positions: NDArray[np.int64], lengths: NDArray[np.int64] | None) -> Tensor:
        if lengths is None:
            raise ValueError("dynamic scaling needs the length of each token's text")
        rotations = torch.empty(2, len(positions), 1, self.head_width, dtype=torch.float64)
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            rotations[:, torch.from_numpy(rows)] = _rotations(positions[rows], *self._speeds(int(length)))
        return rotations

    def _speeds(self, length: int | None) -> tuple[NDArray[np.float64], float]:
        found = frequencies(self.theta, self.head_width, self.scaling, context=self.context, length=length)
        return np.array(found.radians), found.attention


def _rotations(positions: NDArray[np.int64], speeds: NDArray[np.float64], attention: float) -> Tensor:
    angles = positions[:, None].astype(np.float64) * speeds  # [N, E/2]
    cos, sin = np.cos(angles) * attention, np.sin(angles) * attention
    stacked = np.stack([np.concatenate([cos, cos], axis=1), np.concatenate([-sin, sin], axis=1)])
    return torch.from_numpy(stacked[:, :, None, :])  # [2, N, 1, E]


class _Rotate(torch.autograd.Function):
    """Three passes over x instead of five; the backward pass is the rotation the other way and keeps no activation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rotations: Tensor) -> Tensor:
        ctx.save_for_backward(rotations)
        return _turned(x, rotations[0], rotations[1])

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (rotations,) = ctx.saved_tensors
        return _turned(grads[0], rotations[0], rotations[1], value=-1.0), None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, value: float = 1.0) -> Tensor:
    half = x.shape[-1] // 2
    turned = x * cos
    turned[..., :half].addcmul_(x[..., half:], sin[..., :half], value=value)
    turned[..., half:].addcmul_(x[..., :half], sin[..., half:], value=value)
    return turned.to(x.dtype)


def rotate(x: Tensor, rotations: Tensor) -> Tensor:
    """Every head of `x` [N, H, E] turned by its token's rotations [2, N, 1, E] (from `Rope.rotations`)."""
    if compiled.on():
        return compiled.rotate(x, rotations)
    rotated: Tensor = _Rotate.apply(x, rotations)  # type: ignore[no-untyped-call]
    return rotated
