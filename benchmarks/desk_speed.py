"""How fast the desk world is told: megabytes a second of each source, in the mixture's proportions, and instructions.

    python benchmarks/desk_speed.py [--size small] [--bytes 2000000] [--json FILE]

One process, one core, seconds of its CPU time. Goal: the mixture at 1 MB/s or more.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from camelid import desk


def measure(size: str, amount: int) -> dict[str, object]:
    """Megabytes (10^6 bytes of UTF-8) a second by source and for the mixture, and instructions a second."""
    world = desk.world(size)
    desk.sources(world)["Wikipedia"].document(0)  # the second language is made once
    rates: dict[str, float] = {}
    seconds = written = 0.0
    for name, source in desk.sources(world).items():
        start = time.process_time()
        told = sum(len(found.text.encode()) for found in source.documents(bytes=int(amount * source.weight / 100)))
        took = time.process_time() - start
        rates[name] = round(told / took / 1e6, 2)
        seconds += took
        written += told
    start = time.process_time()
    count = len(desk.instructions(world, "train"))
    asked = count / (time.process_time() - start)
    return {"size": size, "bytes": int(written), "MB/s": rates, "mixture MB/s": round(written / seconds / 1e6, 2),
            "instructions/s": round(asked)}  # fmt: skip


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("--size", default="small", choices=list(desk.SIZES))
    arguments.add_argument("--bytes", type=int, default=2_000_000)
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    result = measure(given.size, given.bytes)
    print(json.dumps(result, indent=2))
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
