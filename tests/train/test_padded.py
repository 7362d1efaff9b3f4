"""A model with more rows than its tokenizer has ids, as folders of others often are, through all that touches rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from camelid.checkpoints import adapter as adapters
from camelid.checkpoints import directory
from camelid.checkpoints.convert import convert
from camelid.checkpoints.merge import Parent, with_adapters
from camelid.data.corpus import render_all
from camelid.dialogue.template import Template
from camelid.errors import UsageError
from camelid.generate.loaded import load
from camelid.generate.settings import Settings
from camelid.machine import Machine
from camelid.models.llama import Llama, initialise
from camelid.models.shape import LoRA
from camelid.stage import Sequences, Steps
from camelid.tokenizers import sentencepiece
from camelid.tokenizers.extend import with_controls, with_pieces
from camelid.train.finetune import finetune
from camelid.train.loop import Cadence, Conduct
from camelid.train.settings import AdamW, Constant
from tests.train.small_runs import EVERY, LORA, dialogues, shape, texts

MARKS = ("<|im_start|>", "<|im_end|>")
TURNS = Template(
    user="{<|im_start|>}user {instruction}{<|im_end|>}",
    cue="{<|im_start|>}assistant ",
    assistant="{reply}{<|im_end|>}",
)
PADDING = 20


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose last rows no id has; they are zeros, as padding mostly is."""
    pieces = sentencepiece.train(texts(200), vocab=300)
    made = Llama(shape(pieces.size + PADDING))
    initialise(made, 4)
    with torch.no_grad():
        made.model.embed_tokens.weight[pieces.size :] = 0
        made.head_weight()[pieces.size :] = 0
    path = tmp_path_factory.mktemp("padded") / "model"
    return directory.save(path, made.state_dict(), shape=made.shape, tokenizer=pieces)


def tuned(padded: Path, target: Path, *, rate: float = 1e-12, **settings) -> Path:
    """Tuned for a step, at a rate at which nothing is seen to move unless another is asked for."""
    tokenizer = settings.get("tokenizer") or directory.load(padded).tokenizer
    seen = with_controls(tokenizer, settings.get("controls", ()))
    corpus, _ = render_all(dialogues(4), TURNS.within(seen), seen, length=64, over_length="cut")
    finetune(
        target / "model", target / "run", start=padded, corpus=corpus, template=TURNS.within(seen), batch=Sequences(4),
        amount=Steps(1), optim=AdamW(lr=rate), schedule=Constant(),
        conduct=Conduct(machine=Machine(threads=1), cadence=Cadence(seconds=None)), **settings,
    )  # fmt: skip
    return target / "model"


def test_controls_that_fit_into_the_padding_begin_with_the_mean_of_the_ids_there_are(padded, tmp_path):
    before = directory.load(padded)
    known = before.tokenizer.size
    after = directory.load(tuned(padded, tmp_path, controls=MARKS, pad="[PAD]"))
    assert after.tokenizer.size == known + 3 and after.shape == before.shape
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows = before.tensors()[name][:known]
        assert torch.allclose(after.tensors()[name][known : known + 3], rows.mean(0).expand(3, -1), atol=1e-6)
        assert float(after.tensors()[name][known + 3 :].abs().max()) < 1e-9


def test_pieces_beyond_the_padding_begin_with_their_old_pieces(padded, tmp_path):
    before = directory.load(padded)
    known, old = before.tokenizer.size, before.tensors()["model.embed_tokens.weight"]
    new = with_pieces(before.tokenizer, sentencepiece.train(["камень на камень, верблюд и пески\n" * 9], vocab=310))
    assert new.size > before.shape.vocab
    after = directory.load(tuned(padded, tmp_path, tokenizer=new, new_rows="pieces"))
    rows = after.tensors()["model.embed_tokens.weight"]
    assert len(rows) == new.size == after.shape.vocab
    for id in range(known, new.size):
        ids = before.tokenizer.encode(new.decode([id], starts=False), starts=False)
        assert torch.allclose(rows[id], old[ids].mean(0), atol=1e-6)


def test_an_adapter_brings_the_tokenizer_that_fills_padding_and_is_merged_with_it(padded, tmp_path):
    merged = tuned(padded, tmp_path, rate=1e-2, controls=MARKS, adapter=EVERY)
    worn = tmp_path / "run" / "adapter"
    base = directory.load(padded)
    assert adapters.load(worn, base).tokenizer.digest() == directory.load(merged).tokenizer.digest()
    again = with_adapters(padded, [Parent(worn, 1.0)], tmp_path / "again").path
    own = Settings(max_tokens=8)
    assert load(again).complete("who walks?", own) == load(merged).complete("who walks?", own)
    plain = tuned(padded, tmp_path / "plain", adapter=EVERY)
    assert adapters.load(tmp_path / "plain" / "run" / "adapter", base).tokenizer is None
    assert directory.load(plain).tokenizer.digest() == base.tokenizer.digest()


@pytest.mark.parametrize("settings", [{"controls": MARKS}, {"pad": "[PAD]"}])
def test_ids_on_rows_that_stay_frozen_are_refused_wherever_these_rows_lie(padded, tmp_path, settings):
    with pytest.raises(UsageError, match="needs a row of its own in the weights that an adapter leaves as they are"):
        tuned(padded, tmp_path, adapter=LORA, **settings)
    whole = LoRA(rank=2, alpha=4, trained=("embed_tokens", "lm_head"))
    with pytest.raises(UsageError, match="begun in a base that lies in int8"):
        tuned(padded, tmp_path, adapter=whole, base="int8", **settings)


def test_padding_goes_through_gguf_and_back_and_answers_the_same(padded, tmp_path):
    model = tuned(padded, tmp_path, rate=1e-2, controls=MARKS)
    file = convert(model, tmp_path / "model.gguf", to="gguf")
    back = convert(file, tmp_path / "back", to="hf")
    before, own = load(model), Settings(max_tokens=8)
    for path in (file, back):
        after = load(path)
        assert (after.shape, after.tokenizer.size) == (before.shape, before.tokenizer.size)
        assert after.complete("who walks?", own) == before.complete("who walks?", own)
