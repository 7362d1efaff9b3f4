"""Blocks of weights, by definition: GGUF's Q8_0, Q4_0, Q6_K and Q4_K encoded and decoded, its other forms decoded.

A block of Q8_0 or Q4_0 holds 32 neighbours of a row and one scale in float16, which comes first:

    q8_0   s  q[0] q[1] ... q[31]                       w[i] = s q[i]          q[i] a signed byte
    q4_0   s  q[0]|q[16]<<4  q[1]|q[17]<<4 ... q[15]|q[31]<<4    w[i] = s (q[i] - 8)

The scale is found in float32 and rounded to float16 after the weights were divided by it, as llama.cpp does
(ggml/src/ggml-quants.c: quantize_row_q8_0_ref, quantize_row_q4_0_ref): with every operation rounded by itself, the
bytes are equal to its. K-quants put 256 weights into a block of 16 or 8 groups, whose scales have 4, 6 or 8 bits beside
one or two float16 scales of the block (ggml-common.h: block_q2_K to block_q6_K). The two that are written are found
plainly (ours): scales are rounded up, so that every weight is in reach of the codes and half a step from one. llama.cpp
searches for the scales of least error instead; its files are read the same way.

`bound` says how far a decoded weight can lie from the encoded one. Rows that blocks do not fill are refused, as are
values that are infinite or not a number, and blocks too large for a scale in float16.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from camelid.errors import NonFinite, Problem, UsageError
from camelid.quantize.forms import FORMS

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
AT_ONCE = 1 << 22  # ours: weights encoded or decoded together, which bounds the memory beside input and output

# ggml-common.h: kvalues_iq4nl
_NONLINEAR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


ENCODED = ("q8_0", "q6_k", "q4_k", "q4_0")  # blocks that are written


def encode(form: str, values: Tensor) -> Tensor:
    """The bytes of weights [..., N], as uint8 [..., N / weights per block * bytes per block], on the CPU.

    Raises UsageError where rows are no whole number of blocks, NonFinite for values that the form cannot hold.
    """
    values = values.detach().cpu()
    if not bool(values.isfinite().all()):
        raise NonFinite(f"{form}: weights that are infinite or not a number cannot be stored; nothing was written")
    if form in DTYPES:
        stored = values.to(DTYPES[form])
        if not bool(stored.isfinite().all()):
            raise NonFinite(f"{form}: a weight of {float(values.abs().max()):g} is beyond its range; store it in f32")
        return stored.contiguous().view(torch.uint8)
    return _by_rows(form, values, FORMS[form].weights, FORMS[form].bytes, _ENCODERS[form])


def decode(form: str, data: Tensor) -> Tensor:
    """The weights in bytes [..., M], as float32 [..., N]. Raises UsageError where blocks do not fill the rows."""
    if form in DTYPES:
        return data.contiguous().view(DTYPES[form]).float()
    return _by_rows(form, data, FORMS[form].bytes, FORMS[form].weights, _DECODERS[form])


def _by_rows(form: str, given: Tensor, taken: int, made: int, function: Callable[[Tensor], Tensor]) -> Tensor:
    """A function of blocks [n, taken] -> [n, made], applied to every row, some blocks at a time."""
    width = given.shape[-1]
    if width % taken:
        unit = "weights" if taken == FORMS[form].weights else "bytes"
        found = f"rows of {width} {unit} are no whole number of blocks of {taken}"
        raise UsageError([Problem(form, found, "store this tensor as f16, bf16 or f32")])
    blocks = given.reshape(-1, taken)
    parts = [function(part) for part in torch.split(blocks, AT_ONCE // FORMS[form].weights)]
    whole = torch.cat(parts) if len(parts) > 1 else parts[0]
    return whole.reshape(*given.shape[:-1], width // taken * made)


def bound(form: str, values: Tensor) -> Tensor:
    """The largest error, in float64 [..., N], that decoding the encoded weights can have at each of them.

    Of Q6_K and Q4_K half a step of the group. Of the others half a step of the scale d, where Q4_0's codes reach (they end
    at +7 d, while -8 d is the largest weight), and what rounding d to float16 adds: at most 2^-11 d, or 2^-25 where d is
    subnormal there.
    """
    exact = values.detach().double()
    if form in DTYPES:
        mantissa, least = {"f32": (24, 149), "f16": (11, 24), "bf16": (8, 133)}[form]
        return torch.clamp(exact.abs() * 2.0**-mantissa, min=2.0 ** -(least + 1))
    blocks = exact.reshape(-1, FORMS[form].weights)
    if form in ("q6_k", "q4_k"):
        return _half_step(form, blocks).reshape(values.shape)
    largest = blocks.abs().amax(1, keepdim=True)
    steps, low, high = {"q8_0": (127, -127, 127), "q4_0": (8, -8, 7)}[form]
    d = largest / steps
    reached = blocks / torch.where(d == 0, 1.0, d)
    if form == "q4_0":
        signed = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
        reached = reached * torch.where(signed > 0, -1.0, 1.0)
    overshoot = torch.maximum(reached - high, low - reached).clamp(min=0.5 + 2.0**-15)  # 2^-15: float32's own rounding
    codes = (reached.abs() + 0.5).clamp(max=steps)
    scale_error = torch.clamp(d * 2.0**-11, min=2.0**-25)
    return (d * overshoot + (codes + 1) * scale_error).reshape(values.shape)


def _half_step(form: str, blocks: Tensor) -> Tensor:
    """Half of the step that each weight's group can have at most, [n, 256]: every rounding of a scale is upwards, by one
    unit of the block's at most, which float16 holds to 2^-10 or 2^-24; and what float32's own roundings add."""

    def unit(scales: Tensor, most: int) -> Tensor:
        return scales.amax(1, keepdim=True) / most * (1 + 2.0**-10) + 2.0**-24

    if form == "q6_k":
        groups = blocks.reshape(-1, 16, 16)
        steps = groups.abs().amax(2) / 31
        steps = steps + unit(steps, 127)
        least = torch.zeros_like(steps)
    else:
        groups = blocks.reshape(-1, 8, 32)
        least = (-groups.amin(2)).clamp(min=0)
        least = torch.where(least > 0, least + unit(least, 63), least)
        steps = (groups.amax(2).clamp(min=0) + least) / 15
        steps = steps + unit(steps, 63)
    reach = groups.abs().amax(2) + least
    most = steps / 2 + reach * 2.0**-20
    return most[:, :, None].expand_as(groups).flatten(1)


# --- encoding -------------------------------------------------------------------------------------------------------


def _inverse(scale: Tensor) -> Tensor:
    """1 / scale, and 0 where that is no number: such scales are zero in float16, whatever the codes."""
    inverse = 1 / scale
    return torch.where(inverse.isfinite(), inverse, 0.0)


def _half(scale: Tensor) -> Tensor:
    """The scales [n, 1] as two bytes each. Raises NonFinite beyond float16."""
    half = scale.half()
    if not bool(half.isfinite().all()):
        largest = float(scale.abs().max())
        raise NonFinite(f"a block needs a scale of {largest:g}, beyond float16's 65504; store this tensor as f32")
    return half.view(torch.uint8)


def _encode_q8_0(blocks: Tensor) -> Tensor:
    x = blocks.float()
    scale = x.abs().amax(1, keepdim=True) / 127
    steps = x * _inverse(scale)
    codes = torch.trunc(steps + torch.copysign(torch.tensor(0.5), steps))  # halves away from zero
    whole = torch.trunc(steps)
    codes = torch.where((steps - whole).abs() < 0.5, whole, codes)  # steps + 0.5 may itself have been rounded up
    return torch.cat([_half(scale), codes.to(torch.int8).view(torch.uint8)], dim=1)


def _encode_q4_0(blocks: Tensor) -> Tensor:
    x = blocks.float()
    scale = x.gather(1, x.abs().argmax(1, keepdim=True)) / -8
    codes = (x * _inverse(scale) + 8.5).to(torch.uint8).clamp(max=15)
    return torch.cat([_half(scale), codes[:, :16] | codes[:, 16:] << 4], dim=1)


def _over(scales: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scales [n, G] >= 0 as whole numbers up to `most` of a unit in float16, each rounded up: the unit's bytes [n, 2], the
    numbers [n, G], and what they come to. Raises NonFinite where the unit is beyond float16."""
    unit = scales.amax(1, keepdim=True) / most
    half = unit.half()
    half = torch.where(half.float() < unit, torch.nextafter(half, torch.tensor(torch.inf, dtype=half.dtype)), half)
    data, unit = _half(half.float()), half.float()
    numbers = torch.where(unit > 0, torch.ceil(scales / torch.where(unit > 0, unit, 1.0)), 0.0).clamp(max=most)
    return data, numbers, numbers * unit


