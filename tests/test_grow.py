"""What grow finds out before anything costs time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from camelid.cli import main, told
from camelid.cli.asked import Asked
from camelid.cli.growing import asked_recipe
from camelid.errors import Problem
from camelid.recipe import Finetune, Trees
from camelid.request import Request
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
