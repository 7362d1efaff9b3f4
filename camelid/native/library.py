"""The kernels as Python calls: structures and signatures of core.c, which see for what each does."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_char_p, c_double, c_int, c_int64, c_size_t, c_void_p
from functools import cache
from pathlib import Path

from camelid.machine import Machine
from camelid.native.build import Absent, Built, built

FLOAT32, BFLOAT16, Q8_0, Q4_0 = range(4)
FLOATS, INTS = range(2)  # kinds of caches
PANEL, GROUP = 16, 32  # rows that lie side by side; weights that share a scale


class MatrixStruct(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("kind", "rows", "cols")),
        *((name, c_void_p) for name in ("data", "scales")),
        ("turned", c_int64),
    )


class LayerStruct(Structure):
    _fields_ = (
        *((name, MatrixStruct) for name in ("query", "key", "value", "out", "gate", "up", "down")),
        ("before", c_void_p),
        ("after", c_void_p),
    )


class ModelStruct(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("layers", "width", "heads", "kv_heads", "head_width", "hidden", "vocab")),
        ("eps", c_double),
        ("embed", MatrixStruct),
        ("head", MatrixStruct),
        ("norm", c_void_p),
        ("layer", POINTER(LayerStruct)),
    )


class BatchStruct(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("tokens", "slots", "room", "wanted", "threads")),
        *((name, c_void_p) for name in ("ids", "slot", "place", "turn", "want", "cosines", "sines")),
        *((name, c_void_p) for name in ("keys", "values", "states", "logits", "table")),
        *((name, c_int64) for name in ("across", "reach", "cached")),
        *((name, c_void_p) for name in ("key_scales", "value_scales")),
    )


class HeldStruct(Structure):
    _fields_ = (
        ("kind", c_int64),
        *((name, c_void_p) for name in ("keys", "values", "key_scales", "value_scales")),
    )


class AskedStruct(Structure):
    _fields_ = tuple((name, c_void_p) for name in ("ints", "scales", "totals"))


def opened(path: Path) -> ctypes.CDLL:
    """The library with its signatures told."""
    library = ctypes.CDLL(str(path))
    pointer, whole = c_void_p, c_int64
    signatures = {
        "camelid_lanes": (c_char_p, ()),
        "camelid_check": (c_int, ()),
        "camelid_linear": (c_int, (POINTER(MatrixStruct), pointer, whole, pointer, whole)),
        "camelid_step": (c_int, (POINTER(ModelStruct), POINTER(BatchStruct))),
        "camelid_pick": (c_int64, (pointer, whole, whole, c_int, pointer, pointer, whole)),
        "camelid_norm": (None, (pointer, pointer, whole, whole, c_double, pointer)),
        "camelid_turn": (None, (pointer, pointer, pointer, whole, whole)),
        "camelid_gate": (None, (pointer, pointer, whole)),
        "camelid_attend": (
            None,
            (
                pointer,
                POINTER(HeldStruct),
                pointer,
                *[whole] * 3,
                pointer,
                whole,
                POINTER(AskedStruct),
                pointer,
                pointer,
            ),
        ),
        "camelid_keep_ints": (None, (POINTER(HeldStruct), whole, pointer, pointer, whole)),
        "camelid_quantise": (None, (pointer, whole, pointer, pointer, pointer)),
        "camelid_embed": (None, (POINTER(MatrixStruct), whole, pointer)),
        "camelid_pack": (c_int64, (POINTER(MatrixStruct), c_int, pointer, pointer, pointer, whole)),
        "camelid_panels": (None, (POINTER(MatrixStruct), pointer, pointer, whole)),
        "camelid_copy": (None, (pointer, pointer, whole, whole)),
        "camelid_moved": (None, (POINTER(MatrixStruct), pointer, pointer)),
        "camelid_norm_forward": (None, (pointer, pointer, whole, whole, c_double, pointer, pointer)),
        "camelid_norm_again": (None, (pointer, pointer, pointer, whole, whole, pointer)),
        "camelid_norm_backward": (None, (*[pointer] * 5, whole, whole, *[pointer] * 3)),
        "camelid_gate_forward": (None, (pointer, whole, whole, pointer)),
        "camelid_gate_backward": (None, (pointer, pointer, whole, whole, pointer, pointer)),
        "camelid_attention_room": (whole, (pointer,)),
        "camelid_attention_forward": (None, (pointer,) * 7),
        "camelid_attention_backward": (None, (pointer,) * 9),
        "camelid_product": (
            None,
            (pointer, whole, whole, pointer, whole, whole, pointer, *[whole] * 5, pointer),
        ),
        "camelid_loss": (whole, (pointer, pointer, whole, whole, pointer)),
        "camelid_room": (c_void_p, (c_size_t,)),
        "camelid_leave": (None, (pointer, c_size_t)),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


@cache
def library() -> ctypes.CDLL | None:
    """The kernels of this machine, or None (see `state`)."""
    found = built()
    return opened(found.path) if isinstance(found, Built) else None


def trains(machine: Machine) -> bool | None:
    """Whether they compute a training step's passes on this machine; None where they never do: by several threads, in
    another dtype, on another device, or where PyTorch compiles."""
    small = machine.device == "cpu" and machine.dtype == "float32" and machine.threads == 1
    return library() is not None if small and not machine.compile else None


def state() -> str:
    """One line for people: what the kernels use, or why there are none and what that costs."""
    found = built()
    if isinstance(found, Absent):
        without = "Decoding and training small models go through PyTorch, slower, and --weights is not to be had"
        return f"none: {found.reason}. {without}"
    lanes = opened(found.path).camelid_lanes().decode()
    return f"{lanes}, built by {found.compiler}" + ("" if found.tuned else ", for any processor of this kind: slower")
