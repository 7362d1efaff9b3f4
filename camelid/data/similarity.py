"""Texts that mean nearly the same as an earlier one, or as a held-out one, by the cosine of vectors that stand for them.

Which vectors is the caller's to say. Those made here count runs of five characters, hashed into `WIDTH` places and
weighted by how rare they are among the texts (ours: no model is needed, wordings count and not meanings). Those of a
sentence encoder, or a model's own mean hidden states, go through the same sieve.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from camelid.data.duplicates import Cleared, Removed
from camelid.data.shingles import mixed
from camelid.errors import ProblemList

Vectors = NDArray[np.float32]

RUN = 5  # characters; ours
WIDTH = 8192  # places; ours
BLOCK = 256  # texts compared at once
DIGITS = 6  # to which a cosine is rounded, so that the order of additions decides nothing


def hashed(texts: Sequence[str], *, width: int = WIDTH) -> Vectors:
    """Vectors [N, width] of length one; a text of no characters has zeros and is like no other."""
    found = [_runs(text, width) for text in texts]
    seen = np.zeros(width)
    for places, _ in found:
        seen[places] += 1
    rarity = np.log((1 + len(texts)) / (1 + seen)) + 1
    vectors = np.zeros((len(texts), width), np.float32)
    for row, (places, counts) in zip(vectors, found, strict=True):
        row[places] = (1 + np.log(counts)) * rarity[places]
    return _of_length_one(vectors)


def alike(vectors: Vectors, most: float) -> Cleared:
    """Removes each text whose cosine with an earlier one that is kept is above `most` (Lee et al. 2023, section 3.1).

    Raises UsageError for a bound that is no cosine.
    """
    _check(most)
    vectors = _of_length_one(vectors)
    kept: list[int] = []
    removed: list[Removed] = []
    for begin in range(0, len(vectors), BLOCK):
        block = vectors[begin : begin + BLOCK]
        before = block @ vectors[kept].T if kept else np.zeros((len(block), 0), np.float32)
        among = block @ block.T
        new: list[int] = []
        for row in range(len(block)):
            cosines = np.round(np.concatenate([before[row], among[row, new]]).astype(np.float64), DIGITS)
            nearest = int(cosines.argmax()) if cosines.size else -1
            if nearest >= 0 and cosines[nearest] > most:
                of = [*kept, *(begin + place for place in new)][nearest]
                removed.append(Removed(begin + row, of, float(cosines[nearest]), "near"))
            else:
                new.append(row)
        kept += [begin + row for row in new]
    return Cleared(len(vectors), tuple(kept), tuple(removed))


def leaked(vectors: Vectors, held_out: Vectors, least: float) -> tuple[Removed, ...]:
    """The texts whose cosine with a held-out one is at least `least`, and which one that is; all of them, not the nearest
    alone (Lee et al. 2023, section 3.2, look at each such pair). Raises UsageError for a bound that is no cosine."""
    _check(least)
    if not len(held_out) or not len(vectors):
        return ()
    vectors, held_out = _of_length_one(vectors), _of_length_one(held_out)
    found = []
    for begin in range(0, len(vectors), BLOCK):
        cosines = np.round((vectors[begin : begin + BLOCK] @ held_out.T).astype(np.float64), DIGITS)
        for row, nearest in enumerate(cosines.argmax(1)):
            if cosines[row, nearest] >= least:
                found.append(Removed(begin + row, int(nearest), float(cosines[row, nearest]), "near"))
    return tuple(found)


def _check(bound: float) -> None:
    problems = ProblemList()
    if not 0 < bound <= 1:
        problems.add("alike", f"{bound}", "use a cosine above 0, at most 1, such as 0.8")
    problems.raise_usage()


def _runs(text: str, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of the runs of characters, and how often each comes; a text shorter than a run is one run."""
    said = " ".join(text.lower().split())
    if not said:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    points = np.array([ord(character) for character in f" {said} "], np.uint64)
    points = np.pad(points, (0, max(0, RUN - len(points))))
    runs = np.lib.stride_tricks.sliding_window_view(points, RUN)
    hashes = np.zeros(len(runs), np.uint64)
    for column in range(RUN):
        hashes = mixed(hashes ^ (runs[:, column] + np.uint64(column << 32)))
    places, counts = np.unique((hashes % np.uint64(width)).astype(np.int64), return_counts=True)
    return places, counts


def _of_length_one(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Vectors = (vectors / np.where(lengths == 0, 1, lengths)).astype(np.float32)
    return scaled
