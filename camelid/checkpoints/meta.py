"""Meta's model folders: params.json and consolidated.00.pth, .01.pth ... read into Hugging Face's names, and written.

The .pth files are foreign pickles. They are read by `pth`, a program of its own that can name nothing and open nothing,
and that hands back safetensors; only these are read here. What is written is a plain torch archive, its pickle stream
spelled out opcode by opcode.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from camelid.checkpoints import pth
from camelid.checkpoints.huggingface import MAX_HEADS, MAX_LAYERS
from camelid.checkpoints.names import (
    META_EMBEDDING,
    META_FREQUENCIES,
    META_HEAD,
    Cut,
    Pair,
    heads_of,
    pairs,
    to_halves,
    to_neighbours,
)
from camelid.checkpoints.safetensors_io import Deferred, TensorFile, content, open_tensors
from camelid.checkpoints.table import MAX_SIZE
from camelid.durable import read_json
from camelid.errors import BadFile, ProblemList, StoreError, UsageError, did_you_mean
from camelid.models.shape import SIZES, LlamaShape, RopeScaling

SHARDS = (1, 2, 4, 8)
SHARD_NAME = re.compile(r"consolidated\.(\d\d)\.pth")
PARAMETERS = "params.json"
KEYS = (
    "dim",
    "n_layers",
    "n_heads",
    "n_kv_heads",
    "vocab_size",
    "multiple_of",
    "ffn_dim_multiplier",
    "norm_eps",
    "rope_theta",
    "use_scaled_rope",
    "rope_scaling_factor",
)
# llama-models, models/llama3/model.py: apply_scaling
SCALED = RopeScaling(kind="llama3", factor=8.0, original=8192, low=1.0, high=4.0)


@dataclass(frozen=True)
class MetaModel:
    """A Meta folder as read: the whole tensors under Hugging Face's names, made when asked for."""

    shape: LlamaShape
    tensors: Mapping[str, Deferred]
    shards: int
    embedding: Cut
    dropped: tuple[str, ...]  # tensors that follow from the shape and were left out


def is_meta(folder: Path) -> bool:
    """Whether the folder holds a model as Meta publishes it."""
    return (folder / PARAMETERS).is_file() and any(SHARD_NAME.fullmatch(path.name) for path in folder.iterdir())


def stored_bytes(folder: Path) -> int:
    """Bytes of the .pth files, which reading unpacks once more."""
    return sum(path.stat().st_size for path in folder.iterdir() if SHARD_NAME.fullmatch(path.name))


# --- reading --------------------------------------------------------------------------------------------------------


def unpack(path: Path, out: Path) -> None:
    """Write the tensors of one foreign .pth file to `out` as safetensors, by a process that can do nothing else.

    Raises BadFile for a file that is anything but tensors, StoreError if the disk is full.
    """
    if not path.is_file():
        raise BadFile(path, "", "is no regular file", "get it from its publisher")
    try:
        size = path.stat().st_size
        with open(path, "rb") as given, open(out, "xb") as wanted:
            code, told = _run_reader(given.fileno(), wanted.fileno(), size)
    except OSError as error:
        raise BadFile(path, "", f"cannot be read: {error.strerror}") from error
    if code == 0:
        return
    if code == 4 and told.get("errno") in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        free = shutil.disk_usage(out.parent).free
        raise StoreError(f"{out}: {size} bytes are needed to unpack {path.name} and {free} are free; make room")
    found = told.get("found") or f"its reader was stopped (code {code}): it asked for more than such a file needs"
    raise BadFile(
        path, str(told.get("place", "")), str(found), "nothing in it was run; get the file from its publisher"
    )


def _run_reader(given: int, wanted: int, size: int) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-I", "-S", "-B", str(Path(pth.__file__)), str(given), str(wanted)]
    seconds = 60 + size // (10 << 20)
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={}, cwd="/",
        pass_fds=(given, wanted),
    )  # fmt: skip
    try:
        told, _ = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return -9, {}
    except BaseException:
        child.kill()
        child.wait()
        raise
    with contextlib.suppress(ValueError):
        value = json.loads(told[:10_000].decode("utf-8", "replace"))
        return child.returncode, value if isinstance(value, dict) else {}
    return child.returncode, {}


