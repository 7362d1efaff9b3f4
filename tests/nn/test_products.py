"""Large products go where a run says, attention's small ones stay where they were, and the setting is always put back."""

import pytest
import torch

from camelid.nn.attention import Group, attend
from camelid.nn.products import small_backward, small_products, through_onednn


def setting():
    return torch.backends.mkldnn.matmul.fp32_precision


def attended():
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(90, heads, 16, generator=draw).requires_grad_() for heads in (4, 2, 2))
    out = attend(q, k, v, (Group(2, 20), Group(1, 50)))
    out.square().sum().backward()
    return [out.detach(), q.grad, k.grad, v.grad]


def test_attention_has_the_same_bits_whichever_library_multiplies_large_matrices():
    plain = attended()
    with through_onednn():
        chosen = attended()
        assert setting() == "bf16"
    assert all(torch.equal(one, other) for one, other in zip(plain, chosen, strict=True))


def test_the_setting_is_left_for_small_products_and_their_gradient_only():
    seen = []

    class Looks(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            seen.append(setting())
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            seen.append(setting())
            return grad

    before = setting()
    x = torch.ones(3, requires_grad=True)
    with through_onednn():
        first = Looks.apply(x)
        with small_products():
            small = Looks.apply(first)
        last = Looks.apply(small_backward(small))
        last.sum().backward()
        assert seen == ["bf16", before, "bf16", "bf16", before, "bf16"]
    assert setting() == before


def test_the_setting_is_put_back_after_an_error():
    before = setting()
    with pytest.raises(ZeroDivisionError), through_onednn(), small_products():
        raise ZeroDivisionError
    assert setting() == before


def test_where_nobody_chose_nothing_is_set_and_nothing_hangs_on_the_gradient():
    before = setting()
    with small_products():
        assert setting() == before
    x = torch.ones(2, requires_grad=True)
    assert small_backward(x) is x
