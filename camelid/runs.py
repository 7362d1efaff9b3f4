"""What ran in the store: how far each run came, how it stands, and two of them side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from camelid.durable import holder, parse_json, read_lines
from camelid.errors import BadFile, ProblemList, did_you_mean
from camelid.recipes import find
from camelid.request import REQUEST, Request, read_given, read_request
from camelid.store import STAGE, Store

TAIL = 1 << 16  # bytes at the end of a journal in which its last line is looked for
SHOWN = 8  # steps at which two runs are compared
NAMED = 3  # runs told where a name fits several
State = Literal["done", "running", "stopped"]


@dataclass(frozen=True)
class Run:
    """One run of a stage. `loss` is the last step's, in nats per supervised token; None where there is none yet.

    `seconds` is the time spent in steps, `last` when the newest one ended (seconds since 1970).
    """

    path: Path
    member: str
    size: str
    state: State
    step: int
    steps: int
    tokens: int
    loss: float | None
    seconds: float
    last: float
    asked: tuple[str, ...] = ()
    """What its stage was asked for beside the recipe: settings without the stage's name, and its files by their names."""

    @property
    def name(self) -> str:
        """The name of its folder, by which it is resumed."""
        return self.path.name

    def data(self) -> dict[str, Any]:
        """For programs."""
        return {**vars(self), "path": str(self.path), "name": self.name}


def runs(store: Store) -> list[Run]:
    """Every run of the store, the newest last."""
    folders = sorted((store.root / "runs").glob("*-*"))
    found = [_run(path, store) for path in folders if STAGE.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda run: (run.last or run.path.stat().st_mtime, run.name))


def _run(path: Path, store: Store) -> Run:
    request = read_request(str(path), ProblemList()) if (path / REQUEST).is_file() else None
    head, last = _first(path / "journal.jsonl"), _last(path / "journal.jsonl")
    done = (store.root / "stages" / path.name).is_dir()
    held = holder(path) or holder(store.root / "stages" / path.name)
    timings = [line for line in _lines(path / "timings.jsonl") if isinstance(line.get("seconds"), int | float)]
    return Run(
        path=path,
        member=request.member if request else "",
        size=request.size if request else "",
        state="done" if done else "running" if held else "stopped",
        step=int(last.get("step", 0)),
        steps=int(head.get("identity", {}).get("steps", 0)),
        tokens=int(last.get("seen", 0)),
        loss=last.get("loss"),
        seconds=sum(line["seconds"] for line in timings),
        last=float(timings[-1].get("at", 0.0)) if timings else 0.0,
        asked=_asked(request, path.name.rpartition("-")[0]) if request else (),
    )


def _asked(request: Request, stage: str) -> tuple[str, ...]:
    settings = [text.removeprefix(f"{stage}.") for text in request.settings if text.startswith(f"{stage}.")]
    found = find(request.member, request.size or None, ProblemList())
    last = found[1].fed.name if found else ""
    given = [read_given(word) for word in (*([request.data] if request.data else []), *request.texts)]
    own = [replace(each, stage="", file=Path(each.file).name) for each in given if (each.stage or last) == stage]
    return (*settings, *(each.text() for each in own))


def find_run(name: str, store: Store, problems: ProblemList) -> Path | None:
    """The folder of a run, by path, by its name in the store, or by the beginning of a name that only it has."""
    path = Path(name).expanduser()
    if path.is_dir() or "/" in name:
        return path
    names = sorted(run.name for run in (store.root / "runs").glob("*-*")) if store.root.is_dir() else []
    fitting = [name] if name in names else [known for known in names if known.startswith(name)]
    if len(fitting) == 1:
        return store.root / "runs" / fitting[0]
    if fitting:
        few = ", ".join(fitting[:NAMED]) + (" ..." if len(fitting) > NAMED else "")
        remedy = f"say more of its name: {few}; camelid runs tells which is which"
        problems.add(f"run {name!r}", f"{len(fitting)} runs begin so", remedy)
    else:
        problems.add(f"run {name!r}", f"there is none in {store.root}", did_you_mean(name, names) or "see camelid runs")
    return None


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side: the settings in which they differ, and their losses at steps that both have."""

    settings: tuple[tuple[str, str, str], ...]
    losses: tuple[tuple[int, float | None, float | None], ...]


def compare(one: Path, two: Path) -> Comparison:
    """What differs between two runs, by their journals alone."""
    heads = [dict(_flat(_first(path / "journal.jsonl"))) for path in (one, two)]
    names = sorted(heads[0].keys() | heads[1].keys())
    settings = [(name, heads[0].get(name, ""), heads[1].get(name, "")) for name in names]
    curves = [{line["step"]: line.get("loss") for line in _steps(path)} for path in (one, two)]
    both = sorted(curves[0].keys() & curves[1].keys())
    places = sorted({round(index * (len(both) - 1) / (SHOWN - 1)) for index in range(SHOWN)}) if both else []
    losses = [(both[place], curves[0][both[place]], curves[1][both[place]]) for place in places]
    return Comparison(tuple(row for row in settings if row[1] != row[2]), tuple(losses))


def _steps(path: Path) -> Iterator[dict[str, Any]]:
    return (line for line in _lines(path / "journal.jsonl") if isinstance(line.get("step"), int))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a journal; a torn last one, as a killed run leaves it, is none."""
    if not path.is_file():
        return
    try:
        for _, value in read_lines(path):
            if isinstance(value, dict):
                yield value
    except BadFile:
        return


def _first(path: Path) -> dict[str, Any]:
    return next(_lines(path), {})


def _last(path: Path) -> dict[str, Any]:
    """The last whole line that tells of a step, read from the file's end."""
    if not path.is_file():
        return {}
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        whole = file.read().rpartition(b"\n")[0]
    for line in reversed(whole.split(b"\n")):
        try:
            value = parse_json(line, path, max_depth=32)
        except BadFile:
            continue
        if isinstance(value, dict) and isinstance(value.get("step"), int):
            return value
    return {}


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """A nested setting as dotted names and texts."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, f"{path}.{name}" if path else str(name))
    else:
        yield path.removeprefix("identity."), str(value)
