"""Pre-training: next-token prediction on a mixture of texts, from fresh weights or from a model that exists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from camelid.checkpoints import directory
from camelid.data.batch import PretrainingBatches
from camelid.data.mixture import Mixture
from camelid.errors import Problem, ProblemList, UsageError
from camelid.frozen import diff
from camelid.models.adapt import add_lora, fold
from camelid.models.llama import DEVIATION, Llama, initialise
from camelid.models.prune import pruned
from camelid.models.shape import LlamaShape, LoRA
from camelid.stage import Tokens
from camelid.tokenizers.protocol import Tokenizer
from camelid.train.assemble import check, check_free, dtype_of, read_as
from camelid.train.course import Course
from camelid.train.loop import Conduct, Trained
from camelid.train.loss import Distilled, NextToken
from camelid.train.settings import AdamW, Schedule, check_together
from camelid.train.vocabulary import NewRows, old_pieces, with_rows


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
    new_rows: NewRows = "mean",
    adapter: LoRA | None = None,
    cut: Literal["weights"] | None = None,
    teacher: Path | None = None,
    seed: int = 0,
    conduct: Conduct,
    provenance: Mapping[str, Any] | None = None,
) -> Trained:
    """Trains on `mixture` to its last whole step and saves the model, with its tokenizer, as the folder `target`.

    run      directory of the run: its journal and commits; an interrupted run goes on from there
    length   tokens of a row; `batch` tokens make a step
    start    folder of a model whose weights to begin with; its shape may differ in context, rotary base and scaling.
             Without it weights are drawn from `seed`, with this standard deviation
    new_rows how rows begin that the tokenizer has beyond the parent's (camelid/train/vocabulary.py)
    adapter  train low-rank adapters and the matrices they name whole, then merge them; RUN/adapter is the adapter for PEFT
             (none beside a parent that is cut or reads positions otherwise, which is noted)
    cut      "weights": the parent is pruned to `shape` first (camelid/models/prune.py)
    teacher  folder of a model with the same vocabulary, whose distribution of each next token is learned (distillation)

    Raises what `train` raises, and UsageError or StoreError before any work where it could not be finished.
    """
    if conduct.ranks.leads:
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
    problems = ProblemList()
    check_together(optim, adapter, None, "", problems)
    problems.raise_usage()
    course = Course(
        target=target,
        run=run,
        parent=None if start is None else directory.load(start),
        shape=shape,
        tokenizer=tokenizer,
        batches=batches,
        optim=optim,
        schedule=schedule,
        clip=clip,
        adapter=adapter,
        cut=cut is not None,
        seed=seed,
        conduct=conduct,
        provenance=provenance,
    )
    course.tell_apart()
    facts = course.facts(
        "pretrain",
        shape,
        deviation=deviation,
        **({"new rows": new_rows} if new_rows != "mean" else {}),
        **({"adapter": adapter} if adapter else {}),
        **({"cut": cut} if cut else {}),
        **({"teacher": directory.load(teacher).digest} if teacher else {}),
    )
    return course.take(
        facts,
        partial(_prepared, course.parent, tokenizer, shape, new_rows, cut, adapter, seed=seed, deviation=deviation),
        lambda: NextToken() if teacher is None else Distilled(_taught_by(teacher, tokenizer, conduct)),
        merged=lambda model: fold(model).state_dict(),
    )


def _prepared(
    parent: directory.Checkpoint | None,
    tokenizer: Tokenizer,
    shape: LlamaShape,
    new_rows: NewRows,
    cut: Literal["weights"] | None,
    adapter: LoRA | None,
    *,
    seed: int,
    deviation: float,
    conduct: Conduct,
) -> Llama:
    """The model as it will be trained: fresh, begun as its parent or cut out of it, and with its adapter."""
    if parent is None:
        model = _fresh(shape, seed, deviation, conduct.machine.device)
    else:
        check_vocabulary(parent, tokenizer)
        if cut is None:
            model = _begun(parent, tokenizer, shape, new_rows, seed, conduct)
        else:
            model = pruned(directory.build(parent, torch.float32, conduct.machine.device), shape)
    return model if adapter is None else add_lora(model.to(dtype_of(conduct)), adapter, seed=seed)


def _fresh(shape: LlamaShape, seed: int, deviation: float, device: str) -> Llama:
    model = Llama(shape, dtype=torch.float32, device=device)
    initialise(model, seed, deviation=deviation)
    return model


def _taught_by(path: Path, tokenizer: Tokenizer, conduct: Conduct) -> Llama:
    """The teacher, frozen, in the machine's dtype. Raises UsageError for one of another vocabulary."""
    teacher = directory.load(path)
    if teacher.tokenizer.digest() != tokenizer.digest():
        found = f"{path} has another vocabulary than the model"
        raise UsageError(
            [Problem("teacher", found, "its tokens must be the student's: take a parent of the same line")]
        )
    model = directory.build(teacher, dtype_of(conduct), conduct.machine.device)
    return model.eval().requires_grad_(False)


def check_vocabulary(parent: directory.Checkpoint, tokenizer: Tokenizer) -> None:
    """Raises UsageError where the tokenizer does not begin with the parent's own pieces: its rows would mean others."""
    own = parent.tokenizer
    size = min(own.size, tokenizer.size)
    other = next((id for id in range(size) if own.piece(id) != tokenizer.piece(id)), None)
    if other is not None:
        found = f"id {other} is {tokenizer.piece(other)!r}, in {parent.path} {own.piece(other)!r}"
        raise UsageError([Problem("tokenizer", found, "take the parent's own vocabulary, or one that extends it")])


def _begun(
    parent: directory.Checkpoint,
    tokenizer: Tokenizer,
    shape: LlamaShape,
    new_rows: NewRows,
    seed: int,
    conduct: Conduct,
) -> Llama:
    """The parent's weights under `shape`, which may have more rows and read positions in another way."""
    rows = max(parent.shape.vocab, tokenizer.size)
    read = replace(parent.shape, vocab=rows, context=shape.context, theta=shape.theta, scaling=shape.scaling)
    if read != shape:
        changes = "; ".join(f"{c.path} {c.before} -> {c.after}" for c in diff(read, shape))
        raise UsageError(
            [Problem("shape", f"not that of {parent.path}: {changes}", "continue a model in its own shape")]
        )
    weights = directory.build(parent, torch.float32, conduct.machine.device)
    pieces = old_pieces(parent.tokenizer, tokenizer) if new_rows == "pieces" else None
    known = parent.tokenizer.size
    begun = with_rows(weights, max(known, tokenizer.size), known=known, new=new_rows, pieces=pieces, seed=seed)
    return read_as(begun, shape)
