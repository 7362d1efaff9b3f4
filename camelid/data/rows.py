"""Rows out of files, a few at a time: JSON lines, a JSON array, Parquet, plain text; packed with gzip or Zstandard too.
Folders that Hugging Face's datasets saved are read in saved.py.

What a file is, its first bytes say, held against what its name claims. Everything is bounded: the bytes of a record,
the depth of its brackets, the rows in memory. What is wrong with one row is a `BadRow`, and the rows after it can be
read; what ends the reading is a BadFile.
"""

from __future__ import annotations

import codecs
import gzip
import io
import stat
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from camelid.data.formats import kind
from camelid.data.json_array import Broken, elements
from camelid.data.saved import is_saved, mappings
from camelid.durable import parse_json
from camelid.errors import BadFile, CamelidError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer

TextUnit = Literal["line", "file"]
Container = Literal["jsonl", "json", "parquet", "text"]

LONGEST = 64 << 20  # bytes of one record or one text; a whole book is about 1 MiB
DEEPEST = 32  # levels of brackets in a record
ZSTANDARD = b"\x28\xb5\x2f\xfd"  # the first bytes of a frame (RFC 8878, section 3.1.1)
HEAD = 1 << 16  # bytes read to see what a file is
PARQUET_ROWS = 256  # rows in memory at a time
PARQUET_GROUP = 8 << 30  # bytes that a row group may claim to unpack to


@dataclass(frozen=True)
class Row:
    """One record and where it stands: its line, or its number in an array, a table or a saved data set, counted from 1."""

    line: int
    data: Mapping[str, object]
    place: str  # "line 7" or "row 7": for messages


@dataclass(frozen=True)
class BadRow:
    """A row that is no record: where it stands and why."""

    place: str
    found: str


def rows(path: Path, text: TextUnit | None) -> Iterator[Row | BadRow]:
    """Every row in the file's order. `text` says that it is plain text, cut into lines or not at all; None: see."""
    if is_saved(path):
        return _saved_rows(path)
    container = "text" if text is not None else _container(path)
    if container == "parquet":
        return _parquet_rows(path)
    if container == "json":
        return _array_rows(path)
    if container == "jsonl":
        return _json_lines(path)
    return _whole_text(path) if text == "file" else _text_lines(path)


def _saved_rows(path: Path) -> Iterator[Row]:
    for number, data in enumerate(mappings(path), 1):
        yield Row(number, data, f"row {number}")


def _container(path: Path) -> Container:
    """What the first bytes say, held against what the file's name claims."""
    with opened(path) as file:
        head = file.read(HEAD)
    claim = path.name.removesuffix(".gz").removesuffix(".zst").rpartition(".")[2].lower()
    if head[:4] == b"PAR1":
        return "parquet"
    mark = head.removeprefix(codecs.BOM_UTF8).lstrip(b" \t\r\n")[:1]
    found: Container = "jsonl" if mark == b"{" else "json" if mark == b"[" else "text"
    if claim == "parquet" and head:
        raise BadFile(path, "byte 0", "is called Parquet and does not begin as one", "see how it was made")
    if claim in ("json", "jsonl", "ndjson") and found == "text" and mark:
        raise BadFile(path, "byte 0", f"is called JSON and begins with {head[:12]!r}", "see how it was made")
    if claim in ("txt", "text") and found != "text":
        remedy = 'say text="line" or text="file", or give it a name that ends in .jsonl or .json'
        raise BadFile(path, "byte 0", f"is called text and begins like JSON, with {mark.decode()!r}", remedy)
    return found


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """A regular file for reading bytes, unpacked if it is gzip; every failure to read it becomes a BadFile."""
    if "\0" in str(path):
        raise BadFile(path, "", "the name holds a null byte", "check the path")
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadFile(path, "", "is not a regular file", "give a file of records")
        with open(path, "rb") as file:
            magic = file.peek(4)[:4]
            _refuse_packed(path, magic)
            if magic[:2] == b"\x1f\x8b":
                with gzip.GzipFile(fileobj=file) as unpacked:
                    yield io.BufferedReader(unpacked)
            elif magic == ZSTANDARD:
                yield io.BufferedReader(_Zstandard(path, file))
            else:
                yield file
    except FileNotFoundError:
        raise BadFile(path, "", "is missing", "check the path") from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise BadFile(path, "", f"damaged gzip: {error}", "copy it again whole") from error
    except OSError as error:
        raise BadFile(path, "", f"cannot be read: {error.strerror or error}") from error


