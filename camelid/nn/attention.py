"""Causal grouped-query attention that follows segment ids, and the layout of a batch that makes it fast.

Documents of a batch never see each other. They are not kept apart by a mask: the batch is laid out anew, once, and all
layers work on that layout. Documents of similar length stand side by side as the rows of a group, the shorter ones
padded at the END, where under causality nothing real can see the padding:

    as given   ids [1, N]     aaabbbbbbccddd                 as laid out    a a a .      one causal call for [4, 4]
                                                                           c c . .
                                                                           d d d .
                                                             and            b b b b b b  one causal call for [1, 6]

A call costs time and so does a padded place; `Layout.of_segments` chooses the groups that cost least. No [T, T] mask
is ever built.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from camelid.errors import Problem, UsageError
from camelid.nn.cache import KeyValueCache, Placement
from camelid.nn.linear import beside, joined
from camelid.nn.once import once
from camelid.nn.paged import PagedTokens
from camelid.nn.products import small_backward, small_products
from camelid.nn.rope import rotate

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """`rows` documents side by side, each `length` places long."""

    rows: int
    length: int

    @property
    def places(self) -> int:
        return self.rows * self.length


@dataclass(frozen=True, eq=False)
class Layout:
    """Where every token of a batch [B, T] is worked on; built once per batch, on the CPU, and passed to all layers.

    `groups` cover the places 0..P-1 in order. `positions` and `lengths` [P] are the rotary position of each place and
    the length of its document. `source` [P] is the token (of B * T, flattened) at each place, padding repeating its
    document's first; `real` [M] are the places of the M tokens that are not padding and `target` [M] those tokens. All
    three are None when the batch is worked on as given. With a cache, `held` says how many tokens each row has already,
    `counts` how many of the T new ones are real, and `place`, `seen` and `visible` what is written and read.
    """

    batch: int
    tokens: int
    groups: tuple[Group, ...]
    positions: Ints
    lengths: Ints
    source: Tensor | None = None
    real: Tensor | None = None
    target: Tensor | None = None
    held: tuple[int, ...] | None = None
    counts: tuple[int, ...] | None = None
    place: Placement | None = None
    seen: int = 0  # S
    visible: Tensor | None = None  # [B or 1, 1, T, S] with a cache, where causality alone does not say it

    @property
    def places(self) -> int:
        """Places worked on, padding included."""
        return len(self.positions)

    @staticmethod
    def whole(batch: int, tokens: int, positions: Ints | None = None) -> Layout:
        """Every row [T] is one document from its first token on; end padding needs no mention."""
        if positions is None:
            positions = np.tile(np.arange(tokens), (batch, 1))
        lengths = np.repeat(positions.max(axis=1, initial=0) + 1, tokens)
        return Layout(batch, tokens, (Group(batch, tokens),), positions.reshape(-1), lengths)

    @staticmethod
    def of_segments(
        segments: Ints | Tensor,
        *,
        positions: Ints | None = None,
        call: int = 32,
        device: torch.device | str = "cpu",
    ) -> Layout:
        """The layout of `segments` [B, T]: equal ids, side by side in a row, are one document; below zero is padding.

        Positions restart with every document unless given. `call` is how many padded places one more call is worth.
        Raises UsageError where an id comes back after another document, for that is either one document torn apart or
        two with one name.
        """
        ids = segments.numpy(force=True) if isinstance(segments, Tensor) else np.asarray(segments)
        batch, tokens = ids.shape
        starts, lengths = _documents(ids)
        order = np.argsort(lengths, kind="stable")
        starts, lengths = starts[order], lengths[order]
        groups = _groups(lengths, call)
        places = _joined([np.full(group.rows, group.length) for group in groups])  # of each document
        within = _joined([np.tile(np.arange(group.length), group.rows) for group in groups])
        filled = within < np.repeat(lengths, places)
        source = np.repeat(starts, places) + np.where(filled, within, 0)
        if positions is None:
            at, reach = within, np.repeat(lengths, places)
        else:
            at = positions.reshape(-1)[source]
            reach = _reach(at, places)
        if len(source) == batch * tokens and (source == np.arange(len(source))).all():
            return Layout(batch, tokens, groups, at, reach)
        real = np.flatnonzero(filled)
        laid, taken, target = (
            torch.from_numpy(part).to(device, non_blocking=True) for part in (source, real, source[real])
        )
        return Layout(batch, tokens, groups, at, reach, laid, taken, target)

    @staticmethod
    def after(cache: KeyValueCache, tokens: int, counts: Sequence[int] | None = None) -> Layout:
        """The next `tokens` of every row of `cache`; of row b only the first `counts[b]` are real, the rest padding."""
        held = cache.lengths
        taken = tuple(counts) if counts is not None else (tokens,) * cache.batch
        if any(not 0 <= count <= tokens for count in taken):
            raise UsageError([Problem("counts", f"{taken} of {tokens} new tokens", "each must lie between 0 and T")])
        place = cache.placement(tokens, taken)
        starts = np.array(held)[:, None]
        positions = (starts + np.arange(tokens)).reshape(-1)
        seen = min(max(held) + tokens, cache.length)
        alone = tokens == 1 and len(set(held)) == 1  # one new token per row, all rows equally long: it sees everything
        return Layout(
            len(held),
            tokens,
            (Group(len(held), tokens),),
            positions,
            cache.spans(positions),
            held=held,
            counts=taken,
            place=place,
            seen=seen,
            visible=None if alone or not any(held) else _visible(held, tokens, seen).to(cache.keys.device),
        )

    @staticmethod
    def paged(new: PagedTokens) -> Layout:
        """Tokens [1, N] laid end to end, each of them continuing its own sequence."""
        positions = new.places.astype(np.int64)
        rooms = new.rooms if new.rooms is not None else positions + 1
        return Layout(1, len(positions), (), positions, rooms)

    def lay(self, x: Tensor) -> Tensor:
        """Tokens [B, T] as places [P]."""
        flat = x.reshape(-1)
        return flat if self.source is None else flat.index_select(0, self.source)

    def restore(self, x: Tensor) -> Tensor:
        """Places [P, D] as tokens [B, T, D]; padding comes back as zeros."""
        if self.real is None:
            return x.view(self.batch, self.tokens, -1)
        taken: Tensor = _Restore.apply(x, self.real, self.target, self.batch * self.tokens)  # type: ignore[no-untyped-call]
        return taken.view(self.batch, self.tokens, -1)


class _Restore(torch.autograd.Function):
    """One row moved per token, forwards and backwards, where index_select's own gradient would add."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, real: Tensor, target: Tensor, tokens: int) -> Tensor:
        ctx.save_for_backward(real, target)
        ctx.places = len(x)
        return _moved(x, real, target, tokens)

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        real, target = ctx.saved_tensors
        return _moved(grads[0], target, real, ctx.places), None, None, None