def _codes(above: Tensor, steps: Tensor, least: int, most: int) -> Tensor:
    """[n, G, W] in steps [n, G], rounded to whole numbers; 0 where a group has no step."""
    taken = torch.where(steps > 0, steps, 1.0)[:, :, None]
    return torch.where(steps[:, :, None] > 0, above / taken, 0.0).round().clamp(least, most)


def _packed(codes: Tensor, bits: int, group: int) -> Tensor:
    """The other way of `_fields`: [n, M / group, 8 / bits, group] -> [n, M]."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8)[:, None]
    return (codes << shifts).sum(2, dtype=torch.uint8).flatten(1)


def _encode_q6_k(blocks: Tensor) -> Tensor:
    groups = blocks.float().reshape(-1, 16, 16)
    low, high = -groups.amin(2).clamp(max=0), groups.amax(2).clamp(min=0)
    turn = torch.where(high > low, -1.0, 1.0)  # the side that reaches further takes the code -32
    unit, numbers, steps = _over(torch.maximum(torch.maximum(low, high) / 32, torch.minimum(low, high) / 31), 127)
    codes = (_codes(groups * turn[:, :, None], steps, -32, 31) + 32).to(torch.uint8).flatten(1)
    fours = _packed((codes & 15).reshape(-1, 2, 2, 64), 4, 64)
    twos = _packed((codes >> 4).reshape(-1, 2, 4, 32), 2, 32)
    return torch.cat([fours, twos, (numbers * turn).to(torch.int8).view(torch.uint8), unit], dim=1)


def _encode_q4_k(blocks: Tensor) -> Tensor:
    groups = blocks.float().reshape(-1, 8, 32)
    least, minima, taken = _over((-groups.amin(2)).clamp(min=0), 63)
    unit, scales, steps = _over((groups.amax(2).clamp(min=0) + taken) / 15, 63)
    codes = _codes(groups + taken[:, :, None], steps, 0, 15).to(torch.uint8).flatten(1)
    first, second = scales.to(torch.uint8), minima.to(torch.uint8)
    sixes = [
        first[:, :4] | first[:, 4:] >> 4 << 6,
        second[:, :4] | second[:, 4:] >> 4 << 6,
        first[:, 4:] & 15 | (second[:, 4:] & 15) << 4,
    ]
    return torch.cat([unit, least, *sixes, _packed(codes.reshape(-1, 4, 2, 32), 4, 32)], dim=1)


_ENCODERS: dict[str, Callable[[Tensor], Tensor]] = {
    "q8_0": _encode_q8_0,
    "q4_0": _encode_q4_0,
    "q4_k": _encode_q4_k,
    "q6_k": _encode_q6_k,
}


# --- decoding -------------------------------------------------------------------------------------------------------


def _scale(blocks: Tensor, at: int) -> Tensor:
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def _nibbles(packed: Tensor) -> Tensor:
    """[n, M] -> [n, 2 M]: all low halves, then all high halves."""
    return torch.cat([packed & 15, packed >> 4], dim=1)


def _fields(packed: Tensor, bits: int, group: int) -> Tensor:
    """[n, M] -> [n, M / group, 8 / bits, group]: of each group of bytes its lowest bits, then the next higher ones."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8)[:, None]
    return packed.reshape(len(packed), -1, 1, group) >> shifts & (1 << bits) - 1


