"""What ran is listed as it stands: done, running, stopped; found by name, and compared."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from camelid.cli import main
from camelid.cli.running import told
from camelid.durable import holder, locked
from camelid.errors import ProblemList
from camelid.request import Request
from camelid.runs import compare, find_run, runs
from camelid.store import Store

MARKS = {"done": "a" * 16, "running": "b" * 16, "stopped": "c" * 16, "bare": "d" * 16}


def journal(path: Path, steps: int, *, lr: float, torn: bool = False) -> None:
    identity = {"steps": 100, "optim": {"lr": lr, "betas": [0.9, 0.95]}, "seed": 0}
    lines: list[Any] = [{"run": "camelid run 1", "identity": identity, "machine": {"threads": 1}}]
    lines += [{"step": n, "loss": None if n == 3 else lr + 1 / n, "seen": 64 * n} for n in range(1, steps + 1)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (path / "journal.jsonl").write_text(text + ('{"step":' if torn else ""))
    timings = [{"step": n, "seconds": 0.5, "at": 1000.0 + n} for n in range(1, steps + 1)]
    (path / "timings.jsonl").write_text("".join(json.dumps(line) + "\n" for line in timings))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    for name, mark in MARKS.items():
        path = store.run("tuned", mark)
        path.mkdir(parents=True)
        Request("alpaca", "desk").write(path)
        if name != "bare":
            journal(
                path,
                {"done": 100, "running": 40, "stopped": 20}[name],
                lr=2.0 if name == "done" else 1.0,
                torn=name == "stopped",
            )
    store.stage("tuned", MARKS["done"]).mkdir(parents=True)
    return store


def test_each_run_is_told_as_it_stands(store: Store) -> None:
    with locked(store.run("tuned", MARKS["running"])):
        found = {run.name[-1]: run for run in runs(store)}
    assert [found[mark[0]].state for mark in MARKS.values()] == ["done", "running", "stopped", "stopped"]
    done, stopped, bare = found["a"], found["c"], found["d"]
    assert (done.member, done.size, done.step, done.steps, done.tokens) == ("alpaca", "desk", 100, 100, 6400)
    assert (done.loss, done.seconds, done.last) == (2.01, 50.0, 1100.0)
    assert (stopped.step, stopped.tokens, stopped.loss) == (20, 1280, 1.05), "a torn line is none"
    assert (bare.step, bare.steps, bare.loss) == (0, 0, None)


def test_a_lock_whose_holder_died_holds_nothing(tmp_path: Path) -> None:
    assert holder(tmp_path / "run") == ""
    with locked(tmp_path / "run"):
        assert holder(tmp_path / "run").startswith(f"process {os.getpid()} on {socket.gethostname()}")
    (tmp_path / ".run.lock").write_text(f"process 4194303 on {socket.gethostname()} since 2020-01-01 00:00:00\n")
    assert holder(tmp_path / "run") == ""


def test_runs_are_found_by_name_and_by_the_beginning_of_one(store: Store) -> None:
    problems = ProblemList()
    path = store.run("tuned", MARKS["done"])
    assert find_run("tuned-a", store, problems) == find_run(path.name, store, problems) == path
    assert find_run(str(path), store, problems) == path and not problems.problems
    assert find_run("tuned", store, problems) is None and find_run("tund-a", store, problems) is None
    assert "4 runs begin so" in str(problems.problems[0]) and "there is none" in str(problems.problems[1])


def test_two_runs_are_compared_in_settings_and_losses(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    found = compare(store.run("tuned", MARKS["done"]), store.run("tuned", MARKS["stopped"]))
    assert found.settings == (("optim.lr", "2.0", "1.0"),)
    assert found.losses[0][0] == 1 and found.losses[-1] == (20, 2.05, 1.05) and len(found.losses) == 8
    assert main(["runs", "tuned-a", "tuned-c", "--store", str(store.root)]) == 0
    said = capsys.readouterr().out
    assert "optim.lr" in said and "  -1.0000" in said
    assert main(["runs", "tuned", "--store", str(store.root)]) == 2 and "4 runs begin so" in capsys.readouterr().err
    assert main(["runs", "--json", "--store", str(store.root)]) == 0
    assert [run["state"] for run in json.loads(capsys.readouterr().out)].count("stopped") == 3
    assert main(["runs", "--store", str(store.root)]) == 0
    assert "camelid resume RUN" in capsys.readouterr().out
    assert (
        main(["resume", "tund-a", "--store", str(store.root)]) == 2 and "choose from tuned-a" in capsys.readouterr().err
    )


def test_a_run_tells_what_its_own_stage_was_asked_for(tmp_path: Path) -> None:
    settings = ("tuned.optim.ratio=4", "pretrained.length=8")
    texts = ("pretrained=70%:/far/wiki.jsonl", "pretrained=30%:/far/books.jsonl", "2x:/far/records.json")
    request = Request("alpaca", "tiny", texts=texts, settings=settings)
    store = Store(tmp_path)
    for name in ("tuned", "pretrained"):
        path = store.run(name, "0" * 16)
        path.mkdir(parents=True)
        request.write(path)
    asked = {run.name.partition("-")[0]: run.asked for run in runs(store)}
    assert asked["tuned"] == ("optim.ratio=4", "2x:records.json")
    assert asked["pretrained"] == ("length=8", "70%:wiki.jsonl", "30%:books.jsonl")
    (_, more) = told(next(run for run in runs(store) if run.asked == asked["tuned"]), 120)
    assert more.strip() == "with optim.ratio=4, 2x:records.json"


def test_a_narrow_window_gets_short_lines(store: Store) -> None:
    for run in runs(store):
        assert max(map(len, told(run, 40))) <= 60 and len(told(run, 40)) == 3
        assert len(told(run, 120)) == 1
    assert main(["runs", "--store", str(store.root / "nowhere")]) == 0
