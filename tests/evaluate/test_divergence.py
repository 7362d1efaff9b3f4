"""Perplexity and Kullback-Leibler against a plain computation; a model does not diverge from itself."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from camelid.errors import UsageError
from camelid.evaluate import divergence as room
from camelid.evaluate.divergence import divergence
from camelid.models.llama import Llama, initialise
from camelid.models.shape import LlamaShape

SHAPE = LlamaShape(layers=2, width=32, heads=4, kv_heads=2, head_width=8, hidden=48, vocab=61, context=24)


def model(seed: int, shape: LlamaShape = SHAPE) -> Llama:
    made = Llama(shape)
    initialise(made, seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(8 if parameter.ndim == 2 else 1)
    return made.eval().requires_grad_(False)


def ids(count: int) -> list[int]:
    return torch.randint(SHAPE.vocab, (count,), generator=torch.Generator().manual_seed(5)).tolist()


@pytest.mark.parametrize("at_once", [1 << 24, 4 * 61 * 3])
def test_one_window_agrees_with_the_definitions(monkeypatch, at_once):
    monkeypatch.setattr(room, "LOGITS_AT_ONCE", at_once)
    a, b, given = model(1), model(2), ids(20)
    p, q = (torch.log_softmax(one(torch.tensor([given]))[0, :-1].double(), -1) for one in (a, b))
    kl = (p.exp() * (p - q)).sum(-1)
    found = divergence(a, b, given)
    targets = torch.tensor(given[1:])[:, None]
    assert found.perplexity == pytest.approx(math.exp(-float(q.gather(1, targets).mean())), rel=1e-5)
    assert found.perplexity_of_original == pytest.approx(math.exp(-float(p.gather(1, targets).mean())), rel=1e-5)
    assert found.kl == pytest.approx(float(kl.mean()), rel=1e-4) and found.kl_largest == pytest.approx(
        float(kl.max()), rel=1e-4
    )
    assert found.same_first == float((p.argmax(-1) == q.argmax(-1)).double().mean()) and found.tokens == 19


def test_a_model_does_not_diverge_from_itself_and_every_id_is_counted_once():
    found = divergence(model(1), model(1), ids(100))
    assert (found.kl, found.same_first, found.tokens, found.window) == (0.0, 1.0, 99, 24)
    assert found.perplexity == found.perplexity_of_original


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(UsageError, match="share a tokenizer"):
        divergence(model(1), model(1, replace(SHAPE, vocab=64)), ids(9))
    with pytest.raises(UsageError, match="two tokens"):
        divergence(model(1), model(1), [3])
