"""Marks name what a stage means, and nothing else."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from camelid import desk
from camelid.journal import Narrator
from camelid.machine import Machine
from camelid.models.shape import LlamaShape
from camelid.recipe import DeskInstructions, Finetune, Pretrain, Recipe
from camelid.recipes import MEMBERS
from camelid.request import Request
from camelid.run import DESK, Work
from camelid.store import Store

SHAPE = LlamaShape(layers=1, width=16, heads=2, kv_heads=1, head_width=8, hidden=24, vocab=37, context=32)
GOLDEN = Path(__file__).resolve().parent / "golden" / "desk.txt"


def marks(recipe: Recipe, store: Path, machine: Machine = Machine()) -> dict[str, str]:  # noqa: B008 - frozen
    work = Work(Request("alpaca", "tiny"), recipe, Store(store), machine, Narrator(quiet=True), 60.0)
    return {stage.name: work.mark(stage) for _, stage in work.stages()}


def test_the_desk_world_tells_what_its_version_says() -> None:
    """If this fails, the world tells other texts: raise DESK in run.py, and write the digest anew (CAMELID_GOLDEN=write).

    Otherwise stages grown from the old texts would be taken for stages of the new ones.
    """
    told = hashlib.sha256()
    for size in ("tiny", "small"):
        world = desk.world(size, 0)
        for source in desk.sources(world).values():
            for document in source.documents(bytes=20_000):
                told.update(document.text.encode() + b"\0")
        for split in ("train", "held_out"):
            for item in desk.instructions(world, split, 100):
                told.update(repr((item.instruction, item.input, item.output)).encode())
    line = f"{DESK} {told.hexdigest()}\n"
    if os.environ.get("CAMELID_GOLDEN") == "write":
        GOLDEN.write_text(line)
    assert GOLDEN.read_text() == line


def test_a_machine_changes_no_mark_and_a_number_changes_its_own_stage_alone(tmp_path: Path) -> None:
    recipe = MEMBERS["alpaca"].make("tiny")
    before = marks(recipe, tmp_path)
    assert before == marks(recipe, tmp_path / "elsewhere", Machine(device="cuda", dtype="bfloat16", threads=7))
    last = recipe.last
    assert isinstance(last, Finetune) and isinstance(last.data, DeskInstructions)
    after = marks(replace(recipe, stages=(replace(last, length=last.length - 1),)), tmp_path)
    assert {name for name in before if before[name] != after[name]} == {last.name}


def test_a_change_of_the_parent_changes_the_mark_of_every_descendant(tmp_path: Path) -> None:
    recipe = MEMBERS["alpaca"].make("tiny")
    last = recipe.last
    assert isinstance(last, Finetune) and isinstance(last.start, Recipe)
    base = last.start.last
    assert isinstance(base, Pretrain)
    parent = replace(last.start, stages=(*last.start.stages[:-1], replace(base, seed=1)))
    before, after = marks(recipe, tmp_path), marks(replace(recipe, stages=(replace(last, start=parent),)), tmp_path)
    assert before["pieces"] == after["pieces"]
    assert before["pretrained"] != after["pretrained"] and before["tuned"] != after["tuned"]


def test_alpaca_and_alpaca_lora_share_their_base(tmp_path: Path) -> None:
    one, two = (marks(MEMBERS[name].make("desk"), tmp_path) for name in ("alpaca", "alpaca-lora"))
    assert one["pretrained"] == two["pretrained"] and one["tuned"] != two["adapted"]


def test_the_machines_share_is_that_of_what_an_adapter_trains_in_every_kind_of_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr("camelid.models.count.training_flops", lambda *_, lora, **__: asked.append(lora) or 1.0)
    monkeypatch.setattr("camelid.train.products.rate", lambda machine: 1.0)
    kinds = set()
    for member in ("chinese-llama2", "alpaca-lora", "alpaca"):
        recipe = MEMBERS[member].make("desk")
        work = Work(Request(member, "desk"), recipe, Store(tmp_path), Machine(threads=1), Narrator(quiet=True), 60.0)
        for _, stage in work.stages():
            if isinstance(stage, Pretrain | Finetune):
                with work.training(recipe, stage, SHAPE, 1.0):
                    kinds.add((type(stage), stage.adapter is None))
                assert asked.pop() == stage.adapter, stage.name
    assert kinds >= {(Pretrain, False), (Finetune, False), (Finetune, True)}
