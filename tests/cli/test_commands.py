"""The commands as programs and people use them, on a tiny Alpaca grown here."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from camelid.cli import main
from camelid.native.library import library, state

RUN = [sys.executable, "-m", "camelid"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which a tiny base, Alpaca and Alpaca-LoRA were grown."""
    path = tmp_path_factory.mktemp("store")
    for member in ("alpaca", "alpaca-lora"):
        command(path, "grow", member, "--size", "tiny")
    return path


def command(store: Path, *words: str, given: str = "", code: int = 0) -> str:
    """What a command prints, run as a program of its own; its exit code is checked."""
    environment = {**os.environ, "CAMELID_STORE": str(store), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*RUN, *words], input=given.encode(), capture_output=True, env=environment)
    assert done.returncode == code, done.stderr.decode()
    return done.stdout.decode() if code == 0 else done.stderr.decode()


def as_json(store: Path, *words: str, given: str = "") -> Any:
    return json.loads(command(store, *words, "--json", given=given))


def folder(store: Path, name: str) -> Path:
    (found,) = (store / "stages").glob(f"{name}-*")
    return found


def test_the_base_is_trained_once_and_shared(store: Path) -> None:
    assert len(list((store / "stages").glob("pretrained-*"))) == 1
    assert {path.name.rsplit("-", 1)[0] for path in (store / "stages").iterdir() if path.name[0] != "."} == {
        "pieces",
        "pretrained",
        "tuned",
        "adapted",
    }


@pytest.mark.skipif(library() is None, reason=state())
def test_the_engine_and_the_weights_can_be_chosen_and_floats_agree(store: Path) -> None:
    words = ("generate", "alpaca", "--prompt", "Where does Mila live?", "--max-tokens", "12")
    native, pytorch = as_json(store, *words), as_json(store, *words, "--engine", "pytorch")
    assert native["token_ids"] == pytorch["token_ids"]
    assert native["logprobs"] == pytest.approx(pytorch["logprobs"], abs=1e-5)
    assert native["logprobs"] != pytorch["logprobs"], "two engines, two orders of additions"
    rounded = as_json(store, *words, "--weights", "q4_0")
    assert rounded["logprobs"][0] == pytest.approx(native["logprobs"][0], abs=0.5)
    assert rounded["logprobs"] != native["logprobs"]
    told = command(store, *words, "--engine", "pytorch", "--weights", "q8_0", code=2)
    assert "weights: q8_0 for PyTorch" in told
    assert "did you mean 'native'?" in command(store, *words, "--engine", "nativ", code=2)
    assert as_json(store, "doctor")["facts"]["native"] == state()


def test_keys_and_values_in_int8_are_told_and_refused_where_guesses_are_made(store: Path) -> None:
    words = ("generate", "alpaca", "--prompt", "Where does Mila live?", "--max-tokens", "12")
    environment = {**os.environ, "CAMELID_STORE": str(store), "OMP_NUM_THREADS": "1"}
    run = [*RUN, *words, "--cache", "int8"]
    told = subprocess.run(run, capture_output=True, env=environment, check=True).stderr.decode()
    assert re.search(r"cache: keys and values in int8, [\d,]+ bytes a token instead of [\d,]+;", told), told
    beams = as_json(store, *words, "--cache", "int8", "--beams", "2", "--n", "2")
    assert len(beams["choices"]) == 2
    told = command(store, *words, "--cache", "int8", "--lookup", "--engine", "nativ", code=2)
    assert "--cache int8: beside --lookup" in told and "leave out --lookup" in told and "nativ" in told
    assert "did you mean 'int8'?" in command(store, *words, "--cache", "int", code=2)


def test_growing_again_makes_nothing_and_says_where_all_lies(store: Path) -> None:
    told = as_json(store, "grow", "alpaca", "--size", "tiny")
    assert not any(stage["fresh"] for stage in told["stages"])
    assert Path(told["model"]) == folder(store, "tuned") and "Alpaca tiny" in Path(told["report"]).read_text()
    assert set(told["scores"]) == {"LLaMA tiny", "Alpaca tiny"}