def _moved(x: Tensor, source: Tensor, target: Tensor, rows: int) -> Tensor:
    return x.new_zeros(rows, x.shape[1]).index_copy_(0, target, x.index_select(0, source))


def _documents(ids: NDArray[Any]) -> tuple[Ints, Ints]:
    """Start (in the flattened batch) and length of every run of equal ids of 0 or more."""
    batch, tokens = ids.shape
    border = np.ones((batch, tokens), dtype=bool)
    border[:, 1:] = ids[:, 1:] != ids[:, :-1]
    starts = np.flatnonzero(border)
    lengths = np.diff(starts, append=batch * tokens)
    names = ids.reshape(-1)[starts]
    keep = names >= 0
    rows = starts // max(tokens, 1)
    named = np.stack([rows[keep], names[keep].astype(np.int64)], axis=1)
    unique, counts = np.unique(named, axis=0, return_counts=True)
    if len(unique) != len(named):
        row, name = unique[counts > 1][0]
        found = f"row {row}: document {name} comes back after another document"
        raise UsageError([Problem("segments", found, "give every document of a row an id of its own")])
    return starts[keep], lengths[keep]


def _groups(lengths: Ints, call: int) -> tuple[Group, ...]:
    """The cheapest cut of the sorted `lengths` into groups: padded places plus `call` for each group."""
    sizes, counts = np.unique(lengths, return_counts=True)
    rows = np.concatenate([[0], np.cumsum(counts)])
    tokens = np.concatenate([[0], np.cumsum(counts * sizes)])
    cost = np.zeros(len(sizes) + 1)
    cut = np.zeros(len(sizes) + 1, dtype=np.int64)
    for end in range(1, len(sizes) + 1):
        padded = sizes[end - 1] * (rows[end] - rows[:end]) - (tokens[end] - tokens[:end])
        total = cost[:end] + padded + call
        cut[end] = int(total.argmin())
        cost[end] = total[cut[end]]
    groups = []
    end = len(sizes)
    while end:
        groups.append(Group(int(rows[end] - rows[cut[end]]), int(sizes[end - 1])))
        end = int(cut[end])
    return tuple(reversed(groups))


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _reach(positions: Ints, places: Ints) -> Ints:
    """One more than the farthest position of each place's document; `places` of each document."""
    if not len(places):
        return positions
    starts = np.concatenate([[0], np.cumsum(places)[:-1]])
    return np.repeat(np.maximum.reduceat(positions, starts) + 1, places)


