"""Fine-tuning: supervised training on rendered dialogues, of every weight or of low-rank adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from camelid.checkpoints import directory
from camelid.checkpoints.names import expected
from camelid.checkpoints.safetensors_io import Deferred
from camelid.data.batch import SequenceBatches
from camelid.data.corpus import Corpus
from camelid.dialogue.template import Template
from camelid.errors import BadData, Problem, ProblemList, UsageError
from camelid.models.adapt import add_lora, check_bits, computing_with, lean, merged
from camelid.models.dropout import add_residual_dropout
from camelid.models.llama import Llama
from camelid.models.noise import add_noise
from camelid.models.shape import LlamaShape, LoRA, RopeScaling
from camelid.nn.frozen import Bits, FrozenLinear
from camelid.nn.lora import LoRALinear
from camelid.stage import Epochs, Sequences, Steps
from camelid.tokenizers.extend import with_controls, with_pad
from camelid.tokenizers.protocol import Tokenizer
from camelid.train.assemble import check, check_free, dtype_of, read_as
from camelid.train.course import Course, Weights
from camelid.train.loop import Conduct, Trained
from camelid.train.loss import NextToken
from camelid.train.settings import AdamW, Schedule, check_together
from camelid.train.vocabulary import NewRows, old_pieces, with_rows


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
    noise: float = 0.0,
    adapter: LoRA | None = None,
    tokenizer: Tokenizer | None = None,
    new_rows: NewRows = "mean",
    context: int | None = None,
    scaling: RopeScaling | None = None,
    order: Literal["shuffled", "given"] = "shuffled",
    base: Bits | None = None,
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
    noise     alpha of the noise on the embeddings (NEFTune)
    adapter   train low-rank adapters only: `target` is then the merged model, and RUN/adapter the adapter for PEFT
              (none where `scaling` makes the base read positions otherwise than it does by itself, which is noted)
    tokenizer a larger vocabulary that begins with the parent's, with which `corpus` was rendered; rows for it begin as
              `new_rows` says (camelid/train/vocabulary.py)
    context   tokens that the model is made for from now on, with the positions scaled by `scaling`
    order     of the sequences in an epoch: fresh each time, or the corpus's own (a curriculum)
    base      keep the frozen weights beside it in int8 or NF4 (QLoRA): what is merged are the weights so kept

    Beside an adapter the provenance tells "merged": how far the merged model's logits are from those of the model that
    was trained, at most, over a few of its own tokens; and with `base` or PiSSA, whose adapter is meant for them, how far
    they would be on the start's own weights.

    Raises what `train` raises, and UsageError or StoreError before any work where it could not be finished.
    """
    if conduct.ranks.leads:
        check_free(target)
    parent = directory.load(start)
    tokenizer = tokenizer or parent.tokenizer
    tokenizer = _padded(with_controls(tokenizer, controls) if controls else tokenizer, pad)
    rows = max(parent.shape.vocab, tokenizer.size)
    shape = replace(parent.shape, vocab=rows, context=context or parent.shape.context)
    shape = shape if scaling is None else replace(shape, scaling=scaling)
    frozen = adapter is not None and not {"embed_tokens", *(() if shape.tied else ("lm_head",))} <= set(adapter.trained)
    if frozen and tokenizer.size > parent.tokenizer.size:
        names = ", ".join(map(repr, [*controls, *([pad] if pad else [])])) or "the larger vocabulary"
        found = f"{names} needs a row of its own in the weights that an adapter leaves as they are"
        remedy = "leave it out: nothing here is padded" if pad else "train every weight"
        raise UsageError([Problem("pad" if pad else "controls", found, remedy)])
    _check_frugal(parent, tokenizer, optim, adapter, base)
    batches = _batches(corpus, batch, amount, conduct, seed, order)
    check(
        optim=optim,
        schedule=schedule,
        clip=clip,
        steps=batches.steps,
        longest=int(corpus.lengths.max(initial=0)),
        shape=shape,
        ids=int(corpus.ids.max(initial=0)) + 1,
    )
    check_learned(batches)
    course = Course(
        target=target,
        run=run,
        parent=parent,
        shape=shape,
        tokenizer=tokenizer,
        template=template,
        batches=batches,
        optim=optim,
        schedule=schedule,
        clip=clip,
        adapter=adapter,
        seed=seed,
        conduct=conduct,
        provenance=provenance,
    )
    course.tell_apart()
    facts = course.facts(
        "finetune",
        parent.shape,
        template=template,
        adapter=adapter,
        **({"dropout": dropout} if dropout else {}),
        **({"read as": shape} if shape != replace(parent.shape, vocab=rows) else {}),
        **({"new rows": new_rows} if new_rows != "mean" else {}),
        **({"noise": noise} if noise else {}),
        **({"base": base} if base else {}),
    )

    def dress(model: Llama) -> None:
        add_residual_dropout(model, dropout)
        add_noise(model, noise)

    return course.take(
        facts,
        partial(_prepared, parent, tokenizer, shape, new_rows, adapter=adapter, base=base, seed=seed),
        NextToken,
        dress=dress,
        merged=_one_by_one,
        measure=lambda model: _moved_by_merging(model, parent, corpus, base),
    )


