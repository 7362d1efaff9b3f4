"""The machine a recipe runs on. This file alone asks the hardware; a machine never changes a recipe's mathematics."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

DType = Literal["float32", "bfloat16"]
DTYPES: tuple[DType, ...] = ("float32", "bfloat16")
Sums = Literal["ordered", "fast"]
SUMS: tuple[Sums, ...] = ("ordered", "fast")
GIB = 1024**3
SMALL = 20_000_000  # ours: weights up to which a CPU trains with processes; measured at 1.1M and 15M (docs/log.md)
WIDE = 5_000_000  # ours: weights from which oneDNN gains with one thread too: 7 % at 15M, nothing at 1.1M (docs/log.md)
SHARES = 4  # ours: into how many parts a step of such a model is cut, on however many cores
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Machine:
    """Devices and how to use them: threads of a CPU, the precision of the arithmetic, tokens in one micro-batch.

    workers  processes, of so many threads each, that share the micro-batches of a step; changes no bit of a run
    shares   into how many micro-batches of about equal size a step is cut, or a multiple of it, where it holds so much
    compile  the passes between matrix products are compiled for this device: fewer kernels, another rounding
    float8   the layers' products in eight-bit floats (train/float8.py)
    wide     the model's matrices are so large that one thread too multiplies them through the library that several use
    recompute  keep each layer's input only and compute the rest again for the backward pass: less memory, the same bits

    Past one process, torchrun starts `ranks` of them, data x shard x tensor, on as many devices:

    data     replicas of the whole model; each works on its part of a step's micro-batches
    shard    processes that divide weights, gradients and moments, and micro-batches too (FSDP, ZeRO-3)
    tensor   processes that divide every matrix, and work on the same micro-batches
    sums     how gradients of several processes are added: "ordered", as one process would add them, or "fast"
    """

    device: str = "cpu"
    count: int = 1
    dtype: DType = "float32"
    threads: int = 1
    micro_tokens: int = 8192
    workers: int = 1
    shares: int = 1
    memory_bytes: int = 0
    wide: bool = False
    recompute: bool = False
    compile: bool = False
    float8: bool = False
    data: int = 1
    shard: int = 1
    tensor: int = 1
    sums: Sums = "ordered"

    @property
    def ranks(self) -> int:
        """How many processes torchrun starts."""
        return self.data * self.shard * self.tensor

    @property
    def replicas(self) -> int:
        """Among how many of them a step's micro-batches are divided."""
        return self.data * self.shard


def detect(device: str | None = None, dtype: DType | None = None, threads: int | None = None) -> Machine:
    """This machine. Without a wish: the first GPU PyTorch sees, in bfloat16, else the CPU, in float32."""
    cpu = device == "cpu"
    found, memory = ("cpu", memory_of_cpu()) if cpu else _gpu() or ("cpu", memory_of_cpu())
    kind = device or found
    on_gpu = kind.startswith("cuda")
    return Machine(
        device=kind,
        dtype=dtype or ("bfloat16" if on_gpu else "float32"),
        threads=threads or asked_threads() or cores(),
        micro_tokens=32768 if on_gpu else 8192,
        memory_bytes=memory,
    )


def divided(machine: Machine, weights: int) -> Machine:
    """The same machine as it trains a model of so many weights: on a CPU, small ones on processes of one thread each.

    A step is then cut alike on one core and on many, so that a run has the same bits on each. Where torchrun started
    several processes, they are the workers, and a step is cut into a part for each at least.
    """
    small = machine.device == "cpu" and machine.dtype == "float32" and weights <= SMALL
    machine = replace(machine, wide=weights > WIDE)
    if machine.ranks > 1:
        cut = SHARES if small and machine.shares == 1 else machine.shares
        return replace(machine, workers=1, threads=1 if small else machine.threads, shares=max(cut, machine.replicas))
    if not small or not can_fork() or machine.compile:  # a compiler's threads do not survive a fork
        return machine
    cut = SHARES if machine.shares == 1 else machine.shares
    return replace(machine, workers=min(machine.threads, SHARES), threads=1, shares=cut)


def no_compiler(device: str) -> str:
    """What keeps PyTorch from compiling for this device here; "" where nothing does."""
    if not any(map(shutil.which, (os.environ.get("CXX") or "c++", "g++", "clang++"))):
        return "there is no C++ compiler here (c++, g++ or clang++)"
    if device.startswith("cuda") and importlib.util.find_spec("triton") is None:
        return "triton is not installed, which PyTorch's builds for CUDA bring along"
    return ""


