"""GGUF files, versions 2 and 3: read with every declared size checked against the real one, written in pieces.

    "GGUF"  version u32  tensors u64  keys u64
    keys      name, type u32, value; a text is its length in u64 and that many bytes of UTF-8
    tensors   name, axes u32, the sizes in u64 (innermost first), form u32, offset u64
    data      from the next multiple of `general.alignment` (32): the tensors in the order of their list, each padded to
              that alignment: no gap, no overlap, nothing left over

The layout is llama.cpp's (ggml/include/gguf.h); what its reader refuses is refused here. The gguf package's own reader
is not used: it accepts overlapping tensors, gaps, and texts that end with the file, follows nested arrays until Python's
stack ends, and raises errors of many kinds. Reading a header here needs no PyTorch;
what it builds is bounded by the file's length, and tensors are views of the mapped file, made when asked for.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from camelid.errors import BadFile
from camelid.quantize.forms import BY_CODE, FORMS, Form

if TYPE_CHECKING:
    import torch

MAGIC = b"GGUF"
VERSION = 3
VERSIONS = (2, 3)
ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 16
MAX_KEYS = 65_536
MAX_TENSORS = 100_000
MAX_KEY_BYTES = 256
MAX_NAME_BYTES = 63  # ggml.h: GGML_MAX_NAME, less the closing zero
MAX_AXES = 4  # ggml.h: GGML_MAX_DIMS
MAX_TEXTS = 1 << 20  # in all arrays together; Llama 3 has some 410,000
MAX_COUNT = 2**62

REMEDY = "this is not a sound GGUF file: copy or download it again"

# gguf.h: gguf_type
_NUMBERS: dict[int, str] = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY, _BOOL = 8, 9, 7

Value = bool | int | float | str | list[str] | NDArray[Any]


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: its form, its shape (outermost first), the bytes from `begin` to `end` of the file."""

    form: Form
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a file says it holds, checked against its real length."""

    path: Path
    metadata: Mapping[str, Value]
    places: Mapping[str, Place]


def is_gguf(path: Path) -> bool:
    """Whether a file says that it is GGUF, by its name or its first bytes."""
    if not path.is_file():
        return False
    if path.suffix == ".gguf":
        return True
    try:
        with open(path, "rb") as file:
            return file.read(4) == MAGIC
    except OSError:
        return False


def mapped(path: Path) -> mmap.mmap:
    """The whole file, mapped; writes to it stay in memory. Raises BadFile."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise BadFile(path, "", "is missing", "check the path; if it was copied, copy it again whole") from None
    except OSError as error:
        raise BadFile(path, "", f"cannot be read: {error.strerror}") from error
    try:
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise BadFile(path, "", f"cannot be mapped: {error}", "name a file that holds a model") from error
    finally:
        os.close(descriptor)


def read_header(path: Path) -> Header:
    """The keys and tensors of a GGUF file, without reading any tensor. Raises BadFile for any file that is not one."""
    path = Path(path)
    with mapped(path) as data:
        return _Reader(path, data).header()


