"""Through which library float32 matrices are multiplied on a CPU: large products through oneDNN, where a run says so.

PyTorch takes one setting for all. Attention's own products are so small that oneDNN spends more time on preparing than on
multiplying them: three to four times as long, forwards and backwards, for texts of 130 tokens. They stay with MKL.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_onednn = False  # whether somebody asked for it; reading PyTorch's own setting takes longer than writing it


@contextmanager
def through_onednn() -> Iterator[None]:
    """As long as it lasts, float32 products go to oneDNN, which must have been told to compute them in float32."""
    global _onednn
    before, was = _switch().fp32_precision, _onednn
    _switch().fp32_precision, _onednn = "bf16", True
    try:
        yield
    finally:
        _switch().fp32_precision, _onednn = before, was


@contextmanager
def small_products() -> Iterator[None]:
    """As long as it lasts, products go to MKL whatever was chosen for the large ones."""
    _leave()
    try:
        yield
    finally:
        _return()


def small_backward(out: Tensor) -> Tensor:
    """The same tensor, the products of whose own backward step go to MKL too."""
    if _onednn and out.grad_fn is not None:
        out.grad_fn.register_prehook(_leave)
        out.grad_fn.register_hook(_return)
    return out


def _leave(*gradients: Any) -> None:
    if _onednn:
        _switch().fp32_precision = "none"


def _return(*gradients: Any) -> None:
    if _onednn:
        _switch().fp32_precision = "bf16"


def _switch() -> Any:
    return torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # PyTorch's own stubs lack it
