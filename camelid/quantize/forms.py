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
        Form("q4_k", 12, 256, 144, is_written=True),
        Form("q5_k", 13, 256, 176),
        Form("q6_k", 14, 256, 210, is_written=True),
    )
}
BY_CODE: dict[int, Form] = {form.code: form for form in FORMS.values()}
FLOATS: tuple[Floats, ...] = ("f32", "f16", "bf16")
MIXES = ("q4_k_m",)  # of several forms, by tensor: see `mixed`
# What a file's matrices can be stored as. Q4_K alone is no choice of llama.cpp's users; its mix is.
WRITTEN: tuple[str, ...] = (*(f.name for f in FORMS.values() if f.is_written and f.name != "q4_k"), *MIXES)
IN_BLOCKS: tuple[str, ...] = tuple(name for name in WRITTEN if name not in FLOATS)  # in few bits, that is


def mixed(mix: str, role: str, layer: int, layers: int) -> Form:
    """The form of a matrix in a mix, by what it is ("v_proj", "down_proj", "head", ...) and its layer.

    Q4_K_M: Q6_K for the head, and for values and the last map of the feed-forward in the first and last eighth of the
    layers and every third between; else Q4_K (llama.cpp, src/llama-quant.cpp: llama_tensor_get_type, use_more_bits).
    There the other values of a model of 80 layers have Q5_K, which is not written here.
    """
    if mix != "q4_k_m":
        raise ValueError(f"{mix!r} is no mix")
    eighth = layers // 8
    careful = layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
    finer = role == "head" or (role in ("v_proj", "down_proj") and careful)
    return FORMS["q6_k" if finer else "q4_k"]
