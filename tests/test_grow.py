"""What grow finds out before anything costs time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from camelid.cli import main, told
from camelid.cli.asked import Asked
from camelid.cli.growing import asked_recipe
from camelid.errors import Problem
from camelid.grow import grow
from camelid.journal import Narrator
from camelid.machine import Machine
from camelid.recipe import Finetune, Trees
from camelid.recipes import MEMBERS
from camelid.request import Request
from camelid.run import Outcome
from camelid.store import Store
from camelid.summary import tell
from camelid.supply import supplied


def test_records_that_cannot_be_learned_are_refused_before_the_base_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, store = tmp_path / "bad.jsonl", tmp_path / "store"
    data.write_text('{"instruction": "a", "output": "b"}\n{"instruct": "a", "output": "b"}\n')
    assert main(["grow", "alpaca", "--size", "tiny", "--data", str(data), "--store", str(store), "--threads", "1"]) == 1
    said = capsys.readouterr().err
    assert "bad.jsonl" in said and "line 2" in said and "instruct" in said
    assert not list((store / "stages").glob("*")) and not list((store / "runs").glob("*"))
    data.write_text('{"instruction": "a", "output": "b"}\n' + '{"instruction": "a", "input": "c", "output": "b"}\n' * 9)
    assert main(["grow", "vicuna", "--size", "tiny", "--data", str(data), "--store", str(store), "--threads", "1"]) == 1
    said = capsys.readouterr().err
    assert (
        "bad.jsonl, line 2, 3, 4, 5, 6, 7 and 3 more: messages[0].input: has no place in this template; put it" in said
    )
    assert not list((store / "stages").glob("*")), "what the template cannot express is told before the base is trained"


def test_texts_that_are_none_are_refused_before_the_base_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, good, store = tmp_path / "bad.jsonl", tmp_path / "good.jsonl", tmp_path / "store"
    good.write_text('{"text": "One."}\n')
    data.write_text('{"instruction": "a", "output": "b"}\n')
    words = ["grow", "meditron", "--size", "tiny", "--store", str(store), "--threads", "1"]
    assert main([*words, "--data", f"read=50%:{good}", "--data", f"read=50%:{data}"]) == 1
    assert "bad.jsonl" in capsys.readouterr().err and not list((store / "stages").glob("*"))


def test_rows_of_which_the_same_is_to_be_said_share_a_line() -> None:
    rows = [Problem(f"a.json, row {number}", "is empty" if number % 2 else "is 3") for number in range(1, 21)]
    lines = told([Problem("a.json", "20 rows"), *rows, Problem("a.json", "and 5 more")])
    assert lines == [
        "a.json: 20 rows",
        "a.json, row 1, 3, 5, 7, 9, 11 and 4 more: is empty",
        "a.json, row 2, 4, 6, 8, 10, 12 and 4 more: is 3",
        "a.json: and 5 more",
    ]
    assert told([Problem("a.json, row 7", "is 3", "mend it")]) == ["a.json, row 7: is 3; mend it"]


def test_trees_are_known_by_their_first_row_and_read_as_trees(tmp_path: Path) -> None:
    reply = {"text": "The Nile.", "role": "assistant", "lang": "en", "replies": []}
    root = {"text": "Name a river.", "role": "prompter", "lang": "en", "replies": [reply, reply | {"text": "Elbe."}]}
    path = tmp_path / "trees.jsonl"
    path.write_text(json.dumps({"message_tree_id": "x", "tree_state": "ready_for_export", "prompt": root}) + "\n")
    asked = Asked()
    recipe = asked_recipe(asked, Request("openassistant", "tiny", data=str(path)))
    asked.settle()
    assert recipe is not None and isinstance(recipe.last, Finetune) and recipe.last.data == Trees(path=str(path))
    assert len(supplied(recipe.last.data, recipe.last.prompt, "tuned", [])) == 2
    recipe = asked_recipe(asked, Request("openassistant", "tiny", data=str(path), settings=("tuned.data.best=1",)))
    assert recipe is not None and isinstance(recipe.last, Finetune) and recipe.last.data == Trees(str(path), best=1)


def test_a_member_beside_shares_the_base_and_all_are_shown_and_carried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)

    def grown(settings: str = "q8_0") -> Outcome:
        lines = [(Request(name, "tiny"), MEMBERS[name].make("tiny")) for name in ("alpaca", "alpaca-lora")]
        machine, narrator = Machine(threads=1), Narrator(quiet=True)
        found = grow(*lines[0], store=store, machine=machine, narrator=narrator, beside=lines[1:], carry=settings)
        assert found is not None
        return found

    first = grown()
    assert [(made.title, made.fresh) for made in first.beside] == [("Alpaca-LoRA tiny", True)], "its base is the line's"
    titles = ["LLaMA tiny", "Alpaca tiny", "Alpaca-LoRA tiny", "Alpaca tiny, q8_0 file"]
    assert [title for title, _ in first.scores] == titles
    shown = first.page.read_text()
    assert all(f"<th>{title}</th>" in shown for title in titles) and shown.count("<b>Alpaca-LoRA tiny</b>") == 1
    assert first.model == first.made[-1].path and first.model.name.startswith("tuned-")
    assert first.carried is not None and first.carried.is_file()
    assert ("with its file", f"camelid chat {first.carried}") in first.commands
    again = grown()
    assert not any(made.fresh for made in (*again.made, *again.beside)) and again.tokens == 0
    assert again.scores == first.scores and again.carried == first.carried
    tell(again, store)
    told = capsys.readouterr().out
    assert all(len(line) <= 80 for line in told.splitlines() if "%" in line), "the table fits the narrowest terminal"
    assert main(["verify", str(first.carried)]) == 0, "the file carries its model's certificate"
