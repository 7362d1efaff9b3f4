"""What a recipe will take, stage by stage, from its numbers alone: nothing is built, nothing is loaded.

Memory is that of this package's training (plan/training.py): AdamW with two float32 moments, in bfloat16 a float32
copy of trained weights, logits a few rows at a time. Time needs a utilisation, the share of the device's peak rate that
the model's own operations reach: it is assumed, stated with the plan, and can be given.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

from camelid.errors import ProblemList
from camelid.frozen import stated
from camelid.machine import GIB, DType, detect, divided
from camelid.models.count import BYTES, Dtype, cache_bytes, parameters, trainable
from camelid.models.shape import LlamaShape, LoRA
from camelid.native.library import trains
from camelid.plan.machines import DEVICES, Machines
from camelid.plan.training import (
    Layout,
    Memory,
    Training,
    flops_per_token,
    memory,
    ours,
    paged_bytes,
    tokens_per_second,
)
from camelid.recipe import (
    AdamW,
    AdamW8bit,
    AnyStage,
    Epochs,
    Finetune,
    GaLore,
    Mixture,
    Pretrain,
    Recipe,
    Released,
    SelfInstruct,
    Steps,
    Table,
    Trees,
    portions,
    records_of,
)

UTILISATION = 0.4  # of the peak; Llama 3 405B reports 0.38 to 0.43 on H100 (Dubey et al. 2024, table 4)
COUNTS = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What a plan is free to choose: how devices share the work, and how memory is traded for time.

    layout        None: every device shards weights, gradients and moments
    micro_tokens  tokens on one device at once; None: one row. Never less than a row
    workers       processes that share a step on a CPU, and into how many parts at least it is cut for them (`shares`)
    recompute     whether layers keep only their input and compute the rest again
    kernels       whether small models' layers go through this machine's own kernels, which keep less; None: not asked
    utilisation   share of the peak that the model's own operations reach
    start         shape of the model in the folder that the line starts from, where it starts from one
    """

    layout: Layout | None = None
    micro_tokens: int | None = None
    recompute: bool = False
    workers: int = 1
    shares: int = 1
    kernels: bool | None = None
    utilisation: float = UTILISATION
    start: LlamaShape | None = None


@dataclass(frozen=True)
class StagePlan:
    """One training stage. `tokens` is an upper bound where sequences may be shorter than `length`: see `exact`.

    `memory` and `per_device` are bytes on the fullest device; times are None where the device's rate is not known, or
    where steps depend on data not yet named. `base` is what frozen weights are kept in, where that is not the machine's
    own precision. `cache` is what one text of full length takes when the model talks.
    """

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
    cache: int
    fits: bool
    base: str | None
    tokens_per_second: float | None
    step_seconds: float | None
    hours: float | None
    device_hours: float | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """A recipe on a machine: its stages, what is missing to run it, and what would make it fit, cheapest first."""

    title: str
    machine: str
    count: int
    dtype: str
    memory_bytes: int
    layout: str
    recompute: bool
    utilisation: float
    stages: tuple[StagePlan, ...]
    missing: tuple[str, ...]
    remedies: tuple[str, ...]


def plan(recipe: Recipe, machines: Machines, choices: Choices | None = None) -> Plan:
    """The plan of a member's own stages. Raises UsageError where the layout is not one for these devices."""
    choices = choices or Choices()
    layout = _layout(recipe, machines, choices)
    stages = [_stage(recipe, stage, machines, choices) for stage in trained_stages(recipe)]
    return Plan(
        title=recipe.title,
        machine=machines.device.name,
        count=machines.count,
        dtype=machines.dtype,
        memory_bytes=machines.memory_bytes,
        layout=layout.text(),
        recompute=choices.recompute,
        utilisation=choices.utilisation,
        stages=tuple(stages),
        missing=tuple(_missing(recipe)),
        remedies=() if all(stage.fits for stage in stages) else tuple(remedies(recipe, machines, choices)),
    )


def here(recipe: Recipe, machines: Machines, choices: Choices) -> Choices:
    """The same choices with what a run on this machine's CPU decides for itself: tokens at once, processes, kernels."""
    weights = [shape_of(stage, choices.start).parameters() for stage in trained_stages(recipe)]
    if not weights:
        return choices
    found = divided(detect("cpu", cast(DType, machines.dtype)), max(weights))
    return replace(
        choices,
        micro_tokens=choices.micro_tokens or found.micro_tokens,
        workers=found.workers,
        shares=found.shares,
        kernels=trains(found),
    )