def read_meta(folder: Path, scratch: Path, *, context: int | None = None) -> MetaModel:
    """The model in a folder of Meta's. The .pth files are unpacked into `scratch`, which must outlive the tensors.

    context  tokens the weights were trained with, which the format does not say; by default those of the published
             model with these numbers, or else what theta and scaling suggest (2048 without either)

    Raises BadFile naming everything missing, too much or of the wrong shape.
    """
    names = sorted(path.name for path in folder.iterdir() if SHARD_NAME.fullmatch(path.name))
    if names != [f"consolidated.{i:02d}.pth" for i in range(len(names))] or len(names) not in SHARDS:
        found = f"{len(names)} files consolidated.NN.pth, or a number is missing among them"
        raise BadFile(folder, "", found, f"a model has {', '.join(map(str, SHARDS))} of them, numbered from 00")
    shards = []
    for name in names:
        out = scratch / f"{name}.safetensors"
        unpack(folder / name, out)
        shards.append(open_tensors(out))
    told = _read_parameters(folder / PARAMETERS)
    shape = _shape(folder, told, shards, context)
    embedding = _embedding_cut(shards, told["dim"])
    wanted = [pair for pair in pairs(shape, embedding=embedding) if not (shape.tied and pair.meta == META_HEAD)]
    _check(folder, wanted, shards)
    dropped = tuple(name for name in shards[0] if name == META_FREQUENCIES)
    return MetaModel(
        shape, {pair.ours: _joined(pair, shape, shards) for pair in wanted}, len(shards), embedding, dropped
    )


def _read_parameters(path: Path) -> dict[str, Any]:
    told = read_json(path, max_bytes=1 << 20, max_depth=8)
    if not isinstance(told, dict):
        raise BadFile(path, "", "holds no object", "see the file")
    wrong = [f"{key[:60]}: not a known key; {did_you_mean(key, KEYS)}" for key in told if key not in KEYS]
    for key in ("dim", "n_layers", "n_heads", "n_kv_heads", "multiple_of", "vocab_size"):
        value, needed = told.get(key), key in ("dim", "n_layers", "n_heads")
        least = -1 if key == "vocab_size" else 1
        most = {"n_layers": MAX_LAYERS, "n_heads": MAX_HEADS, "n_kv_heads": MAX_HEADS}.get(key, MAX_SIZE)
        if (value is None and needed) or (value is not None and not (type(value) is int and least <= value <= most)):
            wrong.append(f"{key}: needs a whole number from {least} to {most}")
    for key in ("norm_eps", "rope_theta", "ffn_dim_multiplier", "rope_scaling_factor"):
        value = told.get(key)
        if value is not None and not (type(value) in (int, float) and 0 < value < 1e30):
            wrong.append(f"{key}: needs a positive number")
    if type(told.get("use_scaled_rope", False)) is not bool:
        wrong.append("use_scaled_rope: needs true or false")
    if not wrong and told["dim"] % told["n_heads"]:
        wrong.append(f"dim: {told['dim']} does not divide over {told['n_heads']} heads")
    if wrong:
        raise BadFile(path, "", "; ".join(wrong[:8]), "correct the file, or get it from its publisher")
    return told


def _shape(folder: Path, told: dict[str, Any], shards: list[TensorFile], context: int | None) -> LlamaShape:
    first, heads = shards[0].header.places, told["n_heads"]
    gate = first.get("layers.0.feed_forward.w1.weight")
    rows = first.get(META_EMBEDDING)
    if gate is None or rows is None or len(gate.shape) != 2 or len(rows.shape) != 2:
        raise BadFile(folder, "", "the first layer's feed_forward.w1 or tok_embeddings is missing", "this is no Llama")
    hidden = gate.shape[0] * len(shards)
    vocab = rows.shape[0] * (len(shards) if _embedding_cut(shards, told["dim"]) == "rows" else 1)
    wrong = []
    if (
        "multiple_of" in told
        and feed_forward(told["dim"], told["multiple_of"], told.get("ffn_dim_multiplier")) != hidden
    ):
        wrong.append(f"multiple_of and ffn_dim_multiplier do not give the {hidden} rows of feed_forward.w1")
    if told.get("vocab_size", -1) not in (-1, vocab):
        wrong.append(f"vocab_size: {told['vocab_size']}, where tok_embeddings has {vocab} rows")
    if wrong:
        raise BadFile(folder / PARAMETERS, "", "; ".join(wrong), "the two belong to different models")
    theta = float(told.get("rope_theta", 1e4))
    scaling = _scaling(told) if told.get("use_scaled_rope") else None
    try:
        shape = LlamaShape(
            layers=told["n_layers"],
            width=told["dim"],
            heads=heads,
            kv_heads=told.get("n_kv_heads") or heads,
            head_width=told["dim"] // heads,
            hidden=hidden,
            vocab=vocab,
            context=context or (131_072 if scaling else 8192 if theta == 5e5 else 16_384 if theta == 1e6 else 2048),
            theta=theta,
            eps=float(told.get("norm_eps", 1e-5)),  # the reference code's default
            tied=META_HEAD not in first,
            scaling=scaling,
        )
    except UsageError as error:
        raise BadFile(folder / PARAMETERS, "", str(error).replace("\n", "; "), "correct the file") from error
    return shape if context else replace(shape, context=published_context(shape) or shape.context)


