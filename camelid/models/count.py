"""Parameters, work and memory of a shape, from its numbers alone: no PyTorch, nothing is built.

Work. A matrix of n weights costs 2 n floating-point operations per token forwards (a multiplication and an addition
each). Attention adds, per layer and token that sees c tokens, 2 c H E for the scores and as many for the mixing. The
backward pass costs twice the forward pass: once for the gradient of the input, once for that of the weight. With
everything frozen but an adapter the second half falls away, except for the adapter's own small matrices. Embedding,
norms, rotations and activations are left out, as everyone leaves them out (Kaplan et al. 2020, section 2.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from camelid.models.shape import LlamaShape, LoRA

Dtype = Literal["float64", "float32", "bfloat16", "float16"]
BYTES: dict[Dtype, int] = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


def parameters(shape: LlamaShape, lora: LoRA | None = None) -> int:
    """All parameters, those of the adapter included."""
    return shape.parameters() + (0 if lora is None else trainable(shape, lora))


def trainable(shape: LlamaShape, lora: LoRA | None = None) -> int:
    """The parameters that training changes: all of them, or with `lora` those of the adapter."""
    if lora is None:
        return shape.parameters()
    return shape.layers * _adapter(shape, lora) + len(lora.trained) * shape.vocab * shape.width


def matmul_parameters(shape: LlamaShape) -> int:
    """Weights that every token is multiplied by: linear maps and head (the embedding is looked up)."""
    return shape.layers * _layer(shape) + shape.vocab * shape.width


def forward_flops(shape: LlamaShape, *, seen: float, lora: LoRA | None = None) -> float:
    """Operations of one token's forward pass; `seen` is how many tokens it attends to on average, itself included.

    For documents of T tokens under causality, seen = (T + 1) / 2.
    """
    weights = matmul_parameters(shape) + (0 if lora is None else shape.layers * _adapter(shape, lora))
    return 2.0 * weights + _attention(shape, seen)


def training_flops(shape: LlamaShape, *, seen: float, lora: LoRA | None = None, recompute: bool = False) -> float:
    """Operations of one token's forward and backward pass; `recompute` adds the layers' forward pass."""
    forward = forward_flops(shape, seen=seen, lora=lora)
    head = 2.0 * shape.vocab * shape.width
    again = forward - head if recompute else 0.0
    if lora is None:
        return 3 * forward + again
    adapter = 2.0 * shape.layers * _adapter(shape, lora)
    whole = head if "lm_head" in lora.trained or (shape.tied and "embed_tokens" in lora.trained) else 0.0
    frozen = forward - adapter - _attention(shape, seen)
    return forward + again + frozen + 2 * (adapter + _attention(shape, seen)) + whole


@dataclass(frozen=True)
class Memory:
    """Bytes that training holds at once."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


def training_memory(
    shape: LlamaShape,
    *,
    tokens: int,
    dtype: Dtype = "float32",
    lora: LoRA | None = None,
    recompute: bool = False,
    state: Dtype = "float32",
    master: bool = False,
    chunk: int | None = None,
) -> Memory:
    """Bytes of training on `tokens` tokens at once with AdamW: two moments in `state` per trained parameter.

    `master` adds a float32 copy of weights that are kept in less; `chunk` is how many rows of logits exist at once (all
    when left out). Activations are an estimate from what the layers keep for their backward pass, not a measurement.
    """
    size = BYTES[dtype]
    trained = trainable(shape, lora)
    adapter = 0 if lora is None else trained
    kept = BYTES["float32"] if size < 4 else size  # an adapter is float32 beside anything less
    weights = shape.parameters() * size + adapter * kept
    return Memory(
        weights=weights,
        gradients=trained * (size if lora is None else kept),
        optimizer=2 * trained * BYTES[state] + (trained * 4 if master and size < 4 and lora is None else 0),
        activations=activation_bytes(shape, tokens=tokens, dtype=dtype, lora=lora, recompute=recompute, chunk=chunk),
    )


def activation_bytes(
    shape: LlamaShape,
    *,
    tokens: int,
    dtype: Dtype = "float32",
    lora: LoRA | None = None,
    recompute: bool = False,
    chunk: int | None = None,
) -> int:
    """An estimate of the bytes kept from the forward for the backward pass, logits included."""
    size = BYTES[dtype]
    per_layer = tokens * _kept_per_token(shape, lora) * size
    layers = shape.layers * tokens * shape.width * size + per_layer if recompute else shape.layers * per_layer
    rows = min(chunk or tokens, tokens)
    ends = 3 * tokens * shape.width * size
    return layers + ends + 2 * rows * shape.vocab * BYTES["float32"]  # logits and their gradient


def cache_bytes(shape: LlamaShape, *, batch: int, length: int, dtype: Dtype = "float32") -> int:
    """Bytes of the keys and values of `batch` sequences of `length` tokens."""
    return 2 * shape.layers * batch * shape.kv_heads * length * shape.head_width * BYTES[dtype]


def weight_bytes(shape: LlamaShape, dtype: Dtype = "float32") -> int:
    """Bytes of the weights."""
    return shape.parameters() * BYTES[dtype]


def _layer(shape: LlamaShape) -> int:
    return sum(outputs * inputs for outputs, inputs in shape.linears().values())


def _adapter(shape: LlamaShape, lora: LoRA) -> int:
    """Weights of the adapter in one layer."""
    sizes = shape.linears()
    return sum(lora.rank * sum(sizes[target]) for target in lora.targets)


def _attention(shape: LlamaShape, seen: float) -> float:
    return 4.0 * shape.layers * seen * shape.heads * shape.head_width


def _kept_per_token(shape: LlamaShape, lora: LoRA | None) -> int:
    """Numbers one layer keeps per token: what nn/ saves for the backward pass, counted from the code.

    Two block inputs and two normed ones, turned queries and keys, values, attention's output and its log-sum, gate, up,
    silu(gate) and their product. An adapter keeps its low-rank product, and with dropout a mask and what it left.
    """
    queries, keys = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    kept = 4 * shape.width + queries + 2 * keys + queries + shape.heads + 4 * shape.hidden
    if lora is not None:
        sizes = shape.linears()
        inputs = sum(sizes[target][1] for target in lora.targets)
        kept += len(lora.targets) * lora.rank + (2 * inputs if lora.dropout else 0)
    return kept
