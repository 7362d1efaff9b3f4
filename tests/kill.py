"""Kill training at random moments, resume it until it is done, and compare the end, bit for bit, with a run left alone.

    python -m tests.kill --n 10000 --seed 1             SIGKILLs to deliver, and the seed of when
    python -m tests.kill --n 500 --signal TERM          each must commit within ten seconds, or die before it began
    python -m tests.kill --n 20 --cold 20 --jobs lora   fresh interpreters instead of forks, one kind of run

A server imports PyTorch once and forks a child for every attempt. Every second signal comes at a moment uniform over
the time that the run takes undisturbed. The others are aimed: the child sends itself the signal at one step of its file
layer, in the middle of it where it writes. A run's first attempt is aimed at each of the MOMENTS in turn (a polite
signal: at those LISTENING), a later one at any step. After MOST signals a run is left to end. Compared: exact
weights, both moments, counters, journal, and the files of the finished model.
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
from itertools import count
from pathlib import Path

import torch

from camelid import durable
from camelid.checkpoints.safetensors_io import read_header
from camelid.durable import FILES, Files
from camelid.errors import CamelidError
from camelid.train.state import PREFIX, steps_of
from tests.train.small_runs import JOBS, ground

MOST, MOST_COLD = 8, 2  # kills that one run suffers
MOMENTS = ("before the first commit", "inside a commit", "between commits", "while pruning", "while saving the model")
LISTENING = ("before the first commit", "inside a commit", "while pruning")  # steps between commits may follow the last
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


class Watched(Files):
    """Counts each thing that is done to a file, and each write inside of it, and sends a signal before one of them."""

    def __init__(self, step: Callable[[], bool], number: signal.Signals, asked: Path) -> None:
        self.step = step  # whether this is the step to die in
        self.number, self.asked = number, asked  # `asked` will say when the signal was sent

    def _here(self) -> None:
        if self.step():
            self._send()

    def _send(self) -> None:
        self.asked.write_text(str(time.monotonic()))
        (os.kill if self.number == signal.SIGKILL else os.killpg)(os.getpid(), self.number)

    def write(self, path, data):
        self._here()
        super().write(path, data)

    def append(self, path, data):
        self._here()
        super().append(path, data)

    def push(self, descriptor, data):
        if self.step():
            taken = super().push(descriptor, data[: -(-len(data) // 2)])
            self._send()
            return taken
        return super().push(descriptor, data)

    def truncate(self, path, length):
        self._here()
        super().truncate(path, length)

    def fsync(self, path):
        self._here()
        super().fsync(path)

    def fsync_dir(self, path):
        self._here()
        super().fsync_dir(path)

    def rename(self, a, b):
        self._here()
        super().rename(a, b)

    def remove(self, path):
        self._here()
        super().remove(path)

    def mkdir(self, path):
        self._here()
        super().mkdir(path)


def attempt(name: str, base: Path, out: Path, files: Files = FILES) -> int:
    """Do the run, or what is left of it; the exit code that the command line would give."""
    try:
        if not (out / "model").exists():
            JOBS[name].do(base, out, files=files)
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
        os.setpgrp()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        code = work()
    finally:
        os._exit(code)


def started(name: str, base: Path, out: Path) -> int:
    """The same in a fresh interpreter."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.kill", "--attempt", name, str(base), str(out)], process_group=0
    ).pid


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


def watched(name: str, base: Path, out: Path) -> int:
    """An attempt that writes down at which moment of the run each step of the file layer comes."""
    moments: list[str] = []

    def step() -> bool:
        moments.append(moment(out, set()))
        return False

    code = attempt(name, base, out, Watched(step, signal.SIGKILL, out / "asked"))
    (out / "moments").write_text(json.dumps(moments))
    return code


def aimed(name: str, base: Path, out: Path, at: int, number: signal.Signals) -> int:
    """An attempt that sends itself the signal before step `at` of its file layer is done, if it comes so far."""
    steps = count()
    return attempt(name, base, out, Watched(lambda: next(steps) == at, number, out / "asked"))


