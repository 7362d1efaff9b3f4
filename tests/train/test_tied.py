"""Of a tied matrix both gradients meet in one: the bits of two whole matrices added, and half their memory."""

import pytest
import torch
from torch.nn import functional as F

from camelid.nn.tied import Tie, embedded
from camelid.train.loss import cross_entropy

V, D = 37, 8


def weights():
    draw = torch.Generator().manual_seed(1)
    weight = torch.randn(V, D, generator=draw).requires_grad_()
    ids = torch.randint(0, V // 2, (50,), generator=draw)  # ids come again, and half of the rows not at all
    targets = torch.randint(0, V, (50,), generator=draw)
    return weight, ids, targets


def gradient(tied, passes=1):
    weight, ids, targets = weights()
    for _ in range(passes):
        tie = Tie()
        rows = embedded(ids, weight, tie) if tied else F.embedding(ids, weight)
        loss = cross_entropy(torch.tanh(rows), weight, targets, tie=tie)
        (loss / 7).backward()
        assert tie.gradient is None
    return weight.grad


@pytest.mark.parametrize("passes", [1, 3])
def test_both_gradients_together_have_the_bits_of_their_sum(passes):
    assert torch.equal(gradient(True, passes), gradient(False, passes))


def test_no_second_matrix_is_made(monkeypatch):
    sizes = []
    plain = torch.ops.aten.embedding_dense_backward
    monkeypatch.setattr(
        torch.ops.aten, "embedding_dense_backward", lambda *given: sizes.append(given[2]) or plain(*given)
    )
    gradient(True)
    assert sizes and max(sizes) <= V // 2


def test_without_a_head_on_it_an_embedding_has_its_own_gradient():
    weight, ids, _ = weights()
    embedded(ids, weight, Tie()).square().sum().backward()
    other, _, _ = weights()
    F.embedding(ids, other).square().sum().backward()
    assert torch.equal(weight.grad, other.grad)


def test_a_head_on_another_matrix_keeps_its_gradient():
    weight, ids, targets = weights()
    head = torch.randn(V, D, generator=torch.Generator().manual_seed(2)).requires_grad_()
    cross_entropy(embedded(ids, weight, tie := Tie()), head, targets, tie=tie).backward()
    assert head.grad is not None and weight.grad is not None
    other, mine = weights()[0], head.detach().clone().requires_grad_()
    cross_entropy(F.embedding(ids, other), mine, targets).backward()
    assert torch.equal(weight.grad, other.grad) and torch.equal(head.grad, mine.grad)
