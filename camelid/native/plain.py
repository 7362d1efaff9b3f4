"""What each kernel computes, in NumPy: the definitions that core.c is tested against, and no path of its own.

Float kernels agree with these to rounding, integer ones and bf16 products to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from camelid.native.library import GROUP

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
SMALLEST = np.float32(1e-30)  # groups of activations whose largest is below become zeros
NORMAL = 2.0**-126  # the smallest number that bf16 products do not take for zero
LINE, LANES = 32, 16  # numbers of a row that are multiplied at once, and the sums that they go into


def grouped(x: Floats) -> Floats:
    """[..., C] as [..., C / 32, 32], the last group filled up with zeros."""
    missing = -x.shape[-1] % GROUP
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
    return padded.reshape(*x.shape[:-1], -1, GROUP)


def quantise(x: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Activations [..., C] as int8 [..., G, 32] and scales [..., G]: to the nearest multiple of largest / 127, halves to
    even. The scale of a group that is not finite is NaN."""
    parts = grouped(x)
    most = np.abs(parts).max(axis=-1)
    finite = np.isfinite(parts).all(axis=-1)
    usable = finite & (most >= SMALLEST)
    with np.errstate(all="ignore"):
        up = np.where(usable, np.float32(127) / most, np.float32(0))
        ints = np.where(usable[..., None], np.rint(parts * up[..., None]), 0).astype(np.int8)
        scales = np.where(usable, most / np.float32(127), np.where(finite, 0, np.nan))
    return ints, scales.astype(np.float32)


def q8_0(x: Floats) -> tuple[NDArray[np.float16], NDArray[np.int8]]:
    """Weights [..., C] as GGUF's Q8_0: scales [..., G] largest / 127, int8 [..., G, 32], halves away from zero."""
    parts = grouped(x)
    scale = np.abs(parts).max(axis=-1) / np.float32(127)
    with np.errstate(all="ignore"):
        up = np.where(scale != 0, np.float32(1) / scale, np.float32(0))
        v = np.nan_to_num(np.clip(parts * up[..., None], -127, 127))
        whole = np.trunc(v)
        return scale.astype(np.float16), (whole + (v - whole >= 0.5) - (v - whole <= -0.5)).astype(np.int8)


def q4_0(x: Floats) -> tuple[NDArray[np.float16], NDArray[np.int8]]:
    """Weights as GGUF's Q4_0: scale = the number of largest size / -8, and -8..7 for each of 32."""
    parts = grouped(x)
    place = np.abs(parts).argmax(axis=-1)
    scale = np.take_along_axis(parts, place[..., None], axis=-1)[..., 0] / np.float32(-8)
    with np.errstate(all="ignore"):
        up = np.where(scale != 0, np.float32(1) / scale, np.float32(0))
        v = np.nan_to_num(np.clip(parts * up[..., None] + np.float32(8.5), 0, 15))
        return scale.astype(np.float16), (np.trunc(v) - 8).astype(np.int8)


def blocks(scales: NDArray[np.float16], ints: NDArray[np.int8], kind: str) -> NDArray[np.uint8]:
    """GGUF's bytes of rows: scales [R, G] and ints [R, G, 32] -> [R, G * 34 or 18]."""
    heads = scales[..., None].view(np.uint8)
    if kind == "q8_0":
        body = ints.view(np.uint8)
    else:
        nibbles = (ints + 8).astype(np.uint8)
        body = nibbles[..., :16] | nibbles[..., 16:] * np.uint8(16)
    return np.concatenate([heads, body], axis=-1).reshape(len(scales), -1)


def product(scales: NDArray[np.float16], ints: NDArray[np.int8], x: Floats) -> Doubles:
    """Quantised weights times quantised activations, exact but for float64: [T, R]."""
    q, s = quantise(x)
    whole = np.einsum("rgk,tgk->trg", ints.astype(np.int64), q.astype(np.int64))
    return np.asarray((whole * scales.astype(np.float64)[None] * s.astype(np.float64)[:, None]).sum(axis=-1))


