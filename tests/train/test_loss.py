"""The chunked loss against its definition, and what it never allocates."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from camelid.train.loss import NextToken, cross_entropy, distilled
from tests.conftest import size
from tests.train import tiny


def plain(hidden, weight, targets):
    return torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="sum")


def gradients(loss, *leaves):
    return torch.autograd.grad(loss, leaves)


def test_value_and_gradients_are_the_definitions_to_1e_12_however_it_is_cut():
    generator = torch.Generator().manual_seed(0)
    for case in range(size(60)):
        m, width, vocab, rows = (int(torch.randint(1, high, (), generator=generator)) for high in (40, 9, 50, 45))
        hidden = (3 * torch.randn(m, width, generator=generator, dtype=torch.float64)).requires_grad_()
        weight = torch.randn(vocab, width, generator=generator, dtype=torch.float64).requires_grad_()
        targets = torch.randint(vocab, (m,), generator=generator)
        ours, theirs = cross_entropy(hidden, weight, targets, rows=rows), plain(hidden, weight, targets)
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-12), case
        pairs = zip(gradients(ours / 7, hidden, weight), gradients(theirs / 7, hidden, weight), strict=True)
        for mine, other in pairs:
            torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


def test_a_frozen_head_or_frozen_states_cost_no_gradient_and_change_none():
    hidden, weight = torch.randn(9, 4, dtype=torch.float64), torch.randn(11, 4, dtype=torch.float64)
    targets = torch.arange(9)
    for frozen, learned in ((0, 1), (1, 0)):
        leaves = [hidden.clone(), weight.clone()]
        leaves[learned].requires_grad_()
        (mine,) = gradients(cross_entropy(*leaves, targets, rows=2), leaves[learned])
        (other,) = gradients(plain(*leaves, targets), leaves[learned])
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)
        assert leaves[frozen].grad is None


def test_in_bfloat16_the_softmax_and_the_sum_over_chunks_stay_in_float32():
    generator = torch.Generator().manual_seed(1)
    exact = [torch.randn(n, 32, generator=generator).bfloat16().double().requires_grad_() for n in (512, 64)]
    half = [leaf.detach().bfloat16().requires_grad_() for leaf in exact]
    targets = torch.randint(64, (512,), generator=generator)
    ours, theirs = cross_entropy(*half, targets, rows=8), plain(*exact, targets)
    assert ours.dtype == torch.float64
    assert ours.item() == pytest.approx(theirs.item(), rel=2e-3)
    for mine, other in zip(gradients(ours, *half), gradients(theirs, *exact), strict=True):
        assert mine.dtype == torch.bfloat16
        assert (mine - other).norm() < 5e-3 * other.norm()  # 2^-8 per product; 64 chunks summed in bfloat16 give 2e-2


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation made."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def test_no_operation_ever_makes_logits_of_all_positions():
    with Largest() as largest:
        hidden = torch.randn(3000, 4, requires_grad=True)
        weight = torch.randn(500, 4, requires_grad=True)
        cross_entropy(hidden, weight, torch.zeros(3000, dtype=torch.long), rows=16).backward()
    assert largest.numel == 3000 * 4


def test_the_loss_of_a_batch_is_that_of_its_learned_targets_and_of_no_other():
    made = tiny.model()
    batch = tiny.joined(tiny.documents(np.random.default_rng(0), 200, share=0.5))
    assert NextToken().count(batch) == int(batch.learned.sum()) > 100
    with torch.no_grad():
        logits = made(torch.from_numpy(batch.ids), segments=batch.segments)[0]
        chosen = logits[torch.from_numpy(batch.learned[0])]
        expected = plain(chosen, torch.eye(tiny.SHAPE.vocab), torch.from_numpy(batch.targets[batch.learned]))
    assert NextToken()(made, batch).item() == pytest.approx(expected.item(), rel=1e-6)


def test_it_can_be_differentiated_once_and_says_so_the_second_time():
    hidden, weight = torch.randn(3, 2, requires_grad=True), torch.randn(5, 2)
    loss = cross_entropy(hidden, weight, torch.arange(3))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated already"):
        loss.backward()


def test_distillation_is_the_cross_entropy_of_two_distributions_and_so_is_its_gradient() -> None:
    generator = torch.Generator().manual_seed(3)
    hidden, weight, known, teacher = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((700, 8), (900, 8), (700, 5), (900, 5))
    )
    hidden.requires_grad_(), weight.requires_grad_()
    found = distilled(hidden, weight, known, teacher)
    wanted = torch.nn.functional.cross_entropy(hidden @ weight.T, (known @ teacher.T).softmax(-1), reduction="sum")
    torch.testing.assert_close(found, wanted)
    for one, two in zip(
        torch.autograd.grad(found, (hidden, weight)), torch.autograd.grad(wanted, (hidden, weight)), strict=True
    ):
        torch.testing.assert_close(one, two)
