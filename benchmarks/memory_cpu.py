"""Peak memory of a training step beside transformers: a vocabulary of 128k, and rows of 8,192 tokens, recomputed.

    python benchmarks/memory_cpu.py                 every case, every side; writes benchmarks/results/memory_cpu.json

Each side trains the same shape with AdamW in a process of its own, whose largest resident memory counts: everything,
imports included. A first step of a short row brings the moments into being, the second is on the row in question.
Ours recomputes where its name says so (the machine's setting).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.train_rows import RATE, SHAPES
from camelid.machine import Machine, describe

RESULTS = Path(__file__).parent / "results" / "memory_cpu.json"
STEPS, SHORT = 2, 64  # tokens of the first step


@dataclass(frozen=True)
class Case:
    """One shape, one row of so many tokens a step; ours over theirs is to be at most `goal`."""

    shape: str
    length: int
    sides: tuple[str, ...]
    goal: float


CASES = {
    "110M body, 128k vocabulary, rows of 2,048": Case(
        "110M, 128k vocabulary",
        2048,
        ("camelid", "camelid recomputing", "transformers", "transformers recomputing"),
        0.4,
    ),
    "110M, rows of 8,192": Case("110M", 8192, ("camelid recomputing", "transformers recomputing"), 0.7),
}


def camelid(case: Case, threads: int, *, recompute: bool) -> None:
    import torch

    from camelid.data.batch import Batch
    from camelid.models.llama import Llama, initialise
    from camelid.train.loop import Cadence, Conduct, train
    from camelid.train.loss import NextToken
    from camelid.train.optim import Optimizer
    from camelid.train.settings import AdamW, Constant

    shape = SHAPES[case.shape]

    class Rows:
        steps, digest = STEPS, "random rows"

        def at(self, step: int) -> Sequence[Batch]:
            ids = np.random.default_rng(step).integers(0, shape.vocab, (1, case.length if step else SHORT))
            segments = np.zeros(ids.shape, np.int32)
            return [Batch(ids, np.roll(ids, -1, 1), np.ones(ids.shape, np.bool_), segments)]

    torch.set_num_threads(threads)
    model = Llama(shape, dtype=torch.float32)
    initialise(model, 0)
    model.recompute = recompute
    optimizer = Optimizer(dict(model.named_parameters()), AdamW(lr=RATE))
    machine = Machine(threads=threads, micro_tokens=case.length, recompute=recompute)
    conduct = Conduct(machine=machine, cadence=Cadence(seconds=None), progress=told)
    with tempfile.TemporaryDirectory() as scratch:
        words: dict[str, Any] = {"directory": Path(scratch) / "run", "seed": 0, "identity": {}, "conduct": conduct}
        train(model, Rows(), NextToken(), optimizer, Constant(), **words)


def told(step: int, *others: Any) -> None:
    """The last step is over: what would be committed afterwards is no part of a step."""
    if step == STEPS:
        report()
        raise SystemExit


def transformers(case: Case, threads: int, *, recompute: bool) -> None:
    import torch

    from benchmarks.train_sides import _transformers

    model = _transformers(SHAPES[case.shape], threads)
    model.train()
    if recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    weights = list(model.parameters())
    optimizer = torch.optim.AdamW(weights, lr=RATE, fused=True)
    for step in range(STEPS):
        ids = torch.randint(3, SHAPES[case.shape].vocab, (1, case.length if step else SHORT))
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    report()


BEGAN = time.perf_counter()


def report() -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak_bytes": peak, "seconds": round(time.perf_counter() - BEGAN, 1)}), flush=True)


def measured(name: str, side: str, threads: int) -> dict[str, Any]:
    """What one side takes, in a process of its own."""
    command = [sys.executable, __file__, "--child", name, side, "--threads", str(threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        name, side = given.child
        work = camelid if side.startswith("camelid") else transformers
        work(CASES[name], given.threads, recompute=side.endswith("recomputing"))
        return
    kept = json.loads(given.json.read_text()) if given.json.exists() else {"cases": {}}
    for name in given.cases:
        case = CASES[name]
        found = {}
        for side in case.sides:
            found[side] = measured(name, side, given.threads)
            print(
                f"{name}: {side} {found[side]['peak_bytes'] / 2**20:,.0f} MiB, {found[side]['seconds']} s", flush=True
            )
        ours = {side: told for side, told in found.items() if side.startswith("camelid")}
        theirs = {side: told for side, told in found.items() if side not in ours}
        ratios = {
            f"{side} over {other}": round(mine["peak_bytes"] / peer["peak_bytes"], 3)
            for side, mine in ours.items()
            for other, peer in theirs.items()
        }
        kept["cases"][name] = {"sides": found, "ratios": ratios, "goal": case.goal}
        kept |= {"machine": describe(), "date": time.strftime("%Y-%m-%d")}
        given.json.write_text(json.dumps(kept, indent=1) + "\n")
        for pair, ratio in ratios.items():
            print(f"{name}: {pair} {ratio} (goal {case.goal})")


if __name__ == "__main__":
    main()
