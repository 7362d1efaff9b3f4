"""The forms in which a GGUF file stores weights: how many make a block, and how many bytes the block takes.

Sizes and numbers: llama.cpp, ggml/include/ggml.h (ggml_type) and ggml/src/ggml-common.h (the block structs). A row is
cut into blocks; a block never spans two rows. No PyTorch here: headers are checked without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Floats = Literal["f32", "f16", "bf16"]


@dataclass(frozen=True)
class Form:
    """One way to store weights. `code` is its number in a GGUF file, `weights` and `bytes` are those of one block."""

    name: str
    code: int
    weights: int
    bytes: int
    is_written: bool = False  # encoded here; the others are only read

    @property
    def is_float(self) -> bool:
        return self.weights == 1

    @property
    def bits(self) -> float:
        """Bits per weight, scales included."""
        return 8 * self.bytes / self.weights

    def row_bytes(self, width: int) -> int:
        """Bytes of a row of `width` weights. ValueError where blocks do not fill it."""
        if width % self.weights:
            raise ValueError(f"a row of {width} weights is no whole number of blocks of {self.weights}")
        return width // self.weights * self.bytes


FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        Form("f32", 0, 1, 4, is_written=True),
        Form("f16", 1, 1, 2, is_written=True),
        Form("bf16", 30, 1, 2, is_written=True),
        Form("q8_0", 8, 32, 34, is_written=True),
        Form("q4_0", 2, 32, 18, is_written=True),
        Form("q4_1", 3, 32, 20),
        Form("q5_0", 6, 32, 22),
        Form("q5_1", 7, 32, 24),
        Form("iq4_nl", 20, 32, 18),
        Form("q2_k", 10, 256, 84),
        Form("q3_k", 11, 256, 110),
        Form("q4_k", 12, 256, 144),
        Form("q5_k", 13, 256, 176),
        Form("q6_k", 14, 256, 210),
    )
}
BY_CODE: dict[int, Form] = {form.code: form for form in FORMS.values()}
WRITTEN: tuple[str, ...] = tuple(form.name for form in FORMS.values() if form.is_written)
