"""Models and data small enough that a step takes milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from camelid.data.batch import Batch
from camelid.machine import Machine
from camelid.models.llama import Llama, initialise
from camelid.models.shape import LlamaShape
from camelid.train.loop import Cadence, Conduct, Trained, train
from camelid.train.loss import NextToken
from camelid.train.optim import Optimizer
from camelid.train.settings import AdamW, Cosine

SHAPE = LlamaShape(layers=2, width=16, heads=2, kv_heads=1, head_width=16, hidden=24, vocab=37, context=32)


def model(seed: int = 0, *, dtype: torch.dtype = torch.float32, shape: LlamaShape = SHAPE) -> Llama:
    made = Llama(shape, dtype=dtype)
    initialise(made, seed)
    return made


def documents(
    generator: np.random.Generator, count: int, *, vocab: int = SHAPE.vocab, share: float = 0.6
) -> list[Batch]:
    """Documents of random lengths, each a batch of its own, a random share of whose targets is learned."""
    return [document(generator, int(generator.integers(1, 14)), vocab=vocab, share=share) for _ in range(count)]


def document(generator: np.random.Generator, length: int, *, vocab: int = SHAPE.vocab, share: float = 0.6) -> Batch:
    ids = generator.integers(0, vocab, (1, length))
    targets = np.roll(ids, -1, axis=1)
    learned = generator.random((1, length)) < share
    learned[:, -1] = False
    return Batch(ids, targets, learned, np.zeros((1, length), np.int32))


def joined(parts: Sequence[Batch]) -> Batch:
    """The documents laid end to end."""
    segments = np.concatenate([np.full(part.tokens, index, np.int32) for index, part in enumerate(parts)])
    rows = [np.concatenate([getattr(part, name) for part in parts], axis=1) for name in ("ids", "targets", "learned")]
    return Batch(*rows, segments[None])


@dataclass
class Steps:
    """Batches of a run: `micros` micro-batches of documents a step, a pure function of the step."""

    steps: int = 6
    micros: int = 2
    documents: int = 3
    seed: int = 0
    vocab: int = SHAPE.vocab
    digest: str = field(default="tiny")

    def at(self, step: int) -> list[Batch]:
        generator = np.random.default_rng([self.seed, step])
        return [joined(documents(generator, self.documents, vocab=self.vocab)) for _ in range(self.micros)]


def optimizer(made: Llama, **settings: Any) -> Optimizer:
    clip, dtype = settings.pop("clip", 1.0), settings.pop("dtype", None)
    words = {"lr": 1e-2, "betas": (0.9, 0.95), "decay": 0.1} | settings
    return Optimizer(dict(made.named_parameters()), AdamW(**words), clip=clip, dtype=dtype)


def conduct(*, micro_tokens: int = 8192, threads: int = 1, steps: int | None = None, **words: Any) -> Conduct:
    cadence = words.pop("cadence", Cadence(steps=steps, seconds=None))
    return Conduct(machine=Machine(threads=threads, micro_tokens=micro_tokens), cadence=cadence, **words)


def run(directory: Path, made: Llama, chosen: Optimizer, batches: Any = None, **words: Any) -> Trained:
    """A run with everything that a test does not care about filled in."""
    return train(
        made,
        batches or Steps(),
        words.pop("loss", NextToken()),
        chosen,
        Cosine(warmup=0.2, floor=0.1),
        directory=directory,
        seed=words.pop("seed", 0),
        identity=words.pop("identity", {}),
        conduct=words.pop("conduct", conduct()),
        **words,
    )
