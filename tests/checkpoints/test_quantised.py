"""Weights through a form and back: what the file holds, what bitsandbytes and rows give, bytes counted right."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from camelid.checkpoints import directory
from camelid.checkpoints.gguf import load_gguf, save_gguf
from camelid.checkpoints.names import EMBEDDING, HEAD
from camelid.checkpoints.quantised import quantised
from camelid.errors import CamelidError, UsageError
from camelid.quantize import int8, nf4
from tests.checkpoints.models import SHAPE, weights

WIDE = replace(SHAPE, width=64, head_width=16, hidden=96)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "hf"
    directory.save(path, weights(WIDE, dtype=torch.bfloat16), shape=WIDE)
    return directory.load(path)


@pytest.mark.parametrize("form", ["q8_0", "q6_k", "q4_k_m", "q4_0"])
@pytest.mark.parametrize("tied", [False, True])
def test_what_is_measured_is_what_a_gguf_file_holds(tmp_path, form, tied):
    wide = replace(WIDE, width=256, head_width=64, hidden=512) if "_k" in form else WIDE  # blocks of 256
    shape = replace(wide, tied=tied)
    directory.save(tmp_path / "hf", weights(shape), shape=shape)
    found = {coded.name: coded for coded in quantised(directory.load(tmp_path / "hf"), form)}
    file = load_gguf(save_gguf(tmp_path / "m.gguf", weights(shape), shape=shape, form=form))
    for name, tensor in file.tensors().items():
        assert torch.equal(found[name].weights, tensor.float())
        assert found[name].bytes == file.stored(name).data.numel()
    last = EMBEDDING if tied else HEAD
    forms = {coded.form for coded in found.values() if coded.weights.ndim == 2 and coded.name != last}
    assert forms - {"q6_k"} == {"q4_k"} if form == "q4_k_m" else forms == {form}
    assert found[last].form == ("q8_0" if form in ("q8_0", "q4_0") else "q6_k")
    assert all(coded.share <= 1 for coded in found.values())


@pytest.mark.parametrize(("form", "method"), [("int8", int8), ("nf4", nf4)])
def test_linear_maps_alone_are_coded_where_embeddings_stay(checkpoint, form, method):
    for coded in quantised(checkpoint, form):
        original = checkpoint.tensors()[coded.name]
        if "_proj" in coded.name:
            assert coded.form == form and torch.equal(coded.weights, method.decode(method.encode(original)))
            assert coded.error > 0 and 0.5 < coded.share <= 1 and coded.bytes < original.numel() * 2
        else:
            assert coded.form == "bfloat16" and torch.equal(coded.weights, original.float()) and coded.error == 0
            assert coded.bytes == original.numel() * 2


def test_an_error_above_the_bound_is_called_a_fault(checkpoint, monkeypatch):
    monkeypatch.setattr(int8, "decode", lambda rows: rows.codes.float() * rows.scales * 1.01)
    with pytest.raises(CamelidError, match=r"q_proj.weight: an error of .* the bound of int8"):
        list(quantised(checkpoint, "int8"))


def test_rows_that_no_block_fills_are_refused_by_name(tmp_path):
    shape = replace(SHAPE, hidden=50)
    directory.save(tmp_path / "hf", weights(shape), shape=shape)
    with pytest.raises(UsageError, match=r"rows of 50 weights \(2 tensors\)"):
        list(quantised(directory.load(tmp_path / "hf"), "q4_0"))
