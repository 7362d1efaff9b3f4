"""GGUF's blocks: bytes equal to llama.cpp's and to the gguf package's, errors within the bound, odd input refused."""

from __future__ import annotations

import ctypes
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from camelid.errors import NonFinite, UsageError
from camelid.quantize import blocks
from camelid.quantize.forms import BY_CODE, FORMS
from tests.conftest import size

BLOCKED = [name for name, form in FORMS.items() if not form.is_float]
ENCODED = ["q8_0", "q4_0"]


def drawn(seed: int, rows: int = 64, width: int = 512) -> torch.Tensor:
    """Rows of many magnitudes: from far below float16's range to near its end, zeros, ties and outliers among them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=generator) * 10.0 ** torch.randint(-12, 5, (rows, 1), generator=generator)
    x[0] = 0
    x[1] = torch.arange(width) % 16 - 8  # every weight on a step or half way between two
    x[2] = 1
    x[3, ::7] *= 1e4
    x[4] = (torch.arange(width) % 255 - 127) / 2
    x[5, 1:] = 0
    return x.clamp(-60_000, 60_000)  # within float16, or f16 itself could not hold it


@pytest.fixture(scope="module")
def ggml():
    """llama.cpp's own library: a function from rows to the bytes of a form."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    library = ctypes.CDLL(str(next(Path(llama_cpp.__file__).parent.glob("lib/libggml-base.*"))))
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]

    def encode(form: str, x: torch.Tensor) -> torch.Tensor:
        values = np.ascontiguousarray(x.numpy(), dtype=np.float32)
        out = np.zeros((len(x), FORMS[form].row_bytes(x.shape[1])), np.uint8)
        code = FORMS[form].code
        library.ggml_quantize_chunk(code, values.ctypes.data, out.ctypes.data, 0, *values.shape, None)
        return torch.from_numpy(out)

    return encode


@pytest.mark.parametrize("form", [name for name in FORMS if name != "f32"])
def test_sizes_and_numbers_are_those_of_the_gguf_package(form):
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    kind = gguf.GGMLQuantizationType[form.upper()]
    assert kind.value == FORMS[form].code and BY_CODE[kind.value] is FORMS[form]
    assert gguf.GGML_QUANT_SIZES[kind] == (FORMS[form].weights, FORMS[form].bytes)


@pytest.mark.parametrize("form", [*ENCODED, "bf16", "f16"])
def test_encoded_bytes_are_those_of_the_gguf_package(form):
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    for seed in range(size(6)):
        x = drawn(seed)
        theirs = gguf.quants.quantize(x.numpy(), gguf.GGMLQuantizationType[form.upper()])
        assert torch.equal(blocks.encode(form, x), torch.from_numpy(theirs.view(np.uint8)))


@pytest.mark.parametrize("form", ENCODED)
def test_encoded_bytes_are_those_of_llama_cpp(ggml, form):
    for seed in range(size(6)):
        assert torch.equal(blocks.encode(form, drawn(seed)), ggml(form, drawn(seed)))


@pytest.mark.parametrize("form", BLOCKED)
def test_blocks_that_llama_cpp_encoded_decode_to_the_same_bits(ggml, form):
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    data = ggml(form, drawn(1))
    theirs = gguf.quants.dequantize(data.numpy(), gguf.GGMLQuantizationType[form.upper()])
    assert np.array_equal(blocks.decode(form, data).numpy(), theirs)


