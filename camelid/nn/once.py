"""For gradients written by hand: they can be taken once, and a second derivative is refused instead of left out.

PyTorch's own `once_differentiable` stays silent, and wrong, where only saved tensors would carry the second derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from camelid.errors import CamelidError


def once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """The backward of an autograd.Function, refusing `create_graph=True` with a CamelidError."""

    @wraps(backward)
    def refusing(ctx: Any, *grads: torch.Tensor) -> Any:
        if torch.is_grad_enabled():
            raise CamelidError("second derivatives are not computed here: take gradients without create_graph")
        return backward(ctx, *grads)

    return refusing
