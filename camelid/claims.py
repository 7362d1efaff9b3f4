"""Tries a member's central claim in the desk world: the experiment, its controls, several seeds, a verdict.

Each seed has a world, a vocabulary, a base, a tuned model and controls of its own; nothing is shared but the recipe.
The card is kept as JSON in the store, with seeds, date, commit and machine.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from camelid.durable import json_bytes, read_json, replace_file
from camelid.errors import Problem, UsageError, did_you_mean
from camelid.evaluate.claim import Arm, ClaimCard, Verdict, card, verdict
from camelid.experiments import EXPERIMENTS
from camelid.experiments.trial import Experiment, Tools
from camelid.journal import Narrator
from camelid.machine import Machine, describe
from camelid.recipe import FIRST_SEED, Size
from camelid.store import Store

CARD_BYTES = 1 << 20


def try_claim(
    member: str,
    size: str,
    *,
    seeds: int,
    store: Store,
    machine: Machine,
    narrator: Narrator,
    first: int = FIRST_SEED,
) -> ClaimCard:
    """The card of one member, every arm grown and scored for so many seeds from `first` on; kept in the store.

    Raises UsageError for a member without one.
    """
    found = EXPERIMENTS.get(member)
    if found is None:
        raise UsageError([Problem(f"member {member!r}", "has no claim card yet", did_you_mean(member, EXPERIMENTS))])
    tools = Tools(store, machine, narrator)
    tried = () if found.untestable else tuple(range(first, first + seeds))
    results: list[tuple[float, ...]] = []
    for turn, seed in enumerate(tried, 1):
        narrator.say(f"[bold]{member}: seed {seed}, {turn} of {seeds}[/]")
        results.append(found.arms(cast(Size, size), seed, tools))
        narrator.say(
            f"seed {seed}: " + ", ".join(f"{n} {v:.3f}" for n, v in zip(_names(found), results[-1], strict=True))
        )
    return _carded(found, member, size, tried, results, store)


def cards(folder: Path) -> dict[str, ClaimCard]:
    """Member -> its desk card, of those that lie in a folder. Raises BadFile for one that is damaged."""
    found = {}
    for path in sorted(folder.glob("*-desk.json")):
        found[path.name.removesuffix("-desk.json")] = ClaimCard.of(read_json(path, max_bytes=CARD_BYTES), path)
    return found


def judged(found: Experiment, arms: Sequence[Arm]) -> Verdict:
    """What an experiment's results say."""
    return verdict(arms[0], arms[1:], at_least=found.at_least, better=found.better, untestable=found.untestable)


def _names(found: Experiment) -> tuple[str, ...]:
    return (found.treated, *found.controls)


def _carded(
    found: Experiment,
    member: str,
    size: str,
    seeds: tuple[int, ...],
    results: Sequence[tuple[float, ...]],
    store: Store,
) -> ClaimCard:
    arms = [Arm(name, tuple(row[i] for row in results)) for i, name in enumerate(_names(found))]
    made = card(
        judged(found, arms),
        statement=found.statement,
        published=found.published,
        experiment=found.experiment,
        measure=found.measure,
        seeds=seeds,
        treated=arms[0],
        controls=tuple(arms[1:]),
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        commit=_commit(),
        machine=describe(),
    )
    folder = store.root / "claims"
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / f"{member}-{size}.json", json_bytes(made.data()))
    return made


def _commit() -> str:
    here = Path(__file__).resolve().parent
    found = subprocess.run(["git", "-C", str(here), "describe", "--always", "--dirty"], capture_output=True, text=True)
    return found.stdout.strip() or "not a git checkout"


def show_cards(found: Mapping[str, ClaimCard]) -> None:
    """Every member's verdict as a table on standard output; members whose card was not run yet below it."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if found:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for name in ("member", "verdict", "claimed side", "controls", "seeds", "date"):
            table.add_column(name)
        for member, card in found.items():
            means = [_mean(arm) for arm in (card.treated, *card.controls)]
            shown = ", ".join(map(str, card.seeds)) or "none"
            table.add_row(member, card.verdict, means[0], "  ".join(means[1:]), shown, card.date)
        console.print(table)
    left = [member for member in EXPERIMENTS if member not in found]
    if left:
        console.print(f"not run yet: {', '.join(left)}. Try one: camelid claims {left[0]}")


def _mean(arm: Arm) -> str:
    return f"{sum(arm.results) / len(arm.results):.3f}" if arm.results else "none"


def show_card(made: ClaimCard) -> None:
    """The card on standard output."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"[bold]{made.statement}[/]\npublished: {made.published}\nexperiment: {made.experiment}\n")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(made.measure)
    for seed in made.seeds:
        table.add_column(f"seed {seed}", justify="right")
    for arm in (made.treated, *made.controls):
        table.add_row(arm.name, *(f"{value:.3f}" for value in arm.results))
    console.print(table)
    console.print(
        f"\nverdict: [bold]{made.verdict}[/]. {made.why}\n[dim]{made.date}, commit {made.commit}, {made.machine}[/]"
    )
