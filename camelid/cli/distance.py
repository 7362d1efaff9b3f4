"""What sets two recipes apart, in words: every setting that differs, with the value that each side really has."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from camelid.frozen import is_frozen, stated, text
from camelid.recipe import Finetune, Merge, Pretrain, Recipe, Stage, reference

ABSENT = "—"
ORIGINS = ("start", "teacher")  # parents, which are named and not compared
AROUND = 24  # characters shown on each side of what differs in two long texts
LONG = 60


@dataclasses.dataclass(frozen=True)
class Apart:
    """One setting and what it is on each side; None where that side has no such setting."""

    path: str
    one: str | None
    two: str | None


def distance(one: Recipe, two: Recipe) -> Iterator[Apart]:
    """Where the training stages of two recipes differ, compared from the last backward; earlier ones by their name."""
    stages = [_training(recipe) for recipe in (one, two)]
    if len(stages[0]) != len(stages[1]):
        yield Apart("stages", *(", ".join(stage.name for stage in each) for each in stages))
    for place, (a, b) in enumerate(zip(*map(reversed, stages), strict=False)):
        if type(a) is not type(b):
            yield Apart(f"{a.name}." * bool(place) + "operation", type(a).__name__, type(b).__name__)
        for name in _names(a, b):
            if any(_value(each, name) is _Nothing for each in (a, b)) and name not in dict([*stated(a), *stated(b)]):
                continue  # only one of them could say it, and leaves it as it is
            yield from _apart(f"{a.name}." * bool(place) + name, name, *(_value(each, name) for each in (a, b)))
    if _merged(one) != _merged(two):
        yield Apart("merge", _merged(one), _merged(two))


def _training(recipe: Recipe) -> list[Finetune | Pretrain]:
    return [stage for stage in recipe.stages if isinstance(stage, Finetune | Pretrain)]


def _merged(recipe: Recipe) -> str | None:
    """What a recipe adds up in the end, and how much of each; None where it does not."""
    last = recipe.last
    if not isinstance(last, Merge):
        return None
    parts = [
        f"{share:g} of {_called(model)}" for model, share in zip((last.start, last.partner), last.shares, strict=True)
    ]
    if last.parent is not None:
        parts.append(f"{1 - sum(last.shares):g} of {_called(last.parent)}")
    return " + ".join(parts)


class _Nothing:
    """What stands where a side has no such setting at all."""


def _names(a: Any, b: Any) -> list[str]:
    fields = [field.name for each in (a, b) for field in dataclasses.fields(each)]
    return [name for name in dict.fromkeys(fields) if name != "name"]


def _value(owner: Any, name: str) -> Any:
    return getattr(owner, name, _Nothing)


def _apart(path: str, name: str, a: Any, b: Any) -> Iterator[Apart]:
    if a == b:
        return
    if any(isinstance(each, Recipe | Stage) for each in (a, b)) and name in ORIGINS:
        if _called(a) != _called(b):
            yield Apart(path, _called(a), _called(b))
    elif type(a) is type(b) and is_frozen(a) and not _is_amount(a):
        for inner in _names(a, b):
            if not (isinstance(a, Stage) and inner in ("data", "start")):  # of a tokenizer: its parent and its sample
                yield from _apart(f"{path}.{inner}", inner, _value(a, inner), _value(b, inner))
    elif (labelled := _labelled(a, b)) is not None:
        for label, (left, right) in labelled.items():
            if is_frozen(left) and type(left) is type(right):
                yield from _apart(f"{path}.{label}", label, left, right)
            elif left != right:
                yield Apart(f"{path}.{label}", _contents(left), _contents(right))
    elif isinstance(a, str) and isinstance(b, str):
        yield Apart(path, *_excerpts(a, b))
    else:
        yield Apart(path, _written(a), _written(b))


def _is_amount(value: Any) -> bool:
    return [field.name for field in dataclasses.fields(value)] == ["count"]


def _called(value: Any) -> str | None:
    if value is _Nothing:
        return None
    return value.title if isinstance(value, Recipe) else str(getattr(value, "name", None) or _written(value))


def _labelled(a: Any, b: Any) -> dict[str, tuple[Any, Any]] | None:
    """The items of two rows by their names, so that the same ones are compared; None where they have no names."""
    found: list[dict[str, Any]] = []
    for row in (a, b):
        if not isinstance(row, tuple) or not row or not all(is_frozen(item) for item in row):
            return None
        names = [str(getattr(item, "name", "") or getattr(getattr(item, "data", None), "name", "")) for item in row]
        if not all(names) or len(set(names)) < len(names):
            names = [f"{place}" for place in range(1, len(row) + 1)]
        found.append(dict(zip(names, row, strict=True)))
    labels = dict.fromkeys([*found[0], *found[1]])
    return {label: (found[0].get(label, _Nothing), found[1].get(label, _Nothing)) for label in labels}


def _contents(value: Any) -> str | None:
    """An item of a row by its settings; its name stands before it already."""
    if not is_frozen(value):
        return _written(value)
    inner = getattr(value, "data", None)
    parts = [*(stated(inner) if is_frozen(inner) else ()), *stated(value)]
    kept = [(name, content) for name, content in parts if name not in ("name", "data")]
    return ", ".join(f"{name}={_written(content)}" for name, content in kept) or type(value).__name__


def _written(value: Any) -> str | None:
    """The value as a recipe writes it, on one line."""
    if value is _Nothing:
        return None
    if value is None:
        return "none"
    if is_frozen(value) and _is_amount(value):
        return f"{value.count:,} {type(value).__name__.lower()}"
    lines = [line.strip() for line in text(value, name_of=reference).splitlines()]
    return " ".join(lines).replace("( ", "(").replace(", )", ")")


def _shared(a: str, b: str) -> int:
    """How many characters two texts begin with in common."""
    return next((place for place, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _excerpts(a: str, b: str) -> tuple[str, str]:
    """Two texts, of long ones that differ in one place that place alone."""
    same = _shared(a, b)
    tail = _shared(a[same:][::-1], b[same:][::-1])
    if max(len(a), len(b)) <= LONG or same + tail < min(len(a), len(b)) * 3 // 4:
        return repr(a), repr(b)
    begin, end = max(0, same - AROUND), max(0, tail - AROUND)
    cut = [each[begin : len(each) - end or None] for each in (a, b)]
    first, second = (("... " if begin else "") + repr(each) + (" ..." if end else "") for each in cut)
    return first, second
