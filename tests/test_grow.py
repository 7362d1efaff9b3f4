"""What grow finds out before anything costs time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from camelid.cli import main
from camelid.cli.asked import Asked
from camelid.cli.growing import asked_recipe
from camelid.recipe import Finetune, Trees
from camelid.request import Request
from camelid.supply import supplied


def test_records_that_cannot_be_learned_are_refused_before_the_base_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, store = tmp_path / "bad.jsonl", tmp_path / "store"
    data.write_text('{"instruction": "a", "output": "b"}\n{"instruct": "a", "output": "b"}\n')
    assert main(["grow", "alpaca", "--size", "tiny", "--data", str(data), "--store", str(store), "--threads", "1"]) == 1
    told = capsys.readouterr().err
    assert "bad.jsonl" in told and "line 2" in told and "instruct" in told
    assert not list((store / "stages").glob("*")) and not list((store / "runs").glob("*"))
    data.write_text('{"instruction": "a", "output": "b"}\n' + '{"instruction": "a", "input": "c", "output": "b"}\n' * 9)
    assert main(["grow", "vicuna", "--size", "tiny", "--data", str(data), "--store", str(store), "--threads", "1"]) == 1
    told = capsys.readouterr().err
    assert (
        "bad.jsonl, line 2, 3, 4, 5, 6, 7 and 3 more: messages[0].input: has no place in this template; put it" in told
    )
    assert not list((store / "stages").glob("*")), "what the template cannot express is told before the base is trained"


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
