"""Which library multiplies float32 matrices on a CPU while a model is trained.

PyTorch asks MKL. On AMD processors MKL's threads share the work badly (docs/log.md: four threads do what three could),
and oneDNN, which PyTorch carries too, is up to 1.5 times as fast. With one thread a process, as small models are
trained, there is nothing to share: it gains 7 % at 15M weights and nothing at 1M, where MKL stays. PyTorch hands
float32 products to oneDNN only where it is told that they may be rounded to bfloat16 on the way. So it is told that,
and oneDNN is told to leave the bfloat16 instructions of the processor alone, by which it computes in float32; whether
it does is tried before it is believed. Attention's own products, which are small, stay with MKL always
(nn/products.py).

Which one it is changes bits, as another PyTorch would: a run's journal names it, and on one processor it is always the
same. CAMELID_PRODUCTS=mkl or =onednn decides otherwise. Small models multiply by a kernel of ours first (train/passes.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal

import torch

from camelid.errors import Problem, UsageError
from camelid.machine import Machine, processor_vendor
from camelid.nn.products import through_onednn

Library = Literal["MKL", "oneDNN"]
WISH = "CAMELID_PRODUCTS"
LIMIT = "ONEDNN_MAX_CPU_ISA"  # read once by oneDNN, when it is first used
FLOAT32_ONLY = "AVX512_CORE_VNNI"  # the most that knows no bfloat16; a processor with less is not asked for more
ENOUGH, LARGEST = 0.005, 16384  # seconds of a product that is large enough to tell a rate; rows where to end anyway
TRYING = 0.03  # seconds for each size: among other work the first products are often interrupted, some later one is not
EXACT = 1e-5  # ours: of the largest value; float32 gives some 1e-7 in the products tried, bfloat16 3e-3


def library(machine: Machine) -> Library | None:
    """What multiplies a run's float32 matrices on this machine; None where that is not the question.

    Raises UsageError where CAMELID_PRODUCTS names neither.
    """
    has_mkl = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    if machine.device != "cpu" or machine.dtype != "float32" or not has_mkl:
        return None
    wish = os.environ.get(WISH, "").lower()
    if wish not in ("", "mkl", "onednn"):
        raise UsageError([Problem(WISH, wish, 'use "mkl" or "onednn", or leave it unset')])
    shared = processor_vendor() == "AuthenticAMD" and (machine.threads > 1 or machine.wide)
    asked = wish == "onednn" or (not wish and shared)
    return "oneDNN" if asked and _exact() else "MKL"


@contextmanager
def multiplying(machine: Machine) -> Iterator[None]:
    """As long as it lasts, float32 matrices are multiplied by `library(machine)`."""
    if library(machine) != "oneDNN":
        yield
        return
    with through_onednn():
        yield


def rate(machine: Machine) -> float:
    """Operations a second of the best large product, measured in about a tenth of a second with this process's
    threads: what a step's own operations are held against."""
    best, size, least = 0.0, 256, 0.0
    with multiplying(machine), torch.no_grad():
        while least < ENOUGH and size < LARGEST:
            size *= 2
            one = torch.ones(size, size, dtype=getattr(torch, machine.dtype), device=machine.device)
            out = one @ one
            least = _least_seconds(lambda: torch.mm(one, one, out=out), machine)  # noqa: B023 - called at once
            best = max(best, 2 * size**3 / least)
    return best


def _least_seconds(product: Callable[[], object], machine: Machine) -> float:
    """What the quickest of some products took: of three at least, and of as many as TRYING has room for."""
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < TRYING:
        _settle(machine)
        begun = time.perf_counter()
        product()
        _settle(machine)
        taken.append(max(time.perf_counter() - begun, 1e-9))
    return min(taken)


def _settle(machine: Machine) -> None:
    if machine.device.startswith("cuda"):
        torch.cuda.synchronize(machine.device)


@cache
def _exact() -> bool:
    """Whether oneDNN takes float32 products and computes them in float32; tried once per process."""
    there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not there or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    limit = os.environ.get(LIMIT)
    os.environ[LIMIT] = limit or FLOAT32_ONLY
    try:
        with torch.no_grad(), through_onednn():
            return all(_error(rows) < EXACT for rows in (32, 67))
    finally:
        if limit is None:
            del os.environ[LIMIT]


def _error(rows: int) -> float:
    """The largest error of a few products of matrices as a training step lays them, as a share of the largest value."""
    count = torch.arange(rows * 96, dtype=torch.float64)
    left, right = (torch.cos(count * pace).view(rows, 96).float() for pace in (0.7, 1.3))
    worst = 0.0
    for one, other in ((left, right.T), (left.T, right), (left, right.T.contiguous())):
        exact = one.double() @ other.double()
        worst = max(worst, float((one @ other - exact).abs().max() / exact.abs().max()))
    return worst
