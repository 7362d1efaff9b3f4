"""Meta's .pth files read without Python's unpickler: a zip reader, and opcodes that can say only where tensors lie.

This file imports the standard library alone and runs as a program of its own, in a process that can open nothing:

    python -I -S pth.py IN OUT      reads the .pth on descriptor IN, writes safetensors to descriptor OUT, and says on
                                    standard output what was wrong, as one JSON object

A .pth is a zip archive, nothing compressed: NAME/data.pkl says in pickle opcodes which tensor lies in which storage,
NAME/data/0, NAME/data/1 ... are the storages' bytes. An opcode outside the table ends the reading; so does any name but
`torch._utils._rebuild_tensor_v2`, `collections.OrderedDict` and the storage types. Nothing named is ever imported or
called: the names are compared as text, and what they would build is noted down.
"""

from __future__ import annotations

import json
import os
import re
import resource
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

MAX_ENTRIES = 100_000
MAX_DIRECTORY_BYTES = 32 << 20
MAX_PICKLE_BYTES = 2 << 20  # the largest published model needs some 300 kB
MAX_STACK = 100_000
MAX_MEMO = 1_000_000
MAX_NAME = 512
MAX_AXES = 8
MAX_COUNT = 2**62
MAX_GROWTH = 3  # tensors may share storage (a tied head); more output than this many times the file is a bomb
CHUNK = 1 << 20

# torch's storage types: safetensors' name for the element, and its bytes
STORAGES = {
    "DoubleStorage": ("F64", 8),
    "FloatStorage": ("F32", 4),
    "HalfStorage": ("F16", 2),
    "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8),
    "IntStorage": ("I32", 4),
    "ShortStorage": ("I16", 2),
    "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1),
    "BoolStorage": ("BOOL", 1),
}


class Refused(Exception):
    """What was found, and where."""

    def __init__(self, place: str, found: str) -> None:
        self.place, self.found = place, found
        super().__init__(f"{place}: {found}")


@dataclass(frozen=True)
class Entry:
    """One file in the archive: where its bytes begin, how many they are, their CRC-32."""

    begin: int
    bytes: int
    crc: int


@dataclass(frozen=True)
class Storage:
    dtype: str
    width: int
    key: str
    elements: int


@dataclass(frozen=True)
class Tensor:
    """A contiguous run of elements in a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def bytes(self) -> int:
        return self.elements * self.storage.width


# --- the archive ----------------------------------------------------------------------------------------------------


def read_archive(file: BinaryIO, size: int) -> dict[str, Entry]:
    """The archive's entries by name, each checked to lie inside the file and to overlap no other."""
    begin, length, count = _find_directory(file, size)
    if length > MAX_DIRECTORY_BYTES or count > MAX_ENTRIES or begin + length > size:
        raise Refused("zip directory", f"{count} entries in {length} bytes at {begin}, in a file of {size}")
    directory = _read_at(file, begin, length)
    entries: dict[str, Entry] = {}
    at = 0
    for _ in range(count):
        name, entry, at = _read_entry(file, size, directory, at)
        if name in entries:
            raise Refused("zip directory", f"{name[:80]!r} appears twice")
        entries[name] = entry
    if at != length:
        raise Refused("zip directory", f"{length - at} bytes after its last entry")
    reached = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].bytes)):
        if entry.begin < reached or entry.begin + entry.bytes > begin:
            raise Refused(f"zip entry {name[:80]!r}", "overlaps another entry or the directory")
        reached = entry.begin + entry.bytes
    return entries


def _find_directory(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """Offset, length and number of entries of the central directory."""
    tail_at = max(0, size - 22 - 65_535)
    tail = _read_at(file, tail_at, size - tail_at)
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) - end < 22:
        kind = "a bare pickle (torch before 1.6)" if tail_at == 0 and tail[:1] == b"\x80" else "no zip file"
        raise Refused("end of file", f"{kind}, or cut short")
    disk, start, here, count, length, begin, comment = struct.unpack("<4H2IH", tail[end + 4 : end + 22])
    if end + 22 + comment != len(tail) or disk or start or here != count:
        raise Refused("zip end record", "does not end the file, or belongs to an archive in parts")
    if 0xFFFF in (count,) or 0xFFFFFFFF in (length, begin):
        return _find_directory_64(file, size, tail_at + end)
    return begin, length, count


