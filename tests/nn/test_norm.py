import pytest
import torch
from torch.nn import functional as F

from camelid.errors import CamelidError
from camelid.nn.norm import RMSNorm


@pytest.mark.parametrize("shape", [(1, 5), (9, 3), (3, 4, 6)])
def test_norm_and_gradients_are_those_of_the_formula(shape):
    torch.manual_seed(0)
    norm = RMSNorm(shape[-1], 1e-5, dtype=torch.float64)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(norm(x), F.rms_norm(x, x.shape[-1:], norm.weight, 1e-5), atol=1e-14, rtol=1e-14)
    grad = torch.randn_like(x)
    expected = torch.autograd.grad(F.rms_norm(x, x.shape[-1:], norm.weight, 1e-5), (x, norm.weight), grad)
    found = torch.autograd.grad(norm(x), (x, norm.weight), grad)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)
    assert torch.autograd.gradcheck(norm, (x,), atol=1e-8)


def test_low_precision_is_normed_in_float32():
    x = torch.full((1, 512), 300.0, dtype=torch.float16)  # the sum of squares overflows float16
    norm = RMSNorm(512, 1e-5, dtype=torch.float16)
    assert norm(x).dtype == torch.float16
    torch.testing.assert_close(norm(x), torch.ones_like(x))


def test_second_derivatives_are_refused_rather_than_wrong():
    x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    with pytest.raises(CamelidError, match="second derivatives are not computed"):
        torch.autograd.grad(RMSNorm(4, 1e-5, dtype=torch.float64)(x).sum(), x, create_graph=True)