@dataclass
class Harness:
    """Kills runs and keeps count."""

    base: Path
    number: signal.Signals
    draw: random.Random
    wanted: dict[str, str] = field(default_factory=dict)
    lasts: dict[tuple[str, bool], float] = field(default_factory=dict)
    steps: dict[str, list[str]] = field(default_factory=dict)  # the moment of each step of an undisturbed run's files
    counts: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    wrong: list[str] = field(default_factory=list)

    @property
    def moments(self) -> tuple[str, ...]:
        """Where first attempts are aimed."""
        return MOMENTS if self.number == signal.SIGKILL else LISTENING

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
        if self.wanted.setdefault(JOBS[name].like or name, digest(out)) != digest(out):
            self.wrong.append(f"{name}: ends in other bits in a fresh interpreter than in a fork, or than its like")

    def watch(self, name: str) -> None:
        """What an undisturbed run does to files, step by step."""
        out = self.base / f"watched-{name}"
        out.mkdir()
        status = waited(forked(lambda: watched(name, self.base / "ground", out)), 600)
        assert status == 0, f"{name}: {said(out) or status}"
        self.steps[name] = json.loads((out / "moments").read_text())
        missed = set(MOMENTS) - set(self.steps[name])
        assert not missed, f"{name}: an undisturbed run does nothing {missed}"
        shutil.rmtree(out)

    def timed(self, name: str, out: Path, *, cold: bool, spared: bool) -> int:
        """An attempt that is sent the signal after some time, or left alone; the wait status."""
        before = drafts(out)
        child = self.begin(name, out, cold=cold)
        status = waited(child, 600 if spared else self.draw.uniform(0, self.lasts[name, cold]))
        return self.kill(child, out, before) if status is None else status

    def aimed(self, name: str, out: Path, wanted: str | None) -> int:
        """An attempt that signals itself at this moment of a fresh run, or at any step of the files; the wait status."""
        before = drafts(out)
        at = self.draw.choice([at for at, found in enumerate(self.steps[name]) if wanted in (None, found)])
        child = forked(lambda: aimed(name, self.base / "ground", out, at, self.number))
        status = waited(child, 600)
        assert status is not None
        asked = out / "asked"
        if status != 0:
            self.counts["aimed"] += 1
            self.count(status, time.monotonic() - float(asked.read_text()) if asked.exists() else 0.0, out, before)
        if wanted is not None:
            last = at >= self.last_commit(name)
            where = f"{name}: signalled itself {wanted}, at step {at} of its files, but"
            self.check_aim(status, out, wanted, where, last=last)
        asked.unlink(missing_ok=True)
        return status

    def last_commit(self, name: str) -> int:
        """The step of the files with which the last commit begins: from there on there is nothing left to stop."""
        steps = self.steps[name]
        inside = [at for at, found in enumerate(steps) if found == "inside a commit"]
        return max(at for at in inside if at == 0 or steps[at - 1] != "inside a commit")

    def check_aim(self, status: int, out: Path, wanted: str, where: str, *, last: bool) -> None:
        """A first attempt was hit where it was aimed at; asked politely, it committed, or went on to the end it had reached."""
        if self.number == signal.SIGKILL and (status != signal.SIGKILL or moment(out, set()) != wanted):
            self.wrong.append(f"{where} ended with wait status {status} {moment(out, set())}")
        if self.number != signal.SIGKILL and not os.WIFEXITED(status):
            self.wrong.append(f"{where} did not listen")
        if self.number != signal.SIGKILL and status == 0:
            self.counts["finished"] += 1
            if not last:
                self.wrong.append(f"{where} went on to the end")

    def trial(self, name: str, trial: int, *, cold: bool) -> None:
        """One run, killed and resumed until it is done."""
        out = self.base / f"{trial}-{name}"
        out.mkdir()
        for turn in range(1000):
            spared = turn >= (MOST_COLD if cold else MOST)
            if cold or spared or turn % 2:
                status = self.timed(name, out, cold=cold, spared=spared)
            else:
                status = self.aimed(name, out, None if turn else self.moments[trial % len(self.moments)])
            if status == 0:
                break
            if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 128 + self.number:
                self.wrong.append(f"{name}, trial {trial}: exit {os.WEXITSTATUS(status)}: {said(out)}")
                return
        self.counts["runs"] += 1
        if digest(out) != self.wanted[JOBS[name].like or name]:
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
        if self.number == signal.SIGKILL or os.getpgid(child) != child:
            os.kill(child, self.number)
        else:
            os.killpg(child, self.number)  # as a terminal does: the workers are asked too
        status = waited(child, 600)
        assert status is not None
        took = time.monotonic() - began
        if status != 0:  # else it was done already
            self.count(status, took, out, before)
        return status

    def count(self, status: int, took: float, out: Path, before: set[Path]) -> None:
        """One more signal that ended a run, so many seconds after it was sent."""
        self.counts["kills"] += 1
        self.counts[moment(out, before)] += 1
        if self.number != signal.SIGKILL:
            self.slowest = max(self.slowest, took)
            if os.WIFEXITED(status):
                self.counts["committed"] += 1
                self.check_committed(out)
            if took > PATIENCE:
                self.wrong.append(f"{out.name}: took {took:.1f} s to stop")


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
            harness.watch(name)
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
