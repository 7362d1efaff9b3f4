"""Peak memory of real small training runs, each in a process of its own, beside what the planner predicts.

    python benchmarks/memory_of_runs.py                    every case; writes benchmarks/results/memory_of_runs.json
    python benchmarks/memory_of_runs.py --case "lora on q and v"      one case, measured anew in that file

A run is camelid's own loop: model, optimizer, batches, two steps, a commit at the end. What counts is how far the
process's resident memory rises above where it stood before, a tiny run of the same kind having warmed PyTorch up.
Each case runs twice: "held" with every freed block given back to the system at once (MALLOC_MMAP_THRESHOLD_), which is
what the run itself holds and what the planner predicts; "default" as glibc keeps freed blocks for later. Runs of several
workers are watched from outside: the largest sum of what the processes hold, shared memory counted once (Pss).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from camelid.machine import Machine, describe
from camelid.models.count import Dtype
from camelid.models.shape import LINEARS, LlamaShape, LoRA
from camelid.native.library import trains
from camelid.plan.training import memory, ours, paged_bytes
from camelid.train.settings import AdamW, AdamW8bit, GaLore

RESULTS = Path(__file__).parent / "results" / "memory_of_runs.json"
STEPS = 2
MIB = 1 << 20
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def shape(layers: int, width: int, vocab: int, *, kv_heads: int | None = None, context: int = 2048) -> LlamaShape:
    """A LLaMA of this width with heads of 64 and LLaMA's feed-forward, 8/3 of the width in steps of 64."""
    heads, hidden = width // 64, (width * 8 // 3 + 63) // 64 * 64
    kv = kv_heads or heads
    return LlamaShape(
        layers=layers, width=width, heads=heads, kv_heads=kv, head_width=64, hidden=hidden, vocab=vocab, context=context
    )


@dataclass(frozen=True)
class Case:
    """One run: shape, tokens in a micro-batch, micro-batches in a step, and what is trained how."""

    shape: LlamaShape
    tokens: int
    length: int = 512
    micro_batches: int = 1
    dtype: Dtype = "float32"
    lora: LoRA | None = None
    recompute: bool = False
    workers: int = 1
    native: bool = True  # whether workers may use kernels of our own
    base: Literal["int8", "nf4"] | None = None
    optim: AdamW = AdamW(lr=1e-4)


SMALL, WIDE = shape(6, 384, 16384), shape(4, 768, 8192)
DEEP = shape(12, 1024, 4096)
CASES: dict[str, Case] = {
    "23M": Case(SMALL, 2048),
    "23M, three micro-batches": Case(SMALL, 1024, micro_batches=3),
    "23M, more tokens": Case(SMALL, 4096),
    "23M, recomputed": Case(SMALL, 8192, recompute=True),
    "40M, wide": Case(WIDE, 1024, micro_batches=2),
    "20 layers": Case(shape(20, 256, 4096), 2048),
    "grouped heads, rows of 4096": Case(shape(4, 512, 8192, kv_heads=2, context=4096), 4096, length=4096),
    "vocabulary of 128256": Case(shape(2, 256, 128_256), 1024),
    "bfloat16, two micro-batches": Case(SMALL, 1024, dtype="bfloat16", micro_batches=2),
    "lora on q and v": Case(WIDE, 2048, lora=LoRA(8, 16)),
    "lora on all, dropout": Case(WIDE, 2048, lora=LoRA(16, 32, dropout=0.05, targets=LINEARS)),
    "lora, recomputed": Case(WIDE, 4096, lora=LoRA(8, 16, targets=LINEARS), recompute=True),
    "lora over bfloat16": Case(WIDE, 1024, lora=LoRA(8, 16), dtype="bfloat16"),
    "40M, 8-bit moments": Case(WIDE, 1024, micro_batches=2, optim=AdamW8bit(lr=1e-4)),
    "40M, paged moments": Case(WIDE, 1024, micro_batches=2, optim=AdamW(lr=1e-4, paged=True)),
    "40M, GaLore of rank 64": Case(WIDE, 1024, micro_batches=2, optim=GaLore(lr=1e-4, rank=64)),
    "QLoRA: nf4, all": Case(DEEP, 512, lora=LoRA(8, 16, targets=LINEARS), base="nf4"),
    "QLoRA: nf4 over bfloat16": Case(DEEP, 512, lora=LoRA(8, 16), base="nf4", dtype="bfloat16"),
    "int8 base, q and v": Case(DEEP, 512, lora=LoRA(8, 16), base="int8"),
    "DoRA on all": Case(WIDE, 1024, lora=LoRA(8, 16, targets=LINEARS, kind="dora")),
    "23M, two workers": Case(SMALL, 1024, micro_batches=4, workers=2),
    "23M, four workers": Case(SMALL, 1024, micro_batches=8, workers=4),
    "23M, two workers, no compiler": Case(SMALL, 1024, micro_batches=4, workers=2, native=False),
    "23M, four workers, no compiler": Case(SMALL, 1024, micro_batches=8, workers=4, native=False),
    "lora on all, two workers": Case(SMALL, 1024, micro_batches=4, workers=2, lora=LoRA(8, 16, targets=LINEARS)),
}


