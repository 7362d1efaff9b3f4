"""Tries a member's central claim in the desk world: the experiment, its controls, several seeds, a verdict.

Each seed has a world, a vocabulary, a base, a tuned model and controls of its own; nothing is shared but the recipe.
The card is kept as JSON in the store, with seeds, date, commit and machine.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar, cast

from camelid.durable import json_bytes, replace_file
from camelid.errors import Problem, UsageError, did_you_mean
from camelid.evaluate.claim import Arm, ClaimCard, card, verdict
from camelid.journal import Narrator
from camelid.machine import Machine, describe
from camelid.recipe import (
    DeskConversations,
    DeskRecords,
    DeskTaught,
    Finetune,
    Pretrain,
    Recipe,
    Sequences,
    Size,
    Steps,
    Tokens,
    portions,
    records_of,
)
from camelid.recipes import MEMBERS
from camelid.request import Request
from camelid.run import Work
from camelid.scoring import desk_score
from camelid.store import Store

T = TypeVar("T")
HELD_OUT_CONVERSATIONS = 60  # ours: 120 later turns, as many as half the held-out instructions


@dataclass(frozen=True)
class Experiment:
    """What is claimed and how it is measured; `arms` grows and scores the treated side first, then the controls."""

    statement: str
    published: str
    experiment: str
    measure: str
    treated: str
    controls: tuple[str, ...]
    at_least: float | None
    arms: Callable[[Size, int, Tools], tuple[float, ...]]


@dataclass(frozen=True)
class Tools:
    """What an experiment may use."""

    store: Store
    machine: Machine
    narrator: Narrator

    def grown(self, recipe: Recipe) -> Path:
        """The model of a recipe, grown now unless the store holds it."""
        work = Work(Request(member="", size="claim"), recipe, self.store, self.machine, self.narrator, 60.0)
        return [work.make(owner, stage) for owner, stage in work.stages()][-1].path

    def score(self, recipe: Recipe, prompt_of: Recipe) -> float:
        """Share of held-out instructions answered rightly, asked in the template of `prompt_of`."""
        last = cast(Finetune, prompt_of.last)
        data = next(each for each in portions(last.data) if isinstance(each, DeskRecords))
        return desk_score(self.grown(recipe), last.prompt, data, self.machine).overall.share

    def later_turns(self, recipe: Recipe, prompt_of: Recipe) -> float:
        """Share of held-out later turns answered rightly, asked in the template of `prompt_of`."""
        from camelid import desk
        from camelid.desk.conversations import conversations
        from camelid.evaluate.turns import later_turns
        from camelid.generate.loaded import load

        last = cast(Finetune, prompt_of.last)
        data = next(each for each in portions(last.data) if isinstance(each, DeskRecords))
        world = desk.world(data.world, data.seed)
        told = conversations(world, "held_out", HELD_OUT_CONVERSATIONS, seed=data.seed)
        loaded = load(self.grown(recipe), device=self.machine.device)
        return later_turns(loaded, told, last.prompt.within(loaded.tokenizer))


def seeded(value: T, seed: int) -> T:
    """The recipe with every seed in it, of worlds and of training alike, set to `seed`."""
    if isinstance(value, tuple):
        return cast(T, tuple(seeded(item, seed) for item in value))
    if not is_dataclass(value) or isinstance(value, type):
        return value
    changed = {
        f.name: seed if f.name == "seed" else seeded(getattr(value, f.name), seed) for f in fields(value) if f.init
    }
    return replace(value, **changed)


def read_more(base: Recipe, tuned: Recipe, tools: Tools) -> Recipe:
    """The control: the base reads plain text for as many more tokens as the tuning saw, at the tuning's own rate."""
    last, stage = cast(Finetune, tuned.last), cast(Pretrain, base.last)
    tokens = tokens_seen(tools.grown(tuned))
    batch = Tokens(min(stage.batch.count, max(stage.length, tokens)))
    steps = max(1, round(tokens / batch.count))
    more = replace(
        stage,
        name="read-more",
        start=base,
        batch=batch,
        train=Tokens(steps * batch.count),
        optim=last.optim,
        schedule=last.schedule,
        seed=stage.seed + 1000,
    )
    return Recipe(title=f"{base.title}, more text", stages=(more,))


def tokens_seen(folder: Path) -> int:
    """Tokens a stage was trained on, from the provenance of its model."""
    told = json.loads((folder / "camelid.json").read_text())
    return int(told["provenance"]["training"]["tokens"])


def _alpaca(size: Size, seed: int, tools: Tools) -> tuple[float, ...]:
    tuned, base = seeded(MEMBERS["alpaca"].make(size), seed), seeded(MEMBERS["llama"].make(size), seed)
    more = read_more(base, tuned, tools)
    return tools.score(tuned, tuned), tools.score(base, tuned), tools.score(more, tuned)


