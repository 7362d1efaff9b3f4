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
UNTESTABLE = [name for name, found in EXPERIMENTS.items() if found.untestable]
OTHER = (  # their sides differ in more than the records of a tuning: in what is read, how, and with which vocabulary
    "vicuna-v1.5-16k",
    "meditron",
    "metamath",
    "camel",
    "knowlm",
    "alpaca-cot",
    "chinese-llama2",
    "gogpt",
    "llama2-chinese",
    "chinese-llama-2",
    "atom",
    "openbuddy",
    "yulan-chat",
)
NEW = [name for name in EXPERIMENTS if name not in (*OLD, *OTHER, *UNTESTABLE)]


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


class Planted(Tools):
    """Tools that give each side in turn the result that is planted, and note which recipe it was."""

    def __init__(self, results: list[float]) -> None:
        super().__init__(cast(Any, None), cast(Any, None), cast(Any, None))
        self.__dict__.update(results=results, seen=[])

    def score(self, recipe: Recipe, *asked: Any) -> float:
        self.seen.append(recipe)  # type: ignore[attr-defined]
        return float(self.results[len(self.seen) - 1])  # type: ignore[attr-defined]

    later_turns = right = bits = density = score


@pytest.mark.parametrize("name", OTHER)
def test_sides_are_different_recipes_of_one_seed_and_either_verdict_can_come_out(name: str) -> None:
    found = EXPERIMENTS[name]
    sides = 1 + len(found.controls)
    good, bad = (0.1, 0.9) if found.better == "lower" else (0.9, 0.1)
    rows: list[tuple[float, ...]] = []
    for seed in range(3):
        tools = Planted([good] + [bad] * len(found.controls))
        rows.append(found.arms("desk", seed, tools))
        seen: list[Recipe] = tools.seen  # type: ignore[attr-defined]
        assert len(seen) == sides and all(seen[0] != other for other in seen[1:])
        assert all(side == seeded(side, seed) for side in seen), "every seed is the experiment's"
    arms = [Arm(f"side {place}", tuple(row[place] for row in rows)) for place in range(sides)]
    assert verdict(arms[0], arms[1:], better=found.better).word == "held"
    alike = [Arm(arm.name, arms[0].results) for arm in arms]
    assert verdict(alike[0], alike[1:], better=found.better).word == "did not hold"


@pytest.mark.parametrize("name", UNTESTABLE)
def test_what_cannot_be_tested_says_why_and_runs_nothing(name: str, tmp_path: Path) -> None:
    made = try_claim(name, "desk", seeds=3, store=Store(tmp_path), machine=Machine(), narrator=Narrator(quiet=True))
    assert made.verdict == "cannot be tested at this scale" and made.why == EXPERIMENTS[name].untestable
    assert not (tmp_path / "stages").exists()


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


@pytest.mark.parametrize("name", ["vicuna", "meditron"])
def test_a_card_runs_whole_at_tiny_size_and_does_not_flatter(name: str, tmp_path: Path) -> None:
    """A tiny model learns nothing of the kind, and its card says so."""
    made = try_claim(
        name, "tiny", seeds=2, store=Store(tmp_path), machine=Machine(threads=1), narrator=Narrator(quiet=True)
    )
    assert made.verdict != "held" and len(made.treated.results) == 2
    assert (tmp_path / "claims" / f"{name}-tiny.json").is_file()


def test_a_member_without_a_card_says_which_have_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no claim card yet"):
        try_claim("belle", "tiny", seeds=2, store=Store(tmp_path), machine=Machine(), narrator=Narrator(quiet=True))
