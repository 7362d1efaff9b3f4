"""The learning rate as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from camelid.errors import ProblemList
from camelid.stage import Steps
from camelid.train.settings import Constant, Cosine, Linear, Schedule


def rate(schedule: Schedule, step: int, steps: int) -> float:
    """The factor in [0, 1] by which the peak learning rate is multiplied at `step` (the first is 0) of `steps`.

    The warm-up counts from one, so that no batch is spent at rate 0 (the Hugging Face schedules begin at 0); after it
    the values are those of Hugging Face's schedules at the same step: the descent would reach its floor at `steps`.
    """
    warmup = warmup_steps(schedule, steps)
    if step < warmup:
        return (step + 1) / warmup
    if isinstance(schedule, Constant):
        return 1.0
    progress = (step - warmup) / max(1, steps - warmup)
    shape = 0.5 * (1 + math.cos(math.pi * progress)) if isinstance(schedule, Cosine) else 1 - progress
    return schedule.floor + (1 - schedule.floor) * shape


def warmup_steps(schedule: Schedule, steps: int) -> int:
    """The steps of warm-up: a share is rounded up, as by the Hugging Face Trainer."""
    return schedule.warmup.count if isinstance(schedule.warmup, Steps) else math.ceil(schedule.warmup * steps)


def check(schedule: Schedule, steps: int, where: str, problems: ProblemList) -> None:
    """Adds to `problems` a warm-up that never ends or a floor above the peak."""
    found = len(problems.problems)
    check_shares(schedule, where, problems)
    if len(problems.problems) == found and (warmup := warmup_steps(schedule, steps)) > steps:
        problems.add(f"{where}.warmup", f"{warmup} steps in a run of {steps}", "warm up for less, or train longer")


def check_shares(schedule: Schedule, where: str, problems: ProblemList) -> None:
    """Adds to `problems` what is wrong however long the run: a warm-up that is no share, a floor above the peak."""
    if isinstance(schedule.warmup, Steps):
        if schedule.warmup.count < 0:
            problems.add(f"{where}.warmup", f"{schedule.warmup.count} steps", "use 0 or more")
    elif not 0 <= schedule.warmup <= 1:
        problems.add(f"{where}.warmup", f"a share of {schedule.warmup}", "use a share in [0, 1], or Steps(n)")
    if isinstance(schedule, Linear | Cosine) and not 0 <= schedule.floor <= 1:
        problems.add(f"{where}.floor", f"{schedule.floor}", "the floor is a share of the peak, in [0, 1]")
