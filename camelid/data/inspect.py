"""What a person wants to see of a corpus before training on it: samples token by token, and counts of everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from camelid.data.corpus import Corpus
from camelid.tokenizers.protocol import Tokenizer

if TYPE_CHECKING:
    from rich.text import Text

LEARNED, CONTEXT, CONTROL = "bold green", "dim", "reverse"  # how rich shows a piece
OPEN, CLOSE = "⟦", "⟧"  # how plain text shows where the learned part begins and ends


@dataclass(frozen=True)
class Shown:
    """One token of a sample: its id, how people write it, whether its id is learned, whether it is a control token."""

    id: int
    piece: str
    learned: bool
    control: bool


@dataclass(frozen=True)
class Counts:
    """A corpus in numbers. `histogram` counts sequences by length: (shortest, longest, how many), without gaps."""

    sequences: int
    tokens: int
    supervised: int  # targets in the loss
    shortest: int
    median: float
    longest: int
    histogram: tuple[tuple[int, int, int], ...]

    @property
    def share(self) -> float:
        """The part of all tokens that counts in the loss."""
        return self.supervised / self.tokens if self.tokens else 0.0


def sample(corpus: Corpus, index: int, tokenizer: Tokenizer) -> tuple[Shown, ...]:
    """One sequence, token by token. The first token counts as context whatever its mark: nothing predicts it."""
    marks, controls = corpus.marks(index), set(tokenizer.controls.values())
    return tuple(
        Shown(
            int(id), tokenizer.piece(int(id)), place > 0 and (marks is None or bool(marks[place])), int(id) in controls
        )
        for place, id in enumerate(corpus.sequence(index))
    )


def counts(corpus: Corpus, *, bins: int = 12) -> Counts:
    """Counts of a corpus, its lengths in at most `bins` equal bins."""
    lengths = corpus.lengths
    if lengths.size == 0:
        return Counts(0, 0, 0, 0, 0.0, 0, ())
    low, high = int(lengths.min()), int(lengths.max())
    width = -(-(high - low + 1) // bins)
    found = np.bincount((lengths - low) // width)
    histogram = tuple((low + i * width, low + (i + 1) * width - 1, int(count)) for i, count in enumerate(found))
    return Counts(len(corpus), corpus.tokens, corpus.supervised, low, float(np.median(lengths)), high, histogram)


def plain(shown: tuple[Shown, ...]) -> str:
    """The sample as text without colours: ⟦ and ⟧ around what is learned."""
    text, within = "", False
    for token in shown:
        if token.learned != within:
            text += OPEN if token.learned else CLOSE
            within = token.learned
        text += printable(token.piece)
    return text + (CLOSE if within else "")


def coloured(shown: tuple[Shown, ...]) -> Text:
    """The sample for rich: learned tokens bold green, context dim, control tokens reversed."""
    from rich.text import Text

    text = Text()
    for token in shown:
        style = LEARNED if token.learned else CONTEXT
        text.append(printable(token.piece), style=f"{style} {CONTROL}" if token.control else style)
    return text


def printable(piece: str) -> str:
    """The piece with everything a terminal would obey, or that turns text around, written out as an escape.

    Line breaks stay, shown by a sign: data must not be able to write to the screen of whoever looks at it.
    """
    return "".join("⏎\n" if c == "\n" else c if c.isprintable() else ascii(c)[1:-1] for c in piece)
