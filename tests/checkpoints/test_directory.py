"""Model folders: they open in transformers with the same logits, and no damaged or foreign one gets past the door."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from camelid.checkpoints import directory
from camelid.checkpoints.huggingface import Config, Generation, config_to
from camelid.checkpoints.safetensors_io import serialise
from camelid.dialogue.message import Message
from camelid.dialogue.published import LLAMA_3
from camelid.dialogue.template import render
from camelid.durable import replace_file, verify
from camelid.errors import BadFile, NonFinite, StoreError, UsageError
from camelid.tokenizers import byte_bpe, sentencepiece
from tests import faults
from tests.checkpoints.models import SCALINGS, SHAPE, same_bits, weights
from tests.conftest import size

logging.disable_progress_bar()


def logits_of(model, ids):
    with torch.no_grad():
        found = model(ids)
    return found if isinstance(found, torch.Tensor) else found.logits


# --- with transformers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", SCALINGS)
def test_a_folder_written_here_opens_in_transformers_with_the_same_logits(tmp_path, name, tied):
    shape = replace(SHAPE, scaling=SCALINGS[name], tied=tied)
    state = weights(shape)
    directory.save(tmp_path / "m", state, shape=shape, max_shard_bytes=9000)
    ids = torch.randint(0, shape.vocab, (2, 100), generator=torch.Generator().manual_seed(1))
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "m")
    mine = directory.load_model(tmp_path / "m")
    assert torch.allclose(logits_of(mine, ids), logits_of(theirs, ids), atol=1e-5, rtol=0)
    assert same_bits({name: tensor.detach() for name, tensor in mine.state_dict().items()}, state)


@pytest.mark.parametrize("tied", [False, True])
def test_a_folder_of_transformers_opens_here_and_comes_back_bit_identical(tmp_path, tied):
    torch.manual_seed(3)
    config = LlamaConfig(**config_to(Config(replace(SHAPE, tied=tied), "float32", 1, (2,), None)))
    theirs = LlamaForCausalLM(config)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    found = directory.load(tmp_path / "theirs")
    assert found.shape == replace(SHAPE, tied=tied) and found.provenance == {} and found.template is None
    ids = torch.arange(60)[None] % SHAPE.vocab
    assert torch.allclose(logits_of(directory.build(found), ids), logits_of(theirs, ids), atol=1e-5, rtol=0)
    directory.save(tmp_path / "ours", found.tensors(), shape=found.shape)
    back = LlamaForCausalLM.from_pretrained(tmp_path / "ours")
    assert same_bits(dict(back.state_dict()), dict(theirs.state_dict()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_are_stored_in_the_dtype_asked_for(tmp_path, dtype):
    state = weights(SHAPE)
    directory.save(tmp_path / "m", state, shape=SHAPE, dtype=dtype)
    model = directory.load_model(tmp_path / "m")
    assert model.dtype == dtype and directory.load(tmp_path / "m").config.dtype == str(dtype).removeprefix("torch.")
    assert same_bits(dict(model.state_dict()), {name: tensor.to(dtype) for name, tensor in state.items()})
    assert directory.load_model(tmp_path / "m", torch.float32).dtype == torch.float32


def test_equal_models_give_equal_folders(tmp_path):
    one = directory.save(tmp_path / "one", weights(SHAPE), shape=SHAPE, provenance={"seed": 1})
    other = directory.save(tmp_path / "other", weights(SHAPE), shape=SHAPE, provenance={"seed": 1})
    assert verify(one).digest == verify(other).digest
    third = directory.save(tmp_path / "third", weights(SHAPE), shape=SHAPE, provenance={"seed": 2})
    assert directory.load(third).digest == directory.load(one).digest, "the weights' digest knows no provenance"
    fourth = directory.save(tmp_path / "fourth", weights(SHAPE, seed=1), shape=SHAPE)
    assert directory.load(fourth).digest != directory.load(one).digest


def test_a_foreign_folder_has_the_digest_of_its_bytes(tmp_path):
    ours = directory.save(tmp_path / "ours", weights(SHAPE), shape=SHAPE, max_shard_bytes=9000)
    (tmp_path / "foreign").mkdir()
    for path in ours.iterdir():
        if path.name not in ("manifest.json", "camelid.json"):
            shutil.copy(path, tmp_path / "foreign")
    assert directory.load(tmp_path / "foreign").digest == directory.load(ours).digest


@pytest.fixture(scope="module")
def speaking():
    """A byte-level tokenizer with Llama 3's control tokens."""
    return byte_bpe.train(["The camel walked to Aswan. How many dates? Twelve baskets. " * 20], vocab=300)


