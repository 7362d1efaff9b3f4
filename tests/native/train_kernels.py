"""Checks of the kernels between the products of a training step, against their formulas in float64.

python -m tests.native.train_kernels LIBRARY [SEED...]     exits with an error if a check fails
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from camelid.native.library import opened
from camelid.native.passes import TextsStruct
from tests.native.kernels import near, unaligned

Array = np.ndarray


def drawn(draw: np.random.Generator, *shape: int) -> Array:
    return unaligned(draw.standard_normal(shape).astype(np.float32))


def empty(*shape: int) -> Array:
    """Room that a kernel has to fill: what it leaves out stays NaN."""
    return unaligned(np.full(shape, np.nan, np.float32))


def places(*arrays: Array) -> list[int]:
    return [array.ctypes.data for array in arrays]


def largest(array: Array) -> float:
    return max(float(np.abs(array).max()), 1e-30)


def check_norm(library: ctypes.CDLL, seed: int) -> None:
    """Values, the factor kept, values again, and gradients with and without something to add."""
    draw = np.random.default_rng(seed)
    rows, width, eps = int(draw.integers(1, 150)), int(draw.integers(1, 70)), 1e-5
    x, weight, grad, plus = (drawn(draw, *shape) for shape in ((rows, width), (width,), (rows, width), (rows, width)))
    y, again, scale, room = empty(rows, width), empty(rows, width), empty(rows), empty(2, width)
    library.camelid_norm_forward(*places(x, weight), rows, width, eps, *places(y, scale))
    library.camelid_norm_again(*places(x, weight, scale), rows, width, *places(again))
    factor = 1 / np.sqrt((x.astype(float) ** 2).mean(1, keepdims=True) + eps)
    near(scale, factor[:, 0], np.abs(factor[:, 0]), 4)
    near(y, x * factor * weight, np.abs(x * factor * weight), 8)
    assert (again == y).all()
    normed = x * factor
    for added in (None, plus):
        to_x, to_weight = empty(rows, width), empty(width)
        there = 0 if added is None else added.ctypes.data
        given = places(grad, x, weight, scale)
        library.camelid_norm_backward(*given, there, rows, width, *places(to_x, to_weight, room))
        sloped = grad.astype(float) * weight
        wanted = factor * (sloped - normed * (sloped * normed).mean(1, keepdims=True)) + (0 if added is None else added)
        parts = factor * (np.abs(sloped) + np.abs(normed) * np.abs(sloped * normed).mean(1, keepdims=True))
        near(to_x, wanted, parts + np.abs(plus), 8)
        near(to_weight, (grad * normed).sum(0), largest(np.abs(grad * normed).sum(0)), 8)


def check_gate(library: ctypes.CDLL, seed: int) -> None:
    """silu(gate) * up and its gradient, from far below zero to far above."""
    draw = np.random.default_rng(seed)
    rows, hidden = int(draw.integers(1, 5)), int(draw.integers(1, 600))
    both = unaligned((draw.standard_normal((rows, 2 * hidden)) * [1, 30, 100][seed % 3]).astype(np.float32))
    grad = drawn(draw, rows, hidden)
    inner, again, to_both = empty(rows, hidden), empty(rows, hidden), empty(rows, 2 * hidden)
    library.camelid_gate_forward(*places(both), rows, hidden, *places(inner))
    library.camelid_gate_backward(*places(grad, both), rows, hidden, *places(to_both, again))
    gate, up = both[:, :hidden].astype(float), both[:, hidden:].astype(float)
    part = 1 / (1 + np.exp(-gate))
    near(inner, gate * part * up, np.abs(gate * up), 4)
    near(again, gate * part * up, np.abs(gate * up), 4)
    near(to_both[:, hidden:], grad * gate * part, np.abs(grad * gate), 4)
    near(to_both[:, :hidden], grad * up * part * (1 + gate * (1 - part)), np.abs(grad * up) * (1 + np.abs(gate)), 4)


def rotated(x: Array, cosines: Array, sines: Array) -> Array:
    return x * cosines + np.roll(x, x.shape[-1] // 2, -1) * sines


def turned_back(x: Array, cosines: Array, sines: Array) -> Array:
    return x * cosines + np.roll(x * sines, x.shape[-1] // 2, -1)


def attention(q: Array, k: Array, v: Array, grad: Array) -> tuple[Array, ...]:
    """One head of one text: its values, and the gradients at queries, keys and values."""
    scale = 1 / np.sqrt(q.shape[1])
    scores = np.where(np.tri(len(q), dtype=bool), q @ k.T * scale, -np.inf)
    weights = np.exp(scores - scores.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    sloped = grad @ v.T
    sloped = weights * (sloped - (sloped * weights).sum(1, keepdims=True)) * scale
    return weights @ v, sloped @ k, sloped.T @ q, weights.T @ grad


def check_training_attention(library: ctypes.CDLL, seed: int) -> None:
    """Texts of one length side by side, heads that share keys, rotations: values and gradients."""
    draw = np.random.default_rng(seed)
    width, kv_heads, shared = 16 * int(draw.integers(1, 6)), int(draw.integers(1, 3)), int(draw.integers(1, 4))
    texts, length, heads = int(draw.integers(1, 4)), int(draw.integers(1, 60)), kv_heads * shared
    count, across = texts * length, heads + 2 * kv_heads
    joint, grad = drawn(draw, count, across, width), drawn(draw, count, heads, width)
    angles = draw.uniform(0, 6, (count, width // 2))
    cosines = unaligned(np.tile(np.cos(angles), 2).astype(np.float32))
    sines = unaligned(np.concatenate([-np.sin(angles), np.sin(angles)], 1).astype(np.float32))
    out, kept, to_joint = empty(count, heads, width), empty(count, heads, 2), empty(count, across, width)
    told = ctypes.byref(TextsStruct(texts, length, heads, kv_heads, width))
    room = empty(library.camelid_attention_room(told))
    library.camelid_attention_forward(told, *places(joint, cosines, sines, out, kept, room))
    library.camelid_attention_backward(told, *places(joint, cosines, sines, out, kept, grad, to_joint, room))
    wanted, slopes = np.zeros_like(out, dtype=float), np.zeros_like(joint, dtype=float)
    for text in range(texts):
        part = slice(text * length, (text + 1) * length)
        c, s = cosines[part].astype(float), sines[part].astype(float)
        for head in range(heads):
            key = heads + head // shared
            q, k = rotated(joint[part, head], c, s), rotated(joint[part, key], c, s)
            value = joint[part, key + kv_heads].astype(float)
            wanted[part, head], to_q, to_k, to_v = attention(q, k, value, grad[part, head].astype(float))
            slopes[part, head] = turned_back(to_q, c, s)
            slopes[part, key] += turned_back(to_k, c, s)
            slopes[part, key + kv_heads] += to_v
    near(out, wanted, largest(joint), 16)
    near(to_joint, slopes, largest(slopes), 64)


def check_loss(library: ctypes.CDLL, seed: int) -> None:
    """The loss of each row and its gradient; a target that is none is found, and what is no number stays none."""
    draw = np.random.default_rng(seed)
    rows, vocab = int(draw.integers(1, 6)), int(draw.integers(1, 9000))
    logits = unaligned((draw.standard_normal((rows, vocab)) * [1, 20][seed % 2]).astype(np.float32))
    targets, losses, before = draw.integers(0, vocab, rows), empty(rows), logits.astype(float)
    assert library.camelid_loss(*places(logits, targets), rows, vocab, *places(losses)) == rows
    most = before.max(1, keepdims=True)
    total = np.exp(before - most).sum(1, keepdims=True)
    aimed = before[np.arange(rows), targets]
    near(losses, (np.log(total) + most)[:, 0] - aimed, np.abs(aimed) + np.abs(most[:, 0]) + 1, 4)
    wanted = np.exp(before - most) / total
    wanted[np.arange(rows), targets] -= 1
    near(logits, wanted, np.maximum(np.abs(wanted), 1e-3), 64)
    for wrong in (-1, vocab):
        targets[-1] = wrong
        assert library.camelid_loss(*places(logits, targets), rows, vocab, *places(losses)) == rows - 1
    targets[-1], logits[0, -1] = 0, np.nan
    library.camelid_loss(*places(logits, targets), rows, vocab, *places(losses))
    assert np.isnan(losses[0]) and np.isnan(logits[0]).all()


def check_training_products(library: ctypes.CDLL, seed: int) -> None:
    """Both factors as they lie or transposed, written beside other columns or added; a row's bits are its own."""
    draw = np.random.default_rng(seed)
    rows, depth, cols = int(draw.integers(1, 40)), int(draw.integers(1, 300)), 16 * int(draw.integers(1, 9))
    a, b = drawn(draw, rows, depth), drawn(draw, depth, cols)
    left, right = (unaligned(part.T.copy()).T if turned else part for part, turned in ((a, seed & 1), (b, seed & 2)))
    begun, room = drawn(draw, rows, cols + 5), empty(128, 48)
    exact, size = a.astype(float) @ b, np.abs(a).astype(float) @ np.abs(b)
    for adds in (0, 1):
        found = unaligned(begun)
        strides = [[step // 4 for step in part.strides] for part in (left, right)]
        given = (left.ctypes.data, *strides[0], right.ctypes.data, *strides[1], found.ctypes.data, cols + 5)
        library.camelid_product(*given, rows, depth, cols, adds, *places(room))
        near(found[:, :cols], exact + adds * begun[:, :cols], size + np.abs(begun[:, :cols]), depth**0.5 + 4)
        assert (found[:, cols:] == begun[:, cols:]).all()
        alone = unaligned(begun)
        for row in range(rows):
            given = (
                left[row:].ctypes.data,
                *strides[0],
                right.ctypes.data,
                *strides[1],
                alone[row:].ctypes.data,
                cols + 5,
            )
            library.camelid_product(*given, 1, depth, cols, adds, *places(room))
        assert (alone == found).all()


CHECKS: tuple[Callable[[ctypes.CDLL, int], None], ...] = (
    check_norm,
    check_gate,
    check_training_attention,
    check_loss,
    check_training_products,
)


def main(path: str, *seeds: str) -> None:
    library = opened(Path(path))
    for check in CHECKS:
        for seed in map(int, seeds):
            check(library, seed)
    print("all checks passed")


if __name__ == "__main__":
    main(*sys.argv[1:])
