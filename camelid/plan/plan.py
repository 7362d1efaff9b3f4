"""What a recipe will take, stage by stage, from its numbers alone: nothing is built, nothing is loaded.

Training memory is that of AdamW with two float32 moments; in bfloat16 the trained weights have a float32 master copy. On
several devices weights, gradients and moments are divided evenly (fully sharded), activations are not. The activations
are an estimate; everything else follows from the shapes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

from camelid.machine import GIB
from camelid.models.count import Dtype, Memory, parameters, trainable, training_flops, training_memory
from camelid.models.shape import LlamaShape, LoRA
from camelid.plan.machines import DEVICES, Machines
from camelid.recipe import (
    DeskInstructions,
    Epochs,
    Finetune,
    Mixture,
    Pretrain,
    Recipe,
    SelfInstruct,
    Steps,
    Table,
)

ROWS_OF_LOGITS = 1024  # of logits held at once by the loss
UTILISATION = 0.4  # of the peak; LLaMA 3 reports 0.38 to 0.43 on H100 (Dubey et al. 2024, table 4)


@dataclass(frozen=True)
class StagePlan:
    """One training stage. `tokens` is an upper bound where sequences may be shorter than `length`: see `exact`."""

    stage: str
    title: str
    parameters: int
    trained: int
    steps: int
    tokens: int
    exact: bool
    flops: float
    micro_tokens: int
    memory: Memory
    per_device: int
    fits: bool
    hours: float | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """A recipe on a machine: its stages, what is missing to run it, and what would make it fit."""

    title: str
    machine: str
    count: int
    dtype: str
    memory_bytes: int
    stages: tuple[StagePlan, ...]
    missing: tuple[str, ...]
    remedies: tuple[str, ...]


def plan(recipe: Recipe, machines: Machines) -> Plan:
    """The plan of a member's own stages and, where they would be grown here, of its ancestors'."""
    stages = [_stage(recipe, stage, machines) for stage in recipe.stages if isinstance(stage, Finetune | Pretrain)]
    return Plan(
        title=recipe.title,
        machine=machines.device.name,
        count=machines.count,
        dtype=machines.dtype,
        memory_bytes=machines.memory_bytes,
        stages=tuple(stages),
        missing=tuple(_missing(recipe)),
        remedies=tuple(_remedies(recipe, machines)) if not all(stage.fits for stage in stages) else (),
    )


def _stage(recipe: Recipe, stage: Finetune | Pretrain, machines: Machines) -> StagePlan:
    shape, lora = shape_of(stage), stage.adapter if isinstance(stage, Finetune) else None
    steps, tokens, exact, notes = _work(stage)
    micro = stage.length
    memory = _memory(shape, machines, micro, lora)
    per_device = _per_device(memory, machines.count)
    flops = tokens * training_flops(shape, seen=(stage.length + 1) / 2, lora=lora)
    rate = machines.device.flops * machines.count * UTILISATION
    return StagePlan(
        stage=stage.name,
        title=recipe.title,
        parameters=parameters(shape, lora),
        trained=trainable(shape, lora),
        steps=steps,
        tokens=tokens,
        exact=exact,
        flops=flops,
        micro_tokens=micro,
        memory=memory,
        per_device=per_device,
        fits=per_device <= machines.device.memory_bytes,
        hours=flops / rate / 3600 if rate else None,
        notes=tuple(notes),
    )


def shape_of(stage: Finetune | Pretrain) -> LlamaShape:
    """The shape that a stage trains, read from the base recipe it descends from."""
    current: object = stage
    while isinstance(current, Finetune):
        current = current.start.last if isinstance(current.start, Recipe) else current.start
    if not isinstance(current, Pretrain):
        raise TypeError(f"{stage.name} starts from {current}, whose shape only its folder knows")
    return current.shape


def _work(stage: Finetune | Pretrain) -> tuple[int, int, bool, list[str]]:
    """Optimizer steps, tokens, whether the tokens are exact, and what was assumed."""
    if isinstance(stage, Pretrain):
        return math.ceil(stage.train.count / stage.batch.count), stage.train.count, True, []
    if isinstance(stage.train, Steps):
        sequences = stage.train.count * stage.batch.count
        return stage.train.count, sequences * stage.length, False, ["tokens: at most length per sequence"]
    records = _records(stage)
    assert isinstance(stage.train, Epochs)
    if records is None:
        return 0, 0, False, ["steps and tokens depend on your file: see camelid data inspect"]
    sequences = math.ceil(records * stage.train.count)
    steps = math.ceil(math.ceil(records / stage.batch.count) * stage.train.count)
    return steps, sequences * stage.length, False, ["tokens: at most length per sequence; real records are shorter"]


def _records(stage: Finetune) -> int | None:
    if isinstance(stage.data, SelfInstruct):
        return stage.data.target
    return stage.data.count if isinstance(stage.data, DeskInstructions) else stage.data.first


def _memory(shape: LlamaShape, machines: Machines, micro: int, lora: LoRA | None, recompute: bool = False) -> Memory:
    return training_memory(
        shape,
        tokens=micro,
        dtype=cast(Dtype, machines.dtype),
        lora=lora,
        recompute=recompute,
        master=machines.dtype != "float32",
        chunk=ROWS_OF_LOGITS,
    )


def _per_device(memory: Memory, count: int) -> int:
    return math.ceil((memory.weights + memory.gradients + memory.optimizer) / count) + memory.activations


def _missing(recipe: Recipe) -> list[str]:
    missing = []
    for ancestor in recipe.lineage():
        for stage in ancestor.stages:
            data = getattr(stage, "data", None)
            if isinstance(data, SelfInstruct) and ancestor is recipe:
                missing.append(
                    f"{data.target:,} records: the teacher {data.teacher} is retired; name a file with --data"
                )
            if isinstance(data, Mixture) and isinstance(stage, Pretrain):
                where = (
                    "name a folder with --start" if ancestor is not recipe else "name texts with --data, or --size desk"
                )
                missing.append(f"the weights of {ancestor.title}: its texts are not published as assembled; {where}")
            if isinstance(data, Table) and not _is_file(data.path):
                missing.append(f"the file {data.path}")
    return missing


def _is_file(path: str) -> bool:
    from pathlib import Path

    return Path(path).expanduser().is_file()


def _remedies(recipe: Recipe, machines: Machines) -> list[str]:
    """What would make the largest stage fit, each tried by calculation."""
    stage = cast(Finetune | Pretrain, recipe.last)
    shape, room, found = shape_of(stage), machines.device.memory_bytes, []
    lora = stage.adapter if isinstance(stage, Finetune) else None
    if machines.dtype == "float32" and _fits(
        shape, Machines(machines.device, machines.count, "bfloat16"), stage.length, lora
    ):
        found.append("--dtype bfloat16")
    if _per_device(_memory(shape, machines, stage.length, lora, recompute=True), machines.count) <= room:
        found.append("recomputing activations in the backward pass")
    for count in (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048):
        if count > machines.count and _fits(
            shape, Machines(machines.device, count, machines.dtype), stage.length, lora
        ):
            found.append(f"--count {count}, fully sharded")
            break
    if lora is None and isinstance(stage, Finetune):
        adapter = LoRA(rank=8, alpha=16.0, targets=("q_proj", "v_proj"))
        if _fits(shape, machines, stage.length, adapter):
            found.append("low-rank adapters instead of every weight: camelid plan alpaca-lora")
    larger = [name for name, device in DEVICES.items() if device.memory_bytes > room]
    fitting = [
        name for name in larger if _fits(shape, Machines(DEVICES[name], machines.count, "bfloat16"), stage.length, lora)
    ]
    found += [f"--device {name}" for name in fitting[:1]]
    return found or [f"nothing here: {shape.parameters() * 18 / GIB:,.0f} GiB for weights and moments alone"]


def _fits(shape: LlamaShape, machines: Machines, micro: int, lora: LoRA | None) -> bool:
    return _per_device(_memory(shape, machines, micro, lora), machines.count) <= machines.device.memory_bytes
