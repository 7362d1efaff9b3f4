"""The parts of the course that pre-training and fine-tuning share: settings checked, identity before, provenance after."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from camelid.checkpoints import adapter as adapters
from camelid.checkpoints.directory import Checkpoint
from camelid.errors import ProblemList, StoreError
from camelid.frozen import to_data
from camelid.models.llama import Llama
from camelid.models.shape import LlamaShape, LoRA
from camelid.tokenizers.protocol import Tokenizer
from camelid.train import schedule as schedules
from camelid.train.loop import Batches, Conduct, Trained, bits
from camelid.train.optim import Optimizer
from camelid.train.optimizers import optimizer_of
from camelid.train.parallel import Placement, place
from camelid.train.parallel import check as check_divided
from camelid.train.settings import AdamW, Schedule

if TYPE_CHECKING:
    from camelid.dialogue.template import Template

ADAPTER = "adapter"  # the folder of a run in which the adapter lies that PEFT reads


def check_free(target: Path) -> None:
    """Raises StoreError if something stands where the finished model is to go, before any work is done for it."""
    if os.path.lexists(target):
        raise StoreError(f"{target}: exists already; choose another name or remove it first")


def check(
    *, optim: AdamW, schedule: Schedule, clip: float | None, steps: int, longest: int, shape: LlamaShape, ids: int
) -> None:
    """Raises UsageError with everything that makes no sense: rates, warm-up, clip, texts or ids beyond the model."""
    problems = ProblemList()
    optim.check("optim", problems)
    schedules.check(schedule, steps, "schedule", problems)
    if clip is not None and not 0 < clip < float("inf"):
        problems.add("clip", f"{clip}", "use a positive norm, or none for no clipping")
    if longest > shape.context:
        problems.add("length", f"{longest} tokens, the model was made for {shape.context}", "use shorter sequences")
    if ids > shape.vocab:
        problems.add("tokenizer", f"{ids} ids, the model has {shape.vocab} rows", "use the model's own tokenizer")
    problems.raise_usage()


def identity(kind: str, *, shape: LlamaShape, tokenizer: str, **settings: object) -> dict[str, Any]:
    """What decides a run's result besides seed and data, as JSON values; a resumed run must find it unchanged."""
    told = {name: to_data(value) for name, value in settings.items()}
    return {"kind": kind, "shape": to_data(shape), "tokenizer": tokenizer, **told}


def read_as(model: Llama, shape: LlamaShape) -> Llama:
    """The same weights under `shape`, which may read positions in another way: longer, faster or stretched."""
    if model.shape == shape:
        return model
    other = Llama(shape, dtype=torch.float32, device="meta")
    other.load_state_dict(model.state_dict(), assign=True)
    return other


def optimizer_for(
    model: Llama, optim: AdamW, clip: float | None, conduct: Conduct, folder: Path, *, adapted: bool = False
) -> tuple[Optimizer, Placement | None]:
    """An optimizer of all weights that learn, paged moments in a file of `folder`, and how the model was divided among
    ranks, where the machine asks for it.

    Then the whole model, frozen weights too, computes in the machine's precision; an `adapted` one is left as it is.
    Raises UsageError for what cannot be divided.
    """
    machine, dtype = conduct.machine, None if adapted else dtype_of(conduct)
    problems = ProblemList()
    check_divided(model.shape, machine, problems, adapted=adapted, optim=optim)
    problems.raise_usage()
    placement = place(model, machine, conduct.ranks, dtype_of(conduct))
    if placement is not None:
        shards = machine.shard > 1  # they are rounded as they are gathered
        return Optimizer(placement.locals(), optim, clip=clip, dtype=None if shards else dtype), placement
    optimizer = optimizer_of(dict(model.named_parameters()), optim, clip=clip, dtype=dtype, folder=folder)
    if dtype is not None:
        model.to(dtype)
    return optimizer, None


def worn(model: Llama, placement: Placement | None, remade: Callable[[], Llama]) -> Llama:
    """The model with its trained adapter, whole on rank 0: where it was divided, one `remade` as this one began, which
    takes over what was learned. Other ranks keep their part."""
    if placement is None:
        return model
    learned = placement.state(None, learned=True)
    if not placement.seat.ranks.leads:
        return model
    whole = remade()
    wanted = {name for name, weight in whole.named_parameters() if weight.requires_grad}
    assert wanted == learned.keys(), "what learns is the same however the model is divided"
    whole.load_state_dict(learned, strict=False)
    return whole


def weights_of(model: Llama, placement: Placement | None, conduct: Conduct) -> Mapping[str, Tensor]:
    """The trained model's weights; of a divided one put together on rank 0, and nothing elsewhere."""
    return model.state_dict() if placement is None else placement.state(dtype_of(conduct))


@contextmanager
def saving(conduct: Conduct) -> Iterator[bool]:
    """Whether this rank saves what was trained; the others wait until it is saved, and fail if that fails."""
    with conduct.ranks.first("saving the model"):
        yield conduct.ranks.leads


def why_no_adapter(parent: Checkpoint, shape: LlamaShape, lora: LoRA, *, cut: bool = False) -> str:
    """Why what an adapter learns beside this parent cannot be a folder of its own; "" where it can."""
    if cut:
        return f"the base that it learns beside is cut out of {parent.path.name} and is no model of its own"
    if (shape.theta, shape.scaling) != (parent.shape.theta, parent.shape.scaling):
        return f"it learns while positions are read otherwise than {parent.path.name} reads them"
    return adapters.TIED if shape.tied and lora.trained else ""


def save_adapter(
    run: Path,
    worn: tuple[LoRA, Mapping[str, Tensor]],
    parent: Checkpoint,
    shape: LlamaShape,
    tokenizer: Tokenizer,
    template: Template | None,
    history: Mapping[str, Any],
    conduct: Conduct,
) -> None:
    """RUN/adapter, which PEFT reads beside the parent; `worn` is what `models.adapt.portable` gives."""
    path, (lora, state) = run / ADAPTER, worn
    if path.exists():  # saved before the run was killed
        saved = adapters.load(path, parent).tensors()
        if saved.keys() != state.keys() or not all(torch.equal(saved[name], state[name].cpu()) for name in state):
            raise StoreError(f"{path}: holds another run's adapter; remove it, then resume")
        return
    adapters.save(
        path,
        state,
        lora=lora,
        shape=shape,
        base=parent.digest,
        base_name=parent.path.name,
        base_rows=parent.shape.vocab,
        base_tokenizer=parent.tokenizer.digest(),
        tokenizer=tokenizer,
        template=template,
        provenance=history,
        files=conduct.files,
    )


def dtype_of(conduct: Conduct) -> torch.dtype:
    """What the machine computes in."""
    dtype: torch.dtype = getattr(torch, conduct.machine.dtype)
    return dtype


def on_cpu(conduct: Conduct) -> Conduct:
    """The same conduct for work beside the run that no accelerator has room for."""
    return replace(conduct, machine=replace(conduct.machine, device="cpu"))


def told(
    provenance: Mapping[str, Any], trained: Trained, facts: Mapping[str, Any], batches: Batches, conduct: Conduct
) -> dict[str, Any]:
    """The provenance of a trained model: what the caller says, and what the run was and did."""
    with open(trained.journal, "rb") as file:
        journal = hashlib.file_digest(file, "sha256").hexdigest()
    training = {
        **facts,
        "data": batches.digest,
        "steps": trained.steps,
        "skipped": trained.skipped,
        "tokens": trained.tokens,
        "supervised": trained.supervised,
        "machine": bits(conduct.machine),
        "journal": journal,
    }
    return {**provenance, "training": training}
