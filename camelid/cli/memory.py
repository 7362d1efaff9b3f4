"""Whether a model fits the memory that is free, told before anything is loaded: what it takes, and what would fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import TYPE_CHECKING

from camelid.errors import Problem, UsageError
from camelid.generate.widening import widened
from camelid.machine import GIB, Machine, available
from camelid.quantize.forms import FORMS

if TYPE_CHECKING:
    from camelid.checkpoints.directory import Checkpoint
    from camelid.models.shape import LlamaShape

BYTES = {"float32": 4.0, "bf16": 2.0, "q8_0": FORMS["q8_0"].bits / 8, "q4_0": FORMS["q4_0"].bits / 8}
OWN = {"float32": "float32", "bfloat16": "bf16"}
# Ours: Python, PyTorch and what one call works with; 0.24 GiB were resident after an answer of a model of 1M weights.
BESIDE = 0.3 * GIB
CACHE = 1.0 * GIB  # generate/engine.py, CACHE_BYTES (which imports PyTorch)


def check_room(
    work: str, needs: Mapping[str, float], machine: Machine, ways: Iterable[str], *, anyway: bool = False
) -> None:
    """Raises UsageError where the sum of `needs` (bytes, by what they are) is more than is free on the machine.

    `ways` are changes that would make it fit, the cheapest first. Where the system does not tell, nothing is checked.
    """
    free = available(machine.device)
    total = sum(needs.values()) + BESIDE
    if anyway or not free or total <= free:
        return
    parts = ", ".join(f"{what} {size / GIB:.1f}" for what, size in needs.items() if size > 0.05 * GIB)
    found = f"{total / GIB:.1f} GiB needed ({parts}), {free / GIB:.1f} GiB free"
    fitting = "; ".join(ways) or "a smaller model, or a machine with more memory"
    raise UsageError([Problem(f"memory for {work}", found, f"any one of: {fitting}; or --anyway")])


def check_loading(
    checkpoint: Checkpoint,
    machine: Machine,
    *,
    dtype: str | None = None,
    weights: str | None = None,
    engine: str | None = None,
    cache: str = "float",
    tokens: int = 0,
    rows: int = 1,
    anyway: bool = False,
) -> None:
    """The same for a model that is to answer, with a cache of so many tokens for each of `rows` texts.

    Texts that do not fit an engine's cache together wait for each other, so it is never larger than one of them needs.
    """
    shape = checkpoint.shape
    most = min(tokens, shape.context)
    one = cache_bytes(shape, most, cache)
    held = max(one, min(rows * one, CACHE))
    kept = held_bytes(checkpoint, dtype=dtype, weights=weights, engine=engine, device=machine.device)
    free = available(machine.device)
    smaller = [
        (kind, matrix_bytes(shape, kind) + held + BESIDE)
        for kind in ("bf16", "q8_0", "q4_0")
        if machine.device == "cpu" and engine not in ("pytorch", "compiled")
    ]
    ways = [f"--weights {kind} ({size / GIB:.1f} GiB)" for kind, size in smaller if size <= free and size < kept + held]
    as_stored = held_bytes(checkpoint, dtype=dtype, weights=None, engine="pytorch", device=machine.device)
    if weights is None and as_stored < kept and checkpoint.dtype == "float16" and as_stored + held + BESIDE <= free:
        ways.append(f"--engine pytorch ({(as_stored + held + BESIDE) / GIB:.1f} GiB, in float16 as stored: slow)")
    least = cache_bytes(shape, most, "int8")
    rounded = max(least, min(rows * least, CACHE))
    if cache == "float" and kept + rounded + BESIDE <= free:
        ways.append(f"--cache int8 ({(kept + rounded + BESIDE) / GIB:.1f} GiB)")
    if held > BESIDE and kept + BESIDE <= free:
        ways.append("fewer --max-tokens")
    check_room(checkpoint.path.name, {"weights": kept, "cache": held}, machine, ways, anyway=anyway)


def held_bytes(
    checkpoint: Checkpoint, *, dtype: str | None, weights: str | None, engine: str | None, device: str = "cpu"
) -> float:
    """Bytes of the weights as they will lie in memory."""
    shape = checkpoint.shape
    if weights is not None:
        return matrix_bytes(shape, weights)
    native = device == "cpu" and engine not in ("pytorch", "compiled") and dtype is None
    if checkpoint.quantised and native and set(checkpoint.forms) & {"q8_0", "q4_0"}:
        return float(checkpoint.path.stat().st_size)
    if checkpoint.quantised and native and "gptq" in checkpoint.forms:
        return matrix_bytes(shape, "q4_0") + 2.0 * shape.vocab * shape.width
    if widened(checkpoint.dtype, device=device, dtype=dtype, engine=engine):
        return matrix_bytes(shape, "float32")
    stored = OWN.get(dtype or checkpoint.dtype)
    return matrix_bytes(shape, stored) if stored else 2.0 * shape.parameters()


def matrix_bytes(shape: LlamaShape, kind: str) -> float:
    """Bytes of all weights in a kind that the kernels know."""
    return shape.parameters() * BYTES[kind]


def cache_bytes(shape: LlamaShape, tokens: int, kind: str = "float") -> float:
    """Bytes of keys and values, in float32 or in int8: groups of 32 with a scale of four bytes."""
    head = 4.0 * shape.head_width if kind == "float" else 36.0 * -(-shape.head_width // 32)
    return 2.0 * shape.layers * shape.kv_heads * head * tokens


def check_quantizing(
    checkpoint: Checkpoint, machine: Machine, *, form: str, measured: bool, saved: bool, seen: int, anyway: bool
) -> None:
    """The same for quantizing: two copies in float32 where perplexity is measured, a calibration text of `seen` ids."""
    shape = checkpoint.shape
    largest = max(prod(size) for size in (*shape.linears().values(), (shape.vocab, shape.width)))
    needs = {
        "original and copy in float32": 8.0 * shape.parameters() if measured else 0.0,
        "coded weights": shape.parameters() * (1.1 if form == "int8" else 0.6) if saved else 0.0,
        "one tensor at work": 40.0 * largest,
    }
    if form in ("gptq", "awq"):
        inputs = max(width for _, width in shape.linears().values())
        needs["states and inner products"] = 4.0 * seen * shape.width + 8.0 * 4 * inputs**2
        needs["one layer"] = 4.0 * sum(prod(size) for size in shape.linears().values())
    ways = ["leave out --text"] if measured and sum(needs.values()) - 8.0 * shape.parameters() < available() else []
    check_room("quantize", needs, machine, ways, anyway=anyway)


def check_converting(checkpoint: Checkpoint, machine: Machine, *, anyway: bool) -> None:
    """The same for rewriting, which holds one tensor at a time: as it is, decoded, and cast."""
    shape = checkpoint.shape
    largest = max(prod(size) for size in (*shape.linears().values(), (shape.vocab, shape.width)))
    check_room("convert", {"one tensor at work": 12.0 * largest}, machine, (), anyway=anyway)


def rechecking_bytes(shape: LlamaShape) -> float:
    """Bytes of the weights in float32, for holding a model against its certificate."""
    return 4.0 * shape.parameters() + BESIDE
