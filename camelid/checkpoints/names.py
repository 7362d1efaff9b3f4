"""Every renaming between Hugging Face's tensors, Meta's and GGUF's, and how Meta cuts them over model-parallel shards.

Two things differ besides the names. The rotary pair i of a head of width E is (x[i], x[i + E/2]) for Hugging Face and
(x[2i], x[2i + 1]) for Meta, so the rows of the query and key weights are reordered within each head: of H heads for
queries, of the K key-value heads for keys. And Meta stores each tensor in 1 to 8 pieces: linears that take the width
are cut by rows, those that give it by columns, norms are repeated in every piece. GGUF has names of its own and Meta's
order of rows (llama.cpp rotates neighbours too).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from camelid.models.shape import LlamaShape

if TYPE_CHECKING:
    from torch import Tensor

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
FINAL_NORM = "model.norm.weight"
META_EMBEDDING = "tok_embeddings.weight"
META_HEAD = "output.weight"
GGUF_EMBEDDING = "token_embd.weight"
GGUF_NORM = "output_norm.weight"
GGUF_HEAD = "output.weight"
GGUF_FREQUENCIES = "rope_freqs.weight"  # what the wavelengths of llama3's scaling are divided by
META_FREQUENCIES = "rope.freqs"  # a table that Meta's early files carry; it follows from the shape

Heads = Literal["none", "queries", "keys"]
Cut = Literal["rows", "columns", "repeated"]


@dataclass(frozen=True)
class Part:
    """One kind of tensor of a layer: its names, how Meta cuts it, and whose rotary pairs its rows are."""

    ours: str
    meta: str
    gguf: str
    cut: Cut
    heads: Heads = "none"


# Meta's names and cuts: llama, llama/model.py (ColumnParallelLinear is cut by rows of the stored weight).
# GGUF's names: llama.cpp, docs and src/llama-arch.cpp (LLM_ARCH_LLAMA); those of a layer stand after "blk.N.".
PARTS = (
    Part("self_attn.q_proj.weight", "attention.wq.weight", "attn_q.weight", "rows", "queries"),
    Part("self_attn.k_proj.weight", "attention.wk.weight", "attn_k.weight", "rows", "keys"),
    Part("self_attn.v_proj.weight", "attention.wv.weight", "attn_v.weight", "rows"),
    Part("self_attn.o_proj.weight", "attention.wo.weight", "attn_output.weight", "columns"),
    Part("mlp.gate_proj.weight", "feed_forward.w1.weight", "ffn_gate.weight", "rows"),
    Part("mlp.down_proj.weight", "feed_forward.w2.weight", "ffn_down.weight", "columns"),
    Part("mlp.up_proj.weight", "feed_forward.w3.weight", "ffn_up.weight", "rows"),
    Part("input_layernorm.weight", "attention_norm.weight", "attn_norm.weight", "repeated"),
    Part("post_attention_layernorm.weight", "ffn_norm.weight", "ffn_norm.weight", "repeated"),
)

# Buffers that old exporters wrote beside the weights; they follow from the shape.
DERIVED = re.compile(r"model\.layers\.\d{1,4}\.self_attn\.rotary_emb\.inv_freq|model\.rotary_emb\.inv_freq")


@dataclass(frozen=True)
class Pair:
    """One tensor of a model under its names. `shape` is that of the whole tensor."""

    ours: str
    meta: str
    gguf: str
    shape: tuple[int, ...]
    cut: Cut
    heads: Heads = "none"


def expected(shape: LlamaShape) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a model of this shape has; a tied head has none of its own."""
    return {pair.ours: pair.shape for pair in pairs(shape) if not (shape.tied and pair.ours == HEAD)}


def pairs(shape: LlamaShape, *, embedding: Cut = "columns") -> Iterator[Pair]:
    """Every tensor of the model under its names. Meta cuts the embedding by columns before Llama 3, by rows since."""
    linears = {str(name): size for name, size in shape.linears().items()}
    yield Pair(EMBEDDING, META_EMBEDDING, GGUF_EMBEDDING, (shape.vocab, shape.width), embedding)
    for layer in range(shape.layers):
        for part in PARTS:
            size = linears[part.ours.split(".")[1]] if part.cut != "repeated" else (shape.width,)
            ours, meta = f"model.layers.{layer}.{part.ours}", f"layers.{layer}.{part.meta}"
            yield Pair(ours, meta, f"blk.{layer}.{part.gguf}", size, part.cut, part.heads)
    yield Pair(FINAL_NORM, "norm.weight", GGUF_NORM, (shape.width,), "repeated")
    yield Pair(HEAD, META_HEAD, GGUF_HEAD, (shape.vocab, shape.width), "rows")


def heads_of(pair: Pair, shape: LlamaShape) -> int:
    """How many heads share the rows of this tensor; 0 if its rows are no rotary pairs."""
    return {"none": 0, "queries": shape.heads, "keys": shape.kv_heads}[pair.heads]


def to_halves(weight: Tensor, heads: int) -> Tensor:
    """Meta's query or key weight [heads E, D] with the rows of each head in Hugging Face's order."""
    rows, width = weight.shape
    return weight.view(heads, rows // heads // 2, 2, width).transpose(1, 2).reshape(rows, width)


def to_neighbours(weight: Tensor, heads: int) -> Tensor:
    """Hugging Face's query or key weight [heads E, D] with the rows of each head in Meta's order."""
    rows, width = weight.shape
    return weight.view(heads, 2, rows // heads // 2, width).transpose(1, 2).reshape(rows, width)
