"""The plan of a recipe: its numbers add up, its layouts are checked, and what it says would fit does."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import pytest

from camelid.cli import main
from camelid.cli.asked import Asked
from camelid.cli.family import override_recipe
from camelid.errors import ProblemList, UsageError
from camelid.machine import GIB, Machine
from camelid.native.library import trains
from camelid.plan.machines import DEVICES, Device, Machines, machine_named, this_cpu
from camelid.plan.page import first_of_each
from camelid.plan.plan import Choices, fits, here, plan, remedies
from camelid.plan.training import Layout
from camelid.recipe import Recipe
from camelid.recipes import MEMBERS

A100 = DEVICES["a100-80gb"]


def planned(*words: str, capsys: pytest.CaptureFixture[str]) -> dict:
    assert main(["plan", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_llama_65b_on_its_own_machine(capsys: pytest.CaptureFixture[str]) -> None:
    told = planned(
        "llama", "--size", "65B", "--device", "a100-80", "--count", "2048", "--utilisation", "0.48", capsys=capsys
    )
    (stage,) = told["stages"]
    assert stage["steps"] == 350_000 and stage["tokens"] == 1_400_000_000_000 and stage["fits"]
    assert stage["hours"] / 24 == pytest.approx(21, rel=0.02) and stage["device_hours"] == stage["hours"] * 2048
    assert stage["tokens_per_second"] / 2048 == pytest.approx(380, rel=0.02)
    assert stage["step_seconds"] * stage["steps"] == pytest.approx(stage["hours"] * 3600)
    memory = stage["memory"]
    assert (
        stage["per_device"]
        == memory["peak"]
        <= sum(held for part, held in memory.items() if part not in ("peak", "type"))
    )


def test_layouts_are_those_of_the_devices_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("llama", "--size", "65B", "--device", "h100", "--count", "64", "--tensor", "8", "--pipeline", "4")
    assert planned(*words, capsys=capsys)["layout"] == "shard 2, tensor 8, pipeline 4"
    assert main(["plan", "llama", "--device", "h100", "--count", "12", "--tensor", "8"]) == 2
    assert "use a multiple of 8" in capsys.readouterr().err
    assert main(["plan", "llama", "--device", "h100", "--count", "3", "--tensor", "3"]) == 2
    assert "3 do not divide 32 heads" in capsys.readouterr().err
    recipe = MEMBERS["llama"].make("7B")
    with pytest.raises(UsageError, match="need 4 devices, there are 2"):
        plan(recipe, Machines(A100, 2, "bfloat16"), Choices(layout=Layout(tensor=4)))


def test_recomputing_and_smaller_micro_batches_hold_less(capsys: pytest.CaptureFixture[str]) -> None:
    def peak(*words: str) -> int:
        return planned("alpaca", "--device", "h200", "--count", "64", *words, capsys=capsys)["stages"][0]["per_device"]

    assert peak("--recompute") < peak() < peak("--micro-tokens", "8192")


@pytest.mark.parametrize("device", sorted(DEVICES))
@pytest.mark.parametrize(("member", "size"), [("llama", "13B"), ("alpaca", "7B"), ("alpaca-lora", "7B")])
def test_what_is_said_to_make_it_fit_does(device: str, member: str, size: str) -> None:
    recipe, machines = MEMBERS[member].make(size), Machines(DEVICES[device], 1, "float32")
    choices = Choices(micro_tokens=8192)
    if fits(recipe, machines, choices):
        assert plan(recipe, machines, choices).remedies == ()
        return
    for words in remedies(recipe, machines, choices):
        assert fits(*asked_for(words, recipe, machines, choices)), words


def asked_for(words: str, recipe: Recipe, machines: Machines, choices: Choices) -> tuple[Recipe, Machines, Choices]:
    """What a person who types these words asks for."""
    typed = iter(shlex.split(words.replace(", fully sharded", "").partition(": ")[0]))
    for option in typed:
        if option == "--micro-tokens":
            choices = replace(choices, micro_tokens=int(next(typed)))
        elif option == "--recompute":
            choices = replace(choices, recompute=True)
        elif option == "--dtype":
            machines = replace(machines, dtype=next(typed))  # type: ignore[arg-type]
        elif option == "--count":
            machines = replace(machines, count=int(next(typed)))
        elif option == "--device":
            machines = replace(machines, device=DEVICES[next(typed)], dtype="bfloat16")
        else:
            assert option == "--set"
            path, _, value = next(typed).partition("=")
            asked = Asked()
            recipe = override_recipe(recipe, {path: value}, asked)
            asked.settle()
    return recipe, machines, choices


def test_where_no_change_alone_is_enough_the_fewest_together_are_told() -> None:
    recipe, machines = MEMBERS["alpaca"].make("7B"), Machines(Device("cpu", 24 * GIB, 0.0, "made up"), 1, "float32")
    first = remedies(recipe, machines, Choices())[0]
    assert first == (
        "--dtype bfloat16 --set 'tuned.adapter=LoRA(rank=8,alpha=16)' --set tuned.pad=none: all of these together"
    )
    assert fits(*asked_for(first, recipe, machines, Choices()))
    small = replace(machines, device=replace(machines.device, memory_bytes=8 * GIB))
    (tight, *_) = remedies(recipe, small, Choices())
    assert "--set tuned.base=nf4" in tight and fits(*asked_for(tight, recipe, small, Choices()))
    tiny = replace(machines, device=replace(machines.device, memory_bytes=GIB))
    assert all(words.startswith("--device") for words in remedies(recipe, tiny, Choices()))
    (moments, *_) = remedies(
        MEMBERS["llama"].make("7B"), replace(machines, device=Device("x", 96 * GIB, 0.0, "")), Choices()
    )
    assert moments == "--set pretrained.optim=AdamW8bit"


def test_of_remedies_that_differ_in_a_number_the_first_is_told() -> None:
    told = ("--micro-tokens 4096", "--micro-tokens 2048", "--dtype bfloat16", "--count 4, fully sharded", "--count 8")
    assert first_of_each(told) == ("--micro-tokens 4096", "--dtype bfloat16", "--count 4, fully sharded")


def test_a_device_is_named_by_a_beginning_that_only_it_has() -> None:
    problems = ProblemList()
    assert machine_named("H100", 1, "", problems) == Machines(DEVICES["h100-80gb"], 1, "bfloat16")
    assert machine_named("a100", 1, "", problems) is None and machine_named("h1000", 1, "", problems) is None
    assert [problem.remedy for problem in problems.problems] == [
        "say a100-40gb or a100-80gb",
        "did you mean 'h100-80gb'?",
    ]
    here = machine_named(None, 1, "", problems)
    assert here is not None and here.device.flops == 0 and here.dtype == "float32"


def test_a_machine_whose_rate_is_not_known_gets_no_time() -> None:
    told = plan(MEMBERS["llama"].make("desk"), Machines(Device("cpu", 8 * GIB, 0.0, "made up"), 1, "float32"))
    assert told.stages[0].fits and (told.stages[0].hours, told.stages[0].tokens_per_second) == (None, None)


def test_a_plan_for_this_cpu_knows_processes_and_kernels_and_says_which() -> None:
    recipe, machines = MEMBERS["llama"].make("desk"), Machines(this_cpu(), 1, "float32")
    found = here(recipe, machines, Choices())
    assert found.kernels is trains(Machine()) is not None and (found.shares, found.micro_tokens) == (4, 8192)
    peaks = []
    for kernels in (False, True):
        (stage,) = plan(recipe, machines, replace(found, workers=4, kernels=kernels)).stages
        words = "4 processes, passes through kernels of our own" if kernels else "4 processes, layers through PyTorch"
        assert any(note.startswith(words) for note in stage.notes)
        peaks.append(stage.per_device)
    assert peaks[1] < peaks[0]
    large = here(MEMBERS["llama"].make("7B"), machines, Choices(micro_tokens=2048))
    assert here(recipe, replace(machines, dtype="bfloat16"), Choices()).kernels is None
    assert (large.workers, large.shares, large.micro_tokens) == (1, 1, 2048)


def test_a_base_in_few_bits_is_told_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    few = planned("metamath", "--size", "70B", "--device", "h100", capsys=capsys)["stages"][0]
    whole = planned("metamath", "--size", "70B", "--device", "h100", "--set", "tuned.base=none", capsys=capsys)
    saved = whole["stages"][0]["memory"]["weights"] / few["memory"]["weights"]
    assert few["base"] == "nf4" and whole["stages"][0]["base"] is None and saved > 3
    assert main(["plan", "metamath", "--size", "70B"]) == 0
    told = capsys.readouterr().out
    assert "frozen ones in nf4" in told and " cores, " in told.splitlines()[0]
