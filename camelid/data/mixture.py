"""Mixtures: one token stream out of several corpora, by proportion, by epochs, or by proportion under caps.

Each source is an endless stream of whole documents: epoch after epoch, each epoch in a keyed order of its own. Document
j of source s begins at token P_s(j) of that stream. The mixture emits all documents in the order of P_s(j) / w_s (ties:
in the order of the sources), where w_s is the share of the source. So each source has at any place given what its share
asks for and less than one document more, and a place in the mixed stream is found by bisection:

    G(v) = sum over s of the tokens of the documents with P_s(j) / w_s < v        grows with v; find v where G passes p

Nothing is replayed, whatever the place. The cost is an array of n prefix sums for each epoch of a source in use. For
large sources they are laid down once in a folder of the cache and mapped from then on: a run that goes on at its
thousand-millionth sample reads the few pages that its bisection touches.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from camelid.data.corpus import Corpus, little_endian
from camelid.durable import Draft, commit, locked, verify
from camelid.errors import BadFile, ProblemList, did_you_mean
from camelid.randomness import Order, key, order

KEPT_EPOCHS = 8  # epochs of one source whose prefix sums are remembered
LARGE = 1 << 15  # ours: from so many documents on, prefix sums are laid down on the disk; fewer take milliseconds
LAID = "camelid epoch 1"  # what a folder of prefix sums is of; a new one where the bytes, or what they mean, change
WAIT = 600.0  # seconds to wait for another process that lays down the same epoch


@dataclass(frozen=True)
class Piece:
    """Tokens [begin, end) of a document of a source, in its pass number `epoch` over that source."""

    source: str
    document: int
    epoch: int
    begin: int
    end: int


@dataclass(frozen=True)
class Share:
    """What one source gives to the whole mixture: asked for and granted part, tokens, and passes over the source."""

    source: str
    asked: float  # part of all tokens; 0..1
    granted: float  # differs from `asked` only where a cap moved tokens to other sources
    tokens: int
    epochs: float


class Mixture:
    """Positions 0 .. tokens-1 of a mixed stream; `pieces` says which document of which source lies where.

    Made by `by_proportion` or `by_epochs`. `cache` is a folder where the prefix sums of large sources are kept.
    """

    def __init__(
        self,
        corpora: Mapping[str, Corpus],
        weights: Mapping[str, Fraction],
        tokens: int,
        *,
        seed: int,
        cache: Path | None = None,
    ) -> None:
        self.corpora = {name: corpora[name] for name, weight in weights.items() if weight > 0}
        self.tokens, self.seed = tokens, seed
        self._names = tuple(self.corpora)
        self._streams = [_Stream(name, self.corpora[name], seed, cache) for name in self._names]
        scale = math.lcm(*(weights[name].denominator for name in self._names))
        shares = [int(weights[name] * scale) for name in self._names]
        common = math.lcm(*shares)
        self._strides = [common // share for share in shares]  # key of a document: its begin in the source times this
        self._asked = {name: float(weight / sum(weights.values())) for name, weight in weights.items()}

    @classmethod
    def by_proportion(
        cls,
        corpora: Mapping[str, Corpus],
        proportions: Mapping[str, float],
        tokens: int,
        *,
        seed: int,
        most_epochs: Mapping[str, float] | float | None = None,
        cache: Path | None = None,
    ) -> Mixture:
        """`tokens` tokens of which each source gives its part; parts need not sum to 1.

        A source is repeated as often as its part needs, at most `most_epochs` times where that is given: the tokens it
        may not give go to the other sources in their proportions, over the whole run (`shares` tells).
        Raises UsageError for unknown names, impossible numbers, empty sources, and budgets beyond all caps.
        """
        asked = _checked(corpora, proportions, "proportion", tokens)
        total = sum(asked.values())
        parts = {name: value / total for name, value in asked.items()}
        caps = _caps(corpora, parts, most_epochs)
        granted = _under_caps(parts, caps, tokens)
        mixture = cls(corpora, granted, tokens, seed=seed, cache=cache)
        mixture._asked = {name: float(part) for name, part in parts.items()}
        return mixture

    @classmethod
    def by_epochs(
        cls,
        corpora: Mapping[str, Corpus],
        epochs: Mapping[str, float] | float,
        *,
        seed: int,
        cache: Path | None = None,
    ) -> Mixture:
        """Every source this many times, all mixed evenly so that they end together; whole epochs give each document
        exactly that often. A part of an epoch ends with the document that reaches it."""
        wanted = epochs if isinstance(epochs, Mapping) else dict.fromkeys(corpora, epochs)
        counts = _checked(corpora, wanted, "epochs", 1)
        weights = {name: count * corpora[name].tokens for name, count in counts.items()}
        mixture = cls(corpora, weights, 0, seed=seed, cache=cache)
        ends = [stream.border(math.ceil(weights[stream.name])) for stream in mixture._streams]
        mixture.tokens = sum(ends)
        return mixture

    @property
    def digest(self) -> str:
        """SHA-256 of everything that decides what lies where: seed, budget, shares, and every corpus."""
        sources = [(s.name, s.corpus.digest, stride) for s, stride in zip(self._streams, self._strides, strict=True)]
        return hashlib.sha256(repr(("mixture", self.seed, self.tokens, sources)).encode()).hexdigest()

    def shares(self) -> list[Share]:
        """What each source gives, for people to read before the run; tokens are exact."""
        given = self.given(self.tokens)
        return [
            Share(name, self._asked[name], count / self.tokens, count, count / self.corpora[name].tokens)
            for name, count in given.items()
        ]

    def given(self, position: int) -> dict[str, int]:
        """How many of the first `position` tokens come from each source."""
        if position == 0:
            return dict.fromkeys(self._names, 0)
        value, source, begin, offset = self._find(position - 1)
        counts = {name: self._after(index, value, source) for index, name in enumerate(self._names)}
        counts[self._names[source]] = begin + offset + 1
        return counts

    def item(self, position: int) -> Piece:
        """The whole document that covers this position of the stream."""
        if not 0 <= position < self.tokens:
            raise IndexError(f"position {position} is outside a mixture of {self.tokens} tokens")
        _, source, begin, _ = self._find(position)
        document, epoch, length = self._streams[source].document(begin)
        return Piece(self._names[source], document, epoch, 0, length)

    def pieces(self, start: int, stop: int) -> Iterator[Piece]:
        """What covers positions [start, stop), in order; the first and last piece may be parts of documents."""
        if not 0 <= start <= stop <= self.tokens:
            raise IndexError(f"positions {start}..{stop} are outside a mixture of {self.tokens} tokens")
        if start == stop:
            return
        value, source, begin, offset = self._find(start)
        ahead = [(value, source, begin)]
        for index, stride in enumerate(self._strides):
            if index != source:
                following = self._after(index, value, source)
                ahead.append((following * stride, index, following))
        heapq.heapify(ahead)
        left = stop - start
        while left > 0:
            value, source, begin = ahead[0]
            document, epoch, length = self._streams[source].document(begin)
            end = min(length, offset + left)
            yield Piece(self._names[source], document, epoch, offset, end)
            left -= end - offset
            offset = 0
            heapq.heapreplace(ahead, ((begin + length) * self._strides[source], source, begin + length))

    def _after(self, index: int, value: int, source: int) -> int:
        """Where the next document of source `index` begins once the document (value, source) was emitted."""
        stride = self._strides[index]
        first = -(-value // stride) if index > source else value // stride + 1
        return self._streams[index].border(first)

    def _before(self, value: int) -> int:
        """G: tokens of all documents whose key is below `value`."""
        return sum(
            stream.border(-(-value // stride)) for stream, stride in zip(self._streams, self._strides, strict=True)
        )

    def _around(self, position: int) -> tuple[int, int]:
        """Keys between which the document that covers `position` has its own: _before(low) <= position < _before(high).

        Found by doubling steps from where the shares alone would put it, which no document's length moves far.
        """
        guess, step = math.floor(position / sum(Fraction(1, stride) for stride in self._strides)), 1
        low, high = guess, guess + 1
        while self._before(low) > position:
            low, step = max(0, low - step), 2 * step
        step = 1
        while self._before(high) <= position:
            high, step = high + step, 2 * step
        return low, high

    def _find(self, position: int) -> tuple[int, int, int, int]:
        """Key, source index, begin in the source's stream, and offset of `position` in the document that covers it."""
        low, high = self._around(position)
        while high - low > 1:
            middle = (low + high) // 2
            if self._before(middle) <= position:
                low = middle
            else:
                high = middle
        reached = self._before(low)
        for index, (stream, stride) in enumerate(zip(self._streams, self._strides, strict=True)):
            begin, rest = divmod(low, stride)
            if rest == 0 and stream.border(begin) == begin:
                length = stream.document(begin)[2]
                if reached + length > position:
                    return low, index, begin, position - reached
                reached += length
        raise AssertionError("bisection ends on a document's key")