def can_fork() -> bool:
    """Whether a process can be doubled here."""
    return hasattr(os, "fork")


def hands(machine: Machine) -> str:
    """Who computes, in words: "4 processes of 1 thread", "2 threads", "cuda", "4 ranks (data 2, shard 2) on cuda"."""
    if machine.ranks > 1:
        words = ", ".join(f"{name} {n}" for name in ("data", "shard", "tensor") if (n := getattr(machine, name)) > 1)
        own = hands(replace(machine, data=1, shard=1, tensor=1))
        return f"{machine.ranks} ranks ({words})" + (f" of {own}" if machine.device == "cpu" else f" on {own}")
    if machine.device != "cpu":
        return machine.device
    if machine.workers > 1:
        return f"{machine.workers} processes of {machine.threads} thread{'s' * (machine.threads != 1)}"
    return f"{machine.threads} thread{'s' * (machine.threads != 1)}"


def asked_threads() -> int:
    """What OMP_NUM_THREADS asks for, the variable that PyTorch itself reads; 0 where it is unset or no number."""
    word = os.environ.get("OMP_NUM_THREADS", "")
    return int(word) if word.isdigit() else 0


def cores() -> int:
    """Processor cores that this process may use, cgroup quotas and affinity counted."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = CGROUP / "cpu.max"
    try:
        limit, period = quota.read_text().split()
        return max(1, min(allowed, int(limit) // int(period))) if limit != "max" else allowed
    except (OSError, ValueError):
        return allowed


def memory_of_cpu() -> int:
    """Bytes of main memory that this process may use, a cgroup's limit counted, or 0 where the system does not tell."""
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError, AttributeError):
        return 0
    limits = [CGROUP / "memory.max", CGROUP / "memory" / "memory.limit_in_bytes"]  # version 2, version 1
    return min([there, *(limit for path in limits if (limit := _limit(path)))])


def _limit(path: Path) -> int:
    """A cgroup's limit in bytes; 0 where there is none."""
    try:
        word = path.read_text().strip()
    except OSError:
        return 0
    return int(word) if word.isdigit() else 0


def available(device: str = "cpu") -> int:
    """Bytes of memory that are free for more, a cgroup's limit counted; 0 where the system does not tell."""
    if device != "cpu":
        import torch

        return int(torch.cuda.mem_get_info(torch.device(device))[0]) if torch.cuda.is_available() else 0
    free = 0
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return 0
    return min([free, *_left()])


def _left() -> list[int]:
    """Bytes that each cgroup with a limit has left; what it keeps of files not read lately counts as left, as it is given
    up when memory is asked for."""
    found = []
    for limit, used, idle in (
        ("memory.max", "memory.current", "inactive_file"),  # version 2
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),  # version 1
    ):
        if most := _limit(CGROUP / limit):
            found.append(
                max(0, most - _limit(CGROUP / used) + _stated((CGROUP / limit).with_name("memory.stat"), idle))
            )
    return found


def _stated(path: Path, name: str) -> int:
    """A number of a cgroup's table; 0 where it says none."""
    try:
        rows = dict(line.split() for line in path.read_text().splitlines())
        return int(rows.get(name, 0))
    except (OSError, ValueError):
        return 0


def resident() -> int:
    """Bytes of main memory that this process holds now, or 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _gpu() -> tuple[str, int] | None:
    if not shutil.which("nvidia-smi") and not os.path.exists("/dev/nvidiactl"):
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    return "cuda", int(torch.cuda.get_device_properties(0).total_memory)


def gpu_name() -> str | None:
    """Name of the first GPU, or None; imports PyTorch only where a driver is present."""
    if _gpu() is None:
        return None
    import torch

    return str(torch.cuda.get_device_name(0))


def processor_name() -> str:
    """The processor's own name, for reports and benchmark files."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def processor_vendor() -> str:
    """Who made the processor, in its own spelling ("GenuineIntel", "AuthenticAMD"); "" where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("vendor_id")), "")


def describe() -> str:
    """One line for a report: processor, cores, memory, and a GPU where there is one."""
    gpu = gpu_name()
    return f"{processor_name()}, {cores()} cores, {memory_of_cpu() / GIB:.0f} GiB" + (f", {gpu}" if gpu else "")