def trained_stages(recipe: Recipe) -> list[Finetune | Pretrain]:
    """The stages of a recipe that train a model."""
    return [stage for stage in recipe.stages if isinstance(stage, Finetune | Pretrain)]


def _layout(recipe: Recipe, machines: Machines, choices: Choices) -> Layout:
    layout = choices.layout or Layout(shard=machines.count)
    problems = ProblemList()
    if layout.devices != machines.count:
        found = f"{layout.text()} need {layout.devices} devices, there are {machines.count}"
        problems.add("layout", found, f"say --count {layout.devices}")
    for stage in trained_stages(recipe):
        shape = shape_of(stage, choices.start)
        if shape.layers % layout.pipeline:
            problems.add("--pipeline", f"{layout.pipeline} do not divide {shape.layers} layers")
        if shape.heads % layout.tensor:
            problems.add("--tensor", f"{layout.tensor} do not divide {shape.heads} heads")
    problems.raise_usage()
    return layout


def _stage(recipe: Recipe, stage: Finetune | Pretrain, machines: Machines, choices: Choices) -> StagePlan:
    shape, lora = shape_of(stage, choices.start), adapter_of(stage)
    steps, tokens, exact, notes = _work(stage)
    work = training_of(stage, machines, choices)
    if stage.optim.paged:
        notes.append(f"moments: {paged_bytes(shape, lora, stage.optim) / GIB:.1f} GiB in a file, not counted as memory")
    if choices.kernels is not None:
        notes.append(_through(work, choices.kernels))
    held = memory(work, choices.layout or Layout(shard=machines.count))
    each = flops_per_token(shape, length=stage.length, lora=lora)
    peak = machines.device.flops
    speed = tokens_per_second(each, peak, choices.utilisation) * machines.count if peak else None
    hours = tokens / speed / 3600 if speed and tokens else None
    return StagePlan(
        stage=stage.name,
        title=recipe.title,
        parameters=parameters(shape, lora),
        trained=trainable(shape, lora),
        steps=steps,
        tokens=tokens,
        exact=exact,
        flops=tokens * each,
        micro_tokens=work.tokens,
        memory=held,
        per_device=held.peak,
        cache=cache_bytes(shape, batch=1, length=shape.context, dtype=work.dtype),
        fits=held.peak <= machines.device.memory_bytes,
        base=stage.base if isinstance(stage, Finetune) else None,
        tokens_per_second=speed,
        step_seconds=hours * 3600 / steps if hours and steps else None,
        hours=hours,
        device_hours=hours * machines.count if hours else None,
        notes=tuple(notes),
    )


def _through(work: Training, kernels: bool) -> str:
    """Who computes a small model's layers, and what that means for memory."""
    processes = f"{work.workers} processes" if work.workers > 1 else "one process"
    if not kernels:
        return f"{processes}, layers through PyTorch: there are no kernels of our own here (camelid doctor says why)"
    kept = "a layer is one operation and keeps less" if work.whole else "layers keep what PyTorch keeps"
    return f"{processes}, passes through kernels of our own: {kept}"


def adapter_of(stage: Finetune | Pretrain) -> LoRA | None:
    """The adapter that a stage trains instead of every weight."""
    return stage.adapter


def training_of(stage: Finetune | Pretrain, machines: Machines, choices: Choices) -> Training:
    """What a device does in a stage: micro-batches of at least a row, summed where a step has several."""
    step = _step_tokens(stage)
    part = math.ceil(step / max(1, choices.shares))
    micro = max(stage.length, min(choices.micro_tokens or 0, part))
    layout = choices.layout or Layout(shard=machines.count)
    return ours(
        shape_of(stage, choices.start),
        tokens=micro,
        dtype=cast(Dtype, machines.dtype),
        lora=adapter_of(stage),
        base=stage.base if isinstance(stage, Finetune) else None,
        optim=stage.optim,
        micro_batches=math.ceil(step / (layout.data * layout.shard) / micro),
        recompute=float(choices.recompute),
        workers=choices.workers,
        shares=choices.shares,
        kernels=bool(choices.kernels),
    )


def _step_tokens(stage: Finetune | Pretrain) -> int:
    """The most tokens of a step."""
    return stage.batch.count if isinstance(stage, Pretrain) else stage.batch.count * stage.length