def test_a_base_tells_what_each_source_gave_and_the_runs_are_listed(store: Path) -> None:
    told = json.loads((folder(store, "pretrained") / "camelid.json").read_text())["provenance"]
    assert sum(each["tokens"] for each in told["mixture"]) == told["training"]["tokens"] == 8192
    assert {"CommonCrawl", "Wikipedia"} <= {each["source"] for each in told["mixture"]}
    runs = {run["name"].split("-")[0]: run for run in as_json(store, "runs")}
    assert set(runs) == {"pieces", "pretrained", "tuned", "adapted"} and {run["state"] for run in runs.values()} == {
        "done"
    }
    assert runs["pretrained"]["tokens"] == 8192 and runs["pretrained"]["step"] == runs["pretrained"]["steps"] > 0
    assert "loss" in command(store, "runs", "pretrained") and "no setting" not in command(
        store, "runs", "tuned", "adapted"
    )


def test_a_file_of_prompts_is_answered_as_each_prompt_alone(store: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    source.write_text("".join(json.dumps({"id": n, "prompt": f"Name {n}.", "max_tokens": 6}) + "\n" for n in range(5)))
    words = ("generate", "alpaca", "--file", str(source), "--out", str(out))
    command(store, *words, "--rows", "2")
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert [answer["id"] for answer in answers] == list(range(5))
    alone = as_json(store, "generate", "alpaca", "--prompt", "Name 3.", "--max-tokens", "6")
    assert answers[3]["answers"][0]["text"] == alone["text"]
    before = out.read_bytes()
    command(store, *words)
    assert out.read_bytes() == before
    told = command(store, *words[:4], "--raw", "--json", code=2)
    assert all(name in told for name in ("--out: is missing", "--raw: goes with one prompt", "--json: goes with"))
    told = command(store, "generate", "alpaca", "--prompt", "x", "--rows", "2", "--truncate", code=2)
    assert "--rows: goes with --file" in told and "--truncate: goes with --file" in told
    source.write_text('{"prompt": "x"}\n{"prompt": 3}\n')
    told = command(store, *words[:4], "--out", str(tmp_path / "other.jsonl"), code=1)
    assert "1 of 2 rows cannot be answered" in told and "line 2: " in told


def test_generate_gives_the_tokens_and_logprobs_of_transformers(store: Path) -> None:
    transformers = pytest.importorskip("transformers")
    prompt = "Kedo lives in"
    words = ("generate", "alpaca", "--raw", "--prompt", prompt, "--max-tokens", "12", "--temperature", "0")
    told = as_json(store, *words, "--prompt-logprobs")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder(store, "tuned"))
    ids = torch.tensor([told["prompt_ids"] + told["token_ids"]])
    with torch.no_grad():
        logs = torch.log_softmax(model(ids).logits.double(), -1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
    start = len(told["prompt_ids"])
    assert told["prompt_ids"][0] == 1 and told["prompt_logprobs"][0] is None and told["finish_reason"] == "length"
    torch.testing.assert_close(logs[start - 1 :], torch.tensor(told["logprobs"]).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(logs[: start - 1], torch.tensor(told["prompt_logprobs"][1:]).double(), atol=1e-5, rtol=0)
    greedy = model.generate(ids[:, :start], max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert greedy[0, start:].tolist() == told["token_ids"]


def test_chat_templates_written_out_give_the_ids_of_render(store: Path) -> None:
    transformers = pytest.importorskip("transformers")
    messages = [{"role": "user", "content": "Say hello."}, {"role": "assistant", "content": "Hello."}]
    told = as_json(store, "render", "alpaca", given=json.dumps({"messages": messages}))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder(store, "tuned"))
    assert tokenizer.apply_chat_template(messages, return_dict=False) == told["ids"]
    learned = [id for id, supervised in zip(told["ids"], told["supervised"], strict=True) if supervised]
    assert tokenizer.decode(learned, skip_special_tokens=True).strip() == "Hello." and learned[-1] in told["stop_ids"]


@pytest.mark.parametrize("text", ["Hi </s><s> [PAD]\r\n there", "", " ", "\x00é漢\U0001f600\n"])
def test_text_goes_to_ids_and_back(store: Path, text: str) -> None:
    ids = as_json(store, "tokenize", "alpaca", given=text)["ids"]
    assert not {0, 1, 2, 400} & set(ids)
    assert as_json(store, "tokenize", "alpaca", "--decode", given=json.dumps(ids))["text"] == text


def test_eval_prints_scores_with_intervals(store: Path) -> None:
    told = as_json(store, "eval", "alpaca", "--tasks", "desk")
    overall = told["overall"]
    assert 0 <= overall["low"] <= overall["share"] <= overall["high"] <= 1 and overall["count"] >= 100


def test_chat_answers_each_line(store: Path) -> None:
    said = command(store, "chat", "alpaca", "--max-tokens", "4", given="one\n/clear\ntwo\n/exit\n")
    assert len(said.splitlines()) >= 2


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["grow", "alpcaa", "--sizee", "x", "--start", "/nowhere", "--threads", "two"], ["alpaca", "--size'", "no folder", "'two'"]),
        (["grow", "alpaca", "--size", "tiny", "--set", "tuned.lenght=1", "--set", "tund.x=1"], ["'length'", "'tuned'"]),
        (["grow", "alpaca", "--size", "tiny", "--set", "tuned.length=0", "--set", "tuned.batch=0", "--set", "tuned.optim.lr=-1"],
         ["--set tuned.length: 0 tokens", "--set tuned.batch.count: 0 seq", "--set tuned.optim.lr: -1.0"]),
        (["plan", "llama", "--set", "pretrained.train=-1", "--set", "pretrained.schedule.floor=7"],
         ["--set pretrained.train.count: -1 tokens", "--set pretrained.schedule.floor: 7.0"]),
        (["grow", "alpaca", "--size", "tiny", "--set", "tuned.optim=AdamW8bit(blok=1)", "--set", "tuned.base=nf4",
          "--set", "tuned.noise=-1", "--set", "tuned.clip=0", "--set", "tuned.dropout=1", "--set", "tuned.data=x"],
         ["did you mean 'block'?", "tuned.base: nf4 weights are frozen", "tuned.noise: -1 is", "tuned.clip: 0", "tuned.dropout: 1 is",
          "tuned.data: is what the stage is given; use --start"]),
        (["grow", "alpaca-lora", "--size", "tiny", "--set", "adapted.optim=GaLore", "--set", "pretrained.optim.ratio=2"],
         ["adapted.optim: GaLore projects", "pretrained.optim.ratio: 2 is for an adapter's B"]),
        (["grow", "alpaca", "--size", "7B"], ["--data", "--start"]),
        (["grow", "llama", "--size", "7B"], ["name yours for each stage: --data pieces=FILE --data FILE; with --start"]),
        (["generate", "alpaca", "--temperature", "-1", "--top-p", "2"], ["--prompt", "--temperature", "--top-p"]),
        (["generate", "alpca", "--prompt", "x"], ["did you mean 'alpaca'?"]),
        (["show", "alpaca", "--size", "14B"], ["13B"]),
        (["resume", "/nowhere"], ["no folder"]),
        (["convert", "alpaca"], ["DST", "--to"]),
        (["data", "inspect", "/nowhere.json"], ["no file", "--model"]),
        (["data", "dedup", "/nowhere.json", "--similarity", "2"], ["no file", "--out", "--similarity"]),
        (["data", "decontaminate", "/nowhere.json", "--out", "/nowhere/x"], ["no file", "--against", "no folder"]),
        (["eval", "alpaca", "--tasks", "desq"], ["'desk'"]),
        (["plan", "alpaca", "--device", "a100-8x", "--count", "0"], ["a100-80gb", "--count"]),
        (["convert", "alpaca", "/nowhere/x", "--to", "hf", "--type", "q4_0"], ["--type", "choose from f32, f16, bf16"]),
        (["quantize", "alpaca", "--to", "gptq", "--group", "4"], ["--calibrate: gptq needs a text", "--group: found 4"]),
        (["quantize", "alpaca", "--to", "nf4", "--act-order", "--text", "/nowhere"], ["nothing for nf4", "no file"]),
        (["quantize", "alpaca", "--to", "q8_0", "--out", "/nowhere/x"], ["--out: /nowhere/x", "/nowhere/x.gguf"]),
        (["convert", "alpaca", "/nowhere/x", "--to", "gguf"], ["DST: /nowhere/x", "/nowhere/x.gguf"]),
        (["plan", "alpaca", "--tensor", "3"], ["--count: 1 cannot be divided by 3"]),
        (["verify"], ["A: is missing"]),
        (["frobnicate"], ["no command"]),
        (["tokenize"], ["MODEL_OR_FILE"]),
    ],
)  # fmt: skip
def test_wrong_usage_is_told_all_at_once_with_remedies(store: Path, words: list[str], parts: list[str]) -> None:
    told = command(store, *words, code=2)
    assert all(part in told for part in parts), told
    assert "Traceback" not in told


