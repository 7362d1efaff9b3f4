"""Words of a text and its runs of n words as 64-bit numbers, by which texts are compared."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

WORD = re.compile(r"\w+")
Hashes = NDArray[np.uint64]


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores, case folded; spacing and punctuation do not count."""
    return WORD.findall(text.casefold())


def hashed(parts: list[str]) -> Hashes:
    """A number for each word."""
    return np.fromiter(map(_hash, parts), np.uint64, len(parts))


def runs(parts: list[str], n: int) -> Hashes:
    """A number for each run of n words, in order; a shorter text is one run, one without words none."""
    numbers = hashed(parts)
    n = min(n, numbers.size)
    if n == 0:
        return numbers
    found = np.zeros(numbers.size - n + 1, np.uint64)
    for offset in range(n):
        found = mixed(found * np.uint64(0x9E3779B97F4A7C15) + numbers[offset : offset + found.size])
    return found


def mixed(value: Hashes) -> Hashes:
    """Every number stirred so that all its bits depend on all of them; a bijection (the finaliser of SplitMix64)."""
    value = (value ^ value >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ value >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return value ^ value >> np.uint64(31)


@lru_cache(maxsize=1 << 17)
def _hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
