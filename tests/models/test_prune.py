"""A smaller model cut out of a larger one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from camelid.errors import UsageError
from camelid.models.llama import Llama, initialise
from camelid.models.prune import pruned
from camelid.models.shape import LlamaShape

LARGE = LlamaShape(layers=4, width=32, heads=8, kv_heads=4, head_width=8, hidden=40, vocab=50, context=64)
SMALL = replace(LARGE, layers=2, width=24, heads=4, kv_heads=2, head_width=4, hidden=24)


def large(silent: bool = False) -> Llama:
    """A model; with `silent`, all that SMALL leaves out (in places that are not the last) is zero."""
    made = Llama(LARGE)
    initialise(made, 0, deviation=0.3)
    return made


def test_nothing_cut_is_the_same_model() -> None:
    made, ids = large(), torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(pruned(made, LARGE)(ids), made(ids))


def test_what_is_cut_away_is_what_weighs_nothing() -> None:
    """Heads and units without weight leave the function as it was, wherever they stand."""
    made, ids = large(), torch.arange(20)[None]
    with torch.no_grad():
        for layer in made.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            for head in (0, 3, 4, 5):  # of key-value head 0 its first query, of 1 its second, and all of 2
                attention.q_proj.weight[head * 8 : (head + 1) * 8] = 0
                attention.o_proj.weight[:, head * 8 : (head + 1) * 8] = 0
            attention.k_proj.weight[16:24] = 0
            attention.v_proj.weight[16:24] = 0
            for unit in (1, 2, 30):
                mlp.gate_proj.weight[unit] = mlp.up_proj.weight[unit] = 0
                mlp.down_proj.weight[:, unit] = 0
        whole = made(ids)
        fewer = replace(LARGE, kv_heads=3, heads=6, hidden=37)
        torch.testing.assert_close(pruned(made, fewer)(ids), whole)


def test_a_narrower_head_turns_as_the_wide_one_did() -> None:
    """Where only every second pair of queries and keys weighs anything, leaving the others out changes no product."""
    made, ids = large(), torch.arange(20)[None]
    keep = torch.tensor([0, 2, 4, 6])  # pairs 0 and 2 of four: places 0, 2 and 0 + 4, 2 + 4
    with torch.no_grad():
        for layer in made.model.layers:
            for name, heads in (("q_proj", 8), ("k_proj", 4)):
                weight = getattr(layer.self_attn, name).weight.view(heads, 8, 32)
                weight[:, [place for place in range(8) if place not in keep]] = 0
            layer.self_attn.q_proj.weight *= 2**0.5  # the narrow head divides by a smaller root
            values = layer.self_attn.v_proj.weight.view(4, 8, 32)
            values[:, 4:] = 0
            layer.self_attn.o_proj.weight.view(32, 8, 8)[:, :, 4:] = 0
        narrow = pruned(made, replace(LARGE, head_width=4))
        for layer in narrow.model.layers:
            layer.self_attn.q_proj.weight /= 2**0.5
        torch.testing.assert_close(narrow(ids), made(ids), atol=1e-5, rtol=1e-5)


def test_a_tied_head_and_every_cut_at_once() -> None:
    small = pruned(large(), replace(SMALL, tied=True))
    assert small.lm_head is None and small.shape.parameters() == sum(p.numel() for p in small.parameters())
    assert torch.isfinite(small(torch.arange(9)[None])).all()


def test_what_cannot_be_cut_is_said_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        pruned(large(), replace(LARGE, layers=5, heads=12, head_width=6, vocab=60))
    text = str(caught.value)
    for part in ("layers: 5 cannot", "heads: 3 for each", "6 does not divide 8", "vocab: 60"):
        assert part in text
