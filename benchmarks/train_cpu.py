"""Training on a CPU beside transformers, TRL, PEFT, litgpt and torchtune: tokens a second, by turns, and their ratios.

    python benchmarks/train_cpu.py --records alpaca.json --tokenizer llama2.model       every row, then the table
    python benchmarks/train_cpu.py --rows "dense 110M" --threads 4 --rounds 3 ...       a few, added to what was measured
    python benchmarks/train_cpu.py --table                                              what was measured, as a table

All sides of a row live at once, each in a process of its own, and work by turns, one at a time; those of a row too large
for that live for their turns only. A peer that is not installed is left out, and said so. Rates count real tokens:
padding is nobody's work. A ratio is taken within a round.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.train_rows import ROWS, SHAPES, Row, render
from benchmarks.turns import Side
from camelid.machine import describe
from camelid.models.count import training_flops

RESULTS = Path(__file__).parent / "results" / "train_cpu.json"
NEEDS = {"transformers": "transformers", "trl": "trl", "litgpt": "litgpt", "torchtune": "torchtune"}


def sides(row: Row, wanted: list[str] | None) -> list[str]:
    """The sides of a row that can be had."""
    chosen = [name for name in row.sides if wanted is None or name in wanted]
    there = []
    for name in chosen:
        needed = NEEDS.get(name.split()[0])
        if needed and importlib.util.find_spec(needed) is None:
            print(f"{name}: {needed} is not installed; left out", file=sys.stderr)
        else:
            there.append(name)
    return there


def measure(
    name: str, threads: int, rounds: int, seconds: float, folder: Path, wanted: list[str] | None
) -> dict[str, Any]:
    """One row: every side `rounds` turns of so many seconds, by turns."""
    row = ROWS[name]
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    program, warm = str(Path(__file__).with_name("train_sides.py")), "1" if row.apart else "2"

    def start(side: str) -> Side:
        return Side(side, [sys.executable, program, side, name, str(threads), str(folder), warm], environment)

    def turn(one: Side) -> None:
        if one.go(seconds):
            print(f"{name}, {threads} threads, {one.name}: {one.rates[-1]:,.0f}", file=sys.stderr, flush=True)

    there = sides(row, wanted)
    found = _apart(there, rounds, start, turn) if row.apart else _together(there, rounds, start, turn)
    for side in there:
        if side not in found:
            print(f"{name}, {side}: did not start; BENCH_LOG=1 shows why", file=sys.stderr)
    return judged(row, found)


def _together(
    names: list[str], rounds: int, start: Callable[[str], Side], turn: Callable[[Side], None]
) -> dict[str, dict[str, Any]]:
    """All sides started, one after another, for threads of several that spin at once keep each other waiting; then turns."""
    started: list[Side] = []
    ready: list[Side] = []
    try:
        for name in names:
            started.append(start(name))
            if started[-1].ready():
                ready.append(started[-1])
        for _ in range(rounds):
            for one in ready:
                turn(one)
    finally:
        for one in started:
            one.end()
    return {one.name: one.row() for one in started if one.rates}


def _apart(
    names: list[str], rounds: int, start: Callable[[str], Side], turn: Callable[[Side], None]
) -> dict[str, dict[str, Any]]:
    """Each side started for each of its turns, and ended, for memory does not hold them all."""
    first: dict[str, Side] = {}
    for _ in range(rounds):
        for name in names:
            one = start(name)
            try:
                if one.ready():
                    turn(one)
            finally:
                one.end()
            if name in first:
                first[name].take(one)
            elif one.rates:
                first[name] = one
    return {name: one.row() for name, one in first.items()}


def judged(row: Row, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What was measured, with the ratios of its rounds and the share of the matrix rate."""
    ratios = {}
    for mine, beside in (("camelid", ""), ("camelid bfloat16", ", ours in bfloat16")):
        ours = found.get(mine, {}).get("turns", [])
        for side, goal in row.goals:
            each = [mine / theirs for mine, theirs in zip(ours, found.get(side, {}).get("turns", []), strict=False)]
            if each:
                ratios[side + beside] = {
                    "ratio": round(statistics.median(each), 2),
                    "least": round(min(each), 2),
                    "most": round(max(each), 2),
                    "goal": goal,
                }
    told: dict[str, Any] = {"sides": found, "ratios": ratios}
    if row.kind == "dense" and "matrix" in found:
        flops = training_flops(SHAPES[row.shape], seen=(row.length + 1) / 2)
        rate = found["matrix"]["median"] * 1e6
        told["matrix_gflops"] = round(rate / 1e9, 1)
        told["of_matrix_rate"] = {
            side: round(numbers["median"] * flops / rate, 3) for side, numbers in found.items() if side != "matrix"
        }
    return told


