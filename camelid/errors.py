"""The one family of errors. Each names the setting or file, what was found there, and the remedy.

CamelidError            exit code 1: a check failed, or the work could not be done
|- Problems             several problems found before work started, reported together
|  |- UsageError        exit code 2: a wrong key, path, size or value
|  `- BadData           rows of a data set that cannot be used
|- BadFile              a truncated, corrupt, mislabelled or hostile file
|- StoreError           the store could not take or give something: disk full, locked, not committed
`- NonFinite            a training step was refused because a loss or gradient was not finite
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar


class CamelidError(Exception):
    """Everything this package raises on purpose; the command line prints it without a traceback."""

    exit_code: ClassVar[int] = 1


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where (a setting or file), what was found, what to do about it."""

    where: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.found}" + (f"; {self.remedy}" if self.remedy else "")


class Problems(CamelidError):
    """All problems of one kind, found before any work started."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class UsageError(Problems):
    """What was asked for makes no sense as written."""

    exit_code: ClassVar[int] = 2


class BadData(Problems):
    """Rows of a data set that cannot be used, each named by file and line."""


class BadFile(CamelidError):
    """A file that is not what it claims to be: its path, the place in it, what was found there, and what to do."""

    def __init__(self, path: Path | str, place: str, found: str, remedy: str = "") -> None:
        self.path, self.place, self.found, self.remedy = Path(path), place, found, remedy
        place = f" ({place})" if place else ""
        super().__init__(f"{path}{place}: {found}" + (f"; {remedy}" if remedy else ""))


class StoreError(CamelidError):
    """The store could not take or give something; what it held before is untouched."""


class NonFinite(CamelidError):
    """A training step was refused: nothing non-finite was applied or committed."""


class ProblemList:
    """Collects problems so that they are reported at once: `add` them, then `raise_usage` or `raise_data`."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def add(self, where: str, found: str, remedy: str = "") -> None:
        self.problems.append(Problem(where, found, remedy))

    def raise_usage(self) -> None:
        if self.problems:
            raise UsageError(self.problems)

    def raise_data(self) -> None:
        if self.problems:
            raise BadData(self.problems)


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """A remedy for a misspelt word: the nearest choice, or else all of them if they are few; "" when neither helps."""
    known = list(choices)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"choose from {', '.join(known)}" if 0 < len(known) <= 12 else ""
