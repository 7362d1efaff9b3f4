"""Keys and values of the tokens already seen, so that decoding reads each token once.

Every row (sequence) has its own length. Rolling back is forgetting: only the lengths change, and what lies beyond them
is never read before it is written again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camelid.errors import CamelidError

LINE = 64  # bytes of a cache line


@dataclass(frozen=True, eq=False)
class Placement:
    """Where new tokens go: all rows from `start` on, or else token `new[i]` of row `rows[i]` to place `at[i]`."""

    start: int = 0
    rows: Tensor | None = None
    new: Tensor | None = None
    at: Tensor | None = None


class KeyValueCache:
    """Room for `length` tokens of each of `batch` sequences: keys and values [L, B, K, S, E], and `lengths` per row.

    The model writes it (`Llama.forward(..., cache=...)`); a decoder reads `lengths`, calls `rollback` and `keep`.
    """

    def __init__(
        self,
        *,
        layers: int,
        batch: int,
        kv_heads: int,
        length: int,
        head_width: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        self.length = length
        self.given: int | None = None  # see `spans`
        size = (layers, batch, kv_heads, length, head_width)
        self.keys, self.values = (_zeros(size, dtype, torch.device(device)) for _ in range(2))
        self._lengths = [0] * batch

    @property
    def batch(self) -> int:
        """How many sequences it holds."""
        return self.keys.shape[1]

    @property
    def lengths(self) -> tuple[int, ...]:
        """How many tokens of each sequence are held."""
        return tuple(self._lengths)

    @property
    def bytes(self) -> int:
        """Memory taken, whatever the lengths."""
        return 2 * self.keys.nbytes

    def spans(self, places: NDArray[np.integer[Any]] | Sequence[int]) -> NDArray[np.int64]:
        """The length of text with which the token at each place turns, where rotations follow it: that of the whole room;
        or, where `given` tokens are read and others answer them, theirs, and for each later token that up to itself."""
        at = np.asarray(places, dtype=np.int64)
        return np.full(len(at), self.length) if self.given is None else np.maximum(self.given, at + 1)

    def rollback(self, lengths: int | Sequence[int]) -> None:
        """Forgets all but the first `lengths` tokens, of every sequence or of each its own.

        Raises CamelidError when a sequence does not hold so many.
        """
        wanted = [lengths] * self.batch if isinstance(lengths, int) else list(lengths)
        if len(wanted) != self.batch:
            raise CamelidError(f"cache: {len(wanted)} lengths for {self.batch} sequences; give one for each")
        for row, (new, old) in enumerate(zip(wanted, self._lengths, strict=True)):
            if not 0 <= new <= old:
                raise CamelidError(f"cache: row {row} holds {old} tokens and cannot be rolled back to {new}")
        self._lengths = wanted

    def keep(self, rows: Sequence[int]) -> None:
        """Keeps these sequences in this order (a row may be named twice); the others and their memory are gone."""
        index = torch.tensor(list(rows), dtype=torch.int64, device=self.keys.device)
        self.keys, self.values = self.keys.index_select(1, index), self.values.index_select(1, index)
        self._lengths = [self._lengths[row] for row in rows]

    def grow(self, length: int) -> None:
        """Makes room for `length` tokens; what is held stays."""
        if length <= self.length:
            return
        for name in ("keys", "values"):
            old: Tensor = getattr(self, name)
            new = old.new_zeros(*old.shape[:3], length, old.shape[4])
            new[:, :, :, : self.length] = old
            setattr(self, name, new)
        self.length = length

    def write(self, layer: int, keys: Tensor, values: Tensor, place: Placement) -> None:
        """Puts `keys` and `values` [B, K, T, E] of the new tokens where `place` says.

        Raises CamelidError under autograd: a cache is written in place, so gradients through it would be wrong.
        """
        if keys.requires_grad:
            raise CamelidError("cache: gradients cannot pass through it; call the model under torch.inference_mode()")
        for held, new in ((self.keys[layer], keys), (self.values[layer], values)):
            if place.rows is None:
                held[:, :, place.start : place.start + new.shape[2]] = new
            else:
                held[place.rows, :, place.at] = new[place.rows, :, place.new]

    def read(self, layer: int, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values [B, K, S, E] of the first `length` places of a layer; S is less where the room is."""
        return self.keys[layer, :, :, :length], self.values[layer, :, :, :length]

    def placement(self, tokens: int, counts: Sequence[int]) -> Placement:
        """Where the first `counts[b]` of `tokens` new ones of each row go. Raises CamelidError when they do not fit."""
        self.check_room(counts)
        if len(set(self._lengths)) == 1 and self._lengths[0] + tokens <= self.length:
            return Placement(start=self._lengths[0])
        rows = [row for row, count in enumerate(counts) for _ in range(count)]
        new = [token for count in counts for token in range(count)]
        at = [self._lengths[row] + token for row, token in zip(rows, new, strict=True)]
        device = self.keys.device
        return Placement(0, *(torch.tensor(part, dtype=torch.int64, device=device) for part in (rows, new, at)))

    def advance(self, counts: Sequence[int]) -> None:
        """Counts the tokens just written in; called by the model after its last layer."""
        self._lengths = [length + count for length, count in zip(self._lengths, counts, strict=True)]

    def check_room(self, counts: Sequence[int]) -> None:
        """Raises CamelidError, with the numbers, unless `counts` more tokens fit in each row."""
        if len(counts) != self.batch:
            raise CamelidError(f"cache: made for {self.batch} sequences, given {len(counts)}")
        for row, (length, count) in enumerate(zip(self._lengths, counts, strict=True)):
            if length + count > self.length:
                raise CamelidError(
                    f"cache: row {row} would hold {length + count} tokens, made for {self.length}: grow it or stop"
                )


def _zeros(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros that begin at a cache line. On a CPU the system gives them, page by page when they are first touched: filled
    by PyTorch, its threads would go on spinning beside those that decode."""
    if device.type != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    count = prod(size) * dtype.itemsize
    raw = np.zeros(count + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    return torch.from_numpy(raw[start : start + count]).view(dtype).view(size)