def joined(before: dict[str, Any] | None, now: dict[str, Any]) -> dict[str, Any]:
    """A row measured in several runs, because its sides together take more memory or time than there is: each side and
    ratio is that of the last run which had it, so a ratio is always one of rounds."""
    whole = {
        name: {**(before or {}).get(name, {}), **now.get(name, {})} for name in ("sides", "ratios", "of_matrix_rate")
    }
    return {**now, **{name: found for name, found in whole.items() if found}}


def table(rows: dict[str, Any]) -> str:
    lines = [
        "| work | threads | side | tokens/s (least to most) | ours over it (least to most) | goal | of the matrix rate |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        work, threads = name.rsplit(", ", 1)
        for side, numbers in row["sides"].items():
            if side == "matrix":
                continue
            ratios = [(row["ratios"].get(side), ""), (row["ratios"].get(side + ", ours in bfloat16"), "in bfloat16 ")]
            told = [(word, ratio) for ratio, word in ratios if ratio]
            share = row.get("of_matrix_rate", {}).get(side)
            against = "; ".join(f"{word}{r['ratio']:.2f} ({r['least']:.2f} to {r['most']:.2f})" for word, r in told)
            rate = f"{numbers['median']:,.0f} ({numbers['least']:,.0f} to {numbers['most']:,.0f})"
            goal = f"{told[0][1]['goal']:.1f}" if told else ""
            lines.append(
                f"| {work} | {threads} | {side} | {rate} | {against} | {goal} | {'' if share is None else f'{share:.2f}'} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--sides", nargs="+", help="only these of each row")
    parser.add_argument("--threads", nargs="+", type=int, default=[4, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="of a turn; a turn ends with a whole step")
    parser.add_argument("--records", type=Path, help="Alpaca's records, for rows of supervised training")
    parser.add_argument("--tokenizer", type=Path, help="LLaMA's tokenizer.model")
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "camelid" / "bench")
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print what was measured, and measure nothing")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *told: sys.exit(143))  # the sides end with whoever started them
    kept = json.loads(given.json.read_text()) if given.json.exists() else {"rows": {}}
    if not given.table:
        if given.records is not None and given.tokenizer is not None:
            render(given.records, given.tokenizer, given.folder)
        for name in given.rows:
            if ROWS[name].kind != "dense" and not (given.folder / "alpaca.npz").exists():
                print(f"{name}: needs --records and --tokenizer; left out", file=sys.stderr)
                continue
            for threads in given.threads:
                row = measure(name, threads, given.rounds, given.seconds, given.folder, given.sides)
                about = {
                    "date": time.strftime("%Y-%m-%d"),
                    "load": round(os.getloadavg()[0], 1),
                    "clock": os.environ.get("BENCH_CLOCK", "seconds"),
                }
                kept["rows"][f"{name}, {threads}"] = joined(kept["rows"].get(f"{name}, {threads}"), {**row, **about})
                kept["machine"] = describe()
                given.json.parent.mkdir(exist_ok=True)
                given.json.write_text(json.dumps(kept, indent=1) + "\n")
    print(table(kept["rows"]))


if __name__ == "__main__":
    main()