def _find_directory_64(file: BinaryIO, size: int, end: int) -> tuple[int, int, int]:
    locator = _read_at(file, end - 20, 20) if end >= 20 else b""
    if locator[:4] != b"PK\x06\x07":
        raise Refused("zip64 locator", "is missing")
    at = struct.unpack("<Q", locator[8:16])[0]
    if at + 56 > size:
        raise Refused("zip64 end record", f"at {at} in a file of {size}")
    record = _read_at(file, at, 56)
    if record[:4] != b"PK\x06\x06":
        raise Refused("zip64 end record", "is missing")
    disk, start, here, count, length, begin = struct.unpack("<2I4Q", record[16:56])
    if disk or start or here != count:
        raise Refused("zip64 end record", "belongs to an archive in parts")
    return begin, length, count


def _read_entry(file: BinaryIO, size: int, directory: bytes, at: int) -> tuple[str, Entry, int]:
    record = directory[at : at + 46]
    if len(record) < 46 or record[:4] != b"PK\x01\x02":
        raise Refused("zip directory", f"no entry at {at}")
    flags, method = struct.unpack("<2H", record[8:12])
    crc, packed, length = struct.unpack("<3I", record[16:28])
    names, extras, comments = struct.unpack("<3H", record[28:34])
    offset = struct.unpack("<I", record[42:46])[0]
    after = at + 46 + names + extras + comments
    if after > len(directory) or not 0 < names <= MAX_NAME:
        raise Refused("zip directory", f"an entry at {at} runs past the end, or has a name of {names} bytes")
    name = directory[at + 46 : at + 46 + names].decode("utf-8", "backslashreplace")
    extra = directory[at + 46 + names : at + 46 + names + extras]
    length, packed, offset = _widened(extra, length, packed, offset, name)
    if flags & 0x2041 or method != 0 or packed != length:
        raise Refused(f"zip entry {name[:80]!r}", "is compressed or encrypted; torch writes neither")
    if offset + 30 > size:
        raise Refused(f"zip entry {name[:80]!r}", f"at {offset} in a file of {size}")
    local = _read_at(file, offset, 30)
    local_names, local_extras = struct.unpack("<2H", local[26:30])
    if local[:4] != b"PK\x03\x04" or local[8:10] != b"\0\0" or local_names != names:
        raise Refused(f"zip entry {name[:80]!r}", "its own header and the directory's disagree")
    if _read_at(file, offset + 30, names) != directory[at + 46 : at + 46 + names]:
        raise Refused(f"zip entry {name[:80]!r}", "is named otherwise in its own header")
    begin = offset + 30 + local_names + local_extras
    if begin + length > size:
        raise Refused(f"zip entry {name[:80]!r}", f"{length} bytes at {begin} in a file of {size}")
    return name, Entry(begin, length, crc), after


def _widened(extra: bytes, length: int, packed: int, offset: int, name: str) -> tuple[int, int, int]:
    """The three numbers with those that did not fit 32 bits taken from the zip64 field."""
    wanted = [number == 0xFFFFFFFF for number in (length, packed, offset)]
    if not any(wanted):
        return length, packed, offset
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack("<2H", extra[at : at + 4])
        if kind == 1 and size >= 8 * sum(wanted) and at + 4 + size <= len(extra):
            wide = iter(struct.unpack(f"<{sum(wanted)}Q", extra[at + 4 : at + 4 + 8 * sum(wanted)]))
            numbers = (length, packed, offset)
            a, b, c = (next(wide) if is_wide else number for is_wide, number in zip(wanted, numbers, strict=True))
            return a, b, c
        at += 4 + size
    raise Refused(f"zip entry {name[:80]!r}", "its zip64 sizes are missing")