def _one_by_one(model: Llama) -> Weights:
    """The weights of the model with its adapter merged into it, each made when its turn has come."""
    shapes = expected(model.shape)
    return {name: Deferred(model.dtype, shapes[name], make) for name, make in merged(model).items()}


def _check_frugal(
    parent: directory.Checkpoint, tokenizer: Tokenizer, optim: AdamW, adapter: LoRA | None, base: Bits | None
) -> None:
    """Raises UsageError for economies that do not go together."""
    problems = ProblemList()
    check_together(optim, adapter, base, "", problems)
    if base is not None and tokenizer.size > parent.tokenizer.size:
        added = tokenizer.size - parent.tokenizer.size
        found = f"{added} row{'s are' if added > 1 else ' is'} begun in a base that lies in {base}"
        problems.add("base", found, "leave out the new tokens, or keep the base whole")
    problems.raise_usage()
    if base is not None:
        check_bits(parent.shape, base)


PROBE = 256  # ours: tokens over which logits before and after merging are compared


@torch.no_grad()
def _moved_by_merging(model: Llama, parent: directory.Checkpoint, corpus: Corpus, base: Bits | None) -> dict[str, Any]:
    """The largest difference between logits of the model with its adapter beside it and of the merged one, and, where
    the base was quantised, of the adapter on the weights that it was quantised from; where it gave directions up (PiSSA),
    of the adapter's folder on the weights that it gave them up from. One layer is whole at a time."""
    ids = torch.from_numpy(np.asarray(corpus.ids[:PROBE], dtype=np.int64))[None].to(model.device)
    stored = parent.tensors()

    def own(name: str, part: LoRALinear | FrozenLinear) -> torch.Tensor:
        return part.sum() if isinstance(part, LoRALinear) else part.dense()

    def exact(name: str, part: LoRALinear | FrozenLinear) -> torch.Tensor:
        weight = stored[f"{name}.weight"].to(device=model.device, dtype=model.dtype)
        return part.sum(weight) if isinstance(part, LoRALinear) else weight

    model.eval()
    worn = model(ids).float()
    found = {"tokens": ids.shape[1], "largest logit": float(worn.abs().max())}
    beside = {"largest difference": own}
    if base is not None:
        beside["largest difference to the unquantised base"] = exact
    elif model.adapter is not None and model.adapter.start == "pissa":
        beside["largest difference on the base as it was"] = exact
    for words, weight in beside.items():
        with computing_with(model, weight):
            found[words] = float((model(ids).float() - worn).abs().max())
    model.train()
    return found


def _padded(tokenizer: Tokenizer, pad: str | None) -> Tokenizer:
    return tokenizer if pad is None or tokenizer.pad is not None else with_pad(tokenizer, pad)


def _batches(
    corpus: Corpus,
    batch: Sequences,
    amount: Epochs | Steps,
    conduct: Conduct,
    seed: int,
    order: Literal["shuffled", "given"],
) -> SequenceBatches:
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
        sequence=order,
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
    tokenizer: Tokenizer,
    shape: LlamaShape,
    new_rows: NewRows,
    *,
    adapter: LoRA | None,
    base: Bits | None,
    seed: int,
    conduct: Conduct,
) -> Llama:
    """The model as it will be trained. A frozen base lies in the machine's dtype, or in few bits; its adapters are
    float32."""
    device, dtype = conduct.machine.device, dtype_of(conduct)
    if base is not None and adapter is not None:
        return lean(shape, parent.tensors(), adapter, bits=base, seed=seed, dtype=dtype, device=device)
    model = directory.build(parent, torch.float32 if adapter is None else dtype, device)
    pieces = old_pieces(parent.tokenizer, tokenizer) if new_rows == "pieces" else None
    known = parent.tokenizer.size
    model = with_rows(model, max(known, tokenizer.size), known=known, new=new_rows, pieces=pieces, seed=seed)
    model = read_as(model, shape)
    if adapter is None:
        return model
    return add_lora(model, adapter, seed=seed)
