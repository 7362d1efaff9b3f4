"""Parameters, work and memory of a shape, from its numbers alone: no PyTorch, nothing is built.

Work. A matrix of n weights costs 2 n floating-point operations per token forwards (a multiplication and an addition
each). Attention adds, per layer and token that sees c tokens, 2 c H E for the scores and as many for the mixing. The
backward pass costs twice the forward pass: once for the gradient of the input, once for that of the weight. With
everything frozen but an adapter the second half falls away, except for the adapter's own small matrices. Embedding,
norms, rotations and activations are left out, as everyone leaves them out (Kaplan et al. 2020, section 2.1).
"""

from __future__ import annotations

import math
from typing import Literal

from camelid.models.shape import Linear, LlamaShape, LoRA

Dtype = Literal["float64", "float32", "bfloat16", "float16"]
Store = Literal["float64", "float32", "bfloat16", "float16", "int8", "nf4", "nf4-double"]
BYTES: dict[Dtype, int] = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
# Dettmers et al. 2023, section 3: 4 bits and a 32-bit scale for 64 weights; doubled, the scale takes 0.127 bits.
# int8: one 16-bit scale for each row, which is next to nothing (Dettmers et al. 2022).
BITS: dict[Store, float] = {"int8": 8.0, "nf4": 4.5, "nf4-double": 4.127}


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


def activation_bytes(
    shape: LlamaShape,
    *,
    tokens: int,
    dtype: Dtype = "float32",
    lora: LoRA | None = None,
    recompute: float = 0.0,
    fused: bool = False,
    inputs: bool = False,
    adapter: Dtype = "float32",
    apart: bool = False,
    whole: bool = False,
) -> int:
    """Bytes kept from the forward for the backward pass by `tokens` tokens, without logits; found exact for nn/'s layers.

    recompute   the share of layers that keep their input only; one of them is whole again while its backward pass runs
    fused       a compiler makes norms and the gate's product anew in the backward pass instead of keeping them
    inputs      frozen maps keep their input too, as those of bitsandbytes do
    adapter     what adapters compute in, at least; ours in float32
    apart       no maps are multiplied side by side, however small: those in few bits are not
    whole       each layer is one operation (nn/block.py)
    """
    size = BYTES[dtype]
    share = float(recompute)
    layer = _kept_per_token(shape, lora, size, BYTES[adapter], fused, inputs)
    if whole:
        layer = _kept_in_one(shape) * size
    elif apart and not fused:
        layer -= _joined_per_token(shape, lora) * size
    layers = (1 - share) * shape.layers + (1 if share else 0)
    kept = layers * layer + share * shape.layers * shape.width * size
    ends = 4 * shape.width * size + 2 * shape.head_width * BYTES["float32"]  # last norm, loss; rotations
    copied = 0 if apart or whole else _copied_weights(shape, lora)
    return math.ceil(tokens * (kept + ends)) + math.ceil(layers) * copied * size


def logit_bytes(shape: LlamaShape, *, rows: int, dtype: Dtype = "float32", copies: float = 1.0) -> int:
    """Bytes of `rows` rows of logits: as the head gives them, and `copies` times in float32 (softmax and its slope)."""
    return math.ceil(rows * shape.vocab * (BYTES[dtype] + copies * BYTES["float32"]))


def cache_bytes(shape: LlamaShape, *, batch: int, length: int, dtype: Dtype = "float32") -> int:
    """Bytes of the keys and values of `batch` sequences of `length` tokens."""
    return 2 * shape.layers * batch * shape.kv_heads * length * shape.head_width * BYTES[dtype]


def weight_bytes(shape: LlamaShape, store: Store = "float32", *, other: Dtype | None = None) -> int:
    """Bytes of the weights; where `store` has fewer than 16 bits, embedding, head and norms are kept in `other`."""
    if store in BYTES:
        return shape.parameters() * BYTES[store]
    linear = shape.layers * _layer(shape)
    return math.ceil(linear * BITS[store] / 8) + (shape.parameters() - linear) * BYTES[other or "bfloat16"]


def _layer(shape: LlamaShape) -> int:
    return sum(outputs * inputs for outputs, inputs in shape.linears().values())


