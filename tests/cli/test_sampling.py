"""The options of `camelid generate` that draw, constrain, guess and call, on a small random model."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from camelid.checkpoints import directory
from camelid.cli import main
from camelid.dialogue.published import LLAMA_3_1
from camelid.models.llama import Llama, initialise
from camelid.models.shape import LlamaShape
from camelid.tokenizers.extend import with_controls
from tests.dialogue.test_tools import NAMES
from tests.generate.stand_ins import small_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a random model that has Llama 3.1's template."""
    tokenizer = with_controls(small_tokenizer(), NAMES)
    shape = LlamaShape(2, 32, 4, 2, 8, 48, tokenizer.size, 512)
    made = Llama(shape)
    initialise(made, 1)
    made.head_weight().data.mul_(8)
    path = tmp_path_factory.mktemp("model") / "small"
    directory.save(path, made.state_dict(), shape=shape, tokenizer=tokenizer, template=LLAMA_3_1)
    return str(path)


def asked(capsys: pytest.CaptureFixture[str], model: str, *words: str, code: int = 0) -> Any:
    """The JSON that generate prints, or what it says is wrong."""
    assert main(["generate", model, "--prompt", "Who lives in Arl?", *words, "--json"]) == code
    said = capsys.readouterr()
    return json.loads(said.out) if code == 0 else said.err


def test_guesses_change_nothing_that_is_said(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ("--max-tokens", "40"),
        ("--max-tokens", "25", "--temperature", "1", "--top-p", "0.9", "--seed", "3"),
    ):
        plain = asked(capsys, model, *words)
        assert asked(capsys, model, *words, "--lookup") == plain
        assert asked(capsys, model, *words, "--draft", model) == plain
    assert main(["generate", model, "--prompt", "x", "--max-tokens", "9", "--draft", model]) == 0
    assert re.search(r"\d+ tokens in \d+ passes; \d+ of \d+ guesses were right", capsys.readouterr().err)