def _refuse_packed(path: Path, magic: bytes) -> None:
    packed = {b"PK\x03\x04": "a zip archive", b"BZh9": "bzip2", b"\xfd7zX": "xz"}
    if magic in packed:
        raise BadFile(path, "byte 0", f"is {packed[magic]}", "unpack it first, or pack it with gzip or zstd")
    if magic[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise BadFile(path, "byte 0", "is UTF-16 text", "convert it to UTF-8")


class _Zstandard(io.RawIOBase):
    """What a file of Zstandard frames unpacks to; pyarrow, which reads Parquet here, knows how."""

    def __init__(self, path: Path, file: io.BufferedReader) -> None:
        import pyarrow

        self._path = path
        self._unpacked = pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        room = memoryview(buffer).cast("B")
        try:
            data = self._unpacked.read(len(room))
        except OSError as error:
            raise BadFile(self._path, "", f"damaged Zstandard: {error}", "copy it again whole") from error
        room[: len(data)] = data
        return len(data)


def _lines(file: io.BufferedReader) -> Iterator[tuple[int, int, bytes | None]]:
    """Number, offset and bytes of each line, without its end; None for a line over LONGEST, which is passed by."""
    number, offset = 0, 0
    while line := file.readline(LONGEST + 1):
        number += 1
        length = len(line)
        if length > LONGEST and not line.endswith(b"\n"):
            while (rest := file.readline(LONGEST)) and not rest.endswith(b"\n"):
                length += len(rest)
            yield number, offset, None
            offset += length + len(rest)
            continue
        content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        yield number, offset + length - len(content), content.removesuffix(b"\n").removesuffix(b"\r")
        offset += length


def _json_lines(path: Path) -> Iterator[Row | BadRow]:
    with opened(path) as file:
        for number, offset, line in _lines(file):
            if line is None:
                yield _too_long(f"line {number}")
            elif line.strip():
                yield _parsed(line, path, number, f"line {number}", offset)


def _text_lines(path: Path) -> Iterator[Row | BadRow]:
    with opened(path) as file:
        for number, offset, line in _lines(file):
            place = f"line {number}"
            if line is None:
                yield _too_long(place)
            elif line.strip():
                yield _decoded(line, number, place, offset)


def _whole_text(path: Path) -> Iterator[Row | BadRow]:
    with opened(path) as file:
        content = file.read(LONGEST + 1)
    if len(content) > LONGEST:
        yield _too_long("the whole file")
    elif content := content.removeprefix(codecs.BOM_UTF8):
        yield _decoded(content, 1, "the whole file", 0)


def _too_long(place: str) -> BadRow:
    return BadRow(place, f"longer than {LONGEST} bytes")


def _decoded(line: bytes, number: int, place: str, offset: int) -> Row | BadRow:
    try:
        return Row(number, {"text": line.decode("utf-8")}, place)
    except UnicodeDecodeError as error:
        return BadRow(place, _not_utf8(error, offset))


def _not_utf8(error: UnicodeDecodeError, offset: int) -> str:
    return f"is not UTF-8: byte {error.object[error.start]:#04x} at offset {offset + error.start} ({error.reason})"


def _parsed(data: bytes, path: Path, number: int, place: str, offset: int) -> Row | BadRow:
    try:
        data.decode("utf-8")
        value = parse_json(data, path, place, max_depth=DEEPEST)
    except UnicodeDecodeError as error:
        return BadRow(place, _not_utf8(error, offset))
    except BadFile as error:
        return BadRow(place, error.found)
    if not isinstance(value, dict):
        return BadRow(place, f"is {kind(value)}, not an object")
    return Row(number, value, place)


def _array_rows(path: Path) -> Iterator[Row | BadRow]:
    with opened(path) as file:
        mark = len(codecs.BOM_UTF8) if file.peek(3)[:3] == codecs.BOM_UTF8 else 0
        number = 0
        try:
            for number, (offset, data) in enumerate(elements(file, LONGEST, skip=mark), 1):
                yield _parsed(data, path, number, f"row {number}", offset)
        except Broken as broken:
            place = f"after row {number}, offset {broken.offset}"
            raise BadFile(path, place, broken.found, "copy the file again whole, or correct it there") from None


def _parquet_rows(path: Path) -> Iterator[Row | BadRow]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as table:
            for group in range(table.num_row_groups):
                claimed = table.metadata.row_group(group).total_byte_size
                if not 0 <= claimed <= PARQUET_GROUP:
                    found = f"claims {claimed} bytes, over the limit of {PARQUET_GROUP}"
                    raise BadFile(path, f"row group {group}", found, "write it in smaller row groups")
            for batch in table.iter_batches(batch_size=PARQUET_ROWS):
                for data in batch.to_pylist():
                    number += 1
                    yield Row(number, data, f"row {number}")
    except CamelidError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadFile(path, f"after row {number}", f"damaged Parquet: {reason}", "copy it again whole") from error