def machine_of(case: Case) -> Machine:
    """How this machine runs it."""
    threads = 2 if case.workers == 1 else 1
    return Machine(dtype=case.dtype, threads=threads, micro_tokens=case.tokens, workers=case.workers)


def kernels_for(case: Case) -> bool:
    """Whether this machine has kernels of our own that the case goes through."""
    return case.native and bool(trains(machine_of(case)))


def predicted(case: Case, kernels: bool) -> int:
    """What the planner says, in bytes."""
    training = ours(
        case.shape,
        tokens=case.tokens,
        dtype=case.dtype,
        lora=case.lora,
        base=case.base,
        optim=case.optim,
        micro_batches=case.micro_batches,
        recompute=float(case.recompute),
        workers=case.workers,
        kernels=kernels,
    )
    pages = paged_bytes(case.shape, case.lora, case.optim) if case.optim.paged else 0.0
    return memory(training).peak + int(pages)  # nothing presses them out here, so that they count as resident


def measured(case: Case) -> dict[str, Any]:
    """What the case takes in this process, above where a tiny run of its kind left it: bytes, and seconds a step."""
    tiny = replace(case, shape=replace(case.shape, layers=1, vocab=64), tokens=64, length=64)
    with tempfile.TemporaryDirectory() as directory:
        run(tiny, Path(directory) / "tiny")
        if case.workers > 1:
            print("ready", flush=True)
            sys.stdin.readline()
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
        seconds = run(case, Path(directory) / "run")
        return {"baseline": before, "peak": resident("VmHWM") - before, "seconds_per_step": round(seconds, 2)}