def test_tokenizer_template_and_provenance_travel_with_the_model(tmp_path, speaking):
    shape = replace(SHAPE, vocab=speaking.size + 3)
    told = {"member": "alpaca", "recipe": "Recipe(...)", "data": {"desk": "ab12"}, "seed": 7, "parent": "c0ffee"}
    path = directory.save(
        tmp_path / "m", weights(shape), shape=shape, tokenizer=speaking, template=LLAMA_3, provenance=told
    )
    found = directory.load(path)
    assert found.provenance == told and found.template == LLAMA_3
    assert found.tokenizer.digest() == speaking.digest()
    chat = [Message("user", "How many dates?"), Message("assistant", "Twelve."), Message("user", "To Aswan?")]
    mine = render(LLAMA_3, chat, speaking, generate=True)
    theirs = AutoTokenizer.from_pretrained(path)
    spoken = [{"role": message.role, "content": message.content} for message in chat]
    ids = theirs.apply_chat_template(spoken, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert list(ids) == list(mine.ids)
    assert found.generation.eos == tuple(mine.stop_ids) == found.config.eos


def test_a_sentencepiece_tokenizer_travels_too(tmp_path):
    tokenizer = sentencepiece.train(["The camel walked 120 miles to Aswan, where dates were sold. " * 20], vocab=320)
    shape = replace(SHAPE, vocab=tokenizer.size)
    path = directory.save(tmp_path / "m", weights(shape), shape=shape, tokenizer=tokenizer)
    text = "The camel sold 12 dates\n\n in Aswan"
    assert directory.load(path).tokenizer.encode(text) == tokenizer.encode(text)
    theirs = AutoTokenizer.from_pretrained(path)
    assert theirs(text)["input_ids"] == [tokenizer.bos, *tokenizer.encode(text)]


# --- what is not saved ------------------------------------------------------------------------------------------------


def test_a_wrong_state_is_refused_with_everything_that_is_wrong(tmp_path, speaking):
    state = weights(SHAPE)
    del state["model.norm.weight"]
    state["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(32)
    state["lm_head.weight"] = torch.zeros(3, 3)
    with pytest.raises(UsageError) as caught:
        directory.save(tmp_path / "m", state, shape=SHAPE, tokenizer=speaking)
    assert [problem.where for problem in caught.value.problems] == [
        "lm_head.weight",
        "model.layers.0.self_attn.q_proj.bias",
        "model.norm.weight",
        "tokenizer",
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_a_weight_that_is_not_finite_is_never_saved(tmp_path, bad):
    state = weights(SHAPE)
    state["model.layers.1.mlp.up_proj.weight"][3, 5] = bad
    with pytest.raises(NonFinite, match=r"layers.1.mlp.up_proj"):
        directory.save(tmp_path / "m", state, shape=SHAPE, dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []


def test_a_tied_head_is_left_out_if_equal_and_refused_if_not(tmp_path):
    shape = replace(SHAPE, tied=True)
    state = weights(shape)
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    path = directory.save(tmp_path / "m", state, shape=shape)
    assert "lm_head.weight" not in directory.load(path).tensors()
    state["lm_head.weight"] = state["lm_head.weight"] + 1
    with pytest.raises(UsageError, match="differs from the embedding"):
        directory.save(tmp_path / "n", state, shape=shape)


def test_saving_over_the_folder_being_read_is_refused_and_harms_nothing(tmp_path):
    path = directory.save(tmp_path / "m", weights(SHAPE), shape=SHAPE)
    tensors = directory.load(path).tensors()
    with pytest.raises(StoreError, match="exists already"):
        directory.save(path, tensors, shape=SHAPE)
    assert same_bits(dict(tensors), weights(SHAPE))


def test_a_killed_save_leaves_no_folder_or_a_whole_one(tmp_path):
    recording = faults.Recording()
    directory.save(tmp_path / "m", weights(SHAPE), shape=SHAPE, files=recording)
    for at in range(len(recording.steps)):
        shutil.rmtree(tmp_path / "m")
        with pytest.raises(faults.Killed):
            directory.save(tmp_path / "m", weights(SHAPE), shape=SHAPE, files=faults.Stopping(at, torn=100))
        if (tmp_path / "m").exists():
            assert at == len(recording.steps) - 1, "only once the rename is done"
            directory.load(tmp_path / "m")
        else:
            directory.save(tmp_path / "m", weights(SHAPE), shape=SHAPE)
        assert [path.name for path in tmp_path.iterdir()] == ["m"]


# --- R5: damage -------------------------------------------------------------------------------------------------------


def test_every_corruption_is_found_before_a_tensor_is_made(tmp_path, monkeypatch):
    """Goal R5 at every-commit size: bit flips, cuts, zeroed pages, swapped, missing, stale and foreign shards."""
    draw = random.Random(11)
    good = directory.save(tmp_path / "good", weights(SHAPE), shape=SHAPE, max_shard_bytes=9000)
    other = directory.save(tmp_path / "other", weights(SHAPE, seed=1), shape=SHAPE, max_shard_bytes=9000)
    names = [*sorted(verify(good).files), "manifest.json"]
    shards = [name for name in names if name.endswith(".safetensors")]
    bad = tmp_path / "bad"
    shutil.copytree(good, bad)

    def flip(data):
        at = draw.randrange(len(data))
        return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]

    def zero(data):
        at = draw.randrange(len(data)) // 512 * 512
        return data[:at] + bytes(len(data[at : at + 4096])) + data[at + 4096 :]

    wounds = {
        "flip": flip,
        "cut": lambda data: data[: draw.randrange(len(data))],
        "zero": zero,
        "longer": lambda data: data + draw.randbytes(8),
        "gone": None,
    }
    monkeypatch.setattr(directory.TensorFile, "__getitem__", lambda *_: pytest.fail("a tensor was made"))
    tried = 0
    for number in range(size(400)):
        name = draw.choice(names if number % 2 else shards)
        data = (good / name).read_bytes()
        kind = draw.choice([*wounds, "stale", "swapped"])
        (bad / name).unlink()
        if kind == "stale":
            wounded = (other / name).read_bytes()
        elif kind == "swapped":
            wounded = (good / draw.choice(names)).read_bytes()
        elif kind == "gone":
            wounded = None
        else:
            wounded = wounds[kind](data)
        if wounded is not None:
            (bad / name).write_bytes(wounded)
        if wounded != data:
            tried += 1
            with pytest.raises(BadFile) as caught:
                directory.load(bad)
            assert caught.value.path.parent == bad, (kind, name)
        (bad / name).unlink(missing_ok=True)
        (bad / name).write_bytes(data)
    assert tried > size(300)
    for _ in range(size(20)):
        directory.load(good)


def test_a_file_put_into_a_finished_folder_is_refused(tmp_path):
    path = directory.save(tmp_path / "m", weights(SHAPE), shape=SHAPE)
    (path / "README.md").write_text("notes are welcome")
    directory.load(path)
    for name in ("added_tokens.json", "tokenizer.model", "model-00001-of-00002.safetensors"):
        (path / name).write_bytes(b"{}")
        with pytest.raises(BadFile, match="was put into a finished folder"):
            directory.load(path)
        (path / name).unlink()


# --- foreign folders that do not hold together ------------------------------------------------------------------------


@pytest.fixture
def foreign(tmp_path):
    """A sharded folder without a manifest, to be spoilt."""
    path = tmp_path / "foreign"
    directory.save(path, weights(SHAPE), shape=SHAPE, max_shard_bytes=20_000)
    (path / "manifest.json").unlink()
    (path / "camelid.json").unlink()
    return path


def rewrite(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_everything_that_does_not_fit_is_told_at_once(foreign):
    rewrite(foreign / "config.json", lambda content: content.update(hidden_size=40, head_dim=8))
    with pytest.raises(BadFile) as caught:
        directory.load(foreign)
    for told in ("model.embed_tokens.weight is [64, 32] where config.json needs [64, 40]", "and 13 more"):
        assert told in str(caught.value)


UP = "model.layers.0.mlp.up_proj.weight"
SPOILT = {
    "another dtype": (
        lambda state: {**state, UP: state[UP].to(torch.int32)},
        f"{UP} is of I32, no floating-point dtype",
    ),
    "a tensor less": (lambda state: {name: own for name, own in state.items() if name != UP}, f"{UP} is missing"),
    "a tensor more": (
        lambda state: {**state, "model.layers.7.x": state[UP]},
        "'model.layers.7.x' is no weight of such",
    ),
    "a row less": (lambda state: {**state, UP: state[UP][:-1]}, f"{UP} is [47, 32] where config.json needs [48, 32]"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_weights_of_another_model_are_refused_with_folder_finding_and_remedy(tmp_path, case):
    change, found = SPOILT[case]
    path = directory.save(tmp_path / "model", weights(SHAPE), shape=SHAPE)
    (path / "manifest.json").unlink()
    (path / "camelid.json").unlink()
    (path / "model.safetensors").write_bytes(b"".join(serialise(change(weights(SHAPE)))))
    with pytest.raises(BadFile) as caught:
        directory.load(path)
    told = str(caught.value)
    assert str(path) in told and found in told and told.endswith("get all files of one, whole")


def test_a_cut_file_and_a_tokenizer_with_more_ids_than_the_embedding_are_refused(foreign, tmp_path, speaking):
    for name, data in speaking.files().items():
        (foreign / name).write_bytes(data)
    with pytest.raises(BadFile, match=rf"{speaking.size} ids, its embedding 64 rows; .* get all files of one, whole"):
        print(directory.load(foreign).tokenizer)
    shard = min(foreign.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(
        BadFile, match=rf"{shard.name} \(offset \d+\): 100 bytes are missing; copy or download it again"
    ):
        directory.load(foreign)


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/passwd", "a\0.safetensors", "..", "x" * 300, 7, None, ["a"]]
)
def test_names_in_an_index_are_never_paths(foreign, name):
    rewrite(foreign / directory.INDEX, lambda content: content["weight_map"].update({"model.norm.weight": name}))
    with pytest.raises(BadFile, match="no plain name"):
        directory.load(foreign)


OPENING = """
import json, random, sys
from pathlib import Path
from camelid.checkpoints import directory
from camelid.errors import BadFile
folder, n = Path(sys.argv[1]), int(sys.argv[2])
index = folder / directory.INDEX
good = json.loads(index.read_text())
draw = random.Random(4)
parts = ["..", ".", "/", "\\\\", "\\0", "~", "$HOME", "etc", "passwd", "%2e%2e", "CON", "nul", "file:", "http:", "//",
         "a", "é", "\\u202e", "model-00001-of-00002.safetensors", ".safetensors", " ", "\\n", "x" * 65536, "-", "*",
         "proc/self/environ"]
opened = []
watching = False
sys.addaudithook(lambda event, args: watching and event in ("open", "os.listdir") and opened.append(str(args[0])))
accepted = 0
for _ in range(n):
    name = "".join(draw.choice(parts) for _ in range(draw.randrange(1, 6)))
    placed = dict(good["weight_map"], **{draw.choice(list(good["weight_map"])): name})
    if name in good["weight_map"].values():
        continue
    index.write_text(json.dumps({"weight_map": placed}))
    watching = True
    try:
        directory.load(folder)
        accepted += 1
    except BadFile:
        pass
    watching = False
outside = [path for path in opened if not path.isdigit() and Path(path).parent != folder]
print(json.dumps({"accepted": accepted, "outside": outside[:5], "opened": len(opened) > n}))
"""


def test_hostile_shard_names_open_nothing_outside_the_folder(foreign):
    """Goal F4 for the index, watched by an audit hook."""
    command = [sys.executable, "-c", OPENING, foreign, str(size(400))]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[2])
    assert ran.stdout, ran.stderr[-2000:]
    assert json.loads(ran.stdout) == {"accepted": 0, "outside": [], "opened": True}


def test_an_index_that_does_not_fit_its_files_is_refused(foreign):
    def move(content):
        content["weight_map"]["model.norm.weight"] = content["weight_map"]["model.embed_tokens.weight"]

    rewrite(foreign / directory.INDEX, move)
    with pytest.raises(BadFile, match=r"does not fit its files: .*model.norm.weight"):
        directory.load(foreign)


def test_a_config_cannot_ask_for_more_work_than_the_files_hold(foreign):
    rewrite(foreign / "config.json", lambda content: content.update(num_hidden_layers=4096))
    with pytest.raises(BadFile, match="too few for 4096 layers"):
        directory.load(foreign)


def test_what_old_exporters_added_is_listed_and_all_else_refused(tmp_path):
    state = weights(replace(SHAPE, tied=True))
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    config = config_to(Config(replace(SHAPE, tied=True), "float32", 1, (2,), None))
    (tmp_path / "config.json").write_text(json.dumps(config))
    replace_file(tmp_path / "model.safetensors", serialise(state))
    found = directory.load(tmp_path)
    assert found.ignored == ("lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq")
    assert found.generation == Generation(1, (2,), None)
    state["lm_head.weight"] = state["lm_head.weight"] + 1
    replace_file(tmp_path / "model.safetensors", serialise(state))
    with pytest.raises(BadFile, match=r"to which config\.json ties it"):
        directory.load(tmp_path)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "config.json: is missing; name the folder"),
        ({"params.json": "{}"}, "this is Meta's format: camelid convert"),
        ({"adapter_config.json": "{}"}, "this is an adapter"),
        ({"config.json": json.dumps(config_to(Config(SHAPE))), "pytorch_model.bin": "x"}, "may hold code, which is"),
        ({"config.json": "{}", "camelid.json": "{}"}, "manifest.json: is missing beside camelid.json"),
    ],
)  # fmt: skip
def test_folders_of_another_kind_are_recognised(tmp_path, files, told):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(BadFile, match=told):
        directory.load(tmp_path)


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(BadFile, match="is missing"):
        directory.load(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(BadFile, match="is no folder"):
        directory.load(tmp_path / "file")
