"""A delta and its parent give the tuned model back; the wrong parent is refused."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from camelid.checkpoints import delta, directory
from camelid.cli import main
from camelid.errors import BadFile, UsageError
from camelid.evaluate.parity import held
from camelid.generate.certificate import certificate, stored
from camelid.generate.loaded import load
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
    applied = delta.apply(parent, tmp_path / "delta", tmp_path / "again")
    again = directory.load(applied.path)
    assert applied.total == pytest.approx(sum(float(t.double().sum()) for t in again.tensors().values()), abs=1e-9)
    wanted = directory.load(tuned)
    differing = sum(int((again.tensors()[name] != tensor).sum()) for name, tensor in wanted.tensors().items())
    assert made.weights == wanted.shape.parameters() and made.weights - made.exact == differing
    assert made.exact > 0.5 * made.weights and made.largest_error < 1e-8
    for name, tensor in wanted.tensors().items():
        torch.testing.assert_close(again.tensors()[name], tensor, atol=1e-8, rtol=0)
    assert again.shape == wanted.shape and again.provenance["member"] == "x"


def test_a_delta_that_transformers_made_as_alpaca_s_was_gives_the_tuned_model_back(
    tmp_path: Path,
    saved,
    pieces,  # noqa: F811
) -> None:
    """The parent resized with the mean of its rows, subtracted in float32, saved by save_pretrained: a folder of others."""
    parent = saved(tmp_path / "parent", 0)
    tuned = saved(tmp_path / "tuned", 1, more=1, like=parent)
    raw, child = (LlamaForCausalLM.from_pretrained(path) for path in (parent, tuned))
    raw.resize_token_embeddings(child.config.vocab_size, mean_resizing=False)
    with torch.no_grad():
        for rows in (raw.get_input_embeddings().weight, raw.get_output_embeddings().weight):
            rows[-1] = rows[:-1].mean(dim=0)
        wanted = {name: weight.clone() for name, weight in child.state_dict().items()}
        for name, weight in child.state_dict().items():
            weight.sub_(raw.state_dict()[name])
    child.save_pretrained(tmp_path / "delta")
    for name, data in pieces.files().items():
        (tmp_path / "delta" / name).write_bytes(data)
    applied = delta.apply(parent, tmp_path / "delta", tmp_path / "again")
    assert len(applied.notes) == 2 and "1 new row taken as made beside the mean" in applied.notes[1]
    for name, tensor in directory.load(applied.path).tensors().items():
        torch.testing.assert_close(tensor, wanted[name], atol=1e-7, rtol=0)
    whole = directory.load(delta.apply(parent, tmp_path / "delta", tmp_path / "other", new_rows="zero").path)
    off = whole.tensors()["lm_head.weight"][-1] - wanted["lm_head.weight"][-1]
    torch.testing.assert_close(off, -raw.get_output_embeddings().weight[-1].detach(), atol=1e-7, rtol=0)
    ours = delta.make(parent, tuned, tmp_path / "ours", new_rows="mean")
    for name, tensor in directory.load(ours.path).tensors().items():
        torch.testing.assert_close(tensor, child.state_dict()[name], atol=1e-7, rtol=0)


def test_a_delta_is_neither_talked_with_nor_trained_on(
    tmp_path: Path, saved, capsys: pytest.CaptureFixture[str]
) -> None:
    parent = saved(tmp_path / "parent", 0)
    names = [str(tmp_path / name) for name in ("parent", "tuned", "delta", "again")]
    saved(tmp_path / "tuned", 1, like=parent)
    assert main(["delta", "make", *names[:3]]) == 0
    told = capsys.readouterr()
    assert told.out.strip() == names[2] and "weights, which come back bit for bit" in told.err
    with pytest.raises(UsageError, match=r"is a delta.*camelid delta apply PARENT DELTA DST"):
        load(tmp_path / "delta")
    assert main(["grow", "alpaca", "--size", "tiny", "--start", names[2], "--store", str(tmp_path / "store")]) == 2
    assert "is a delta" in capsys.readouterr().err
    assert main(["delta", "apply", names[0], names[2], names[3]]) == 0
    assert "the weights add up to" in capsys.readouterr().err
    assert main(["verify", names[3]]) == 0, "certified, though the tuned model was not"
    capsys.readouterr()
    assert main(["delta", "apply", names[0], names[2], names[3], "--new-rows", "men"]) == 2
    told = capsys.readouterr().err
    assert "2 problems" in told and "DST" in told and "did you mean 'mean'" in told
    assert main(["delta", "make", names[0]]) == 2 and "1 name given" in capsys.readouterr().err
    assert main(["delta", "apply", names[0], names[2], str(tmp_path / "x"), "--new-rows", "mean"]) == 2
    assert "where this delta says 'zero'" in capsys.readouterr().err


def test_the_certificate_of_the_tuned_model_goes_through_its_delta(tmp_path: Path, saved) -> None:
    parent = saved(tmp_path / "parent", 0)
    first = saved(tmp_path / "first", 1, like=parent)
    delta.make(parent, first, tmp_path / "delta of first")
    certify = partial(certificate, note=pytest.fail)
    tuned = delta.apply(parent, tmp_path / "delta of first", tmp_path / "tuned", extra=certify).path
    delta.make(parent, tuned, tmp_path / "delta")
    again = delta.apply(parent, tmp_path / "delta", tmp_path / "again").path
    kept = stored(directory.load(again))
    assert kept is not None and directory.load(again).certificate == directory.load(tuned).certificate
    assert held(kept, load(again)).holds
    other = saved(tmp_path / "other", 2, like=parent)
    assert not held(kept, load(other)).holds


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
