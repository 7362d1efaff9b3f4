"""Four bits in groups: errors within the bound, GPTQ and AWQ never worse than rounding, and equal to it where they must be."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from camelid.errors import CamelidError, NonFinite, UsageError
from camelid.quantize import awq, gptq, int4
from tests.conftest import size

VALUES = st.floats(-(2.0**15), 2.0**15, width=32) | st.sampled_from([0.0, -0.0, 1e-45, -1e-40, 1e-8, 1e-7, 1.0])


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(count: int, width: int, seed: int = 1) -> torch.Tensor:
    """Inputs as they are met: correlated, a few channels large, one never used."""
    x = drawn(count, width, seed=seed) @ (torch.eye(width) + 0.3 * drawn(width, width, seed=seed + 1))
    x[:, 3] *= 20
    x[:, 5] = 0
    return x.double()


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "with zeros"])
@settings(max_examples=size(150), deadline=None)
@example(values=[0.0] * 40)
@example(values=[1e-45, -1e-45] * 20)
@example(values=[1.0] * 40)
@example(values=[-(2.0**15)] * 39 + [2.0**15])
@given(values=st.lists(VALUES, min_size=40, max_size=40))
def test_no_error_is_above_the_bound(symmetric, values):
    x = torch.tensor([values, values[::-1]], dtype=torch.float32)
    stored = int4.encode(x, 16, symmetric=symmetric)
    error = (int4.decode(stored).double() - x.double()).abs()
    assert float((error - int4.bound(x, stored)).max()) <= 0
    assert int(stored.codes.max()) <= 15 and stored.scales.dtype == torch.float16


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "with zeros"])
def test_the_bound_is_nearly_reached(symmetric):
    for scale in (1e-3, 0.02, 1.0, 100.0):
        x = drawn(size(200), 512) * scale
        stored = int4.encode(x, symmetric=symmetric)
        assert 0.95 < float(((int4.decode(stored) - x).abs() / int4.bound(x, stored)).max()) <= 1


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("group", [16, 32, 100])
def test_with_an_identity_for_hessian_gptq_is_plain_rounding(group, act_order):
    weights = drawn(24, 100)
    found = gptq.rounded(weights, torch.eye(100), group=group, act_order=act_order)
    plain = int4.encode(weights, group, symmetric=True)
    assert torch.equal(int4.decode(found.stored), int4.decode(plain)) and found.loss == found.loss_of_nearest
    assert torch.equal(found.stored.groups, plain.groups)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize(("width", "group"), [(96, 32), (300, 64), (300, 300)])
def test_gptq_adds_less_to_the_output_than_rounding_and_tells_how_much(width, group, act_order):
    weights, x = drawn(40, width), inputs(size(800), width)
    found = gptq.rounded(weights, x.T @ x, group=group, act_order=act_order)
    changed = int4.decode(found.stored).double() - weights.double()
    assert float((x @ changed.T).square().sum()) == pytest.approx(found.loss, rel=1e-6)
    assert found.loss < 0.8 * found.loss_of_nearest
    if not act_order:
        plain = int4.decode(int4.encode(weights, group, symmetric=True)).double() - weights.double()
        rows = [float((x @ change.T).square().sum()) for change in (changed, plain)]
        assert rows[1] == pytest.approx(found.loss_of_nearest, rel=1e-6)
        assert bool(((x @ changed.T).square().sum(0) <= (x @ plain.T).square().sum(0) * (1 + 1e-9)).all()), "row by row"


def test_gptq_is_the_algorithm_of_the_paper_column_by_column():
    """Algorithm 1 without blocks, by the removal of one row and column of the inverse after the other (equation 3)."""
    weights, x = drawn(8, 24, seed=5), inputs(200, 24, seed=6)
    gram = x.T @ x
    damped = gram + torch.diag((gram.diagonal() == 0) * gram.diagonal().mean() + 0.01 * gram.diagonal().mean())
    inverse, rest, expected = damped.inverse(), weights.double(), torch.zeros(8, 24)
    for column in range(24):
        if column % 8 == 0:
            scale, zero = int4.grid(rest[:, column : column + 8].float(), symmetric=True)
        code = int4.nearest(rest[:, column].float(), scale, zero)
        expected[:, column] = (code.float() - 8) * scale.float()
        error = (rest[:, column] - expected[:, column]) / inverse[column, column]
        rest = rest - error[:, None] * inverse[column]
        inverse = inverse - inverse[:, column : column + 1] @ inverse[column : column + 1] / inverse[column, column]
    found = int4.decode(gptq.rounded(weights, gram, group=8).stored)
    plain = int4.decode(int4.encode(weights, 8, symmetric=True))
    kept = (found == plain).all(1)
    assert torch.allclose(found[~kept], expected[~kept], atol=1e-6) and int(kept.sum()) < 4


def test_inputs_that_are_too_much_alike_are_told_with_a_remedy():
    with pytest.raises(CamelidError, match="more damping"):
        gptq.rounded(drawn(4, 8), torch.full((8, 8), -1.0) + 1.5 * torch.eye(8))


def test_the_search_is_never_worse_than_rounding_and_helps_where_channels_are_large():
    maps, x = [drawn(32, 64), drawn(16, 64, seed=9)], inputs(size(600), 64)
    found = awq.search(maps, x.T @ x, x.abs().mean(0), group=32)
    nearest = sum(
        float((x @ (int4.decode(int4.encode(one, 32)).double() - one.double()).T).square().sum()) for one in maps
    )
    assert found.loss_of_nearest == pytest.approx(nearest, rel=1e-6)
    assert found.loss < 0.7 * found.loss_of_nearest and found.exponent > 0
    again = sum(
        float((x @ (int4.decode(int4.encode(one * found.scales, 32)) / found.scales - one).double().T).square().sum())
        for one in maps
    )
    assert again == pytest.approx(found.loss, rel=1e-4)


def test_where_all_channels_are_alike_the_search_leaves_them():
    x = torch.ones(1, 64, dtype=torch.float64)
    found = awq.search([drawn(8, 64)], x.T @ x, x.abs().mean(0), group=32)
    assert found.exponent == 0 and bool((found.scales == 1).all()) and found.loss == found.loss_of_nearest


def test_what_no_group_can_hold_is_refused():
    for value in (math.nan, math.inf):
        with pytest.raises(NonFinite, match="nothing was written"):
            int4.encode(torch.tensor([[1.0, value]]))
    with pytest.raises(NonFinite, match="half-float scales; use int8"):
        int4.encode(torch.tensor([[1e7, -1e7]]))
    with pytest.raises(UsageError, match="no matrix"):
        int4.encode(torch.zeros(4))
