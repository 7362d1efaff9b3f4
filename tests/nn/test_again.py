"""A function computed again for its gradient: the same bits as one whose tensors were kept, and less held."""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from camelid.nn.again import again


def layer(x, weight, wide):
    hidden = F.silu(x @ weight.T) * (x @ wide.T)
    return x + (hidden @ wide).relu() @ weight


def slopes(how):
    draw = torch.Generator().manual_seed(0)
    x, weight, wide = (torch.randn(shape, generator=draw) / 4 for shape in ((7, 16), (16, 16), (16, 16)))
    leaves = [part.requires_grad_() for part in (x, weight, wide)]
    out = x
    for _ in range(3):
        out = how(layer, out, weight, wide)
    out.square().sum().backward()
    return out, *(leaf.grad for leaf in leaves)


def test_values_and_gradients_have_the_bits_of_what_was_kept_and_of_pytorchs_checkpoint():
    kept = slopes(lambda function, *given: function(*given))
    theirs = slopes(lambda function, *given: checkpoint(function, *given, use_reentrant=False))
    for one, other, third in zip(kept, theirs, slopes(again), strict=True):
        assert torch.equal(one, other) and torch.equal(one, third)


def test_only_what_was_given_is_held_and_each_tensor_is_let_go_once_it_was_used():
    calls = []

    def function(x, weight):
        calls.append(torch.is_grad_enabled())
        return (x @ weight).tanh().exp() * 2

    x, weight = torch.ones(3, 4), torch.ones(4, 4, requires_grad=True)  # x learns nothing, as a frozen embedding
    out = again(function, x, weight)
    (first,) = torch.autograd.grad(out.sum(), weight, retain_graph=True)
    assert calls == [True, True] and bool(first.any())
    with pytest.raises(RuntimeError, match="differentiated once"):
        out.sum().backward()


def test_a_function_that_keeps_something_else_the_second_time_is_refused():
    turn = []

    def function(x):
        turn.append(0)
        return x.exp().exp() if len(turn) == 1 else x * 2

    with pytest.raises(RuntimeError, match="2 tensors were kept of a layer, which had 0"):
        again(function, torch.ones(2, requires_grad=True)).sum().backward()


def test_no_compiler_is_imported_for_it():
    code = (
        "import sys, torch; from camelid.nn.again import again;"
        "again(lambda x: x.exp(), torch.ones(2, requires_grad=True)).sum().backward();"
        "print('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
