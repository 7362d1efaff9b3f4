"""Experiments on what reading on gives: one seed, different recipes, and either verdict can come out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from camelid.claims import try_claim
from camelid.evaluate.claim import Arm, verdict
from camelid.experiments import reading
from camelid.experiments.trial import Tools, seeded
from camelid.journal import Narrator
from camelid.machine import Machine
from camelid.recipe import Recipe
from camelid.store import Store

TRIED = [name for name, found in reading.EXPERIMENTS.items() if not found.untestable]
UNTESTABLE = [name for name, found in reading.EXPERIMENTS.items() if found.untestable]


@pytest.mark.parametrize("name", TRIED)
def test_sides_are_different_recipes_of_one_seed_and_either_verdict_can_come_out(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, seen = reading.EXPERIMENTS[name], []  # type: tuple[Any, list[Recipe]]
    good, bad = (0.1, 0.9) if found.better == "lower" else (0.9, 0.1)

    def planted(tools: Tools, recipe: Recipe, *asked: object) -> float:
        """A measure that finds the first side good and all others bad, and notes what it was asked of."""
        seen.append(recipe)
        return good if len(seen) == 1 else bad

    for measure in ("right", "mean_bits", "density"):
        monkeypatch.setattr(reading, measure, planted)
    for measure in ("score", "later_turns"):
        monkeypatch.setattr(Tools, measure, planted)
    rows: list[tuple[float, ...]] = []
    for seed in range(3):
        seen.clear()
        rows.append(found.arms("desk", seed, Tools(cast(Any, None), cast(Any, None), cast(Any, None))))
        assert len(seen) == 1 + len(found.controls) and all(seen[0] != other for other in seen[1:])
        assert all(side == seeded(side, seed) for side in seen), "every seed is the experiment's"
    arms = [Arm(f"side {place}", tuple(row[place] for row in rows)) for place in range(len(rows[0]))]
    assert verdict(arms[0], arms[1:], better=found.better).word == "held"
    alike = [Arm(arm.name, arms[0].results) for arm in arms]
    assert verdict(alike[0], alike[1:], better=found.better).word == "did not hold"


@pytest.mark.parametrize("name", UNTESTABLE)
def test_what_cannot_be_tested_says_why_and_grows_nothing(name: str, tmp_path: Path) -> None:
    made = try_claim(name, "desk", seeds=3, store=Store(tmp_path), machine=Machine(), narrator=Narrator(quiet=True))
    assert made.verdict == "cannot be tested at this scale" and made.why == reading.EXPERIMENTS[name].untestable
    assert not (tmp_path / "stages").exists()


def test_a_card_runs_whole_at_tiny_size(tmp_path: Path) -> None:
    made = try_claim(
        "meditron", "tiny", seeds=2, store=Store(tmp_path), machine=Machine(threads=1), narrator=Narrator(quiet=True)
    )
    assert len(made.treated.results) == 2 and len(made.controls) == 2