def run(case: Case, directory: Path) -> float:
    """Trains as the case says; gives seconds a step."""
    import torch

    from camelid.checkpoints.names import expected
    from camelid.data.batch import Batch
    from camelid.models.adapt import add_lora, lean, set_randomness
    from camelid.models.llama import Llama, initialise
    from camelid.randomness import torch_generator
    from camelid.train.loop import Cadence, Conduct, train
    from camelid.train.loss import NextToken, cross_entropy
    from camelid.train.optimizers import optimizer_of
    from camelid.train.settings import Constant

    torch.set_num_threads(2)

    class Rows:
        steps, digest = STEPS, "random rows"

        def at(self, step: int) -> list[Batch]:
            return [self.row(np.random.default_rng([step, micro])) for micro in range(case.micro_batches)]

        def row(self, draw: np.random.Generator) -> Batch:
            ids = draw.integers(0, case.shape.vocab, (1, case.tokens))
            segments = (np.arange(case.tokens, dtype=np.int32) // case.length)[None]
            return Batch(ids, np.roll(ids, -1, 1), np.ones(ids.shape, np.bool_), segments)

    class Recomputed(NextToken):
        def __call__(self, model: Llama, batch: Batch) -> torch.Tensor:
            hidden = model.hidden(torch.from_numpy(batch.ids), segments=batch.segments, recompute=True)
            return cross_entropy(hidden[0], model.head_weight(), torch.from_numpy(batch.targets[0]))

    class Drawn(Mapping[str, torch.Tensor]):
        """Weights drawn when they are asked for, as a checkpoint's are read."""

        def __init__(self, shape: LlamaShape) -> None:
            self.shapes = expected(shape)

        def __getitem__(self, name: str) -> torch.Tensor:
            draw = torch_generator("weights", name)
            return torch.empty(self.shapes[name]).normal_(0, 0.02, generator=draw) + float("norm" in name)

        def __iter__(self) -> Iterator[str]:
            return iter(self.shapes)

        def __len__(self) -> int:
            return len(self.shapes)

    dtype = getattr(torch, case.dtype)
    if case.base is not None and case.lora is not None:
        model = lean(case.shape, Drawn(case.shape), case.lora, bits=case.base, dtype=dtype)
    else:
        model = Llama(case.shape, dtype=dtype if case.lora else torch.float32)
        initialise(model, 0)
        if case.lora is not None:
            add_lora(model, case.lora, seed=0)
    parameters = dict(model.named_parameters())
    optimizer = optimizer_of(parameters, case.optim, dtype=None if case.lora else dtype, folder=directory)
    if case.lora is None:
        model.to(dtype)
    machine = machine_of(case)
    began = time.perf_counter()
    train(
        model,
        Rows(),
        Recomputed() if case.recompute else NextToken(),
        optimizer,
        Constant(),
        directory=directory,
        seed=0,
        identity={},
        conduct=Conduct(machine=machine, cadence=Cadence(seconds=None)),
        draw=lambda step, micro: set_randomness(model, 0, step, micro),
    )
    return (time.perf_counter() - began) / STEPS


def resident(field: str) -> int:
    """A line of the process's own account of its memory, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def in_a_child(name: str, environment: dict[str, str]) -> dict[str, Any]:
    """What `measured` says of a case in a fresh process."""
    command = [sys.executable, __file__, "--child", name]
    environment = environment | ({} if CASES[name].native else {"CAMELID_NATIVE": "off"})
    if CASES[name].workers > 1:
        return watched(command, {**os.environ, **environment})
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
    found: dict[str, Any] = json.loads(told.stdout)
    return found


def watched(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """The same for a run of several processes, their memory added up every few milliseconds from outside."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen(command, **pipes) as child:  # type: ignore[call-overload]
        assert child.stdout.readline() == "ready\n"
        before = peak = shared_once(child.pid)
        child.stdin.write("go\n")
        child.stdin.flush()
        while child.poll() is None:
            peak = max(peak, shared_once(child.pid))
            time.sleep(0.02)
        told: dict[str, Any] = json.loads(child.stdout.read())
    return {**told, "baseline": before, "peak": peak - before}


def shared_once(process: int) -> int:
    """Bytes that a process and its children hold together, each page of shared memory counted once."""
    total = 0
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        for each in (process, *map(int, children)):
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    except (OSError, IndexError):  # it ended meanwhile
        return 0
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=list(CASES))
    parser.add_argument("--child", choices=list(CASES), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measured(CASES[given.child])))
        return
    runs = json.loads(RESULTS.read_text())["runs"] if given.case else {}
    for name in [given.case] if given.case else CASES:
        kernels = kernels_for(CASES[name])
        said = predicted(CASES[name], kernels)
        with ThreadPoolExecutor() as pool:
            held, default = pool.map(in_a_child, (name, name), (RETURNED, {}))
        runs[name] = {"predicted": said, "held": held, "default": default, "kernels": kernels}
        error, beyond = said / held["peak"] - 1, default["peak"] / held["peak"] - 1
        print(
            f"{name:<28} predicted {said / MIB:7.0f} MiB  held {held['peak'] / MIB:7.0f} MiB  {error:+.1%}"
            f"   default allocator {beyond:+.1%}",
            flush=True,
        )
    import torch

    about = {"machine": describe(), "date": time.strftime("%Y-%m-%d"), "torch": torch.__version__, "threads": 2}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({**about, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
