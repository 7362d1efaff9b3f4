"""config.json and generation_config.json: strict tables to a shape and back. Files are data; nothing in them runs.

Both layouts of transformers are read: version 4's `rope_theta` and `rope_scaling`, version 5's `rope_parameters`. The
older is written, which both versions read. A key that is not known here may change what the model computes, so it is
an error; keys that are known to be harmless are listed in `Config.ignored`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from camelid.checkpoints.layouts import Layout, of_config, to_config
from camelid.checkpoints.table import MAX_SIZE, Table, short
from camelid.durable import read_json
from camelid.errors import Problem, UsageError, did_you_mean
from camelid.models.shape import LlamaShape, RopeScaling
from camelid.nn.scaling import ntk_theta

MAX_CONFIG_BYTES = 1 << 20
MAX_LAYERS = 4096
MAX_HEADS = 65_536
MOST = {"num_hidden_layers": MAX_LAYERS, "num_attention_heads": MAX_HEADS, "num_key_value_heads": MAX_HEADS}

COUNTS = {
    "num_hidden_layers": "layers",
    "hidden_size": "width",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "head_dim": "head_width",
    "intermediate_size": "hidden",
    "vocab_size": "vocab",
    "max_position_embeddings": "context",
}
READ = {
    *COUNTS,
    "architectures",
    "model_type",
    "hidden_act",
    "rms_norm_eps",
    "tie_word_embeddings",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "attention_bias",
    "attention_dropout",
    "mlp_bias",
    "partial_rotary_factor",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "dtype",
    "torch_dtype",
    "quantization_config",
}
# Known to leave a causal language model's arithmetic alone.
HARMLESS = {
    "_name_or_path",
    "_commit_hash",
    "transformers_version",
    "initializer_range",
    "use_cache",
    "pretraining_tp",
    "max_sequence_length",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "torchscript",
    "is_decoder",
    "is_encoder_decoder",
    "keys_to_ignore_at_inference",
    "tokenizer_class",
    "unk_token_id",
    "task_specific_params",
    "problem_type",
    "id2label",
    "label2id",
    "finetuning_task",
    "unsloth_version",
    "unsloth_fixed",
    "max_length",
    "min_length",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "num_beams",
    "repetition_penalty",
    "length_penalty",
    "chunk_size_feed_forward",
    "gradient_checkpointing",
}
# Keys by which a folder asks for code, or for another computation, to be run.
REFUSED = {
    "auto_map": "the folder asks for code of its own to be run, which never happens here; use a plain Llama folder",
    "trust_remote_code": "a file cannot vouch for itself; use a plain Llama folder",
    "custom_pipelines": "the folder asks for code of its own to be run, which never happens here",
    "compression_config": "compressed weights cannot be read; use the folder with the plain weights",
    "_attn_implementation": "a file does not choose the code that runs; remove the key",
    "_attn_implementation_internal": "a file does not choose the code that runs; remove the key",
    "attn_implementation": "a file does not choose the code that runs; remove the key",
}
QUANTISED = "quantization_config"
DTYPES = ("float32", "float16", "bfloat16", "float64")

_ROPE_KEYS = {
    "default": set[str](),
    "linear": {"factor"},
    "dynamic": {"factor", "original_max_position_embeddings"},
    "yarn": {"factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor", "truncate"},
    "llama3": {"factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"},
}


@dataclass(frozen=True)
class Config:
    """What config.json says: the shape, the dtype of the weights, control ids, keys that were passed over, and how the
    linear maps are stored in fewer bits, if they are."""

    shape: LlamaShape
    dtype: str | None = None
    bos: int | None = None
    eos: tuple[int, ...] = ()
    pad: int | None = None
    ignored: tuple[str, ...] = ()
    layout: Layout | None = None


@dataclass(frozen=True)
class Generation:
    """What generation_config.json says: ids that begin, end and pad a text, and the publisher's sampling settings."""

    bos: int | None = None
    eos: tuple[int, ...] = ()
    pad: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    ignored: tuple[str, ...] = ()


def read_config(path: Path) -> Config:
    """What a config.json says of a Llama. Raises BadFile naming everything that is wrong with it or not understood."""
    return config_from(read_json(path, max_bytes=MAX_CONFIG_BYTES, max_depth=12), path)


