"""Kill training at random moments, resume it until it is done, and compare the end, bit for bit, with a run left alone.

    python -m tests.kill --n 10000 --seed 1             SIGKILLs to deliver, and the seed of when
    python -m tests.kill --n 500 --signal TERM          each must commit within ten seconds, or die before it began
    python -m tests.kill --n 20 --cold 20 --jobs lora   fresh interpreters instead of forks, one kind of run

A server imports PyTorch once and forks a child for every attempt. The moment is uniform over the time that the run
takes undisturbed; after MOST kills a run is left to end. Compared: exact weights, both moments, counters, journal, and
the files of the finished model.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from camelid import durable
from camelid.checkpoints.safetensors_io import read_header
from camelid.errors import CamelidError
from camelid.train.state import PREFIX, steps_of
from tests.train.small_runs import JOBS, ground

MOST, MOST_COLD = 8, 2  # kills that one run suffers
PATIENCE = 10.0  # seconds within which a run that was asked to stop must have committed (goal R6)


def digest(out: Path) -> str:
    """SHA-256 of everything that a finished run says: canonical bytes, not file bytes."""
    sha = hashlib.sha256()
    commit = durable.newest(out / "run" / "commits", PREFIX)
    assert commit is not None, f"{out}: a finished run has a commit"
    header = read_header(commit / "state.safetensors")
    with open(header.path, "rb") as file:
        for name, place in sorted(header.places.items()):
            sha.update(f"{name} {place.dtype} {place.shape}\n".encode())
            file.seek(place.begin)
            sha.update(file.read(place.end - place.begin))
    for path in (commit / "state.json", out / "run" / "journal.jsonl"):
        sha.update(path.read_bytes())
    for folder in (out / "model", out / "run" / "adapter"):
        if folder.exists():
            sha.update(durable.verify(folder).digest.encode())
    return sha.hexdigest()


def attempt(name: str, base: Path, out: Path) -> int:
    """Do the run, or what is left of it; the exit code that the command line would give."""
    try:
        if not (out / "model").exists():
            JOBS[name].do(base, out)
    except CamelidError as error:
        (out / "said").write_text(str(error))
        return error.exit_code
    except BaseException:
        (out / "said").write_text(traceback.format_exc())
        return 70
    return 0


def forked(work: Callable[[], int]) -> int:
    """The process id of a child that does the work and exits with what it returns."""
    child = os.fork()
    if child:
        return child
    code = 71
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        code = work()
    finally:
        os._exit(code)


def started(name: str, base: Path, out: Path) -> int:
    """The same in a fresh interpreter."""
    return subprocess.Popen([sys.executable, "-m", "tests.kill", "--attempt", name, str(base), str(out)]).pid


def waited(child: int, seconds: float) -> int | None:
    """The wait status of a child that ended within so many seconds, else None."""
    deadline = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        time.sleep(min(left, 0.001))


def said(out: Path) -> str:
    """What an attempt told when it failed."""
    path = out / "said"
    return path.read_text() if path.exists() else ""


def drafts(out: Path) -> set[Path]:
    """What half-done commits and half-deleted ones lie about."""
    return {path for folder in (out, out / "run", out / "run" / "commits") for path in folder.glob(".*.*")}


def moment(out: Path, before: set[Path]) -> str:
    """Where in its life a run was when it was killed."""
    new = drafts(out) - before
    if any(path.suffix == ".pruned" for path in new):
        return "while pruning"
    if draft := [path for path in new if path.suffix == ".draft"]:
        return "inside a commit" if draft[0].parent.name == "commits" else "while saving the model"
    return "between commits" if durable.commits(out / "run" / "commits", PREFIX) else "before the first commit"


@dataclass
class Harness:
    """Kills runs and keeps count."""

    base: Path
    number: signal.Signals
    draw: random.Random
    wanted: dict[str, str] = field(default_factory=dict)
    lasts: dict[tuple[str, bool], float] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def begin(self, name: str, out: Path, *, cold: bool) -> int:
        ground = self.base / "ground"
        return started(name, ground, out) if cold else forked(lambda: attempt(name, ground, out))

    def reference(self, name: str, *, cold: bool = False) -> None:
        """The end of a run that nobody disturbs, and how long it takes."""
        out = self.base / f"reference-{name}-{cold}"
        out.mkdir()
        began = time.monotonic()
        status = waited(self.begin(name, out, cold=cold), 600)
        assert status == 0, f"{name}: {said(out) or status}"
        self.lasts[name, cold] = time.monotonic() - began
        if self.wanted.setdefault(name, digest(out)) != digest(out):
            self.wrong.append(f"{name}: a fresh interpreter ends in other bits than a fork")

    def trial(self, name: str, trial: int, *, cold: bool) -> None:
        """One run, killed and resumed until it is done."""
        out = self.base / f"{trial}-{name}"
        out.mkdir()
        for turn in range(1000):
            before = drafts(out)
            child = self.begin(name, out, cold=cold)
            spared = turn >= (MOST_COLD if cold else MOST)
            status = waited(child, 600 if spared else self.draw.uniform(0, self.lasts[name, cold]))
            if status is None:
                status = self.kill(child, out, before)
            if status == 0:
                break
            if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 128 + self.number:
                self.wrong.append(f"{name}, trial {trial}: exit {os.WEXITSTATUS(status)}: {said(out)}")
                return
        self.counts["runs"] += 1
        if digest(out) != self.wanted[name]:
            self.wrong.append(f"{name}, trial {trial}: ended in other bits than a run left alone")
        shutil.rmtree(out)

    def check_committed(self, out: Path) -> None:
        """A run that stopped on request committed its last step."""
        commit = durable.newest(out / "run" / "commits", PREFIX)
        last = max((line["step"] for line in steps_of(out / "run")), default=0)
        if last and (commit is None or commit.name != f"{PREFIX}{last:08d}"):
            self.wrong.append(f"{out.name}: stopped after step {last}, last commit {commit and commit.name}")

    def kill(self, child: int, out: Path, before: set[Path]) -> int:
        """Send the signal; the wait status. What a polite signal leaves must be committed in time."""
        began = time.monotonic()
        os.kill(child, self.number)
        status = waited(child, 600)
        assert status is not None
        took = time.monotonic() - began
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            return status  # it was done already
        self.counts["kills"] += 1
        self.counts[moment(out, before)] += 1
        if self.number != signal.SIGKILL:
            self.slowest = max(self.slowest, took)
            if os.WIFEXITED(status):
                self.counts["committed"] += 1
                self.check_committed(out)
            if took > PATIENCE:
                self.wrong.append(f"{out.name}: took {took:.1f} s to stop")
        return status


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=50, help="signals to deliver")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signal", choices=("KILL", "TERM", "INT"), default="KILL")
    parser.add_argument("--cold", type=int, default=0, help="how many runs start a fresh interpreter each time")
    parser.add_argument("--jobs", nargs="+", choices=tuple(JOBS), default=list(JOBS))
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--attempt", nargs=3, metavar=("JOB", "GROUND", "OUT"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.attempt:
        name, base, out = asked.attempt
        return attempt(name, Path(base), Path(out))
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        harness = Harness(Path(folder), signal.Signals[f"SIG{asked.signal}"], random.Random(asked.seed))
        began = time.monotonic()
        ground(harness.base / "ground")  # here, so that children find everything imported
        for turn, name in enumerate(asked.jobs):
            harness.reference(name)
            if turn < asked.cold:
                harness.reference(name, cold=True)
        trial = 0
        while (harness.counts["kills"] < asked.n or trial < asked.cold) and not harness.wrong:
            name = asked.jobs[trial % len(asked.jobs)]
            harness.trial(name, trial, cold=trial < asked.cold)
            trial += 1
        told = {
            "signal": asked.signal,
            "seed": asked.seed,
            **harness.counts,
            "cold": min(trial, asked.cold),
            "slowest_stop": round(harness.slowest, 3),
            "seconds": round(time.monotonic() - began, 1),
            "wrong": harness.wrong,
        }
        print(json.dumps(told))
    return 1 if harness.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
