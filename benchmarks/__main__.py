"""What this machine can do and what this code makes of it, in a minute or two; then what else there is to measure.

    python -m benchmarks          (make bench)

The rate of a large product and the bandwidth of memory come first: they are the floor that the rest is held against.
Then a training step and decoding, beside transformers by turns, and beside llama.cpp where it is installed.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import infer_cpu, train_cpu
from camelid.machine import Machine, cores, describe
from camelid.native import build

ROW, TURNS, SECONDS = "dense 15M", 3, 3.0
DECODED = (("tiny", "q8_0"), ("110M", "bf16"))


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    threads = cores()
    print(f"{describe()}; {infer_cpu.busy()} cores busy with other work\n")
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        machine(sorted({1, threads}), Path(scratch))
        training(threads, Path(scratch))
        decoding(threads, Path(scratch))
    others()


def machine(counts: list[int], folder: Path) -> None:
    import torch

    from camelid.train.products import rate

    print("the machine")
    for threads in counts:
        torch.set_num_threads(threads)
        words = f"  {threads} threads: {rate(Machine(threads=threads)) / 1e9:,.0f} GFLOP/s of a large float32 product"
        if build.find_compiler() is not None:
            words += f", {infer_cpu.stream(threads, folder)[0]:.0f} GB/s read from memory"
        print(words, flush=True)


def training(threads: int, folder: Path) -> None:
    row = train_cpu.measure(ROW, threads, TURNS, SECONDS, folder, ["camelid", "transformers", "matrix"])
    print(f"\na training step, {ROW}, {threads} threads\n{train_cpu.table({f'{ROW}, {threads}': row})}\n", flush=True)


def decoding(threads: int, folder: Path) -> None:
    needed = {"llama.cpp": "llama_cpp", "transformers": "transformers", "camelid": "camelid"}
    sides = [name for name in infer_cpu.SIDES if importlib.util.find_spec(needed[name]) is not None]
    asked = argparse.Namespace(sides=sides, at_once=[8], no_read=False, read=infer_cpu.READ, turns=TURNS)
    asked.load = asked.load_folder = asked.keep = False
    for shape, kind in DECODED:
        infer_cpu.show(infer_cpu.row(shape, kind, threads, asked, folder))


def others() -> None:
    """Every program beside this one, with the first line of what it says of itself."""
    print("\nwhat else there is (python benchmarks/NAME.py --help); what was measured: docs/speed.md")
    for name, said in programs():
        print(f"  {name:16} {said}")


def programs() -> Iterator[tuple[str, str]]:
    """The programs of this folder, with the first line of what each says of itself."""
    for path in sorted(Path(__file__).parent.glob("*.py")):
        code = path.read_text()
        if path.stem != "__main__" and '__name__ == "__main__"' in code:
            yield path.stem, (ast.get_docstring(ast.parse(code)) or "").partition("\n")[0]


if __name__ == "__main__":
    main()
