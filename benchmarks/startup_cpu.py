"""Seconds from the start of a training program to the end of its first step, beside compiled transformers.

    python benchmarks/startup_cpu.py --shapes 15M 110M --rounds 3

What torch.compile made lies in its cache before anything is timed; so do pages of files. By turns, each in a process of
its own, which imports, builds the model, opens its run, and does one step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.turns import Side
from camelid.machine import describe

RESULTS = Path(__file__).parent / "results" / "startup_cpu.json"
SIDES = ("camelid", "transformers compiled")
GOAL = 0.2


def seconds(side: str, shape: str, threads: int) -> float:
    """From the start of one program to the end of its first step."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    program = str(Path(__file__).with_name("train_sides.py"))
    command = [sys.executable, program, side, f"dense {shape}", str(threads), ".", "1"]
    one = Side(side, command, {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path})
    try:
        if not one.ready():
            raise SystemExit(f"{side}: did not start; BENCH_LOG=1 shows why")
    finally:
        one.end()
    return one.started


def measure(shape: str, threads: int, rounds: int) -> dict[str, Any]:
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    seconds("transformers compiled", shape, threads)  # fills its cache
    for _ in range(rounds):
        for side in SIDES:
            found[side].append(round(seconds(side, shape, threads), 2))
            print(f"{shape}, {side}: {found[side][-1]} s", file=sys.stderr, flush=True)
    ratios = [ours / theirs for ours, theirs in zip(*found.values(), strict=True)]
    told = {"seconds": found, "ratio": round(statistics.median(ratios), 3), "goal": GOAL}
    return {**told, "least": round(min(ratios), 3), "most": round(max(ratios), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["15M", "110M"])
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=RESULTS)
    given = parser.parse_args()
    kept = json.loads(given.json.read_text()) if given.json.exists() else {"rows": {}}
    for shape in given.shapes:
        kept["rows"][f"{shape}, {given.threads} threads"] = measure(shape, given.threads, given.rounds)
        kept |= {"machine": describe(), "date": time.strftime("%Y-%m-%d")}
        given.json.write_text(json.dumps(kept, indent=1) + "\n")
    print(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()
