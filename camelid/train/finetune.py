"""Fine-tuning: supervised training on rendered dialogues, of every weight or of low-rank adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from camelid.checkpoints import adapter as adapters
from camelid.checkpoints import directory
from camelid.data.batch import SequenceBatches
from camelid.data.corpus import Corpus
from camelid.dialogue.template import Template
from camelid.errors import BadData, Problem, StoreError, UsageError
from camelid.models.adapt import adapter_state, add_lora, fold, set_randomness
from camelid.models.dropout import add_residual_dropout
from camelid.models.llama import Llama
from camelid.models.shape import LoRA
from camelid.stage import Epochs, Sequences, Steps
from camelid.tokenizers.extend import with_controls, with_pad
from camelid.tokenizers.protocol import Tokenizer
from camelid.train.assemble import check, check_free, dtype_of, identity, optimizer_for, told
from camelid.train.loop import Conduct, Trained, train
from camelid.train.loss import NextToken
from camelid.train.optim import Optimizer
from camelid.train.settings import AdamW, Schedule
from camelid.train.vocabulary import with_rows

ADAPTER = "adapter"


def finetune(
    target: Path,
    run: Path,
    *,
    start: Path,
    corpus: Corpus,
    template: Template,
    batch: Sequences,
    amount: Epochs | Steps,
    optim: AdamW,
    schedule: Schedule,
    clip: float | None = 1.0,
    pad: str | None = None,
    controls: Sequence[str] = (),
    dropout: float = 0.0,
    adapter: LoRA | None = None,
    seed: int = 0,
    conduct: Conduct,
    provenance: Mapping[str, Any] | None = None,
) -> Trained:
    """Trains the model in `start` on `corpus` and saves it, with tokenizer and template, as the folder `target`.

    run       directory of the run: its journal and commits; an interrupted run goes on from there
    corpus    dialogues rendered through `template` with the model's own tokenizer
    pad       a control token to pad with, added with the mean of all rows where the tokenizer has none (Alpaca)
    controls  further control tokens, added in the same way (Open Assistant, LIMA); `corpus` was rendered with them
    dropout   of residual branches, rising from 0 at the first layer to this at the last (LIMA)
    adapter   train low-rank adapters only: `target` is then the merged model, and RUN/adapter the adapter for PEFT

    Raises what `train` raises, and UsageError or StoreError before any work where it could not be finished.
    """
    check_free(target)
    parent = directory.load(start)
    tokenizer = with_controls(parent.tokenizer, controls) if controls else parent.tokenizer
    tokenizer = _padded(tokenizer, pad)
    rows = max(parent.shape.vocab, tokenizer.size)
    if adapter is not None and rows > parent.shape.vocab:
        names = ", ".join(map(repr, [*controls, *([pad] if pad else [])]))
        found = f"{names} adds a row to the weights that an adapter leaves as they are"
        remedy = "leave it out: nothing here is padded" if pad else "train every weight"
        raise UsageError([Problem("pad" if pad else "controls", found, remedy)])
    batches = _batches(corpus, batch, amount, conduct, seed)
    check(
        optim=optim,
        schedule=schedule,
        clip=clip,
        steps=batches.steps,
        longest=int(corpus.lengths.max(initial=0)),
        shape=replace(parent.shape, vocab=rows),
        ids=int(corpus.ids.max(initial=0)) + 1,
    )
    check_learned(batches)
    facts = identity(
        "finetune",
        shape=parent.shape,
        tokenizer=tokenizer.digest(),
        start=parent.digest,
        optim=optim,
        schedule=schedule,
        clip=clip,
        template=template,
        adapter=adapter,
        **({"dropout": dropout} if dropout else {}),
    )
    model, optimizer = _prepared(parent, rows, adapter, optim, clip, seed, conduct)
    add_residual_dropout(model, dropout)
    model.recompute = conduct.machine.recompute
    trained = train(
        model,
        batches,
        NextToken(),
        optimizer,
        schedule,
        directory=run,
        seed=seed,
        identity=facts,
        conduct=conduct,
        draw=partial(set_randomness, model, seed),
    )
    history = told(provenance or {}, trained, facts, batches, conduct)
    if adapter is not None:
        _save_adapter(run / ADAPTER, model, adapter, parent, history, conduct)
        fold(model)
    directory.save(
        target,
        model.state_dict(),
        shape=model.shape,
        tokenizer=tokenizer,
        template=template,
        provenance=history,
        files=conduct.files,
    )
    return trained


def _padded(tokenizer: Tokenizer, pad: str | None) -> Tokenizer:
    return tokenizer if pad is None or tokenizer.pad is not None else with_pad(tokenizer, pad)


def _batches(corpus: Corpus, batch: Sequences, amount: Epochs | Steps, conduct: Conduct, seed: int) -> SequenceBatches:
    """The amount in epochs; half a step less than asked, because the data rounds up to whole steps."""
    per_epoch = -(-len(corpus) // max(1, batch.count)) or 1
    epochs = amount.count if isinstance(amount, Epochs) else (amount.count - 0.5) / per_epoch
    micro_tokens = max(int(corpus.lengths.max(initial=0)), conduct.machine.micro_tokens)
    return SequenceBatches(
        corpus,
        per_step=batch.count,
        epochs=epochs,
        micro_tokens=micro_tokens,
        seed=seed,
        shares=conduct.machine.shares,
    )


def check_learned(batches: SequenceBatches) -> None:
    """Raises BadData if some step would have no learned token at all, before any step is done."""
    corpus = batches.corpus
    if corpus.learned is None:
        return
    learned = np.concatenate([[0], np.cumsum(corpus.learned, dtype=np.int64)])
    begins = np.minimum(corpus.starts[:-1] + 1, corpus.starts[1:])  # the first id of a sequence is nobody's target
    empty = learned[corpus.starts[1:]] == learned[begins]
    smallest = min(batches.per_step, len(corpus) % batches.per_step or batches.per_step)
    if np.count_nonzero(empty) < smallest:
        return
    bare = [step for step in range(batches.steps) if empty[batches.chosen(step)].all()]
    if bare:
        found = f"{len(bare)} of {batches.steps} steps, first step {bare[0] + 1}, hold no learned token"
        remedy = "leave out sequences with nothing to learn, allow longer ones, or take more into a step"
        raise BadData([Problem("data", found, remedy)])


def _prepared(
    parent: directory.Checkpoint,
    rows: int,
    adapter: LoRA | None,
    optim: AdamW,
    clip: float | None,
    seed: int,
    conduct: Conduct,
) -> tuple[Llama, Optimizer]:
    """The model as it will be trained. A frozen base lies in the machine's dtype; its adapters are float32."""
    device, dtype = conduct.machine.device, dtype_of(conduct)
    if adapter is None:
        model = with_rows(directory.build(parent, torch.float32, device), rows)
        return model, optimizer_for(model, optim, clip, dtype)
    model = add_lora(directory.build(parent, dtype, device), adapter, seed=seed)
    return model, Optimizer(dict(model.named_parameters()), optim, clip=clip)


def _save_adapter(
    path: Path,
    model: Llama,
    adapter: LoRA,
    parent: directory.Checkpoint,
    history: Mapping[str, Any],
    conduct: Conduct,
) -> None:
    state = adapter_state(model)
    if path.exists():  # saved before the run was killed
        saved = adapters.load(path, parent).tensors()
        if saved.keys() != state.keys() or not all(torch.equal(saved[name], state[name].cpu()) for name in state):
            raise StoreError(f"{path}: holds another run's adapter; remove it, then resume")
        return
    adapters.save(
        path,
        state,
        lora=adapter,
        shape=parent.shape,
        base=parent.digest,
        base_name=parent.path.name,
        provenance=history,
        files=conduct.files,
    )