@pytest.mark.parametrize("form", BLOCKED)
def test_any_bytes_decode_as_in_the_gguf_package(form):
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    generator = np.random.default_rng(7)
    data = generator.integers(0, 256, (size(300), FORMS[form].bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        theirs = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[form.upper()])
    assert np.array_equal(blocks.decode(form, torch.from_numpy(data)).numpy(), theirs, equal_nan=True)


VALUES = st.floats(-8e6, 8e6, width=32) | st.sampled_from([0.0, -0.0, 1e-45, -1e-40, 1e-38, 6e-8, 3e-6, 65504.0])


@pytest.mark.parametrize("form", [*ENCODED, "f32", "bf16"])
@settings(max_examples=size(150), deadline=None)
@example(values=[0.0] * 32)
@example(values=[1e-45, -1e-45] * 16)
@example(values=[8.3e6, -8.3e6] * 16)
@example(values=[-1.0, 1.0] * 16)
@example(values=[6.1e-5 * 127, 3e-8] * 16)
@given(values=st.lists(VALUES, min_size=32, max_size=32))
def test_no_error_is_above_the_bound(form, values):
    x = torch.tensor([values], dtype=torch.float32)
    if form == "q4_0" and float(x.abs().max()) / 8 >= 65504:
        x = x / 32
    decoded = blocks.decode(form, blocks.encode(form, x))
    over = (decoded.double() - x.double()).abs() - blocks.bound(form, x)
    assert float(over.max()) <= 0


@pytest.mark.parametrize("form", ENCODED)
def test_the_bound_is_no_wider_than_it_must_be(form):
    """Half a step plus a little: among many weights some come within 2 % of it."""
    x = torch.randn(size(200), 512, generator=torch.Generator().manual_seed(3))
    error = (blocks.decode(form, blocks.encode(form, x)).double() - x.double()).abs()
    assert 0.98 < float((error / blocks.bound(form, x)).max()) <= 1
    step = x.reshape(-1, 32).abs().amax(1, keepdim=True) / {"q8_0": 127, "q4_0": 8}[form]
    assert float((blocks.bound(form, x).reshape(-1, 32) / step).max()) < {"q8_0": 0.57, "q4_0": 1.01}[form]


@pytest.mark.parametrize("form", BLOCKED)
def test_rows_that_blocks_do_not_fill_are_refused_with_a_remedy(form):
    with pytest.raises(UsageError, match="store this tensor as f16, bf16 or f32"):
        blocks.decode(form, torch.zeros(2, FORMS[form].bytes + 1, dtype=torch.uint8))
    if form in ENCODED:
        with pytest.raises(UsageError, match="rows of 33 weights"):
            blocks.encode(form, torch.zeros(2, 33))


@pytest.mark.parametrize("form", [*ENCODED, "f32", "f16", "bf16"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_no_numbers_are_refused(form, value):
    x = torch.ones(2, 32)
    x[1, 5] = value
    with pytest.raises(NonFinite, match="nothing was written"):
        blocks.encode(form, x)


@pytest.mark.parametrize(("form", "largest"), [("q8_0", 127 * 65520.0), ("q4_0", 8 * 65520.0), ("f16", 65520.0)])
def test_a_scale_beyond_float16_is_refused_and_the_largest_within_is_kept(form, largest):
    x = torch.full((1, 32), largest)
    with pytest.raises(NonFinite, match="f32"):
        blocks.encode(form, x)
    decoded = blocks.decode(form, blocks.encode(form, x * 0.999))
    assert torch.allclose(decoded.abs(), x * 0.999, rtol=0.13 if form == "q4_0" else 1e-3)


@pytest.mark.parametrize("form", ENCODED)
def test_a_tensor_encoded_in_parts_has_the_bytes_of_one_encoded_at_once(monkeypatch, form):
    x = drawn(5).reshape(4, 16, 512).bfloat16()
    whole = blocks.encode(form, x)
    monkeypatch.setattr(blocks, "AT_ONCE", 320)
    assert torch.equal(blocks.encode(form, x), whole) and whole.shape == (4, 16, 16 * FORMS[form].bytes)
    assert torch.equal(blocks.decode(form, whole), blocks.decode(form, whole.reshape(64, -1)).reshape(x.shape))


# --- K-quants, which are found otherwise here than in llama.cpp -------------------------------------------------------

KINDS = ["q6_k", "q4_k"]


@pytest.mark.parametrize("form", KINDS)
@settings(max_examples=size(150), deadline=None)
@example(values=[0.0] * 32)
@example(values=[1e-45, -1e-45] * 16)
@example(values=[6e4, -6e4] * 16)
@example(values=[1.0] * 32)
@example(values=[-1e-7] * 31 + [1.0])
@given(values=st.lists(st.floats(-6e4, 6e4, width=32) | VALUES.filter(lambda x: abs(x) < 1), min_size=32, max_size=32))
def test_no_k_quants_error_is_above_the_bound(form, values):
    scales = torch.tensor([[1.0], [0.3], [1e-3], [0.0], [1.0], [1e-6], [-0.7], [1.0]])
    x = (torch.tensor([values], dtype=torch.float32) * scales).reshape(1, 256)
    error = (blocks.decode(form, blocks.encode(form, x)).double() - x.double()).abs()
    assert bool((error <= blocks.bound(form, x)).all())


@pytest.mark.parametrize("form", KINDS)
def test_k_quants_of_many_magnitudes_stay_near_and_others_read_the_same_bits(form):
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    for seed in range(size(6)):
        x = drawn(seed)
        data = blocks.encode(form, x)
        assert data.shape == (len(x), FORMS[form].row_bytes(x.shape[1]))
        back = blocks.decode(form, data)
        assert bool(((back.double() - x.double()).abs() <= blocks.bound(form, x)).all())
        theirs = gguf.quants.dequantize(data.numpy(), gguf.GGMLQuantizationType[form.upper()])
        assert np.array_equal(back.numpy(), theirs)


@pytest.mark.parametrize(("form", "most"), [("q6_k", 1.1), ("q4_k", 1.25)])
def test_plain_scales_cost_little_beside_llama_cpps_search(ggml, form, most):
    """Errors of normal weights, root mean square: at most so many times those of the searched scales."""
    x = torch.randn(64, 1024, generator=torch.Generator().manual_seed(3)) * 0.02
    ours, theirs = (blocks.decode(form, data) - x for data in (blocks.encode(form, x), ggml(form, x)))
    assert float(ours.square().mean().sqrt() / theirs.square().mean().sqrt()) < most


@pytest.mark.parametrize("form", KINDS)
def test_k_quants_refuse_what_they_cannot_hold(form):
    with pytest.raises(UsageError, match="256"):
        blocks.encode(form, torch.zeros(2, 128))
    for wrong in (math.inf, math.nan, 3e38):
        with pytest.raises(NonFinite):
            blocks.encode(form, torch.full((1, 256), wrong))
