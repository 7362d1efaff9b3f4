"""Claim cards: what is compared differs in the claimed thing alone; both verdicts come out; planted nulls come out null."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest

from camelid import desk
from camelid.claims import EXPERIMENTS, Tools, seeded, try_claim, tuned_on
from camelid.desk.teachers import Record, kept, taught
from camelid.errors import UsageError
from camelid.evaluate.claim import Arm, verdict
from camelid.journal import Narrator
from camelid.machine import Machine
from camelid.recipe import DeskConversations, DeskTaught, Finetune, Recipe, portions
from camelid.recipes import MEMBERS
from camelid.store import Store

OLD = ("alpaca", "alpaca-lora")
NEW = [name for name in EXPERIMENTS if name not in OLD]


@cache
def records_of(world: str, seed: int, count: int, wrong: float) -> list[Record]:
    return taught(desk.world(world, seed), count, seed=seed, wrong=wrong)


def cleanness(recipe: Recipe) -> float:
    """A stand-in for training: the share of right answers in what a side is tuned on, conversations whole or apart."""
    rights: list[bool] = []
    for data in portions(cast(Finetune, recipe.last).data):
        if isinstance(data, DeskConversations):
            rights += [data.told == "whole"] * data.count * data.turns
        else:
            assert isinstance(data, DeskTaught)
            records = records_of(data.world, data.seed, data.count, data.wrong)
            chosen = records if data.kept is None else kept(records, data.kept, data.by, seed=data.seed)
            rights += [record.right for record in chosen]
    return sum(rights) / len(rights)


class Judged(Tools):
    """Tools that measure the data instead of a model."""

    def score(self, recipe: Recipe, prompt_of: Recipe) -> float:
        return cleanness(recipe)

    later_turns = score


def sides(name: str, size: str = "desk") -> list[Recipe]:
    seen: list[Recipe] = []

    class Watching(Tools):
        def score(self, recipe: Recipe, prompt_of: Recipe) -> float:
            seen.append(recipe)
            return 0.0

        later_turns = score

    EXPERIMENTS[name].arms(cast(Any, size), 3, Watching(cast(Any, None), cast(Any, None), cast(Any, None)))
    return seen


@pytest.mark.parametrize("name", NEW)
def test_the_sides_of_an_experiment_differ_in_data_alone(name: str) -> None:
    treated, *controls = sides(name)
    assert len(controls) == len(EXPERIMENTS[name].controls) and controls
    for control in controls:
        one, two = cast(Finetune, treated.last), cast(Finetune, control.last)
        differing = {f.name for f in fields(one) if getattr(one, f.name) != getattr(two, f.name)}
        assert "data" in differing and differing <= {"data", "batch", "train"}, differing
        assert treated == seeded(treated, 3) and control == seeded(control, 3), "every seed is the experiment's"


@pytest.mark.parametrize("name", NEW)
def test_a_planted_effect_is_held_and_its_absence_is_not(name: str) -> None:
    """Where models learned exactly what their data says, the claim holds; where sides are alike, it does not."""
    found = EXPERIMENTS[name]
    tools = Judged(cast(Any, None), cast(Any, None), cast(Any, None))
    rows = [found.arms("desk", seed, tools) for seed in range(3)]
    names = (found.treated, *found.controls)
    arms = [Arm(each, tuple(row[place] for row in rows)) for place, each in enumerate(names)]
    assert verdict(arms[0], arms[1:], at_least=found.at_least).word == "held"
    alike = [Arm(each, arms[1].results) for each in names]
    assert verdict(alike[0], alike[1:], at_least=found.at_least).word == "did not hold"


def test_a_grader_that_sees_nothing_is_no_better_than_chance() -> None:
    """The planted null of grading: the blind choice of other seeds in place of the grader."""

    def blind(recipe: Recipe) -> Recipe:
        data = cast(Finetune, recipe.last).data
        return tuned_on(recipe, replace(cast(DeskTaught, data), by="random"))

    rows = []
    for seed in range(3):
        one, two = (seeded(blind(MEMBERS["alpagasus"].make("desk")), 2 * seed + turn) for turn in (0, 1))
        rows.append((cleanness(one), cleanness(two)))
    arms = [Arm("blind", tuple(a for a, _ in rows)), Arm("blind again", tuple(b for _, b in rows))]
    assert verdict(arms[0], arms[1:]).word == "did not hold"


def test_equal_steps_are_equal(tmp_path: Path) -> None:
    treated, many, few = (cast(Finetune, side.last) for side in sides("lima"))
    assert many.train.count == -(-240 // 16) * 15 and few.train == treated.train


def test_a_card_runs_whole_at_tiny_size_and_does_not_flatter(tmp_path: Path) -> None:
    """A tiny model learns nothing of the kind, and its card says so."""
    name = "vicuna"
    made = try_claim(
        name, "tiny", seeds=2, store=Store(tmp_path), machine=Machine(threads=1), narrator=Narrator(quiet=True)
    )
    assert made.verdict != "held" and len(made.treated.results) == 2
    assert (tmp_path / "claims" / f"{name}-tiny.json").is_file()


def test_a_member_without_a_card_says_which_have_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no claim card yet"):
        try_claim("belle", "tiny", seeds=2, store=Store(tmp_path), machine=Machine(), narrator=Narrator(quiet=True))
