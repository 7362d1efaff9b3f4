"""Rules by which a text is left out of a corpus, each with its published number; the first that it breaks is told.

prose   of web pages and other running text: Rae et al. 2021 (Gopher), appendix A.1, "Quality Filtering". A word is a run of
        letters, digits and underscores (data/shingles.py), so that the rules and the search for repetitions mean the same.
code    of source files: what RedPajama v1 took for LLaMA's GitHub, whose own numbers were not published. Its rule of
        alphabetic characters per token is left out: it needs a tokenizer that is not known yet.

Nothing is learned here and nothing judged: a text that passes may still be bad.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from camelid.data.shingles import words

Kind = Literal["prose", "code"]

WORDS = (50, 100_000)  # of a text
MEAN_WORD = (3, 10)  # characters
SYMBOLS = 0.1  # hash signs, or ellipses, for each word
BULLETS = 0.9  # of lines that begin with a bullet point
ELLIPSES = 0.3  # of lines that end with an ellipsis
LETTERED = 0.8  # of words hold a letter
COMMON, OF_THEM = frozenset(("the", "be", "to", "of", "and", "that", "have", "with")), 2
LINE, MEAN_LINE = 1000, 100  # characters of the longest line, and of a line on average: RedPajama v1, GitHub
ALPHANUMERIC = 0.25  # of characters: RedPajama v1, GitHub


@dataclass(frozen=True)
class Broken:
    """A text, by number, and the first rule that it breaks."""

    text: int
    rule: str


@dataclass(frozen=True)
class Filtered:
    """What is left: `kept` and `removed` together are all texts, each once."""

    texts: int
    kept: tuple[int, ...]
    removed: tuple[Broken, ...]

    def lines(self) -> list[str]:
        """For people: how many went, and by which rules."""
        counts = Counter(broken.rule for broken in self.removed).most_common()
        return [f"{len(self.kept)} of {self.texts} texts kept", *(f"{count} removed: {rule}" for rule, count in counts)]


def filtered(texts: Iterable[str], kind: Kind) -> Filtered:
    """The texts that break none of the rules of their kind."""
    kept, removed, number, broken = list[int](), list[Broken](), -1, RULES[kind]
    for number, text in enumerate(texts):
        rule = broken(text)
        if rule is None:
            kept.append(number)
        else:
            removed.append(Broken(number, rule))
    return Filtered(number + 1, tuple(kept), tuple(removed))


def prose(text: str) -> str | None:
    """The first rule of running text that it breaks; None where it breaks none."""
    every = words(text)
    parts = [word for word in every if word.strip("_")]
    if not WORDS[0] <= len(parts) <= WORDS[1]:
        return f"fewer than {WORDS[0]} words" if len(parts) < WORDS[0] else f"more than {WORDS[1]:,} words"
    mean = sum(map(len, parts)) / len(parts)
    if not MEAN_WORD[0] <= mean <= MEAN_WORD[1]:
        return f"words of {'fewer than 3' if mean < MEAN_WORD[0] else 'more than 10'} characters on average"
    if text.count("#") > SYMBOLS * len(every):
        return "more than one hash sign for 10 words"
    if text.count("...") + text.count("…") > SYMBOLS * len(every):
        return "more than one ellipsis for 10 words"
    lines = text.splitlines()
    if _share(lines, lambda line: line.lstrip().startswith(("•", "-"))) > BULLETS:
        return "more than 90% of lines begin with a bullet point"
    if _share(lines, lambda line: line.rstrip().endswith(("...", "…"))) > ELLIPSES:
        return "more than 30% of lines end with an ellipsis"
    if _share(every, lambda word: any(map(str.isalpha, word))) < LETTERED:
        return "fewer than 80% of words hold a letter"
    if len(COMMON.intersection(every)) < OF_THEM:
        return f"fewer than {OF_THEM} of the words {', '.join(sorted(COMMON))}"
    return None


def code(text: str) -> str | None:
    """The first rule of source files that it breaks; None where it breaks none."""
    lengths = [len(line) for line in text.splitlines()]
    if not lengths:
        return "no line at all"
    if max(lengths) > LINE:
        return f"a line of more than {LINE:,} characters"
    if sum(lengths) > MEAN_LINE * len(lengths):
        return f"lines of more than {MEAN_LINE} characters on average"
    if _share(text, str.isalnum) < ALPHANUMERIC:
        return "fewer than 25% of characters are letters or digits"
    return None


RULES: Mapping[Kind, Callable[[str], str | None]] = {"prose": prose, "code": code}


def _share(parts: Sequence[str], holds: Callable[[str], bool]) -> float:
    return sum(map(holds, parts)) / len(parts)
