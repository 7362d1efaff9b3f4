"""A linear map whose weights stay as they are, and lie in eight or four bits each.

Its definition is F.linear(x, weight), with the weight that the codes stand for: decoded for each product, forwards and
backwards, and let go again. Between products nothing but the codes is held; the weight gets no gradient.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camelid.nn.once import once
from camelid.quantize import int8, nf4

Bits = Literal["int8", "nf4"]


class FrozenLinear(nn.Module):
    """W x: [..., in] -> [..., out] in `dtype`; W is what `stored` stands for, rounded to `dtype`."""

    def __init__(self, stored: int8.Int8 | nf4.NF4, dtype: torch.dtype) -> None:
        super().__init__()
        self._stored, self.dtype = stored, dtype  # no buffer: a model moved to another dtype must not touch the scales
        self._cut: tuple[str, ...] = ()
        self.instead: Tensor | None = None  # a weight that stands in for W, as long as it is there
        self.out_features, self.in_features = stored.codes.shape if isinstance(stored, int8.Int8) else stored.shape

    @staticmethod
    def of(weight: Tensor, bits: Bits, dtype: torch.dtype | None = None) -> FrozenLinear:
        """The map with this weight [out, in] in so few bits. Raises UsageError where NF4's blocks do not fill it."""
        stored: int8.Int8 | nf4.NF4
        stored = replace(int8.encode(weight), largest=None) if bits == "int8" else nf4.encode(weight)
        here: dict[str, Any] = {
            name: part.to(weight.device) for name, part in vars(stored).items() if isinstance(part, Tensor)
        }
        return FrozenLinear(replace(stored, **here), dtype or weight.dtype)

    @property
    def stored(self) -> int8.Int8 | nf4.NF4:
        """Codes and scales; of a map divided among ranks, whole while its layer works."""
        return replace(self._stored, **{name: getattr(self, name) for name in self._cut}) if self._cut else self._stored

    def divide(self) -> None:
        """Makes parameters of codes and scales, which learn nothing, so that they can be cut among ranks (FSDP2)."""
        parts = {name: part for name, part in vars(self._stored).items() if isinstance(part, Tensor) and part.dim()}
        for name, part in parts.items():
            self.register_parameter(name, nn.Parameter(part, requires_grad=False))
        empty: dict[str, Any] = {name: part.new_empty(0) for name, part in parts.items()}
        self._stored, self._cut = replace(self._stored, **empty), tuple(parts)

    @property
    def bytes(self) -> int:
        """What the map holds."""
        return self.stored.bytes

    def dense(self) -> Tensor:
        """The weight [out, in], decoded now."""
        module: Any = int8 if isinstance(self.stored, int8.Int8) else nf4
        weight: Tensor = module.decode(self.stored)
        return weight.to(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        if self.instead is not None:
            return F.linear(x, self.instead)
        product: Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
        return product

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}, {type(self.stored).__name__}"


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, map: FrozenLinear) -> Tensor:
        ctx.map = map
        return F.linear(x, map.dense())

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] @ ctx.map.dense(), None
