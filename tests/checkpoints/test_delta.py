"""A delta and its parent give the tuned model back; the wrong parent is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from camelid.checkpoints import delta, directory
from camelid.errors import BadFile, UsageError
from camelid.models.llama import Llama, initialise
from camelid.models.shape import LlamaShape
from camelid.train.vocabulary import with_rows
from tests.tokenizers.conftest import pieces  # noqa: F401

SHAPE = LlamaShape(layers=2, width=16, heads=2, kv_heads=1, head_width=8, hidden=24, vocab=40, context=32)


@pytest.fixture
def saved(pieces):  # noqa: F811
    """Writes small models, random or near another, with the rows that the tokenizer needs and `more`."""

    def save(path: Path, seed: int, *, more: int = 0, like: Path | None = None, hidden: int = 24) -> Path:
        model = Llama(replace(SHAPE, vocab=pieces.size, hidden=hidden))
        initialise(model, seed)
        if like is not None:
            before = directory.load(like).tensors()
            with torch.no_grad():
                for name, weight in model.state_dict().items():
                    weight.mul_(0.01).add_(before[name])
        with_rows(model, pieces.size + more)
        provenance = {"member": "x"}
        return directory.save(path, model.state_dict(), shape=model.shape, tokenizer=pieces, provenance=provenance)

    return save


def test_parent_and_delta_give_the_tuned_model_back_and_exactness_is_told(tmp_path: Path, saved) -> None:
    parent = saved(tmp_path / "parent", 0)
    tuned = saved(tmp_path / "tuned", 1, more=1, like=parent)
    made = delta.make(parent, tuned, tmp_path / "delta")
    again = directory.load(delta.apply(parent, tmp_path / "delta", tmp_path / "again"))
    wanted = directory.load(tuned)
    differing = sum(int((again.tensors()[name] != tensor).sum()) for name, tensor in wanted.tensors().items())
    assert made.weights == wanted.shape.parameters() and made.weights - made.exact == differing
    assert made.exact > 0.5 * made.weights and made.largest_error < 1e-8
    for name, tensor in wanted.tensors().items():
        torch.testing.assert_close(again.tensors()[name], tensor, atol=1e-8, rtol=0)
    assert again.shape == wanted.shape and again.provenance["member"] == "x"


def test_a_new_row_stands_in_the_delta_whole(tmp_path: Path, saved) -> None:
    parent = saved(tmp_path / "parent", 0)
    tuned = saved(tmp_path / "tuned", 1, more=2, like=parent)
    delta.make(parent, tuned, tmp_path / "delta")
    name = "model.embed_tokens.weight"
    child, change = (directory.load(p).tensors()[name] for p in (tuned, tmp_path / "delta"))
    assert torch.equal(change[-2:], child[-2:]) and not torch.equal(change[:-2], child[:-2])


def test_what_cannot_be_put_together_is_refused(tmp_path: Path, saved) -> None:
    parent, other = saved(tmp_path / "parent", 0), saved(tmp_path / "other", 5)
    tuned = saved(tmp_path / "tuned", 1, like=parent)
    delta.make(parent, tuned, tmp_path / "delta")
    with pytest.raises(UsageError, match="is not the parent of this delta"):
        delta.apply(other, tmp_path / "delta", tmp_path / "x")
    with pytest.raises(UsageError, match="is a model, not a delta"):
        delta.apply(parent, tuned, tmp_path / "x")
    wide = saved(tmp_path / "wide", 0, hidden=32)
    with pytest.raises(UsageError, match=r"mlp.gate_proj.weight: shape \[24, 16\] in the parent, \[32, 16\]"):
        delta.make(parent, wide, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_damaged_delta_is_not_applied(tmp_path: Path, saved) -> None:
    parent = saved(tmp_path / "parent", 0)
    delta.make(parent, saved(tmp_path / "tuned", 1, like=parent), tmp_path / "delta")
    weights = next((tmp_path / "delta").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(BadFile):
        delta.apply(parent, tmp_path / "delta", tmp_path / "x")
