"""A certificate tells exactly what two models do not share: an id, a chat, a logit, a rotation out of order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from camelid.checkpoints.names import to_neighbours
from camelid.dialogue.published import LLAMA_2, PLAIN
from camelid.evaluate.parity import CORPUS, parity
from camelid.generate.loaded import Loaded
from camelid.models.llama import Llama, initialise
from camelid.models.shape import LlamaShape
from camelid.tokenizers import sentencepiece
from camelid.tokenizers.sentencepiece import SentencePieceTokenizer

SHAPE = LlamaShape(layers=2, width=32, heads=4, kv_heads=2, head_width=8, hidden=48, vocab=320, context=128)


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceTokenizer:
    return sentencepiece.train(["The camel walked to Aswan, where dates were sold. " * 9], vocab=290)


def loaded(tokenizer, seed: int = 1, template=LLAMA_2) -> Loaded:
    model = Llama(SHAPE)
    initialise(model, seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10 if parameter.ndim == 2 else 1)
    return Loaded(model.eval().requires_grad_(False), tokenizer, template, SHAPE, Path("x"))


def test_a_model_shares_everything_with_itself(tokenizer):
    found = parity(loaded(tokenizer), loaded(tokenizer))
    assert found.exact and found.holds and found.first_position is None
    assert found.texts == len(CORPUS) + len(tokenizer.controls) and found.positions == 4 * 96


def test_one_weight_is_told_as_a_difference_of_logits(tokenizer):
    one, other = loaded(tokenizer), loaded(tokenizer)
    other.model.model.layers[1].mlp.down_proj.weight[3, 4] += 1e-4
    found = parity(one, other)
    assert found.holds and not found.exact and 0 < found.relative < 1e-3
    assert not parity(one, other, tolerance=1e-9).holds


def test_rows_of_keys_left_in_another_order_are_found(tokenizer):
    one, other = loaded(tokenizer), loaded(tokenizer)
    weight = other.model.model.layers[0].self_attn.k_proj.weight
    weight.copy_(to_neighbours(weight.clone(), SHAPE.kv_heads))
    found = parity(one, other)
    assert not found.holds and found.first_position is not None and found.ids_there is not None
    assert found.texts_equal == found.texts and found.chats_equal == found.chats


def test_another_template_and_another_tokenizer_are_told_with_the_first_place(tokenizer):
    found = parity(loaded(tokenizer), loaded(tokenizer, template=PLAIN))
    assert not found.holds and found.first_chat == 0 and found.first_text is None and found.relative == 0
    other = sentencepiece.train(["Other words altogether make other pieces here. " * 9], vocab=290)
    found = parity(loaded(tokenizer), loaded(other))
    assert not found.holds and found.first_text is not None and found.texts_equal < found.texts


def test_models_of_other_widths_never_pass(tokenizer):
    one, other = loaded(tokenizer), loaded(tokenizer)
    shape = replace(SHAPE, vocab=330)
    model = Llama(shape)
    initialise(model, 1)
    found = parity(one, replace(other, model=model.eval().requires_grad_(False), shape=shape))
    assert not found.holds and found.relative == float("inf")
