"""Grows a member: every stage that is not in the store, then scores, then the page."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from camelid.data.corpus import check_expressed
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
) -> Outcome | None:
    """Make every stage of the recipe and of its ancestors, score what can be scored, and write the report.

    With `spikes` a run goes back where its loss leaps, up to so many times (train/spikes.py). With
    `log` the scalars of each step go to TensorBoard or trackio too (train/scalars.py).

    Under torchrun all ranks train together and rank 0 does the rest; what comes back is None on the others.

    Raises UsageError before anything is made where the plan of a stage does not fit the machine's memory, unless it is
    to be tried `anyway`.
    """
    with joined(machine.device) as ranks:
        narrator = narrator if ranks.leads else Narrator(quiet=True, warns=False)
        return _grow(Work(request, recipe, store, machine, narrator, seconds, ranks, spikes, log), anyway)


def _grow(work: Work, anyway: bool) -> Outcome | None:
    began, store, request, recipe = time.monotonic(), work.store, work.request, work.recipe
    store.root.mkdir(parents=True, exist_ok=True)
    missing = [(owner, stage) for owner, stage in work.stages() if not work.is_made(stage)]
    check_ranks(missing, work.machine)
    check_fit(missing, work.machine, work.narrator, anyway)
    for _, stage in missing[1:]:  # the first reads its own at once
        check_records(stage)
    made = tuple(work.make(owner, stage) for owner, stage in work.stages())
    if not work.ranks.leads:
        return None
    scores, samples = score_line(work, made)
    told = commands(work, made)
    page, tokens = write_page(work, made, scores, samples, told, time.monotonic() - began)
    return Outcome(request, recipe, made, scores, samples, told, page, tokens, time.monotonic() - began)


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
    earlier have cost their time.

    Raises BadData and BadFile as their readers do.
    """
    if not isinstance(stage, Finetune) or not any(isinstance(each, Table | Trees) for each in portions(stage.data)):
        return
    told = supplied(stage.data, stage.prompt, stage.name, [], stage.fields)
    if not (isinstance(stage.data, Table) and stage.data.bad_rows == "skip"):
        check_expressed(told, stage.prompt)
