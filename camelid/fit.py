"""Whether a run will fit the machine's memory, told before it starts and not after an hour.

The first step of a run is not its largest, but the plan (camelid/plan) counts the worst moment of the worst step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from camelid.errors import Problem, UsageError
from camelid.journal import Narrator
from camelid.machine import GIB, Machine, divided
from camelid.models.shape import LlamaShape
from camelid.native.library import trains
from camelid.plan.machines import Device, Machines
from camelid.plan.page import first_of_each
from camelid.plan.plan import Choices, plan, remedies, shape_of
from camelid.plan.training import Layout
from camelid.recipe import AnyStage, Finetune, Folder, Merge, Pretrain, Recipe

KEPT = 0.3  # ours, from docs/planner.md: what an allocator keeps beside what a run holds, without recomputation
MORE = "a smaller --size, more devices (torchrun ... --shard N), a machine with more memory"
OTHERS = ("--count", "--device")  # what a plan may choose and a run here cannot


def check_fit(stages: Sequence[tuple[Recipe, AnyStage]], machine: Machine, narrator: Narrator, anyway: bool) -> None:
    """Raises UsageError naming every stage that needs more memory than there is, and what would make it fit.

    What would fit only if nothing were wasted is told as a warning; so is everything, where it is to start `anyway`.
    """
    problems = [problem for owner, stage in stages for problem in _problems(owner, stage, machine, narrator)]
    for problem in problems if anyway else ():
        narrator.warn(f"{problem}; starting anyway")
    if problems and not anyway:
        raise UsageError(problems)


def _problems(owner: Recipe, stage: AnyStage, machine: Machine, narrator: Narrator) -> Iterator[Problem]:
    if not isinstance(stage, Finetune | Pretrain):
        return
    where = f"memory for {owner.title}, {stage.name}"
    if not machine.memory_bytes:
        narrator.warn(f"{where}: this system does not tell how much memory there is; nothing was checked")
        return
    alone, start = replace(owner, stages=(stage,)), start_shape(stage)
    machine = divided(machine, shape_of(stage, start).parameters())
    device = Device(machine.device, machine.memory_bytes, 0.0, "the machine it runs on")
    machines = Machines(device, machine.count, machine.dtype)
    choices = Choices(
        layout=Layout(data=machine.data, shard=machine.shard, tensor=machine.tensor) if machine.ranks > 1 else None,
        micro_tokens=machine.micro_tokens,
        recompute=machine.recompute,
        workers=machine.workers,
        shares=machine.shares,
        kernels=trains(machine),
        start=start,
    )
    (found,) = plan(alone, machines, choices).stages
    most = found.per_device + exchanged(machine, found.trained)
    needed, there = most / GIB, machine.memory_bytes / GIB
    if not found.fits or most > machine.memory_bytes:
        changes = [words for words in remedies(alone, machines, choices) if not words.startswith(OTHERS)]
        ways = "; ".join(first_of_each(tuple(changes)))
        remedy = f"any one of: {ways}; or --anyway" if ways else f"no setting makes it fit: {MORE}, or --anyway"
        yield Problem(where, f"{needed:.1f} GiB needed, {there:.1f} GiB there", remedy)
    elif machine.device == "cpu" and most * (1 + KEPT) > machine.memory_bytes:
        narrator.warn(f"{where}: {needed:.1f} GiB needed of {there:.1f}, and what the allocator keeps comes on top")


def exchanged(machine: Machine, trained: int) -> int:
    """Bytes through which a rank that holds the whole model passes gradients to others (train/team.py), in float32."""
    if machine.data == 1 or machine.shard > 1 or machine.tensor > 1:
        return 0
    return int(4 * trained * (2 + 1 / machine.data if machine.sums == "ordered" else 1))


def start_shape(stage: Finetune | Pretrain) -> LlamaShape | None:
    """The shape of the model that a line starts from, where that is a folder; only its configuration is read."""
    current: object = stage
    while isinstance(current, Finetune | Pretrain | Merge | Recipe):
        current = current.last if isinstance(current, Recipe) else current.start
    if not isinstance(current, Folder):
        return None
    from camelid.checkpoints import directory

    return directory.load(Path(current.path), check="lengths").shape