def config_from(content: object, path: Path) -> Config:
    """The same from the JSON value; `path` is for the messages."""
    table = Table(path, content)
    _check_kind(table)
    ignored = _check_keys(table)
    numbers = {field: table.count(key, most=MOST.get(key, MAX_SIZE)) for key, field in COUNTS.items()}
    eps, theta = table.real("rms_norm_eps"), table.real("rope_theta")
    scaling, theta = _read_rope(table, theta, numbers["context"])
    dtype = table.content.get("dtype") or table.content.get("torch_dtype")
    if dtype is not None and dtype not in DTYPES:
        table.complain("torch_dtype", f"{short(dtype)} is none of {', '.join(DTYPES)}")
    bos, eos, pad = table.id("bos_token_id"), table.ids("eos_token_id"), table.id("pad_token_id")
    tied = bool(table.content.get("tie_word_embeddings", False))
    for key in COUNTS:
        if key not in ("num_key_value_heads", "head_dim") and table.content.get(key) is None:
            table.complain(key, "is missing", "give the number that the weights were trained with")
    if eps is None:
        table.complain("rms_norm_eps", "is missing or no number", "published models have 1e-5 or 1e-6")
    if numbers["head_width"] is None and numbers["width"] and numbers["heads"] and numbers["width"] % numbers["heads"]:
        table.complain("hidden_size", f"{numbers['width']} does not divide over {numbers['heads']} heads")
    table.finish()
    known = {field: number for field, number in numbers.items() if number is not None}
    known.setdefault("kv_heads", known["heads"])
    known.setdefault("head_width", known["width"] // known["heads"])
    try:
        shape = LlamaShape(**known, theta=theta, eps=eps or 0.0, tied=tied, scaling=scaling)
    except UsageError as error:
        table.wrong = [str(problem) for problem in error.problems]
        table.finish()
        raise
    quantised = table.content.get(QUANTISED)
    layout = None if quantised is None else of_config(quantised, path)
    return Config(shape, dtype, bos, eos, pad, ignored, layout)


def _check_kind(table: Table) -> None:
    kind, names = table.content.get("model_type"), table.content.get("architectures")
    if kind != "llama":
        table.complain("model_type", f"{short(kind)} is not 'llama'", "only Llama models can be read")
    if names is not None and names != ["LlamaForCausalLM"]:
        what = names[0] if isinstance(names, list) and names else names
        table.complain(
            "architectures", f"{short(what)} is not LlamaForCausalLM", "only causal Llama models can be read"
        )
    content = table.content
    if content.get("hidden_act", "silu") not in ("silu", "swish"):
        table.complain("hidden_act", f"{short(content['hidden_act'])} is not 'silu'", "SwiGLU needs it")
    for key in ("attention_bias", "mlp_bias"):
        if content.get(key) not in (None, False):
            table.complain(key, f"{short(content[key])}: biases are not part of a Llama", "use a model without them")
    if type(content.get("tie_word_embeddings", False)) is not bool:
        table.complain("tie_word_embeddings", f"{short(content['tie_word_embeddings'])} is neither true nor false")
    for key, plain in (("attention_dropout", 0.0), ("partial_rotary_factor", 1.0)):
        value = content.get(key)
        if value is not None and (type(value) not in (int, float) or value != plain):
            table.complain(key, f"{short(value)} cannot be used", f"only {plain} can")


def _check_keys(table: Table) -> tuple[str, ...]:
    ignored = []
    for key, value in table.content.items():
        if key in REFUSED:
            if value is not None:
                table.complain(key, REFUSED[key])
        elif key in HARMLESS or (key not in READ and value is None):
            ignored.append(key)
        elif key not in READ:
            table.complain(key, "is not a known key and may change what the model computes", did_you_mean(key, READ))
    return tuple(sorted(ignored))


def _read_rope(table: Table, theta: float | None, context: int | None) -> tuple[RopeScaling | None, float]:
    old, new = table.content.get("rope_scaling"), table.content.get("rope_parameters")
    if old and new:
        table.complain("rope_scaling", "stands beside rope_parameters", "keep one of the two")
    where = "rope_parameters" if new else "rope_scaling"
    given = new or old or {}
    default = 1e4 if theta is None else theta  # transformers' default, for files that leave it out
    if not isinstance(given, dict):
        table.complain(where, f"is a {type(given).__name__}", "it must be an object or null")
        return None, default
    inner = Table(table.path, given)
    kind = given.get("rope_type", given.get("type", "default"))
    if not isinstance(kind, str) or kind not in _ROPE_KEYS:
        table.complain(f"{where}.rope_type", f"{short(kind)} is none of {', '.join(_ROPE_KEYS)}")
        return None, default
    if given.get("type", kind) != kind:
        table.complain(f"{where}.type", f"{short(given['type'])} and rope_type {kind!r} disagree")
    inside = inner.real("rope_theta")
    if inside is not None and theta is not None and inside != theta:
        inner.complain("rope_theta", f"{inside} here and {theta} outside", "keep one of the two")
    for key, value in given.items():
        if key in {"rope_type", "type", "rope_theta"} or key in _ROPE_KEYS[kind]:
            continue
        if not (value is None or (key == "partial_rotary_factor" and value == 1)):
            inner.complain(key, f"{short(value)} is not understood for {kind!r}", did_you_mean(key, _ROPE_KEYS[kind]))
    scaling = _read_scaling(inner, kind, context)
    table.wrong += [f"{where}.{text}" for text in inner.wrong]
    return scaling, inside if inside is not None else default


def _read_scaling(inner: Table, kind: str, context: int | None) -> RopeScaling | None:
    if kind == "default":
        return None
    factor = inner.real("factor")
    original = inner.count("original_max_position_embeddings")
    if factor is None:
        inner.complain("factor", "is missing or no number")
        return None
    scaling = RopeScaling(kind="linear", factor=factor)
    if kind == "linear":
        return scaling
    if kind == "dynamic":
        if original not in (None, context):
            inner.complain("original_max_position_embeddings", f"{original} differs from max_position_embeddings")
        return replace(scaling, kind="dynamic")
    if original is None:
        original = context  # transformers' rule for files that leave it out
    if kind == "llama3":
        low, high = inner.real("low_freq_factor"), inner.real("high_freq_factor")
        if low is None or high is None:
            inner.complain("low_freq_factor", "is missing, or high_freq_factor is", "llama3 needs both")
            return None
        return replace(scaling, kind="llama3", original=original, low=low, high=high)
    if inner.content.get("truncate", True) is not True:
        inner.complain("truncate", f"{short(inner.content['truncate'])} cannot be used", "only true can")
    fast, slow, attention = inner.real("beta_fast"), inner.real("beta_slow"), inner.real("attention_factor")
    return replace(
        scaling, kind="yarn", original=original, fast=fast or 32.0, slow=slow or 1.0, attention=attention or None
    )


# --- writing --------------------------------------------------------------------------------------------------------


def config_to(config: Config) -> dict[str, Any]:
    """The config.json of a model, in the layout that transformers 4 and 5 both read.

    Static NTK scaling has no word there: it is written as the larger base that it is. Raises UsageError for dynamic
    scaling of another context than the shape's, which the format cannot say.
    """
    shape = config.shape
    theta, scaling = _write_rope(shape)
    content: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "rms_norm_eps": shape.eps,
        "tie_word_embeddings": shape.tied,
        "rope_theta": theta,
        "rope_scaling": scaling,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": config.bos,
        "eos_token_id": _one_or_list(config.eos),
        "pad_token_id": config.pad,
    }
    content.update({key: getattr(shape, field) for key, field in COUNTS.items()})
    if config.dtype is not None:
        content["torch_dtype"] = config.dtype
    if config.layout is not None:
        content[QUANTISED] = to_config(config.layout, config.dtype)
    return content


