"""A certificate tells exactly what two models do not share: an id, a chat, a logit, a rotation out of order."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from camelid.checkpoints import directory
from camelid.checkpoints.convert import convert
from camelid.checkpoints.names import to_neighbours
from camelid.dialogue.published import LLAMA_2, PLAIN
from camelid.errors import BadFile
from camelid.evaluate.parity import CORPUS, held, parity
from camelid.generate.certificate import certified, rounded_to, stored
from camelid.generate.loaded import Loaded, load
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


# --- a model and its own certificate -----------------------------------------------------------------------------------


def saved(path, tokenizer, *, template=LLAMA_2, note=True):
    one = loaded(tokenizer)
    made = certified(one.model, tokenizer, LLAMA_2, SHAPE)
    state = one.model.state_dict()
    return directory.save(
        path, state, shape=SHAPE, tokenizer=tokenizer, template=template, extra=made.files() if note else None
    )


def again(path, checkpoint, **changes):
    """The folder written once more, with its certificate and a fresh manifest, but something in it changed."""
    given = {
        "shape": SHAPE,
        "tokenizer": checkpoint.tokenizer,
        "template": checkpoint.template,
        "extra": {"certificate.json": (checkpoint.path / "certificate.json").read_bytes()},
        **changes,
    }
    state = given.pop("state", dict(checkpoint.tensors()))
    return directory.save(path, state, **given)


def test_a_certificate_comes_back_from_its_folder_and_holds_to_the_bit(tmp_path, tokenizer):
    path = saved(tmp_path / "m", tokenizer)
    noted = stored(directory.load(path))
    assert noted is not None and noted.weights == directory.load(path).stored_as == "float32"
    assert rounded_to(directory.load(path), noted) == ""
    found = held(noted, load(path, engine="pytorch"))
    assert found.exact and found.positions == 4 * 96 and found.texts == len(CORPUS) + len(tokenizer.controls)
    assert (path / "certificate.json").stat().st_size < 200_000


def test_what_was_changed_behind_a_new_manifest_is_found(tmp_path, tokenizer):
    first = directory.load(saved(tmp_path / "m", tokenizer))
    noted = stored(first)
    state = {name: tensor.clone() for name, tensor in first.tensors().items()}
    state["model.layers.1.mlp.down_proj.weight"][3, 4] += 0.05
    found = held(noted, load(again(tmp_path / "weight", first, state=state), engine="pytorch"))
    assert not found.holds and found.relative > 1e-5 and found.texts_equal == found.texts
    found = held(noted, load(again(tmp_path / "template", first, template=PLAIN), engine="pytorch"))
    assert not found.holds and found.first_chat == 0 and found.relative == 0
    other = sentencepiece.train(["Other words altogether make other pieces here. " * 9], vocab=290)
    found = held(noted, load(again(tmp_path / "tokenizer", first, tokenizer=other), engine="pytorch"))
    assert not found.holds and found.first_text is not None and found.relative == 0


def test_a_certificate_goes_with_the_model_through_every_format(tmp_path, tokenizer):
    path = saved(tmp_path / "m", tokenizer)
    noted = directory.load(path).certificate
    for number, to in enumerate(("gguf", "meta", "hf")):
        path = convert(path, tmp_path / f"{number}{'.gguf' if to == 'gguf' else ''}", to=to)
        if to != "meta":
            assert directory.load(path).certificate == noted
            assert held(stored(directory.load(path)), load(path, engine="pytorch")).exact


@pytest.mark.parametrize(("kind", "dtype"), [("f16", "float16"), ("bf16", "bfloat16")])
def test_what_was_rounded_on_the_way_is_remembered_when_it_is_wide_again(tmp_path, tokenizer, kind, dtype):
    """Norms stay in float32 in a GGUF file, and a way back ends in float32 everywhere: neither hides the rounding."""
    path = convert(saved(tmp_path / "m", tokenizer), tmp_path / "m.gguf", to="gguf", type=kind)
    noted = stored(directory.load(path))
    assert rounded_to(directory.load(path), noted) == dtype
    for number, to in enumerate(("hf", "meta", "gguf", "hf")):
        path = convert(path, tmp_path / f"{number}{'.gguf' if to == 'gguf' else ''}", to=to, type="f32")
        if to != "meta":
            assert directory.load(path).stored_as == "float32" and rounded_to(directory.load(path), noted) == dtype
    same = convert(tmp_path / "m", tmp_path / "same.gguf", to="gguf")
    assert rounded_to(directory.load(same), noted) == ""


def test_a_folder_without_a_certificate_has_none_and_a_damaged_one_is_named(tmp_path, tokenizer):
    first = directory.load(saved(tmp_path / "m", tokenizer))
    assert stored(directory.load(saved(tmp_path / "old", tokenizer, note=False))) is None
    told = json.loads((first.path / "certificate.json").read_bytes())
    for number, change in enumerate([
        {"format": "x"}, {"logits": "!"}, {"shape": [4, 96]}, {"shape": [2**40, 2**40, 9]}, {"texts": [[1]]}, {"chats": 7},
        {"likeliest": [[1, 2], [3]]}, {"likeliest": [[2**70]]}, {"largest": None}, {"dtype": "load"},
    ]):  # fmt: skip
        extra = {"certificate.json": json.dumps({**told, **change}).encode()}
        with pytest.raises(BadFile, match="is no certificate"):
            stored(directory.load(again(tmp_path / str(number), first, extra=extra)))
