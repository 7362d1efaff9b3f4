"""What one device holds and does while it trains: memory and time from shapes, a layout and a utilisation.

Memory is counted at its worst moment. While the forward pass ends, all activations exist and, unless micro-batches are
summed, no gradient does; while the backward pass ends, it is the other way round:

    forward ends     weights + moments + gradients summed so far + activations + logits + the head's gradient
    backward ends    weights + moments + all gradients

Processes that share a step (train/workers.py) have one set of weights and moments, each the larger of its own two
moments, and in shared memory a gradient for each part of the step and their sum.

Time is work over rate: model FLOPs (models/count.py) over the device's peak times the utilisation, which is given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from camelid.models.count import (
    BYTES,
    Dtype,
    Store,
    activation_bytes,
    cache_bytes,
    logit_bytes,
    trainable,
    training_flops,
    weight_bytes,
)
from camelid.models.shape import LlamaShape, LoRA
from camelid.train.settings import AdamW, AdamW8bit, GaLore

# train/loss.py: rows whose logits exist at once, more where so few logits fit a processor's cache
ROWS, LOGITS = 256, 1 << 19
LANES = 16  # nn/passes.py: heads are so many numbers wide, or a multiple, where our kernels know them
LEAST = 4096  # train/eight_bit.py: smaller weights keep exact moments


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How devices share one training run; their product is the number of devices.

    data      replicas, each of which holds everything below
    shard     devices that divide weights, gradients and moments evenly and gather layers as they are used (ZeRO-3, FSDP)
    tensor    devices that divide every matrix, and with it the activations (sequence parallelism included)
    pipeline  devices that hold consecutive layers; the first keeps as many micro-batches in flight as there are stages
    context   devices that divide the tokens of each row
    """

    data: int = 1
    shard: int = 1
    tensor: int = 1
    pipeline: int = 1
    context: int = 1

    @property
    def devices(self) -> int:
        return self.data * self.shard * self.tensor * self.pipeline * self.context

    def text(self) -> str:
        """ "shard 8, tensor 2"; "one device" where nothing is divided."""
        words = ("data", "shard", "tensor", "pipeline", "context")
        return ", ".join(f"{word} {getattr(self, word)}" for word in words if getattr(self, word) > 1) or "one device"


@dataclass(frozen=True, kw_only=True)
class Training:
    """One way to train a shape; what is not said is AdamW in mixed precision as this package does it.

    tokens      of a micro-batch on one device (before tensor and context parallelism divide them)
    store       how the weights lie that the forward pass uses (default: `dtype`)
    master      bytes per trained weight of an exact copy beside it
    gradient    bytes per trained weight; 0 where each is applied as soon as it is made
    fresh       bytes per trained weight that one backward pass leaves beside the sum, before they are added to it
    moments     bytes per trained weight; 0 where they are paged out
    decoded     bytes of the largest matrix as it is decoded for a product, where the base lies in few bits
    summed      whether gradients of earlier micro-batches are there during the forward pass
    early_head  whether the head's float32 gradient is made in the forward pass, as this package does
    adapter     what adapters lie and compute in; ours in float32
    recompute   share of layers whose activations are computed again
    workers     processes that share a step's micro-batches, each with activations and gradients of its own
    slots       gradients beside these and their sum, in memory that the workers share (train/workers.py)
    whole       layers are one operation each and keep less (nn/block.py)
    rows        rows of logits that exist at once; None: all
    copies      float32 copies of those logits
    """

    shape: LlamaShape
    tokens: int
    lora: LoRA | None = None
    dtype: Dtype = "bfloat16"
    store: Store | None = None
    master: int = 4
    gradient: float = 4.0
    fresh: float = 0.0
    moments: float = 8.0
    decoded: int = 0
    summed: bool = True
    early_head: bool = False
    adapter: Dtype = "float32"
    recompute: float = 0.0
    fused: bool = False
    inputs: bool = False
    workers: int = 1
    slots: int = 0
    whole: bool = False
    rows: int | None = 256
    copies: float = 1.0