def _visible(held: Sequence[int], tokens: int, seen: int) -> Tensor:
    """[B or 1, 1, T, S]: key j is seen by new token t of row b when j <= held[b] + t. Equal rows share one mask."""
    distinct = list(held) if len(set(held)) > 1 else list(held)[:1]
    last = torch.tensor(distinct)[:, None, None, None] + torch.arange(tokens)[None, None, :, None]
    return torch.arange(seen) <= last


def attend(q: Tensor, k: Tensor, v: Tensor, groups: Sequence[Group]) -> Tensor:
    """Causal attention within each document: q [P, H, E], k and v [P, K, E] -> [P, H, E]."""
    if len(groups) < 2:
        return _attend_group(q, k, v, groups[0]) if groups else q
    sizes = [group.places for group in groups]
    parts = zip(*(torch.split(part, sizes) for part in (q, k, v)), groups, strict=True)
    return torch.cat([_attend_group(*part) for part in parts])


def _attend_group(q: Tensor, k: Tensor, v: Tensor, group: Group) -> Tensor:
    q, k, v = (_rows(part, group.rows, group.length) for part in (q, k, v))  # [n, H or K, L, E]
    shared = q.shape[1] // k.shape[1]
    if shared > 1 and q.is_cuda and q.dtype == torch.float32:  # its only lean kernel there knows no shared keys
        k, v, shared = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1), 1
    with small_products():
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=shared > 1)
    return small_backward(out).transpose(1, 2).flatten(0, 1)


def _rows(x: Tensor, rows: int, length: int) -> Tensor:
    """[n * L, H, E] as [n, H, L, E]."""
    return x.view(rows, length, x.shape[1], x.shape[2]).transpose(1, 2)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions: [P, D] -> [P, D]; H query heads share K key-value heads."""

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        head_width: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width = heads, kv_heads, head_width
        self.q_proj = nn.Linear(width, heads * head_width, bias=False, dtype=dtype, device=device)
        self.k_proj = nn.Linear(width, kv_heads * head_width, bias=False, dtype=dtype, device=device)
        self.v_proj = nn.Linear(width, kv_heads * head_width, bias=False, dtype=dtype, device=device)
        self.o_proj = nn.Linear(heads * head_width, width, bias=False, dtype=dtype, device=device)

    def forward(
        self,
        x: Tensor,
        layout: Layout,
        rotations: Tensor,
        cache: KeyValueCache | PagedTokens | None = None,
        layer: int = 0,
    ) -> Tensor:
        """`rotations` [2, P, 1, E] for the places of `layout`; with a cache, `layer` is the one it writes."""
        q, k, v = self._project(x, rotations)
        if isinstance(cache, PagedTokens):
            out = cache.attend(layer, q, k, v)
        else:
            out = attend(q, k, v, layout.groups) if cache is None else self._attend_cache(q, k, v, layout, cache, layer)
        return cast(Tensor, self.o_proj(out.flatten(1)))

    def _project(self, x: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps = (self.q_proj, self.k_proj, self.v_proj)
        if joined(x, *maps):  # queries and keys turn as one
            heads = beside(x, *maps).view(len(x), -1, self.head_width)
            turning, v = torch.split(heads, [self.heads + self.kv_heads, self.kv_heads], dim=1)
            q, k = torch.split(rotate(turning, rotations), [self.heads, self.kv_heads], dim=1)
            return q, k, v
        q, k, v = (part(x).view(len(x), -1, self.head_width) for part in maps)
        return rotate(q, rotations), rotate(k, rotations), v

    def _attend_cache(
        self, q: Tensor, k: Tensor, v: Tensor, layout: Layout, cache: KeyValueCache, layer: int
    ) -> Tensor:
        """The new tokens see those held in `cache` and the new ones before them; their keys and values are written."""
        batch, tokens = layout.batch, layout.tokens
        q, k, v = (_rows(part, batch, tokens) for part in (q, k, v))  # [B, H or K, T, E]
        assert layout.held is not None and layout.place is not None
        cache.write(layer, k, v, layout.place)
        gqa = self.heads != self.kv_heads
        if not any(layout.held):  # a first chunk sees only itself
            out = F.scaled_dot_product_attention(q, k, v, is_causal=tokens > 1, enable_gqa=gqa)
            return out.transpose(1, 2).flatten(0, 1)
        keys, values = cache.read(layer, layout.seen)  # [B, K, S, E]
        if tokens == 1:  # heads that share keys stand as queries side by side: one read of the cache serves them all
            grouped = q.reshape(batch, self.kv_heads, -1, self.head_width)
            out = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=layout.visible)
            return out.reshape(batch, self.heads, self.head_width)
        out = F.scaled_dot_product_attention(q, keys, values, attn_mask=layout.visible, enable_gqa=gqa)
        return out.transpose(1, 2).flatten(0, 1)
