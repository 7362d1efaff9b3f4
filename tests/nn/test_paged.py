from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from camelid.errors import CamelidError
from camelid.generate.forward import heads, read, tile
from camelid.models.llama import paged_cache
from camelid.nn.paged import PagedCache, PagedTokens
from tests.conftest import size
from tests.generate.test_engine import KINDS, SHAPE, grown

ACROSS = 5


@pytest.mark.parametrize(("kind", "exact"), [*((kind, True) for kind in KINDS), ("float64", False)])
@pytest.mark.parametrize("seed", range(size(2)))
def test_any_schedule_over_pages_gives_the_logits_of_one_reading(kind: str, seed: int, exact: bool) -> None:
    """Goal N3: chunks, rollbacks, texts that begin in another's pages, evictions, a cache that grows. The same bits; where
    tokens are compared together, 1e-12 in float64. What was never written is NaN here."""
    chance = random.Random(f"{kind} {seed}")
    model = grown(kind, seed)
    rows = tile(model) if exact else 0
    cache = paged_cache(SHAPE, 2, model.dtype)
    beginning = [chance.randrange(61) for _ in range(48)]
    texts = [
        beginning[: chance.randint(1, 48)] + [chance.randrange(61) for _ in range(chance.randint(1, 30))]
        for _ in range(4)
    ]
    full = [reading(model, text, rows) for text in texts]
    tables, held = np.zeros((4, ACROSS), np.int32), [0] * 4
    free = iter(range(10**6))
    own = [[next(free) for _ in range(ACROSS)] for _ in texts]
    for slot in range(4):
        tables[slot] = own[slot]
    for _ in range(40):
        before = cache.pages
        cache.grow(int(tables.max()) + 1)
        for part in (cache.keys, cache.values):
            part[:, before:] = float("nan")
        counts = [chance.randint(0, min(20, len(text) - at)) for text, at in zip(texts, held, strict=True)]
        if sum(counts):
            slots = np.repeat(np.arange(4, dtype=np.int32), counts)
            places = np.concatenate([np.arange(at, at + n, dtype=np.int32) for at, n in zip(held, counts, strict=True)])
            ids = np.array([texts[slot][place] for slot, place in zip(slots, places, strict=True)])
            want = np.array(sorted(chance.sample(range(len(ids)), chance.randint(0, len(ids)))), np.int32)
            new = PagedTokens(cache, slots, places, tables, exact=exact)
            states, logits = read(model, ids, new, want, rows=rows, states=True)
            assert states is not None
            expected = torch.stack([full[slot][place] for slot, place in zip(slots, places, strict=True)])
            off = 0 if exact else 1e-12
            torch.testing.assert_close(heads(model, states, rows=rows), expected, rtol=0, atol=off)
            torch.testing.assert_close(logits, expected[want], rtol=0, atol=off)
            held = [at + n for at, n in zip(held, counts, strict=True)]
        slot, other = chance.sample(range(4), 2)
        if chance.random() < 0.3:  # rolled back: what follows is written over, so only its own pages may be kept
            held[slot] = chance.randint(0, held[slot])
            for page in range(ACROSS):
                tables[slot, page] = tables[slot, page] if (page + 1) * 16 <= held[slot] else next(free)
            held[slot] -= held[slot] % 16
        if chance.random() < 0.3:  # evicted
            held[slot], tables[slot] = 0, [next(free) for _ in range(ACROSS)]
        shared = next((n for n, (a, b) in enumerate(zip(texts[slot], texts[other], strict=False)) if a != b), 0)
        pages = min(shared, held[other]) // 16
        if pages and chance.random() < 0.5:  # begun in another's pages
            tables[slot] = [*tables[other, :pages], *(next(free) for _ in range(ACROSS - pages))]
            held[slot] = pages * 16


def reading(model: object, text: list[int], rows: int) -> torch.Tensor:
    """Logits [T, V] of one whole reading."""
    cache = paged_cache(SHAPE, ACROSS, model.dtype)  # type: ignore[attr-defined]
    count = len(text)
    table = np.arange(ACROSS, dtype=np.int32)[None].copy()
    new = PagedTokens(cache, np.zeros(count, np.int32), np.arange(count, dtype=np.int32), table, exact=bool(rows))
    want = np.arange(count, dtype=np.int32)
    logits = read(model, np.array(text), new, want, rows=rows)[1]  # type: ignore[arg-type]
    plain = model(torch.tensor([text]))[0]  # type: ignore[operator]
    torch.testing.assert_close(logits, plain, rtol=1e-4, atol=1e-4)  # the same function, through no cache at all
    return logits


def test_pages_of_other_sizes_and_gradients_are_refused() -> None:
    with pytest.raises(CamelidError, match="a page of 24 tokens; use a multiple of 16"):
        PagedCache(layers=1, kv_heads=1, head_width=2, pages=1, page=24)
    model = grown("pytorch")
    one = np.zeros(1, np.int32)
    new = PagedTokens(paged_cache(SHAPE, 1, torch.float32), one, one, one[None].copy())
    with pytest.raises(CamelidError, match="gradients cannot pass"):
        model.requires_grad_(True)(torch.tensor([[1]]), cache=new)  # type: ignore[union-attr, arg-type]
