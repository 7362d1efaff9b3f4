"""Rates against Hugging Face's schedules, which the derived members were trained with."""

import math

import pytest
import torch
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from camelid.errors import ProblemList, UsageError
from camelid.stage import Steps
from camelid.train.schedule import check, rate, warmup_steps
from camelid.train.settings import AdamW, Constant, Cosine, Linear

THEIRS = {
    Constant: lambda optimizer, warmup, steps: get_constant_schedule_with_warmup(optimizer, warmup),
    Linear: get_linear_schedule_with_warmup,
    Cosine: get_cosine_schedule_with_warmup,
}


@pytest.mark.parametrize("kind", THEIRS)
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (7, 3), (100, 3), (331, 100), (50, 49)])
def test_after_the_warm_up_each_rate_is_hugging_faces_and_during_it_the_next_steps(kind, steps, warmup):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    factor = THEIRS[kind](optimizer, warmup, steps).lr_lambdas[0]
    schedule = kind(warmup=Steps(warmup))
    for step in range(steps):
        assert rate(schedule, step, steps) == pytest.approx(factor(step + (step < warmup)), abs=1e-15)


def test_the_floor_is_a_share_of_the_peak_and_the_last_steps_come_near_it():
    rates = [rate(Cosine(warmup=Steps(10), floor=0.1), step, 1000) for step in range(1000)]
    assert rates[9] == rates[10] == 1.0
    assert rates[:9] == pytest.approx([(step + 1) / 10 for step in range(9)])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert 0.1 < rates[-1] < 0.1001
    assert rate(Linear(floor=0.5), 50, 100) == 0.75


def test_a_share_of_warm_up_is_rounded_up_as_the_trainer_does():
    for steps in range(1, 500):
        assert warmup_steps(Cosine(warmup=0.03), steps) == math.ceil(0.03 * steps)


@pytest.mark.parametrize(
    ("schedule", "setting"),
    [
        (Cosine(warmup=1.5), "tuned.schedule.warmup"),
        (Cosine(warmup=-0.1), "tuned.schedule.warmup"),
        (Linear(warmup=Steps(101)), "tuned.schedule.warmup"),
        (Cosine(floor=2.0), "tuned.schedule.floor"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused_by_name(schedule, setting):
    problems = ProblemList()
    check(schedule, 100, "tuned.schedule", problems)
    assert [problem.where for problem in problems.problems] == [setting]


def test_every_wrong_setting_of_adamw_is_told_at_once():
    problems = ProblemList()
    AdamW(lr=0.0, betas=(0.9, 1.0), eps=-1.0, decay=float("nan")).check("tuned.optim", problems)
    AdamW(lr=2e-5).check("fine", problems)
    with pytest.raises(UsageError) as told:
        problems.raise_usage()
    assert [p.where for p in told.value.problems] == [f"tuned.optim.{name}" for name in ("lr", "betas", "eps", "decay")]
