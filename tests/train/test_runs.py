"""Pre-training and fine-tuning from data to finished folder."""

import json
from dataclasses import replace

import pytest
import torch

from camelid.checkpoints import directory
from camelid.data.batch import SequenceBatches
from camelid.data.corpus import collect
from camelid.durable import verify
from camelid.errors import BadData, StoreError, UsageError
from camelid.run import merging
from camelid.stage import Steps
from camelid.train.finetune import check_learned
from camelid.train.settings import AdamW, GaLore
from camelid.train.state import steps_of
from tests.train import small_runs
from tests.train.small_runs import EVERY, LORA, pretraining, tuning


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    path = tmp_path_factory.mktemp("ground")
    small_runs.ground(path)
    return path


def digest(out):
    return verify(out / "model").digest


@pytest.mark.parametrize("name", small_runs.JOBS)
def test_the_same_seed_gives_the_same_folder_byte_for_byte(ground, tmp_path, name):
    for turn in ("a", "b"):
        small_runs.JOBS[name].do(ground, tmp_path / turn)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_another_seed_gives_another_model(ground, tmp_path):
    for seed in (0, 1):
        pretraining(ground, tmp_path / f"pretrain{seed}", seed=seed)
        tuning(ground, tmp_path / f"tune{seed}", seed=seed)
    assert digest(tmp_path / "pretrain0") != digest(tmp_path / "pretrain1")
    assert digest(tmp_path / "tune0") != digest(tmp_path / "tune1")


def test_micro_batches_of_another_size_give_the_same_losses(ground, tmp_path):
    for do, name in ((pretraining, "pretrain"), (tuning, "tune")):
        runs = [do(ground, tmp_path / f"{name}{n}", accumulation=n) for n in (1, 4)]
        losses = [[line["loss"] for line in steps_of(run.directory)] for run in runs]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_the_finished_folder_opens_in_transformers_and_says_where_it_came_from(ground, tmp_path):
    from transformers import LlamaForCausalLM

    trained = tuning(ground, tmp_path, pad="[PAD]")
    checkpoint = directory.load(tmp_path / "model")
    assert checkpoint.tokenizer.pad == checkpoint.shape.vocab - 1 == directory.load(ground / "model").shape.vocab
    training = checkpoint.provenance["training"]
    assert training["start"] == directory.load(ground / "model").digest
    assert (training["steps"], training["supervised"]) == (trained.steps, trained.supervised)
    theirs, ours = LlamaForCausalLM.from_pretrained(tmp_path / "model"), directory.load_model(tmp_path / "model")
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT asks for it
@pytest.mark.parametrize("adapter", [LORA, EVERY])
def test_the_merged_model_is_the_base_with_its_adapter_as_peft_puts_it_on(ground, tmp_path, adapter):
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    tuning(ground, tmp_path, adapter=adapter, amount=Steps(5))
    base = LlamaForCausalLM.from_pretrained(ground / "model")
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        plain = base(ids).logits
        worn = PeftModel.from_pretrained(base, tmp_path / "run" / "adapter").eval()(ids).logits
        merged = directory.load_model(tmp_path / "model")(ids)
    torch.testing.assert_close(merged, worn, rtol=1e-5, atol=1e-5)
    assert (worn - plain).abs().max() > 1e-4


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT asks for it
@pytest.mark.parametrize("bits", ["int8", "nf4"])
def test_the_adapter_of_a_quantised_base_opens_in_peft_beside_what_its_codes_stand_for(ground, tmp_path, bits):
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    from camelid.nn.frozen import FrozenLinear

    tuning(ground, tmp_path, **{**small_runs.QLORA, "base": bits}, amount=Steps(5))
    parent = directory.load(ground / "model")
    state = {
        name: FrozenLinear.of(tensor, bits).dense() if "_proj" in name else tensor
        for name, tensor in parent.tensors().items()
    }
    directory.save(tmp_path / "decoded", state, shape=parent.shape)
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        base = LlamaForCausalLM.from_pretrained(tmp_path / "decoded")
        plain = base(ids).logits
        worn = PeftModel.from_pretrained(base, tmp_path / "run" / "adapter").eval()(ids).logits
        merged = directory.load_model(tmp_path / "model")(ids)
    torch.testing.assert_close(merged, worn, rtol=1e-5, atol=1e-5)
    assert (worn - plain).abs().max() > 1e-4
    told = directory.load(tmp_path / "model").provenance["training"]["merged"]
    assert told["largest difference"] < 1e-5 < told["largest difference to the unquantised base"]


def test_what_the_adapter_of_pissa_loses_on_the_base_as_it_was_is_measured_and_told(ground, tmp_path):
    pissa, moved = replace(LORA, start="pissa"), {}
    for dtype in ("float32", "bfloat16"):
        tuning(ground, tmp_path / dtype, adapter=pissa, dtype=dtype, amount=Steps(2))
        told = directory.load(tmp_path / dtype / "model").provenance["training"]["merged"]
        moved[dtype] = told["largest difference on the base as it was"]
        assert f"for which the adapter's folder is, it would move by up to {moved[dtype]:.1e}" in merging(
            tmp_path / dtype / "model"
        )
    assert moved["float32"] < 1e-5 < moved["bfloat16"]
    tuning(ground, tmp_path / "plain", adapter=LORA, amount=Steps(2))
    assert "on the base" not in merging(tmp_path / "plain" / "model")


