"""Adapters: PEFT loads ours and we load PEFT's with the same logits, beside the right base and no other."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM
from transformers.utils import logging

from camelid.checkpoints import adapter, directory
from camelid.errors import BadFile, NonFinite, UsageError
from camelid.models.adapt import adapter_state, add_lora, fold, lean, portable
from camelid.models.shape import LINEARS, LoRA
from camelid.nn.lora import LoRALinear
from tests.checkpoints.models import SHAPE, same_bits, weights

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what the import itself warns of is not ours
    from peft import LoraConfig, PeftModel, get_peft_model

logging.disable_progress_bar()
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # PEFT asks transformers

KINDS = {
    "alpaca-lora": LoRA(rank=4, alpha=8, targets=("q_proj", "k_proj", "v_proj", "o_proj")),
    "all seven": LoRA(rank=3, alpha=5, dropout=0.1, targets=LINEARS),
    "root": LoRA(rank=4, alpha=8, targets=("gate_proj",), scale="root"),
    "dora": LoRA(rank=3, alpha=6, targets=("q_proj", "down_proj"), kind="dora"),
    "ends": LoRA(rank=2, alpha=4, targets=("q_proj",), trained=("embed_tokens", "lm_head")),
}
IDS = torch.arange(40)[None] % SHAPE.vocab


@pytest.fixture
def base(tmp_path):
    return directory.load(directory.save(tmp_path / "base", weights(SHAPE), shape=SHAPE))


def trained_state(lora, seed=5):
    """An adapter that does something."""
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(size, generator=generator) * 0.1 for n, size in adapter.expected(SHAPE, lora).items()}


def saved(tmp_path, base, lora, name="adapter", **more):
    return adapter.save(
        tmp_path / name, trained_state(lora), lora=lora, shape=SHAPE, base=base.digest, base_name="base", **more
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_written_here_loads_in_peft_with_the_same_logits(tmp_path, base, kind):
    lora = KINDS[kind]
    path = saved(tmp_path, base, lora, provenance={"seed": 1})
    theirs = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base.path), path).eval()
    found = adapter.load(path, base)
    mine = adapter.put_on(directory.build(base), found).eval()
    with torch.no_grad():
        plain, theirs_out = directory.build(base)(IDS), theirs(IDS).logits
        assert torch.allclose(mine(IDS), theirs_out, atol=1e-5, rtol=0)
        assert not torch.allclose(plain, theirs_out, atol=1e-2)
    assert found.lora == lora and found.base == base.digest and found.provenance == {"seed": 1}
    assert same_bits({name: t.detach() for name, t in adapter_state(mine).items()}, trained_state(lora))


@pytest.mark.parametrize("scale", ["rank", "root"])
@pytest.mark.parametrize("bits", [None, "nf4"])
def test_what_pissa_trained_is_saved_as_an_adapter_for_the_base_as_it_was(tmp_path, base, scale, bits):
    lora = LoRA(rank=3, alpha=6, targets=LINEARS, scale=scale, start="pissa")
    if bits:
        model = lean(SHAPE, base.tensors(), lora, bits=bits, dtype=torch.float32)
        # the base that stands behind: what is left of the weights in few bits, and what they gave up
        begun = {name: part.sum() for name, part in model.named_modules() if isinstance(part, LoRALinear)}
        state = weights(SHAPE) | {f"{name}.weight": tensor for name, tensor in begun.items()}
        base = directory.load(directory.save(tmp_path / "begun", state, shape=SHAPE))
    else:
        model = add_lora(directory.build(base), lora)
    with torch.no_grad():
        torch.testing.assert_close(model(IDS), directory.build(base)(IDS), atol=2e-5, rtol=1e-5)
        for tensor in adapter_state(model).values():
            tensor += torch.randn(tensor.shape, generator=torch.Generator().manual_seed(len(tensor))) * 0.1
    with pytest.raises(UsageError, match=r"adapter.start: 'pissa' changed the base as well"):
        adapter.save(tmp_path / "no", adapter_state(model), lora=lora, shape=SHAPE, base=base.digest)
    plain, state = portable(model)
    path = adapter.save(tmp_path / "pissa", state, lora=plain, shape=SHAPE, base=base.digest)
    theirs = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base.path), path).eval()
    with torch.no_grad():
        worn = model.eval()(IDS)
        torch.testing.assert_close(worn, theirs(IDS).logits, atol=5e-5, rtol=1e-5)
        assert not torch.allclose(worn, directory.build(base)(IDS), atol=1e-2)
        torch.testing.assert_close(fold(model)(IDS), worn, atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_of_pefts_loads_here_with_the_same_logits(tmp_path, base, kind):
    lora = KINDS[kind]
    settings = LoraConfig(
        r=lora.rank, lora_alpha=int(lora.alpha), lora_dropout=lora.dropout, target_modules=list(lora.targets),
        modules_to_save=list(lora.trained) or None, use_rslora=lora.scale == "root", task_type="CAUSAL_LM",
        use_dora=lora.kind == "dora", init_lora_weights=True,
    )  # fmt: skip
    theirs = get_peft_model(LlamaForCausalLM.from_pretrained(base.path), settings).eval()
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, tensor in theirs.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.save_pretrained(tmp_path / "theirs")
    found = adapter.load(tmp_path / "theirs", base)
    assert found.base is None and replace(found.lora, targets=lora.targets) == lora
    assert set(found.lora.targets) == set(lora.targets)
    mine = adapter.put_on(directory.build(base), found).eval()
    with torch.no_grad():
        assert torch.allclose(mine(IDS), theirs(IDS).logits, atol=1e-5, rtol=0)


def test_rows_that_a_vocabulary_gained_come_with_the_adapter_and_open_in_peft(tmp_path, base):
    more = replace(SHAPE, vocab=SHAPE.vocab + 7)
    lora = LoRA(rank=2, alpha=4, targets=("q_proj", "up_proj"), trained=("embed_tokens", "lm_head"))
    generator = torch.Generator().manual_seed(3)
    state = {n: torch.randn(s, generator=generator) * 0.1 for n, s in adapter.expected(more, lora).items()}
    told = {"shape": more, "base": base.digest, "base_rows": SHAPE.vocab}
    path = adapter.save(tmp_path / "wider", state, lora=lora, **told)
    theirs = LlamaForCausalLM.from_pretrained(base.path)
    theirs.resize_token_embeddings(more.vocab, mean_resizing=False)
    theirs = PeftModel.from_pretrained(theirs, path).eval()
    found = adapter.load(path, base)
    mine = adapter.put_on(directory.build(base), found).eval()
    ids = torch.arange(40)[None] * 3 % more.vocab
    assert found.rows == more.vocab == mine.shape.vocab and int(ids.max()) >= SHAPE.vocab
    with torch.no_grad():
        assert torch.allclose(mine(ids), theirs(ids).logits, atol=1e-5, rtol=0)
        assert torch.allclose(fold(mine)(ids), theirs(ids).logits, atol=1e-5, rtol=0)
    with pytest.raises(UsageError, match=r"adapter.trained: \d+ rows beside a base of \d+, which are not in it; train"):
        bare = replace(lora, trained=())
        adapter.save(tmp_path / "bare", {}, lora=bare, **told)


def test_ends_trained_whole_where_they_are_one_matrix_are_refused_for_peft_keeps_the_head_as_it_was(tmp_path, base):
    lora = LoRA(rank=2, alpha=4, targets=("q_proj",), trained=("embed_tokens",))
    path = saved(tmp_path, base, lora)
    tied = replace(SHAPE, tied=True)
    one = directory.load(directory.save(tmp_path / "tied", weights(tied), shape=tied))
    for name in ("manifest.json", "camelid.json"):
        (path / name).unlink()
    with pytest.raises(BadFile, match=r"modules_to_save: embedding and head are one matrix here, .* stay the base's"):
        adapter.load(path, one)
    with pytest.raises(
        UsageError, match=r"adapter.trained: embedding and head are one matrix .*; save the merged model"
    ):
        adapter.save(tmp_path / "no", trained_state(lora), lora=lora, shape=tied, base=one.digest)


def test_what_the_model_wears_is_what_is_saved(tmp_path, base):
    lora = KINDS["all seven"]
    model = add_lora(directory.build(base), lora, seed=3)
    state = adapter_state(model)
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == adapter.expected(SHAPE, lora)
    adapter.save(tmp_path / "a", state, lora=lora, shape=SHAPE, base=base.digest)
    assert same_bits(dict(adapter.load(tmp_path / "a", base).tensors()), {n: t.detach() for n, t in state.items()})


def test_another_base_is_refused(tmp_path, base):
    path = saved(tmp_path, base, KINDS["root"])
    other = directory.load(directory.save(tmp_path / "other", weights(SHAPE, seed=1), shape=SHAPE))
    with pytest.raises(BadFile, match=f"trained beside weights {base.digest[:16]}, these are {other.digest[:16]}"):
        adapter.load(path, other)


def test_a_wrong_state_is_refused_with_everything_that_is_wrong(tmp_path, base):
    state = trained_state(KINDS["root"])
    first, second, *_ = state
    del state[first]
    state[second] = torch.zeros(1, 1)
    state["stranger"] = torch.zeros(1)
    with pytest.raises(UsageError) as caught:
        adapter.save(tmp_path / "a", state, lora=KINDS["root"], shape=SHAPE, base=base.digest)
    assert {problem.where for problem in caught.value.problems} == {first, second, "stranger"}
    state = trained_state(KINDS["root"])
    state[first][0, 0] = float("nan")
    with pytest.raises(NonFinite):
        adapter.save(tmp_path / "a", state, lora=KINDS["root"], shape=SHAPE, base=base.digest)
    assert not (tmp_path / "a").exists()


REFUSALS = {
    "kind": ({"peft_type": "IA3"}, "peft_type: 'IA3'"),
    "no kind": ({"peft_type": None}, "peft_type"),
    "code": ({"auto_mapping": {"base_model_class": "X"}}, "auto_mapping: a dict of 1 is not understood"),
    "code by map": ({"auto_map": {"a": "b"}}, "code of its own"),
    "dora": ({"use_dora": "both"}, "use_dora: 'both' is neither true nor false"),
    "no magnitude": ({"use_dora": True}, "gate_proj.lora_magnitude_vector is missing"),
    "ranks": ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
    "bias": ({"bias": "all"}, "bias: 'all'"),
    "base changed": ({"init_lora_weights": "pissa"}, "init_lora_weights: 'pissa'"),
    "layers": ({"layers_to_transform": [0]}, "layers_to_transform"),
    "future": ({"quantum": {"on": True}}, "quantum"),
    "regex": ({"target_modules": ".*"}, "no list out of"),
    "target": ({"target_modules": ["q_proj", "router"]}, "no list out of"),
    "rank": ({"r": 0}, "r: 0 is no whole number"),
    "no alpha": ({"lora_alpha": None}, "plain LoRA needs both"),
    "dropout": ({"lora_dropout": 1.5}, "adapter.dropout"),
    "task": ({"task_type": "SEQ_CLS"}, "SEQ_CLS"),
}


@pytest.fixture
def foreign(tmp_path, base):
    path = saved(tmp_path, base, KINDS["root"], name="foreign")
    (path / "manifest.json").unlink()
    (path / "camelid.json").unlink()
    return path


@pytest.mark.parametrize("name", REFUSALS)
def test_settings_that_mean_more_than_plain_lora_are_refused_by_name(foreign, base, name):
    changes, told = REFUSALS[name]
    content = json.loads((foreign / "adapter_config.json").read_text())
    (foreign / "adapter_config.json").write_text(json.dumps({**content, **changes}))
    with pytest.raises(BadFile, match=told):
        adapter.load(foreign, base)


def test_all_linear_means_the_seven(foreign, base):
    content = json.loads((foreign / "adapter_config.json").read_text())
    (foreign / "adapter_config.json").write_text(json.dumps({**content, "target_modules": "all-linear"}))
    assert adapter.read_config(foreign / "adapter_config.json").targets == LINEARS
    with pytest.raises(BadFile, match=r"q_proj.lora_A.weight is missing; .* and 16 more"):
        adapter.load(foreign, base)


def test_damage_and_half_folders_are_refused(tmp_path, base):
    path = saved(tmp_path, base, KINDS["root"])
    for name in ("adapter_model.safetensors", "adapter_config.json", "camelid.json", "manifest.json"):
        bad = tmp_path / f"bad-{name}"
        shutil.copytree(path, bad)
        data = bytearray((bad / name).read_bytes())
        data[len(data) // 2] ^= 1
        (bad / name).write_bytes(data)
        with pytest.raises(BadFile):
            adapter.load(bad, base)
        (bad / name).unlink()
        with pytest.raises(BadFile):
            adapter.load(bad, base)