@dataclass(frozen=True)
class Memory:
    """Bytes on the fullest device, by what they are for; `peak` is their sum at the worst moment, not of all maxima."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    gathered: int
    peak: int


def memory(training: Training, layout: Layout | None = None) -> Memory:
    """What training holds on one device, the first pipeline stage where there are several."""
    layout = layout or Layout()
    shape, size = training.shape, BYTES[training.dtype]
    divided = layout.shard * layout.tensor * layout.pipeline
    trained = trainable(shape, training.lora)
    own = 0 if training.lora is None else trained * max(BYTES[training.adapter], size)
    base = weight_bytes(shape, training.store or training.dtype, other=training.dtype)
    weights = (base + own) / divided
    gradients = trained * training.gradient / divided
    optimizer = trained * (training.moments + (training.master if training.lora is None else 0)) / divided
    within = layout.tensor * layout.context
    activations = _activations(training) / within
    rows = min(training.rows or training.tokens, training.tokens) / layout.context
    logits = logit_bytes(shape, rows=math.ceil(rows), dtype=training.dtype, copies=training.copies) / layout.tensor
    head = shape.vocab * shape.width
    trains_head = training.lora is None or "lm_head" in training.lora.trained
    early = head * 4 / layout.tensor if training.early_head and trains_head else 0.0
    gathered = _gathered(training, layout) if layout.shard > 1 else 0.0
    held = gradients if training.summed else 0.0
    fresh = trained * training.fresh / divided if training.fresh else (head * 4 / divided if training.summed else 0.0)
    forward = held + activations + max(logits + early, training.decoded / layout.tensor)
    backward = max(held + (fresh if training.lora is None else 0.0), gradients)
    peak = weights + optimizer + gathered + max(forward, backward)
    if training.workers > 1:
        each = max(activations + max(logits + early, training.decoded), gradients)
        peak = weights + optimizer + training.workers * each + (training.slots + 1) * gradients
    parts = (weights, gradients, optimizer, activations, logits + early, gathered, peak)
    return Memory(*(math.ceil(part) for part in parts))


def _activations(training: Training) -> int:
    return activation_bytes(
        training.shape,
        tokens=training.tokens,
        dtype=training.dtype,
        lora=training.lora,
        recompute=training.recompute,
        fused=training.fused,
        inputs=training.inputs,
        adapter=training.adapter,
        apart=training.decoded > 0,
        whole=training.whole,
    )


def _gathered(training: Training, layout: Layout) -> float:
    """A sharded run holds two layers whole (the one at work and the next), and both ends, which stay."""
    shape, size = training.shape, BYTES[training.dtype]
    ends = shape.vocab * shape.width * (1 if shape.tied else 2)
    whole = weight_bytes(shape, training.store or training.dtype, other=training.dtype) if training.store else 0
    layer = (shape.parameters() - ends) / shape.layers * size
    if training.store in ("int8", "nf4", "nf4-double"):
        layer = (whole - ends * size) / shape.layers
    return (2 * layer + ends * size) / layout.tensor


def inference_memory(shape: LlamaShape, *, store: Store, batch: int, length: int, dtype: Dtype = "bfloat16") -> int:
    """Bytes of a model that decodes: its weights, and the keys and values of `batch` texts of `length` tokens."""
    return weight_bytes(shape, store, other=dtype) + cache_bytes(shape, batch=batch, length=length, dtype=dtype)


def ours(
    shape: LlamaShape,
    *,
    tokens: int,
    dtype: Dtype = "float32",
    lora: LoRA | None = None,
    base: Literal["int8", "nf4"] | None = None,
    optim: AdamW | None = None,
    micro_batches: int = 2,
    recompute: float = 0.0,
    workers: int = 1,
    shares: int = 1,
    kernels: bool = False,
) -> Training:
    """Training as camelid/train does it: `tokens` tokens at once, `micro_batches` of them a step.

    `base` is what frozen weights lie in; `optim` says how large moments are (by default those of AdamW); `kernels` says
    that what lies between products goes through our own (train/passes.py), and layers that are as they were made with it.

    In less than float32 the trained weights have an exact copy, in whose precision gradients are summed; the backward
    pass leaves them in the model's own precision first.
    """
    half = BYTES[dtype] < 4
    exact = 4 if half else BYTES[dtype]
    full = lora is None
    passes = kernels and not half
    return Training(
        shape=shape,
        tokens=tokens,
        lora=lora,
        dtype=dtype,
        master=4 if half and full else 0,
        gradient=float(exact),
        fresh=float(BYTES[dtype]) if half and full else 0.0,
        moments=2.0 * exact if optim is None else moment_bytes(shape, lora, optim, exact) / trainable(shape, lora),
        store=None if base is None else ("nf4-double" if base == "nf4" else base),
        decoded=0 if base is None else _largest(shape) * (4 + (BYTES[dtype] if half else 0)),
        summed=micro_batches > 1,
        early_head=True,
        recompute=recompute,
        workers=workers,
        slots=max(workers, shares),
        rows=max(ROWS, LOGITS // shape.vocab),
        whole=passes and full and base is None and shape.head_width % LANES == 0,
        copies=1.5 if half else 0.0 if passes else 1.0,  # logarithms, then slopes; our kernel makes them of the logits
    )


def _largest(shape: LlamaShape) -> int:
    return max(outputs * inputs for outputs, inputs in shape.linears().values())


def moment_bytes(shape: LlamaShape, lora: LoRA | None, optim: AdamW, exact: int = 4) -> float:
    """Bytes of memory that the moments of all trained weights take (train/eight_bit.py, galore.py); paged ones take none,
    but as much of a disk: see `paged_bytes`."""
    return 0.0 if optim.paged else paged_bytes(shape, lora, optim, exact)


def paged_bytes(shape: LlamaShape, lora: LoRA | None, optim: AdamW, exact: int = 4) -> float:
    """The same, wherever they lie."""
    matrices = shape.layers * [size for _, size in sorted(shape.linears().items())]
    whole = 2.0 * exact * trainable(shape, lora)
    if isinstance(optim, AdamW8bit):
        if lora is not None:
            sizes = [shape.linears()[name] for name in lora.targets]
            matrices = shape.layers * [(lora.rank, side) for size in sizes for side in size]
        head = shape.vocab * shape.width
        heads = (lora is None and not shape.tied) or (lora is not None and "lm_head" in lora.trained)
        coded = sum(a * b for a, b in matrices if a * b >= LEAST) + head * heads
        return whole - coded * (2.0 * exact - 2.0 - 8.0 / optim.block)
    if isinstance(optim, GaLore) and lora is None:
        for outputs, inputs in matrices:
            if min(outputs, inputs) > optim.rank:
                few = optim.rank * (min(outputs, inputs) + 2 * max(outputs, inputs))
                whole -= exact * (2.0 * outputs * inputs - few)
    return whole


def flops_per_token(
    shape: LlamaShape,
    *,
    length: int,
    lora: LoRA | None = None,
    recompute: bool = False,
    attention: Literal["causal", "full"] = "causal",
) -> float:
    """Operations of one token's training step; "full" counts what a causal mask hides, as most published figures do."""
    seen = (length + 1) / 2 if attention == "causal" else float(length)
    return training_flops(shape, seen=seen, lora=lora, recompute=recompute)


def tokens_per_second(flops: float, peak: float, utilisation: float) -> float:
    """Tokens a device trains on in a second, at so many operations a token and this share of its peak rate."""
    return peak * utilisation / flops