def test_a_member_goes_to_gguf_and_back_and_answers_the_same_there(store: Path, tmp_path: Path) -> None:
    file, back, small = tmp_path / "a.gguf", tmp_path / "back", tmp_path / "small.gguf"
    assert command(store, "convert", "alpaca", str(file), "--to", "gguf").strip() == str(file)
    command(store, "convert", str(file), str(back), "--to", "hf")
    assert (back / "model.safetensors").read_bytes() == (folder(store, "tuned") / "model.safetensors").read_bytes()
    words = ("--prompt", "Say hello.", "--max-tokens", "8")
    assert as_json(store, "generate", str(file), *words) == as_json(store, "generate", "alpaca", *words)
    given = json.dumps({"messages": [{"role": "user", "content": "Say hello."}]})
    assert as_json(store, "render", str(file), given=given) == as_json(store, "render", "alpaca", given=given)
    assert as_json(store, "tokenize", str(file), given="Hi <s>") == as_json(store, "tokenize", "alpaca", given="Hi <s>")
    assert as_json(store, "verify", "alpaca", str(file))["exact"] is True
    for model in ("alpaca", str(file), str(back)):
        told = as_json(store, "verify", model)
        assert told["exact"] is True and told["rounded"] is False
    text = tmp_path / "t.txt"
    text.write_text("Kedo lives in a town. " * 40)
    told = as_json(store, "quantize", str(file), "--to", "q4_0", "--out", str(small), "--text", str(text))
    assert (
        told["largest_share_of_bound"] <= 1 and told["text"]["kl"] > 0 and told["bytes"] < told["bytes_of_original"] / 5
    )
    assert (
        "NOT the same"
        in subprocess.run(
            [*RUN, "verify", str(file), str(small), "--tolerance", "1e-6"], capture_output=True, text=True
        ).stdout
    )
    pytorch = [*RUN, "generate", str(small), *words, "--engine", "pytorch"]
    done = subprocess.run(pytorch, capture_output=True, text=True)
    assert done.returncode == 0 and "in q4_0" in done.stderr and "decoded to float32" in done.stderr


