"""A map in few bits is the plain map of the weight that its codes stand for, forwards and backwards, and holds no more."""

import pytest
import torch
from torch.nn import functional as F

from camelid.errors import CamelidError, UsageError
from camelid.nn.frozen import FrozenLinear

METHODS = ["int8", "nf4"]


def made(bits, dtype=torch.float32, outputs=40, inputs=48):
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(1)) * 0.05
    return FrozenLinear.of(weight, bits, dtype), weight


@pytest.mark.parametrize("bits", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_product_and_gradient_are_those_of_the_decoded_weight(bits, dtype):
    layer, weight = made(bits, dtype)
    x = torch.randn(3, 7, 48, dtype=dtype, requires_grad=True)
    other = x.detach().clone().requires_grad_()
    dense = layer.dense()
    assert dense.dtype == dtype and not torch.equal(dense, weight.to(dtype))
    out, plain = layer(x), F.linear(other, dense)
    assert torch.equal(out, plain)
    slope = torch.randn_like(out)
    out.backward(slope)
    plain.backward(slope)
    torch.testing.assert_close(x.grad, other.grad, rtol=1e-2 if dtype == torch.bfloat16 else 1e-6, atol=1e-6)
    assert not list(layer.parameters()) and not layer.state_dict()


@pytest.mark.parametrize("bits", METHODS)
def test_gradients_pass_gradcheck_in_float64_and_a_second_derivative_is_refused(bits):
    layer, _ = made(bits, torch.float64, 8, 16)
    x = torch.randn(3, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))
    with pytest.raises(CamelidError, match="second derivatives"):
        torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)


@pytest.mark.parametrize(("bits", "each"), [("int8", 1 + 4 / 512), ("nf4", 4.127 / 8)])
def test_only_the_codes_are_held(bits, each):
    layer, weight = made(bits, outputs=256, inputs=512)
    assert layer.bytes == pytest.approx(each * weight.numel(), rel=1e-3)
    held = {name: part for name, part in vars(layer.stored).items() if isinstance(part, torch.Tensor)}
    assert sum(part.untyped_storage().nbytes() for part in held.values()) == layer.bytes
    layer.double()  # moving a model to another precision leaves the scales alone
    assert layer.stored is not None and layer.dense().dtype == torch.float32
    out = layer(torch.randn(5, 512, requires_grad=True))
    assert out.grad_fn.saved_tensors == ()


def test_a_matrix_that_blocks_do_not_fill_is_refused_with_a_remedy():
    with pytest.raises(UsageError, match="use int8"):
        FrozenLinear.of(torch.zeros(3, 7), "nf4")
    assert FrozenLinear.of(torch.zeros(3, 7), "int8")(torch.ones(7)).tolist() == [0, 0, 0]
