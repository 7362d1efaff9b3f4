"""Randomness without state: every draw is keyed by what it is for, so there is nothing to save and nothing to restore.

A key is a hash of words such as (seed, "dropout", step, layer). The same words give the same numbers on every machine,
in every process, in any order of asking (Salmon et al. 2011 call such generators counter-based).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy
    import torch
    from numpy.typing import NDArray

ROUNDS = 6  # ours: four rounds of a Feistel network pass as random (Luby and Rackoff 1988); two more cost little
LEAST_BITS = 4  # ours: of a half; narrower halves have too few round functions, and orders of four were visibly uneven
TABLE = 1 << 12  # domains up to this size are tabulated by `take`: in a wide domain a short order walks long


def key(*words: int | str) -> int:
    """A 63-bit number that depends on every word; ("ab", "c") and ("a", "bc") differ, and so do 1 and "1"."""
    text = "\x1f".join(f"{type(word).__name__}:{len(str(word))}:{word}" for word in words)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") >> 1


class Order:
    """A keyed permutation of range(n): `order[i]` takes constant time and memory, however large n is.

    A balanced Feistel network over an even number of bits that holds n, walked until it lands inside range(n).
    """

    def __init__(self, seed: int, n: int) -> None:
        self.n = n
        self._half = max(LEAST_BITS, (max(n - 1, 1).bit_length() + 1) // 2)
        self._mask = (1 << self._half) - 1
        self._keys = [key(seed, "order", turn) & 0xFFFFFFFF for turn in range(ROUNDS)]

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        return (self[index] for index in range(self.n))

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self.n:
            raise IndexError(f"position {index} is outside an order of {self.n}")
        value = index
        while True:
            left, right = value >> self._half, value & self._mask
            for round_key in self._keys:
                left, right = right, left ^ (_mix(right ^ round_key) & self._mask)
            value = left << self._half | right
            if value < self.n:
                return value

    def take(self, positions: NDArray[numpy.int64]) -> NDArray[numpy.int64]:
        """The elements at many positions [N] at once: the same numbers as one by one, some fifty times faster."""
        import numpy

        value = numpy.array(positions, dtype=numpy.uint64)
        if value.size and not (positions.min() >= 0 and positions.max() < self.n):
            raise IndexError(f"positions {positions.min()}..{positions.max()} are outside an order of {self.n}")
        domain = 1 << 2 * self._half
        table = self._once(numpy.arange(domain, dtype=numpy.uint64)) if domain <= TABLE else None
        walking = numpy.arange(value.size)
        while walking.size:
            value[walking] = self._once(value[walking]) if table is None else table[value[walking]]
            walking = walking[value[walking] >= self.n]
        return value.astype(numpy.int64)

    def _once(self, value: NDArray[numpy.uint64]) -> NDArray[numpy.uint64]:
        """Every value once through the network, wherever it lands."""
        import numpy

        half, mask = numpy.uint64(self._half), numpy.uint64(self._mask)
        left, right = value >> half, value & mask
        for round_key in self._keys:
            left, right = right, left ^ (_mix_all(right ^ numpy.uint64(round_key)) & mask)
        return left << half | right


def order(seed: int, n: int) -> Order:
    """A keyed permutation of range(n), one element at a time."""
    return Order(seed, n)


def _mix(value: int) -> int:
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF  # the finaliser of SplitMix64
    value = (value ^ value >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return value ^ value >> 31


def _mix_all(value: NDArray[numpy.uint64]) -> NDArray[numpy.uint64]:
    """`_mix` of every element: 64-bit products that wrap."""
    import numpy

    value = (value ^ value >> numpy.uint64(30)) * numpy.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ value >> numpy.uint64(27)) * numpy.uint64(0x94D049BB133111EB)
    return value ^ value >> numpy.uint64(31)


def numpy_generator(*words: int | str) -> numpy.random.Generator:
    """A fresh NumPy generator (Philox, counter-based) for this purpose."""
    import numpy

    return numpy.random.Generator(numpy.random.Philox(key=key(*words)))


def torch_generator(*words: int | str, device: str = "cpu") -> torch.Generator:
    """A fresh PyTorch generator for this purpose on this device."""
    import torch

    return torch.Generator(device=device).manual_seed(key(*words))
