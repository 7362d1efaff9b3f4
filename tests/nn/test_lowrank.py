"""A frozen map with its adapter in one operation, against the same in plain PyTorch."""

import pytest
import torch

from camelid.errors import CamelidError
from camelid.nn.lowrank import adapted, low_rank

FACTOR = 2.0


def given(*, wanted: tuple[bool, bool, bool] = (True, True, True)) -> list[torch.Tensor]:
    torch.manual_seed(0)
    x, weight, a, b = (torch.randn(size, dtype=torch.float64) for size in ((7, 12), (5, 12), (3, 12), (5, 3)))
    for tensor, learns in zip((x, a, b), wanted, strict=True):
        tensor.requires_grad_(learns)
    return [x, weight, a, b]


def test_values_and_gradients_are_those_of_the_formula():
    x, weight, a, b = given()
    plain = x @ weight.T + FACTOR * (x @ a.T) @ b.T
    torch.testing.assert_close(adapted(x, weight, a, b, FACTOR), plain)
    assert torch.autograd.gradcheck(lambda x, a, b: adapted(x, weight, a, b, FACTOR), (x, a, b))


def test_the_low_rank_map_alone_has_values_and_gradients_of_its_formula():
    x, _, a, b = given()
    torch.testing.assert_close(low_rank(x, a, b, FACTOR), FACTOR * (x @ a.T) @ b.T)
    assert torch.autograd.gradcheck(lambda x, a, b: low_rank(x, a, b, FACTOR), (x, a, b))


def test_beside_a_coarser_input_it_computes_in_its_own_precision():
    x, _, a, b = given()
    coarse = x.detach().to(torch.bfloat16).requires_grad_()
    found = low_rank(coarse, a, b, FACTOR)
    assert torch.equal(found, low_rank(coarse.double(), a, b, FACTOR))
    found.sum().backward()
    assert coarse.grad.dtype == torch.bfloat16 and a.grad.dtype == torch.float64


@pytest.mark.parametrize("wanted", [(False, True, True), (True, False, True), (True, True, False)])
def test_no_gradient_is_made_that_nobody_wants(wanted):
    x, weight, a, b = given(wanted=wanted)
    adapted(x, weight, a, b, FACTOR).square().sum().backward()
    assert [tensor.grad is not None for tensor in (x, a, b)] == list(wanted) and weight.grad is None


def test_second_derivatives_are_refused():
    x, weight, a, b = given()
    with pytest.raises(CamelidError, match="second derivatives"):
        torch.autograd.grad(adapted(x, weight, a, b, FACTOR).sum(), a, create_graph=True)
