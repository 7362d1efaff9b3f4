"""Weights stored in float16, on a CPU: PyTorch's half-precision products are slow there, and the kernels know none."""

from __future__ import annotations


def widened(stored: str, *, device: str, dtype: object = None, engine: str | None = None) -> bool:
    """Whether a model stored in `stored` is computed with in float32, which holds every float16 exactly.

    Not where somebody asked for a type of their own or for an engine of PyTorch's, which takes weights as they are.
    """
    return stored == "float16" and device.startswith("cpu") and dtype is None and engine in (None, "native")
