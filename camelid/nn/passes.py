"""Who computes what lies between the matrix products of a training step: norms, gates, attention, the loss's softmax; and
the products of whole layers and of the loss with them, where they are small.

PyTorch does by default, and what it computes is the definition. Where a run says so, and one thread computes in float32
on a CPU, another does (native/passes.py): in fewer passes over memory, equal but for rounding. Whoever is asked
here stands in for all of a process, as long as it lasts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Heads:
    """How queries, keys and values of a place lie side by side, [H + 2 K, E], and which texts [(texts, places of each)]
    lie end to end."""

    queries: int  # H
    keys: int  # K
    width: int  # E
    texts: tuple[tuple[int, int], ...]


class Passes(Protocol):
    """All tensors are float32, on the CPU and, but for a product's, contiguous."""

    name: str

    def product(self, a: Tensor, b: Tensor, out: Tensor | None = None, *, adds: bool = False) -> Tensor:
        """a b, of any strides: [M, K], [K, N] -> [M, N]; written into `out`, or added into it."""
        ...

    def norm(self, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """RMSNorm of the rows of x, and the factor of each row, [rows]."""
        ...

    def norm_again(self, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        """The same from the factors."""
        ...

    def norm_backward(
        self, grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor, plus: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The gradients at x, `plus` added to it, and at the weight."""
        ...

    def gate(self, both: Tensor) -> Tensor:
        """silu(left half) * right half: [P, 2 F] -> [P, F]."""
        ...

    def gate_backward(self, grad: Tensor, both: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient at `both`, and the gate's output again."""
        ...

    def attend(self, joint: Tensor, rotations: Tensor, heads: Heads) -> tuple[Tensor, Tensor]:
        """Causal attention of `joint` [P, (H + 2 K) E], not yet rotated: [P, H E], and what the gradient needs of it."""
        ...

    def attend_backward(
        self, grad: Tensor, joint: Tensor, rotations: Tensor, heads: Heads, out: Tensor, kept: Tensor
    ) -> Tensor:
        """The gradient at `joint`."""
        ...

    def slopes(self, logits: Tensor, targets: Tensor) -> Tensor:
        """-log softmax(logits)[target] of each row; the logits become its gradient, softmax less one at the target."""
        ...


_passes: Passes | None = None


@contextmanager
def passing_through(passes: Passes | None) -> Iterator[None]:
    """As long as it lasts, `passes` compute in this process; None leaves it to PyTorch."""
    global _passes
    before, _passes = _passes, passes
    try:
        yield
    finally:
        _passes = before


def passes_for(x: Tensor, *others: Tensor) -> Passes | None:
    """Who computes on x and the weights beside it, if not PyTorch."""
    if _passes is None or not all(_fit(part) for part in (x, *others)):
        return None
    return _passes


def _fit(x: Tensor) -> bool:
    plain = type(x) is Tensor or type(x) is torch.nn.Parameter
    return plain and x.dtype == torch.float32 and x.is_cpu and x.is_contiguous()


def heads_of(queries: int, keys: int, width: int, texts: Sequence[tuple[int, int]]) -> Heads | None:
    """These heads, where such passes know them: 16 numbers are worked on together."""
    return Heads(queries, keys, width, tuple(texts)) if width % 16 == 0 and queries % keys == 0 else None
