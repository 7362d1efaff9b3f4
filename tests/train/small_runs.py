"""Whole runs small enough to be killed dozens of times: pre-training, packed fine-tuning, LoRA.

A ground (tokenizer, base model) is made once; each run reads it and writes RUN/run and RUN/model.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from camelid import tokenizers
from camelid.data.corpus import render_all, tokenise
from camelid.data.mixture import Mixture
from camelid.dialogue.message import Message
from camelid.dialogue.published import LLAMA_2
from camelid.machine import Machine
from camelid.models.shape import LlamaShape, LoRA
from camelid.stage import Epochs, Sequences, Tokens
from camelid.tokenizers import sentencepiece
from camelid.train.finetune import finetune
from camelid.train.loop import Cadence, Conduct, Trained
from camelid.train.pretrain import pretrain
from camelid.train.settings import AdamW, AdamW8bit, Cosine, GaLore, Linear

WORDS = (
    "the",
    "camel",
    "old",
    "Omar",
    "owns",
    "sells",
    "dates",
    "and",
    "walks",
    "to",
    "Aswan",
    "with",
    "water",
    "seven",
)
SETTINGS = AdamW(lr=3e-3, betas=(0.9, 0.95), decay=0.1)
LORA = LoRA(rank=2, alpha=4, dropout=0.1, targets=("q_proj", "v_proj", "down_proj"))
EVERY = LoRA(
    rank=2,
    alpha=4,
    dropout=0.1,
    targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    trained=("embed_tokens", "lm_head"),
)


def texts(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(3, 12))) + "." for _ in range(count)]


def dialogues(count: int) -> list[list[Message]]:
    pairs = zip(texts(count, 1), texts(count, 2), strict=True)
    return [[Message("user", asked), Message("assistant", answered)] for asked, answered in pairs]


def shape(ids: int) -> LlamaShape:
    return LlamaShape(layers=2, width=16, heads=2, kv_heads=1, head_width=8, hidden=24, vocab=ids, context=256)


def ground(path: Path) -> None:
    """Makes the base: PATH/run, PATH/model with its tokenizer."""
    pieces = sentencepiece.train(texts(200), vocab=300)
    corpora = {"web": tokenise(texts(20), pieces)}
    pretrain(
        path / "model",
        path / "run",
        shape=shape(pieces.size),
        tokenizer=pieces,
        mixture=Mixture.by_proportion(corpora, {"web": 1.0}, 256, seed=0),
        length=32,
        batch=Tokens(64),
        optim=SETTINGS,
        schedule=Cosine(),
        conduct=conduct(),
    )


def conduct(
    *,
    micro_tokens: int = 8192,
    dtype: Any = "float32",
    workers: int = 1,
    recompute: bool = False,
    steps: int | None = 3,
    **words: Any,
) -> Conduct:
    machine = Machine(threads=1, micro_tokens=micro_tokens, dtype=dtype, workers=workers, recompute=recompute)
    return Conduct(machine=machine, cadence=Cadence(steps=steps, seconds=None), **words)


def pretraining(ground: Path, out: Path, *, accumulation: int = 1, seed: int = 0, **words: Any) -> Trained:
    """Eight steps of four rows over two sources."""
    pieces = tokenizers.load(ground / "model")
    corpora = {"web": tokenise(texts(40), pieces), "books": tokenise(texts(30, 9), pieces)}
    return pretrain(
        out / "model",
        out / "run",
        shape=shape(pieces.size),
        tokenizer=pieces,
        mixture=Mixture.by_proportion(corpora, {"web": 0.7, "books": 0.3}, 8 * 4 * 32, seed=seed),
        length=32,
        batch=Tokens(4 * 32),
        optim=SETTINGS,
        schedule=Cosine(warmup=0.1, floor=0.1),
        seed=seed,
        conduct=conduct(micro_tokens=4 * 32 // accumulation, **words),
    )


def tuning(
    ground: Path,
    out: Path,
    *,
    accumulation: int = 1,
    adapter: LoRA | None = None,
    pad: str | None = None,
    amount: Any = Epochs(2),  # noqa: B008
    optim: AdamW | None = None,
    noise: float = 0.0,
    base: Any = None,
    seed: int = 0,
    **words: Any,
) -> Trained:
    """Eight steps of twelve packed dialogues, the response learned."""
    pieces = tokenizers.load(ground / "model")
    corpus, _ = render_all(dialogues(46), LLAMA_2, pieces, length=96, over_length="cut")
    return finetune(
        out / "model",
        out / "run",
        start=ground / "model",
        corpus=corpus,
        template=LLAMA_2,
        batch=Sequences(12),
        amount=amount,
        optim=optim or SETTINGS,
        schedule=Linear(warmup=0.2),
        noise=noise,
        adapter=adapter,
        base=base,
        pad=pad,
        seed=seed,
        conduct=conduct(micro_tokens=8192 if accumulation == 1 else 12 * 60 // accumulation, **words),
    )


@dataclass(frozen=True)
class Job:
    """A run by name; `like` names another that must end in the same bits."""

    name: str
    do: Callable[..., object]
    like: str = ""


QLORA: dict[str, Any] = {
    "adapter": replace(EVERY, scale="root"),
    "base": "nf4",
    "noise": 5.0,
    "optim": AdamW8bit(lr=3e-3, ratio=4.0, paged=True, block=64),
    "accumulation": 4,
}
JOBS = {
    job.name: job
    for job in (
        Job("pretrain", pretraining),
        Job("pretrain-accumulated", partial(pretraining, accumulation=4)),
        Job("pretrain-bfloat16", partial(pretraining, accumulation=4, dtype="bfloat16")),
        Job("packed", partial(tuning, pad="[PAD]")),
        Job("packed-accumulated", partial(tuning, accumulation=4)),
        Job("lora", partial(tuning, adapter=LORA)),
        Job("lora-accumulated", partial(tuning, adapter=EVERY, accumulation=4)),
        Job("lora-bfloat16", partial(tuning, adapter=LORA, accumulation=4, dtype="bfloat16")),
        Job("pretrain-recomputed", partial(pretraining, recompute=True), like="pretrain"),
        Job("lora-recomputed", partial(tuning, adapter=EVERY, accumulation=4, recompute=True), like="lora-accumulated"),
        Job("pretrain-workers", partial(pretraining, accumulation=4, workers=3), like="pretrain-accumulated"),
        Job("qlora", partial(tuning, **QLORA)),
        Job("qlora-workers", partial(tuning, **QLORA, workers=3), like="qlora"),
        Job("dora-int8", partial(tuning, adapter=replace(LORA, kind="dora"), base="int8", accumulation=4)),
        Job("pissa-nf4", partial(tuning, adapter=replace(LORA, start="pissa"), base="nf4", dtype="bfloat16")),
        Job("galore", partial(tuning, optim=GaLore(lr=1e-2, rank=4, every=3), noise=5.0)),
        Job("lora-workers", partial(tuning, adapter=EVERY, accumulation=4, workers=2), like="lora-accumulated"),
    )
}
