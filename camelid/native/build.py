"""The compiled kernels: found in the user's cache or compiled at first use, and why not where they are not to be had.

    CACHE/camelid/native/KEY/core.so    CACHE is XDG_CACHE_HOME or ~/.cache; KEY names sources, compiler, flags, processor

Compiling takes some five seconds and nothing is fetched. What was compiled is tried in a process of its own before it
is kept, for a library built for another processor dies where it first meets an instruction it lacks. CAMELID_NATIVE=off
leaves it all alone; CC names a compiler.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from camelid import durable
from camelid.errors import BadFile, StoreError

SOURCES = ("core.c", "lanes.h", "attention.h", "train.h")
NAME = "core.so"
COMPILERS = ("cc", "gcc", "clang")
# No contraction, no fast mathematics: sums keep their order and NaN stays NaN.
FLAGS = (
    "-std=gnu11",
    "-O3",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
    "-shared",
    "-pthread",
)
TUNED = ("-mcpu=native",) if platform.machine() in ("aarch64", "arm64") else ("-march=native",)
SECONDS = 120  # ours: a compiler that takes longer is taken to hang
CHECK = "import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1]).camelid_check())"


@dataclass(frozen=True)
class Built:
    """A library that was tried on this machine."""

    path: Path
    compiler: str
    tuned: bool


@dataclass(frozen=True)
class Absent:
    """Why there is no library, and what would help; `wished` where the user turned it off."""

    reason: str
    wished: bool = False


def switched_off() -> bool:
    """Whether CAMELID_NATIVE says so."""
    return os.environ.get("CAMELID_NATIVE", "").lower() in ("off", "0", "no")


@cache
def built() -> Built | Absent:
    """The library for this machine, compiled if need be; asked once per process."""
    if switched_off():
        return Absent("turned off by CAMELID_NATIVE", wished=True)
    if sys.byteorder != "little" or sys.maxsize < 1 << 32:
        return Absent("the kernels are written for 64-bit little-endian machines")
    compiler = find_compiler()
    if compiler is None:
        return Absent("no C compiler found (cc, gcc, clang); install one, or name it in CC")
    reasons = []
    for tuned in (True, False):
        try:
            return Built(kept(compiler, FLAGS + (TUNED if tuned else ())), compiler, tuned)
        except (StoreError, OSError, subprocess.SubprocessError, Failure) as error:
            reasons.append(str(error))
    return Absent(reasons[-1] if reasons[0] == reasons[-1] else "; without tuning: ".join(reasons))


class Failure(Exception):
    """The compiler refused, or what it made does not work here."""


def find_compiler() -> str | None:
    """Path of the compiler that CC names, or of the first known one."""
    named = os.environ.get("CC")
    return next((found for name in ((named,) if named else COMPILERS) if (found := shutil.which(name))), None)


def folder() -> Path:
    """Where compiled kernels are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "camelid" / "native"


def kept(compiler: str, flags: tuple[str, ...]) -> Path:
    """The library for these flags, from the cache or compiled into it. Raises Failure, StoreError, OSError."""
    target = folder() / key(compiler, flags)
    for _ in range(2):
        if target.exists():
            try:
                durable.verify(target)
                return target / NAME
            except BadFile:
                shutil.rmtree(target)
        made = compiled(compiler, flags)
        try:
            durable.commit(target, lambda draft, made=made: _write(draft, made))  # type: ignore[misc]
        except StoreError:
            if not target.exists():  # otherwise another process was faster: look at what it made
                raise
    durable.verify(target)
    return target / NAME


def key(compiler: str, flags: tuple[str, ...]) -> str:
    """32 hex digits that change with sources, compiler, flags and processor."""
    version = _run([compiler, "--version"]).stdout
    parts = [*map(source, SOURCES), version, " ".join(flags).encode(), _processor().encode()]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:32]


def source(name: str) -> bytes:
    """A source file of the kernels."""
    return (Path(__file__).parent / name).read_bytes()


def compiled(compiler: str, flags: tuple[str, ...], *, check: bool = True) -> bytes:
    """The library's bytes, tried in a process of its own. Raises Failure."""
    with tempfile.TemporaryDirectory(prefix="camelid-") as scratch:
        path = Path(scratch) / NAME
        made = _run([compiler, *flags, str(Path(__file__).parent / SOURCES[0]), "-o", str(path), "-lm"])
        if made.returncode:
            first = next((line for line in made.stderr.decode(errors="replace").splitlines() if "error" in line), "")
            raise Failure(f"{compiler} failed ({first or f'exit code {made.returncode}'})")
        tried = _run([sys.executable, "-c", CHECK, str(path)]) if check else None
        if tried is not None and tried.returncode:
            raise Failure(f"what {compiler} made does not work on this processor (exit code {tried.returncode})")
        return path.read_bytes()


def _write(draft: durable.Draft, data: bytes) -> None:
    draft.write(NAME, data)


def _run(command: list[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=SECONDS, check=False)


def _processor() -> str:
    """What -march=native looks at: the processor's name and features."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(dict.fromkeys(line for line in lines if line.split("\t")[0].split(":")[0].strip() in wanted))
