"""A Llama's shape as GGUF's keys, both ways; llama3's scaling as the tensor of factors that GGUF has instead of keys."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from camelid.checkpoints.gguf_file import Blocks, Header, Value
from camelid.checkpoints.huggingface import MAX_HEADS, MAX_LAYERS
from camelid.checkpoints.names import GGUF_EMBEDDING, GGUF_FREQUENCIES, GGUF_HEAD
from camelid.checkpoints.table import Table, short
from camelid.errors import BadFile, ProblemList, Problems, UsageError
from camelid.models.shape import LlamaShape, RopeScaling
from camelid.nn.scaling import frequencies, ntk_theta

LLAMA = "llama."
SCALING = "rope.scaling."
YARN_RAMP = (32.0, 1.0)
COUNTS = {
    "block_count": "layers",
    "embedding_length": "width",
    "attention.head_count": "heads",
    "attention.head_count_kv": "kv_heads",
    "attention.key_length": "head_width",
    "feed_forward_length": "hidden",
    "context_length": "context",
}
MOST = {"block_count": MAX_LAYERS, "attention.head_count": MAX_HEADS, "attention.head_count_kv": MAX_HEADS}
# What these keys must be, where a file has them, for the model to be a plain Llama.
PLAIN: dict[str, tuple[object, ...]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "attention.causal": (True,),
    "rope.scaling.alpha": (0.0,),
    "rope.scaling.yarn_log_multiplier": (0.0,),
    "rope.scaling.yarn_ext_factor": (1.0, -1.0),  # what yarn means by itself
    "rope.scaling.yarn_attn_factor": (1.0, -1.0),
    "rope.scaling.yarn_beta_fast": (32.0,),  # llama.cpp reads these for other architectures only
    "rope.scaling.yarn_beta_slow": (1.0,),
    "attention.scale": (0.0,),
    "logit_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "embedding_scale": (0.0, 1.0),
}
READ = {
    *COUNTS,
    *PLAIN,
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.freq_base",
    "rope.dimension_count",
    "rope.scale_linear",
    *(SCALING + name for name in ("type", "factor", "original_context_length", "attn_factor")),
    "vocab_size",
}
HARMLESS = {"rope.scaling.finetuned", "tensor_data_layout", "attention.layer_norm_epsilon"}


# --- writing --------------------------------------------------------------------------------------------------------


def shape_keys(shape: LlamaShape) -> dict[str, Value]:
    """The architecture's keys for a shape. Raises UsageError for one that they cannot say.

    Static NTK scaling has no word there: it is written as the larger base that it is. Llama 3's is a tensor of its own.
    """
    told: dict[str, Value] = {key: getattr(shape, field) for key, field in COUNTS.items()}
    told |= {
        "attention.value_length": shape.head_width,
        "attention.layer_norm_rms_epsilon": float(shape.eps),
        "rope.dimension_count": shape.head_width,
        "rope.freq_base": float(shape.theta),
        "vocab_size": shape.vocab,
    }
    scaling = shape.scaling
    _refuse_unsayable(scaling)
    if scaling is not None and scaling.kind == "ntk":
        told["rope.freq_base"] = float(ntk_theta(shape.theta, shape.head_width, scaling.factor))
    if scaling is not None and scaling.kind in ("linear", "yarn"):
        told |= {SCALING + "type": scaling.kind, SCALING + "factor": float(scaling.factor)}
    if scaling is not None and scaling.kind == "yarn":
        told[SCALING + "original_context_length"] = scaling.original or shape.context
        if scaling.attention is not None:  # llama.cpp multiplies what follows from the factor by this
            told[SCALING + "attn_factor"] = scaling.attention / _yarn_attention(scaling.factor)
    return {LLAMA + key: value for key, value in told.items()}


def _refuse_unsayable(scaling: RopeScaling | None) -> None:
    problems = ProblemList()
    remedy = "keep this model in Hugging Face's format"
    if scaling is not None and scaling.kind == "dynamic":
        found = "dynamic follows the length of each text, for which GGUF has no word"
        problems.add("shape.scaling", found, remedy)
    if scaling is not None and scaling.kind == "yarn" and (scaling.fast, scaling.slow) != YARN_RAMP:
        found = f"a ramp from {scaling.fast:g} to {scaling.slow:g}: llama.cpp reads none for Llamas, and takes 32 to 1"
        problems.add("shape.scaling", found, remedy)
    problems.raise_usage()


def _yarn_attention(factor: float) -> float:
    return 0.1 * math.log(factor) + 1


def wavelength_factors(shape: LlamaShape) -> torch.Tensor | None:
    """What llama3's scaling divides each rotation by, float32 [head width / 2]; None for other shapes."""
    if shape.scaling is None or shape.scaling.kind != "llama3":
        return None
    plain, slowed = (
        np.array(frequencies(shape.theta, shape.head_width, scaling, context=shape.context).radians)
        for scaling in (None, shape.scaling)
    )
    return torch.from_numpy((plain / slowed).astype(np.float32))


