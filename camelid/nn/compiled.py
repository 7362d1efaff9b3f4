"""The passes between matrix products, made by PyTorch's compiler where a run asks for it (`Machine.compile`).

Norms, rotations, gates and the loss's softmax read and write whole arrays and compute little; eager PyTorch takes several
kernels for each, and a GPU waits for memory in all of them. Here each is its plain definition, which TorchInductor turns
into one kernel forwards and one backwards. Matrix products and attention stay as they are: other libraries' kernels, and
adapters, quantised and divided weights pass through them unchanged.

Results differ from the eager ones by rounding, so a run's identity says that it was compiled. What was compiled is kept on
disk by content (PyTorch's own cache) and shared by runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

BACKEND = "inductor"
VARIANTS = 64  # ours: of one pass, for types, widths and what learns; PyTorch's own 8 are few for a process with several models

_on = False


@contextmanager
def passes() -> Iterator[None]:
    """As long as it lasts, `on()` is true: who works on whole arrays asks, and calls what is below."""
    import torch._dynamo.config  # late: the compiler is a second's worth of modules

    global _on
    was, _on = _on, True
    try:
        with torch._dynamo.config.patch(recompile_limit=VARIANTS):
            yield
    finally:
        _on = was


def on() -> bool:
    """Whether compiled passes are wanted."""
    return _on


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm's definition (nn/norm.py): [..., D] -> [..., D]."""
    normed: Tensor = _made(_norm)(_rows(x), weight, eps)
    return normed


def added_norm(x: Tensor, more: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x + more, and that normalised: two [..., D]."""
    both: tuple[Tensor, Tensor] = _made(_added_norm)(_rows(x), _rows(more), weight, eps)
    return both


def rotate(x: Tensor, rotations: Tensor) -> Tensor:
    """Heads [N, H, E] turned by their tokens' rotations [2, N, 1, E] (nn/rope.py)."""
    turned: Tensor = _made(_rotate)(_rows(x), rotations[0], rotations[1])
    return turned


def gate(gates: Tensor, up: Tensor) -> Tensor:
    """silu(gates) * up: [P, F] -> [P, F]."""
    inner: Tensor = _made(_gate)(_rows(gates), _rows(up))
    return inner


def slopes(logits: Tensor, targets: Tensor, exact: torch.dtype) -> tuple[Tensor, Tensor]:
    """-log softmax(logits)[target] in `exact`, [M], and its gradient at the logits [M, V] in their own type."""
    both: tuple[Tensor, Tensor] = _made(_slopes)(_rows(logits), _rows(targets), exact)
    return both


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    return (exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + eps) * weight).to(x.dtype)


def _added_norm(x: Tensor, more: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    both = x + more
    return both, _norm(both, weight, eps)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=-1)
    return (x * cos + torch.cat([right, left], dim=-1) * sin).to(x.dtype)  # the first half of the sines is negated


def _gate(gates: Tensor, up: Tensor) -> Tensor:
    return F.silu(gates) * up


def _slopes(logits: Tensor, targets: Tensor, exact: torch.dtype) -> tuple[Tensor, Tensor]:
    logs = torch.log_softmax(logits, dim=-1, dtype=exact)
    losses = -logs.gather(1, targets[:, None]).squeeze(1)
    hit = torch.arange(logits.shape[1], device=logits.device) == targets[:, None]
    return losses, (logs.exp() - hit.to(exact)).to(logits.dtype)


def _made(function: Callable[..., Any]) -> Callable[..., Any]:
    return _by(BACKEND, function)


@cache
def _by(backend: str, function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, fullgraph=True, backend=backend)  # whole or an error: never an eager part in silence


def _rows(x: Tensor) -> Tensor:
    """The same tensor; how many rows it has changes from batch to batch, its widths do not."""
    torch._dynamo.maybe_mark_dynamic(x, 0)
    return x
