"""From ids to text: every id stands for some bytes, control ids for none; characters may spread over several ids."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from camelid.errors import ProblemList


def utf8(text: str) -> bytes:
    """The text as UTF-8. Raises BadData for a lone surrogate, which is no character and has no UTF-8 form."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        problems = ProblemList()
        found = f"U+{ord(text[error.start]):04X} at character {error.start + 1} is half a surrogate pair, no character"
        problems.add("text", found, "read the text as UTF-8, or put U+FFFD in its place")
        problems.raise_data()
        raise


@dataclass(frozen=True)
class ByteTable:
    """The bytes of each id. With `prefixed`, text that starts carries one leading space that nobody wrote."""

    pieces: Sequence[bytes]
    prefixed: bool = False

    def decode(self, ids: Iterable[int], *, starts: bool) -> str:
        """Text of the ids; bytes that are no UTF-8 become U+FFFD. Raises UsageError for an id outside the table."""
        joined = b"".join([self.bytes_of(id) for id in ids])
        if starts and self.prefixed:
            joined = joined.removeprefix(b" ")
        return joined.decode("utf-8", "replace")

    def bytes_of(self, id: int) -> bytes:
        """What the id stands for; b"" for a control id."""
        if not 0 <= id < len(self.pieces):
            problems = ProblemList()
            problems.add("ids", f"found {id}", f"this tokenizer has ids 0 to {len(self.pieces) - 1}")
            problems.raise_usage()
        return self.pieces[id]

    def stream(self, *, starts: bool) -> ByteStream:
        """A decoder for ids that arrive one at a time."""
        return ByteStream(self, starts and self.prefixed)


class ByteStream:
    """Shows the characters that are complete, and keeps the bytes of one that is not."""

    def __init__(self, table: ByteTable, drop_space: bool) -> None:
        self._table, self._drop_space = table, drop_space
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:
        """The text that this id settles."""
        new = self._table.bytes_of(id)
        if new and self._drop_space:
            new, self._drop_space = new.removeprefix(b" "), False
        return self._decoder.decode(new)

    def finish(self) -> str:
        """U+FFFD where the last character never became complete, as in the whole decoding; else ""."""
        return self._decoder.decode(b"", final=True)


def grown(controls: Mapping[str, int], size: int, names: Sequence[str], texts: Collection[str]) -> dict[str, int]:
    """Ids for new control names, from `size` on; names that are controls already keep theirs.

    Raises UsageError for a name that is empty or stands for text already.
    """
    problems = ProblemList()
    for name in names:
        if not name or (name in texts and name not in controls):
            problems.add(
                "control token", f"{name!r} is {'a piece of text already' if name else 'no name'}", "choose another"
            )
    problems.raise_usage()
    fresh = [name for name in dict.fromkeys(names) if name not in controls]
    return {name: size + place for place, name in enumerate(fresh)}