# --- reading --------------------------------------------------------------------------------------------------------


def shape_of(header: Header, told: LlamaShape | None, place: str) -> LlamaShape:
    """The shape that a file's keys say; with `told`, the exact one, once the keys and factors say the same.

    Raises BadFile naming every key that is missing, wrong or not understood; `place` is where `told` stands.
    """
    table = Table(header.path, {key: _plain(value) for key, value in header.metadata.items() if key.startswith(LLAMA)})
    if told is None:
        return _foreign_shape(table, header)
    try:
        expected = shape_keys(told)
    except Problems as error:
        raise BadFile(header.path, place, str(error).replace("\n", "; "), "take the original file") from error
    for key in sorted(expected.keys() | table.content.keys()):
        if not _equal(expected.get(key), table.content.get(key)):
            table.complain(key, f"{short(table.content.get(key))} is not what {place} says")
    scaled = told.scaling is not None and told.scaling.kind == "llama3"
    if scaled != (GGUF_FREQUENCIES in header.places) or (scaled and not _are_factors(header, told)):
        table.complain(GGUF_FREQUENCIES, f"is not what {place} says")
    table.finish()
    return told


def _plain(value: Value) -> object:
    return value if isinstance(value, bool | int | float | str) else list[None]([None] * min(len(value), 9999))


def _equal(expected: object, found: object) -> bool:
    if type(expected) is not type(found):
        return False
    if isinstance(expected, float) and isinstance(found, float):
        with np.errstate(over="ignore"):
            return bool(np.float32(expected) == np.float32(found))
    return expected == found


def _foreign_shape(table: Table, header: Header) -> LlamaShape:
    """The shape as GGUF's own keys say it. Raises BadFile naming every key that is missing, wrong or not understood."""
    for key in table.content:
        name = key.removeprefix(LLAMA)
        if name in PLAIN:
            table.must_be(key, PLAIN[name], f"only {PLAIN[name][0]!r} can")
        elif name not in READ and name not in HARMLESS:
            table.complain(key, "is not a known key and may change what the model computes")
    numbers = {field: table.count(LLAMA + key, most=MOST.get(key, 2**31 - 1)) for key, field in COUNTS.items()}
    eps, theta = _real(table, "attention.layer_norm_rms_epsilon"), _real(table, "rope.freq_base")
    for key, field in COUNTS.items():
        if numbers[field] is None and field not in ("kv_heads", "head_width"):
            table.complain(LLAMA + key, "is missing", "convert the model anew")
    if eps is None:
        table.complain(LLAMA + "attention.layer_norm_rms_epsilon", "is missing or no number")
    width, heads = numbers["width"], numbers["heads"]
    if numbers["head_width"] is None and width and heads:
        if width % heads:
            table.complain(LLAMA + "embedding_length", f"{width} does not divide over {heads} heads")
        numbers["head_width"] = width // heads
    for key in ("rope.dimension_count", "attention.value_length"):
        if table.count(LLAMA + key) not in (None, numbers["head_width"]):
            table.complain(LLAMA + key, f"differs from the head width of {numbers['head_width']}")
    embedding = header.places.get(GGUF_EMBEDDING)
    vocab = embedding.shape[0] if embedding is not None and len(embedding.shape) == 2 else None
    if vocab is None:
        table.complain(GGUF_EMBEDDING, "is missing or no matrix")
    elif table.count(LLAMA + "vocab_size") not in (None, vocab):
        table.complain(LLAMA + "vocab_size", f"differs from the {vocab} rows of {GGUF_EMBEDDING}")
    scaling = _scaling(table, numbers["context"])
    table.finish()
    known = {field: number for field, number in numbers.items() if number is not None}
    known.setdefault("kv_heads", known["heads"])
    try:
        shape = LlamaShape(
            **known, vocab=vocab or 0, theta=theta or 1e4, eps=eps or 0.0, tied=GGUF_HEAD not in header.places,
            scaling=scaling,
        )  # fmt: skip
    except UsageError as error:
        raise BadFile(table.path, "", str(error).replace("\n", "; "), "convert the model anew") from error
    return _with_factors(header, shape)