def test_answers_match_what_was_asked_of_them(model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("llguidance", reason="llguidance is absent: pip install camelid[constraints]")
    schema, grammar = tmp_path / "schema.json", tmp_path / "grammar.lark"
    schema.write_text(
        '{"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": false}'
    )
    grammar.write_text('start: "yes" | "no" "," why\nwhy: "never" | "not now"')
    assert json.loads(asked(capsys, model, "--json-schema", str(schema))["text"])["a"] in (1, 2)
    assert re.fullmatch("yes|no,(never|not now)", asked(capsys, model, "--grammar", str(grammar))["text"])
    several = asked(capsys, model, "--regex", "[a-c]{2}", "--n", "3", "--temperature", "1")["choices"]
    assert len(several) == 3 and all(re.fullmatch("[a-c]{2}", one["text"]) for one in several)
    assert main(["generate", model, "--prompt", "x", "--regex", "a{90}", "--max-tokens", "5"]) == 0
    assert "before it matched: raise --max-tokens" in capsys.readouterr().err
    told = asked(capsys, model, "--regex", "(a", "--grammar", str(tmp_path / "none"), code=2)
    assert "--regex and --grammar: are given together" in told
    schema.write_text('{"properties": {"a": {"type": "strin"}}}')
    assert f"--json-schema {schema} (/properties/a): Invalid type" in asked(
        capsys, model, "--json-schema", str(schema), code=2
    )


def test_beams_and_top_logprobs_are_told(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--beams", "3", "--n", "2", "--max-tokens", "6", "--top-logprobs", "2", "--prompt-logprobs")
    for one in asked(capsys, model, *words)["choices"]:
        assert len(one["logprobs"]) == len(one["token_ids"]) and all(len(top) == 2 for top in one["top_logprobs"])
        assert len(one["prompt_logprobs"]) == len(one["prompt_ids"])
    told = asked(capsys, model, "--top-logprobs", "2", "--prompt-logprobs", "--max-tokens", "3")
    assert [len(top) for top in told["top_logprobs"]] == [2, 2, 2] and told["prompt_top_logprobs"][0] == []
    assert told["top_logprobs"][0][0]["id"] == told["token_ids"][0], "greedy"
    banned = asked(capsys, model, "--logit-bias", f"{told['token_ids'][0]}=-1000", "--max-tokens", "1")
    assert banned["token_ids"][0] == told["top_logprobs"][0][1]["id"]


def test_functions_are_offered_and_calls_are_told(
    model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("llguidance", reason="llguidance is absent: pip install camelid[constraints]")
    file = tmp_path / "tools.json"
    file.write_text('[{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]')
    call = '{"name": "add", "parameters": {"a": 1}}'
    found = asked(capsys, model, "--tools", str(file), "--regex", re.escape(call))
    assert found["calls"] == [{"name": "add", "arguments": {"a": 1}}] and "wrong" not in found
    strange = asked(capsys, model, "--tools", str(file), "--regex", re.escape(call.replace("add", "sub")))
    assert strange["calls"] == [] and strange["wrong"] == "calls 'sub', which was not offered"
    without = asked(capsys, model, "--max-tokens", "1")
    assert len(found["prompt_ids"]) > len(without["prompt_ids"]) + 40


def test_a_foreign_model_talks_in_the_template_that_its_own_means(
    model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The same folder as another program would have written it, without camelid.json and its manifest."""
    foreign = tmp_path / "foreign"
    shutil.copytree(model, foreign)
    for name in ("camelid.json", "manifest.json"):
        (foreign / name).unlink()
    ours = asked(capsys, model, "--max-tokens", "9")
    assert main(["generate", str(foreign), "--prompt", "Who lives in Arl?", "--max-tokens", "9", "--json"]) == 0
    said = capsys.readouterr()
    assert (
        json.loads(said.out) == ours
        and "template: llama-3.1-instruct, which says what the model's own says" in said.err
    )
    older = asked(capsys, str(foreign), "--max-tokens", "9", "--template", "vicuna-v1.5")
    assert older["prompt_ids"] == asked(capsys, model, "--max-tokens", "9", "--template", "vicuna-v1.1")["prompt_ids"]
    assert older["prompt_ids"] != ours["prompt_ids"]
    (foreign / "chat_template.jinja").write_text("{{ cycler.__init__.__globals__.os.abort() }}")
    assert main(["generate", str(foreign), "--prompt", "x", "--max-tokens", "3", "--template", "none"]) == 0
    assert "template" not in capsys.readouterr().err
    assert main(["generate", str(foreign), "--prompt", "x", "--max-tokens", "3"]) == 0
    assert "the model's chat template cannot be read, and it continues your text" in capsys.readouterr().err
    told = asked(capsys, model, "--template", "vicuna-1.1", code=2)
    assert "--template: there is no template 'vicuna-1.1'; did you mean 'vicuna-v1.1'" in told
    assert "--template: llama is a base, which has no template" in asked(capsys, model, "--template", "llama", code=2)


def test_a_conversation_is_drawn_as_its_options_say(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    from camelid.cli.talking import chat

    first = asked(capsys, model, "--max-tokens", "1")["token_ids"][0]
    options = ("--max-tokens", "5", "--logit-bias", f"{first}=-1000", "--repetition-penalty", "1.2")
    expected = asked(capsys, model, *options)["text"]
    told = CliRunner().invoke(chat, [model, *options], input="Who lives in Arl?\n")
    assert told.stdout == expected + "\n" and expected != asked(capsys, model, "--max-tokens", "5")["text"]
    assert main(["chat", model, "--min-p", "2", "--typical-p", "0"]) == 2
    said = capsys.readouterr().err
    assert "--min-p: found 2" in said and "--typical-p: found 0" in said


def test_everything_that_is_wrong_is_told_at_once(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = asked(capsys, model, "--min-p", "2", "--logit-bias", "x", "--n", "0", "--tools", "none.json", code=2)
    for option in ("--min-p: found 2", "--logit-bias x: is no ID=BIAS", "--n: found 0", "--tools: there is no file"):
        assert option in told
    told = asked(capsys, model, "--n", "3", "--beams", "2", "--temperature", "1", code=2)
    assert "--beams: 2 beside temperature 1" in told and "--n: 3 answers of 2 beams" in told
    assert "guess ahead for one at a time" in asked(capsys, model, "--beams", "2", "--lookup", code=2)
