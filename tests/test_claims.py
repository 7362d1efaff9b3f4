"""Claim cards: what is compared differs in the claimed thing alone; both verdicts come out; planted nulls come out null."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest

from camelid import desk
from camelid.claims import cards, judged, try_claim
from camelid.desk.teachers import Record, kept, ranked, taught, threads
from camelid.errors import UsageError
from camelid.evaluate.claim import Arm, verdict
from camelid.experiments import EXPERIMENTS
from camelid.experiments.trial import Tools, seeded, tuned_on
from camelid.journal import Narrator
from camelid.machine import Machine
from camelid.recipe import (
    DeskConversations,
    DeskInstructions,
    DeskTaught,
    DeskTrees,
    Finetune,
    Pretrain,
    Recipe,
    portions,
)
from camelid.recipes import MEMBERS
from camelid.store import Store

BY_DATA = (
    "gpt-4-llm",
    "alpagasus",
    "lima",
    "koala-distill",
    "koala-all",
    "openassistant",
    "vicuna",
    "ultralm",
    "baize",
    "guanaco-dataset",
)
BASES = ("llama", "llama-2", "llama-3", "llama-3.1", "llama-3.2")


@cache
def records_of(world: str, seed: int, count: int, wrong: float) -> list[Record]:
    return taught(desk.world(world, seed), count, seed=seed, wrong=wrong)


def cleanness(recipe: Recipe) -> float:
    """A stand-in for training: the share of right answers in what a side is tuned on, conversations whole or apart.

    A wrong answer that is marked as one does half the harm.
    """
    rights: list[float] = []
    for data in portions(cast(Finetune, recipe.last).data):
        if isinstance(data, DeskConversations):
            rights += [data.told != "apart"] * data.count * data.turns
        elif isinstance(data, DeskInstructions):
            rights += [1.0] * data.count
        elif isinstance(data, DeskTrees):
            told = threads(
                desk.world(data.world, data.seed), data.count, data.replies, seed=data.seed, wrong=data.wrong
            )
            rights += [r.right for replies in told for r in ranked(replies, data.best or data.replies, data.by)]
        else:
            assert isinstance(data, DeskTaught)
            records = records_of(data.world, data.seed, data.count, data.wrong)
            chosen = records if data.kept is None else kept(records, data.kept, data.by, seed=data.seed)
            rights += [1.0 if record.right else 0.5 * data.marked for record in chosen]
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


@pytest.mark.parametrize("name", BY_DATA)
def test_the_sides_of_an_experiment_differ_in_data_alone(name: str) -> None:
    treated, *controls = sides(name)
    assert len(controls) == len(EXPERIMENTS[name].controls) and controls
    for control in controls:
        one, two = cast(Finetune, treated.last), cast(Finetune, control.last)
        differing = {f.name for f in fields(one) if getattr(one, f.name) != getattr(two, f.name)}
        marks = {"prompt"} if one.prompt == replace(two.prompt, marks=(), markers=one.prompt.markers) else set()
        assert "data" in differing and differing <= {"data", "batch", "train"} | marks, differing
        assert treated == seeded(treated, 3) and control == seeded(control, 3), "every seed is the experiment's"


@pytest.mark.parametrize("name", BY_DATA)
def test_a_planted_effect_is_held_and_its_absence_is_not(name: str) -> None:
    """Where models learned exactly what their data says, the claim holds; where sides are alike, it does not."""
    found = EXPERIMENTS[name]
    tools = Judged(cast(Any, None), cast(Any, None), cast(Any, None))
    rows = [found.arms("desk", seed, tools) for seed in range(3)]
    names = (found.treated, *found.controls)
    arms = [Arm(each, tuple(row[place] for row in rows)) for place, each in enumerate(names)]
    assert judged(found, arms).word == "held"
    alike = [Arm(each, arms[1].results) for each in names]
    assert judged(found, alike).word == "did not hold"


def test_belle_and_its_controls_differ_in_what_is_trained_alone() -> None:
    treated, *controls = (cast(Finetune, side.last) for side in sides("belle"))
    for control in controls:
        assert {f.name for f in fields(treated) if getattr(treated, f.name) != getattr(control, f.name)} <= {
            "adapter",
            "optim",
        }
    assert all(control.adapter for control in controls) and treated.adapter is None


def test_knowledge_and_general_instructions_share_no_family() -> None:
    treated, general, base = sides("huatuo")
    one, two = (cast(DeskInstructions, cast(Finetune, side.last).data) for side in (treated, general))
    assert one.count == two.count and not set(one.families) & set(two.families)
    assert isinstance(base.last, Pretrain)


def test_a_second_tuning_differs_from_its_control_in_the_teacher() -> None:
    again, more, before = sides("gpt4-x-alpaca")
    one, two = cast(Finetune, again.last), cast(Finetune, more.last)
    assert one.start == two.start == before
    assert replace(cast(DeskTaught, one.data), wrong=0.25) == two.data


@pytest.mark.parametrize("name", BASES)
def test_the_trial_of_a_base_compares_what_it_says(name: str) -> None:
    seen: list[Pretrain] = []

    class Reading(Tools):
        def bits(self, recipe: Recipe, *, beyond: int = 0) -> float:
            seen.append(cast(Pretrain, recipe.last))
            return 1.0 + 0.1 * len(seen)

    found = EXPERIMENTS[name]
    arms = found.arms("desk", 3, Reading(cast(Any, None), cast(Any, None), cast(Any, None)))
    assert len(arms) == 1 + len(found.controls) and found.better == "lower"
    work = [stage.train.count * stage.shape.parameters() for stage in seen]
    if name == "llama":
        small, large, few = seen
        assert small.shape == few.shape and small.train.count == 4 * large.train.count == 4 * few.train.count
        assert 3 * small.shape.parameters() < large.shape.parameters()
    elif name == "llama-3":
        assert seen[0].shape.vocab > seen[1].shape.vocab and abs(work[0] / work[1] - 1) < 0.01
    elif name == "llama-3.2":
        taught, fresh, alone = seen
        assert taught.teacher and taught.cut and not (fresh.teacher or fresh.cut or fresh.start or alone.teacher)
        assert taught.train == fresh.train == alone.train and taught.shape == fresh.shape == alone.shape
    else:
        assert max(work) / min(work) < 1.01


def test_a_claim_that_cannot_be_tested_grows_nothing_and_says_why(tmp_path: Path) -> None:
    made = try_claim(
        "expertllama", "tiny", seeds=3, store=Store(tmp_path), machine=Machine(), narrator=Narrator(quiet=True)
    )
    assert made.verdict == "cannot be tested at this scale" and "program" in made.why and made.seeds == ()
    assert not (tmp_path / "stages").exists()


def test_cards_are_read_back_as_they_were_and_damage_is_named(tmp_path: Path) -> None:
    from camelid.errors import BadFile

    made = try_claim(
        "expertllama", "desk", seeds=3, store=Store(tmp_path), machine=Machine(), narrator=Narrator(quiet=True)
    )
    assert cards(tmp_path / "claims") == {"expertllama": made}
    (tmp_path / "claims" / "alpaca-desk.json").write_text('{"verdict": "held"}')
    with pytest.raises(BadFile, match=r"alpaca-desk\.json \(card\)"):
        cards(tmp_path / "claims")


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
        try_claim("vicunha", "tiny", seeds=2, store=Store(tmp_path), machine=Machine(), narrator=Narrator(quiet=True))