class _Reader:
    """Walks through a header; every step is checked against the end of the file before it is taken."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.size = path, data, len(data)
        self.at = 0
        self.texts = 0

    def bad(self, found: str, remedy: str = REMEDY, *, at: int | None = None) -> BadFile:
        return BadFile(self.path, f"offset {self.at if at is None else at}", found, remedy)

    def number(self, code: str) -> Any:
        width = struct.calcsize(f"<{code}")
        if self.size - self.at < width:
            raise self.bad("ends inside a number", "it was cut: copy it again")
        (value,) = struct.unpack_from(f"<{code}", self.data, self.at)
        self.at += width
        return value

    def text(self, most: int | None = None) -> str:
        start, length = self.at, self.number("Q")
        if length > self.size - self.at:
            raise self.bad(f"a text of {length} bytes where {self.size - self.at} are left", at=start)
        if most is not None and length > most:
            raise self.bad(f"a name of {length} bytes, over the limit of {most}", at=start)
        try:
            value = self.data[self.at : self.at + length].decode("utf-8")
        except UnicodeDecodeError:
            raise self.bad("a text that is not UTF-8", at=start) from None
        self.at += length
        return value

    def header(self) -> Header:
        if self.data[:4] != MAGIC:
            raise self.bad(f"begins with {self.data[:4]!r}, not with {MAGIC!r}", "name a GGUF file")
        self.at = 4
        version = self.number("I")
        if version not in VERSIONS:
            turned = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
            remedy = "it is big-endian: convert it" if turned else "convert the model anew"
            raise self.bad(f"version {version}; {' and '.join(map(str, VERSIONS))} can be read", remedy, at=4)
        tensors, keys = self.number("Q"), self.number("Q")
        for count, most, kind in ((tensors, MAX_TENSORS, "tensors"), (keys, MAX_KEYS, "keys")):
            if count > most:
                raise self.bad(f"{count} {kind}, over the limit of {most}")
        metadata = self.metadata(keys)
        alignment = metadata.get("general.alignment", ALIGNMENT)
        sound = type(alignment) is int and 0 < alignment <= MAX_ALIGNMENT and alignment & (alignment - 1) == 0
        if not sound:
            raise self.bad(f"general.alignment is {str(alignment)[:40]}, no power of two up to {MAX_ALIGNMENT}")
        return Header(self.path, metadata, self.tensors(tensors, cast(int, alignment)))

    def metadata(self, count: int) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for _ in range(count):
            start = self.at
            name = self.text(MAX_KEY_BYTES)
            if not name or name in found:
                raise self.bad(f"the key {name[:80]!r} stands there twice or is empty", at=start)
            found[name] = self.value(self.number("I"))
        return found

    def value(self, kind: int) -> Value:
        if kind == _TEXT:
            return self.text()
        if kind == _ARRAY:
            return self.array()
        if kind not in _NUMBERS:
            raise self.bad(f"a value of the unknown type {kind}", at=self.at - 4)
        if kind == _BOOL and self.data[self.at : self.at + 1] not in (b"\0", b"\1"):
            raise self.bad("a truth value that is neither 0 nor 1")
        value: Value = self.number(_NUMBERS[kind])
        return value

    def array(self) -> Value:
        start, kind, count = self.at, self.number("I"), self.number("Q")
        if kind == _TEXT:
            return self.text_array(start, count)
        if kind not in _NUMBERS:
            found = "an array of arrays" if kind == _ARRAY else f"an array of the unknown type {kind}"
            raise self.bad(found, "no Llama has one", at=start)
        dtype = np.dtype(f"<{_NUMBERS[kind]}")
        if count > (self.size - self.at) // dtype.itemsize:
            raise self.bad(f"an array of {count} values where {self.size - self.at} bytes are left", at=start)
        raw = self.data[self.at : self.at + count * dtype.itemsize]
        if kind == _BOOL and raw.translate(None, b"\0\1"):
            raise self.bad("truth values that are neither 0 nor 1", at=start)
        self.at += len(raw)
        return np.frombuffer(raw, dtype)

    def text_array(self, start: int, count: int) -> list[str]:
        self.texts += count
        if count > (self.size - self.at) // 8:
            raise self.bad(f"an array of {count} texts where {self.size - self.at} bytes are left", at=start)
        if self.texts > MAX_TEXTS:
            raise self.bad(f"{self.texts} texts in arrays, over the limit of {MAX_TEXTS}", at=start)
        data, size, at, unpack = self.data, self.size, self.at, struct.Struct("<Q").unpack_from
        found: list[str] = []
        try:
            for _ in range(count):
                (length,) = unpack(data, at)
                at += 8
                if length > size - at:
                    self.at = at
                    raise self.bad(f"a text of {length} bytes where {size - at} are left", at=at - 8)
                found.append(data[at : at + length].decode("utf-8"))
                at += length
        except struct.error:
            raise self.bad("ends inside an array of texts", "it was cut: copy it again", at=at) from None
        except UnicodeDecodeError:
            raise self.bad("a text that is not UTF-8", at=at) from None
        self.at = at
        return found

    def tensors(self, count: int, alignment: int) -> dict[str, Place]:
        listed = [self.tensor(alignment) for _ in range(count)]
        begin = self.at + -self.at % alignment
        if listed and begin > self.size:
            raise self.bad("ends before its tensors", "it was cut: copy it again")
        places: dict[str, Place] = {}
        reached = 0
        for start, name, form, shape, offset, length in listed:
            if name in places:
                raise self.bad(f"the tensor {name!r} stands there twice", at=start)
            if offset != reached:
                raise self.bad(f"tensor {name!r} begins at {offset} where the one before ends at {reached}", at=start)
            if length > self.size - begin - offset:
                found = f"tensor {name!r} takes {length} bytes where {max(0, self.size - begin - offset)} are left"
                raise self.bad(found, "it was cut: copy it again", at=start)
            places[name] = Place(form, shape, begin + offset, begin + offset + length)
            reached = offset + length + -length % alignment
        if listed and self.size - begin > reached:
            raise self.bad(f"{self.size - begin - reached} bytes belong to no tensor", at=begin + reached)
        return places

    def tensor(self, alignment: int) -> tuple[int, str, Form, tuple[int, ...], int, int]:
        start = self.at
        name = self.text(MAX_NAME_BYTES)
        axes = self.number("I")
        if not name or not 0 < axes <= MAX_AXES:
            raise self.bad(f"tensor {name!r} with {axes} axes", at=start)
        shape = tuple(self.number("Q") for _ in range(axes))[::-1]
        code, offset = self.number("I"), self.number("Q")
        if code not in BY_CODE:
            known = ", ".join(FORMS)
            raise self.bad(f"tensor {name!r} is of form number {code}; {known} can be read", "requantise it", at=start)
        form = BY_CODE[code]
        elements = 1
        for size in shape:
            elements *= size
            if elements > MAX_COUNT:
                raise self.bad(f"the sizes of tensor {name!r} multiply to more than any file can hold", at=start)
        if elements == 0 or shape[-1] % form.weights:
            found = f"tensor {name!r} has rows of {shape[-1]} weights, no blocks of {form.weights}"
            raise self.bad(found, at=start)
        return start, name, form, shape, offset, elements // form.weights * form.bytes


# --- tensors --------------------------------------------------------------------------------------------------------


class Blocks(Mapping[str, "torch.Tensor"]):
    """The stored bytes of each tensor: uint8 [..., bytes of a row], a view of the mapped file (writes stay in memory)."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self._map = mapped(header.path)
        if any(place.end > len(self._map) for place in header.places.values()):
            raise BadFile(header.path, "", "became shorter while being read")

    def __getitem__(self, name: str) -> torch.Tensor:
        import torch

        place = self.header.places[name]
        raw = torch.frombuffer(self._map, dtype=torch.uint8, count=place.end - place.begin, offset=place.begin)
        return raw.reshape(*place.shape[:-1], place.form.row_bytes(place.shape[-1]))

    def __iter__(self) -> Iterator[str]:
        return iter(self.header.places)

    def __len__(self) -> int:
        return len(self.header.places)