def _real(table: Table, key: str) -> float | None:
    """A number, as the shortest decimal that float32 rounds to it: 1e-05, not 9.999999747e-06."""
    value = table.real(LLAMA + key)
    return None if value is None else float(str(np.float32(value)))


def _scaling(table: Table, context: int | None) -> RopeScaling | None:
    kind = table.content.get(LLAMA + SCALING + "type", "linear")  # llama.cpp's default
    factor = _real(table, SCALING + "factor") or _real(table, "rope.scale_linear") or 1.0
    original = table.count(LLAMA + SCALING + "original_context_length")
    attention = _real(table, SCALING + "attn_factor")
    if kind not in ("none", "linear", "yarn"):
        table.complain(LLAMA + SCALING + "type", f"{short(kind)} is none of none, linear, yarn")
        return None
    if kind != "yarn":
        if attention not in (None, 1.0):
            table.complain(LLAMA + SCALING + "attn_factor", f"{attention} is not understood without yarn")
        return RopeScaling("linear", factor) if kind == "linear" and factor != 1.0 else None
    if factor < 1:
        table.complain(LLAMA + SCALING + "factor", f"{factor} does not stretch")
        return None
    return RopeScaling(
        "yarn",
        factor,
        original=original or context,
        attention=None if attention in (None, 1.0) else float(attention or 1.0) * _yarn_attention(factor),
    )


def _with_factors(header: Header, shape: LlamaShape) -> LlamaShape:
    """The shape with the Llama 3 scaling that a tensor of factors spells, found among the published ones."""
    if GGUF_FREQUENCIES not in header.places:
        return shape
    for factor in (8.0, 32.0):  # 3.1 to 3.3, and 3.2's small sizes (models/shape.py)
        tried = replace(shape, scaling=RopeScaling("llama3", factor, original=8192, low=1.0, high=4.0))
        if shape.scaling is None and _are_factors(header, tried):
            return tried
    found = "its factors are those of no published scaling"
    raise BadFile(header.path, GGUF_FREQUENCIES, found, "convert the model anew from its folder, with camelid")


def _are_factors(header: Header, shape: LlamaShape) -> bool:
    """Whether the file's factors are those of this shape; computed only for as many as the file holds."""
    place = header.places[GGUF_FREQUENCIES]
    if place.form.name != "f32" or place.shape != (shape.head_width // 2,):
        return False
    factors = wavelength_factors(shape)
    assert factors is not None
    return torch.allclose(viewed(Blocks(header)[GGUF_FREQUENCIES], torch.float32), factors, rtol=1e-5, atol=0)


def viewed(data: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Bytes as numbers of a dtype; copied only where they lie off its grid."""
    if data.data_ptr() % dtype.itemsize:
        data = data.clone()
    return data.view(dtype)
