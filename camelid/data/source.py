"""Records, texts and dialogues out of a file, streamed; what is wrong with it is said once and in full.

What a file is, its first bytes say (camelid/data/rows.py); what a record is, its fields say (camelid/data/formats.py).
No list of known data sets decides.

A row that cannot be used is never dropped in silence. With bad_rows="stop" the first one ends the yielding, the rest of
the file is searched for more of them, and BadData reports all: how many, and the first of them each with place and
reason. With "skip" they are counted in a `Rejected` that the caller hands in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar, get_args

from camelid.data import saved
from camelid.data.formats import DIALOGUES, Fields, Format, OneFormat, Unfit, formats
from camelid.data.formats import known as known_formats
from camelid.data.rows import BadRow, Row, TextUnit, opened, rows
from camelid.dialogue.message import Message
from camelid.errors import BadData, BadFile, Problem

BadRows = Literal["stop", "skip"]

SHOWN = 20  # bad rows reported one by one; the others are counted

T = TypeVar("T")


@dataclass
class Rejected:
    """Rows that could not be used: how many, and the first of them one by one."""

    count: int = 0
    first: list[Problem] = field(default_factory=list)

    def add(self, where: str, found: str) -> None:
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(Problem(where, found))

    def merge(self, other: Rejected) -> None:
        self.count += other.count
        self.first = (self.first + other.first)[:SHOWN]

    def error(self, where: str, seen: int, *, remedy: str = "") -> BadData:
        """All of it as one error: the count first, then row after row."""
        head = Problem(where, f"{self.count} of {seen} rows cannot be used", remedy)
        rest = self.count - len(self.first)
        more = [Problem(where, f"and {rest} more")] if rest else []
        return BadData([head, *self.first, *more])


class Dialogue(list[Message]):
    """The messages of one conversation, and `place`, where it was read ("file.json, row 7")."""

    def __init__(self, messages: list[Message], place: str = "") -> None:
        super().__init__(messages)
        self.place = place


def digest(path: Path | str) -> str:
    """SHA-256 of a file's bytes: with it caches are named, so that a changed file is a different one."""
    if saved.is_saved(Path(path)):
        return saved.digest(Path(path))
    with opened(Path(path)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recognise(path: Path | str, *, text: TextUnit | None = None) -> Format:
    """The format of the first record that has one. Raises BadFile or BadData where none has."""
    path, rejected, seen = Path(path), Rejected(), 0
    for row in rows(path, text):
        seen += 1
        try:
            if isinstance(row, BadRow):
                raise Unfit(row.found)
            return formats(row.data)[0]
        except Unfit as unfit:
            rejected.add(f"{path}, {row.place}", str(unfit))
            if seen == SHOWN:
                break
    if not seen:
        raise _empty(path)
    raise BadData(
        [Problem(str(path), f"none of the first {seen} rows has a known format", known_formats()), *rejected.first]
    )


def records(
    path: Path | str, *, text: TextUnit | None = None, bad_rows: BadRows = "stop", rejected: Rejected | None = None
) -> Iterator[Row]:
    """Every record with its place, whatever its fields; the settings are those of `documents`."""
    return _usable(Path(path), text, lambda row: row, bad_rows, rejected, None, known_formats())


def documents(
    path: Path | str,
    *,
    text: TextUnit | None = None,
    first: int | None = None,
    bad_rows: BadRows = "stop",
    rejected: Rejected | None = None,
) -> Iterator[str]:
    """The texts of a file in its order.

    text      None: see from the first bytes whether these are records, and take plain text line by line
              "line": plain text, every line a text (blank lines separate, they are no texts)
              "file": plain text, the whole file one text, kept exactly as it is
    first     stop after this many texts
    rejected  where bad rows are counted; needed with bad_rows="skip"

    Raises BadFile for a file that cannot be read on, BadData for rows that cannot be used.
    """
    reader = OneFormat(("text",))
    known = known_formats(reader.wanted)
    return _usable(Path(path), text, lambda row: reader.document(row.data), bad_rows, rejected, first, known)


def dialogues(
    path: Path | str,
    *,
    format: Format | None = None,
    fields: Fields | None = None,
    first: int | None = None,
    bad_rows: BadRows = "stop",
    rejected: Rejected | None = None,
) -> Iterator[Dialogue]:
    """The dialogues of a file in its order, each with the place it was read from.

    format    needed only where the records fit two formats at once
    fields    the columns of a table in none of the known formats
    first, rejected, and what is raised: as in `documents`
    """
    path = Path(path)
    reader = OneFormat(DIALOGUES if format is None else (format,), fields)
    known = known_formats(reader.wanted, fields)

    def read(row: Row) -> Dialogue:
        return Dialogue(reader.dialogue(row.data), f"{path}, {row.place}")

    return _usable(path, None, read, bad_rows, rejected, first, known)


def _usable(
    path: Path,
    text: TextUnit | None,
    read: Callable[[Row], T],
    bad_rows: BadRows,
    rejected: Rejected | None,
    first: int | None,
    known: str,
) -> Iterator[T]:
    if bad_rows not in get_args(BadRows):
        raise ValueError(f"bad_rows={bad_rows!r}: say 'stop' or 'skip'")
    if first is not None and first < 1:
        raise ValueError(f"first={first}: ask for at least one")
    if bad_rows == "skip" and rejected is None:
        raise ValueError("bad_rows='skip' needs `rejected=Rejected()`, or nobody would hear of the rows left out")
    return _stream(path, text, read, bad_rows, rejected if rejected is not None else Rejected(), first, known)


def _stream(
    path: Path,
    text: TextUnit | None,
    read: Callable[[Row], T],
    bad_rows: BadRows,
    rejected: Rejected,
    first: int | None,
    known: str,
) -> Iterator[T]:
    here, good, seen = Rejected(), 0, 0
    for row in rows(path, text):
        seen += 1
        try:
            if isinstance(row, BadRow):
                raise Unfit(row.found)
            value = read(row)
        except Unfit as unfit:
            here.add(f"{path}, {row.place}", str(unfit))
            continue
        good += 1
        if bad_rows == "skip" or here.count == 0:
            yield value
        if good == first:
            break
    rejected.merge(here)
    if here.count and good == 0:
        raise here.error(str(path), seen, remedy=known)
    if here.count and bad_rows == "stop":
        raise here.error(str(path), seen, remedy="correct them, or leave them out with --bad-rows skip")
    if seen == 0:
        raise _empty(path)


def _empty(path: Path) -> BadFile:
    return BadFile(path, "", "holds no records", "see whether the file was written to its end")
