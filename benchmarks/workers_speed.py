"""Threads against processes: tokens a second of the whole training loop, the kinds taking turns, medians over rounds.

    python benchmarks/workers_speed.py [--shapes desk 15M 110M] [--cores 4] [--rounds 3] [--seconds 4] [--json FILE]

Each turn is a run of its own (loop, journal, one commit at the end; random documents, AdamW); the first steps are left
out. Give it an idle machine: threads of a busy one wait for each other (docs/log.md). How busy it was is told as the load.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from camelid.data.batch import PretrainingBatches
from camelid.data.corpus import Corpus
from camelid.data.mixture import Mixture
from camelid.machine import SHARES, Machine, describe, hands
from camelid.models.llama import Llama, initialise
from camelid.models.shape import LlamaShape
from camelid.randomness import numpy_generator
from camelid.train.loop import Cadence, Conduct, train
from camelid.train.loss import NextToken
from camelid.train.optim import Optimizer
from camelid.train.settings import AdamW, Cosine

SHAPES = {
    "desk": LlamaShape(
        layers=4, width=128, heads=4, kv_heads=4, head_width=32, hidden=352, vocab=1024, context=256
    ),  # 1.1M weights
    "15M": LlamaShape(layers=6, width=288, heads=6, kv_heads=6, head_width=48, hidden=768, vocab=16000, context=256),
    "110M": LlamaShape(
        layers=12, width=768, heads=12, kv_heads=12, head_width=64, hidden=2048, vocab=16000, context=256
    ),
}
LENGTH, STEP = 256, 2048  # tokens of a row, of a step
WARM = 3  # steps left out


class Enough(Exception):
    """The turn's time is over."""


def documents(vocab: int, tokens: int) -> Corpus:
    """Random documents of 60 to 400 tokens."""
    draw = numpy_generator("workers_speed")
    lengths = draw.integers(60, 400, -(-tokens // 200))
    ids = draw.integers(0, vocab, int(lengths.sum())).astype(np.uint16)
    return Corpus(ids, np.concatenate([[0], np.cumsum(lengths)]), None)


def turn(shape: LlamaShape, machine: Machine, seconds: float) -> float:
    """Tokens a second of one run, the median of its steps."""
    mixture = Mixture.by_proportion({"random": documents(shape.vocab, 2_000_000)}, {"random": 1.0}, 400 * STEP, seed=0)
    batches = PretrainingBatches(
        mixture, length=LENGTH, tokens_per_step=STEP, micro_tokens=machine.micro_tokens, shares=machine.shares
    )
    model = Llama(shape, dtype=torch.float32)
    initialise(model, 0)
    optimizer = Optimizer(dict(model.named_parameters()), AdamW(lr=6e-3, betas=(0.9, 0.95), decay=0.1))
    ends: list[float] = []

    def told(step: int, steps: int, loss: float, speed: float) -> None:
        ends.append(time.perf_counter())
        if len(ends) > WARM + 3 and ends[-1] - ends[WARM] > seconds:
            raise Enough

    conduct = Conduct(machine=machine, cadence=Cadence(seconds=None), progress=told)
    with tempfile.TemporaryDirectory() as folder:
        try:
            words = {"directory": Path(folder) / "run", "seed": 0, "identity": {}, "conduct": conduct}
            train(model, batches, NextToken(), optimizer, Cosine(), **words)  # type: ignore[arg-type]
        except Enough:
            pass
    return STEP / statistics.median(np.diff(ends[WARM - 1 :]))


def kinds(cores: int) -> dict[str, Machine]:
    """What is compared, by name."""
    one = Machine(threads=1, shares=SHARES)
    several = [replace(one, workers=count) for count in sorted({min(2, cores), cores} - {1})]
    return {hands(machine): machine for machine in (one, *several, Machine(threads=cores))}


def measure(name: str, cores: int, rounds: int, seconds: float) -> dict[str, object]:
    rates: dict[str, list[float]] = {kind: [] for kind in kinds(cores)}
    busy = []
    for _ in range(rounds):
        for kind, machine in kinds(cores).items():
            torch.set_num_threads(machine.threads)
            rates[kind].append(turn(SHAPES[name], machine, seconds))
            print(f"{name}, {kind}: {rates[kind][-1]:,.0f} tokens/s", file=sys.stderr)
            busy.append(os.getloadavg()[0])
    medians = {kind: round(statistics.median(found)) for kind, found in rates.items()}
    spread = {kind: [round(min(found)), round(max(found))] for kind, found in rates.items()}
    weights = SHAPES[name].parameters()
    return {"shape": name, "weights": weights, "tokens/s": medians, "from, to": spread, "load": round(max(busy), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["desk"], choices=list(SHAPES))
    parser.add_argument("--cores", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = [measure(name, given.cores, given.rounds, given.seconds) for name in given.shapes]
    told = json.dumps({"machine": describe(), "cores": given.cores, "found": found}, indent=2)
    print(told)
    if given.json:
        given.json.write_text(told + "\n")


if __name__ == "__main__":
    main()
