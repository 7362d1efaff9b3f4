"""Low-rank adaptation of a linear map (Hu et al. 2021), and end matrices trained whole beside it.

Each class stands where a plain module stood and keeps its frozen `weight` under the same name, so a state dict of an
adapted model holds the base's names and the adapter's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camelid.errors import CamelidError
from camelid.nn.lowrank import adapted
from camelid.randomness import torch_generator


@dataclass
class Draws:
    """Which numbers dropout draws next; one of these is shared by all adapters of a model."""

    words: tuple[int, ...] | None = None


class LoRALinear(nn.Linear):
    """W x + s B A dropout(x): [..., in] -> [..., out] with frozen W; only A [R, in] and B [out, R] are trained.

    A and B are float32 (float64 beside a float64 W), whatever W is. `active` switches the adapter off and on; merged,
    W holds the sum and the base's own bits are kept beside it.
    """

    def __init__(self, base: nn.Linear, name: str, rank: int, factor: float, dropout: float, draws: Draws) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight = base.weight
        self.weight.requires_grad_(False)
        self.register_parameter("bias", None)
        self.name, self.rank, self.factor, self.dropout, self.draws = name, rank, factor, dropout, draws
        self.active = True
        self.base: Tensor | None = None  # the base's weights while merged
        kept = torch.float64 if base.weight.dtype == torch.float64 else torch.float32
        for child, shape in (("lora_A", (rank, self.in_features)), ("lora_B", (self.out_features, rank))):
            holder = nn.Module()
            holder.weight = nn.Parameter(torch.zeros(shape, device=base.weight.device, dtype=kept))
            self.add_module(child, holder)

    def draw(self, *words: int | str) -> None:
        """Draws A from the Kaiming uniform law with a = sqrt(5), that is U(-1/sqrt(in), 1/sqrt(in)); B is zero."""
        bound = 1 / math.sqrt(self.in_features)
        drawn = torch.empty(self.rank, self.in_features, dtype=torch.float32)
        drawn.uniform_(-bound, bound, generator=torch_generator(*words, self.name))
        with torch.no_grad():
            self.a.copy_(drawn)
            self.b.zero_()

    @property
    def a(self) -> Tensor:
        weight = self.get_submodule("lora_A").weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def b(self) -> Tensor:
        weight = self.get_submodule("lora_B").weight
        assert isinstance(weight, Tensor)
        return weight

    def forward(self, x: Tensor) -> Tensor:
        if self._in_one(x):
            return adapted(x, self.weight, self.a, self.b, self.factor)
        out = F.linear(x, self.weight)
        if self.base is not None or not self.active:
            return out
        low = F.linear(self._dropped(x).to(self.a.dtype), self.a)
        return out + (F.linear(low, self.b) * self.factor).to(out.dtype)

    def _in_one(self, x: Tensor) -> bool:
        """Whether one operation may stand for all: on a CPU, nothing merged, dropped or of another dtype."""
        drops = self.training and self.dropout > 0
        plain = self.active and self.base is None and x.ndim == 2 and x.is_cpu and not drops
        return plain and x.dtype == self.weight.dtype == self.a.dtype

    def _dropped(self, x: Tensor) -> Tensor:
        if not (self.training and self.dropout):
            return x
        if self.draws.words is None:
            raise CamelidError(
                f"{self.name}: dropout has nothing to draw from; call set_randomness(model, seed, step, micro) first"
            )
        draw = torch_generator("lora dropout", *self.draws.words, self.name, device=str(x.device))
        kept = torch.empty_like(x).bernoulli_(1 - self.dropout, generator=draw)
        return x * kept.div_(1 - self.dropout)

    @torch.no_grad()
    def merge(self) -> None:
        """Adds s B A to W, computed in float32 or better and rounded once; the base's bits are kept for `unmerge`."""
        if self.base is not None:
            return
        self.base = self.weight.detach().clone()
        self.weight.copy_(self.sum())

    @torch.no_grad()
    def unmerge(self) -> None:
        """Puts the base's own bits back."""
        if self.base is not None:
            self.weight.copy_(self.base)
            self.base = None

    @torch.no_grad()
    def sum(self) -> Tensor:
        """W + s B A in W's dtype."""
        base = self.weight if self.base is None else self.base
        return (base.to(self.a.dtype) + self.factor * (self.b @ self.a)).to(base.dtype)

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}, rank={self.rank}, factor={self.factor}"


class TrainedEmbedding(nn.Embedding):
    """An embedding whose trained copy `trained` [V, D] stands in for the frozen `weight` while `active`."""

    def __init__(self, base: nn.Embedding) -> None:
        nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim = base.num_embeddings, base.embedding_dim
        self.weight = base.weight
        self.weight.requires_grad_(False)
        self.trained = nn.Parameter(base.weight.detach().clone())
        self.active = True

    @property
    def used(self) -> Tensor:
        """The matrix that counts now."""
        return self.trained if self.active else self.weight

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.used)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"


class TrainedLinear(nn.Linear):
    """A linear map whose trained copy `trained` [out, in] stands in for the frozen `weight` while `active`."""

    def __init__(self, base: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight = base.weight
        self.weight.requires_grad_(False)
        self.register_parameter("bias", None)
        self.trained = nn.Parameter(base.weight.detach().clone())
        self.active = True

    @property
    def used(self) -> Tensor:
        """The matrix that counts now."""
        return self.trained if self.active else self.weight

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.used)
