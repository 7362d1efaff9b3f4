"""Keys and values in pages, so that sequences of any length share one room and equal beginnings are held once.

    pages    0 1 2 3 4 5        sequence 0 has pages 4 0, sequence 1 pages 4 3 5: they share their beginning
    held     b . . d a e        table [[4, 0, .], [4, 3, 5]]

Who owns which page is not known here (see generate/pages.py): only where the tokens of one call stand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from camelid.errors import CamelidError

PAGE = 16  # tokens of a page; the kernels compare a query with 16 keys at once
Ints = NDArray[np.int32]


class PagedCache:
    """Keys and values [L, P, K, page, E] of P pages. Nothing is cleared: what was not written is never read."""

    def __init__(
        self,
        *,
        layers: int,
        kv_heads: int,
        head_width: int,
        pages: int,
        page: int = PAGE,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        if page < PAGE or page % PAGE:
            raise CamelidError(f"cache: a page of {page} tokens; use a multiple of {PAGE}")
        self.page = page
        self.keys = torch.empty(layers, pages, kv_heads, page, head_width, dtype=dtype, device=device)
        self.values = torch.empty_like(self.keys)

    @property
    def pages(self) -> int:
        """How many pages there are."""
        return self.keys.shape[1]

    def grow(self, pages: int) -> None:
        """Makes room for `pages` pages; what is held stays where it is."""
        if pages <= self.pages:
            return
        for name in ("keys", "values"):
            old: Tensor = getattr(self, name)
            new = old.new_empty(old.shape[0], pages, *old.shape[2:])
            new[:, : old.shape[1]] = old
            setattr(self, name, new)


@dataclass(frozen=True, eq=False)
class PagedTokens:
    """New tokens laid end to end, for one call of a model: token i is at `places[i]` of the sequence `slots[i]`.

    The tokens of a sequence stand in order and side by side; the pages of sequence s are `tables[s]`, in order.
    `rooms` [N] are the lengths of their texts, for rotations that follow it. Of the N tokens the first `real` count
    (all of them by default); the others fill up a tile, read nothing and are not written.

    exact   every token is compared with its keys by itself, so that its bits depend on its own text alone; otherwise
            tokens are compared together, which is faster and rounds differently in other company
    """

    cache: PagedCache
    slots: Ints
    places: Ints
    tables: Ints
    rooms: NDArray[np.int64] | None = None
    real: int | None = None
    exact: bool = True

    @property
    def count(self) -> int:
        """How many tokens are real."""
        return len(self.slots) if self.real is None else self.real

    def tile(self, first: int, size: int) -> PagedTokens:
        """The tokens `first` to `first + size`, filled up to `size` where there are fewer."""
        real = min(size, self.count - first)
        pick = np.minimum(np.arange(first, first + size), first + real - 1)
        rooms = None if self.rooms is None else self.rooms[pick]
        return replace(self, slots=self.slots[pick], places=self.places[pick], rooms=rooms, real=real)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Writes k and v [N, K, E], and returns what q [N, H, E] sees of its own sequence up to itself: [N, H, E].

        Raises CamelidError under autograd: pages are written in place, so gradients through them would be wrong.
        """
        if k.requires_grad:
            raise CamelidError("cache: gradients cannot pass through it; call the model under torch.inference_mode()")
        pages, within = self._written
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[pages, :, within] = k[: self.count]
        values[pages, :, within] = v[: self.count]
        out = torch.zeros_like(q)
        together = () if self.exact else self._single
        for first, last in self._pieces:
            if first in together:
                continue
            held = self._held(keys, first, last), self._held(values, first, last)
            if self.exact:
                for token in range(first, last):
                    out[token] = _alone(q[token], *(part[:, : self.places[token] + 1] for part in held))
            else:
                out[first:last] = self._piece(q[first:last], *held, first)
        if together:
            rows = torch.tensor(together, device=q.device)
            out[rows] = self._abreast(q[rows], keys, values)
        return out

    @cached_property
    def _written(self) -> tuple[Tensor, Tensor]:
        """Page and place within it of every real token, on the cache's device."""
        slots, places = self.slots[: self.count], self.places[: self.count]
        pages = self.tables[slots, places // self.cache.page]
        within = places % self.cache.page
        device = self.cache.keys.device
        return torch.from_numpy(pages).long().to(device), torch.from_numpy(within).long().to(device)

    @cached_property
    def _pieces(self) -> tuple[tuple[int, int], ...]:
        """First and last + 1 of the real tokens of each sequence."""
        slots = self.slots[: self.count]
        borders = [0, *(np.flatnonzero(np.diff(slots)) + 1).tolist(), len(slots)]
        return tuple((a, b) for a, b in pairwise(borders) if a < b)

    @cached_property
    def _single(self) -> tuple[int, ...]:
        """Sequences that have one token here, where there are several such."""
        alone = tuple(first for first, last in self._pieces if last - first == 1)
        return alone if len(alone) > 1 else ()

    def _pages(self, token: int) -> Iterator[int]:
        count = -(-int(self.places[token] + 1) // self.cache.page)
        return iter(self.tables[self.slots[token], :count].tolist())

    def _held(self, part: Tensor, first: int, last: int) -> Tensor:
        """Keys or values [K, S, E] of a sequence, as many pages as its last token here sees."""
        pages = torch.tensor(list(self._pages(last - 1)), device=part.device)
        return part.index_select(0, pages).transpose(0, 1).flatten(1, 2)

    def _piece(self, q: Tensor, keys: Tensor, values: Tensor, first: int) -> Tensor:
        """A sequence's new tokens [T, H, E] together."""
        places = torch.from_numpy(self.places[first : first + len(q)]).to(q.device)
        seen = int(places[-1]) + 1
        visible = torch.arange(seen, device=q.device) <= places[:, None]
        heads, kv_heads = q.shape[1], keys.shape[0]
        queries = q.transpose(0, 1)[None]
        out = F.scaled_dot_product_attention(
            queries, keys[None, :, :seen], values[None, :, :seen], attn_mask=visible, enable_gqa=heads != kv_heads
        )
        return out[0].transpose(0, 1)

    def _abreast(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """One token [B, H, E] of each of many sequences, their pages side by side, the shorter ones masked."""
        count, kv_heads, page = len(q), keys.shape[1], self.cache.page
        places = self.places[list(self._single)]
        across = -(-int(places.max() + 1) // page)
        table = np.zeros((count, across), np.int64)
        for row, token in enumerate(self._single):
            own = list(self._pages(token))
            table[row, : len(own)] = own
        chosen = torch.from_numpy(table.reshape(-1)).to(q.device)
        seen = torch.from_numpy(places).to(q.device)
        visible = (torch.arange(across * page, device=q.device) <= seen[:, None])[:, None, None]
        held = []
        for part in (keys, values):
            rows = part.index_select(0, chosen).view(count, across, kv_heads, page, -1).transpose(1, 2).flatten(2, 3)
            held.append(rows.masked_fill(~visible[:, 0, 0, None, :, None], 0))  # what was never written may be NaN
        grouped = q.reshape(count, kv_heads, -1, q.shape[-1])
        out = F.scaled_dot_product_attention(grouped, held[0], held[1], attn_mask=visible)
        return out.reshape(count, -1, q.shape[-1])


def _alone(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """One token's heads [H, E] over [K, S, E]; heads that share keys stand as queries side by side.

    All are copied, for where numbers lie in memory can change how they are added.
    """
    grouped = q.clone().view(1, keys.shape[0], -1, q.shape[-1])
    keys, values = keys.contiguous(), values.contiguous()
    return F.scaled_dot_product_attention(grouped, keys[None], values[None]).reshape(q.shape)