def _fifth_bits(blocks: Tensor, at: int) -> Tensor:
    """Bits 0 to 31 of the four bytes at `at`, each in its place as bit 4 of a code: [n, 32]."""
    return _fields(blocks[:, at : at + 4], 1, 1).flatten(1) << 4


def _decode_q8_0(blocks: Tensor) -> Tensor:
    return blocks[:, 2:].contiguous().view(torch.int8).float() * _scale(blocks, 0)


def _decode_q4_0(blocks: Tensor) -> Tensor:
    return (_nibbles(blocks[:, 2:]).float() - 8) * _scale(blocks, 0)


def _decode_q4_1(blocks: Tensor) -> Tensor:
    return _nibbles(blocks[:, 4:]).float() * _scale(blocks, 0) + _scale(blocks, 2)


def _decode_q5_0(blocks: Tensor) -> Tensor:
    return ((_nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2)).float() - 16) * _scale(blocks, 0)


def _decode_q5_1(blocks: Tensor) -> Tensor:
    return (_nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4)).float() * _scale(blocks, 0) + _scale(blocks, 2)


def _decode_iq4_nl(blocks: Tensor) -> Tensor:
    return torch.tensor(_NONLINEAR, dtype=torch.float32)[_nibbles(blocks[:, 2:]).long()] * _scale(blocks, 0)


