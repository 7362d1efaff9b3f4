"""The kernels with NumPy arrays, and the checks that every build of them has to pass; run by pytest and by sanitizers.

python -m tests.native.kernels LIBRARY [SEED...]     exits with an error if a check fails
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np

from camelid.native import plain
from camelid.native.library import (
    FLOATS,
    GROUP,
    INTS,
    PANEL,
    AskedStruct,
    BatchStruct,
    HeldStruct,
    LayerStruct,
    MatrixStruct,
    ModelStruct,
    opened,
)

KINDS = {"float32": 0, "bf16": 1, "q8_0": 2, "q4_0": 3}
BLOCK = {"q8_0": 34, "q4_0": 18}


def unaligned(array: np.ndarray, by: int = 4) -> np.ndarray:
    """A copy that begins `by` bytes into its memory and ends with it, so that a sanitizer sees reads beyond."""
    raw = np.zeros(array.nbytes + by, np.uint8)
    exact = raw[by:].view(array.dtype).reshape(array.shape)
    exact[...] = array
    return exact


class Weights:
    """A matrix for the kernels, of any kind, with the exact values it stands for."""

    def __init__(self, library: ctypes.CDLL, kind: str, weights: np.ndarray, threads: int = 1) -> None:
        rows, cols = weights.shape
        self.kind, self.scales, self.ints = kind, None, None
        self.panel_scales = np.zeros(1, np.uint16)
        if kind == "float32":
            self.data = unaligned(weights)
        elif kind == "bf16":
            self.data = unaligned((weights.view(np.uint32) >> 16).astype(np.uint16), 2)
        else:
            groups, panels = -(-cols // GROUP), -(-rows // PANEL)
            self.data = unaligned(np.zeros(panels * groups * PANEL * (BLOCK[kind] - 2), np.uint8), 1)
            self.panel_scales = unaligned(np.zeros(panels * groups * PANEL, np.uint16), 2)
            self.blocks = np.zeros((rows, groups * BLOCK[kind]), np.uint8)
            weights = unaligned(weights)
            source = MatrixStruct(0, rows, cols, weights.ctypes.data, None)
            places = (self.blocks.ctypes.data, self.data.ctypes.data, self.panel_scales.ctypes.data)
            self.wrong = library.camelid_pack(source, KINDS[kind], *places, threads)
            self.scales, self.ints = (plain.q8_0 if kind == "q8_0" else plain.q4_0)(weights)
        self.struct = MatrixStruct(KINDS[kind], rows, cols, self.data.ctypes.data, self.panel_scales.ctypes.data)

    def exact(self) -> np.ndarray:
        """The values in float64."""
        rows, cols = self.struct.rows, self.struct.cols
        if self.kind == "float32":
            return self.data.astype(np.float64)
        if self.kind == "bf16":
            return (self.data.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        return (self.ints * self.scales[..., None].astype(np.float64)).reshape(rows, -1)[:, :cols]

    def times(self, library: ctypes.CDLL, x: np.ndarray, threads: int = 1) -> np.ndarray:
        x, y = unaligned(x), unaligned(np.full((len(x), self.struct.rows), np.nan, np.float32))
        assert library.camelid_linear(self.struct, x.ctypes.data, len(x), y.ctypes.data, threads) == 0
        return y.copy()


def numbers(draw: np.random.Generator, shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
    """Numbers of very different size: zeros, subnormals, large ones, whole rows of nothing."""
    found = draw.standard_normal(shape) * scale * 10.0 ** draw.integers(-3, 3, shape)
    found[draw.random(shape) < 0.1] = 0
    found[draw.random(shape) < 0.05] = 1e-40
    if len(shape) > 1:
        found[draw.random(shape[:-1]) < 0.1] = 0
    return found.astype(np.float32)


def near(found: np.ndarray, wanted: np.ndarray, size: np.ndarray | float, units: float) -> None:
    """Within so many units in the last place of `size`."""
    allowed = units * np.finfo(np.float32).eps * size + np.finfo(np.float32).tiny
    worst = (np.abs(found - wanted) / allowed).max(initial=0)
    assert worst <= 1, f"off by {worst:.2f} times what {units} units in the last place allow"


def check_products(library: ctypes.CDLL, seed: int) -> None:
    """Every kind, odd sizes, every number of rows from 1 to 32: right, and the same bits alone, together, threaded."""
    draw = np.random.default_rng(seed)
    kind = list(KINDS)[seed % 4]
    rows, cols = int(draw.integers(1, 70)), int(draw.integers(1, 200))
    weights = Weights(library, kind, numbers(draw, (rows, cols)), threads=1 + seed % 3)
    x = numbers(draw, (33, cols))
    alone = np.concatenate([weights.times(library, x[t : t + 1]) for t in range(33)])
    exact = weights.exact()
    if kind in ("q8_0", "q4_0"):
        assert weights.wrong == -1
        assert (weights.blocks == plain.blocks(weights.scales, weights.ints, kind)).all()
        q, s = plain.quantise(x)
        wanted = plain.product(weights.scales, weights.ints, x)
        parts = np.abs(np.einsum("rgk,tgk->trg", weights.ints.astype(np.int64), q.astype(np.int64)))
        size = (parts * np.abs(weights.scales.astype(np.float64))[None] * s[:, None]).sum(-1)
    else:
        given = (plain.widened(plain.brains(x)) if kind == "bf16" else x).astype(np.float64)
        wanted, size = given @ exact.T, np.abs(given) @ np.abs(exact).T
    near(alone, wanted, size, 4 + cols / 16)
    if kind == "bf16":
        assert (alone == plain.brain_product(weights.data, x)).all()
    for tokens in range(1, 33):
        first = int(draw.integers(0, 34 - tokens))
        found = weights.times(library, x[first : first + tokens], threads=int(draw.integers(1, 5)))
        assert (found == alone[first : first + tokens]).all(), f"{tokens} rows of {kind} [{rows}, {cols}]"
    row = unaligned(np.zeros(cols, np.float32))
    library.camelid_embed(weights.struct, rows - 1, row.ctypes.data)
    near(row, exact[-1], np.abs(exact[-1]), 1)


def check_long_rows(library: ctypes.CDLL, seed: int) -> None:
    """Rows that are cut, and more tokens than a block holds: the same bits as alone."""
    draw = np.random.default_rng(seed)
    kind = "bf16" if seed % 2 else "float32"
    rows, cols = int(draw.integers(1, 15)), int(draw.integers(3000, 9000)) * (1 + seed % 2)
    weights = Weights(library, kind, draw.standard_normal((rows, cols)).astype(np.float32))
    x = draw.standard_normal((int(draw.integers(30, 60)), cols)).astype(np.float32)
    alone = np.concatenate([weights.times(library, row[None]) for row in x])
    assert (weights.times(library, x, threads=1 + seed % 3) == alone).all()
    given = (plain.widened(plain.brains(x)) if kind == "bf16" else x).astype(np.float64)
    exact = weights.exact()
    near(alone, given @ exact.T, np.abs(given) @ np.abs(exact).T, 4 + cols / 32)


def check_bf16(library: ctypes.CDLL, seed: int) -> None:
    """Any bits: activations are rounded, and products added, as the definition says, zeros, subnormals, infinities and
    NaN included. Plain C, which rounds products too, gives other bits where one is too small or too large for that."""
    draw = np.random.default_rng(seed)
    bits = draw.integers(0, 1 << 32, 64, dtype=np.uint32)
    bits[:8] = [0, 1, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FC00000]
    bits[8:16] = bits[:8] | np.uint32(1 << 31)
    bits[16:32] &= np.uint32(0xFFFF0000)  # exact, and halves
    bits[24:32] |= np.uint32(0x8000)
    x = np.zeros((64, 64), np.float32)
    np.fill_diagonal(x, bits.view(np.float32))
    found = Weights(library, "bf16", np.ones((1, 64), np.float32)).times(library, x)[:, 0]
    wanted = plain.widened(plain.brains(bits.view(np.float32)))
    assert np.array_equal(found, wanted, equal_nan=True)
    rows, cols, tokens = (int(draw.integers(1, most)) for most in (15, 130, 12))
    whole = library.camelid_lanes() != b"plain C"
    low, high = ((0, 255), (30, 100), (50, 80), (170, 200))[seed % 4]  # exponents: any, products about 2^-126, huge
    if not whole:
        low, high = 70, 180
    sign, exponent, rest = ((draw.integers(0, most, (2, max(rows, tokens), cols))) for most in (2, high - low, 1 << 23))
    drawn = (sign << 31 | (exponent + low) << 23 | rest).astype(np.uint32).view(np.float32)
    drawn[draw.random(drawn.shape) < 0.1] = 0
    weights, given = Weights(library, "bf16", drawn[0, :rows]), drawn[1, :tokens]
    together = weights.times(library, given)
    assert np.array_equal(together, plain.brain_product(weights.data, given), equal_nan=True)
    alone = np.concatenate([weights.times(library, row[None]) for row in given])
    assert np.array_equal(together, alone, equal_nan=True)


def check_bad_numbers(library: ctypes.CDLL, seed: int) -> None:
    """NaN and infinity in an activation reach every product of its row and no other; in weights they are refused."""
    draw = np.random.default_rng(seed)
    cols = int(draw.integers(2, 100))
    for kind in KINDS:
        weights = Weights(library, kind, numbers(draw, (17, cols), 0.1) + np.float32(0.5))
        x = numbers(draw, (5, cols))
        clean = weights.times(library, x)
        place = int(draw.integers(cols))
        x[2, place] = [np.nan, np.inf, -np.inf][seed % 3]
        found = weights.times(library, x)
        assert not np.isfinite(found[2]).any()
        assert (np.delete(found, 2, 0) == np.delete(clean, 2, 0)).all()
        if kind in BLOCK:
            bad = numbers(draw, (17, cols), 0.1)
            bad[11, place] = [np.nan, np.inf, np.float32(1e9)][seed % 3]
            bad[13, 0] = np.nan
            assert Weights(library, kind, bad, threads=3).wrong == 11 * cols + place


def check_extremes(library: ctypes.CDLL, seed: int) -> None:
    """Weights of any size in GGUF's blocks, bit for bit; -128 in a foreign block is -128."""
    draw = np.random.default_rng(seed)
    for kind in BLOCK:
        weights = (draw.standard_normal((3, 64)) * 10.0 ** draw.integers(-44, 5, (3, 1))).astype(np.float32)
        weights[0, :32] = weights[0, 0]
        weights[1, 32:] = 0
        packed = Weights(library, kind, weights)
        assert (packed.blocks == plain.blocks(packed.scales, packed.ints, kind)).all()
    scales, ints = np.full((2, 3), 0.5, np.float16), draw.integers(-128, 128, (2, 3, GROUP)).astype(np.int8)
    ints[0], ints[1, 0] = -128, 127
    blocks = plain.blocks(scales, ints, "q8_0")
    data, panel_scales = np.zeros(3 * 512, np.uint8), np.zeros(3 * PANEL, np.uint16)
    stored = MatrixStruct(2, 2, 96, blocks.ctypes.data)
    library.camelid_panels(stored, data.ctypes.data, panel_scales.ctypes.data, 2)
    matrix = MatrixStruct(2, 2, 96, data.ctypes.data, panel_scales.ctypes.data)
    x = draw.choice([-1.0, 1.0], (1, 96)).astype(np.float32)
    y = np.zeros((1, 2), np.float32)
    library.camelid_linear(matrix, x.ctypes.data, 1, y.ctypes.data, 1)
    wanted = plain.product(scales, ints, x)
    near(y, wanted, np.abs(ints * 0.5).sum((1, 2)), 4)


