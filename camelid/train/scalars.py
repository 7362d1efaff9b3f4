"""A run's scalars for whoever watches it in TensorBoard or trackio: written from the run's journal, each step once.

The journal holds every step of the run exactly once, whatever was interrupted, resumed or gone back over; the timings
beside it say how long each took. A `Follower` reads what both have gained and hands it to a writer. Whatever the writer
held of the run before, it lets go of at `begin` and is told anew: it never holds more than the journal does: a
step that was done twice, or one that was lost with a machine, stands in it once or not at all.

    loss · learning rate · gradient norm · tokens (seen so far) · tokens/s     against the step

A refused step has no loss and no norm. Nothing here is imported unless it is asked for, and PyTorch and the packages
that write are extras or heavy, so they are imported by the writers.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from camelid.errors import Problem, ProblemList, UsageError

Log = Literal["tensorboard", "trackio"]
LOGS: tuple[Log, ...] = get_args(Log)
EVERY = 1.0  # seconds between two looks at the journal
PROJECT = "camelid"  # under which trackio keeps its runs


class Writer(Protocol):
    """Takes the scalars of one run."""

    def begin(self) -> None:
        """Forget what was held of this run: it is told from its first step."""

    def write(self, step: int, scalars: Mapping[str, float], at: float | None) -> None:
        """The scalars of a step that ended at `at`, in seconds since 1970; None where nobody noted it."""

    def flush(self) -> None:
        """Let readers see what was written."""

    def close(self) -> None:
        """Nothing more will come."""


class Follower:
    """Hands a writer what a run's journal gains. Call `follow` after each step and `close` at the end."""

    def __init__(self, run: Path, writer: Writer) -> None:
        self.journal, self.timings, self.writer = run / "journal.jsonl", run / "timings.jsonl", writer
        self._looked = -EVERY
        self._restart()

    def follow(self) -> None:
        """Write the steps that the journal has gained, at most once in EVERY seconds."""
        if time.monotonic() - self._looked >= EVERY:
            self._look()

    def close(self) -> None:
        """Write what is left, and end the writer."""
        self._look()
        self.writer.close()

    def _restart(self) -> None:
        self._told, self._last, self._timed = 0, b"", 0
        self._spent: dict[int, tuple[float, float]] = {}

    def _look(self) -> None:
        self._looked = time.monotonic()
        if not self.journal.exists():
            return
        with open(self.journal, "rb") as file:
            file.seek(self._told - len(self._last))
            if file.read(len(self._last)) != self._last:  # cut, and gone on with otherwise: a run that went back
                self._restart()
                file.seek(0)
            lines = [line for line in file if line.endswith(b"\n")]
        if not lines:
            return
        if self._told == 0:
            self.writer.begin()
        self._read_timings()
        for line in lines:
            self._tell(json.loads(line))
        self._told += sum(map(len, lines))
        self._last = lines[-1]
        self.writer.flush()

    def _read_timings(self) -> None:
        """Seconds and end of each step; of a step that was done again the last time counts."""
        if not self.timings.exists():
            return
        with open(self.timings, "rb") as file:
            file.seek(self._timed)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._timed += len(line)
                try:
                    timing = json.loads(line)
                    self._spent[int(timing["step"])] = float(timing["seconds"]), float(timing["at"])
                except (ValueError, KeyError, TypeError):
                    continue  # torn by a kill: that step is told without a rate

    def _tell(self, line: Mapping[str, Any]) -> None:
        if "step" not in line:
            return
        seconds, at = self._spent.pop(line["step"], (0.0, None))
        found = {
            "loss": line["loss"],
            "learning rate": line["rate"],
            "gradient norm": line["norm"],
            "tokens": line["seen"],
            "tokens/s": line["tokens"] / seconds if seconds > 0 else None,
        }
        self.writer.write(line["step"], {name: float(value) for name, value in found.items() if value is not None}, at)


class TensorBoard:
    """Event files in a folder of the run's own, for `tensorboard --logdir`. Raises UsageError where the extra is absent."""

    def __init__(self, folder: Path) -> None:
        with _extra("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter
        self.folder, self._make, self._writer = folder, SummaryWriter, None  # type: Path, Any, Any

    def begin(self) -> None:
        self.close()
        for path in sorted(self.folder.glob("events.out.tfevents.*")):
            path.unlink()
        # The purge tells a TensorBoard that has read the old file to drop what it holds.
        self._writer = self._make(str(self.folder), purge_step=0)

    def write(self, step: int, scalars: Mapping[str, float], at: float | None) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step, walltime=at)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class Trackio:
    """A run of trackio's project "camelid", in the files where trackio keeps its own ($TRACKIO_DIR): nothing is sent.

    Rows go to its storage as they are, with their own times; a run of the same directory takes the older one's place.
    Raises UsageError where the extra is absent.
    """

    def __init__(self, run: Path) -> None:
        with _extra("trackio"):
            from trackio.sqlite_storage import SQLiteStorage
        self.name, self.id = run.name, hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:16]
        self._storage: Any = SQLiteStorage
        self._rows: list[tuple[int, dict[str, float], str]] = []

    def begin(self) -> None:
        self._rows.clear()
        if self._storage.get_project_db_path(PROJECT).exists():
            self._storage.delete_run(PROJECT, self.name, run_id=self.id)

    def write(self, step: int, scalars: Mapping[str, float], at: float | None) -> None:
        ended = datetime.fromtimestamp(time.time() if at is None else at, UTC)
        self._rows.append((step, dict(scalars), ended.isoformat()))

    def flush(self) -> None:
        if self._rows:
            steps, scalars, ends = map(list, zip(*self._rows, strict=True))
            self._storage.bulk_log(PROJECT, self.name, scalars, steps=steps, timestamps=ends, run_id=self.id)
            self._rows.clear()

    def close(self) -> None:
        self.flush()


def follower(log: Log, run: Path) -> Follower:
    """What follows the run in this directory: TensorBoard in RUN/tensorboard, or trackio under the directory's name."""
    if log == "tensorboard":
        return Follower(run, TensorBoard(run / "tensorboard"))
    return Follower(run, Trackio(run))


def shown_by(log: Log, run: Path) -> str:
    """The command that shows what was written."""
    return (
        f"tensorboard --logdir {run / 'tensorboard'}" if log == "tensorboard" else f"trackio show --project {PROJECT}"
    )


def check(log: str, problems: ProblemList) -> None:
    """Adds a problem, which names the extra, where the package that is asked for is absent."""
    if find_spec(log) is None:
        problems.add("--log", f"{log} is not installed", f"pip install camelid[{log}]")


@contextmanager
def _extra(log: Log) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise UsageError([Problem("--log", f"{log} cannot be used: {error}", f"pip install camelid[{log}]")]) from error
