"""Keys and values in pages, so that sequences of any length share one room and equal beginnings are held once.

    pages    0 1 2 3 4 5        sequence 0 has pages 4 0, sequence 1 pages 4 3 5: they share their beginning
    held     b . . d a e        table [[4, 0, .], [4, 3, 5]]

Who owns which page is not known here (see generate/pages.py): only where the tokens of one call stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from math import prod
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from camelid.errors import CamelidError

PAGE = 16  # tokens of a page; the kernels compare a query with 16 keys at once
GROUP = 32  # numbers that share a scale
SMALLEST = 1e-30  # groups whose largest number is below become zeros
CacheKind = Literal["float", "int8"]
Ints = NDArray[np.int32]


class PagedCache:
    """Keys and values [L, P, K, page, E] of P pages. Nothing is cleared: what was not written is never read."""

    parts: tuple[str, ...] = ("keys", "values")

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
        self.page, self.head_width, self.dtype = page, head_width, dtype
        self._made((layers, pages, kv_heads), device)

    def _made(self, each: tuple[int, int, int], device: torch.device | str) -> None:
        """The tensors, for layers, pages and heads."""
        self.keys = torch.empty(*each, self.page, self.head_width, dtype=self.dtype, device=device)
        self.values = torch.empty_like(self.keys)

    @property
    def pages(self) -> int:
        """How many pages there are."""
        return self.keys.shape[1]

    @property
    def page_bytes(self) -> int:
        """Memory of one page."""
        each = (getattr(self, name) for name in self.parts)
        return sum(len(part) * prod(part.shape[2:]) * part.element_size() for part in each)

    def grow(self, pages: int) -> None:
        """Makes room for `pages` pages; what is held stays where it is."""
        if pages <= self.pages:
            return
        for name in self.parts:
            old: Tensor = getattr(self, name)
            new = old.new_empty(old.shape[0], pages, *old.shape[2:])
            new[:, : old.shape[1]] = old
            setattr(self, name, new)

    def copy(self, page: int, to: int) -> None:
        """Makes one page the same as another."""
        for name in self.parts:
            part: Tensor = getattr(self, name)
            part[:, to] = part[:, page]

    def write(self, layer: int, pages: Tensor, within: Tensor, k: Tensor, v: Tensor) -> None:
        """Puts k and v [N, K, E] at these places of these pages."""
        self.keys[layer][pages, :, within] = k
        self.values[layer][pages, :, within] = v

    def keys_of(self, layer: int, pages: Tensor) -> Tensor:
        """The keys [P, K, page, E] of some pages."""
        return self.keys[layer].index_select(0, pages)

    def values_of(self, layer: int, pages: Tensor) -> Tensor:
        """The values [P, K, page, E] of some pages."""
        return self.values[layer].index_select(0, pages)

    def asked(self, q: Tensor) -> Tensor:
        """Queries [N, H, E] as they are compared with keys."""
        return q


class Int8PagedCache(PagedCache):
    """Keys and values in int8, in groups of 32 numbers of a head, each with a float32 scale: G groups a head, the last
    filled up with zeros. Queries are rounded as well, so that whole numbers are multiplied. This class is the definition;
    the kernels agree with it, to the bit in what is written and to rounding in what is read.

    keys          uint8 [L, P, K, page / 16, G, 8, 16, 4], k + 128, 16 places side by side as the kernels compare them
    key_scales    float32 [L, P, K, page / 16, G, 16]
    values        int8 [L, P, K, page, G, 32]
    value_scales  float32 [L, P, K, page, G]
    """

    parts = ("keys", "values", "key_scales", "value_scales")

    def _made(self, each: tuple[int, int, int], device: torch.device | str) -> None:
        groups, panels = -(-self.head_width // GROUP), self.page // PAGE
        self.keys = torch.empty(*each, panels, groups, GROUP // 4, PAGE, 4, dtype=torch.uint8, device=device)
        self.key_scales = torch.empty(*each, panels, groups, PAGE, device=device)
        self.values = torch.empty(*each, self.page, groups, GROUP, dtype=torch.int8, device=device)
        self.value_scales = torch.empty(*each, self.page, groups, device=device)

    def write(self, layer: int, pages: Tensor, within: Tensor, k: Tensor, v: Tensor) -> None:
        panels, places = within // PAGE, within % PAGE
        codes, scales = quantised(k)
        shifted = (codes.to(torch.int16) + 128).to(torch.uint8)
        self.keys[layer][pages, :, panels, :, :, places] = shifted.view(*shifted.shape[:-1], GROUP // 4, 4)
        self.key_scales[layer][pages, :, panels, :, places] = scales
        self.values[layer][pages, :, within], self.value_scales[layer][pages, :, within] = quantised(v)

    def keys_of(self, layer: int, pages: Tensor) -> Tensor:
        codes = self.keys[layer].index_select(0, pages).movedim(-2, 3)  # [P, K, panels, 16, G, 8, 4]
        scales = self.key_scales[layer].index_select(0, pages).movedim(-1, 3)
        return self._decoded(codes.flatten(-2).float() - 128, scales).flatten(2, 3)

    def values_of(self, layer: int, pages: Tensor) -> Tensor:
        codes = self.values[layer].index_select(0, pages)
        return self._decoded(codes.float(), self.value_scales[layer].index_select(0, pages))

    def asked(self, q: Tensor) -> Tensor:
        codes, scales = quantised(q)
        return self._decoded(codes.float(), scales)

    def _decoded(self, codes: Tensor, scales: Tensor) -> Tensor:
        return (codes * scales[..., None]).flatten(-2)[..., : self.head_width].to(self.dtype)


def quantised(x: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers [..., E] as int8 [..., G, 32] and float32 scales [..., G]: to the nearest multiple of largest / 127, halves
    to even. The scale of a group that is not finite is NaN."""
    padded = F.pad(x.float(), (0, -x.shape[-1] % GROUP))
    parts = padded.view(*x.shape[:-1], padded.shape[-1] // GROUP, GROUP)
    most = parts.abs().amax(dim=-1)
    finite = parts.isfinite().all(dim=-1)
    usable = finite & (most >= SMALLEST)
    up = torch.where(usable, 127 / most, 0)
    codes = torch.where(usable[..., None], (parts * up[..., None]).round(), 0).to(torch.int8)
    return codes, torch.where(usable, most / 127, torch.where(finite, 0.0, torch.nan))


CACHES: dict[CacheKind, type[PagedCache]] = {"float": PagedCache, "int8": Int8PagedCache}


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
        self.cache.write(layer, *self._written, k[: self.count], v[: self.count])
        out, q = torch.zeros_like(q), self.cache.asked(q)
        together = () if self.exact else self._single
        for first, last in self._pieces:
            if first in together:
                continue
            held = self._held(layer, last)
            if self.exact:
                for token in range(first, last):
                    out[token] = _alone(q[token], *(part[:, : self.places[token] + 1] for part in held))
            else:
                out[first:last] = self._piece(q[first:last], *held, first)
        if together:
            rows = self._once("rows", 0, lambda: torch.tensor(together, device=q.device))
            out[rows] = self._abreast(layer, q[rows])
        return out

    @cached_property
    def _kept(self) -> dict[tuple[str, int], Tensor]:
        return {}

    def _once(self, what: str, token: int, make: Callable[[], Tensor]) -> Tensor:
        """What follows from places alone: made for the first layer, kept for the others. On a GPU each would be a copy."""
        found = self._kept.get((what, token))
        if found is None:
            found = self._kept[what, token] = make()
        return found

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

    def _held(self, layer: int, last: int) -> tuple[Tensor, Tensor]:
        """Keys and values [K, S, E] of a sequence, as many pages as its last token here sees."""
        device = self.cache.keys.device
        pages = self._once("pages", last, lambda: torch.tensor(list(self._pages(last - 1)), device=device))
        keys, values = self.cache.keys_of(layer, pages), self.cache.values_of(layer, pages)
        return keys.transpose(0, 1).flatten(1, 2), values.transpose(0, 1).flatten(1, 2)

    def _piece(self, q: Tensor, keys: Tensor, values: Tensor, first: int) -> Tensor:
        """A sequence's new tokens [T, H, E] together."""
        places = self.places[first : first + len(q)]
        seen = int(places[-1]) + 1
        visible = self._once(
            "visible", first, lambda: torch.from_numpy(np.arange(seen) <= places[:, None]).to(q.device)
        )
        heads, kv_heads = q.shape[1], keys.shape[0]
        queries = q.transpose(0, 1)[None]
        out = F.scaled_dot_product_attention(
            queries, keys[None, :, :seen], values[None, :, :seen], attn_mask=visible, enable_gqa=heads != kv_heads
        )
        return out[0].transpose(0, 1)

    def _abreast(self, layer: int, q: Tensor) -> Tensor:
        """One token [B, H, E] of each of many sequences, their pages side by side, the shorter ones masked."""
        count, kv_heads, page = len(q), self.cache.keys.shape[2], self.cache.page
        places = self.places[list(self._single)]
        across = -(-int(places.max() + 1) // page)
        chosen = self._once("chosen", 0, lambda: torch.from_numpy(self._side_by_side(across)).to(q.device))
        seen = np.arange(across * page) <= places[:, None]
        visible = self._once("seen", 0, lambda: torch.from_numpy(seen[:, None, None]).to(q.device))
        held = []
        for part in (self.cache.keys_of(layer, chosen), self.cache.values_of(layer, chosen)):
            rows = part.view(count, across, kv_heads, page, -1).transpose(1, 2).flatten(2, 3)
            held.append(rows.masked_fill(~visible[:, 0, 0, None, :, None], 0))  # what was never written may be NaN
        grouped = q.reshape(count, kv_heads, -1, q.shape[-1])
        out = F.scaled_dot_product_attention(grouped, held[0], held[1], attn_mask=visible)
        return out.reshape(count, -1, q.shape[-1])

    def _side_by_side(self, across: int) -> NDArray[np.int64]:
        """The pages of the sequences that have one token here, `across` of each, end to end."""
        table = np.zeros((len(self._single), across), np.int64)
        for row, token in enumerate(self._single):
            own = list(self._pages(token))
            table[row, : len(own)] = own
        return table.reshape(-1)


def _alone(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """One token's heads [H, E] over [K, S, E]; heads that share keys stand as queries side by side.

    All are copied, for where numbers lie in memory can change how they are added.
    """
    grouped = q.clone().view(1, keys.shape[0], -1, q.shape[-1])
    keys, values = keys.contiguous(), values.contiguous()
    return F.scaled_dot_product_attention(grouped, keys[None], values[None]).reshape(q.shape)
