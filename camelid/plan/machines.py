"""Machines to plan for: what each device holds and how fast it multiplies, from its maker's data sheet."""

from __future__ import annotations

from dataclasses import dataclass

from camelid.errors import ProblemList, did_you_mean
from camelid.machine import GIB, cores, memory_of_cpu


@dataclass(frozen=True)
class Device:
    """One kind of device. `flops` is the dense bfloat16 peak per second; 0 where it was never measured."""

    name: str
    memory_bytes: int
    flops: float
    source: str


@dataclass(frozen=True)
class Machines:
    """So many devices of one kind, and the precision of the arithmetic."""

    device: Device
    count: int
    dtype: str

    @property
    def memory_bytes(self) -> int:
        return self.device.memory_bytes * self.count


DEVICES: dict[str, Device] = {
    "rtx3090": Device("rtx3090", 24 * GIB, 71e12, "NVIDIA Ampere GA102 white paper: 71 TFLOPS bfloat16, float32 sums"),
    "rtx4090": Device("rtx4090", 24 * GIB, 165e12, "NVIDIA Ada white paper: 165.2 TFLOPS bfloat16, float32 sums"),
    "a100-40gb": Device("a100-40gb", 40 * GIB, 312e12, "NVIDIA A100 data sheet: 312 TFLOPS bfloat16"),
    "a6000": Device("a6000", 48 * GIB, 154.8e12, "NVIDIA RTX A6000 data sheet: 309.7 TFLOPS with sparsity, half dense"),
    "a40": Device("a40", 48 * GIB, 149.7e12, "NVIDIA A40 data sheet: 149.7 TFLOPS bfloat16, dense"),
    "l40s": Device("l40s", 48 * GIB, 362e12, "NVIDIA L40S data sheet: 362 TFLOPS bfloat16, dense"),
    "a100-80gb": Device("a100-80gb", 80 * GIB, 312e12, "NVIDIA A100 data sheet: 312 TFLOPS bfloat16"),
    "h100-80gb": Device("h100-80gb", 80 * GIB, 989e12, "NVIDIA H100 SXM data sheet: 989 TFLOPS bfloat16, dense"),
    "h200": Device("h200", 141 * GIB, 989e12, "NVIDIA H200 SXM data sheet: 989 TFLOPS bfloat16, dense; 141 GB"),
}


def machine_named(name: str | None, count: int, dtype: str, problems: ProblemList) -> Machines | None:
    """The machine asked for, by its name or a beginning that only it has; this one's CPU where none is named; None,
    with the reason in `problems`, if unknown."""
    if name is None or name == "cpu":
        return Machines(this_cpu(), count, dtype or "float32")
    fitting = [known for known in DEVICES if known.startswith(name.lower())]
    if len(fitting) != 1:
        remedy = f"say {' or '.join(fitting)}" if fitting else did_you_mean(name, ("cpu", *DEVICES))
        problems.add("--device", f"found {name!r}", remedy)
        return None
    return Machines(DEVICES[fitting[0]], count, dtype or "bfloat16")


def this_cpu() -> Device:
    """The processor that runs this; its rate was never measured."""
    return Device(f"cpu ({cores()} cores)", memory_of_cpu(), 0.0, "this machine; its rate was not measured")
