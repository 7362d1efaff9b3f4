"""Texts that hold runs of words of a held-out set, found so that nothing is tested on what was trained on.

A text is contaminated that shares a run of n words with an item (n = 13: Brown et al. 2020, appendix C). Runs are found
by number and then compared word by word. An item of fewer than n words holds no such run: it is counted, not forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from camelid.data.shingles import runs, words
from camelid.errors import ProblemList

RUN = 13  # words: Brown et al. 2020, appendix C


@dataclass(frozen=True)
class Shared:
    """A text that shares words with an item: both by number, and the first run they share."""

    text: int
    item: int
    run: str


@dataclass(frozen=True)
class Decontaminated:
    """What is left: `kept` and `removed` together are all texts, each once."""

    texts: int
    items: int
    short: int  # items of fewer words than a run, which cannot be looked for
    kept: tuple[int, ...]
    removed: tuple[Shared, ...]

    def lines(self) -> list[str]:
        """For people: how many went, and what could not be looked for."""
        said = [f"{len(self.kept)} of {self.texts} texts kept; {len(self.removed)} share words with a held-out item"]
        if self.short:
            said.append(f"{self.short} of {self.items} items are shorter than the run and were not looked for")
        return said


class HeldOut:
    """Items by their runs of n words. Raises UsageError where n is no count."""

    def __init__(self, items: Iterable[str], *, run: int = RUN) -> None:
        problems = ProblemList()
        if run < 1:
            problems.add("run", f"{run} words", "use 1 or more")
        problems.raise_usage()
        self.run, self.items, self.short = run, 0, 0
        self._words: list[list[str]] = []
        self._places: dict[int, list[tuple[int, int]]] = {}  # number of a run: items and where in each
        for number, text in enumerate(items):
            parts = words(text)
            self.items += 1
            self.short += len(parts) < run
            self._words.append(parts)
            for place, value in enumerate(runs(parts, run).tolist() if len(parts) >= run else ()):
                self._places.setdefault(value, []).append((number, place))

    def shared(self, text: str) -> tuple[int, str] | None:
        """The first item that the text shares a run with, and the run; None where there is none."""
        parts = words(text)
        if len(parts) < self.run:
            return None
        for begin, value in enumerate(runs(parts, self.run).tolist()):
            for item, place in self._places.get(value, ()):
                if self._words[item][place : place + self.run] == parts[begin : begin + self.run]:
                    return item, " ".join(parts[begin : begin + self.run])
        return None

    def clear(self, texts: Iterable[str]) -> Decontaminated:
        """Removes the texts that share a run with an item."""
        kept, removed, count = list[int](), list[Shared](), 0
        for count, text in enumerate(texts, 1):
            found = self.shared(text)
            if found is None:
                kept.append(count - 1)
            else:
                removed.append(Shared(count - 1, *found))
        return Decontaminated(count, self.items, self.short, tuple(kept), tuple(removed))
