"""Residual dropout: the ramp as published, masks keyed, nothing outside training."""

from __future__ import annotations

import pytest
import torch

from camelid.errors import CamelidError, UsageError
from camelid.models.adapt import set_randomness
from camelid.models.dropout import add_residual_dropout, rates
from camelid.models.llama import Llama, initialise
from camelid.models.shape import LlamaShape

SHAPE = LlamaShape(layers=5, width=16, heads=2, kv_heads=2, head_width=8, hidden=32, vocab=64, context=64)
IDS = torch.arange(40).reshape(1, -1) % 64


def model(last: float | None = None) -> Llama:
    made = Llama(SHAPE)
    initialise(made, 0, deviation=0.2)
    return made if last is None else add_residual_dropout(made, last)


def test_the_ramp_is_the_published_formula() -> None:
    assert rates(4, 0.3) == pytest.approx((0.0, 0.1, 0.2, 0.3))
    assert rates(1, 0.3) == (0.3,)
    with pytest.raises(UsageError, match="dropout: 1 is no share"):
        add_residual_dropout(model(), 1)


def test_outside_training_nothing_happens_and_the_weights_are_the_same() -> None:
    plain, dropped = model(), model(0.3)
    assert plain.state_dict().keys() == dropped.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(plain.eval()(IDS), dropped.eval()(IDS))


def test_masks_are_keyed_and_a_ramp_to_zero_changes_nothing() -> None:
    plain, dropped = model().train(), model(0.3).train()
    with pytest.raises(CamelidError, match="set_randomness"):
        dropped(IDS)
    outs = []
    for words in ((0, 1, 0), (0, 1, 0), (0, 2, 0), (1, 1, 0), (0, 1, 1)):
        set_randomness(dropped, *words)
        outs.append(dropped(IDS))
    assert torch.equal(outs[0], outs[1]) and not any(torch.equal(outs[0], other) for other in outs[2:])
    assert torch.equal(plain(IDS), model(0.0).train()(IDS))


def test_each_branch_loses_its_share_and_keeps_its_mean() -> None:
    """Measured on the branches themselves: share of zeros = the layer's rate, the rest scaled up."""
    dropped = model(0.4).train()
    seen: dict[str, torch.Tensor] = {}
    for index, layer in enumerate(dropped.model.layers):
        for name in ("self_attn", "mlp"):
            branch = layer.get_submodule(name)
            key = f"{index} {name}"
            branch.register_forward_hook(lambda m, i, out, key=key: seen.__setitem__(key, out.detach()))
    zeros = {key: [] for key in (f"{i} {n}" for i in range(5) for n in ("self_attn", "mlp"))}
    for step in range(40):
        set_randomness(dropped, 0, step, 0)
        dropped(IDS)
        for key, out in seen.items():
            zeros[key].append(float((out == 0).float().mean()))
    for key, shares in zeros.items():
        assert sum(shares) / len(shares) == pytest.approx(rates(5, 0.4)[int(key[0])], abs=0.02), key