# --- writing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Encoded:
    """A tensor that is known but not yet made: `read` makes its bytes, once, when its turn to be written has come."""

    form: Form
    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]

    @property
    def bytes(self) -> int:
        rows = 1
        for size in self.shape[:-1]:
            rows *= size
        return rows * self.form.row_bytes(self.shape[-1])


def serialise(metadata: Mapping[str, Value | bytes], tensors: Mapping[str, Encoded]) -> Iterator[bytes | memoryview]:
    """A GGUF file in pieces, one tensor in memory at a time; equal input gives equal bytes.

    Whole numbers become u32 (u64 if need be), other numbers f32, lists texts, bytes arrays of u8; arrays keep their
    dtype. Raises ValueError for names that the format cannot hold.
    """
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    for name, value in metadata.items():
        parts += [_text(name), _value(value)]
    offset = 0
    for name, tensor in tensors.items():
        if len(name.encode()) > MAX_NAME_BYTES:
            raise ValueError(f"{name}: longer than {MAX_NAME_BYTES} bytes")
        sizes = struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape))
        parts += [_text(name), struct.pack("<I", len(tensor.shape)), sizes]
        parts.append(struct.pack("<IQ", tensor.form.code, offset))
        offset += tensor.bytes + -tensor.bytes % ALIGNMENT
    head = b"".join(parts)
    yield head + bytes(-len(head) % ALIGNMENT)
    for name, tensor in tensors.items():
        made = tensor.read().contiguous().reshape(-1)
        if made.numel() != tensor.bytes:
            raise ValueError(f"{name}: {made.numel()} bytes came where {tensor.bytes} were promised")
        yield memoryview(made.numpy().data)
        if tensor.bytes % ALIGNMENT:
            yield bytes(-tensor.bytes % ALIGNMENT)


def _text(text: str) -> bytes:
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Value | bytes) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value) if 0 <= value < 2**32 else struct.pack("<IQ", 10, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", _TEXT) + _text(value)
    if isinstance(value, list):
        return struct.pack("<IIQ", _ARRAY, _TEXT, len(value)) + b"".join(map(_text, value))
    array = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value
    codes = {np.dtype(f"<{code}"): kind for kind, code in _NUMBERS.items()}
    return struct.pack("<IIQ", _ARRAY, codes[array.dtype], len(array)) + array.tobytes()