class _Stream:
    """A source as an endless stream of whole documents, epoch after epoch, each in its own keyed order."""

    def __init__(self, name: str, corpus: Corpus, seed: int, cache: Path | None) -> None:
        self.name, self.corpus, self._seed = name, corpus, seed
        self.tokens = corpus.tokens
        self._cache = cache if len(corpus) >= LARGE else None
        self._epoch = lru_cache(maxsize=KEPT_EPOCHS)(self._laid_out)

    def _laid_out(self, epoch: int) -> tuple[Order | NDArray[np.int64], NDArray[np.int64]]:
        """The documents in this epoch's order, and the n + 1 borders between them."""
        words = (self._seed, "mixture", self.name, self.corpus.digest, epoch)
        shuffle = order(key(*words), len(self.corpus))
        if self._cache is None:
            documents = shuffle.take(np.arange(len(self.corpus)))
            return documents, _borders(self.corpus, documents)
        named = hashlib.sha256(repr((LAID, *words)).encode()).hexdigest()
        return shuffle, _mapped_borders(self._cache / f"epoch-{named[:32]}", self.corpus, shuffle)

    def border(self, place: int) -> int:
        """The first border between documents at or after this place."""
        epoch, rest = divmod(place, self.tokens)
        if rest == 0:
            return place
        borders = self._epoch(epoch)[1]
        return epoch * self.tokens + int(borders[np.searchsorted(borders, rest, side="left")])

    def document(self, begin: int) -> tuple[int, int, int]:
        """Document, epoch and length of what begins at this border; documents without tokens are passed over.

        Raises BadFile where borders kept on the disk are not those of the corpus.
        """
        epoch, rest = divmod(begin, self.tokens)
        documents, borders = self._epoch(epoch)
        turn = int(np.searchsorted(borders, rest, side="right")) - 1
        document, length = int(documents[turn]), int(borders[turn + 1] - borders[turn])
        if length != self.corpus.starts[document + 1] - self.corpus.starts[document]:
            found = f"document {document} of {self.name} ends elsewhere"
            raise BadFile(self._cache or "", f"borders of epoch {epoch}", found, "remove the cache's epoch- folders")
        return document, epoch, length


