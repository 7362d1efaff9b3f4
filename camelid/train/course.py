"""The course of a training stage from what it begins with to the folder it leaves: one for pre-training and fine-tuning.

facts      what decides the result, told to the run, which refuses to go on under others
model      prepared, dressed with what lasts as long as its training, recomputing or in float8 where the machine says so
training   optimizer, placement among ranks, the loop
folder     weights, with an adapter merged; provenance; RUN/adapter for PEFT; the certificate
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from camelid.checkpoints import directory
from camelid.checkpoints.safetensors_io import Deferred
from camelid.dialogue.template import Template
from camelid.generate.certificate import certificate
from camelid.models.adapt import portable, set_randomness
from camelid.models.llama import Llama
from camelid.models.shape import LlamaShape, LoRA
from camelid.tokenizers.protocol import Tokenizer
from camelid.train import float8
from camelid.train.assemble import (
    identity,
    on_cpu,
    optimizer_for,
    save_adapter,
    saving,
    told,
    weights_of,
    why_no_adapter,
    worn,
)
from camelid.train.loop import Batches, Conduct, Trained, train
from camelid.train.loss import Loss
from camelid.train.settings import AdamW, Schedule

Weights = Mapping[str, torch.Tensor | Deferred]


class Prepared(Protocol):
    """The model as it will be trained, made afresh at each call for the machine that it is to be made on."""

    def __call__(self, *, conduct: Conduct) -> Llama: ...


@dataclass(frozen=True, kw_only=True)
class Course:
    """What a stage trains, on what, and how; checked by whoever makes one.

    target, run   the folder that the finished model becomes, and the directory of the run
    parent        what the model comes from; None for fresh weights
    shape         of the model that is trained
    cut           whether the parent is pruned to that shape, so that the base an adapter learns beside is no model
    """

    target: Path
    run: Path
    parent: directory.Checkpoint | None
    shape: LlamaShape
    tokenizer: Tokenizer
    template: Template | None = None
    batches: Batches
    optim: AdamW
    schedule: Schedule
    clip: float | None
    adapter: LoRA | None
    cut: bool = False
    seed: int
    conduct: Conduct
    provenance: Mapping[str, Any] | None

    def facts(self, kind: str, shape: LlamaShape, **own: object) -> dict[str, Any]:
        """What decides the result: a stage of this kind, begun in this shape, and settings of its own."""
        return identity(
            kind,
            shape=shape,
            tokenizer=self.tokenizer.digest(),
            start=None if self.parent is None else self.parent.digest,
            optim=self.optim,
            schedule=self.schedule,
            clip=self.clip,
            **own,
        )

    def take(
        self,
        facts: Mapping[str, Any],
        prepared: Prepared,
        loss: Callable[[], Loss],
        *,
        merged: Callable[[Llama], Weights],
        dress: Callable[[Llama], None] = lambda model: None,
        measure: Callable[[Llama], Mapping[str, Any]] | None = None,
    ) -> Trained:
        """Trains the model to the end, from the run's last commit where there is one, and saves it.

        loss     made when the model is there, so that a teacher is loaded after it
        merged   the weights of the model with its adapter merged into it, for good
        dress    puts on the model what lasts as long as its training
        measure  what merging the adapter moves, for the provenance

        Raises what `train` raises, and StoreError where the folder cannot be saved.
        """
        conduct = self.conduct
        model = prepared(conduct=conduct)
        dress(model)
        model.recompute = conduct.machine.recompute
        if float8.wanted(conduct.machine):
            float8.through_float8(model, compiled=conduct.machine.compile)
        optimizer, placement = optimizer_for(
            model, self.optim, self.clip, conduct, self.run, adapted=self.adapter is not None
        )
        trained = train(
            model,
            self.batches,
            loss(),
            optimizer,
            self.schedule,
            directory=self.run,
            seed=self.seed,
            identity=facts,
            conduct=conduct,
            draw=partial(set_randomness, model, self.seed),
            placement=placement,
        )
        weights: Weights = {}
        if self.adapter is None:
            weights = weights_of(model, placement, conduct)
        else:
            model = worn(model, placement, partial(prepared, conduct=on_cpu(conduct)))
        with saving(conduct) as here:
            if here:
                history = told(self.provenance or {}, trained, facts, self.batches, conduct)
                if self.adapter is not None:
                    if measure is not None:
                        history["training"]["merged"] = measure(model)
                    self._save_adapter(model, history)
                    weights = merged(model)
                self._save(weights, history)
        return trained

    @property
    def apart(self) -> str:
        """Why what an adapter learns cannot be a folder of its own, where that is to be told; "" otherwise."""
        if self.adapter is None or self.parent is None:
            return ""
        return why_no_adapter(self.parent, self.shape, self.adapter, cut=self.cut)

    def tell_apart(self) -> None:
        """Notes, before any work, that there will be no adapter folder, and why."""
        if self.apart:
            self.conduct.note(f"no adapter folder, the merged model alone: {self.apart}")

    def _save_adapter(self, model: Llama, history: Mapping[str, Any]) -> None:
        if self.parent is None or self.apart:
            return
        learned, parent = portable(model), self.parent
        save_adapter(self.run, learned, parent, self.shape, self.tokenizer, self.template, history, self.conduct)

    def _save(self, weights: Weights, history: Mapping[str, Any]) -> None:
        shape, tokenizer, template, conduct = self.shape, self.tokenizer, self.template, self.conduct
        directory.save(
            self.target,
            weights,
            shape=shape,
            tokenizer=tokenizer,
            template=template,
            provenance=history,
            extra=certificate(weights, shape, tokenizer, template, device=conduct.machine.device, note=conduct.note),
            files=conduct.files,
        )
