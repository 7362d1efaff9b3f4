"""Pre-training: next-token prediction on a mixture of texts, from fresh weights or from a model that exists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from camelid.checkpoints import directory
from camelid.data.batch import PretrainingBatches
from camelid.data.mixture import Mixture
from camelid.errors import Problem, UsageError
from camelid.frozen import diff
from camelid.models.llama import DEVIATION, Llama, initialise
from camelid.models.shape import LlamaShape
from camelid.stage import Tokens
from camelid.tokenizers.protocol import Tokenizer
from camelid.train.assemble import check, check_free, dtype_of, identity, optimizer_for, told
from camelid.train.loop import Conduct, Trained, train
from camelid.train.loss import NextToken
from camelid.train.settings import AdamW, Schedule


def pretrain(
    target: Path,
    run: Path,
    *,
    shape: LlamaShape,
    tokenizer: Tokenizer,
    mixture: Mixture,
    length: int,
    batch: Tokens,
    optim: AdamW,
    schedule: Schedule,
    clip: float | None = 1.0,
    start: Path | None = None,
    deviation: float = DEVIATION,
    seed: int = 0,
    conduct: Conduct,
    provenance: Mapping[str, Any] | None = None,
) -> Trained:
    """Trains on `mixture` to its last whole step and saves the model, with its tokenizer, as the folder `target`.

    run      directory of the run: its journal and commits; an interrupted run goes on from there
    length   tokens of a row; `batch` tokens make a step
    start    folder of a model whose weights to begin with; its shape may differ in context, rotary base and scaling.
             Without it weights are drawn from `seed`, with this standard deviation

    Raises what `train` raises, and UsageError or StoreError before any work where it could not be finished.
    """
    check_free(target)
    micro_tokens = max(length, conduct.machine.micro_tokens)
    batches = PretrainingBatches(
        mixture,
        length=length,
        tokens_per_step=batch.count,
        micro_tokens=micro_tokens,
        shares=conduct.machine.shares,
    )
    check(
        optim=optim,
        schedule=schedule,
        clip=clip,
        steps=batches.steps,
        longest=length,
        shape=shape,
        ids=tokenizer.size,
    )
    parent = None if start is None else directory.load(start)
    facts = identity(
        "pretrain",
        shape=shape,
        tokenizer=tokenizer.digest(),
        start=None if parent is None else parent.digest,
        optim=optim,
        schedule=schedule,
        clip=clip,
        deviation=deviation,
    )
    model = _fresh(shape, seed, deviation, conduct.machine.device) if parent is None else _begun(parent, shape, conduct)
    model.recompute = conduct.machine.recompute
    trained = train(
        model,
        batches,
        NextToken(),
        optimizer_for(model, optim, clip, dtype_of(conduct)),
        schedule,
        directory=run,
        seed=seed,
        identity=facts,
        conduct=conduct,
    )
    directory.save(
        target,
        model.state_dict(),
        shape=shape,
        tokenizer=tokenizer,
        provenance=told(provenance or {}, trained, facts, batches, conduct),
        files=conduct.files,
    )
    return trained


def _fresh(shape: LlamaShape, seed: int, deviation: float, device: str) -> Llama:
    model = Llama(shape, dtype=torch.float32, device=device)
    initialise(model, seed, deviation=deviation)
    return model


def _begun(parent: directory.Checkpoint, shape: LlamaShape, conduct: Conduct) -> Llama:
    """The parent's weights under `shape`, which may read positions in another way: longer, faster or stretched."""
    read = replace(parent.shape, context=shape.context, theta=shape.theta, scaling=shape.scaling)
    if read != shape:
        changes = "; ".join(f"{c.path} {c.before} -> {c.after}" for c in diff(read, shape))
        raise UsageError(
            [Problem("shape", f"not that of {parent.path}: {changes}", "continue a model in its own shape")]
        )
    weights = directory.build(parent, torch.float32, conduct.machine.device)
    model = Llama(shape, dtype=torch.float32, device="meta")
    model.load_state_dict(weights.state_dict(), assign=True)
    return model
