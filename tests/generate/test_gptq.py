"""A GPTQ folder through the native kernels: its own codes, the same bits as a Q4_0 file of the same numbers."""

from __future__ import annotations

import pytest
import torch

from camelid.checkpoints import directory
from camelid.checkpoints.calibration import Settings
from camelid.checkpoints.quantised import layout_of, quantised, save
from camelid.generate.gptq import as_stored
from camelid.generate.loaded import load
from camelid.models.shape import LlamaShape
from camelid.native.library import library
from camelid.native.llama import NativeLlama
from camelid.tokenizers import byte_bpe
from tests.checkpoints.models import weights

SHAPE = LlamaShape(layers=2, width=64, heads=4, kv_heads=2, head_width=16, hidden=128, vocab=290, context=128)
IDS = torch.randint(290, (4, 60), generator=torch.Generator().manual_seed(1))

pytestmark = pytest.mark.skipif(library() is None, reason="there are no native kernels here")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "hf"
    tokenizer = byte_bpe.train(["The camel walked to Aswan, where dates were sold. " * 9], vocab=290)
    directory.save(path, weights(SHAPE, dtype=torch.bfloat16), shape=SHAPE, tokenizer=tokenizer)
    return directory.load(path)


def folder(original, path, **settings):
    chosen = Settings(**{"group": 64, **settings})
    return save(path, original, quantised(original, "gptq", ids=IDS, settings=chosen), layout_of("gptq", chosen))


def test_the_kernels_compute_with_the_folders_own_numbers(original, tmp_path):
    path = folder(original, tmp_path / "m")
    native, plain = as_stored(directory.load(path)), directory.load_model(path, torch.float32).eval()
    assert isinstance(native, NativeLlama) and native.weights == "q4_0"
    with torch.no_grad():
        ours, exact = native(IDS), plain(IDS)
    assert float((ours - exact).norm() / exact.norm()) < 0.05  # the kernels round activations to eight bits
    name = "model.layers.1.mlp.down_proj.weight"
    held = torch.stack([native._held.matrices[name].row(library(), row) for row in range(SHAPE.width)])
    assert torch.equal(held, directory.load(path).tensors()[name])
    assert load(path).engine.startswith("native q4_0 as stored")


def test_columns_in_another_order_are_decoded_instead(original, tmp_path):
    path = folder(original, tmp_path / "m", act_order=True)
    assert as_stored(directory.load(path)) is None and "as stored" not in load(path).engine
    assert as_stored(original) is None
