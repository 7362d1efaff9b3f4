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

from camelid.errors import CamelidError, Problem, UsageError
from camelid.nn.frozen import Bits, FrozenLinear
from camelid.nn.lowrank import adapted, low_rank
from camelid.randomness import torch_generator


@dataclass
class Draws:
    """Which numbers dropout draws next; one of these is shared by all adapters of a model."""

    words: tuple[int, ...] | None = None


class LoRALinear(nn.Linear):
    """W x + s B A dropout(x): [..., in] -> [..., out] with frozen W; only A [R, in] and B [out, R] are trained.

    A and B are float32 (float64 beside a float64 W), whatever W is; W may lie in few bits (`frozen`, then there is no
    `weight`). `active` switches the adapter off and on; merged, `weight` holds the sum and the base's own bits are kept
    beside it.

    With a magnitude m [out] this is DoRA (Liu et al. 2024, section 4): m / |W + s B A| * (W x + s B A dropout(x)), the
    norm that of each row, and no gradient through it; m begins as |W|. A row that is zero, as pruning leaves some, has no
    direction to be scaled: it passes as it is until B moves it.
    """

    def __init__(
        self,
        base: nn.Linear | FrozenLinear,
        name: str,
        rank: int,
        factor: float,
        dropout: float,
        draws: Draws,
        *,
        magnitude: bool = False,
    ) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.frozen = base if isinstance(base, FrozenLinear) else None
        self.weight = None if isinstance(base, FrozenLinear) else base.weight  # type: ignore[assignment]
        self.register_parameter("bias", None)
        place = base.stored.codes if isinstance(base, FrozenLinear) else base.weight
        kept = _exact(base)
        self.requires_grad_(False)
        self.name, self.rank, self.factor, self.dropout, self.draws = name, rank, factor, dropout, draws
        self.active, self.merged = True, False
        self.base: Tensor | None = None  # the base's weights while merged
        self.instead: Tensor | None = None  # a weight that stands in for all of it, as long as it is there
        self.origin: tuple[Tensor, Tensor] | None = None  # A and B as they began, where W gave them up for it
        for child, shape in (("lora_A", (rank, self.in_features)), ("lora_B", (self.out_features, rank))):
            holder = nn.Module()
            holder.weight = nn.Parameter(torch.zeros(shape, device=place.device, dtype=kept))
            self.add_module(child, holder)
        self.lora_magnitude_vector: nn.Parameter | None = None
        if magnitude:
            self.lora_magnitude_vector = nn.Parameter(torch.zeros(self.out_features, device=place.device, dtype=kept))
            self.measure()

    def draw(self, *words: int | str) -> None:
        """Draws A from the Kaiming uniform law with a = sqrt(5), that is U(-1/sqrt(in), 1/sqrt(in)); B is zero."""
        bound = 1 / math.sqrt(self.in_features)
        drawn = torch.empty(self.rank, self.in_features, dtype=torch.float32)
        drawn.uniform_(-bound, bound, generator=torch_generator(*words, self.name))
        with torch.no_grad():
            self.a.copy_(drawn)
            self.b.zero_()

    @torch.no_grad()
    def take_principal(self) -> None:
        """Moves the R largest singular directions of W into A and B, and leaves W the rest (PiSSA, Meng et al. 2024).

        A = sqrt(S_R / s) V_R^T, B = U_R sqrt(S_R / s), W <- W - s B A. Raises UsageError for a rank beyond W's.
        """
        whole = self.plain().to(self.a.dtype)
        if self.rank > min(whole.shape):
            found = f"{self.rank} directions of {self.name}, which has {min(whole.shape)}"
            raise UsageError([Problem("adapter.rank", found, "use a smaller rank")])
        left, values, right = torch.linalg.svd(whole, full_matrices=False)
        root = (values[: self.rank] / self.factor).sqrt()
        self.a.copy_(root[:, None] * right[: self.rank])
        self.b.copy_(left[:, : self.rank] * root)
        self.weight.copy_(whole - self.factor * (self.b @ self.a))
        self.origin = (self.a.detach().clone(), self.b.detach().clone())

    def quantise(self, bits: Bits, dtype: torch.dtype | None = None) -> None:
        """Keeps W in so few bits from now on, and computes in `dtype`; what it was is gone."""
        self.frozen = FrozenLinear.of(self.weight.detach(), bits, dtype)
        self.weight = None  # type: ignore[assignment]
        if self.lora_magnitude_vector is not None:
            self.measure()

    @torch.no_grad()
    def measure(self) -> None:
        """DoRA's m as it begins: the length of each row of W, in the arithmetic of `lengths`, so that m / |W| is one."""
        assert self.lora_magnitude_vector is not None
        self.squares = self.plain().to(self.a.dtype).square().sum(1)  # [out]
        self.lora_magnitude_vector.copy_(self.squares.sqrt())

    @torch.no_grad()
    def lengths(self) -> Tensor:
        """|W + s B A| of each row, [out], without making the sum: |w|^2 + 2 s (W A^T) . b + s^2 (A A^T b) . b."""
        across = F.linear(self.plain().to(self.a.dtype), self.a)  # [out, R]
        mixed = 2 * across + self.factor * (self.b @ (self.a @ self.a.T))
        return (self.squares + self.factor * (mixed * self.b).sum(1)).clamp_min(0).sqrt()

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

    def plain(self) -> Tensor:
        """W as it is frozen, [out, in]."""
        if self.frozen is not None:
            return self.frozen.dense()
        return self.weight if self.base is None else self.base

    def forward(self, x: Tensor) -> Tensor:
        if self.instead is not None:
            return F.linear(x, self.instead)
        if self._in_one(x):
            return adapted(x, self.weight, self.a, self.b, self.factor)
        out: Tensor = F.linear(x, self.weight) if self.frozen is None else self.frozen(x)
        if self.merged:
            return out
        if not self.active:
            return out if self.origin is None else out + self._low(x, *self.origin).to(out.dtype)
        low = self._low(self._dropped(x), self.a, self.b)
        if self.lora_magnitude_vector is None:
            return out + low.to(out.dtype)
        scale = _scale(self.lora_magnitude_vector, self.lengths())
        return (scale * (out + low)).to(out.dtype)

    def _low(self, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        if x.ndim == 2:
            return low_rank(x, a, b, self.factor)
        return F.linear(F.linear(x.to(a.dtype), a), b) * self.factor

    def _in_one(self, x: Tensor) -> bool:
        """Whether one operation may stand for all: plain low-rank sums on a CPU, nothing merged, dropped, divided among
        ranks, in few bits, or of another dtype."""
        if self.frozen is not None or self.lora_magnitude_vector is not None or type(self.weight) is not nn.Parameter:
            return False
        drops = self.training and self.dropout > 0
        plain = self.active and not self.merged and x.ndim == 2 and x.is_cpu and not drops
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
        """Puts `sum` where W is used; the base's bits are kept for `unmerge`."""
        if self.merged:
            return
        together = self.sum()
        if self.frozen is None:
            self.base = self.weight.detach().clone()
            self.weight.copy_(together)
        else:
            self.instead = together
        self.merged = True

    @torch.no_grad()
    def unmerge(self) -> None:
        """Puts the base's own bits back."""
        if self.base is not None:
            self.weight.copy_(self.base)
            self.base = None
        elif self.merged:
            self.instead = None
        self.merged = False

    @torch.no_grad()
    def sum(self, other: Tensor | None = None) -> Tensor:
        """W + s B A, for DoRA with its rows made as long as m says; computed in float32 or better, rounded once to W's
        dtype. With `other`, the same over another weight than W: one that gave nothing up for the adapter."""
        base = self.plain() if other is None else other
        together = base.to(self.a.dtype) + self.factor * (self.b @ self.a)
        if other is not None and self.origin is not None:
            a, b = self.origin
            together -= self.factor * (b @ a)
        if self.lora_magnitude_vector is not None:
            lengths = self.lengths() if other is None else together.norm(dim=1)
            together *= _scale(self.lora_magnitude_vector, lengths)[:, None]
        return together.to(base.dtype)

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}, rank={self.rank}, factor={self.factor}"


def _scale(magnitude: Tensor, lengths: Tensor) -> Tensor:
    """What makes rows of these lengths as long as m says; 1 for a row of zeros, and no gradient from it."""
    there = lengths > 0
    return torch.where(there, magnitude / torch.where(there, lengths, 1), 1)


def _exact(base: nn.Linear | FrozenLinear) -> torch.dtype:
    """What adapters are kept in beside this map."""
    dtype = base.dtype if isinstance(base, FrozenLinear) else base.weight.dtype
    return torch.float64 if dtype == torch.float64 else torch.float32


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