def _alpaca_lora(size: Size, seed: int, tools: Tools) -> tuple[float, ...]:
    adapted, full = seeded(MEMBERS["alpaca-lora"].make(size), seed), seeded(MEMBERS["alpaca"].make(size), seed)
    base = seeded(MEMBERS["llama"].make(size), seed)
    more = read_more(base, adapted, tools)
    whole = max(tools.score(full, full), 1e-9)
    return tools.score(adapted, adapted) / whole, tools.score(base, adapted) / whole, tools.score(more, adapted) / whole


def compared(
    member: str, *controls: Callable[[Recipe], Recipe], by: Literal["score", "later_turns"] = "score"
) -> Callable[[Size, int, Tools], tuple[float, ...]]:
    """Arms that grow a member and changed copies of it, all from one base and scored alike."""

    def arms(size: Size, seed: int, tools: Tools) -> tuple[float, ...]:
        treated = MEMBERS[member].make(size)
        measure = tools.score if by == "score" else tools.later_turns
        sides = [seeded(side, seed) for side in (treated, *(change(treated) for change in controls))]
        return tuple(measure(side, sides[0]) for side in sides)

    return arms


def tuned_on(recipe: Recipe, data: DeskRecords, *, equal_steps: bool = False, batch: int = 1) -> Recipe:
    """The recipe with other data; with `equal_steps`, for as many steps as before; `batch` times as many records a step."""
    last = cast(Finetune, recipe.last)
    changed = replace(last, data=data, batch=Sequences(last.batch.count * batch))
    if equal_steps:
        epochs, records = last.train, records_of(last.data)
        assert records is not None
        steps = epochs.count if isinstance(epochs, Steps) else -(-records // last.batch.count) * epochs.count
        changed = replace(changed, train=Steps(int(steps)))
    return replace(recipe, stages=(*recipe.stages[:-1], changed))


def _taught(recipe: Recipe) -> DeskTaught:
    data = cast(Finetune, recipe.last).data
    assert isinstance(data, DeskTaught)
    return data


def _weaker_teacher(recipe: Recipe) -> Recipe:
    return tuned_on(recipe, replace(_taught(recipe), wrong=0.3))  # facts, gpt-4-llm: a teacher 70% right


def _all_records(recipe: Recipe) -> Recipe:
    return tuned_on(recipe, replace(_taught(recipe), kept=None))


def _blind_choice(recipe: Recipe) -> Recipe:
    return tuned_on(recipe, replace(_taught(recipe), by="random"))


def _many_noisy(recipe: Recipe) -> Recipe:
    data = _taught(recipe)
    return tuned_on(recipe, replace(data, count=data.count * 10, wrong=0.3), equal_steps=True)  # facts, lima: 30% wrong


def _few_noisy(recipe: Recipe) -> Recipe:
    return tuned_on(recipe, replace(_taught(recipe), wrong=0.3))


def _apart(recipe: Recipe) -> Recipe:
    data = cast(Finetune, recipe.last).data
    assert isinstance(data, DeskConversations)
    return tuned_on(recipe, replace(data, told="apart"), batch=data.turns)


def _koala_all(recipe: Recipe) -> Recipe:
    size = cast(Size, recipe.title.rpartition(" ")[2])
    return MEMBERS["koala-all"].make(size)


RIGHT = "share of held-out instructions answered rightly"
LATER = "share of held-out later turns answered rightly"
TOLD_APART = ("the same exchanges, each a record of its own, as many answers a step",)

EXPERIMENTS: dict[str, Experiment] = {
    "alpaca": Experiment(
        statement="A few thousand records by a stronger teacher turn a next-token model into an instruction follower.",
        published="90 wins against text-davinci-003's 89 in blind pairs (Taori et al. 2023, preliminary evaluation)",
        experiment="A million-parameter base reads the desk world, then the teacher's records three times; held-out "
        "instructions ask for facts that only pre-training told, in forms that only tuning showed. A program checks the answers.",
        measure="share of held-out instructions answered rightly",
        treated="Alpaca",
        controls=("the base, same prompt", "the base after as many more tokens of plain text"),
        at_least=0.7,  # facts, official.yaml, alpaca: desk_scale_claim asks for >= 70%
        arms=_alpaca,
    ),
    "alpaca-lora": Experiment(
        statement="Low-rank adapters on a frozen base do what tuning every weight does.",
        published="no number was published; the repository calls the outputs comparable to Stanford Alpaca's",
        experiment="The same base, records and prompt as the desk Alpaca; adapters only. Full tuning is the yardstick.",
        measure="share of held-out instructions answered rightly, divided by that of full tuning",
        treated="Alpaca-LoRA",
        controls=("the base, same prompt", "the base after as many more tokens of plain text"),
        at_least=0.95,  # facts, official.yaml, alpaca-lora: desk_scale_claim asks for >= 95% of full tuning's score
        arms=_alpaca_lora,
    ),
    "gpt-4-llm": Experiment(
        statement="With the instructions fixed, a better teacher gives a better student.",
        published="54.12% against Alpaca's 19.74% of 252 tasks found more helpful (Peng et al. 2023, repository)",
        experiment="The same instructions, base and steps; only the share of wrong answers differs, 2% against 30%.",
        measure=RIGHT,
        treated="taught by the better teacher",
        controls=("taught by the weaker teacher",),
        at_least=None,
        arms=compared("gpt-4-llm", _weaker_teacher),
    ),
    "alpagasus": Experiment(
        statement="The sixth of the records that a grader likes best teaches more than all, and more than a blind sixth.",
        published="9,229 of 52,002 records beat Alpaca on four test sets; a random 9,229 do not (Chen et al. 2023)",
        experiment="A teacher wrong in 60% of its answers; a grader that errs on one in twenty chooses 17.75% of them.",
        measure=RIGHT,
        treated="graded records",
        controls=("all records", "as many drawn blindly"),
        at_least=None,
        arms=compared("alpagasus", _all_records, _blind_choice),
    ),
    "lima": Experiment(
        statement="A few clean examples align a model better than many noisy ones.",
        published="equal or better than GPT-4 in 43% of cases; beats Alpaca-65B with 52 times less data (Zhou et al. 2023)",
        experiment="240 right records against 2,400 of which 30% are wrong, equal steps, and against 240 of that kind.",
        measure=RIGHT,
        treated="few and clean",
        controls=("ten times as many, noisy, equal steps", "as few, noisy"),
        at_least=None,
        arms=compared("lima", _many_noisy, _few_noisy),
    ),
    "koala-distill": Experiment(
        statement="Distilled conversations alone do as well as the same with six times as much noisy open data.",
        published="Koala-Distill slightly better than Koala-All (Geng et al. 2023, blog or repository); no number",
        experiment="1,500 clean records against the same and 2,400 of which 30% are wrong, two epochs each.",
        measure=RIGHT,
        treated="Koala-Distill",
        controls=("Koala-All",),
        at_least=None,
        arms=compared("koala-distill", _koala_all),
    ),
    "vicuna": Experiment(
        statement="Whole conversations teach what the same exchanges told one by one do not: to use what was said before.",
        published="Vicuna-7B: MMLU 47.1 on all turns, 44.1 on single turns; MT-bench 6.00, 6.04 (Zheng et al. 2023, Table 8)",
        experiment="The same exchanges whole and apart, equal steps and answers a step; later turns name no subject.",
        measure=LATER,
        treated="whole conversations",
        controls=TOLD_APART,
        at_least=0.2,  # facts, official.yaml, vicuna: at least 20 points
        arms=compared("vicuna", _apart, by="later_turns"),
    ),
    "ultralm": Experiment(
        statement="Simulated conversations of several turns keep later turns consistent where single turns do not.",
        published="9.02 against Vicuna-13B's 8.96, scored by GPT-4 (Ding et al. 2023, sections 3-5)",
        experiment="The same exchanges whole and apart, equal steps and answers a step, in UltraLM's template.",
        measure=LATER,
        treated="whole conversations",
        controls=TOLD_APART,
        at_least=None,
        arms=compared("ultralm", _apart, by="later_turns"),
    ),
}


def try_claim(member: str, size: str, *, seeds: int, store: Store, machine: Machine, narrator: Narrator) -> ClaimCard:
    """The card of one member, every arm grown and scored for every seed. Raises UsageError for a member without one."""
    found = EXPERIMENTS.get(member)
    if found is None:
        raise UsageError([Problem(f"member {member!r}", "has no claim card yet", did_you_mean(member, EXPERIMENTS))])
    tools = Tools(store, machine, narrator)
    results: list[tuple[float, ...]] = []
    for seed in range(seeds):
        narrator.say(f"[bold]{member}: seed {seed + 1} of {seeds}[/]")
        results.append(found.arms(cast(Size, size), seed, tools))
        narrator.say(
            f"seed {seed}: " + ", ".join(f"{n} {v:.3f}" for n, v in zip(_names(found), results[-1], strict=True))
        )
    return _carded(found, member, size, results, store)


def _names(found: Experiment) -> tuple[str, ...]:
    return (found.treated, *found.controls)


def _carded(found: Experiment, member: str, size: str, results: Sequence[tuple[float, ...]], store: Store) -> ClaimCard:
    arms = [Arm(name, tuple(row[i] for row in results)) for i, name in enumerate(_names(found))]
    made = card(
        verdict(arms[0], arms[1:], at_least=found.at_least),
        statement=found.statement,
        published=found.published,
        experiment=found.experiment,
        measure=found.measure,
        seeds=tuple(range(len(results))),
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