def shape_of(stage: Finetune | Pretrain, start: LlamaShape | None = None) -> LlamaShape:
    """The shape that a stage trains, read from the base recipe it descends from; `start` where that is a folder."""
    if isinstance(stage, Pretrain):
        return stage.shape
    parent = stage.start.last if isinstance(stage.start, Recipe) else stage.start
    if isinstance(parent, Finetune | Pretrain):
        shape = shape_of(parent, start)
    elif start is not None:
        shape = start
    else:
        raise TypeError(f"{stage.name} starts from {parent}, whose shape only its folder knows")
    vocab = shape.vocab if stage.tokenizer is None else max(shape.vocab, stage.tokenizer.vocab)
    return replace(shape, vocab=vocab, context=stage.context or shape.context, scaling=stage.scaling or shape.scaling)


def _work(stage: Finetune | Pretrain) -> tuple[int, int, bool, list[str]]:
    """Optimizer steps, tokens, whether the tokens are exact, and what was assumed."""
    if isinstance(stage, Pretrain):
        notes = ["the teacher's weights and its forward pass come on top"] if stage.teacher else []
        return math.ceil(stage.train.count / stage.batch.count), stage.train.count, True, notes
    if isinstance(stage.train, Steps):
        sequences = stage.train.count * stage.batch.count
        return stage.train.count, sequences * stage.length, False, ["tokens: at most length per sequence"]
    records = records_of(stage.data)
    assert isinstance(stage.train, Epochs)
    if records is None:
        return 0, 0, False, ["steps and tokens depend on your file: see camelid data inspect"]
    sequences = math.ceil(records * stage.train.count)
    steps = math.ceil(math.ceil(records / stage.batch.count) * stage.train.count)
    return steps, sequences * stage.length, False, ["tokens: at most length per sequence; real records are shorter"]


def _missing(recipe: Recipe) -> list[str]:
    """What a person must bring before the recipe's own stages can run, and the weights of its parent."""
    return [*_parent_missing(recipe), *(words for stage in recipe.stages for words in _data_missing(recipe, stage))]


def _parent_missing(recipe: Recipe) -> Iterator[str]:
    """The nearest ancestor, where something that it was made of cannot be had."""
    ancestors = [ancestor for ancestor in recipe.lineage() if ancestor is not recipe]
    if any(True for ancestor in ancestors for stage in ancestor.stages for _ in _data_missing(ancestor, stage)):
        why = "what it was trained on is not part of this package"
        yield f"the weights of {ancestors[-1].title}: {why}; name a folder with --start"


def _data_missing(recipe: Recipe, stage: AnyStage) -> Iterator[str]:
    option = "--data" if stage is recipe.fed else f"--data {stage.name}=FILE"
    for each in portions(getattr(stage, "data", None)):
        if isinstance(each, SelfInstruct):
            yield f"{each.target:,} records: the teacher {each.teacher} is retired; name a file with {option}"
        elif isinstance(each, Released):
            yield f"{each.amount} of {each.name} ({each.licence}): name a file with {option}"
        elif isinstance(each, Table | Trees) and not _is_file(each.path):
            yield f"the file {each.path}"
        elif isinstance(each, Mixture) and isinstance(stage, Pretrain):
            yield f"the texts of {recipe.title}, not published as assembled: name some with {option}, or --size desk"


def _is_file(path: str) -> bool:
    from pathlib import Path

    from camelid.data.saved import is_saved

    found = Path(path).expanduser()
    return found.is_file() or is_saved(found)


@dataclass(frozen=True)
class Change:
    """One change of a run, in the words of the command line, and the recipe, devices and choices that come of it."""

    words: str
    recipe: Recipe
    machines: Machines
    choices: Choices

    @property
    def fits(self) -> bool:
        return fits(self.recipe, self.machines, self.choices)


def remedies(recipe: Recipe, machines: Machines, choices: Choices) -> list[str]:
    """What would make every stage fit, by calculation and the cheapest first: each change alone, and, where none of what
    leaves the devices as they are is enough, the fewest and cheapest of these together.

    Empty where nothing here does.
    """
    own = list(_changes(recipe, machines, choices))
    found = [change.words for change in own if change.fits]
    if not found:
        found = _together(recipe, machines, choices)
    return found + [change.words for change in _devices(recipe, machines, choices) if change.fits]


