"""Safetensors, read with every declared size checked against the real one, and written a tensor at a time.

    8 bytes      N, the length of the header, little-endian
    N bytes      strict JSON: {"__metadata__": {str: str}, NAME: {"dtype", "shape", "data_offsets": [begin, end]}, ...}
    the rest     the tensors, end to end: no gap, no overlap, nothing left over

Reading the header needs no PyTorch and allocates nothing that the header merely claims. Tensors are views of the mapped
file, made when asked for.
"""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camelid.durable import outside_strings, parse_json
from camelid.errors import BadFile

if TYPE_CHECKING:
    import torch

MAX_HEADER_BYTES = 8 << 20  # some 60,000 tensors; the library's own limit is 100 MB
MAX_TENSORS = 100_000
MAX_NAME = 512
MAX_AXES = 8
MAX_COUNT = 2**62  # of elements or bytes: keeps every product far inside 64 bits

# Bytes of one element, by the format's names, in the order in which the library writes them.
WIDTHS: dict[str, int] = {
    "U64": 8,
    "I64": 8,
    "F64": 8,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U16": 2,
    "I16": 2,
    "BF16": 2,
    "F16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
TORCH: dict[str, str] = {
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "U16": "uint16",
    "I16": "int16",
    "BF16": "bfloat16",
    "F16": "float16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
METADATA = "__metadata__"
_PLAIN = re.compile(rb"[{}\[\]:,0-9 \t\r\n]*")  # what may stand outside strings: no sign, no fraction, no word


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: `begin` and `end` count bytes from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a file says it holds, checked against its real length."""

    path: Path
    places: Mapping[str, Place]
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """The tensors of a safetensors file by name, without reading them. Raises BadFile for any file that is not one."""
    path = Path(path)
    try:
        with open(path, "rb", opener=_opener) as file:
            return _read_header(path, file)
    except FileNotFoundError:
        raise BadFile(path, "", "is missing", "check the path; if it was copied, copy it again whole") from None
    except OSError as error:
        raise BadFile(path, "", f"cannot be read: {error.strerror}") from error


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)


def _read_header(path: Path, file: Any) -> Header:
    size = os.fstat(file.fileno()).st_size
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8:
        raise BadFile(path, "offset 0", f"{size} bytes, too short for a safetensors file", "copy or download it again")
    if length > MAX_HEADER_BYTES:
        raise BadFile(path, "offset 0", f"a header of {length} bytes, over the limit of {MAX_HEADER_BYTES}", _REMEDY)
    if length > size - 8:
        raise BadFile(path, "offset 0", f"a header of {length} bytes in a file of {size}", "it was cut: copy it again")
    raw = file.read(length)
    if len(raw) != length or not raw.startswith(b"{"):
        raise BadFile(path, "offset 8", "no JSON object where the header should be", _REMEDY)
    if not _PLAIN.fullmatch(outside_strings(raw)):
        raise BadFile(path, "header", "holds something other than text, whole numbers, lists and objects", _REMEDY)
    content = parse_json(raw, path, "header", max_depth=4)
    metadata = content.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BadFile(path, f"header, {METADATA}", "is not a table of texts", _REMEDY)
    if len(content) > MAX_TENSORS:
        raise BadFile(path, "header", f"{len(content)} tensors, over the limit of {MAX_TENSORS}", _REMEDY)
    places = {name: _place(path, name, entry, 8 + length) for name, entry in content.items()}
    _check_cover(path, places, 8 + length, size)
    return Header(path, places, metadata)


_REMEDY = "this is not a sound safetensors file: copy or download it again"


def _place(path: Path, name: str, entry: object, start: int) -> Place:
    where = f"header, tensor {name[:80]!r}"
    if not name or len(name) > MAX_NAME:
        raise BadFile(path, where, f"a name of {len(name)} characters", _REMEDY)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise BadFile(path, where, "does not say dtype, shape and data_offsets, and these alone", _REMEDY)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in WIDTHS:
        raise BadFile(
            path, where, f"dtype {str(dtype)[:20]!r} is none of {', '.join(WIDTHS)}", "convert the file first"
        )
    if not _are_counts(shape) or len(shape) > MAX_AXES:
        raise BadFile(path, where, f"its shape is no list of at most {MAX_AXES} counts", _REMEDY)
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise BadFile(path, where, "its data_offsets are no pair of rising offsets", _REMEDY)
    elements = 1
    for count in shape:
        elements *= count
        if elements > MAX_COUNT:
            raise BadFile(path, where, "its shape multiplies to more than any file can hold", _REMEDY)
    needed, span = elements * WIDTHS[dtype], offsets[1] - offsets[0]
    if needed != span:
        raise BadFile(path, where, f"shape {shape} of {dtype} needs {needed} bytes, its offsets span {span}", _REMEDY)
    return Place(dtype, tuple(shape), start + offsets[0], start + offsets[1])


def _are_counts(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item <= MAX_COUNT for item in value)


def _check_cover(path: Path, places: Mapping[str, Place], start: int, size: int) -> None:
    reached = start
    for name, place in sorted(places.items(), key=lambda item: (item[1].begin, item[1].end)):
        if place.begin != reached:
            kind = "overlaps the one before" if place.begin < reached else "leaves a gap before it"
            raise BadFile(
                path, f"tensor {name[:80]!r}, offset {place.begin}", f"{kind}, which ends at {reached}", _REMEDY
            )
        reached = place.end
    if reached != size:
        what = "bytes are missing" if reached > size else "bytes belong to no tensor"
        raise BadFile(
            path, f"offset {min(reached, size)}", f"{abs(reached - size)} {what}", "copy or download it again"
        )


# --- tensors --------------------------------------------------------------------------------------------------------


class TensorFile(Mapping[str, "torch.Tensor"]):
    """The tensors of one file by name: each a view of the mapped file (writes to it stay in memory)."""

    def __init__(self, header: Header) -> None:
        self.header = header
        with open(header.path, "rb", opener=_opener) as file:
            try:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            except (OSError, ValueError) as error:
                raise BadFile(header.path, "", f"cannot be mapped: {error}") from error
        if any(place.end > len(self._map) for place in header.places.values()):
            raise BadFile(header.path, "", "became shorter while being read")

    def __getitem__(self, name: str) -> torch.Tensor:
        import torch

        place = self.header.places[name]
        dtype = getattr(torch, TORCH[place.dtype])
        if place.begin == place.end:
            return torch.empty(place.shape, dtype=dtype)
        raw = torch.frombuffer(self._map, dtype=torch.uint8, count=place.end - place.begin, offset=place.begin)
        if place.begin % WIDTHS[place.dtype]:
            raw = raw.clone()  # an odd header length leaves the data unaligned
        return raw.view(dtype).reshape(place.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.header.places)

    def __len__(self) -> int:
        return len(self.header.places)


def open_tensors(path: Path) -> TensorFile:
    """The tensors of a safetensors file, lazily. Raises BadFile for any file that is not one."""
    return TensorFile(read_header(Path(path)))


# --- writing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Deferred:
    """A tensor that is known but not yet made: `read` makes it, once, when its turn to be written has come."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]

    @property
    def bytes(self) -> int:
        count = self.dtype.itemsize
        for size in self.shape:
            count *= size
        return count


def deferred(tensor: torch.Tensor | Deferred) -> Deferred:
    """The same tensor as something to be read later."""
    if isinstance(tensor, Deferred):
        return tensor
    return Deferred(tensor.dtype, tuple(tensor.shape), lambda: tensor)


def serialise(
    tensors: Mapping[str, torch.Tensor | Deferred], metadata: Mapping[str, str] | None = None
) -> Iterator[bytes | memoryview]:
    """A safetensors file in pieces, one tensor in memory at a time; equal tensors give equal bytes.

    Raises ValueError for a tensor whose dtype the format has no name for here.
    """
    names = {getattr(_torch(), word): code for code, word in TORCH.items()}
    waiting = {name: deferred(tensor) for name, tensor in tensors.items()}
    for name, tensor in waiting.items():
        if tensor.dtype not in names or name == METADATA:
            raise ValueError(f"{name}: {tensor.dtype} cannot be written")
    rank = {code: place for place, code in enumerate(WIDTHS)}
    order = sorted(waiting, key=lambda name: (rank[names[waiting[name].dtype]], name))
    header: dict[str, object] = {METADATA: dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for name in order:
        tensor = waiting[name]
        span = [offset, offset + tensor.bytes]
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": span}
        offset = span[1]
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        yield content(waiting.pop(name), name)


def content(tensor: torch.Tensor | Deferred, name: str = "") -> memoryview:
    """The tensor's bytes in row-major order; not copied where they lie so on the CPU already."""
    promised = deferred(tensor)
    made = promised.read().detach()
    if made.dtype != promised.dtype or tuple(made.shape) != promised.shape:
        raise ValueError(f"{name}: {made.dtype} {tuple(made.shape)} came where {promised} was promised")
    flat = made.cpu().contiguous().reshape(-1).view(_torch().uint8)
    return memoryview(flat.numpy().data)


def _torch() -> Any:
    import torch

    return torch