def published_context(shape: LlamaShape) -> int | None:
    """The context of the one published model with these numbers; LLaMA and Llama 2 differ in their norms' eps."""
    found = {
        size.context
        for size in SIZES.values()
        if replace(size, vocab=shape.vocab, context=shape.context, tied=shape.tied) == shape
    }
    return found.pop() if len(found) == 1 else None


def _scaling(told: dict[str, Any]) -> RopeScaling:
    factor = told.get("rope_scaling_factor") or _usual_factor(told["dim"], told["n_layers"])
    return RopeScaling(kind="llama3", factor=float(factor), original=8192, low=1.0, high=4.0)


def _usual_factor(width: int, layers: int) -> float:
    """What `use_scaled_rope` means where no factor is given: 32 for the two sizes of Llama 3.2, else 8."""
    small = [shape for name, shape in SIZES.items() if name.startswith("llama-3.2-")]
    return 32.0 if (width, layers) in [(shape.width, shape.layers) for shape in small] else SCALED.factor


def feed_forward(width: int, multiple: int, factor: float | None) -> int:
    """The feed-forward width that params.json implies (llama, llama/model.py: FeedForward)."""
    hidden = int(2 * 4 * width / 3)
    if factor is not None:
        hidden = int(factor * hidden)
    return multiple * ((hidden + multiple - 1) // multiple)


def _embedding_cut(shards: list[TensorFile], width: int) -> Cut:
    place = shards[0].header.places[META_EMBEDDING]
    return "rows" if place.shape[-1] == width and len(shards) > 1 else "columns"


def piece_shape(pair: Pair, shards: int) -> tuple[int, ...]:
    """The shape of one shard's piece of a tensor."""
    if pair.cut == "repeated":
        return pair.shape
    axis = 0 if pair.cut == "rows" else 1
    return tuple(size // shards if place == axis else size for place, size in enumerate(pair.shape))


def _check(folder: Path, wanted: list[Pair], shards: list[TensorFile]) -> None:
    known = {pair.meta for pair in wanted} | {META_FREQUENCIES}
    dtypes = {place.dtype for shard in shards for name, place in shard.header.places.items() if name in known}
    for number, shard in enumerate(shards):
        path = folder / f"consolidated.{number:02d}.pth"
        wrong = [f"{name[:80]!r} is no tensor of a Llama" for name in shard if name not in known]
        for pair in wanted:
            place = shard.header.places.get(pair.meta)
            if place is None:
                wrong.append(f"{pair.meta} is missing")
            elif place.shape != piece_shape(pair, len(shards)):
                wrong.append(f"{pair.meta} is {list(place.shape)}, not {list(piece_shape(pair, len(shards)))}")
            elif pair.cut == "repeated" and not torch.equal(_bits(shard[pair.meta]), _bits(shards[0][pair.meta])):
                wrong.append(f"{pair.meta} differs from consolidated.00.pth's: the files are of different models")
        if not dtypes <= {"F32", "F16", "BF16", "F64"}:
            wrong.append(f"weights of {', '.join(sorted(dtypes))}, where floating-point ones are needed")
        if wrong:
            more = f"; and {len(wrong) - 8} more" if len(wrong) > 8 else ""
            raise BadFile(path, "", "; ".join(wrong[:8]) + more, "get the files of one model from its publisher")


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _joined(pair: Pair, shape: LlamaShape, shards: list[TensorFile]) -> Deferred:
    heads = heads_of(pair, shape)

    def read() -> torch.Tensor:
        if pair.cut == "repeated":
            return shards[0][pair.meta]
        pieces = [shard[pair.meta] for shard in shards]
        whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=0 if pair.cut == "rows" else 1)
        return to_halves(whole, heads) if heads else whole

    return Deferred(shards[0][pair.meta].dtype, pair.shape, read)


# --- writing --------------------------------------------------------------------------------------------------------


def params_of(shape: LlamaShape) -> dict[str, Any]:
    """The params.json of a shape. Raises UsageError for a shape that Meta's format cannot say."""
    problems = ProblemList()
    if shape.heads * shape.head_width != shape.width:
        found = f"{shape.heads} heads of {shape.head_width} do not make a width of {shape.width}"
        problems.add("shape.head_width", found, "keep this model in Hugging Face's format")
    told: dict[str, Any] = {
        "dim": shape.width,
        "n_layers": shape.layers,
        "n_heads": shape.heads,
        "n_kv_heads": shape.kv_heads,
        "vocab_size": shape.vocab,
        "norm_eps": shape.eps,
        "rope_theta": shape.theta,
        **_feed_forward_words(shape),
    }
    if shape.scaling is not None:
        plain = RopeScaling(kind="llama3", factor=shape.scaling.factor, original=8192, low=1.0, high=4.0)
        if shape.scaling != plain:
            found = f"{shape.scaling.kind} with these settings has no word in params.json"
            problems.add("shape.scaling", found, "keep this model in Hugging Face's format")
        told["use_scaled_rope"] = True
        if shape.scaling.factor != _usual_factor(shape.width, shape.layers):
            told["rope_scaling_factor"] = shape.scaling.factor
    problems.raise_usage()
    return told


def _feed_forward_words(shape: LlamaShape) -> dict[str, Any]:
    """`multiple_of` and `ffn_dim_multiplier` that give this width: the published ones where they do."""
    for multiple, factor in ((256, None), (4096, 1.3), (1024, 1.3), (256, 1.5), (256, 1.0), (4096, 1.2)):
        if feed_forward(shape.width, multiple, factor) == shape.hidden:
            return {"multiple_of": multiple} | ({} if factor is None else {"ffn_dim_multiplier": factor})
    plain = int(2 * 4 * shape.width / 3)
    words: dict[str, Any] = {"multiple_of": shape.hidden}
    if plain > shape.hidden:  # any factor that lands in (0, hidden] rounds up to hidden
        words["ffn_dim_multiplier"] = shape.hidden / plain / 2 if shape.hidden > 1 else 1.5 / plain
    return words


def usual_embedding_cut(shape: LlamaShape) -> Cut:
    """How Meta cut the embedding of such a model: by rows since Llama 3, whose base of rotations gives it away."""
    return "rows" if shape.theta >= 5e5 and shape.vocab >= 128_000 else "columns"


def shards_of(
    shape: LlamaShape, tensors: Mapping[str, Deferred], shards: int, embedding: Cut
) -> list[dict[str, Deferred]]:
    """Meta's pieces of a model under Meta's names, one table for each file. A tied head is written out.

    Raises UsageError if the model cannot be cut into so many.
    """
    problems = ProblemList()
    if shards not in SHARDS:
        problems.add("shards", f"{shards} is none of Meta's", f"choose from {', '.join(map(str, SHARDS))}")
    else:
        for word in ("kv_heads", "heads", "hidden", "vocab", "width"):
            if getattr(shape, word) % shards:
                problems.add("shards", f"{shards} do not divide {word} {getattr(shape, word)}", "use fewer")
    problems.raise_usage()
    wanted = list(pairs(shape, embedding=embedding))
    source = {pair.meta: tensors[pair.ours if pair.ours in tensors else wanted[0].ours] for pair in wanted}
    return [
        {pair.meta: _piece(pair, shape, source[pair.meta], number, shards) for pair in wanted}
        for number in range(shards)
    ]


def _piece(pair: Pair, shape: LlamaShape, tensor: Deferred, number: int, shards: int) -> Deferred:
    heads, size = heads_of(pair, shape), piece_shape(pair, shards)

    def read() -> torch.Tensor:
        whole = tensor.read()
        if heads:
            whole = to_neighbours(whole, heads)
        if pair.cut == "repeated":
            return whole
        axis = 0 if pair.cut == "rows" else 1
        return whole.narrow(axis, number * size[axis], size[axis])

    return Deferred(tensor.dtype, size, read)


# What torch.save writes (protocol 2), spelled out.
_STORAGES = {dtype: kind for kind, (dtype, _) in pth.STORAGES.items()}
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
}


