"""Grows a member: every stage that is not in the store, then scores, then the page."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from camelid.data.corpus import check_expressed
from camelid.data.source import documents
from camelid.errors import ProblemList
from camelid.fit import check_fit, start_shape
from camelid.journal import Narrator
from camelid.machine import Machine
from camelid.plan.plan import shape_of
from camelid.ranks import joined
from camelid.recipe import AnyStage, Finetune, Pretrain, Recipe, Table, Trees, portions
from camelid.request import Request
from camelid.run import Outcome, Work
from camelid.scoring import commands, score_line, write_page
from camelid.store import Store
from camelid.supply import supplied

if TYPE_CHECKING:
    from camelid.train.scalars import Log


def grow(
    request: Request,
    recipe: Recipe,
    *,
    store: Store,
    machine: Machine,
    narrator: Narrator,
    seconds: float = 60.0,
    anyway: bool = False,
    spikes: int | None = None,
    log: Log | None = None,
    beside: Sequence[tuple[Request, Recipe]] = (),
    carry: str | None = None,
) -> Outcome | None:
    """Make every stage of the recipe and of its ancestors, score what can be scored, and write the report.

    Members `beside` it are grown too, from what they share with it, and shown with it. With `carry` the model is also
    written as a GGUF file of that type, which is scored as it lies there.

    With `spikes` a run goes back where its loss leaps, up to so many times (train/spikes.py). With
    `log` the scalars of each step go to TensorBoard or trackio too (train/scalars.py).

    Under torchrun all ranks train together and rank 0 does the rest; what comes back is None on the others.

    Raises UsageError before anything is made where the plan of a stage does not fit the machine's memory, unless it is
    to be tried `anyway`.
    """
    with joined(machine.device) as ranks:
        narrator = narrator if ranks.leads else Narrator(quiet=True, warns=False)
        work = Work(request, recipe, store, machine, narrator, seconds, ranks, spikes, log)
        return _grow(work, [work.other(*each) for each in beside], anyway, carry)


def _grow(work: Work, others: Sequence[Work], anyway: bool, carry: str | None) -> Outcome | None:
    began, store = time.monotonic(), work.store
    store.root.mkdir(parents=True, exist_ok=True)
    line = {work.mark(stage): (work, owner, stage) for owner, stage in work.stages()}
    further = {other.mark(stage): (other, owner, stage) for other in others for owner, stage in other.stages()}
    further = {mark: each for mark, each in further.items() if mark not in line}
    missing = [(owner, stage) for each, owner, stage in (*line.values(), *further.values()) if not each.is_made(stage)]
    check_ranks(missing, work.machine)
    check_fit(missing, work.machine, work.narrator, anyway)
    for _, stage in missing[1:]:  # the first reads its own at once
        check_records(stage)
    made = tuple(each.make(owner, stage) for each, owner, stage in line.values())
    beside = tuple(each.make(owner, stage) for each, owner, stage in further.values())
    if not work.ranks.leads:
        return None
    carried = None if carry is None else carry_over(work, made[-1].path, carry)
    scores, samples = score_line(work, made, beside, carried)
    told = commands(work, made, beside, carried)
    page, tokens = write_page(work, made, beside, scores, samples, told, time.monotonic() - began)
    spent = time.monotonic() - began
    return Outcome(work.request, work.recipe, made, beside, carried, scores, samples, told, page, tokens, spent)


def carry_over(work: Work, model: Path, type: str) -> Path:
    """The model as a GGUF file of this type among the store's exports, written unless it is there."""
    from camelid.checkpoints.convert import convert

    target = work.store.root / "exports" / f"{model.name}-{type}.gguf"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        convert(model, target, to="gguf", type=type)
    work.narrator.say(f"[dim]carried into[/] {target}")
    return target


def check_ranks(stages: Sequence[tuple[Recipe, AnyStage]], machine: Machine) -> None:
    """Raises UsageError for everything in these stages that cannot be divided among the machine's ranks."""
    if machine.ranks == 1:
        return
    from camelid.train.parallel import check

    problems = ProblemList()
    for _, stage in stages:
        if isinstance(stage, Finetune | Pretrain):
            shape, where = shape_of(stage, start_shape(stage)), f"--set {stage.name}."
            check(shape, machine, problems, adapted=stage.adapter is not None, optim=stage.optim, where=where)
    problems.raise_usage()


def check_records(stage: AnyStage) -> None:
    """Reads the files of records that a stage learns from, and lays them into its template, before stages that come
    earlier have cost their time; of files of text, which may be long, the beginning.

    Raises BadData and BadFile as their readers do.
    """
    if not isinstance(stage, Finetune):
        for each in portions(getattr(stage, "data", None)):
            if isinstance(each, Table):
                next(iter(documents(each.path, first=1, bad_rows=each.bad_rows)), None)
        return
    if not any(isinstance(each, Table | Trees) for each in portions(stage.data)):
        return
    told = supplied(stage.data, stage.prompt, stage.name, [], stage.fields)
    if not (isinstance(stage.data, Table) and stage.data.bad_rows == "skip"):
        check_expressed(told, stage.prompt)
