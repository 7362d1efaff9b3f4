"""What pre-training and fine-tuning share: settings checked before any work, identity before, provenance after it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camelid.errors import ProblemList, StoreError
from camelid.frozen import to_data
from camelid.models.llama import Llama
from camelid.models.shape import LlamaShape
from camelid.train import schedule as schedules
from camelid.train.loop import Batches, Conduct, Trained, bits
from camelid.train.optim import Optimizer
from camelid.train.parallel import Placement, place
from camelid.train.settings import AdamW, Schedule


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


def optimizer_for(
    model: Llama, optim: AdamW, clip: float | None, conduct: Conduct
) -> tuple[Optimizer, Placement | None]:
    """An optimizer of all weights that learn, and how the model was divided among ranks, where the machine asks for it.

    Then the whole model, frozen weights too, computes in the machine's precision.
    """
    dtype = dtype_of(conduct)
    placement = place(model, conduct.machine, conduct.ranks, dtype)
    if placement is not None:
        shards = conduct.machine.shard > 1  # they are rounded as they are gathered
        optimizer = Optimizer(placement.locals(), optim, clip=clip, dtype=None if shards else dtype)
        return optimizer, placement
    optimizer = Optimizer(dict(model.named_parameters()), optim, clip=clip, dtype=dtype)
    model.to(dtype)
    return optimizer, None


def weights_of(model: Llama, placement: Placement | None, conduct: Conduct) -> Mapping[str, Tensor]:
    """The trained model's weights; of a divided one put together on rank 0, and nothing elsewhere."""
    return model.state_dict() if placement is None else placement.state(dtype_of(conduct))


@contextmanager
def saving(conduct: Conduct) -> Iterator[bool]:
    """Whether this rank saves what was trained; the others wait until it is saved, and fail if that fails."""
    with conduct.ranks.first("saving the model"):
        yield conduct.ranks.leads


def dtype_of(conduct: Conduct) -> torch.dtype:
    """What the machine computes in."""
    dtype: torch.dtype = getattr(torch, conduct.machine.dtype)
    return dtype


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