def _text(text: str) -> bytes:
    raw = text.encode("utf-8")
    return b"X" + len(raw).to_bytes(4, "little") + raw


def _number(number: int) -> bytes:
    if number < 2**31:
        return b"J" + number.to_bytes(4, "little")
    raw = number.to_bytes(9, "little")
    return b"\x8a\x09" + raw


def _tuple(items: list[bytes]) -> bytes:
    return b"(" + b"".join(items) + b"t"


def pickle_stream(tensors: Mapping[str, Deferred]) -> bytes:
    """The opcodes that describe a dict of contiguous tensors, the k-th in the storage called k."""
    stream = [b"\x80\x02}("]
    for key, (name, tensor) in enumerate(tensors.items()):
        elements, strides, step = tensor.bytes // tensor.dtype.itemsize, list[bytes](), 1
        for size in reversed(tensor.shape):
            strides.insert(0, _number(step))
            step *= size
        kind = f"ctorch\n{_STORAGES[_DTYPES[tensor.dtype]]}\n".encode()
        storage = _tuple([_text("storage"), kind, _text(str(key)), _text("cpu"), _number(elements)]) + b"Q"
        parts = [storage, _number(0), _tuple([_number(size) for size in tensor.shape]), _tuple(strides)]
        rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n" + _tuple([*parts, b"\x89", b"ccollections\nOrderedDict\n)R"])
        stream.append(_text(name) + rebuilt + b"R")
    return b"".join(stream) + b"u."


