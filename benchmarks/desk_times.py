"""Seconds that `camelid grow MEMBER` takes at desk scale, its base being there already, on two cores.

    python benchmarks/desk_times.py --cores 0,1 --store FOLDER [MEMBER ...]

Each member is grown by the command itself, one after the other, held to these cores. Its base is grown before, untimed,
unless the store has it; a member whose stages the store has already is refused, since nothing would be measured.
Figures are kept after each member, so that a stopped table goes on where it stood.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from camelid.machine import describe
from camelid.recipes import MEMBERS

RESULTS = Path(__file__).parent / "results" / "desk_times.json"
GOAL = 180.0  # seconds


def grow(member: str, store: Path) -> tuple[float, dict[str, Any]]:
    """Seconds from the command's start to its end, and what it told."""
    began = time.monotonic()
    command = [sys.executable, "-m", "camelid", "grow", member, "--store", str(store), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
    took = time.monotonic() - began
    if done.returncode:
        raise SystemExit(f"{member}: grow ended with status {done.returncode}")
    return took, json.loads(done.stdout.splitlines()[-1])


def base_of(member: str) -> str:
    """The base that the member descends from."""
    parent = MEMBERS[member].parent
    return member if parent is None else base_of(parent)


def measure(member: str, store: Path) -> dict[str, Any]:
    if (base := base_of(member)) != member:
        grow(base, store)
    took, told = grow(member, store)
    stages = {stage["name"]: round(stage["seconds"], 1) for stage in told["stages"] if stage["fresh"]}
    if not stages:
        raise SystemExit(f"{member}: its stages are in {store} already; give a store that holds bases alone")
    shares = {
        title: round(sum(each["correct"] for each in scores) / sum(each["count"] for each in scores), 3)
        for title, scores in told["scores"].items()
    }
    return {"seconds": round(took, 1), "stages": stages, "right": shares}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Rows by name: seconds in all, of each stage, and the shares of held-out instructions answered rightly."""
    lines = ["| member | seconds | of which training | answered rightly |", "|---|---|---|---|"]
    for name, row in sorted(rows.items()):
        stages = ", ".join(f"{stage} {seconds:g}" for stage, seconds in row["stages"].items())
        shares = ", ".join(f"{title} {100 * share:.1f} %" for title, share in row["right"].items())
        lines.append(f"| {name} | {row['seconds']:g} | {stages} | {shares} |")
    over = [name for name, row in rows.items() if row["seconds"] > GOAL]
    return "\n".join([*lines, f"{len(rows)} members, over {GOAL:g} s: {', '.join(over) or 'none'}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("members", nargs="*", help="default: all that have a parent")
    parser.add_argument("--cores", default="0,1")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    cores = {int(core) for core in asked.cores.split(",")}
    os.sched_setaffinity(0, cores)
    known = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    told = {
        "machine": describe(),
        "date": time.strftime("%F"),
        "cores": len(cores),
        "members": known.get("members", {}),
    }
    for name in asked.members or [name for name, member in MEMBERS.items() if member.parent]:
        if name in told["members"]:
            continue
        told["members"][name] = measure(name, asked.store)
        print(f"{name}: {told['members'][name]['seconds']:g} s", file=sys.stderr, flush=True)
        asked.out.parent.mkdir(exist_ok=True)
        asked.out.write_text(json.dumps(told, indent=1) + "\n")
    print(table(told["members"]))


if __name__ == "__main__":
    main()