def test_a_member_is_rounded_with_a_text_in_view_and_answers_from_its_folder(store: Path, tmp_path: Path) -> None:
    text = tmp_path / "t.txt"
    text.write_text("Kedo lives in a town, and Mila lives by the river. " * 40)
    for form in ("gptq", "awq"):
        out = tmp_path / form
        words = ("quantize", "alpaca", "--to", form, "--group", "32", "--text", str(text), "--out", str(out))
        told = as_json(store, *words)
        assert told["calibration"]["loss"] < told["calibration"]["loss_of_nearest"] and told["text"]["kl"] > 0
        assert told["calibration"]["first_half_only"] and told["bytes"] < told["bytes_of_original"]
        checked = told["certificate"]
        assert checked["holds"] and checked["rounded"] and checked["texts"] == checked["texts_equal"]
        assert as_json(store, "generate", str(out), "--prompt", "Say hello.", "--max-tokens", "4")["token_ids"]
        assert as_json(store, "verify", str(out))["relative"] == checked["relative"] > 0


def test_a_folder_tampered_with_is_not_what_its_certificate_says(store: Path, tmp_path: Path) -> None:
    from camelid.checkpoints import directory

    first = directory.load(folder(store, "tuned"))
    state = {name: tensor.clone() for name, tensor in first.tensors().items()}
    state["model.norm.weight"][0] *= 1.5
    note = {"certificate.json": (first.path / "certificate.json").read_bytes()}
    told = {"shape": first.shape, "tokenizer": first.tokenizer, "template": first.template, "extra": note}
    path = directory.save(tmp_path / "m", state, **told)
    done = subprocess.run([*RUN, "verify", str(path)], capture_output=True, text=True)
    assert done.returncode == 1 and "NOT what its certificate says" in done.stdout
    assert "has no certificate" in command(
        store, "verify", str(directory.save(tmp_path / "old", state, **{**told, "extra": {}}))
    )


@pytest.mark.parametrize("given", ["{", '{"messages": []}', '{"messages": [{"role": "robot"}]}', "[" * 5000])
def test_messages_that_are_none_are_refused(store: Path, given: str) -> None:
    assert (
        "standard input" in command(store, "render", "alpaca", given=given, code=2)
        or "messages[0]" in given + "messages[0]"
    )


