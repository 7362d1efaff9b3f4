"""Writes docs/speed.md: every ratio that was measured beside its goal, missed ones included.

    python -m benchmarks.speed_page

It reads benchmarks/results/ and measures nothing. A ratio is told with its least and largest turn; whether a goal is
reached is worked out here, from the median alone.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.infer_cpu import GOALS, QUANTISED, READS, SIDES, floor

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "speed.md"
INTRODUCTION = """# Speed and memory beside the peers

Ours and the peer run by turns, in one tree of processes, on the same weights and texts. A figure is the median of the
turns, in brackets the least and the largest. A rate is of the last run of its side; a ratio is of rounds that both were
in, never of figures from different hours, so the two rates beside it need not have it. *Floor* is what no program can
exceed on the machine: bytes over the bandwidth measured in the same minutes, or operations over the rate of its
registers. Missed goals are in bold; why, and what was tried, stands in [log.md](log.md).

This page is generated from `benchmarks/results/`: `python -m benchmarks.speed_page`. Nothing here was measured on a
GPU: none could be had; `make bench-gpu` is there for whoever has one.
"""


def text() -> str:
    """The page as it should stand."""
    parts = (training, desk, memory, starting, tokenising, inference, reading, loading, guessing)
    return "\n".join([INTRODUCTION, *("\n".join(part()) + "\n" for part in parts)])


def read(name: str) -> Any:
    return json.loads((RESULTS / name).read_text())


def heading(title: str, date: str, machine: str, command: str, *columns: str) -> Iterator[str]:
    """The title, when and where and by what it was measured, and the head of a table."""
    yield f"## {title}\n"
    yield f"{machine}, {date}: `{command}`\n"
    yield f"| {' | '.join(columns)} |"
    yield f"|{'|'.join('---' if not index else '---:' for index, _ in enumerate(columns))}|"


def line(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def spread(median: float, least: float, most: float, form: str = ".2f") -> str:
    return f"{median:{form}} ({least:{form}} to {most:{form}})"


def against(ratio: str, reached: bool) -> str:
    """A ratio as the table shows it."""
    return ratio if reached else f"**{ratio}**"


def training() -> Iterator[str]:
    told = read("train_cpu.json")
    columns = ("work, threads", "beside", "ours, tokens/s", "theirs", "ratio", "goal")
    command = "python benchmarks/train_cpu.py --records FILE --tokenizer FILE"
    yield from heading("Training on a CPU", "2026-11-21", told["machine"], command, *columns)
    for name, row in told["rows"].items():
        for side, ratio in row["ratios"].items():
            peer, _, own = side.partition(", ours in ")
            sides = [row["sides"][each] for each in (f"camelid {own}".strip(), peer)]
            rates = [f"{each['median']:,.0f}" for each in sides]
            once = min(len(each["turns"]) for each in sides) == 1
            shown = (
                f"{ratio['ratio']:.2f} (one turn)" if once else spread(ratio["ratio"], ratio["least"], ratio["most"])
            )
            reached = ratio["ratio"] >= ratio["goal"]
            yield line(f"{name}{f', in {own}' if own else ''}", peer, *rates, against(shown, reached), ratio["goal"])
    yield "\n| dense pre-training, threads | ours, of the rate of a large product | goal |\n|---|---:|---:|"
    for name, row in told["rows"].items():
        if "of_matrix_rate" in row:
            share = row["of_matrix_rate"]["camelid"]
            yield line(name, against(f"{share:.2f}", share >= 0.75), 0.75)


def desk() -> Iterator[str]:
    told = read("beside_trunk.json")
    command = "python benchmarks/beside_trunk.py --trunk CHECKOUT"
    columns = ("work", "now, tokens/s", "then", "ratio", "goal")
    yield from heading("The model of `make demo`", told["date"], told["machine"], command, *columns)
    now, then = (told["sides"][name] for name in ("now", "trunk"))
    shown = spread(told["ratio"], told["least"], told["most"])
    rates = (f"{now['median']:,.0f}", f"{then['median']:,.0f}")
    yield line("beside its first version", *rates, against(shown, told["ratio"] >= told["goal"]), told["goal"])


def memory() -> Iterator[str]:
    told = read("memory_cpu.json")
    columns = ("work", "ours, GB", "transformers, GB", "ratio", "goal")
    title = "Peak memory of a training step"
    yield from heading(
        title, told.get("date", "2026-11-21"), told["machine"], "python benchmarks/memory_cpu.py", *columns
    )
    for name, case in told["cases"].items():
        sides = {side: found["peak_bytes"] / 1e9 for side, found in case["sides"].items()}
        for side, held in sides.items():
            if not side.startswith("camelid"):
                continue
            for other, theirs in sides.items():
                ratio = case["ratios"].get(f"{side} over {other}")
                if ratio is not None:
                    how = f"{name}; {side.replace('camelid', 'ours')}, {other.replace('transformers', 'theirs')}"
                    shown = against(f"{ratio:.2f}", ratio <= case["goal"])
                    yield line(how, f"{held:.2f}", f"{theirs:.2f}", shown, case["goal"])


def starting() -> Iterator[str]:
    told = read("startup_cpu.json")
    columns = ("work", "ours, s", "compiled transformers, s", "ratio", "goal")
    command = "python benchmarks/startup_cpu.py"
    title = "From the start of a program to the end of its first step"
    yield from heading(title, told["date"], told["machine"], command, *columns)
    for name, row in told["rows"].items():
        seconds = [f"{statistics.median(taken):.2f}" for taken in row["seconds"].values()]
        shown = spread(row["ratio"], row["least"], row["most"])
        yield line(name, *seconds, against(shown, row["ratio"] <= row["goal"]), row["goal"])


def tokenising() -> Iterator[str]:
    told = read("tokenise-llama3-2026-11-21.json")
    rates = {name: statistics.median(found) for name, found in told["mb_per_second"].items()}
    theirs, goal = rates["hf, one process"], 5.0
    columns = ("who", "MB/s", "times one process of datasets.map", "goal")
    yield from heading("Tokenising and packing", told["date"], told["machine"], told["command"], *columns)
    for name, rate in rates.items():
        aimed = name == "ours, 4 processes"
        times = f"{rate / theirs:.2f}"
        yield line(name, f"{rate:.1f}", against(times, not aimed or rate / theirs >= goal), goal if aimed else "")


def inference_rows() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read("infer_cpu-2026-11-21-quiet.json")["rows"]
    return found


def inference() -> Iterator[str]:
    columns = (
        "shape, type, threads, work",
        "ours, tokens/s",
        "to llama.cpp",
        "goal",
        "to transformers",
        "goal",
        "of the floor",
    )
    yield from _inference_head("Decoding on a CPU", *columns)
    for row in inference_rows():
        for task, told in row.items():
            if not isinstance(told, dict) or not task.startswith("decode"):
                continue
            ours = told["camelid"]["tokens/s"]
            least, bound = floor(row, task)
            cells: list[object] = []
            for other, goal in zip(SIDES[1:], decoding_goals(row, task), strict=True):
                ratio = told.get(f"times {other}")
                cells.append(against(spread(*ratio), goal is None or ratio[0] >= goal) if ratio else "")
                cells.append(goal if goal and ratio else "")
            name = f"{row['shape']} {row['kind']}, {row['threads']}, {task.removeprefix('decode ').replace('decode', 'one')}"
            yield line(name, f"{ours[0]:,.0f}", *cells, f"{ours[0] / least:.0%} ({bound})")


def decoding_goals(row: dict[str, Any], task: str) -> tuple[float | None, float | None]:
    """What is to be reached beside llama.cpp and beside transformers."""
    sort = "decode" if task == "decode" else "many"
    if sort == "decode" and row["kind"] in QUANTISED and row["shape"] in ("tiny", "110M"):
        return 2.0, None
    return next(goal for (name, kinds), goal in GOALS.items() if name == sort and row["kind"] in kinds)


def reading() -> Iterator[str]:
    """Reading a prompt: the best type of ours against the best type of theirs."""
    columns = (
        "shape, threads",
        "ours, tokens/s (type)",
        "to llama.cpp's best",
        "goal",
        "to transformers' best",
        "goal",
    )
    for length in READS:
        best: dict[tuple[str, int], dict[str, tuple[float, str]]] = {}
        for row in inference_rows():
            for side in SIDES:
                told = row.get(f"read {length}", {}).get(side)
                if told:
                    own = best.setdefault((row["shape"], row["threads"]), {})
                    own[side] = max(own.get(side, (0.0, "")), (told["tokens/s"][0], row["kind"]))
        if best:
            yield from _inference_head(f"Reading a prompt of {length} tokens on a CPU", *columns)
        for (shape, threads), rates in best.items():
            ours, kind = rates["camelid"]
            cells: list[object] = []
            for other, goal in zip(SIDES[1:], (1.5, 2.0), strict=True):
                there = rates.get(other)
                cells.append(against(f"{ours / there[0]:.2f}", ours / there[0] >= goal) if there else "")
                cells.append(goal if there else "")
            yield line(f"{shape}, {threads}", f"{ours:,.0f} ({kind})", *cells)
        yield from [""] if best else []
    yield "Best types are of rows that were measured in different minutes, so these ratios are rough."


def loading() -> Iterator[str]:
    columns = ("shape, type", "ours, s", "of llama.cpp's time", "at most")
    yield from _inference_head("From a file in the page cache to the first token", *columns)
    for row in inference_rows():
        for task, told in row.items():
            if isinstance(told, dict) and task.startswith("load"):
                ratio = told.get("time as a multiple of llama.cpp")
                name = f"{row['shape']} {row['kind']}{task.removeprefix('load').replace(' folder', ', a folder', 1)}"
                cells = (against(spread(*ratio), ratio[0] <= 1.5), 1.5) if ratio else ("", "")
                yield line(name, f"{told['camelid']['seconds'][0]:.2f}", *cells)


def _inference_head(title: str, *columns: str) -> Iterator[str]:
    machine = read("speculate-2026-11-21-quiet.json")["machine"]
    yield from heading(title, "2026-11-21", machine, "python benchmarks/infer_cpu.py --load", *columns)


def guessing() -> Iterator[str]:
    for name, title in (
        ("speculate-2026-11-21-quiet.json", "Guessing ahead, beside plain decoding"),
        ("speculate-busy-2026-11-21.json", "The same beside other work on all cores"),
    ):
        told = read(name)
        columns = ("text", "plain, ms a token", "with guesses", "ratio", "goal")
        yield from heading(title, told["date"], told["machine"], f"python {told['command']}", *columns)
        for row in told["rows"]:
            goal = 1.6 if "loops" in row["case"] else 0.95
            shown = against(spread(row["ratio"], row["least"], row["most"]), row["ratio"] >= goal)
            yield line(row["case"], f"{row['plain_ms']:.2f}", f"{row['guessed_ms']:.2f}", shown, goal)
        yield ""


if __name__ == "__main__":
    PAGE.write_text(text())
