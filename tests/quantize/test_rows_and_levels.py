"""int8 by rows and NF4 with double quantization: errors within the bound, levels as published, codes as bitsandbytes."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from camelid.errors import NonFinite, UsageError
from camelid.quantize import int8, nf4
from tests.conftest import size

VALUES = st.floats(-(2.0**126), 2.0**126, width=32) | st.sampled_from([0.0, -0.0, 1e-45, -1e-40, 1e-38, 1.0])


@pytest.mark.parametrize("method", [int8, nf4], ids=["int8", "nf4"])
@settings(max_examples=size(150), deadline=None)
@example(values=[0.0] * 64)
@example(values=[1e-45, -1e-45] * 32)
@example(values=[8e37, -8e37] * 32)
@given(values=st.lists(VALUES, min_size=64, max_size=64))
def test_no_error_is_above_the_bound(method, values):
    x = torch.tensor([values, values[::-1]], dtype=torch.float32)
    error = (method.decode(method.encode(x)).double() - x.double()).abs()
    assert float((error - method.bound(x)).max()) <= 0


@pytest.mark.parametrize("method", [int8, nf4], ids=["int8", "nf4"])
def test_the_bound_is_reached_within_two_percent(method):
    for scale in (1e-3, 0.02, 1.0, 100.0):
        x = torch.randn(size(300), 512, generator=torch.Generator().manual_seed(1)) * scale
        error = (method.decode(method.encode(x)).double() - x.double()).abs()
        assert 0.98 < float((error / method.bound(x)).max()) <= 1


def test_the_levels_are_the_quantiles_of_a_normal_distribution():
    above = [NormalDist().inv_cdf(float(p)) for p in torch.linspace(0.9677083, 0.5, 9).double()[:-1]]
    below = [-NormalDist().inv_cdf(float(p)) for p in torch.linspace(0.9677083, 0.5, 8).double()[:-1]]
    levels = torch.tensor(sorted([*above, 0.0, *below])) / max(above)
    assert torch.allclose(nf4.LEVELS, levels.float(), atol=1e-6, rtol=0)


def test_nf4_takes_the_bits_that_the_paper_counts():
    stored = nf4.encode(torch.randn(1024, 1024))
    assert stored.bytes * 8 / 2**20 == pytest.approx(4 + 8 / 64 + 32 / (64 * 256), abs=1e-4)


def test_codes_are_those_of_bitsandbytes_and_scales_as_near_or_nearer():
    functional = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")
    assert torch.equal(nf4.TREE, functional.create_dynamic_map())
    for scale in (1e-3, 0.02, 1.0):
        x = torch.randn(320, 512, generator=torch.Generator().manual_seed(2)) * scale
        codes, state = functional.quantize_4bit(x, quant_type="nf4", compress_statistics=True)
        mine = nf4.encode(x)
        assert torch.equal(codes.reshape(-1), mine.codes)
        assert torch.equal(state.offset, mine.mean) and torch.equal(state.state2.absmax, mine.largest)
        exact = x.reshape(-1, 64).abs().amax(1) - mine.mean
        largest = mine.largest.repeat_interleave(256)[: len(exact)]
        ours, theirs = (((nf4.TREE[c.long()] * largest) - exact).abs() for c in (mine.scales, state.absmax))
        assert (
            bool((ours <= theirs + 1e-6 * largest).all()) and float((mine.scales != state.absmax).float().mean()) < 0.01
        )
        assert torch.allclose(
            functional.dequantize_4bit(codes, state), nf4.decode(mine), atol=float(largest.max()) / 64
        )


@pytest.mark.parametrize("method", [int8, nf4], ids=["int8", "nf4"])
def test_values_that_are_no_numbers_are_refused(method):
    for value in (math.nan, math.inf):
        with pytest.raises(NonFinite, match="nothing was written"):
            method.encode(torch.tensor([[1.0] * 63 + [value]]))


def test_scales_whose_sum_is_no_number_are_refused():
    with pytest.raises(NonFinite, match="use int8"):
        nf4.encode(torch.full((4, 64), 3e38))


def test_tensors_that_blocks_do_not_fill_are_refused_with_a_remedy():
    for shape in ((3, 7), (0, 64)):
        with pytest.raises(UsageError, match="use int8"):
            nf4.encode(torch.zeros(shape))
