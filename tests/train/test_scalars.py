"""What watchers of a run are told: the journal's steps, each once, whatever the run went through."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from camelid.cli import main
from camelid.errors import NonFinite, UsageError
from camelid.train import scalars
from camelid.train.interrupt import Interrupted
from camelid.train.scalars import Follower, Log, follower
from camelid.train.spikes import Spikes
from camelid.train.state import steps_of
from tests.train import tiny


class Kept:
    """A writer that keeps everything, and how often it was begun."""

    def __init__(self) -> None:
        self.told: list[tuple[int, Mapping[str, float], float | None]] = []
        self.begun = self.closed = 0

    def begin(self) -> None:
        self.begun += 1
        self.told.clear()

    def write(self, step: int, scalars: Mapping[str, float], at: float | None) -> None:
        self.told.append((step, dict(scalars), at))

    def flush(self) -> None: ...

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(autouse=True)
def at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scalars, "EVERY", 0.0)


def trained(run: Path, found: Follower, *, steps: int = 8, stop: int | None = None, **words: object) -> None:
    """A run that is followed, broken off without warning after step `stop`, and committed after every third step."""

    def progress(step: int, steps: int, loss: float, speed: float) -> None:
        found.follow()
        if step == stop:
            raise KeyboardInterrupt

    made = tiny.model()
    how = tiny.conduct(steps=3, progress=progress, **words)  # type: ignore[arg-type]
    try:
        tiny.run(run, made, tiny.optimizer(made), tiny.Steps(steps=steps), conduct=how)
    except (KeyboardInterrupt, Interrupted, NonFinite):
        pass
    finally:
        found.close()


def expected(run: Path) -> list[tuple[int, dict[str, float]]]:
    """The journal's scalars that do not depend on a clock."""
    names = {"loss": "loss", "learning rate": "rate", "gradient norm": "norm", "tokens": "seen"}
    return [
        (line["step"], {name: float(line[key]) for name, key in names.items() if line[key] is not None})
        for line in steps_of(run)
    ]


def without_rate(told: list[tuple[int, Mapping[str, float], float | None]]) -> list[tuple[int, dict[str, float]]]:
    return [(step, {name: v for name, v in found.items() if name != "tokens/s"}) for step, found, _ in told]


def test_a_writer_is_told_the_journal_as_it_grows_with_rates_from_the_timings(tmp_path: Path) -> None:
    kept = Kept()
    trained(tmp_path / "run", Follower(tmp_path / "run", kept))
    assert without_rate(kept.told) == expected(tmp_path / "run") and len(kept.told) == 8
    timings = [json.loads(line) for line in (tmp_path / "run" / "timings.jsonl").read_text().splitlines()]
    for (_, found, at), timing, line in zip(kept.told, timings, steps_of(tmp_path / "run"), strict=True):
        assert at == timing["at"] and found["tokens/s"] == line["tokens"] / timing["seconds"]
    assert (kept.begun, kept.closed) == (1, 1)


def test_a_run_that_goes_back_over_its_steps_tells_them_anew(tmp_path: Path) -> None:
    """The journal is cut to a mark in mid-run and goes on otherwise: no step may stand as it was before the cut."""
    run, kept = tmp_path / "run", Kept()
    run.mkdir()
    found, journal = Follower(run, kept), run / "journal.jsonl"

    def line(step: int, loss: float | None) -> str:
        told = {"step": step, "loss": loss, "norm": 1.0, "rate": 0.1, "tokens": 5, "seen": 5 * step}
        return json.dumps(told) + "\n"

    journal.write_text('{"run": 1}\n' + line(1, 3.0) + line(2, 2.0) + line(3, 1.0))
    found.follow()
    journal.write_text('{"run": 1}\n' + line(1, 3.0) + line(2, None) + line(3, None) + line(4, 2.5))
    found.follow()
    found.close()
    assert [(step, told.get("loss")) for step, told, _ in kept.told] == [(1, 3.0), (2, None), (3, None), (4, 2.5)]
    assert kept.begun == 2


def test_a_real_spike_leaves_what_was_told_equal_to_the_journal(tmp_path: Path) -> None:
    run, kept = tmp_path / "run", Kept()
    trained(run, Follower(run, kept), steps=30, spikes=Spikes(budget=30, factor=1.02, window=8, every=3))
    assert any("refused" in line for line in steps_of(run)), "no loss leapt: the test shows nothing"
    assert without_rate(kept.told) == expected(run)


def read_tensorboard(run: Path) -> list[tuple[int, dict[str, float]]]:
    """Every scalar of every event file, in the files' own order."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util.tensor_util import make_ndarray

    found: dict[int, dict[str, float]] = {}
    for path in sorted((run / "tensorboard").iterdir()):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                step = found.setdefault(event.step, {})
                assert value.tag not in step, f"step {event.step} is written twice"
                step[value.tag] = float(make_ndarray(value.tensor))
    return list(found.items())


def read_trackio(run: Path) -> list[tuple[int, dict[str, float]]]:
    import sqlite3

    from trackio.sqlite_storage import SQLiteStorage

    with sqlite3.connect(SQLiteStorage.get_project_db_path(scalars.PROJECT)) as db:
        rows = db.execute("SELECT step, metrics FROM metrics WHERE run_name = ? ORDER BY id", (run.name,)).fetchall()
    return [(step, json.loads(metrics)) for step, metrics in rows]


@pytest.mark.parametrize("log", scalars.LOGS)
def test_after_a_run_was_broken_off_no_step_is_there_twice(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if log == "trackio":
        monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip(log, reason=f"the extra {log} is absent")
    run = tmp_path / f"run-{log}"
    trained(run, follower(log, run), stop=5)  # committed at 3: steps 4 and 5 are done again
    trained(run, follower(log, run))
    found = read_tensorboard(run) if log == "tensorboard" else read_trackio(run)
    assert [step for step, _ in found] == list(range(1, 9))
    for (_, told), (_, line) in zip(found, expected(run), strict=True):
        assert told.pop("tokens/s") > 0
        assert told == {name: float(np.float32(v)) if log == "tensorboard" else v for name, v in line.items()}


@pytest.mark.parametrize("log", scalars.LOGS)
def test_an_absent_package_is_named_with_its_extra_before_anything_is_made(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scalars, "find_spec", lambda name: None)
    assert main(["grow", "alpaca", "--log", log, "--store", str(tmp_path / "store")]) == 2
    assert f"pip install camelid[{log}]" in capsys.readouterr().err and not (tmp_path / "store").exists()
    for name in ("torch.utils.tensorboard", "trackio.sqlite_storage"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=rf"camelid\[{log}\]"):
        follower(log, tmp_path)


def test_a_misspelt_log_is_told_what_was_meant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["grow", "alpaca", "--log", "tensorbord", "--store", str(tmp_path / "store")]) == 2
    assert "did you mean 'tensorboard'" in capsys.readouterr().err
