"""SentencePiece model files: a bounded walk through the protobuf, so that nothing unchecked reaches the C++ reader."""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from camelid.errors import BadFile

MAX_PIECES = 1_000_000
MAX_PIECE_BYTES = 4_096
REMEDY = "see whether the file was cut, or is another kind of file"


class Kind(IntEnum):
    """What a piece is (sentencepiece_model.proto, ModelProto.SentencePiece.Type)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Piece:
    """One row of the vocabulary."""

    text: str
    score: float
    kind: Kind


@dataclass(frozen=True)
class Model:
    """What a model file says, as far as ids depend on it."""

    pieces: tuple[Piece, ...]
    algorithm: int  # 1 unigram, 2 BPE
    byte_fallback: bool
    dummy_prefix: bool
    keeps_text: bool  # the normaliser changes nothing, so decoding gives back what was encoded
    rest: bytes = field(repr=False)  # the other records of the file, as they stand

    def written(self) -> bytes:
        """The file again, from its pieces and its other records."""
        return b"".join(_piece_record(piece) for piece in self.pieces) + self.rest


def parse(data: bytes, path: Path | str) -> Model:
    """The model in the bytes of a file. Raises BadFile, with the byte at which something is wrong."""
    pieces: list[Piece] = []
    rest = bytearray()
    trainer: dict[int, int | bytes] = {}
    normaliser: dict[int, int | bytes] = {}
    for start, number, wire, content, end in _records(data, path, 0):
        if number == 1 and isinstance(content, bytes):
            if len(pieces) >= MAX_PIECES:
                raise BadFile(path, f"byte {start}", f"more than {MAX_PIECES:,} pieces", REMEDY)
            pieces.append(_piece(content, path, start))
            continue
        if number in (2, 3, 5) and wire != 2:
            raise BadFile(path, f"byte {start}", f"record {number} is not a message", REMEDY)
        rest += data[start:end]
        if isinstance(content, bytes) and number in (2, 3, 5):
            fields = {inner: value for _, inner, _, value, _ in _records(content, path, end - len(content))}
            if number == 5 and fields.get(2):
                raise BadFile(path, f"byte {start}", "a denormaliser, which LLaMA's models do not have", REMEDY)
            (trainer if number == 2 else normaliser).update(fields if number != 5 else {})
    return _model(tuple(pieces), trainer, normaliser, bytes(rest), path)


def _model(
    pieces: tuple[Piece, ...],
    trainer: dict[int, int | bytes],
    normaliser: dict[int, int | bytes],
    rest: bytes,
    path: Path | str,
) -> Model:
    _check_pieces(pieces, path)
    algorithm = _number(trainer, 3, 1)
    if algorithm not in (1, 2):
        raise BadFile(path, "trainer", f"model type {algorithm}", "only BPE (2) and unigram (1) models can be read")
    if _number(trainer, 24, 0):
        raise BadFile(path, "trainer", "whitespace is a suffix here", "LLaMA's models have it as a prefix")
    charsmap = normaliser.get(2, b"")
    if not isinstance(charsmap, bytes):
        raise BadFile(path, "normaliser", "its character map is not bytes", REMEDY)
    if charsmap:
        _check_charsmap(charsmap, path)
    byte_fallback = bool(_number(trainer, 35, 0))
    if byte_fallback and {piece.text for piece in pieces if piece.kind == Kind.BYTE} != BYTE_PIECES:
        raise BadFile(path, "pieces", "byte fallback without all 256 byte pieces", REMEDY)
    if not _number(normaliser, 5, 1):
        raise BadFile(path, "normaliser", "spaces are not written as U+2581", "only models that do so can be read")
    return Model(
        pieces=pieces,
        algorithm=algorithm,
        byte_fallback=byte_fallback,
        dummy_prefix=bool(_number(normaliser, 3, 1)),
        keeps_text=not charsmap and not _number(normaliser, 4, 1),
        rest=rest,
    )


BYTE_PIECES = frozenset(f"<0x{value:02X}>" for value in range(256))


def _check_pieces(pieces: tuple[Piece, ...], path: Path | str) -> None:
    if not pieces:
        raise BadFile(path, "", "holds no pieces, so it is no SentencePiece model", REMEDY)
    seen: dict[str, int] = {}
    for id, piece in enumerate(pieces):
        if seen.setdefault(piece.text, id) != id:
            raise BadFile(path, f"piece {id}", f"{piece.text[:40]!r} stands at {seen[piece.text]} already", REMEDY)
        if (piece.text in BYTE_PIECES) != (piece.kind == Kind.BYTE):
            raise BadFile(path, f"piece {id}", f"{piece.text[:40]!r} is marked as {piece.kind.name}", REMEDY)
    unknown = sum(piece.kind == Kind.UNKNOWN for piece in pieces)
    if unknown != 1:
        raise BadFile(path, "pieces", f"{unknown} unknown pieces where there must be one", REMEDY)
    if any(piece.kind == Kind.UNUSED for piece in pieces):
        raise BadFile(path, "pieces", "some are marked unused", "LLaMA's models have none; train or convert anew")


def _number(fields: dict[int, int | bytes], number: int, default: int) -> int:
    value = fields.get(number, default)
    return value if isinstance(value, int) else default


def _piece(content: bytes, path: Path | str, start: int) -> Piece:
    text, score, kind = "", 0.0, 1
    for _, number, wire, value, _ in _records(content, path, start):
        if number == 1 and isinstance(value, bytes):
            try:
                text = value.decode("utf-8")
            except UnicodeDecodeError as error:
                raise BadFile(path, f"byte {start}", "a piece that is not UTF-8", REMEDY) from error
        elif number == 2 and wire == 5 and isinstance(value, bytes):
            score = float(struct.unpack("<f", value)[0])
        elif number == 3 and isinstance(value, int):
            kind = value
        elif number in (1, 2, 3):
            raise BadFile(path, f"byte {start}", f"field {number} of a piece has wire type {wire}", REMEDY)
    if not text or "\0" in text or len(content) > MAX_PIECE_BYTES:
        raise BadFile(path, f"byte {start}", "a piece that is empty, holds NUL or is too long", REMEDY)
    if not math.isfinite(score):
        raise BadFile(path, f"byte {start}", f"the piece {text[:40]!r} has score {score}", REMEDY)
    if kind not in Kind._value2member_map_:
        raise BadFile(path, f"byte {start}", f"the piece {text[:40]!r} has type {kind}", REMEDY)
    return Piece(text, score, Kind(kind))


def _piece_record(piece: Piece) -> bytes:
    text = piece.text.encode("utf-8")
    content = b"\x0a" + _varint_bytes(len(text)) + text + b"\x15" + struct.pack("<f", piece.score)
    if piece.kind != Kind.NORMAL:
        content += b"\x18" + bytes([piece.kind])
    return b"\x0a" + _varint_bytes(len(content)) + content


# --- the wire format of protocol buffers ------------------------------------------------------------------------------

Record = tuple[int, int, int, int | bytes, int]


def _records(data: bytes, path: Path | str, origin: int) -> Iterator[Record]:
    """(start, field number, wire type, content, end) of each record; every length is checked before it is used."""
    place = 0
    while place < len(data):
        start = place
        tag, place = _varint(data, place, path, origin)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise BadFile(path, f"byte {origin + start}", "field number 0", REMEDY)
        content: int | bytes
        if wire == 0:
            content, place = _varint(data, place, path, origin)
        elif wire in (1, 2, 5):
            length = {1: 8, 5: 4}.get(wire, 0)
            if wire == 2:
                length, place = _varint(data, place, path, origin)
            if length > len(data) - place:
                found = f"{length} bytes announced, {len(data) - place} left"
                raise BadFile(path, f"byte {origin + start}", found, REMEDY)
            content, place = data[place : place + length], place + length
        else:
            raise BadFile(path, f"byte {origin + start}", f"wire type {wire}, which no model uses", REMEDY)
        yield start, number, wire, content, place


def _varint(data: bytes, place: int, path: Path | str, origin: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise BadFile(path, f"byte {origin + place}", "ends inside a number", REMEDY)
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise BadFile(path, f"byte {origin + place}", "a number of more than ten bytes", REMEDY)


def _varint_bytes(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


# --- the normaliser's compiled character map --------------------------------------------------------------------------


def _check_charsmap(blob: bytes, path: Path | str) -> None:
    """A length, a double-array trie (darts-clone units), then NUL-ended texts; no step or value may leave the map."""
    length = int.from_bytes(blob[:4], "little")
    if len(blob) < 8 or length % 4 or not 0 < length <= len(blob) - 5 or blob[-1] != 0:
        raise BadFile(path, "normaliser", "its character map does not hold together", REMEDY)
    units = array("I", blob[4 : 4 + length])
    texts = len(blob) - 4 - length
    leaves = {place ^ _offset(unit) for place, unit in enumerate(units) if not unit & 0x80000000 and unit & 0x100}
    for place, unit in enumerate(units):
        if place in leaves:
            outside = (unit & 0x7FFFFFFF) >= texts
        else:
            outside = not unit & 0x80000000 and ((place ^ _offset(unit)) | 0xFF) >= len(units)
        if outside:
            raise BadFile(path, "normaliser", f"unit {place} of its character map points outside", REMEDY)


def _offset(unit: int) -> int:
    return (unit >> 10) << ((unit & 0x200) >> 6)