def _adapter(shape: LlamaShape, lora: LoRA) -> int:
    """Weights of the adapter in one layer."""
    sizes = shape.linears()
    lengths = sum(sizes[target][0] for target in lora.targets) if lora.kind == "dora" else 0
    return lengths + sum(lora.rank * sum(sizes[target]) for target in lora.targets)


def _attention(shape: LlamaShape, seen: float) -> float:
    return 4.0 * shape.layers * seen * shape.heads * shape.head_width


def _kept_per_token(shape: LlamaShape, lora: LoRA | None, size: int, exact: int, fused: bool, inputs: bool) -> float:
    """Bytes one layer keeps per token: what nn/ saves for the backward pass, counted from the code.

    Always the inputs of both norms (D each) with their scales, turned queries and keys, values, attention's output and
    its log-sum, gate, up and silu(gate). A trained map keeps its input: the normed inputs (D, D) and the product (F);
    attention's output is there already. An adapter keeps its low-rank product and its input as it came, and with dropout
    the mask and what it left.
    """
    queries, keys = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    always = 2 * shape.width + 2 * queries + 2 * keys + (2 if fused else 3) * shape.hidden
    held: float = always * size + (shape.heads + 2) * BYTES["float32"]
    held += 0 if fused else _joined_per_token(shape, lora) * size
    if lora is None:
        return held + (0 if fused else (2 * shape.width + shape.hidden) * size)
    held += _adapter_inputs(shape, lora, size, inputs)
    if lora.kind == "dora":  # what its magnitudes multiply
        held += sum(shape.linears()[target][0] for target in lora.targets) * max(size, exact)
    return held + len(lora.targets) * lora.rank * max(size, exact)


def _kept_in_one(shape: LlamaShape) -> int:
    """Numbers that a layer which is one operation keeps per token: the inputs of both norms (D each) with their factors,
    queries, keys and values side by side, attention's output with two numbers a head, gate and up side by side."""
    queries, keys = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    return 2 * shape.width + 2 + 2 * queries + 2 * keys + 2 * shape.heads + 2 * shape.hidden


def _adapter_inputs(shape: LlamaShape, lora: LoRA, size: int, inputs: bool) -> float:
    """Bytes per token of the inputs that adapters keep, shared where nothing is dropped and masked."""
    sizes = shape.linears()
    frozen = (2 * shape.width + shape.hidden) * size if inputs else 0
    if lora.dropout:
        return frozen + sum(sizes[target][1] * 2 * size for target in lora.targets)
    normed = {"q_proj": 0, "k_proj": 0, "v_proj": 0, "gate_proj": 1, "up_proj": 1, "down_proj": 2}
    held = {normed[target] for target in lora.targets if target in normed}
    return max(frozen, sum((shape.width, shape.width, shape.hidden)[kind] * size for kind in held))


JOINED = 1 << 20  # nn/linear.py, SMALL: so many weights or fewer are multiplied side by side, which keeps their copy


def _joined(shape: LlamaShape, lora: LoRA | None, *maps: Linear) -> int:
    """How many weights these maps have if the layers multiply them side by side, else 0; an adapter keeps them apart."""
    sizes = shape.linears()
    weights = sum(sizes[name][0] * sizes[name][1] for name in maps)
    apart = lora is not None and not set(lora.targets).isdisjoint(maps)
    return 0 if apart or weights > JOINED else weights


def _joined_per_token(shape: LlamaShape, lora: LoRA | None) -> int:
    """What joining changes for a token: unturned queries and keys stay beside the values; silu(gate) is not kept."""
    turned = shape.head_width * (shape.heads + shape.kv_heads)
    more = turned if _joined(shape, lora, "q_proj", "k_proj", "v_proj") else 0
    return more - (shape.hidden if _joined(shape, lora, "gate_proj", "up_proj") else 0)


def _copied_weights(shape: LlamaShape, lora: LoRA | None) -> int:
    """Weights that one layer keeps a copy of because it joined them."""
    return _joined(shape, lora, "q_proj", "k_proj", "v_proj") + _joined(shape, lora, "gate_proj", "up_proj")