def check_stored(library: ctypes.CDLL, seed: int) -> None:
    """GGUF's blocks where a file has them give the bits of panels, for any number of rows and threads, and so do heads whose
    rotary pairs stand side by side; panels made of them are those of the same rows in order."""
    draw = np.random.default_rng(seed)
    kind = ("q8_0", "q4_0")[seed % 2]
    turned = 2 * int(draw.integers(1, 12)) if seed % 4 > 1 else 0
    rows = turned * int(draw.integers(1, 4)) if turned else int(draw.integers(1, 90))
    cols = int(draw.integers(1, 100)) if seed % 3 else int(draw.integers(500, 1200))
    weights = Weights(library, kind, numbers(draw, (rows, cols)))
    blocks = weights.blocks
    if turned:
        blocks = blocks.reshape(rows // turned, 2, turned // 2, -1).swapaxes(1, 2).reshape(blocks.shape)
    blocks = unaligned(blocks, 1)
    stored = MatrixStruct(KINDS[kind], rows, cols, blocks.ctypes.data, None, turned)
    x = unaligned(numbers(draw, (9, cols)))
    for tokens in (1, 2, 4, 9):
        wanted = weights.times(library, x[:tokens])
        y = unaligned(np.full((tokens, rows), np.nan, np.float32))
        assert library.camelid_linear(stored, x.ctypes.data, tokens, y.ctypes.data, 1 + seed % 3) == 0
        assert (y == wanted).all()
    found, wanted = (unaligned(np.zeros(cols, np.float32)) for _ in range(2))
    for row in range(rows):
        library.camelid_embed(weights.struct, row, wanted.ctypes.data)
        library.camelid_embed(stored, row, found.ctypes.data)
        assert (found == wanted).all()
    data, scales = unaligned(np.full_like(weights.data, 7), 1), unaligned(np.full_like(weights.panel_scales, 7), 2)
    library.camelid_panels(stored, data.ctypes.data, scales.ctypes.data, 1 + seed % 3)
    panels = MatrixStruct(KINDS[kind], rows, cols, data.ctypes.data, scales.ctypes.data)
    y = unaligned(np.full((9, rows), np.nan, np.float32))
    assert library.camelid_linear(panels, x.ctypes.data, 9, y.ctypes.data, 1) == 0
    assert (y == weights.times(library, x)).all()


def check_rows(library: ctypes.CDLL, seed: int) -> None:
    """Norm, rotation, gate, and rounding of activations."""
    draw = np.random.default_rng(seed)
    rows, width = int(draw.integers(1, 6)), 2 * int(draw.integers(1, 80))
    x, weight = unaligned(numbers(draw, (rows, width))), unaligned(numbers(draw, (width,)))
    y = unaligned(np.zeros_like(x))
    library.camelid_norm(x.ctypes.data, weight.ctypes.data, rows, width, 1e-5, y.ctypes.data)
    wanted = plain.norm(x, weight, 1e-5)
    near(y, wanted, np.abs(wanted), 4 + width / 32)
    angles = draw.random((rows, width // 2)) * 99
    cosines = unaligned(np.tile(np.cos(angles), 2).astype(np.float32))
    sines = unaligned(np.concatenate([-np.sin(angles), np.sin(angles)], 1).astype(np.float32))
    wanted = plain.turn(x, cosines, sines)
    size = np.abs(x).astype(np.float64)
    turned = unaligned(x)
    library.camelid_turn(turned.ctypes.data, cosines.ctypes.data, sines.ctypes.data, rows, width)
    near(turned, wanted, size + np.roll(size, width // 2, axis=-1), 2)
    g = unaligned(numbers(draw, (rows, width), 10.0))
    g.flat[: min(4, g.size)] = np.array([-3e38, 3e38, 88.5, -88.5], np.float32)[: min(4, g.size)]
    u = unaligned(x)
    library.camelid_gate(g.ctypes.data, u.ctypes.data, g.size)
    with np.errstate(over="ignore"):
        wanted = plain.gate(g, x)
    fits = np.abs(wanted) < 3e38
    flushed = np.abs(x[fits]) * 1e-36 / np.finfo(np.float32).eps  # silu below -88 is 0
    near(u[fits], wanted[fits], np.abs(wanted[fits]) + flushed, 8)
    groups = -(-width // GROUP)
    ints, scales, totals = np.zeros((groups, GROUP), np.int8), np.zeros(groups, np.float32), np.zeros(groups, np.int32)
    for row in x:
        library.camelid_quantise(row.ctypes.data, width, ints.ctypes.data, scales.ctypes.data, totals.ctypes.data)
        wanted_ints, wanted_scales = plain.quantise(row)
        assert (ints == wanted_ints).all() and (scales == wanted_scales).all()
        assert (totals == -wanted_ints.astype(np.int32).sum(-1)).all()


def asking(draw: np.random.Generator, seed: int) -> tuple[np.ndarray, int, int]:
    """What each of several queries sees, in order; places held; width of a head. Some see the same, some one more."""
    count, held, width = int(draw.integers(1, 11)), int(draw.integers(1, 120)), 2 * int(draw.integers(1, 70))
    seen = held - np.minimum(np.arange(count)[::-1] // [1, 3, 99][seed % 3], held - 1)
    return unaligned(seen.astype(np.int64), 8), held, width


def attended(library: ctypes.CDLL, q: np.ndarray, held: HeldStruct, pages: tuple, seen: np.ndarray) -> np.ndarray:
    """The kernel's answers to queries [n, E], checked to be the bits of each alone; `pages`: table, page, stride."""
    groups = -(-q.shape[1] // GROUP) * 4
    room = [unaligned(np.zeros(groups * size, kind), 4) for size, kind in ((GROUP, "i1"), (1, "f4"), (1, "i4"))]
    asked = AskedStruct(*(part.ctypes.data for part in room))
    table, *sizes = pages

    def some(first: int, last: int) -> np.ndarray:
        own, part = unaligned(q[first:last]), unaligned(seen[first:last], 8)
        out, scores = unaligned(np.full_like(own, np.nan)), unaligned(np.full(4 * part[-1], np.nan, np.float32))
        places = (last - first, part.ctypes.data, q.shape[1], asked, scores.ctypes.data, out.ctypes.data)
        library.camelid_attend(own.ctypes.data, held, table.ctypes.data, *sizes, *places)
        return out.copy()

    together = some(0, len(q))
    alone = np.concatenate([some(i, i + 1) for i in range(len(q))])
    assert np.array_equal(together, alone, equal_nan=True), "four queries at a time, and one"
    return together


def check_attention(library: ctypes.CDLL, seed: int) -> None:
    """Right, and the same bits alone, four at a time, and over pages; what a query does not see does not matter."""
    draw = np.random.default_rng(seed)
    seen, count, width = asking(draw, seed)
    q, keys, values = (
        unaligned(draw.standard_normal((n, width)).astype(np.float32)) for n in (len(seen), count, count)
    )
    if seed % 3 == 0:
        q[0] *= 300  # one key takes everything
    whole = HeldStruct(FLOATS, keys.ctypes.data, values.ctypes.data)
    out = attended(library, q, whole, (np.zeros(1, np.int32), count, 0), seen)
    steep = np.abs(q @ keys.T).max(axis=-1, keepdims=True) / np.sqrt(width)  # an error in a score, times a value
    for i, own in enumerate(seen):
        wanted = plain.attend(q[i : i + 1], keys[:own], values[:own])
        near(out[i : i + 1], wanted, np.abs(values).max() * (1 + steep[i]), 16 + width / 8)
    page = PANEL * int(draw.integers(1, 4))  # the same places, scattered over pages
    pages = -(-count // page)
    table = draw.permutation(pages + 3)[:pages].astype(np.int32)
    held = [unaligned(np.full((pages + 3, page, width), np.nan, np.float32)) for _ in range(2)]
    for number, own in enumerate(table):
        for scattered, part in zip(held, (keys, values), strict=True):
            part = part[number * page : (number + 1) * page]
            scattered[own, : len(part)] = part
    paged = HeldStruct(FLOATS, *(part.ctypes.data for part in held))
    assert (attended(library, q, paged, (table, page, page), seen) == out).all()
    last = count - 1
    if seen[0] <= last:
        keys[last], values[last] = np.nan, np.inf
        found = attended(library, q, whole, (np.zeros(1, np.int32), count, 0), seen)
        assert (found[seen <= last] == out[seen <= last]).all() and not np.isfinite(found[seen > last]).any()


def check_int8_attention(library: ctypes.CDLL, seed: int) -> None:
    """Keys and values in int8: what is written is the definition's to the bit, wherever it lies; what is read, to
    rounding. Codes and scales of places that were never written are as bad as can be."""
    draw = np.random.default_rng(seed)
    sees, seen, width = asking(draw, seed)
    groups = -(-width // GROUP)
    q, keys, values = (draw.standard_normal((n, width)).astype(np.float32) for n in (len(sees), seen, seen))
    keys[0], keys[seen // 2], values[-1, : width // 2] = numbers(draw, (width,)), 0, 1e-40
    values[seen // 2] *= np.float32(1e30)
    if seed % 3 == 0:
        q[0] *= 300  # one key takes everything
    q, keys, values = map(unaligned, (q, keys, values))
    found = []
    for page in (PANEL * (-(-seen // PANEL) + 1), PANEL * int(draw.integers(1, 4))):
        count = -(-seen // page)
        table = draw.permutation(count + 3)[:count].astype(np.int32)
        places = (count + 3) * page
        codes = unaligned(np.full((places // PANEL, groups, 8, PANEL, 4), 255, np.uint8), 1)
        ints = unaligned(np.full((places, groups, GROUP), -128, np.int8), 1)
        key_scales = unaligned(np.full((places // PANEL, groups, PANEL), np.nan, np.float32))
        scales = unaligned(np.full((places, groups), np.nan, np.float32))
        held = HeldStruct(INTS, *(part.ctypes.data for part in (codes, ints, key_scales, scales)))
        at = table[np.arange(seen) // page] * page + np.arange(seen) % page
        for place, key, value in zip(at, keys, values, strict=True):
            library.camelid_keep_ints(held, int(place), key.ctypes.data, value.ctypes.data, width)
        wanted = plain.quantise(keys)
        written = codes[at // PANEL, :, :, at % PANEL].reshape(seen, groups, GROUP).astype(np.int16) - 128
        assert (written == wanted[0]).all() and (key_scales[at // PANEL, :, at % PANEL] == wanted[1]).all()
        wanted = plain.quantise(values)
        assert (ints[at] == wanted[0]).all() and (scales[at] == wanted[1]).all()
        rest = np.setdiff1d(np.arange(places), at)
        assert np.isnan(scales[rest]).all() and np.isnan(key_scales[rest // PANEL, :, rest % PANEL]).all()
        found.append(attended(library, q, held, (table, page, page), sees))
    assert (found[0] == found[1]).all(), "pages of any size give the same bits"
    steep = (np.abs(q) @ np.abs(keys).T).max(axis=-1, keepdims=True) / np.sqrt(width)
    for i, own in enumerate(sees):
        wanted = plain.attend_ints(q[i : i + 1], keys[:own], values[:own])
        near(found[0][i : i + 1], wanted, np.abs(values[:own]).max(axis=0) * (1 + steep[i]), 16 + width / 8)
    q[0, width // 2] = [np.nan, np.inf, -np.inf][seed % 3]
    out = attended(library, q, held, (table, page, page), sees)
    assert np.isnan(out[0]).all() and (out[1:] == found[1][1:]).all()


def check_picks(library: ctypes.CDLL, seed: int) -> None:
    """The first of the largest, log-probabilities, and the first row that is not finite."""
    draw = np.random.default_rng(seed)
    rows, vocab = int(draw.integers(1, 5)), int(draw.integers(1, 3000))
    logits = unaligned((draw.integers(-40, 40, (rows, vocab)) * 0.5).astype(np.float32))
    ids, logprobs = np.zeros(rows, np.int64), np.zeros(rows, np.float32)
    places = (ids.ctypes.data, logprobs.ctypes.data)
    assert library.camelid_pick(logits.ctypes.data, rows, vocab, 0, *places, 1 + seed % 3) == -1
    assert (ids == logits.argmax(-1)).all()
    exact = logits.astype(np.float64)
    exact -= np.log(np.exp(exact - exact.max(-1, keepdims=True)).sum(-1, keepdims=True)) + exact.max(-1, keepdims=True)
    assert np.abs(logprobs - exact.max(-1)).max() < 2e-6
    ids[:] = draw.integers(0, vocab, rows)
    library.camelid_pick(logits.ctypes.data, rows, vocab, 1, *places, 1)
    assert np.abs(logprobs - exact[np.arange(rows), ids]).max() < 4e-6
    logits[rows - 1, int(draw.integers(vocab))] = [np.nan, np.inf, -np.inf][seed % 3]
    assert library.camelid_pick(logits.ctypes.data, rows, vocab, 0, *places, 1 + seed % 3) == rows - 1


def check_step(library: ctypes.CDLL, seed: int) -> None:
    """A whole step: the same bits in one call and in many, alone and in company, in pages, on any number of threads."""
    draw = np.random.default_rng(seed)
    kind, shared, kv_heads = list(KINDS)[seed % 4], int(draw.integers(1, 4)), int(draw.integers(1, 4))
    layers, vocab, slots = 2, 19, 3
    head = 2 * int(draw.integers(1, 12)) if seed % 3 else 16  # 16: every thread can have heads of its own
    room = int(draw.integers(5, 12)) if seed % 8 < 4 else int(draw.integers(17, 40))
    across = -(-room // PANEL)
    width, hidden, heads = int(draw.integers(3, 60)), int(draw.integers(3, 60)), shared * kv_heads
    held: list[object] = []

    def weights(rows: int, cols: int) -> MatrixStruct:
        held.append(Weights(library, kind, (draw.standard_normal((rows, cols)) / cols**0.5).astype(np.float32)))
        return held[-1].struct

    def vector(values: np.ndarray) -> int:
        held.append(unaligned(values))
        return held[-1].ctypes.data

    def layer() -> LayerStruct:
        sizes = [(heads * head, width), (kv_heads * head, width), (kv_heads * head, width), (width, heads * head)]
        sizes += [(hidden, width), (hidden, width), (width, hidden)]
        norms = (vector(draw.random(width).astype(np.float32)) for _ in range(2))
        return LayerStruct(*(weights(*size) for size in sizes), *norms)

    struct = ModelStruct(
        *(layers, width, heads, kv_heads, head, hidden, vocab), 1e-5, weights(vocab, width), weights(vocab, width),
        vector(np.ones(width, np.float32)), (LayerStruct * layers)(*(layer() for _ in range(layers))),
    )  # fmt: skip
    angles = np.arange(room)[:, None] * np.tile(0.5 ** np.arange(head // 2), 2)
    sign = np.repeat([-1, 1], head // 2)
    cosines, sines = (vector(part.astype(np.float32)) for part in (np.cos(angles), np.sin(angles) * sign))
    texts = draw.integers(0, vocab, (slots, room))

    def run(
        calls: list[list[tuple[int, int, int]]],
        threads: int,
        *,
        paged: bool = False,
        ints: bool = False,
        few: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """States and logits by slot and place, after calls that read (slot, first, last) pieces. `few`: no states, and logits
        of some, in any order; the others' stay zeros."""
        page, pages = (PANEL, slots * across + 2) if paged else (room, slots)
        each = layers * pages * kv_heads * page
        if ints:
            groups = -(-head // GROUP)
            keys, values = (unaligned(np.full(each * groups * GROUP, 255, np.uint8), 1) for _ in "kv")
            scales = [unaligned(np.full(each * groups, np.nan, np.float32)) for _ in "kv"]
        else:
            keys, values = (unaligned(np.full(each * head, np.nan, np.float32)) for _ in "kv")
        table = draw.permutation(slots * across + 2)[: slots * across].reshape(slots, across).astype(np.int32)
        states, logits = np.zeros((slots, room, width), np.float32), np.zeros((slots, room, vocab), np.float32)
        for call in calls:
            slot = unaligned(np.concatenate([np.full(b - a, s, np.int32) for s, a, b in call]))
            place = unaligned(np.concatenate([np.arange(a, b, dtype=np.int32) for _, a, b in call]))
            count = len(slot)
            ids = unaligned(texts[slot, place], 8)
            out, scores = (unaligned(np.zeros((count, size), np.float32)) for size in (width, vocab))
            want = np.arange(count, dtype=np.int32)
            if few:
                want = draw.permutation(want)[: int(draw.integers(count + 1))]
            want, scores = unaligned(want), scores[: len(want)]
            batch = BatchStruct(
                *(count, pages, page, len(want), threads),
                *(part.ctypes.data for part in (ids, slot, place, place, want)), cosines, sines,
                *(part.ctypes.data for part in (keys, values)), None if few else out.ctypes.data, scores.ctypes.data,
                *((table.ctypes.data, across, room) if paged else ()),
                *((INTS, *(part.ctypes.data for part in scales)) if ints else ()),
            )  # fmt: skip
            assert library.camelid_step(struct, batch) == 0
            states[slot, place] = out
            logits[slot[want], place[want]] = scores
        return states, logits

    def pieces(slot: int) -> list[tuple[int, int, int]]:
        cuts = sorted({0, room, *draw.integers(1, room, int(draw.integers(0, 5))).tolist()})
        return [(slot, a, b) for a, b in pairwise(cuts)]

    whole = run([[(slot, 0, room)] for slot in range(slots)], 1)
    assert np.isfinite(whole[0]).all() and np.abs(whole[0]).max() > 0
    single = run([[(slot, place, place + 1)] for slot in range(slots) for place in range(room)], 1)
    waiting = [pieces(slot) for slot in range(slots)]
    mixed = []
    while any(waiting):
        going = [own for own in waiting if own and (draw.random() < 0.7 or sum(map(bool, waiting)) == 1)]
        if going:
            mixed.append([own.pop(0) for own in going])
    paged = run(mixed, int(draw.integers(1, 5)), paged=True)
    for other in (single, run(mixed, int(draw.integers(1, 5))), paged):
        assert (other[0] == whole[0]).all() and (other[1] == whole[1]).all()
    some = run(mixed, int(draw.integers(1, 5)), paged=seed % 2 == 0, few=True)[1]
    asked = some.any(axis=-1)
    assert (some[asked] == whole[1][asked]).all()
    if seed % 2:
        return
    rounded = run([[(slot, 0, room)] for slot in range(slots)], 1, paged=True, ints=True)
    other = run(mixed, int(draw.integers(1, 3)), paged=True, ints=True)
    assert (other[0] == rounded[0]).all() and (other[1] == rounded[1]).all()
    off = np.abs(rounded[1] - whole[1]).max() / np.abs(whole[1]).max()
    assert 0 < off < 0.1, "rounded, and not wrong"


def check_copies(library: ctypes.CDLL, seed: int) -> None:
    """Any size from any place to any place, and nothing beside it."""
    draw = np.random.default_rng(seed)
    size = [0, 1, 4095, 4096, 1 << 20, (1 << 20) + 1, (3 << 20) - 5, int(draw.integers(1, 1 << 22))][seed % 8]
    given = unaligned(draw.integers(0, 256, size).astype(np.uint8), 1 + seed % 3)
    found = np.full(size + 8, 7, np.uint8)
    library.camelid_copy(found[3:].ctypes.data, given.ctypes.data, size, 1 + seed % 4)
    assert (found[3 : size + 3] == given).all() and (found[:3] == 7).all() and (found[size + 3 :] == 7).all()


CHECKS: tuple[Callable[[ctypes.CDLL, int], None], ...] = (
    check_products,
    check_long_rows,
    check_bf16,
    check_bad_numbers,
    check_extremes,
    check_stored,
    check_rows,
    check_attention,
    check_int8_attention,
    check_picks,
    check_step,
    check_copies,
)


def main(path: str, *seeds: str) -> None:
    library = opened(Path(path))
    assert library.camelid_check() == 0
    for check in CHECKS:
        for seed in map(int, seeds):
            check(library, seed)
    print("all checks passed")


if __name__ == "__main__":
    main(*sys.argv[1:])
