"""What the C library does, while a model is trained, with memory that a step gives back: keep it, or return it.

A step frees its activations and asks for the same sizes again. glibc returns large blocks to the system, which then fills
every page with zeros anew: at 110M weights 8 % of a step. Kept, they cost nothing but stay this process's own, and what
is long-lived between them makes holes. So a run keeps them, unless it computes activations again to save memory: then
every freed block goes back at once, and what is resident is what is held (docs/log.md).

Only glibc is told anything, on a CPU, and nothing where the environment already says what its allocator should do.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from camelid.machine import Machine

# <malloc.h>: numbers of settings, and where glibc's own, which follow what is freed, come to rest (mallopt(3)); once told,
# they follow no more
TRIM, MAPPED_FROM, MAPPED = -1, -3, -4
NEVER, MOST, LARGE = -1, 65536, 32 << 20
SMALL = 64 * 1024  # ours: blocks from here on go back to the system at once


@contextmanager
def kept(machine: Machine) -> Iterator[None]:
    """As long as it lasts freed memory is kept, or returned where `machine` recomputes to save it."""
    library = _glibc() if machine.device == "cpu" and not _told() else None
    if library is None:
        yield
        return
    if machine.recompute:
        library.mallopt(MAPPED_FROM, SMALL)
    else:
        library.mallopt(MAPPED, 0)
        library.mallopt(TRIM, NEVER)
    try:
        yield
    finally:
        library.mallopt(MAPPED, MOST)
        library.mallopt(MAPPED_FROM, LARGE)
        library.mallopt(TRIM, 2 * LARGE)
        library.malloc_trim(0)


def _told() -> bool:
    """Whether somebody chose the allocator or its settings from outside."""
    return any(name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD") for name in os.environ)


@cache
def _glibc() -> ctypes.CDLL | None:
    if platform.libc_ver()[0] != "glibc":
        return None
    library = ctypes.CDLL(None)
    library.mallopt.argtypes, library.malloc_trim.argtypes = (ctypes.c_int, ctypes.c_int), (ctypes.c_size_t,)
    return library
