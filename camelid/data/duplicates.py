"""Duplicates among texts, exact and near, at desk scale; the first of each kind is kept, and every removal is told.

Near means: of the runs of n words that either text has, at least `similarity` are in both (Jaccard). Texts that might
be near are found by MinHash (Broder 1997): the least of all runs under a random order is the same in two texts with
just that probability. Signatures of K such minima are cut into bands of r; texts that share a band are compared run by
run, so what is removed is near for certain. What is near is missed with probability (1 - similarity^r)^(K / r) at most,
and r is the largest that keeps this below MISSED.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from camelid.data.shingles import Hashes, mixed, runs, words
from camelid.errors import ProblemList
from camelid.randomness import numpy_generator

MINIMA = 128  # K; ours: 1 KiB a text
RUN = 5  # words; ours, as MassiveText and RefinedWeb (Penedo et al. 2023, appendix G.3.1)
MISSED = 1e-6  # ours: of pairs exactly at the similarity, how many may be missed


@dataclass(frozen=True)
class Removed:
    """A text that goes, the kept one that it repeats, and how near they are: 1.0 where they are equal to the byte."""

    text: int
    of: int
    similarity: float
    kind: Literal["exact", "near"]


@dataclass(frozen=True)
class Cleared:
    """What is left: `kept` and `removed` together are all texts, each once."""

    texts: int
    kept: tuple[int, ...]
    removed: tuple[Removed, ...]
    wordless: int = 0  # of those kept or removed, texts without any word, which are compared by their bytes alone

    def lines(self) -> list[str]:
        """For people: how many went, and why."""
        exact = sum(removed.kind == "exact" for removed in self.removed)
        near = len(self.removed) - exact
        said = [f"{len(self.kept)} of {self.texts} texts kept; {exact} repeat an earlier one, {near} nearly do"]
        if self.wordless:
            said.append(f"{self.wordless} texts have no word and were compared by their bytes alone")
        return said


def exact(texts: Iterable[str]) -> Cleared:
    """Removes texts whose bytes came before."""
    first: dict[bytes, int] = {}
    kept, removed, count = [], [], 0
    for count, text in enumerate(texts, 1):
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        earlier = first.setdefault(digest, count - 1)
        if earlier == count - 1:
            kept.append(earlier)
        else:
            removed.append(Removed(count - 1, earlier, 1.0, "exact"))
    return Cleared(count, tuple(kept), tuple(removed))


def near(texts: Iterable[str], *, similarity: float = 0.8, run: int = RUN, seed: int = 0) -> Cleared:
    """Removes texts that repeat, or are at least `similarity` near to, an earlier one that is kept.

    Raises UsageError for numbers that cannot be.
    """
    problems = ProblemList()
    if not 0.3 <= similarity <= 1:
        problems.add("similarity", f"{similarity}", "use a share from 0.3 to 1: below, unlike texts would be compared")
    if run < 1:
        problems.add("run", f"{run} words", "use 1 or more")
    problems.raise_usage()
    return _Sieve(similarity, run, seed).sift(texts)


def band_rows(similarity: float, minima: int = MINIMA) -> int:
    """r, the most minima in a band with which a pair at this similarity is missed less often than MISSED."""
    fitting = [r for r in range(1, minima + 1) if (1 - similarity**r) ** (minima // r) <= MISSED]
    return max(fitting, default=1)


@dataclass
class _Sieve:
    similarity: float
    run: int
    seed: int
    digests: dict[bytes, int] = field(default_factory=dict)
    shingles: dict[int, Hashes] = field(default_factory=dict)  # of kept texts, sorted and each once
    buckets: defaultdict[tuple[int, bytes], list[int]] = field(default_factory=lambda: defaultdict(list))

    def sift(self, texts: Iterable[str]) -> Cleared:
        orders = numpy_generator(self.seed, "minhash").integers(0, 1 << 64, MINIMA, np.uint64)
        kept, removed, wordless, count = list[int](), list[Removed](), 0, 0
        for count, text in enumerate(texts, 1):
            number = count - 1
            digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
            if digest in self.digests:
                wordless += not words(text)
                removed.append(Removed(number, self.digests[digest], 1.0, "exact"))
                continue
            found = np.unique(runs(words(text), self.run))
            wordless += found.size == 0
            bands = list(self._bands(found, orders)) if found.size else []
            nearest = self._nearest(found, bands)
            if nearest is not None:
                removed.append(Removed(number, *nearest, "near"))
                self.digests[digest] = nearest[0]
                continue
            kept.append(number)
            self.digests[digest] = number
            self.shingles[number] = found
            for band in bands:
                self.buckets[band].append(number)
        return Cleared(count, tuple(kept), tuple(removed), wordless)

    def _bands(self, found: Hashes, orders: Hashes) -> Iterator[tuple[int, bytes]]:
        minima = np.full(MINIMA, np.iinfo(np.uint64).max, np.uint64)
        for begin in range(0, found.size, 4096):
            minima = np.minimum(minima, mixed(found[None, begin : begin + 4096] ^ orders[:, None]).min(axis=1))
        rows = band_rows(self.similarity)
        for band in range(MINIMA // rows):
            yield band, minima[band * rows : (band + 1) * rows].tobytes()

    def _nearest(self, found: Hashes, bands: list[tuple[int, bytes]]) -> tuple[int, float] | None:
        """The nearest kept text and how near it is, if near enough; of equals the first."""
        candidates = sorted({number for band in bands for number in self.buckets.get(band, ())})
        best: tuple[int, float] | None = None
        for number in candidates:
            other = self.shingles[number]
            both = np.intersect1d(found, other, assume_unique=True).size
            share = both / (found.size + other.size - both)
            if share >= self.similarity and (best is None or share > best[1]):
                best = (number, share)
        return best
