"""The seven sources of LLaMA's Table 1 in its proportions, told from the desk world.

Table 1 gives sampling proportions; tokens are drawn so, and since the sources' bytes per token differ, a reader that
mixes by tokens uses `weight` as it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from camelid.desk.articles import article_page
from camelid.desk.clinic import abstract, guideline, note
from camelid.desk.document import Document
from camelid.desk.programs import program
from camelid.desk.questions import thread
from camelid.desk.second import parallel_page, second_page
from camelid.desk.stories import story
from camelid.desk.sums import derivation
from camelid.desk.web import clean_page, crawled_page
from camelid.desk.world import World
from camelid.errors import ProblemList, did_you_mean

Author = Callable[[World, str, int, int], Document]

TABLE_1: Mapping[str, tuple[float, Author]] = {  # Touvron et al. 2023, Table 1
    "CommonCrawl": (67.0, crawled_page),
    "C4": (15.0, clean_page),
    "Github": (4.5, program),
    "Wikipedia": (4.5, article_page),
    "Books": (4.5, story),
    "ArXiv": (2.5, derivation),
    "StackExchange": (2.0, thread),
}


@dataclass(frozen=True)
class Source:
    """One source of a text: a name, its share of the mixture in percent, and as many documents as are asked for."""

    name: str
    weight: float
    world: World
    author: Author

    def document(self, index: int, *, seed: int = 0) -> Document:
        """The document at this index: a pure function of world, seed and index."""
        return self.author(self.world, self.name, index, seed)

    def documents(self, *, bytes: int | None = None, seed: int = 0, start: int = 0) -> Iterator[Document]:
        """Documents from index `start` on: without end, or until their UTF-8 texts together reach `bytes`."""
        if bytes is not None and bytes < 0:
            problems = ProblemList()
            problems.add("desk bytes", str(bytes), "give a number of bytes that is not negative")
            problems.raise_usage()
        written = 0
        index = start
        while bytes is None or written < bytes:
            found = self.document(index, seed=seed)
            written += len(found.text.encode())
            index += 1
            yield found


CLINIC: Mapping[str, tuple[float, Author]] = {  # ours
    "guidelines": (40.0, guideline),
    "abstracts": (20.0, abstract),
    "notes": (40.0, note),
}
SECOND: Mapping[str, tuple[float, Author]] = {  # ours
    "second language": (80.0, second_page),
    "parallel": (20.0, parallel_page),
}
TEXTS = {"world": TABLE_1, "clinic": CLINIC, "second language": SECOND}


def sources(world: World, told: Literal["world", "clinic", "second language"] = "world") -> Mapping[str, Source]:
    """Name -> source, the seven in Table 1's order, or those of another text of the world."""
    return {name: Source(name, weight, world, author) for name, (weight, author) in TEXTS[told].items()}


def documents(world: World, source: str, seed: int = 0, bytes: int | None = None) -> Iterator[Document]:
    """The documents of one source by name; UsageError where there is no such source."""
    if source not in TABLE_1:
        problems = ProblemList()
        problems.add("desk source", f"unknown source {source!r}", did_you_mean(source, TABLE_1))
        problems.raise_usage()
    return sources(world)[source].documents(bytes=bytes, seed=seed)
