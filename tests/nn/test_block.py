"""Whoever computes a run's passes computes what PyTorch does: a whole model's loss and gradients, one way and the other."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from camelid.data.batch import Batch
from camelid.errors import CamelidError
from camelid.models.adapt import add_lora
from camelid.models.llama import Llama, initialise
from camelid.models.shape import LlamaShape, LoRA
from camelid.native.passes import NativePasses
from camelid.nn.passes import passes_for, passing_through
from camelid.train.loss import NextToken, cross_entropy

SHAPE = LlamaShape(layers=3, width=64, heads=4, kv_heads=2, head_width=16, hidden=88, vocab=300, context=256, tied=True)
LENGTHS = (1, 40, 40, 17, 33)


@pytest.fixture(scope="module", params=[False, True], ids=["passes", "products too"])
def passes(request):
    found = NativePasses.here(products=request.param)
    if found is None:
        pytest.skip("no kernels are here: PyTorch computes the passes")
    return found


def batch(*, changed: int | None = None):
    ids = np.random.default_rng(0).integers(0, SHAPE.vocab, (1, sum(LENGTHS)))
    if changed is not None:
        ids[0, changed] += 1
    segments = np.repeat(np.arange(len(LENGTHS), dtype=np.int32), LENGTHS)[None]
    learned = np.random.default_rng(1).random(ids.shape) < 0.8
    return Batch(ids, np.roll(ids, -1, 1), learned, segments)


def model(dtype=torch.float32, **changes):
    made = Llama(SHAPE, dtype=dtype)
    initialise(made, 0, deviation=0.1)
    return made


def learned(made, passes=None, given=None):
    """The loss, and the gradient of each weight that has one."""
    made.zero_grad(set_to_none=True)
    with passing_through(passes) if passes is not None else nullcontext():
        loss = NextToken()(made, given or batch())
        loss.backward()
    return loss.detach(), {name: part.grad for name, part in made.named_parameters() if part.grad is not None}


def test_loss_and_gradients_are_as_near_to_the_exact_ones_as_pytorchs(passes):
    exact, slopes = learned(model(torch.float64))
    worst = {}
    for kind in (None, passes):
        loss, found = learned(model(), kind)
        assert found.keys() == slopes.keys()
        assert abs(loss - exact) < 2e-6 * exact
        worst[kind] = max(float((found[n].double() - slopes[n]).norm() / slopes[n].norm()) for n in slopes)
    assert worst[passes] < 2 * worst[None] < 1e-5


def test_a_layer_goes_in_one_only_where_all_of_it_is_as_it_was_made(passes, monkeypatch):
    asked = []
    monkeypatch.setattr(passes, "attend", lambda *given: asked.append(1) or NativePasses.attend(passes, *given))
    learned(model(), passes)
    assert len(asked) == SHAPE.layers
    listened, adapted = model(), model()
    listened.model.layers[1].mlp.gate_proj.register_forward_hook(lambda *given: None)
    add_lora(adapted, LoRA(4, 8, targets=("q_proj",)), seed=0)
    for made, layers in ((listened, SHAPE.layers - 1), (adapted, 0), (model(torch.float64), 0)):
        asked.clear()
        learned(made, passes)
        assert len(asked) == layers
    assert passes_for(torch.zeros(3)) is None  # nothing is left when the run is over


def test_weights_that_do_not_learn_get_no_gradient_and_change_no_others(passes):
    made = model()
    _, whole = learned(made, passes)
    frozen = [name for name, _ in made.named_parameters() if "k_proj" in name or "layernorm" in name or "gate" in name]
    for name in frozen:
        made.get_parameter(name).requires_grad_(False)
    _, found = learned(made, passes)
    assert found.keys() == whole.keys() - set(frozen)
    assert all(torch.equal(found[name], whole[name]) for name in found)


def test_recomputation_gives_the_same_bits(passes):
    kept, lean = model(), model()
    lean.recompute = True
    (one, slopes), (other, again) = learned(kept, passes), learned(lean, passes)
    assert torch.equal(one, other) and all(torch.equal(slopes[name], again[name]) for name in slopes)


def test_documents_do_not_see_each_other(passes):
    with passing_through(passes), torch.no_grad():
        one, other = (
            model().hidden(torch.from_numpy(b.ids), segments=b.segments) for b in (batch(), batch(changed=50))
        )
    same = (one == other).all(2)[0]
    assert not same[50:81].any() and same[:50].all() and same[81:].all()


def test_a_target_outside_the_vocabulary_is_an_error(passes):
    with passing_through(passes), pytest.raises(IndexError, match="target 9 of a vocabulary of 9"):
        cross_entropy(torch.zeros(2, 4, requires_grad=True), torch.zeros(9, 4), torch.tensor([0, 9]))


def test_second_derivatives_are_refused(passes):
    made = model()
    with passing_through(passes):
        states = made.hidden(torch.arange(40)[None])
    with pytest.raises(CamelidError, match="second derivatives"):
        torch.autograd.grad(states.sum(), made.model.layers[0].mlp.up_proj.weight, create_graph=True)
