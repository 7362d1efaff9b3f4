"""The elements of a JSON array as bytes, one at a time, however long the array is: what is held is one element."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

# A whole string, a bracket, or a quote whose string does not end here; possessive, so that nothing makes it backtrack.
MARKS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}"]', re.DOTALL)
SCALAR = re.compile(rb'[^\s,\[\]{}"]*+')
BLANK = re.compile(rb"[ \t\r\n]*+")
CHUNK = 1 << 16  # bytes read at least


class Broken(Exception):
    """The text is no array: the offset of the place, and what was found there."""

    def __init__(self, offset: int, found: str) -> None:
        super().__init__(found)
        self.offset, self.found = offset, found


def elements(file: BinaryIO, longest: int, *, skip: int = 0) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of each element; brackets match in each, but it is not parsed.

    skip  bytes before the array's opening bracket to pass over (a byte order mark)

    Raises Broken where a bracket, comma or element is missing, or an element is longer than `longest` bytes.
    """
    window = _Window(file, longest)
    window.skip(skip)
    window.expect(b"[", "an array")
    mark = window.next()
    while mark != b"]":
        offset = window.offset
        yield offset, window.element(mark)
        mark = window.next()
        if mark == b",":
            window.skip(1)
            mark = window.next()
            if mark == b"]":
                raise Broken(window.offset, "a comma without a record after it")
        elif mark != b"]":
            raise window.unexpected(mark, "a comma or the closing bracket")
    window.expect(b"]", "the closing bracket")
    if rest := window.next():
        raise window.unexpected(rest, "the end of the file")


class _Window:
    """A part of a file that moves on: `data[at:]` is what comes next, and more is read when it is needed."""

    def __init__(self, file: BinaryIO, longest: int) -> None:
        self.file, self.longest = file, longest
        self.data, self.at, self.passed = b"", 0, 0

    @property
    def offset(self) -> int:
        return self.passed + self.at

    def more(self) -> bool:
        """Whether the window grew. It doubles, so that searching it again stays in proportion to its length."""
        kept = self.data[self.at :]
        chunk = self.file.read(max(CHUNK, len(kept)))
        self.passed += self.at
        self.data, self.at = kept + chunk, 0
        return bool(chunk)

    def skip(self, count: int) -> None:
        while len(self.data) - self.at < count and self.more():
            pass
        self.at += count

    def next(self) -> bytes:
        """The next byte that is no blank, not yet taken; b"" at the end of the file."""
        while True:
            blank = BLANK.match(self.data, self.at)
            self.at = blank.end() if blank else self.at
            if self.at < len(self.data) or not self.more():
                return self.data[self.at : self.at + 1]

    def expect(self, mark: bytes, due: str) -> None:
        if (found := self.next()) != mark:
            raise self.unexpected(found, due)
        self.at += 1

    def unexpected(self, found: bytes, due: str) -> Broken:
        return Broken(
            self.offset, f"{found!r} where {due} is due" if found else "the file ends in the middle of the array"
        )

    def element(self, mark: bytes) -> bytes:
        if mark in (b"{", b"[", b'"'):
            return self._enclosed()
        word = self._word()
        if not word:
            raise self.unexpected(mark, "a record")
        return word

    def _enclosed(self) -> bytes:
        """From the bracket or quote that is next to the one that closes it."""
        depth = done = 0  # bytes of the element that were searched
        while True:
            place = self.at + done
            for found in MARKS.finditer(self.data, place):
                kind = found.group()
                if kind == b'"':  # its string ends beyond the window
                    place = found.start()
                    break
                place = found.end()
                depth += 1 if kind in (b"{", b"[") else -1 if kind in (b"}", b"]") else 0
                if depth == 0:
                    whole = self.data[self.at : place]
                    self._check(len(whole))
                    self.at = place
                    return whole
            else:
                place = len(self.data)
            done = place - self.at
            self._check(len(self.data) - self.at)
            if not self.more():
                raise self.unexpected(b"", "")

    def _word(self) -> bytes:
        while True:
            word = SCALAR.match(self.data, self.at)
            end = word.end() if word else self.at
            self._check(end - self.at)
            if end < len(self.data):
                found = self.data[self.at : end]
                self.at = end
                return found
            if not self.more():
                raise self.unexpected(b"", "")

    def _check(self, length: int) -> None:
        if length > self.longest:
            raise Broken(self.offset, f"a record longer than {self.longest} bytes begins here, or a quote is left open")
