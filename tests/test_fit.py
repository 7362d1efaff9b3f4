"""A run that would not fit says so before it starts, on machines that are made up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from camelid.errors import UsageError
from camelid.fit import check_fit, exchanged
from camelid.grow import grow
from camelid.journal import Narrator
from camelid.machine import GIB, Machine
from camelid.models.shape import SIZES
from camelid.plan.machines import Device, Machines
from camelid.plan.plan import Choices, plan
from camelid.recipe import Folder, Pretrain, Recipe
from camelid.recipes import MEMBERS
from camelid.request import Request

MIB = 1 << 20


def told(recipe: Recipe, store: Path, memory: int, **words: object) -> str:
    """What `grow` refuses with on a machine of this memory; it makes nothing."""
    from camelid.store import Store

    machine = Machine(memory_bytes=memory, **words)  # type: ignore[arg-type]
    with pytest.raises(UsageError) as refused:
        grow(Request("llama", "tiny"), recipe, store=Store(store), machine=machine, narrator=Narrator(quiet=True))
    assert not (store / "stages").exists() and not (store / "runs").exists()
    return str(refused.value)


def large(length: int = 2048) -> Recipe:
    """LLaMA tiny with a body of 1.2 billion weights."""
    recipe = MEMBERS["llama"].make("tiny")
    base = recipe.last
    assert isinstance(base, Pretrain)
    shape = replace(SIZES["llama-3.2-1B"], vocab=400)
    return replace(recipe, stages=(recipe.stages[0], replace(base, shape=shape, length=length)))


def test_too_little_memory_is_told_with_the_cheapest_changes_before_anything_is_made(tmp_path: Path) -> None:
    said = told(large(), tmp_path, 4 * GIB)
    assert "memory for LLaMA tiny, pretrained" in said and "4.0 GiB there" in said and "--anyway" in said


def test_a_change_that_is_told_does_make_it_fit(tmp_path: Path) -> None:
    recipe = MEMBERS["llama"].make("tiny")
    base = recipe.last
    assert isinstance(base, Pretrain)
    wide = replace(base, batch=replace(base.batch, count=65_536), shape=replace(base.shape, width=256, hidden=1024))
    recipe = replace(recipe, stages=(recipe.stages[0], wide))
    said = told(recipe, tmp_path, 128 * MIB, micro_tokens=32_768)
    assert "--micro-tokens" in said
    micro = int(said.split("--micro-tokens ")[1].split(";")[0])
    device = Device("cpu", 128 * MIB, 0.0, "made up")
    alone = replace(recipe, stages=(wide,))
    for tokens, fits in ((micro, True), (2 * micro, False)):
        (stage,) = plan(alone, Machines(device, 1, "float32"), Choices(micro_tokens=tokens)).stages
        assert stage.fits is fits


def test_enough_memory_is_no_hindrance_and_anyway_goes_on(tmp_path: Path) -> None:
    from camelid.fit import check_fit

    recipe, spoken = large(), list[str]()

    class Listening(Narrator):
        def warn(self, text: str) -> None:
            spoken.append(text)

    stages = [(recipe, stage) for stage in recipe.stages]
    check_fit(stages, Machine(memory_bytes=64 * GIB), Listening(), False)
    assert not spoken
    with pytest.raises(UsageError, match="pretrained"):
        check_fit(stages, Machine(memory_bytes=64 * GIB, workers=16), Listening(), False)
    check_fit(stages, Machine(memory_bytes=4 * GIB), Listening(), True)
    assert len(spoken) == 1 and spoken[0].endswith("starting anyway")
    check_fit(stages, Machine(memory_bytes=0), Listening(), False)
    assert "nothing was checked" in spoken[1]


def test_a_model_in_a_folder_is_measured_by_its_configuration(tmp_path: Path) -> None:
    from camelid.checkpoints import directory
    from camelid.fit import check_fit
    from tests.checkpoints.models import SHAPE, weights

    folder = directory.save(tmp_path / "model", weights(SHAPE), shape=SHAPE)
    recipe = MEMBERS["alpaca"].make("7B")
    tuned = replace(recipe.last, start=Folder(str(folder)))  # type: ignore[type-var]
    with pytest.raises(UsageError, match="memory for Alpaca 7B, tuned"):
        check_fit([(recipe, tuned)], Machine(memory_bytes=MIB), Narrator(quiet=True), False)
    check_fit([(recipe, tuned)], Machine(memory_bytes=8 * GIB), Narrator(quiet=True), False)


def test_memory_is_what_the_cgroup_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from camelid import machine

    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    there = machine.memory_of_cpu()
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.memory_of_cpu() == there > 0
    (tmp_path / "memory.max").write_text(f"{256 * MIB}\n")
    assert machine.memory_of_cpu() == 256 * MIB == machine.detect("cpu").memory_bytes


@pytest.mark.parametrize(("limit", "used", "stat", "idle"), [
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
])  # fmt: skip
def test_what_a_cgroup_keeps_of_files_counts_as_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, used: str, stat: str, idle: str
) -> None:
    from camelid import machine

    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    (tmp_path / "memory").mkdir()
    (tmp_path / limit).write_text(f"{64 * MIB}\n")
    (tmp_path / used).write_text(f"{60 * MIB}\n")
    assert machine.available() == 4 * MIB
    (tmp_path / stat).write_text(f"anon 7\n{idle} {50 * MIB}\n")
    assert machine.available() == 54 * MIB


def test_ranks_are_measured_by_what_each_of_them_holds(tmp_path: Path) -> None:
    recipe = MEMBERS["llama"].make("7B")
    stages = [(recipe, stage) for stage in recipe.stages if isinstance(stage, Pretrain)]
    eight = replace(Machine(device="cuda", count=8, memory_bytes=80 * GIB, micro_tokens=2048), sums="fast")
    check_fit(stages, replace(eight, shard=8), Narrator(quiet=True), False)
    with pytest.raises(UsageError, match=r"GiB needed, 80\.0 GiB there"):
        check_fit(stages, replace(eight, data=8), Narrator(quiet=True), False)
    assert (
        exchanged(replace(eight, data=8), 100) == 400 and exchanged(replace(eight, data=4, sums="ordered"), 100) == 900
    )
    assert exchanged(replace(eight, shard=8), 100) == exchanged(Machine(), 100) == 0
