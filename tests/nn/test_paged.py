from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from camelid.errors import CamelidError
from camelid.generate.forward import heads, read, tile
from camelid.models.llama import paged_cache
from camelid.native import plain
from camelid.nn.paged import GROUP, SMALLEST, CacheKind, Int8PagedCache, PagedCache, PagedTokens, quantised
from tests.conftest import size
from tests.generate.test_engine import INT8, KINDS, SHAPE, cache_of, grown

ACROSS = 5


@pytest.mark.parametrize(("kind", "exact"), [*((kind, True) for kind in (*KINDS, *INT8)), ("float64", False)])
@pytest.mark.parametrize("seed", range(size(2)))
def test_any_schedule_over_pages_gives_the_logits_of_one_reading(kind: str, seed: int, exact: bool) -> None:
    """Goal N3: chunks, rollbacks, texts that begin in another's pages, evictions, a cache that grows. The same bits; where
    tokens are compared together, 1e-12 in float64. What was never written is NaN here."""
    chance = random.Random(f"{kind} {seed}")
    model = grown(kind, seed)
    rows = tile(model) if exact else 0
    cache = paged_cache(SHAPE, 2, model.dtype, kind=cache_of(kind))
    beginning = [chance.randrange(61) for _ in range(48)]
    texts = [
        beginning[: chance.randint(1, 48)] + [chance.randrange(61) for _ in range(chance.randint(1, 30))]
        for _ in range(4)
    ]
    full = [reading(model, text, rows, cache_of(kind)) for text in texts]
    tables, held = np.zeros((4, ACROSS), np.int32), [0] * 4
    free = iter(range(10**6))
    own = [[next(free) for _ in range(ACROSS)] for _ in texts]
    for slot in range(4):
        tables[slot] = own[slot]
    for _ in range(40):
        before = cache.pages
        cache.grow(int(tables.max()) + 1)
        for part in (getattr(cache, name) for name in cache.parts):
            part[:, before:] = float("nan") if part.is_floating_point() else 127
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


def reading(model: object, text: list[int], rows: int, kind: CacheKind) -> torch.Tensor:
    """Logits [T, V] of one whole reading."""
    cache = paged_cache(SHAPE, ACROSS, model.dtype, kind=kind)  # type: ignore[attr-defined]
    count = len(text)
    table = np.arange(ACROSS, dtype=np.int32)[None].copy()
    new = PagedTokens(cache, np.zeros(count, np.int32), np.arange(count, dtype=np.int32), table, exact=bool(rows))
    want = np.arange(count, dtype=np.int32)
    logits = read(model, np.array(text), new, want, rows=rows)[1]  # type: ignore[arg-type]
    whole = model(torch.tensor([text]))[0]  # type: ignore[operator]
    if kind == "float":
        torch.testing.assert_close(logits, whole, rtol=1e-4, atol=1e-4)  # the same function, through no cache at all
    else:
        assert 0 < (logits - whole).abs().mean() < 0.02 * whole.std(), "rounded, and not wrong"
    return logits


def random_numbers(chance: torch.Generator, *shape: int) -> torch.Tensor:
    """Of every size, with zeros, subnormals, and whole groups of nothing."""
    found = (
        torch.randn(shape, generator=chance) * 10.0 ** torch.randint(-3, 30, shape[:-1], generator=chance)[..., None]
    )
    found[torch.rand(shape, generator=chance) < 0.1] = 0
    found[torch.rand(shape, generator=chance) < 0.05] = 1e-40
    found[torch.rand(shape[:-1], generator=chance) < 0.1] = 0
    return found