def test_a_damaged_store_entry_is_named_and_not_used(store: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    weights = folder(copy, "tuned") / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    for words in (["generate", "alpaca", "--prompt", "x"], ["doctor"], ["grow", "alpaca", "--size", "tiny"]):
        done = subprocess.run([*RUN, *words, "--store", str(copy)], capture_output=True, text=True)
        assert done.returncode == 1 and "model.safetensors" in done.stdout + done.stderr


def test_a_terminated_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """SIGTERM in the middle of growing, exit code 143, then `camelid resume`: the store ends equal to an untouched one.

    One grows on one core, the other on two, where processes share its steps, and then on one.
    """
    stores = [tmp_path / "one", tmp_path / "two"]
    changes = ["--set", "pretrained.train=60K", "--set", "tuned.train=6"]
    words = [*RUN, "grow", "alpaca", "--size", "tiny", *changes, "--store"]
    subprocess.run([*words, str(stores[0]), "--threads", "1"], check=True, capture_output=True)
    stopped = subprocess.Popen(
        [*words, str(stores[1]), "--threads", "2"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    journal = None
    while journal is None or journal.read_bytes().count(b"\n") < 5:
        assert stopped.poll() is None
        found = sorted((stores[1] / "runs").glob("pretrained-*/journal.jsonl"))
        journal = found[0] if found else None
    stopped.send_signal(signal.SIGTERM)
    _, told = stopped.communicate()
    assert stopped.returncode == 143, told.decode()
    resumed = subprocess.run([*RUN, "resume", str(journal.parent), "--threads", "1"], capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert "2 processes of 1 thread" in told.decode() and "trained on 1 thread" in resumed.stderr
    assert "other settings" not in resumed.stderr
    for name in ("pretrained", "tuned"):
        one, two = (folder(path, name) for path in stores)
        assert one.name == two.name
        assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()


def test_a_rank_leaves_what_all_refuse_to_rank_0_and_tells_what_it_alone_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("camelid.cli.time.sleep", waited.append)
    for name, word in {"WORLD_SIZE": "3", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, word)
    for rank in "02":
        monkeypatch.setenv("RANK", rank)
        assert main(["grow", "llama", "--size", "tiny", "--shard", "2"]) == 2
        said = capsys.readouterr().err
        assert (
            said.startswith("camelid: wrong usage" if rank == "0" else "rank 2: camelid: wrong usage")
            and "2 x 1 in 3" in said
        )
    assert len(waited) == 1 and waited[0] > 1, "torchrun ends all as soon as one has ended: rank 0 must be first"


def test_refusals_are_values_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tree"]) == 0 and "alpaca-lora" in capsys.readouterr().out
    assert main(["plan", "alpaca", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["stages"][0]["parameters"] == 6_738_415_616
    assert main(["show", "alpaca", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["stages"][0]["settings"]["length"] == {"value": 512, "source": "README, Fine-tuning table"}


def test_data_is_cleared_of_repetitions_and_of_held_out_items(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "the camel carries the water over the wide and empty sand all night and all day"
    rows = [{"text": long, "id": 1}, {"text": "another text", "id": 2}, {"text": long.upper() + "!", "id": 3}]
    rows += [{"text": "another text", "id": 4}, {"text": "so they say: " + long[:70] + " and then sleeps", "id": 5}]
    file, held = tmp_path / "rows.jsonl", tmp_path / "held.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    held.write_text(json.dumps({"text": long}) + "\n")
    assert main(["data", "dedup", str(file), "--out", str(tmp_path / "once.jsonl"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kept"], told["removed"]) == (3, 2)
    assert [json.loads(line)["id"] for line in (tmp_path / "once.jsonl").read_text().splitlines()] == [1, 2, 5]
    gone = [json.loads(line) for line in Path(told["removals"]).read_text().splitlines()]
    assert [(row["row"], row["repeats"], row["kind"]) for row in gone] == [(3, 1, "near"), (4, 2, "exact")]
    words = ["data", "decontaminate", str(tmp_path / "once.jsonl"), "--against", str(held), "--out"]
    assert main([*words, str(tmp_path / "clean.jsonl")]) == 0
    assert [json.loads(line)["id"] for line in (tmp_path / "clean.jsonl").read_text().splitlines()] == [2]
    assert "1 of 3 texts kept" in capsys.readouterr().out
    assert main([*words, str(tmp_path / "clean.jsonl")]) == 2 and "exists" in capsys.readouterr().err