def brains(x: Floats) -> NDArray[np.uint16]:
    """The bits of activations as bf16: to the nearest, halves to even, as PyTorch rounds, but below 2^-126 to zero."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    size = bits & np.uint32(0x7FFFFFFF)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    signs, quiet = bits >> np.uint32(16) & np.uint32(0x8000), bits >> np.uint32(16) | np.uint32(0x40)
    found = np.where(size < 0x00800000, signs, np.where(size > 0x7F800000, quiet, rounded))
    return found.astype(np.uint16)


def widened(bits: NDArray[np.uint16]) -> Floats:
    """The numbers that bf16 bits stand for."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def brain_product(weights: NDArray[np.uint16], x: Floats) -> Floats:
    """bf16 weights [R, C] times activations [T, C], which are rounded to bf16: [T, R], bit for bit.

    A row is taken 32 numbers at a time. Lane i of 16 adds the product of numbers 2 i + 1, then that of numbers 2 i, each
    rounded once, to the nearest, into a float32; at last lanes 8, 4, 2 and 1 apart are added. Numbers below 2^-126 are
    zero wherever they stand. This is what VDPBF16PS does (Intel's manual, and found to be so on a Zen 4).
    """
    missing = -x.shape[-1] % LINE
    w, given = (np.pad(widened(bits), [(0, 0), (0, missing)]) for bits in (weights, brains(x)))
    w = np.where(np.abs(w) < NORMAL, np.float32(0), w)
    sums = np.zeros((len(given), len(w), LANES), np.float32)
    with np.errstate(all="ignore"):
        for start in range(0, w.shape[-1], LINE):
            for first in (1, 0):
                part = slice(start + first, start + LINE, 2)
                sums = _fused(given[:, None, part], w[None, :, part], sums)
        while sums.shape[-1] > 1:
            half = sums.shape[-1] // 2
            sums = sums[..., :half] + sums[..., half:]
            sums = np.where(np.abs(sums) < NORMAL, np.float32(0), sums)
    return np.asarray(sums[..., 0])


def _fused(a: Floats, b: Floats, c: Floats) -> Floats:
    """a b + c rounded once; products of bf16 are exact in float64, and what their sum loses there is put into its last
    bit, so that the second rounding sees it."""
    product, addend = a.astype(np.float64) * b, c.astype(np.float64)
    found = product + addend
    other = found - product
    lost = (product - (found - other)) + (addend - other)
    bits = found.view(np.int64)
    inexact = np.isfinite(found) & np.isfinite(lost) & (lost != 0) & (bits % 2 == 0)
    odd = (bits + np.where((lost > 0) == (found > 0), 1, -1)).view(np.float64)
    found = np.where(inexact, odd, found)
    return np.where(np.abs(found) < NORMAL - 2.0**-151, 0, found).astype(np.float32)


def norm(x: Floats, weight: Floats, eps: float) -> Doubles:
    """x / sqrt(mean(x ** 2) + eps) * weight, in float64."""
    exact = x.astype(np.float64)
    return np.asarray(exact / np.sqrt((exact**2).mean(axis=-1, keepdims=True) + eps) * weight)


def turn(x: Floats, cosines: Floats, sines: Floats) -> Doubles:
    """x * cosines + the halves of x exchanged * sines (the first half of which is negated)."""
    exact: Any = x.astype(np.float64)
    return np.asarray(exact * cosines + np.roll(exact, x.shape[-1] // 2, axis=-1) * sines)


def gate(g: Floats, u: Floats) -> Doubles:
    """silu(g) * u."""
    exact = g.astype(np.float64)
    with np.errstate(over="ignore"):
        return np.asarray(exact / (1 + np.exp(-exact)) * u)


def attend_ints(q: Floats, keys: Floats, values: Floats) -> Doubles:
    """The same over queries, keys and values that were rounded to int8 in groups of 32."""
    return attend(*(_rounded(part) for part in (q, keys, values)))


def _rounded(x: Floats) -> Any:
    ints, scales = quantise(x)
    return (ints * scales.astype(np.float64)[..., None]).reshape(*x.shape[:-1], -1)[..., : x.shape[-1]]


def attend(q: Any, keys: Any, values: Any) -> Doubles:
    """softmax(q keys / sqrt(E)) values, for queries [H, E] that share keys and values [S, E]."""
    scores = q.astype(np.float64) @ keys.astype(np.float64).T / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True) @ values)
