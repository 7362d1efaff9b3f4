"""A JSON object read strictly: every value is checked for type and range, and all that is wrong is told at once."""

from __future__ import annotations

from pathlib import Path

from camelid.errors import BadFile

MAX_SIZE = 2**31 - 1  # of any single width, count or id


class Table:
    """A JSON object being read: each method takes one key and checks it; `finish` raises all complaints together."""

    def __init__(self, path: Path, content: object) -> None:
        if not isinstance(content, dict):
            raise BadFile(path, "", f"holds a {type(content).__name__} where an object is needed", "see the file")
        self.path, self.content, self.wrong = path, content, list[str]()

    def complain(self, key: str, found: str, remedy: str = "") -> None:
        self.wrong.append(f"{key[:80]}: {found}" + (f" ({remedy})" if remedy else ""))

    def finish(self) -> None:
        if self.wrong:
            more = f"; and {len(self.wrong) - 8} more" if len(self.wrong) > 8 else ""
            raise BadFile(self.path, "", "; ".join(self.wrong[:8]) + more, "correct the file, or use another folder")

    def count(self, key: str, *, least: int = 1, most: int = MAX_SIZE) -> int | None:
        value = self.content.get(key)
        if value is None:
            return None
        if type(value) is not int or not least <= value <= most:
            self.complain(key, f"{short(value)} is no whole number from {least} to {most}")
            return None
        return value

    def real(self, key: str) -> float | None:
        value = self.content.get(key)
        if value is None:
            return None
        if type(value) not in (int, float) or not 0 <= value < 1e30:
            self.complain(key, f"{short(value)} is no number from 0 to 1e30")
            return None
        return float(value)

    def must_be(self, key: str, allowed: tuple[object, ...], remedy: str) -> None:
        value = self.content.get(key)
        if not any(type(value) is type(choice) and value == choice for choice in allowed):
            self.complain(key, f"{short(value)} cannot be used", remedy)

    def ids(self, key: str) -> tuple[int, ...]:
        value = self.content.get(key)
        if value is None:
            return ()
        listed = value if isinstance(value, list) else [value]
        if len(listed) > 64 or not all(type(item) is int and -1 <= item <= MAX_SIZE for item in listed):
            self.complain(key, f"{short(value)} is no token id")
            return ()
        return tuple(item for item in listed if item >= 0)  # -1: how LLaMA's first exports said "none"

    def id(self, key: str) -> int | None:
        found = self.ids(key)
        if len(found) > 1:
            self.complain(key, f"{len(found)} ids where one is needed")
        return found[0] if found else None


def short(value: object) -> str:
    """A value as people may read it, however large or hostile."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**20:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, str):
        return repr(value[:60])
    if isinstance(value, list | dict):
        return f"a {type(value).__name__} of {len(value)}"
    return repr(value)
