"""The desk model as it is trained now beside an older checkout of camelid on its threads: tokens a second, by turns.

    git worktree add ../trunk 3e00213^                                          the trunk, before there were processes
    python benchmarks/beside_trunk.py --trunk ../trunk [--cores 4] [--rounds 5] [--seconds 4]

The same random documents, weights and settings through each checkout's own loop, each side in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from turns import Side, Turns

RESULTS = Path(__file__).parent / "results" / "beside_trunk.json"
LENGTH, STEP = 256, 2048  # tokens of a row, of a step
GOAL = 2.0


def child(threads: int) -> None:
    """One side: the loop of whichever camelid is imported, dividing the machine as that one does."""
    import numpy as np
    import torch

    from camelid import machine as machines
    from camelid.data.batch import PretrainingBatches
    from camelid.data.corpus import Corpus
    from camelid.data.mixture import Mixture
    from camelid.models.llama import Llama, initialise
    from camelid.models.shape import LlamaShape
    from camelid.train.loop import Cadence, Conduct, train
    from camelid.train.loss import NextToken
    from camelid.train.optim import Optimizer
    from camelid.train.settings import AdamW, Cosine

    shape = LlamaShape(layers=4, width=128, heads=4, kv_heads=4, head_width=32, hidden=352, vocab=1024, context=256)
    machine, others = machines.Machine(threads=threads), {}
    if hasattr(machines, "divided"):
        machine = machines.divided(machine, shape.parameters())
        others = {"shares": machine.shares}
    draw = np.random.default_rng(0)
    lengths = draw.integers(60, 400, 10_000)
    ids = draw.integers(0, shape.vocab, int(lengths.sum())).astype(np.uint16)
    corpus = Corpus(ids, np.concatenate([[0], np.cumsum(lengths)]), None)
    mixture = Mixture.by_proportion({"random": corpus}, {"random": 1.0}, 100_000 * STEP, seed=0)
    batches = PretrainingBatches(
        mixture, length=LENGTH, tokens_per_step=STEP, micro_tokens=machine.micro_tokens, **others
    )
    torch.set_num_threads(machine.threads)
    model = Llama(shape, dtype=torch.float32)
    initialise(model, 0)
    optimizer = Optimizer(dict(model.named_parameters()), AdamW(lr=1e-3, betas=(0.9, 0.95), decay=0.1))
    turns = Turns(warm=5)
    conduct = Conduct(machine=machine, cadence=Cadence(seconds=None), progress=lambda *told: turns.tick(STEP))
    with tempfile.TemporaryDirectory() as folder:
        words: dict[str, Any] = {"directory": Path(folder) / "run", "seed": 0, "identity": {}, "conduct": conduct}
        train(model, batches, NextToken(), optimizer, Cosine(), **words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trunk", type=Path, help="the other checkout")
    parser.add_argument("--cores", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.cores)
        return
    if given.trunk is None:
        parser.error("--trunk: name the other checkout")
    here = Path(__file__).parents[1]
    command = [sys.executable, __file__, "--child", "--cores", str(given.cores)]
    started = [
        Side(name, command, {"OMP_NUM_THREADS": str(given.cores), "PYTHONPATH": str(folder.resolve())})
        for name, folder in (("now", here), ("trunk", given.trunk))
    ]
    try:
        ready = [one.ready() for one in started]
        if not all(ready):
            raise SystemExit("a side did not start; BENCH_LOG=1 shows why")
        for _ in range(given.rounds):
            for one in started:
                one.go(given.seconds)
    finally:
        for one in started:
            one.end()
    now, trunk = (one.row() for one in started)
    ratios = [mine / theirs for mine, theirs in zip(now["turns"], trunk["turns"], strict=True)]
    from camelid.machine import describe

    told = {
        "machine": describe(), "date": time.strftime("%Y-%m-%d"), "cores": given.cores, "load": os.getloadavg()[0],
        "sides": {"now": now, "trunk": trunk}, "goal": GOAL,
        "ratio": round(statistics.median(ratios), 2), "least": round(min(ratios), 2), "most": round(max(ratios), 2),
    }  # fmt: skip
    given.json.write_text(json.dumps(told, indent=1) + "\n")
    for name, row in told["sides"].items():
        print(f"{name:6} {row['median']:9,.0f} tokens/s ({row['least']:,.0f} to {row['most']:,.0f})")
    print(f"ratio {told['ratio']} ({told['least']} to {told['most']}), goal {GOAL}")


if __name__ == "__main__":
    sys.path.insert(1, os.environ.get("PYTHONPATH") or str(Path(__file__).parents[1]))
    main()
