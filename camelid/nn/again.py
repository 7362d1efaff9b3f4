"""Computing again for the backward pass instead of keeping what the forward pass made.

PyTorch's checkpoint does the same, and for a setting of its compiler imports all of that, 75 MiB and a second. Here is what of
it a layer needs: whatever autograd would keep is numbered instead; the first that is asked for has the function computed
again, up to the last that it kept, and each is let go once it was given out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


def again(function: Callable[..., Tensor], *given: Any) -> Tensor:
    """function(*given), of which only `given` is kept, for one backward pass; the same bits as without. What the function
    draws at random must be keyed (camelid/randomness.py)."""
    kept = _Kept(function, given)
    with saved_tensors_hooks(kept.number, kept.take):
        return function(*given)


class _Enough(Exception):
    """All that was kept is there again."""


class _Kept:
    def __init__(self, function: Callable[..., Tensor], given: tuple[Any, ...]) -> None:
        self.function, self.given = function, given
        self.count = 0
        self.made: dict[int, Tensor] | None = None

    def number(self, tensor: Tensor) -> int:
        self.count += 1
        return self.count - 1

    def take(self, number: int) -> Tensor:
        if self.made is None:
            self.made = {}
            self._make(self.made)
        if number not in self.made:
            raise RuntimeError("a layer that is computed again can be differentiated once; keep what it makes instead")
        return self.made.pop(number)

    def _make(self, made: dict[int, Tensor]) -> None:
        def keep(tensor: Tensor) -> None:
            made[len(made)] = tensor.detach()
            if len(made) == self.count:
                raise _Enough

        def refuse(nothing: None) -> Tensor:
            raise RuntimeError("nothing is differentiated while a layer is computed again")

        given = [
            part.detach().requires_grad_(part.requires_grad) if isinstance(part, Tensor) else part
            for part in self.given
        ]
        with torch.enable_grad(), saved_tensors_hooks(keep, refuse):
            try:
                self.function(*given)
            except _Enough:
                return
        raise RuntimeError(
            f"{self.count} tensors were kept of a layer, which had {len(made)} when it was computed again"
        )
