import torch
from torch.nn import functional as F

from camelid.nn.feedforward import FeedForward, gated


def test_gate_and_gradients_are_those_of_the_formula():
    torch.manual_seed(0)
    both = torch.randn(5, 14, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(5, 7, dtype=torch.float64)
    plain = F.silu(both[:, :7]) * both[:, 7:]
    torch.testing.assert_close(gated(both), plain, atol=0, rtol=0)
    expected, found = (torch.autograd.grad(out, both, grad)[0] for out in (plain, gated(both)))
    torch.testing.assert_close(found, expected, atol=1e-14, rtol=1e-14)
    assert torch.autograd.gradcheck(gated, (both,), atol=1e-8)


def test_a_hook_on_an_inner_map_is_heard():
    block = FeedForward(4, 6)
    heard = []
    block.up_proj.register_forward_hook(lambda module, inputs, output: heard.append(output.shape))
    block(torch.randn(3, 4))
    assert heard == [(3, 6)]