def _read_at(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    data = file.read(length)
    if len(data) != length:
        raise Refused(f"offset {offset}", f"{length} bytes expected, {len(data)} found")
    return data


# --- the pickle -----------------------------------------------------------------------------------------------------


class Mark:
    """Where the arguments of a tuple or a table begin."""


class Name:
    """One of the few names that a stream may speak."""

    def __init__(self, text: str) -> None:
        self.text = text


class Table(dict[str, Any]):
    """A dict or an OrderedDict of the stream."""


MARK = Mark()
REBUILD = Name("torch._utils _rebuild_tensor_v2")
ORDERED = Name("collections OrderedDict")
NAMES = {name.text: name for name in (REBUILD, ORDERED, *(Name(f"torch {kind}") for kind in STORAGES))}


class Reader:
    """Runs the opcodes of one stream over plain values. `read` returns its tensors by name, or raises Refused."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def read(self) -> dict[str, Tensor]:
        if self.take(2) != b"\x80\x02":
            raise self.refused("not the pickle protocol 2 that torch writes")
        while (code := self.take(1)) != b".":
            step = OPCODES.get(code)
            if step is None:
                raise self.refused(f"the opcode {code!r}, which no tensor file needs")
            step(self)
            if len(self.stack) > MAX_STACK or len(self.memo) > MAX_MEMO:
                raise self.refused("more values than any tensor file needs")
        if len(self.stack) != 1 or self.at != len(self.data):
            raise self.refused("the stream does not end with one value")
        return self.result(self.stack[0])

    def result(self, table: Any) -> dict[str, Tensor]:
        if not isinstance(table, Table):
            raise self.refused("the stream holds no table of tensors")
        for name, tensor in table.items():
            if not isinstance(tensor, Tensor):
                raise self.refused(f"{name[:80]!r} is no tensor")
            if not 0 < len(name) <= MAX_NAME:
                raise self.refused(f"a name of {len(name)} characters")
        return dict(table)

    def refused(self, found: str) -> Refused:
        return Refused(f"data.pkl, offset {self.at}", found)

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise self.refused("the stream ends in the middle")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str) -> int:
        return int(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + 200)
        if end < 0:
            raise self.refused("a name without an end")
        return self.take(end + 1 - self.at)[:-1].decode("ascii", "backslashreplace")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is MARK:
            raise self.refused("an empty stack")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        for back, value in enumerate(reversed(self.stack)):
            if value is MARK:
                cut = len(self.stack) - back
                values = self.stack[cut:]
                del self.stack[cut - 1 :]
                return values
        raise self.refused("no mark on the stack")

    def text(self) -> None:
        raw = self.take(self.number("<I"))
        try:
            self.push(raw.decode("utf-8"))
        except UnicodeDecodeError:
            raise self.refused("text that is not UTF-8") from None

    def long(self) -> None:
        count = self.number("<B")
        if count > 9:
            raise self.refused(f"a number of {count} bytes")
        self.push(int.from_bytes(self.take(count), "little", signed=True))

    def name(self) -> None:
        spoken = f"{self.line()} {self.line()}"
        if spoken not in NAMES:
            raise self.refused(f"the name {spoken[:100]!r}: a tensor file has no business with it")
        self.push(NAMES[spoken])

    def remember(self, place: int) -> None:
        if not self.stack or self.stack[-1] is MARK:
            raise self.refused("nothing to remember")
        self.memo[place] = self.stack[-1]

    def recall(self, place: int) -> None:
        if place not in self.memo:
            raise self.refused(f"nothing was remembered at {place}")
        self.push(self.memo[place])

    def tuple_of(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def set_items(self, items: list[Any]) -> None:
        if len(items) % 2 or not self.stack or not isinstance(self.stack[-1], Table):
            raise self.refused("items without a table")
        for name, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(name, str):
                raise self.refused("a key that is no text")
            if name in self.stack[-1]:
                raise self.refused(f"{name[:80]!r} appears twice")
            self.stack[-1][name] = value

    def set_item(self) -> None:
        value, name = self.pop(), self.pop()
        self.set_items([name, value])

    def storage(self) -> None:
        spoken = self.pop()
        if not (isinstance(spoken, tuple) and len(spoken) == 5 and spoken[0] == "storage"):
            raise self.refused("a persistent id that is no storage")
        _, kind, key, _, elements = spoken
        if not isinstance(kind, Name) or kind in (REBUILD, ORDERED):
            raise self.refused("a storage of no type")
        if not isinstance(key, str) or not re.fullmatch(r"[0-9]{1,10}", key) or not _is_count(elements):
            raise self.refused("a storage whose key or length is no number")
        dtype, width = STORAGES[kind.text.removeprefix("torch ")]
        self.push(Storage(dtype, width, key, elements))

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if function is ORDERED and arguments == ():
            self.push(Table())
        elif function is REBUILD and isinstance(arguments, tuple) and len(arguments) == 6:
            self.push(self.tensor(*arguments))
        else:
            raise self.refused("a call of something that builds no tensor")

    def tensor(self, storage: Any, offset: Any, shape: Any, stride: Any, grad: Any, hooks: Any) -> Tensor:
        if not isinstance(storage, Storage) or not _is_count(offset) or type(grad) is not bool:
            raise self.refused("a tensor without a storage or an offset")
        if not isinstance(hooks, Table) or hooks:
            raise self.refused("a tensor with hooks")
        if not (isinstance(shape, tuple) and isinstance(stride, tuple) and len(shape) == len(stride) <= MAX_AXES):
            raise self.refused("a tensor whose shape and stride do not match")
        if not all(map(_is_count, (*shape, *stride))):
            raise self.refused("a tensor whose shape or stride holds no counts")
        expected = 1
        for size, step in zip(reversed(shape), reversed(stride), strict=True):
            if size > 1 and step != expected and 0 not in shape:
                raise self.refused("a tensor that is not contiguous: save it again with .contiguous()")
            expected *= size
            if expected > MAX_COUNT:
                raise self.refused("a shape that multiplies to more than any file can hold")
        if offset + expected > storage.elements:
            raise self.refused(f"{expected} elements at {offset} of a storage of {storage.elements}")
        return Tensor(storage, offset, shape)

    def build(self) -> None:
        state = self.pop()
        if not self.stack or not isinstance(self.stack[-1], Table) or not isinstance(state, Table):
            raise self.refused("state set on something that is no table")
        if set(state) != {"_metadata"}:  # what Module.state_dict() hangs on its dict: versions, of no use here
            raise self.refused("state other than a state_dict's versions")


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_COUNT


OPCODES: dict[bytes, Callable[[Reader], None]] = {
    b"(": lambda r: r.push(MARK),
    b"}": lambda r: r.push(Table()),
    b")": lambda r: r.push(()),
    b"N": lambda r: r.push(None),
    b"\x88": lambda r: r.push(True),
    b"\x89": lambda r: r.push(False),
    b"K": lambda r: r.push(r.number("<B")),
    b"M": lambda r: r.push(r.number("<H")),
    b"J": lambda r: r.push(r.number("<i")),
    b"\x8a": Reader.long,
    b"X": Reader.text,
    b"c": Reader.name,
    b"q": lambda r: r.remember(r.number("<B")),
    b"r": lambda r: r.remember(r.number("<I")),
    b"h": lambda r: r.recall(r.number("<B")),
    b"j": lambda r: r.recall(r.number("<I")),
    b"t": lambda r: r.push(tuple(r.pop_to_mark())),
    b"\x85": lambda r: r.tuple_of(1),
    b"\x86": lambda r: r.tuple_of(2),
    b"\x87": lambda r: r.tuple_of(3),
    b"s": Reader.set_item,
    b"u": lambda r: r.set_items(r.pop_to_mark()),
    b"Q": Reader.storage,
    b"R": Reader.call,
    b"b": Reader.build,
}


# --- together -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Content:
    """The tensors of a file by name, and for each storage key the place of its bytes."""

    tensors: dict[str, Tensor]
    storages: dict[str, Entry]

    @property
    def bytes(self) -> int:
        return sum(tensor.bytes for tensor in self.tensors.values())


def read_content(file: BinaryIO, size: int) -> Content:
    """What a .pth holds, every claim checked against the file. Raises Refused."""
    entries = read_archive(file, size)
    pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise Refused("zip directory", f"{len(pickles)} files called data.pkl where one is needed")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in entries and _checked(file, entries, f"{root}byteorder", 16) != b"little":
        raise Refused("byteorder", "is not little-endian")
    tensors = Reader(_checked(file, entries, pickles[0], MAX_PICKLE_BYTES)).read()
    storages: dict[str, Entry] = {}
    for name, tensor in tensors.items():
        storage = tensor.storage
        entry = entries.get(f"{root}data/{storage.key}")
        if entry is None or entry.bytes != storage.elements * storage.width:
            held = "no bytes" if entry is None else f"{entry.bytes} bytes"
            claim = f"{storage.elements * storage.width} bytes in storage {storage.key}"
            raise Refused(f"tensor {name[:80]!r}", f"claims {claim}, where the archive has {held}")
        storages[storage.key] = entry
    content = Content(tensors, storages)
    if content.bytes > MAX_GROWTH * size:
        raise Refused("data.pkl", f"its tensors unfold to {content.bytes} bytes from a file of {size}")
    return content


def _checked(file: BinaryIO, entries: dict[str, Entry], name: str, limit: int) -> bytes:
    entry = entries[name]
    if entry.bytes > limit:
        raise Refused(f"zip entry {name[:80]!r}", f"{entry.bytes} bytes, over the limit of {limit}")
    data = _read_at(file, entry.begin, entry.bytes)
    if zlib.crc32(data) != entry.crc:
        raise Refused(f"zip entry {name[:80]!r}", "its checksum differs: the file is damaged")
    return data


def check_storages(file: BinaryIO, content: Content) -> None:
    """Read every storage once and compare its checksum."""
    for key, entry in content.storages.items():
        crc = 0
        for piece in _pieces(file, entry.begin, entry.bytes):
            crc = zlib.crc32(piece, crc)
        if crc != entry.crc:
            raise Refused(f"storage {key}, offset {entry.begin}", "its checksum differs: the file is damaged")


def _pieces(file: BinaryIO, begin: int, length: int) -> Iterator[bytes]:
    end = begin + length
    while begin < end:
        piece = _read_at(file, begin, min(CHUNK, end - begin))
        begin += len(piece)
        yield piece


def safetensors(file: BinaryIO, content: Content) -> Iterator[bytes]:
    """The same tensors as a safetensors file, in pieces of at most a mebibyte."""
    header: dict[str, object] = {}
    offset = 0
    order = sorted(content.tensors.items(), key=lambda item: (-item[1].storage.width, item[0]))
    for name, tensor in order:
        span = [offset, offset + tensor.bytes]
        header[name] = {"dtype": tensor.storage.dtype, "shape": tensor.shape, "data_offsets": span}
        offset = span[1]
    text = json.dumps(header, ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for _, tensor in order:
        entry = content.storages[tensor.storage.key]
        yield from _pieces(file, entry.begin + tensor.offset * tensor.storage.width, tensor.bytes)


def main() -> int:
    """Run as the child; what it returns is the exit code: 0 done, 3 refused, 4 the disk failed."""
    given, wanted = int(sys.argv[1]), int(sys.argv[2])
    size = os.fstat(given).st_size
    _lock_down(size)
    try:
        with open(given, "rb", closefd=False) as file, open(wanted, "wb", buffering=0, closefd=False) as out:
            content = read_content(file, size)
            check_storages(file, content)
            for piece in safetensors(file, content):
                rest = memoryview(piece)
                while len(rest):
                    rest = rest[out.write(rest) :]
    except Refused as refused:
        print(json.dumps({"place": refused.place, "found": refused.found}))
        return 3
    except OSError as error:
        print(json.dumps({"errno": error.errno}))
        return 4
    return 0


def _lock_down(size: int) -> None:
    """From here on: no new descriptor (file, socket, pipe) and no new process; memory, time and output bounded."""
    seconds = 30 + size // (20 << 20)
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, 1 << 30),
        (resource.RLIMIT_FSIZE, MAX_GROWTH * size + MAX_DIRECTORY_BYTES),
        (resource.RLIMIT_NOFILE, 0),
    ):
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))


if __name__ == "__main__":
    sys.exit(main())
