"""A quantised GGUF file through the native kernels: the very blocks of the file, and the values that they stand for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from camelid.checkpoints import directory
from camelid.checkpoints.gguf import save_gguf
from camelid.generate import gguf
from camelid.generate.gguf import as_stored
from camelid.generate.loaded import load
from camelid.models.llama import Llama
from camelid.models.shape import LlamaShape
from camelid.native.library import library
from camelid.native.llama import NativeLlama
from camelid.native.matrix import Matrix
from camelid.tokenizers import byte_bpe
from tests.checkpoints.models import weights

SHAPE = LlamaShape(layers=2, width=64, heads=4, kv_heads=2, head_width=16, hidden=96, vocab=290, context=128)

pytestmark = pytest.mark.skipif(library() is None, reason="there are no native kernels here")


def saved(path, form, shape=SHAPE):
    tokenizer = byte_bpe.train(["The camel walked to Aswan, where dates were sold. " * 9], vocab=290)
    return save_gguf(path, weights(shape), shape=shape, form=form, tokenizer=tokenizer)


@pytest.mark.parametrize("form", ["q8_0", "q4_0"])
@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_those_of_the_decoded_weights(tmp_path, form, tied):
    path = saved(tmp_path / "m.gguf", form, replace(SHAPE, tied=tied))
    native = as_stored(directory.load(path))
    plain = directory.load_model(path, torch.float32).eval()
    ids = torch.randint(SHAPE.vocab, (1, 60), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, exact = native(ids), plain(ids)
    assert native.weights == form
    assert float((ours - exact).norm() / exact.norm()) < 0.05  # the kernels round activations to eight bits


def test_the_blocks_of_the_file_are_the_kernels_weights_to_the_bit(tmp_path):
    """Q8_0 throughout: rounding the same floats in the kernels gives the same blocks, so the same logits to the bit."""
    path = saved(tmp_path / "m.gguf", "q8_0")
    ids = torch.randint(SHAPE.vocab, (1, 40), generator=torch.Generator().manual_seed(2))
    rounded = NativeLlama.load(SHAPE, weights(SHAPE), "q8_0")
    assert torch.equal(as_stored(directory.load(path))(ids), rounded(ids))


@pytest.mark.parametrize("form", ["q8_0", "q4_0"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_large_file_is_answered_from_where_it_lies_and_no_bit_changes_when_it_is_laid_out(
    tmp_path, monkeypatch, form, tied
):
    """Blocks in the mapped file, blocks half laid out, and panels of their own give the same bits; the file may go then."""
    path = saved(tmp_path / "m.gguf", form, replace(SHAPE, tied=tied))
    ids = torch.randint(SHAPE.vocab, (1, 40), generator=torch.Generator().manual_seed(3))
    expected = as_stored(directory.load(path))(ids)
    monkeypatch.setattr(gguf, "LATER", 1)
    waiting: list[NativeLlama] = []
    monkeypatch.setattr(NativeLlama, "move_later", lambda model: waiting.append(model) or model)
    checkpoint = directory.load(path)
    model = as_stored(checkpoint)
    assert waiting == [model] and torch.equal(model(ids), expected)
    stopped = Matrix.moved
    monkeypatch.setattr(Matrix, "moved", lambda own, *room: torch.equal(model(ids), expected) and stopped(own, *room))
    model.move()
    for name in checkpoint.header.places:
        checkpoint._blocks[name].fill_(255)  # the mapping's own copy: what still looked there would see it
    assert torch.equal(model(ids), expected)
    assert all(matrix.struct.scales or matrix.kind == "float32" for matrix in model._held.matrices.values())


def test_a_file_is_read_as_stored_unless_asked_otherwise_and_says_so(tmp_path):
    path = saved(tmp_path / "m.gguf", "q4_0")
    assert load(path).engine.startswith("native q4_0 as stored")
    assert "as stored" not in load(path, weights="q8_0").engine
    assert load(path, dtype=torch.float32).engine.startswith("native float32")
    assert isinstance(load(path, engine="pytorch").model, Llama)
    assert as_stored(directory.load(saved(tmp_path / "f.gguf", "bf16"))) is None
    assert load(path).complete("Where is Aswan?").token_ids == load(path).complete("Where is Aswan?").token_ids