def test_economies_that_do_not_go_together_are_refused_before_any_work(ground, tmp_path):
    with pytest.raises(UsageError, match="base: nf4 weights are frozen, and nothing else would learn"):
        tuning(ground, tmp_path / "a", base="nf4")
    with pytest.raises(UsageError, match=r"optim\.ratio: 16 is for an adapter's B"):
        tuning(ground, tmp_path / "b", optim=AdamW(lr=1e-3, ratio=16))
    with pytest.raises(UsageError, match="optim: GaLore projects the gradients of whole matrices"):
        tuning(ground, tmp_path / "c", optim=GaLore(lr=1e-3), adapter=LORA)
    with pytest.raises(UsageError, match=r"noise: -1\.0 is no size"):
        tuning(ground, tmp_path / "d", noise=-1.0)
    assert not list(tmp_path.iterdir())


def test_steps_with_nothing_to_learn_are_counted_before_the_first_one():
    marks = [[0, 1, 1], [1, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0]]  # the second's only mark is on nobody's target
    corpus = collect([(range(len(each)), each) for each in marks], 10)
    check_learned(SequenceBatches(corpus, per_step=5, epochs=1, micro_tokens=99, seed=0))
    with pytest.raises(BadData, match=r"6 of 10 steps, first step .*, hold no learned token"):
        check_learned(SequenceBatches(corpus, per_step=1, epochs=2, micro_tokens=99, seed=0))


def test_nothing_that_stands_already_is_trained_for_or_mistaken_for_a_result(ground, tmp_path):
    tuning(ground, tmp_path / "a", adapter=LORA)
    with pytest.raises(StoreError, match="model: exists already"):
        tuning(ground, tmp_path / "a", adapter=LORA)
    before = digest(tmp_path / "a")
    (tmp_path / "a" / "model").rename(tmp_path / "elsewhere")
    again = tuning(ground, tmp_path / "a", adapter=LORA)  # the run is over: only its result is saved again
    assert digest(tmp_path / "a") == before and again.loss == list(steps_of(again.directory))[-1]["loss"]
    tuning(ground, tmp_path / "b", adapter=LORA, seed=1)
    (tmp_path / "b" / "model").rename(tmp_path / "other")
    (tmp_path / "b" / "run" / "adapter").rename(tmp_path / "its adapter")
    (tmp_path / "a" / "run" / "adapter").rename(tmp_path / "b" / "run" / "adapter")
    with pytest.raises(StoreError, match="holds another run's adapter"):
        tuning(ground, tmp_path / "b", adapter=LORA, seed=1)


def test_an_adapter_leaves_every_other_weight_as_it_was(ground, tmp_path):
    tuning(ground, tmp_path, adapter=LORA)
    base, tuned = (directory.load(path / "model").tensors() for path in (ground, tmp_path))
    changed = {name for name in base if not torch.equal(base[name], tuned[name])}
    assert changed == {name for name in base if any(target in name for target in LORA.targets)}


@pytest.mark.parametrize("adapter", [None, replace(EVERY, dropout=0.0)])
def test_what_is_repeated_is_learned(ground, tmp_path, monkeypatch, adapter):
    monkeypatch.setattr(small_runs, "SETTINGS", AdamW(lr=2e-2))
    run = tuning(ground, tmp_path, adapter=adapter, amount=Steps(60))
    losses = [line["loss"] for line in steps_of(run.directory)]
    assert run.steps == len(losses) == 60
    assert losses[-1] < 0.65 * losses[0]


def test_in_bfloat16_the_folder_is_stored_so_while_the_run_keeps_exact_weights(ground, tmp_path):
    full = pretraining(ground, tmp_path / "full", accumulation=4)
    half = pretraining(ground, tmp_path / "half", accumulation=4, dtype="bfloat16")
    assert directory.load(tmp_path / "half" / "model").dtype == "bfloat16"
    losses = [[line["loss"] for line in steps_of(run.directory)] for run in (full, half)]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3) and losses[0] != losses[1]
    state = json.loads((tmp_path / "half" / "run" / "journal.jsonl").read_text().splitlines()[0])
    assert state["machine"]["dtype"] == "bfloat16"


def test_what_could_not_end_well_is_refused_before_any_work_with_all_reasons(ground, tmp_path, monkeypatch):
    monkeypatch.setattr(small_runs, "SETTINGS", replace(small_runs.SETTINGS, lr=-1.0, eps=0.0))
    with pytest.raises(UsageError) as told:
        pretraining(ground, tmp_path / "a")
    assert [p.where for p in told.value.problems] == ["optim.lr", "optim.eps"]
    with pytest.raises(UsageError, match=r"pad: '\[PAD\]' needs a row of its own"):
        tuning(ground, tmp_path / "b", pad="[PAD]", adapter=LORA)
    assert not list(tmp_path.iterdir())