def _borders(corpus: Corpus, documents: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of these documents begins, laid one after another, and the end."""
    borders = np.zeros(len(corpus) + 1, np.int64)
    np.cumsum(corpus.lengths[documents], out=borders[1:])
    return borders


def _mapped_borders(path: Path, corpus: Corpus, shuffle: Order) -> NDArray[np.int64]:
    """The same, mapped from a committed folder that is made where it is missing.

    Opening costs nothing that grows with the corpus: the bytes were verified when they were made, and each border that
    is used is held against the corpus.
    """
    if not path.exists():
        with locked(path, wait=WAIT):
            if not path.exists():
                _lay_down(path, _borders(corpus, shuffle.take(np.arange(len(corpus)))))
    manifest = verify(path, contents=False)
    if manifest.meta.get("layout") != LAID or manifest.files["borders"].bytes != 8 * (len(corpus) + 1):
        raise BadFile(path, "manifest.json", f"is no {LAID!r} of this corpus", "remove it; it will be made again")
    return np.memmap(path / "borders", "<i8", mode="r")


def _lay_down(path: Path, borders: NDArray[np.int64]) -> None:
    def fill(draft: Draft) -> None:
        draft.write("borders", little_endian(borders))

    commit(path, fill, meta={"layout": LAID}, needed=borders.nbytes)


def _checked(
    corpora: Mapping[str, Corpus], numbers: Mapping[str, float], word: str, tokens: int
) -> dict[str, Fraction]:
    problems = ProblemList()
    if tokens < 1:
        problems.add("tokens", f"{tokens}", "ask for at least one")
    for name in numbers:
        if name not in corpora:
            problems.add(f"{word}.{name}", "no such source", did_you_mean(name, corpora))
    for name, corpus in corpora.items():
        number = numbers.get(name)
        if number is None:
            problems.add(f"{word}.{name}", "is missing", "give 0 to leave a source out")
        elif not (math.isfinite(number) and number >= 0):
            problems.add(f"{word}.{name}", f"{number}", "give a finite number, 0 or more")
        elif number > 0 and corpus.tokens == 0:
            problems.add(f"{word}.{name}", f"{number} of a source without tokens", "give 0, or data")
    if not problems.problems and not any(numbers.values()):
        problems.add(word, "every source has 0", "give at least one a share")
    problems.raise_usage()
    return {name: Fraction(str(numbers[name])) for name in corpora if numbers[name] > 0}


def _caps(
    corpora: Mapping[str, Corpus], parts: Mapping[str, Fraction], most_epochs: Mapping[str, float] | float | None
) -> dict[str, Fraction]:
    if most_epochs is None:
        return {}
    given = most_epochs if isinstance(most_epochs, Mapping) else dict.fromkeys(parts, most_epochs)
    problems = ProblemList()
    for name, most in given.items():
        if name not in corpora:
            problems.add(f"most_epochs.{name}", "no such source", did_you_mean(name, corpora))
        elif not (math.isfinite(most) and most > 0):
            problems.add(f"most_epochs.{name}", f"{most}", "give a finite number above zero")
    problems.raise_usage()
    return {name: Fraction(str(most)) * corpora[name].tokens for name, most in given.items() if name in parts}


def _under_caps(parts: Mapping[str, Fraction], caps: Mapping[str, Fraction], tokens: int) -> dict[str, Fraction]:
    """Shares in the order of `parts`: in proportion, but no source beyond its cap; what is over goes to the others."""
    fixed: dict[str, Fraction] = {}
    while True:
        left = tokens - sum(fixed.values(), Fraction())
        free = sum(part for name, part in parts.items() if name not in fixed)
        if not free:
            _refuse_beyond(caps, tokens, left)
            return {name: fixed[name] for name in parts}
        given = {name: fixed.get(name, left * part / free) for name, part in parts.items()}
        over = {name: cap for name, cap in caps.items() if given[name] > cap}
        if not over:
            return given if fixed else dict(parts)
        fixed |= over


def _refuse_beyond(caps: Mapping[str, Fraction], tokens: int, missing: Fraction) -> None:
    problems = ProblemList()
    if missing > 0:
        found = f"{tokens} asked, {math.floor(sum(caps.values()))} there under most_epochs"
        problems.add("tokens", found, "ask for fewer, or raise the caps")
    problems.raise_usage()
