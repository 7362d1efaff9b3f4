"""One text of the desk world with the truth about it, and the pen that writes both at once."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from camelid.desk import phrases
from camelid.desk.lexicon import article
from camelid.desk.world import Fact, World


@dataclass(frozen=True)
class Document:
    """A text and what is known about it.

    `facts` are the world's facts that the text states; `passing` are statements about strangers, true in this text
    only. `sums` are the equations in it as (left, sign, right, result). `duplicate_of` is the index, in the same
    source, of the document this one is a near copy of. `junk` marks text that tells nothing. `scores` are the votes
    of the answers in the order of the text. `output` is what the program prints. `parallel` holds pairs (sentence,
    its translation).
    """

    source: str
    index: int
    kind: str
    text: str
    facts: tuple[Fact, ...] = ()
    passing: tuple[Fact, ...] = ()
    sums: tuple[tuple[int, str, int, int], ...] = ()
    duplicate_of: int | None = None
    junk: bool = False
    scores: tuple[int, ...] = ()
    output: str | None = None
    parallel: tuple[tuple[str, str], ...] = ()


class Pen:
    """Writes one document: every sentence it hands out is noted in the ground truth at the same moment."""

    def __init__(self, world: World, draw: Random) -> None:
        self.world = world
        self.draw = draw
        self.facts: list[Fact] = []
        self.passing: list[Fact] = []
        self.sums: list[tuple[int, str, int, int]] = []

    def pick(self, choices: tuple[str, ...] | list[str]) -> str:
        return choices[int(self.draw.random() * len(choices))]

    def fact(self, fact: Fact, *, pronoun: str | None = None) -> str:
        """One sentence that states the fact, in one of its many forms; with `pronoun` the form may start with it."""
        (self.facts if fact.subject in self.world.about else self.passing).append(fact)
        form = self.pick(phrases.STATEMENTS[fact.relation])
        if pronoun is not None and form.startswith("{s} "):
            form = pronoun + form[3:]
        return form.format(s=fact.subject, v=fact.value, a=article(fact.value))

    def canonical(self, fact: Fact) -> str:
        """The plainest sentence for the fact, always the same."""
        (self.facts if fact.subject in self.world.about else self.passing).append(fact)
        return phrases.canonical(fact)

    def sum(self) -> tuple[int, str, int, int]:
        """A sum or difference within the world's numbers."""
        largest = self.world.size.largest
        left = int(self.draw.random() * (largest + 1))
        right = int(self.draw.random() * (largest + 1))
        if self.draw.random() < 0.5:
            equation = (left, "+", right, left + right)
        else:
            left, right = max(left, right), min(left, right)
            equation = (left, "-", right, left - right)
        self.sums.append(equation)
        return equation

    def document(
        self, source: str, index: int, kind: str, text: str, *, scores: tuple[int, ...] = (), output: str | None = None,
        parallel: tuple[tuple[str, str], ...] = (), junk: bool = False,
    ) -> Document:  # fmt: skip
        """The finished document with everything noted on the way."""
        return Document(
            source, index, kind, text, tuple(self.facts), tuple(self.passing), tuple(self.sums), None, junk, scores,
            output, parallel,
        )  # fmt: skip