def pth_file(tensors: Mapping[str, Deferred], root: str) -> Iterator[bytes | memoryview]:
    """A .pth file that torch.load reads, in pieces, one tensor in memory at a time. ValueError for other dtypes."""
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise ValueError(f"{name}: {tensor.dtype} cannot be written")
    entries: list[tuple[str, Callable[[], bytes | memoryview]]] = [(f"{root}/data.pkl", lambda: pickle_stream(tensors))]
    entries.append((f"{root}/byteorder", lambda: b"little"))
    for key, (name, tensor) in enumerate(tensors.items()):
        entries.append((f"{root}/data/{key}", lambda tensor=tensor, name=name: content(tensor, name)))  # type: ignore[misc]
    entries.append((f"{root}/version", lambda: b"3\n"))
    at, directory = 0, []
    for name, read in entries:
        data = read()
        head, record = _zip_heads(name.encode(), data, at)
        yield head
        yield data
        directory.append(record)
        at += len(head) + len(data)
    yield _zip_end(directory, at)


def _zip_heads(name: bytes, data: bytes | memoryview, at: int) -> tuple[bytes, bytes]:
    """The local header, padded so that the data begins at a multiple of 64 as torch has it; the directory's entry."""
    crc, size = zlib.crc32(data), len(data)
    short = min(size, 0xFFFFFFFF)
    wide = struct.pack("<2H2Q", 1, 16, size, size) if size >= 0xFFFFFFFF else b""
    padding = -(at + 30 + len(name) + len(wide) + 4) % 64
    extra = wide + struct.pack("<2H", 0x4246, padding) + b"Z" * padding
    fixed = struct.pack("<5H3I2H", 45, 0, 0, 0, 0x21, crc, short, short, len(name), len(extra))
    local = b"PK\x03\x04" + fixed + name + extra
    far = struct.pack("<Q", at) if at >= 0xFFFFFFFF else b""
    large = struct.pack("<2Q", size, size) if wide else b""
    extra = struct.pack("<2H", 1, len(large + far)) + large + far if large + far else b""
    fixed = struct.pack("<6H3I3H", 45, 45, 0, 0, 0, 0x21, crc, short, short, len(name), len(extra), 0)
    tail = struct.pack("<2H2I", 0, 0, 0, min(at, 0xFFFFFFFF))
    return local, b"PK\x01\x02" + fixed + tail + name + extra


def _zip_end(directory: list[bytes], at: int) -> bytes:
    records = b"".join(directory)
    count, size = len(directory), len(records)
    end64 = b"PK\x06\x06" + struct.pack("<Q2H2I4Q", 44, 45, 45, 0, 0, count, count, size, at)
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, at + size, 1)
    few, near = min(count, 0xFFFF), min(at, 0xFFFFFFFF)
    return records + end64 + locator + b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, few, few, size, near, 0)