def _decode_q2_k(blocks: Tensor) -> Tensor:
    scales, codes = blocks[:, :16], _fields(blocks[:, 16:80], 2, 32).reshape(-1, 16, 16).float()
    step = _scale(blocks, 80) * (scales & 15).float()  # [n, 16], as are the minima
    least = _scale(blocks, 82) * (scales >> 4).float()
    return (step[:, :, None] * codes - least[:, :, None]).flatten(1)


def _decode_q3_k(blocks: Tensor) -> Tensor:
    high = _fields(blocks[:, :32], 1, 32).reshape(-1, 16, 16)  # set: nothing is taken off
    low = _fields(blocks[:, 32:96], 2, 32).reshape(-1, 16, 16)
    fours = _fields(blocks[:, 96:104], 4, 8).reshape(-1, 16)
    twos = _fields(blocks[:, 104:108], 2, 4).reshape(-1, 16)
    step = _scale(blocks, 108) * ((fours | twos << 4).float() - 32)
    return (step[:, :, None] * (low.float() - 4 * (1 - high.float()))).flatten(1)


def _sixes(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Eight scales and eight minima of six bits each, from twelve bytes: [n, 8] and [n, 8]."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = torch.cat([first & 63, third & 15 | first >> 2 & 48], dim=1)
    return scales.float(), torch.cat([second & 63, third >> 4 | second >> 2 & 48], dim=1).float()


def _decode_q4_k(blocks: Tensor) -> Tensor:
    scales, minima = _sixes(blocks[:, 4:16])
    return _with_minima(blocks, scales, minima, _fields(blocks[:, 16:], 4, 32).reshape(-1, 8, 32))


def _decode_q5_k(blocks: Tensor) -> Tensor:
    scales, minima = _sixes(blocks[:, 4:16])
    fifth = _fields(blocks[:, 16:48], 1, 32).reshape(-1, 8, 32) << 4
    return _with_minima(blocks, scales, minima, _fields(blocks[:, 48:], 4, 32).reshape(-1, 8, 32) | fifth)


def _with_minima(blocks: Tensor, scales: Tensor, minima: Tensor, codes: Tensor) -> Tensor:
    step, least = _scale(blocks, 0) * scales, _scale(blocks, 2) * minima
    return (step[:, :, None] * codes.float() - least[:, :, None]).flatten(1)


def _decode_q6_k(blocks: Tensor) -> Tensor:
    low = _fields(blocks[:, :128], 4, 64).reshape(-1, 16, 16)
    high = _fields(blocks[:, 128:192], 2, 32).reshape(-1, 16, 16)
    step = _scale(blocks, 208) * blocks[:, 192:208].contiguous().view(torch.int8).float()
    return (step[:, :, None] * ((low | high << 4).float() - 32)).flatten(1)


_DECODERS: dict[str, Callable[[Tensor], Tensor]] = {
    "q8_0": _decode_q8_0,
    "q4_0": _decode_q4_0,
    "q4_1": _decode_q4_1,
    "q5_0": _decode_q5_0,
    "q5_1": _decode_q5_1,
    "iq4_nl": _decode_iq4_nl,
    "q2_k": _decode_q2_k,
    "q3_k": _decode_q3_k,
    "q4_k": _decode_q4_k,
    "q5_k": _decode_q5_k,
    "q6_k": _decode_q6_k,
}
