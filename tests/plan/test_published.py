"""Every prediction is recomputed and held against print; what misses says so, and only that."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from camelid.models.shape import SIZES, LoRA
from camelid.plan.published import MEMORIES, TIMES, TOLERANCE, Printed
from camelid.plan.table import GOAL, markdown
from camelid.plan.training import Layout, memory, ours

ROOT = Path(__file__).resolve().parents[2]
OWN = json.loads((ROOT / "benchmarks" / "results" / "memory_of_runs.json").read_text())


@pytest.mark.parametrize("row", [*TIMES, *MEMORIES], ids=lambda row: row.run)
def test_a_prediction_is_within_fifteen_percent_of_print_or_says_why_not(row: Printed) -> None:
    assert row.source and row.value > 0
    assert (abs(row.error) > TOLERANCE) == bool(row.miss), f"{row.run}: {row.error:+.1%}"


def test_at_least_twenty_runs_in_time_and_twenty_figures_of_memory_are_checked() -> None:
    assert len({row.run for row in TIMES}) >= 20 and len({row.run for row in MEMORIES}) >= 20
    near = [row for row in (*TIMES, *MEMORIES) if abs(row.error) <= TOLERANCE]
    assert len(near) >= 0.75 * (len(TIMES) + len(MEMORIES))


def test_the_page_is_what_the_rows_say() -> None:
    page = (ROOT / "docs" / "planner.md").read_text()
    assert page == markdown(OWN), "write it anew: python -m benchmarks.planner_page"


def test_our_own_runs_were_at_least_ten_and_near_and_are_still_predicted_alike() -> None:
    from benchmarks.memory_of_runs import CASES, predicted

    assert len(OWN["runs"]) >= 10 and set(OWN["runs"]) == set(CASES)
    near = [run for run in OWN["runs"].values() if abs(run["predicted"] / run["held"]["peak"] - 1) <= GOAL]
    assert len(near) == len(OWN["runs"])
    assert {name: run["predicted"] for name, run in OWN["runs"].items()} == {
        name: predicted(case, OWN["runs"][name].get("kernels", False)) for name, case in CASES.items()
    }, "the model of memory changed: measure anew with python -m benchmarks.memory_of_runs"


def test_dividing_over_devices_divides_what_is_divided() -> None:
    training = ours(SIZES["llama-7B"], tokens=2048, dtype="bfloat16")
    alone, shared = memory(training), memory(training, Layout(shard=8))
    for part in ("weights", "gradients", "optimizer"):
        assert getattr(shared, part) == -(-getattr(alone, part) // 8)
    assert (shared.activations, alone.gathered) == (alone.activations, 0) and shared.gathered > 0
    tensor = memory(training, Layout(tensor=4, pipeline=2))
    assert tensor.activations == -(-alone.activations // 4) and tensor.weights == -(-alone.weights // 8)
    assert memory(training, Layout(data=16)) == alone


def test_the_worst_moment_is_no_sum_of_maxima() -> None:
    training = ours(SIZES["llama-3.2-1B"], tokens=4096, micro_batches=1)
    held = memory(training)
    parts = held.weights + held.gradients + held.optimizer + held.activations + held.logits
    assert held.weights + held.optimizer + max(held.gradients, held.activations) <= held.peak < parts
    assert memory(replace(training, recompute=1.0)).peak < held.peak < memory(replace(training, summed=True)).peak
    assert memory(ours(SIZES["llama-3.2-1B"], tokens=4096, lora=LoRA(8, 16))).peak < 0.6 * held.peak
