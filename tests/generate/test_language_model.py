from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from transformers import LlamaForCausalLM

import camelid
from camelid.checkpoints import directory
from camelid.dialogue.message import Message
from camelid.dialogue.published import VICUNA_1_1
from camelid.errors import BadFile, UsageError
from camelid.generate.language_model import LanguageModel
from camelid.generate.settings import Settings
from tests.generate.stand_ins import small

TEXTS = ["Mila lives in the town of Arl.", "Who lives there?", "add 2 and 9"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small chat model in a folder, its weights float32."""
    made = small(VICUNA_1_1, context=512, seed=2)
    state = {name: tensor.float() for name, tensor in made.model.state_dict().items()}  # type: ignore[union-attr]
    path = tmp_path_factory.mktemp("models") / "small"
    return directory.save(path, state, shape=made.shape, tokenizer=made.tokenizer, template=VICUNA_1_1)


@pytest.fixture(scope="module")
def model(folder: Path) -> LanguageModel:
    return camelid.load(folder)


def command(folder: Path, *words: str) -> dict[str, object]:
    from camelid.cli.talking import generate

    told = CliRunner().invoke(generate, [str(folder), *words, "--json", "--device", "cpu"])
    assert told.exit_code == 0, told.output
    found: dict[str, object] = json.loads(told.stdout)
    return found


def test_answers_are_those_of_the_command_line(model: LanguageModel, folder: Path) -> None:
    for words, changes in (
        ((), {}),
        (("--temperature", "0.8", "--seed", "3", "--top-k", "9"), {"temperature": 0.8, "seed": 3, "top_k": 9}),
    ):
        told = command(folder, "--prompt", TEXTS[1], "--max-tokens", "20", *words)
        for answer in (
            model.generate(TEXTS[1], max_tokens=20, **changes)[0],
            model.chat(TEXTS[1], max_tokens=20, **changes),
            model.chat([{"role": "user", "content": TEXTS[1]}], Settings(max_tokens=20), **changes),
        ):
            assert json.loads(json.dumps(answer.data())) == told
    told = command(folder, "--prompt", TEXTS[0], "--max-tokens", "9", "--raw")
    assert model.generate([TEXTS[0]], max_tokens=9, raw=True)[0].text == told["text"]


@pytest.mark.parametrize("engine", ["native", "pytorch"])
def test_continuations_and_scores_are_those_of_transformers(folder: Path, engine: str) -> None:
    model = camelid.load(folder, engine=engine)  # type: ignore[arg-type]
    theirs = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for done in model.generate(TEXTS, raw=True, max_tokens=20, ignore_eos=True):
        given = torch.tensor([done.prompt_ids])
        told = theirs.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=20, do_sample=False, eos_token_id=None
        )
        assert list(done.token_ids) == told[0, len(done.prompt_ids) :].tolist()
    for scored in model.score(TEXTS):
        logs = torch.log_softmax(theirs(torch.tensor([scored.ids])).logits[0], dim=-1)
        expected = [logs[place, id].item() for place, id in enumerate(scored.ids[1:])]
        assert scored.logprobs[0] is None and scored.logprobs[1:] == pytest.approx(expected, abs=1e-5)
        assert scored.total == pytest.approx(sum(expected), abs=1e-4)
        assert scored.perplexity == pytest.approx(float(torch.tensor(expected).mean().neg().exp()), rel=1e-5)


def test_scores_are_the_full_forward_to_the_bit(model: LanguageModel) -> None:
    long = " ".join(TEXTS * 12)
    for scored in (*model.score([*TEXTS, long]), *model.score(long)):
        native = model.loaded.model
        logits = native(torch.tensor([scored.ids]))[0, :-1]
        expected = native.pick(logits, torch.tensor(scored.ids[1:]))[1].tolist()  # type: ignore[union-attr]
        assert list(scored.logprobs[1:]) == expected


def test_a_stream_is_the_answer_in_pieces_and_can_be_left(model: LanguageModel) -> None:
    whole = model.chat(TEXTS[1], max_tokens=15)
    stream, texts = model.stream(TEXTS[1], max_tokens=15), []
    while True:
        try:
            texts.append(next(stream).text)
        except StopIteration as end:
            assert end.value == whole
            break
    assert "".join(texts) == whole.text
    left = model.stream([Message("user", TEXTS[1])], max_tokens=15)
    next(left)
    left.close()
    assert model.engine.idle
    model.engine.check()


def test_several_answers_stand_side_by_side_and_threads_share_the_engine(model: LanguageModel) -> None:
    found = model.generate(TEXTS, temperature=1.0, n=3, max_tokens=8)
    assert len(found) == 9
    assert [one.text for one in found[3:6]] == [
        one.text for one in model.generate(TEXTS[1], temperature=1.0, n=3, max_tokens=8)
    ]
    assert len(model.generate(TEXTS, beams=3, n=2, max_tokens=4)) == 6
    alone = [model.chat(text, max_tokens=12) for text in TEXTS * 3]
    with ThreadPoolExecutor(4) as several:
        assert list(several.map(lambda text: model.chat(text, max_tokens=12), TEXTS * 3)) == alone


def test_what_is_wrong_is_named(model: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="max_token: is no setting; did you mean 'max_tokens'"):
        model.chat("Hello", max_token=3)
    with pytest.raises(UsageError, match=r"^max_tokens: found text .ten., expected"):
        model.chat("Hello", max_tokens="ten")
    with pytest.raises(UsageError, match=r"top_p: 7.* is out of range"):
        model.chat("Hello", top_p=7.0, stop_texts=["x"])
    with pytest.raises(UsageError, match=r"\d+ ids leave no room in the model's context of 512"):
        model.generate("word " * 900)
    with pytest.raises(UsageError, match=r"messages\[0\].role: found 'boss'.*\n.*messages\[1\]: found int"):
        model.chat([{"role": "boss", "content": "x"}, 3])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="n: 2 answers in a conversation"):
        model.chat("Hello", n=2, temperature=1.0)
    with pytest.raises(UsageError, match=r"prompts\[1\]: found int; give a text"):
        model.generate(["Hello", 5])  # type: ignore[list-item]
    with pytest.raises(UsageError, match=r"messages: found dict; give .*, in a list"):
        model.chat({"role": "user", "content": "x"})  # type: ignore[arg-type]
    with pytest.raises(UsageError) as told:
        wrong = {"engine": "fast", "weights": "q5", "dtype": "float3", "cache": "int4", "device": "tpu"}
        camelid.load(tmp_path, **wrong, threads=0, rows=0)  # type: ignore[arg-type]
    assert [problem.where for problem in told.value.problems] == [
        "engine", "weights", "dtype", "cache", "threads", "rows", "device",
    ]  # fmt: skip
    with pytest.raises(BadFile):
        camelid.load(tmp_path / "nothing")
    assert model.engine.idle and repr(model).startswith("<camelid model small: ")


def test_biases_may_be_a_dict(model: LanguageModel) -> None:
    first = model.chat("Hello", max_tokens=1).token_ids[0]
    banned = model.chat("Hello", max_tokens=1, logit_bias={first: -100})
    assert banned == model.chat("Hello", max_tokens=1, logit_bias=[(first, -100)]) and banned.token_ids[0] != first


def test_a_grown_member_is_found_by_its_name(
    model: LanguageModel, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAMELID_STORE", str(tmp_path))
    made = directory.load(folder)
    provenance = {"member": "alpaca", "size": "tiny", "made": "2026-01-01"}
    target = tmp_path / "stages" / "tuned-0123456789abcdef"
    directory.save(target, made.tensors(), shape=made.shape, tokenizer=made.tokenizer, provenance=provenance)
    assert camelid.load("alpaca").loaded.path == camelid.load("alpaca:tiny").loaded.path == target
    with pytest.raises(UsageError, match="did you mean 'alpaca'"):
        camelid.load("alpca")


def test_importing_camelid_imports_nothing_heavy() -> None:
    code = "import camelid, sys; print(camelid.load.__name__, sorted({'torch', 'numpy', 'rich'} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["load", "[]"]
