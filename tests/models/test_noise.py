"""NEFTune: keyed, only while training, of the published size for each document's own length."""

import math

import pytest
import torch

from camelid.errors import CamelidError, UsageError
from camelid.models.adapt import LoRA, add_lora, set_randomness
from camelid.models.noise import add_noise
from camelid.models.shape import LlamaShape
from tests.models.shapes import random_ids, random_model

SHAPE = LlamaShape(layers=2, width=24, heads=4, kv_heads=2, head_width=6, hidden=20, vocab=30, context=512)


class Seen:
    """What goes into the first layer."""

    def __init__(self, model):
        model.model.layers[0].register_forward_pre_hook(lambda layer, given: setattr(self, "x", given[0].detach()))


def test_noise_is_uniform_and_as_large_as_each_documents_length_says():
    model = random_model(SHAPE, dtype=torch.float32)
    seen, ids = Seen(model), random_ids(SHAPE, (1, 500), "noise")
    segments = torch.tensor([[0] * 100 + [1] * 400])
    layout = model.layout(segments)
    model.hidden(ids, segments=layout)
    plain = seen.x
    add_noise(model, 5.0)
    set_randomness(model, 1, 2, 3)
    model.hidden(ids, segments=layout)
    added = seen.x - plain
    for length in (100, 400):
        bound = 5.0 / math.sqrt(length * SHAPE.width)
        places = [place for place in range(layout.places) if layout.lengths[place] == length]
        part = added[places]
        assert len(part) >= length
        assert 0.98 * bound < part.abs().max() <= bound * (1 + 1e-5)
        assert abs(float(part.mean())) < 0.03 * bound and float(part.std()) == pytest.approx(bound / 3**0.5, rel=0.03)


def test_noise_is_keyed_and_gone_outside_training():
    model = random_model(SHAPE, dtype=torch.float32)
    ids = random_ids(SHAPE, (2, 9), "noise")
    plain = model(ids)
    add_noise(model, 10.0)
    with pytest.raises(CamelidError, match=r"embeddings: noise .* set_randomness"):
        model(ids)
    outs = {}
    for words in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)):
        set_randomness(model, *words)
        torch.manual_seed(len(outs))  # the global state must not matter
        out = model(ids)
        assert torch.equal(outs.setdefault(words, out), out)
        assert torch.equal(model(ids, recompute=True), out)
    assert len({float(out.detach().sum()) for out in outs.values()}) == 4
    model.eval()
    assert torch.equal(model(ids), plain)


def test_noise_shares_its_words_with_an_adapter_and_an_impossible_size_is_refused():
    model = add_noise(add_lora(random_model(SHAPE), LoRA(2, 4, dropout=0.2)), 5.0)
    set_randomness(model, 0, 0, 0)
    model(random_ids(SHAPE, (1, 5), "both"))
    for alpha in (-1.0, math.inf, math.nan):
        with pytest.raises(UsageError, match="is no size; use 0 for none"):
            add_noise(model, alpha)
    assert add_noise(random_model(SHAPE), 0.0).noise is None