def _together(recipe: Recipe, machines: Machines, choices: Choices) -> list[str]:
    """Changes taken one after the other, from the cheapest on, until they fit; those left out again without which they
    still do. None where all together do not."""
    taken: list[str] = []
    now = Change("", recipe, machines, choices)
    while not now.fits:
        further = [change for change in _changes(now.recipe, now.machines, now.choices) if change.words not in taken]
        if not further:
            return []
        smallest = [change for change in further if change.words.startswith("--micro-tokens")]
        now = smallest[-1] if smallest else further[0]
        taken.append(now.words)
    for words in list(taken):
        rest = [other for other in taken if other != words]
        if (without := _applied(rest, recipe, machines, choices)) is not None and without.fits:
            taken = rest
    return [" ".join(words.partition(":")[0] for words in taken) + ": all of these together"]


def _applied(words: list[str], recipe: Recipe, machines: Machines, choices: Choices) -> Change | None:
    """What comes of these changes in their order; None where one of them needs another that is not among them."""
    now = Change("", recipe, machines, choices)
    for word in words:
        fitting = [each for each in _changes(now.recipe, now.machines, now.choices) if each.words == word]
        if not fitting:
            return None
        now = fitting[0]
    return now


def _changes(recipe: Recipe, machines: Machines, choices: Choices) -> Iterator[Change]:
    """Changes that leave the devices as they are, from the cheapest on: none to the mathematics first, then precision,
    then what is trained."""
    micro = choices.micro_tokens or 0
    while micro > 256:
        micro //= 2
        yield Change(f"--micro-tokens {micro}", recipe, machines, replace(choices, micro_tokens=micro))
    if not choices.recompute:
        yield Change("--recompute: about a third more time", recipe, machines, replace(choices, recompute=True))
    if BYTES[cast(Dtype, machines.dtype)] > 2:
        yield Change("--dtype bfloat16", recipe, replace(machines, dtype="bfloat16"), choices)
    stage = trained_stages(recipe)[-1]
    layout = choices.layout or Layout(shard=machines.count)
    divided = layout.shard * layout.tensor > 1  # which takes plain AdamW
    if type(stage.optim) is AdamW and not divided:
        lean = AdamW8bit(**dict(stated(stage.optim)))
        yield _changed(f"--set {stage.name}.optim=AdamW8bit", stage, "optim", lean, recipe, machines, choices)
    if (
        isinstance(stage, Finetune)
        and stage.adapter is None
        and layout.tensor == 1
        and not isinstance(stage.optim, GaLore)
    ):
        words = f"--set '{stage.name}.adapter=LoRA(rank=8,alpha=16)'"
        if stage.pad is not None:  # a row more, for which a frozen embedding has no place
            words += f" --set {stage.name}.pad=none"
        adapter = LoRA(rank=8, alpha=16.0)
        words += ": low-rank adapters instead of every weight"
        yield _changed(words, stage, "adapter", adapter, recipe, machines, choices)
    if isinstance(stage, Finetune) and stage.adapter is not None and stage.base is None:
        words = f"--set {stage.name}.base=nf4"
        yield _changed(words, stage, "base", "nf4", recipe, machines, choices)


def _changed(
    words: str,
    stage: Finetune | Pretrain,
    name: str,
    value: object,
    recipe: Recipe,
    machines: Machines,
    choices: Choices,
) -> Change:
    """The change of one setting of a stage."""
    other = replace(stage, **{name: value})  # type: ignore[arg-type]  # by the callers
    stages = tuple(other if each is stage else each for each in recipe.stages)
    return Change(words, replace(recipe, stages=stages), machines, choices)


def _devices(recipe: Recipe, machines: Machines, choices: Choices) -> Iterator[Change]:
    """More devices, or larger ones."""
    if choices.layout is None and machines.device.flops:
        for count in (count for count in COUNTS if count > machines.count):
            yield Change(f"--count {count}, fully sharded", recipe, replace(machines, count=count), choices)
    room, half = machines.device.memory_bytes, replace(machines, dtype="bfloat16")
    for name, device in sorted(DEVICES.items(), key=lambda pair: pair[1].memory_bytes):
        if device.memory_bytes > room:
            yield Change(f"--device {name}", recipe, replace(half, device=device), choices)


def fits(recipe: Recipe, machines: Machines, choices: Choices) -> bool:
    """Whether every stage of the recipe itself fits the memory of each device."""
    layout = choices.layout or Layout(shard=machines.count)
    room = machines.device.memory_bytes
    return all(memory(training_of(stage, machines, choices), layout).peak <= room for stage in trained_stages(recipe))
