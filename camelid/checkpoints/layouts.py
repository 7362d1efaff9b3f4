"""How a linear map's weights lie in a folder in fewer bits: four layouts that the field's tools write and read.

For a map X of N outputs and M inputs, in safetensors:

    nf4     X.weight uint8 [N M / 2, 1], .weight.absmax, .weight.quant_map, .weight.nested_absmax, .weight.nested_quant_map,
            .weight.quant_state.bitsandbytes__nf4 (JSON as bytes)      bitsandbytes, functional.py: QuantState.as_dict
    int8    X.weight int8 [N, M], X.SCB float32 [N] (largest magnitude of each row), X.weight_format uint8 [] 0
                                                                       bitsandbytes, nn/modules.py: Linear8bitLt
    gptq    X.qweight int32 [M / 8, N], X.qzeros int32 [G, N / 8] (less one), X.scales float16 [G, N], X.g_idx int32 [M]
                                                                       AutoGPTQ, nn_modules/qlinear/qlinear_cuda.py
    awq     X.qweight int32 [M, N / 8], X.qzeros int32 [G, N / 8], X.scales float16 [G, N]
                                                                       AutoAWQ, modules/linear/gemm.py

Eight codes stand in an int32, the first in its lowest bits; AWQ takes outputs in the order 0 2 4 6 1 3 5 7. config.json
tells the layout under quantization_config. Read are also: nf4 without double quantization, GPTQ without symmetry and its
second version (zeros as they are). Embedding, head and norms are plain.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from camelid.checkpoints.table import Table, short
from camelid.durable import parse_json
from camelid.errors import BadFile, ProblemList, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from camelid.quantize.int4 import Int4
    from camelid.quantize.int8 import Int8
    from camelid.quantize.nf4 import NF4

Method = Literal["nf4", "int8", "gptq", "awq"]
METHODS: tuple[Method, ...] = ("nf4", "int8", "gptq", "awq")
PACK = 8  # codes of four bits in an int32
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
MAX_STATE_BYTES = 4096
BLOCK, SCALE_BLOCK = 64, 256  # of nf4
HALVES = ("F16",)
FLOATS = ("F32", "BF16", "F16", "F64")
LARGEST_GROUP = 2**20
LINEAR = "_proj.weight"  # how the names of the linear maps of the layers end


@dataclass(frozen=True)
class Layout:
    """A layout and its settings. `group` 0: one group for a whole row (AutoGPTQ's -1)."""

    method: Method
    group: int = 128
    symmetric: bool = False
    act_order: bool = False
    zeros_less_one: bool = True
    double: bool = True

    def words(self) -> str:
        """For people: "gptq, groups of 128"."""
        if self.method in ("nf4", "int8"):
            return self.method
        return f"{self.method}, groups of {self.group or 'a row'}" + (", by activation order" if self.act_order else "")


@dataclass(frozen=True)
class Piece:
    """One stored tensor: dtypes that it may have (the first is written) and its shape, None for one axis of any length."""

    dtypes: tuple[str, ...]
    shape: tuple[int, ...] | None


# --- config.json ----------------------------------------------------------------------------------------------------


def to_config(layout: Layout, dtype: str | None = None) -> dict[str, Any]:
    """quantization_config as transformers and the layout's own tool read it; `dtype` is that of the plain tensors."""
    if layout.method == "nf4":
        return {
            "quant_method": "bitsandbytes",
            "load_in_4bit": True,
            "load_in_8bit": False,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": layout.double,
            "bnb_4bit_compute_dtype": dtype or "float32",
            "bnb_4bit_quant_storage": "uint8",
        }
    if layout.method == "int8":
        return {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}
    if layout.method == "gptq":
        return {
            "quant_method": "gptq",
            "bits": 4,
            "group_size": layout.group or -1,
            "desc_act": layout.act_order,
            "sym": layout.symmetric,
            "checkpoint_format": "gptq" if layout.zeros_less_one else "gptq_v2",
            "true_sequential": True,
        }
    return {
        "quant_method": "awq",
        "bits": 4,
        "group_size": layout.group or -1,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": None,
    }


BITSANDBYTES = {
    "load_in_4bit",
    "load_in_8bit",
    "bnb_4bit_quant_type",
    "bnb_4bit_use_double_quant",
    "bnb_4bit_compute_dtype",
    "bnb_4bit_quant_storage",
    "llm_int8_enable_fp32_cpu_offload",
    "llm_int8_has_fp16_weight",
    "llm_int8_skip_modules",
    "llm_int8_threshold",
}
GPTQ = {
    "bits",
    "group_size",
    "desc_act",
    "sym",
    "checkpoint_format",
    "true_sequential",
    "static_groups",
    "damp_percent",
    "damp_auto_increment",
    "is_marlin_format",
    "lm_head",
    "model_name_or_path",
    "model_file_base_name",
    "dataset",
    "tokenizer",
    "exllama_config",
    "use_exllama",
    "max_input_length",
    "batch_size",
    "block_name_to_quantize",
    "module_name_preceding_first_block",
    "modules_in_block_to_quantize",
    "pad_token_id",
    "model_seqlen",
    "cache_block_outputs",
    "use_cuda_fp16",
    "disable_exllama",
    "act_group_aware",
    "backend",
    "meta",
    "pack_dtype",
    "dynamic",
    "format",
    "hyb_act",
}
AWQ = {
    "bits",
    "group_size",
    "zero_point",
    "version",
    "modules_to_not_convert",
    "do_fuse",
    "fuse_max_seq_len",
    "modules_to_fuse",
    "exllama_config",
    "backend",
}
KNOWN = {"bitsandbytes": BITSANDBYTES, "gptq": GPTQ, "awq": AWQ}
PLAIN = "use a folder with weights as they were trained"


def of_config(content: object, path: Path) -> Layout:
    """The layout that a config.json tells. Raises BadFile naming everything that cannot be read."""
    table = Table(path, content)
    method = table.content.get("quant_method")
    if method is None and (table.content.get("load_in_4bit") or table.content.get("load_in_8bit")):
        method = "bitsandbytes"
    if not isinstance(method, str) or method not in KNOWN:
        hint = did_you_mean(str(method)[:40], tuple(KNOWN))
        table.complain("quantization_config.quant_method", f"{short(method)} cannot be read", hint or PLAIN)
        table.finish()
    for key in table.content.keys() - KNOWN[str(method)] - {"quant_method"}:
        if table.content[key] is not None and not key.startswith("_"):
            table.complain(f"quantization_config.{key}", "is not a known key and may change the weights", PLAIN)
    layout = {"bitsandbytes": _of_bitsandbytes, "gptq": _of_gptq, "awq": _of_awq}[str(method)](table)
    table.finish()
    return layout


def _of_bitsandbytes(table: Table) -> Layout:
    four, eight = (table.content.get(key, False) for key in ("load_in_4bit", "load_in_8bit"))
    if (four, eight) not in ((True, False), (False, True)):
        table.complain("quantization_config.load_in_4bit", "says neither 4 bits nor 8, or both", PLAIN)
    if eight is True:
        return Layout("int8")
    table.must_be("bnb_4bit_quant_type", ("nf4",), "only nf4 is read")
    table.must_be("bnb_4bit_use_double_quant", (True, False, None), "say true or false")
    table.must_be("bnb_4bit_quant_storage", ("uint8", None), "only codes stored as uint8 are read")
    return Layout("nf4", double=table.content.get("bnb_4bit_use_double_quant") is True)


def _of_gptq(table: Table) -> Layout:
    _four_bits(table)
    table.must_be("sym", (True, False, None), "say true or false")
    table.must_be("desc_act", (True, False, None), "say true or false")
    table.must_be("checkpoint_format", ("gptq", "gptq_v2", None), "only the layouts gptq and gptq_v2 are read")
    table.must_be("is_marlin_format", (False, None), "only the layouts gptq and gptq_v2 are read")
    table.must_be("lm_head", (False, None), "a quantised head is not read")
    if table.content.get("dynamic"):
        table.complain("dynamic", "settings of its own for some layers", PLAIN)
    return Layout(
        "gptq",
        group=_group(table),
        symmetric=table.content.get("sym") is not False,
        act_order=table.content.get("desc_act") is True,
        zeros_less_one=table.content.get("checkpoint_format") != "gptq_v2",
    )


def _of_awq(table: Table) -> Layout:
    _four_bits(table)
    table.must_be("zero_point", (True, None), "only AWQ with zero points is read")
    version = table.content.get("version", "gemm")
    if not isinstance(version, str) or version.lower() != "gemm":
        table.complain("version", f"{short(version)} is none that is read", "only gemm is")
    return Layout("awq", group=_group(table))


def _four_bits(table: Table) -> None:
    bits = table.content.get("bits")
    if type(bits) is not int or bits != 4:
        table.complain("quantization_config.bits", f"{short(bits)} cannot be read", "only four bits are")


def _group(table: Table) -> int:
    size = table.content.get("group_size", 128)
    if type(size) is not int or (size != -1 and not 8 <= size <= LARGEST_GROUP):
        table.complain("quantization_config.group_size", f"{short(size)} is no size of a group")
        return 128
    return 0 if size == -1 else size


# --- names and shapes -----------------------------------------------------------------------------------------------


def pieces(layout: Layout, name: str, shape: tuple[int, int]) -> dict[str, Piece]:
    """The tensors that stand for the weight `name` [N, M], in the order in which they are written."""
    rows, width = shape
    base = name.removesuffix("weight")
    groups = -(-width // (layout.group or width))
    if layout.method == "int8":
        return {
            name: Piece(("I8",), (rows, width)),
            f"{base}SCB": Piece(("F32",), (rows,)),
            f"{base}weight_format": Piece(("U8",), ()),
        }
    if layout.method == "gptq":
        return {
            f"{base}qweight": Piece(("I32",), (width // PACK, rows)),
            f"{base}qzeros": Piece(("I32",), (groups, rows // PACK)),
            f"{base}scales": Piece(HALVES, (groups, rows)),
            f"{base}g_idx": Piece(("I32",), (width,)),
        }
    if layout.method == "awq":
        return {
            f"{base}qweight": Piece(("I32",), (width, rows // PACK)),
            f"{base}qzeros": Piece(("I32",), (groups, rows // PACK)),
            f"{base}scales": Piece(HALVES, (groups, rows)),
        }
    blocks = prod(shape) // BLOCK
    found = {
        name: Piece(("U8",), (prod(shape) // 2, 1)),
        f"{name}.absmax": Piece(("U8",) if layout.double else ("F32",), (blocks,)),
        f"{name}.quant_map": Piece(("F32",), (16,)),
    }
    if layout.double:
        found |= {
            f"{name}.nested_absmax": Piece(("F32",), (-(-blocks // SCALE_BLOCK),)),
            f"{name}.nested_quant_map": Piece(("F32",), (256,)),
        }
    return found | {f"{name}.quant_state.bitsandbytes__nf4": Piece(("U8",), None)}


def standing(
    layout: Layout | None, shapes: Mapping[str, tuple[int, ...]], held: Mapping[str, object]
) -> dict[str, dict[str, Piece]]:
    """What stands for each weight of a model whose tensors have these names: its pieces, or itself where it is plain."""
    found = {}
    for name, shape in shapes.items():
        parts = pieces(layout, name, shape) if layout is not None and name.endswith(LINEAR) else {}  # type: ignore[arg-type]
        coded = any(part in held for part in parts if part != name)
        found[name] = parts if coded else {name: Piece(FLOATS, shape)}
    return found


def biases(layout: Layout, name: str, shape: tuple[int, ...]) -> dict[str, Piece]:
    """What AutoGPTQ writes beside a map that has no bias: zeros."""
    return (
        {f"{name.removesuffix('weight')}bias": Piece(("F16", "F32", "BF16"), shape[:1])}
        if layout.method == "gptq"
        else {}
    )


def check_fits(layout: Layout, linears: Mapping[str, tuple[int, int]]) -> None:
    """Raises UsageError naming each kind of linear map (outputs, inputs) whose size the layout cannot hold."""
    problems = ProblemList()
    for name, (rows, width) in linears.items():
        if layout.method == "nf4" and rows * width % BLOCK:
            problems.add(name, f"{rows} x {width} weights are no whole blocks of {BLOCK}", "use int8")
        if layout.method in ("gptq", "awq") and (rows % PACK or width % PACK):
            problems.add(name, f"{rows} x {width} is no multiple of {PACK} both ways", "use nf4 or int8")
    problems.raise_usage()
    uneven = [name for name, (_, width) in linears.items() if layout.group and width % layout.group]
    if layout.method in ("gptq", "awq") and uneven:
        widths = sorted({width for _, width in linears.values()})
        largest = max(size for size in (128, 64, 32, 16, 8) if all(width % size == 0 for width in widths))
        found = f"the inputs of {', '.join(uneven)} are no whole groups of {layout.group}"
        problems.add("--group", found, f"use --group {largest}")
    problems.raise_usage()


def misread(layout: Layout, linears: Mapping[str, tuple[int, int]]) -> tuple[str, ...]:
    """The maps that the layout's own tool would read wrongly: bitsandbytes 0.50 on a CPU takes rows of NF4 for whole
    blocks (on a GPU it does not)."""
    return tuple(name for name, (_, width) in linears.items() if layout.method == "nf4" and width % BLOCK)


# --- tensors --------------------------------------------------------------------------------------------------------


def pack(layout: Layout, name: str, coded: NF4 | Int8 | Int4, dtype: str = "float32") -> dict[str, Tensor]:
    """The tensors that are written for a weight; `dtype` is what other tools decode nf4 to."""
    from camelid.quantize.int4 import Int4
    from camelid.quantize.int8 import Int8

    names = tuple(pieces(layout, name, (1, 1)))
    if isinstance(coded, Int4):
        return dict(zip(names, _pack_int4(layout, coded), strict=True))
    if isinstance(coded, Int8):
        return dict(zip(names, _pack_int8(coded), strict=True))
    return dict(zip(names, _pack_nf4(coded, dtype), strict=True))


def unpack(layout: Layout, parts: Mapping[str, Tensor], shape: tuple[int, ...], where: Path) -> NF4 | Int8 | Int4:
    """The weight from its tensors, by the names that `pieces` gives with everything before ".weight" left out.

    Raises BadFile for tensors that contradict the layout.
    """
    try:
        if layout.method == "nf4":
            return _unpack_nf4(layout, parts, shape, where)
        if layout.method == "int8":
            return _unpack_int8(parts)
        return _unpack_int4(layout, parts)
    except ValueError as error:
        raise BadFile(
            where, next(iter(parts)), str(error), "the folder is damaged, or in a layout of another tool"
        ) from None


def decode(coded: NF4 | Int8 | Int4) -> Tensor:
    """The weight in float32."""
    from camelid.quantize import int4, int8, nf4

    if isinstance(coded, int4.Int4):
        return int4.decode(coded)
    return int8.decode(coded) if isinstance(coded, int8.Int8) else nf4.decode(coded)


def _pack_int8(coded: Int8) -> list[Tensor]:
    import torch

    assert coded.largest is not None
    return [coded.codes, coded.largest.reshape(-1), torch.tensor(0, dtype=torch.uint8)]


def _unpack_int8(parts: Mapping[str, Tensor]) -> Int8:
    from camelid.quantize import int8

    codes, largest, form = parts.values()
    if int(form):
        raise ValueError(f"weight_format is {int(form)}, and only rows (0) are read")
    if not bool(largest.isfinite().all()) or bool((largest < 0).any()):
        raise ValueError("SCB holds what is no magnitude")
    return int8.of_largest(codes, largest[:, None])


def _pack_nf4(coded: NF4, dtype: str) -> list[Tensor]:
    import torch

    from camelid.quantize.nf4 import LEVELS, TREE

    state = {
        "quant_type": "nf4",
        "blocksize": BLOCK,
        "dtype": dtype,
        "shape": list(coded.shape),
        "nested_blocksize": SCALE_BLOCK,
        "nested_dtype": "float32",
        "nested_offset": float(coded.mean),
    }
    told = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    return [coded.codes[:, None], coded.scales, LEVELS, coded.largest, TREE, told]


def _unpack_nf4(layout: Layout, parts: Mapping[str, Tensor], shape: tuple[int, ...], where: Path) -> NF4:
    import torch

    from camelid.quantize import nf4

    codes, scales, levels, *nested, told = parts.values()
    if told.numel() > MAX_STATE_BYTES:
        raise ValueError(f"a quant_state of {told.numel()} bytes")
    state = parse_json(bytes(told.tolist()), where, "quant_state", max_depth=4)
    wanted = {"quant_type": "nf4", "blocksize": BLOCK, "shape": list(shape)}
    if layout.double:
        wanted |= {"nested_blocksize": SCALE_BLOCK, "nested_dtype": "float32"}
    if not isinstance(state, dict) or any(state.get(key) != value for key, value in wanted.items()):
        raise ValueError(f"quant_state is not that of {wanted}")
    if not torch.equal(levels, nf4.LEVELS):
        raise ValueError("quant_map holds other levels than those of NF4")
    flat = codes.reshape(-1)
    if not layout.double:
        return nf4.NF4(shape, flat, scales, torch.empty(0), torch.zeros(()))
    if not torch.equal(nested[1], nf4.TREE):
        raise ValueError("nested_quant_map holds other levels than the dynamic tree")
    mean = state.get("nested_offset")
    if type(mean) not in (int, float):
        raise ValueError("nested_offset is no number")
    return nf4.NF4(shape, flat, scales, nested[0], torch.tensor(mean, dtype=torch.float32))


def _pack_int4(layout: Layout, coded: Int4) -> list[Tensor]:
    import torch

    codes, zeros = coded.codes.t().int(), coded.zeros.t().int()  # [M, N], [G, N]
    scales = coded.scales.t().contiguous()
    if layout.method == "awq":
        order = torch.tensor(AWQ_ORDER)
        return [*(_join(each.reshape(len(each), -1, PACK)[..., order]) for each in (codes, zeros)), scales]
    packed = _join(codes.reshape(-1, PACK, codes.shape[1]).transpose(1, 2))
    less = zeros - (1 if layout.zeros_less_one else 0)
    return [packed, _join(less.reshape(len(less), -1, PACK)), scales, coded.groups.int()]


def _unpack_int4(layout: Layout, parts: Mapping[str, Tensor]) -> Int4:
    import torch

    from camelid.quantize.int4 import Int4, in_order

    packed, less, scales, *groups = parts.values()
    if not bool(scales.isfinite().all()):
        raise ValueError("scales hold infinite values or values that are no numbers")
    zeros = _split(less).flatten(1)
    if layout.method == "awq":
        back = torch.tensor(AWQ_ORDER).argsort()
        codes = _split(packed)[..., back].flatten(1).t()
        zeros = _split(less)[..., back].flatten(1)
        placed = in_order(codes.shape[1], layout.group or codes.shape[1])
    else:
        codes = _split(packed).transpose(1, 2).flatten(0, 1).t()
        zeros = zeros + (1 if layout.zeros_less_one else 0)
        placed = groups[0].long()
        if bool((placed < 0).any()) or int(placed.max()) >= len(scales):
            raise ValueError(f"g_idx names groups beyond the {len(scales)} there are")
    return Int4(codes.contiguous(), zeros.t().contiguous(), scales.t().contiguous(), placed)


def _join(codes: Tensor) -> Tensor:
    """[..., 8] small numbers as one int32 each, the first lowest."""
    import torch

    found = torch.zeros(codes.shape[:-1], dtype=torch.int32)
    for place in range(PACK):
        found |= (codes[..., place] & 15) << 4 * place
    return found.contiguous()


def _split(packed: Tensor) -> Tensor:
    """The eight numbers of each int32, uint8 [..., 8]."""
    import torch

    return torch.stack([(packed >> 4 * place & 15).to(torch.uint8) for place in range(PACK)], dim=-1)


__all__ = [
    "METHODS",
    "Layout",
    "Method",
    "Piece",
    "biases",
    "check_fits",
    "decode",
    "misread",
    "of_config",
    "pack",
    "pieces",
    "to_config",
]