def _write_rope(shape: LlamaShape) -> tuple[float, dict[str, Any] | None]:
    scaling = shape.scaling
    if scaling is None:
        return shape.theta, None
    if scaling.kind == "ntk":
        return ntk_theta(shape.theta, shape.head_width, scaling.factor), None
    written: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "dynamic" and scaling.original not in (None, shape.context):
        found = f"{scaling.original} cannot be written beside a context of {shape.context}"
        raise UsageError([Problem("shape.scaling.original", found, "for dynamic, both must be equal")])
    if scaling.kind in ("yarn", "llama3"):
        written["original_max_position_embeddings"] = scaling.original
    if scaling.kind == "llama3":
        written |= {"low_freq_factor": scaling.low, "high_freq_factor": scaling.high}
    if scaling.kind == "yarn":
        written |= {"beta_fast": scaling.fast, "beta_slow": scaling.slow}
        if scaling.attention is not None:
            written["attention_factor"] = scaling.attention
    return shape.theta, written


def _one_or_list(ids: tuple[int, ...]) -> int | list[int] | None:
    return None if not ids else ids[0] if len(ids) == 1 else list(ids)


GENERATION_READ = {"bos_token_id", "eos_token_id", "pad_token_id", "temperature", "top_p", "top_k"}


def read_generation(path: Path) -> Generation:
    """What a generation_config.json says; keys without a meaning here are listed. Raises BadFile."""
    return generation_from(read_json(path, max_bytes=MAX_CONFIG_BYTES, max_depth=12), path)


def generation_from(content: object, path: Path) -> Generation:
    """The same from the JSON value; `path` is for the messages."""
    table = Table(path, content)
    for key in REFUSED:
        if table.content.get(key) is not None:
            table.complain(key, REFUSED[key])
    found = Generation(
        bos=table.id("bos_token_id"),
        eos=table.ids("eos_token_id"),
        pad=table.id("pad_token_id"),
        temperature=table.real("temperature"),
        top_p=table.real("top_p"),
        top_k=table.count("top_k", least=0),
        ignored=tuple(sorted(set(table.content) - GENERATION_READ)),
    )
    if found.top_p is not None and found.top_p > 1:
        table.complain("top_p", f"{found.top_p} is no share")
    table.finish()
    return found


def generation_to(generation: Generation) -> Mapping[str, Any]:
    """The generation_config.json that says so."""
    content = {
        "bos_token_id": generation.bos,
        "eos_token_id": _one_or_list(generation.eos),
        "pad_token_id": generation.pad,
        "temperature": generation.temperature,
        "top_p": generation.top_p,
        "top_k": generation.top_k,
        "do_sample": True if generation.temperature else None,
    }
    return {key: value for key, value in content.items() if value is not None}