@pytest.mark.parametrize("seed", range(size(10)))
def test_rounding_to_int8_is_the_definition_of_activations_and_off_by_half_a_step_at_most(seed: int) -> None:
    chance = torch.Generator().manual_seed(seed)
    width = int(torch.randint(1, 140, (), generator=chance))
    x = random_numbers(chance, 9, 3, width)
    codes, scales = quantised(x)
    wanted = plain.quantise(x.numpy())
    assert (codes.numpy() == wanted[0]).all() and (scales.numpy() == wanted[1]).all()
    cache = Int8PagedCache(layers=2, kv_heads=3, head_width=width, pages=4, page=32)
    pages, within = torch.tensor([0, 3, 1, 1, 1, 2, 0, 3, 3]), torch.tensor([0, 31, 15, 16, 2, 30, 17, 4, 16])
    cache.write(1, pages, within, x, x.flip(0))
    cache.grow(7)
    step = (scales / 2 * (1 + 1e-6)).repeat_interleave(GROUP, -1)[..., :width] + SMALLEST
    for found, given, own in (
        (cache.keys_of(1, pages), x, step),
        (cache.values_of(1, pages), x.flip(0), step.flip(0)),
    ):
        assert ((found[range(9), :, within] - given).abs() <= own).all()
    assert ((cache.asked(x) - x).abs() <= step).all()
    x[4, 1, 0] = [float("nan"), float("inf"), -float("inf")][seed % 3]
    cache.write(0, pages, within, x, x)
    for found in (cache.keys_of(0, pages), cache.values_of(0, pages)):
        mine = found[range(9), :, within]
        assert mine[4, 1, : min(width, GROUP)].isnan().all() and mine.isnan().sum() == min(width, GROUP)


@pytest.mark.parametrize("width", [8, 48, 64])
def test_both_engines_read_each_others_pages_in_int8(width: int) -> None:
    """The kernels and PyTorch write the same bytes but where a number stands between two codes, and read them alike."""
    shape = replace(SHAPE, head_width=width)
    model = grown("pytorch", 4, shape)
    native = grown("float32", 4, shape)
    ids = torch.randint(61, (40,), generator=torch.Generator().manual_seed(1)).numpy()
    tables, places = np.array([[2, 0, 1]], np.int32), np.arange(40, dtype=np.int32)
    caches, logits = [], []
    for each in (model, native):
        cache = paged_cache(shape, 3, torch.float32, kind="int8")
        new = PagedTokens(cache, np.zeros(40, np.int32), places, tables)
        logits.append(read(each, ids, new, places, rows=tile(each))[1])
        caches.append(cache)
    ours, theirs = ([part(0, torch.arange(3)) for part in (cache.keys_of, cache.values_of)] for cache in caches)
    seen = np.array([(page, place) for page, place in zip(tables[0][places // 16], places % 16, strict=True)]).T
    for a, b in zip(ours, theirs, strict=True):
        a, b = (part[seen[0], :, seen[1]] for part in (a, b))
        assert ((a - b).abs() <= 0.011 * b.abs().max()).all() and (
            (a - b).abs() > 1e-5 * b.abs().max()
        ).float().mean() < 0.01
    torch.testing.assert_close(*logits, rtol=0, atol=0.02 * float(logits[0].std()))
    last = PagedTokens(caches[1], np.zeros(1, np.int32), np.array([40], np.int32), tables)
    crossed = read(model, ids[:1], last, np.zeros(1, np.int32), rows=tile(model))[1]
    own = read(native, ids[:1], last, np.zeros(1, np.int32), rows=0)[1]
    torch.testing.assert_close(crossed, own, rtol=0, atol=0.02 * float(own.std()))


def test_pages_of_other_sizes_and_gradients_are_refused() -> None:
    with pytest.raises(CamelidError, match="a page of 24 tokens; use a multiple of 16"):
        PagedCache(layers=1, kv_heads=1, head_width=2, pages=1, page=24)
    model = grown("pytorch")
    one = np.zeros(1, np.int32)
    new = PagedTokens(paged_cache(SHAPE, 1, torch.float32), one, one, one[None].copy())
    with pytest.raises(CamelidError, match="gradients cannot pass"):
        model.requires_grad_(True)(torch.tensor([[1]]), cache=new)  # type: ignore[union-attr, arg-type]
