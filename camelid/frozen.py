"""Frozen dataclasses as text: shown, compared, overridden by typed settings, fingerprinted, and read back from JSON."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar

from camelid.errors import Problem, ProblemList, Problems, did_you_mean

T = TypeVar("T")
Data = None | bool | int | float | str | list["Data"] | dict[str, "Data"]
WIDTH = 100  # columns of a value written on one line


@dataclass(frozen=True)
class Change:
    """One difference between two values: the path of the setting, and what stands there before and after."""

    path: str
    before: str
    after: str


def is_frozen(value: object) -> bool:
    """Whether the value is an instance of a dataclass."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def stated(value: Any) -> Iterator[tuple[str, Any]]:
    """Name and value of each field that differs from its default."""
    for field in dataclasses.fields(value):
        content = getattr(value, field.name)
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if default is dataclasses.MISSING or type(content) is not type(default) or content != default:
            yield field.name, content


def to_data(value: object) -> Data:
    """The value as JSON: a dataclass becomes an object with its class in "type" and its defaults left out.

    Raises TypeError for anything that JSON cannot hold and read back equal.
    """
    if is_frozen(value):
        return {"type": type(value).__name__, **{name: to_data(content) for name, content in stated(value)}}
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{value} cannot be written as JSON")
        return value
    if isinstance(value, tuple | list):
        return [to_data(item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): to_data(item) for name, item in value.items()}
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def canonical(value: object) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces; equal values, equal bytes."""
    return json.dumps(to_data(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def fingerprint(value: object) -> str:
    """Sixteen hexadecimal digits of SHA-256 over the canonical JSON."""
    return hashlib.sha256(canonical(value)).hexdigest()[:16]


# --- reading back ---------------------------------------------------------------------------------------------------


def from_data(wanted: type[T], data: object, where: str = "value") -> T:
    """The value that `to_data` wrote. Unknown keys, missing keys and wrong types raise BadData, all at once."""
    problems = ProblemList()
    value = _read(wanted, data, where, problems)
    problems.raise_data()
    return typing.cast(T, value)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _read(wanted: Any, data: Any, where: str, problems: ProblemList) -> Any:
    origin = typing.get_origin(wanted)
    if origin is typing.Union or origin is types.UnionType:
        return _read_union(typing.get_args(wanted), data, where, problems)
    if origin is Literal:
        choices = typing.get_args(wanted)
        if data not in choices:
            problems.add(where, f"found {data!r}", did_you_mean(str(data), map(str, choices)))
        return data
    if origin is tuple:
        inner = typing.get_args(wanted)
        if not isinstance(data, list):
            return problems.add(where, f"found {_kind(data)}, expected a list")
        if len(inner) == 2 and inner[1] is ...:
            return tuple(_read(inner[0], item, f"{where}[{i}]", problems) for i, item in enumerate(data))
        if len(inner) != len(data):
            return problems.add(where, f"found {len(data)} items, expected {len(inner)}")
        return tuple(
            _read(kind, item, f"{where}[{i}]", problems) for i, (kind, item) in enumerate(zip(inner, data, strict=True))
        )
    if origin in (dict, Mapping) or (origin is not None and issubclass(origin, Mapping)):
        if not isinstance(data, dict):
            return problems.add(where, f"found {_kind(data)}, expected an object")
        return {
            name: _read(typing.get_args(wanted)[1], item, f"{where}.{name}", problems) for name, item in data.items()
        }
    if wanted is Any or wanted is object:
        return data
    if dataclasses.is_dataclass(wanted):
        return _read_fields(typing.cast(type, wanted), data, where, problems)
    if wanted is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if wanted is types.NoneType or wanted is None:
        matches = data is None
    else:
        matches = isinstance(data, wanted) and not (isinstance(data, bool) and wanted is not bool)
    if not matches:
        problems.add(where, f"found {_kind(data)} {str(data)[:40]!r}, expected {getattr(wanted, '__name__', wanted)}")
    return data


def _read_union(choices: tuple[Any, ...], data: Any, where: str, problems: ProblemList) -> Any:
    if isinstance(data, dict) and "type" in data:
        for choice in choices:
            if getattr(choice, "__name__", "") == data["type"]:
                return _read(choice, data, where, problems)
    attempts: list[Problem] = []
    for choice in choices:
        tried = ProblemList()
        value = _read(choice, data, where, tried)
        if not tried.problems:
            return value
        attempts = attempts or tried.problems
    expected = " or ".join(_written_type(choice) for choice in choices)
    return problems.add(where, f"found {_kind(data)} {str(data)[:40]!r}", f"expected {expected}")


def _read_fields(wanted: type, data: Any, where: str, problems: ProblemList) -> Any:
    if not isinstance(data, dict):
        return problems.add(where, f"found {_kind(data)}, expected an object for {wanted.__name__}")
    if data.get("type", wanted.__name__) != wanted.__name__:
        return problems.add(f"{where}.type", f"found {data['type']!r}, expected {wanted.__name__!r}")
    fields = {field.name: field for field in dataclasses.fields(wanted) if field.init}
    values: dict[str, Any] = {}
    before = len(problems.problems)
    for name, item in data.items():
        if name == "type" and "type" not in fields:
            continue
        if name not in fields:
            problems.add(f"{where}.{name}", "unknown key", did_you_mean(str(name), fields))
        else:
            values[name] = _read(_hints(wanted)[name], item, f"{where}.{name}", problems)
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in data:
            problems.add(f"{where}.{name}", "missing")
    return wanted(**values) if len(problems.problems) == before else None


def _kind(data: object) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "text",
        bool: "a truth value",
        int: "a whole number",
        float: "a number",
    }
    return "nothing" if data is None else names.get(type(data), type(data).__name__)


# --- text -----------------------------------------------------------------------------------------------------------


def text(value: object, *, name_of: Callable[[object], str | None] = lambda _: None) -> str:
    """The value as Python would write it, defaults left out, one field a line where it does not fit on one.

    `name_of` may give a short name for a nested value (a parent recipe, an earlier stage) that is not to be written out.
    """
    return _written(value, 0, name_of)


def _written(value: object, depth: int, name_of: Callable[[object], str | None]) -> str:
    short = name_of(value)
    if short is not None:
        return short
    if is_frozen(value):
        parts = [(f"{name}=", content) for name, content in stated(value)]
        return _bracketed(type(value).__name__ + "(", parts, ")", depth, name_of)
    if isinstance(value, tuple):
        closing = ",)" if len(value) == 1 else ")"
        return _bracketed("(", [("", item) for item in value], closing, depth, name_of)
    if isinstance(value, Mapping):
        return _bracketed("{", [(f"{key!r}: ", item) for key, item in value.items()], "}", depth, name_of)
    if isinstance(value, bool):
        return repr(value)
    if isinstance(value, int):
        return f"{value:_}"
    return repr(value)


def _bracketed(
    opening: str, parts: list[tuple[str, Any]], closing: str, depth: int, name_of: Callable[[object], str | None]
) -> str:
    pieces = [prefix + _written(content, depth + 1, name_of) for prefix, content in parts]
    line = opening + ", ".join(pieces) + closing
    if "\n" not in line and len(line) + 4 * depth <= WIDTH:
        return line
    margin = "    " * (depth + 1)
    return opening + "\n" + "".join(f"{margin}{piece},\n" for piece in pieces) + "    " * depth + closing.lstrip(",")


# --- differences ----------------------------------------------------------------------------------------------------


def flatten(value: object, path: str = "") -> dict[str, str]:
    """Every stated setting of a value by its dotted path, written as text."""
    if is_frozen(value):
        parts = [(name, content) for name, content in stated(value)]
        kind = {path or "type": type(value).__name__} if path else {}
        return kind | {
            k: v for name, content in parts for k, v in flatten(content, f"{path}.{name}" if path else name).items()
        }
    if isinstance(value, tuple) and any(is_frozen(item) for item in value):
        named = [(str(getattr(item, "name", index)), item) for index, item in enumerate(value)]
        return {k: v for name, item in named for k, v in flatten(item, f"{path}.{name}" if path else name).items()}
    return {path: text(value)}


def diff(before: object, after: object) -> list[Change]:
    """The settings in which two values differ, in the order they are written; "" stands for a default left unsaid."""
    old, new = flatten(before), flatten(after)
    paths = list(dict.fromkeys([*old, *new]))
    return [Change(path, old.get(path, ""), new.get(path, "")) for path in paths if old.get(path) != new.get(path)]


# --- typed overrides ------------------------------------------------------------------------------------------------


def override(value: T, settings: Mapping[str, str], problems: ProblemList) -> T:
    """The value with settings such as {"tuned.length": "1024"} applied, each read as the type of its field.

    Parts of a tuple are addressed by their `name`. Unknown paths and unreadable values are added to `problems`.
    """
    for path, written in settings.items():
        value = _put(value, path.split("."), written, path, problems)
    return value


def _put(value: Any, path: list[str], written: str, whole: str, problems: ProblemList) -> Any:
    step, rest = path[0], path[1:]
    if isinstance(value, tuple):
        names = [str(getattr(item, "name", index)) for index, item in enumerate(value)]
        if step not in names:
            problems.add(f"--set {whole}", f"there is no {step!r} here", did_you_mean(step, names))
            return value
        place = names.index(step)
        if not rest and not is_frozen(value[place]):
            row = whole.rpartition(".")[0]
            problems.add(f"--set {whole}", "is one of a row", f"set the whole row: {row}={','.join(map(text, value))}")
            return value
        if not rest:
            problems.add(
                f"--set {whole}", "names a whole stage", f"name one of its settings: {', '.join(_fields(value[place]))}"
            )
            return value
        return (*value[:place], _put(value[place], rest, written, whole, problems), *value[place + 1 :])
    if step not in _fields(value):
        problems.add(
            f"--set {whole}", f"{type(value).__name__} has no setting {step!r}", did_you_mean(step, _fields(value))
        )
        return value
    current = getattr(value, step)
    if rest:
        current = _unset(_hints(type(value))[step]) if current is None else current  # type: ignore[arg-type]
        if not is_frozen(current) and not isinstance(current, tuple):
            path_of = whole.removesuffix("." + ".".join(rest))
            problems.add(
                f"--set {whole}",
                f"{step!r} is {text(current)} and has no settings of its own",
                "begin with "
                + " or ".join(f"--set {path_of}={_asked_of(kind)}" for kind in _wholes(_hints(type(value))[step])),  # type: ignore[arg-type]
            )
            return value
        changed = _put(current, rest, written, whole, problems)
    else:
        found = len(problems.problems)
        hints: dict[str, Any] = _hints(type(value))  # type: ignore[arg-type]  # a class is hashable
        changed = read_setting(hints[step], written, current, f"--set {whole}", problems)
        if len(problems.problems) > found:
            return value
    try:
        return dataclasses.replace(value, **{step: changed})
    except Problems as error:
        for problem in error.problems:
            problems.add(f"--set {whole}", f"{problem.where}: {problem.found}", problem.remedy)
        return value


def _unset(wanted: Any) -> Any:
    """The value of a setting that was none and is to have settings of its own: all of them as usual; None where that
    is not said."""
    for choice in typing.get_args(wanted):
        if dataclasses.is_dataclass(choice) and isinstance(choice, type):
            kinds = [(field.default, field.default_factory) for field in dataclasses.fields(choice)]
            if all(kind != (dataclasses.MISSING, dataclasses.MISSING) for kind in kinds):
                return choice()
    return None


def _fields(value: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(value)] if is_frozen(value) else []


def read_setting(wanted: Any, written: str, current: object, where: str, problems: ProblemList) -> Any:
    """A setting from its text: 1024, 2e-5, 4M, word, or a comma-separated list; an amount keeps the unit it had.

    A value with settings of its own is written as `text` writes it, GaLore(rank=64) or GaLore: what that does not say stays
    as it is in `current`, where that has it too.
    """
    choices = typing.get_args(wanted) if typing.get_origin(wanted) in (typing.Union, types.UnionType) else (wanted,)
    if written in ("None", "none") and types.NoneType in choices:
        return None
    for kind in _wholes(wanted):
        if written.partition("(")[0].strip() == kind.__name__:
            return _read_whole(kind, written, current, where, problems)
    for choice in sorted(choices, key=lambda choice: choice is not type(current)):
        read = _read_as(choice, written, where)
        if read is not _UNREAD:
            return read
    remedy = f"expected {_written_type(wanted, current)}"
    words = [
        word for choice in choices if typing.get_origin(choice) is Literal for word in map(str, typing.get_args(choice))
    ]
    words += [kind.__name__ for kind in _wholes(wanted)]
    problems.add(where, f"cannot read {written!r}", did_you_mean(written.partition("(")[0], words) or remedy)
    return current


def _wholes(wanted: Any) -> list[type]:
    """The kinds of value with settings of their own that a setting may be."""
    choices = typing.get_args(wanted) if typing.get_origin(wanted) in (typing.Union, types.UnionType) else (wanted,)
    return [kind for kind in choices if isinstance(kind, type) and dataclasses.is_dataclass(kind) and not _counts(kind)]


def _counts(kind: Any) -> bool:
    """Whether it is an amount, with a single field of that name."""
    return dataclasses.is_dataclass(kind) and [field.name for field in dataclasses.fields(kind)] == ["count"]


def _asked_of(kind: Any) -> str:
    """How a value of this kind is written, with what it cannot do without."""
    needed = [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    return f"{kind.__name__}({', '.join(f'{name}=...' for name in needed)})"


def _read_whole(kind: Any, written: str, current: object, where: str, problems: ProblemList) -> Any:
    """A value written as Name or Name(field=value, ...); `current` where anything about it is wrong."""
    hints, found = _hints(kind), len(problems.problems)
    values = {name: getattr(current, name) for name in hints if is_frozen(current) and hasattr(current, name)}
    _, bracket, inside = written.strip().partition("(")
    if bracket and not inside.endswith(")"):
        problems.add(where, f"cannot read {written!r}", "close its bracket")
        return current
    for part in _parts(inside[:-1]):
        name, equals, word = (each.strip() for each in part.partition("="))
        if not equals or name not in hints:
            problems.add(where, f"{kind.__name__} has no setting {name!r}", did_you_mean(name, hints))
            continue
        word = word[1:-1] if word[:1] in ("'", '"') and word[-1:] == word[:1] else word
        values[name] = read_setting(hints[name], word, values.get(name), f"{where}.{name}", problems)
    if len(problems.problems) > found:
        return current
    try:
        return kind(**values)
    except TypeError:
        problems.add(where, f"{written!r} leaves out what cannot be guessed", f"write {_asked_of(kind)}")
    except Problems as error:
        for problem in error.problems:
            problems.add(where, f"{problem.where}: {problem.found}", problem.remedy)
    return current


def _parts(inside: str) -> list[str]:
    """What stands between the commas that no bracket or quotation mark holds."""
    parts, depth, quote = [""], 0, ""
    for sign in inside:
        if sign in "'\"" and quote in ("", sign):
            quote = "" if quote else sign
        depth += ((sign == "(") - (sign == ")")) * (not quote)
        if sign == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += sign
    return [part for part in parts if part.strip()]


_UNREAD = object()
_MULTIPLES = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def _read_as(wanted: Any, written: str, where: str) -> Any:
    if typing.get_origin(wanted) is Literal:
        return next((choice for choice in typing.get_args(wanted) if str(choice) == written), _UNREAD)
    if typing.get_origin(wanted) is tuple:
        inner, *more = typing.get_args(wanted)
        items = [_read_as(inner, item.strip(), where) for item in written.strip("()").split(",") if item.strip()]
        fits = more == [...] or len(items) == 1 + len(more)
        return tuple(items) if fits and _UNREAD not in items else _UNREAD
    if wanted is bool:
        return {"true": True, "false": False}.get(written.lower(), _UNREAD)
    if wanted in (int, float):
        return _read_number(wanted, written)
    if wanted is str:
        return written
    if _counts(wanted):
        count = _read_as(_hints(typing.cast(type, wanted))["count"], written.split("(")[-1].rstrip(")"), where)
        named = written.split("(")[0] in (getattr(wanted, "__name__", ""), written)
        return typing.cast(Any, wanted)(count) if count is not _UNREAD and named else _UNREAD
    return _UNREAD


def _read_number(wanted: type, written: str) -> Any:
    digits, scale = written.replace("_", "").strip(), 1
    if digits[-1:].upper() in _MULTIPLES:
        digits, scale = digits[:-1], _MULTIPLES[digits[-1:].upper()]
    try:
        number = float(digits) * scale
    except ValueError:
        return _UNREAD
    if not math.isfinite(number) or (wanted is int and number != int(number)):
        return _UNREAD
    return int(digits) * scale if wanted is int and digits.lstrip("+-").isdigit() else wanted(number)


def _written_type(wanted: Any, current: object = None) -> str:
    if typing.get_origin(wanted) in (typing.Union, types.UnionType):
        return " or ".join(_written_type(choice, current) for choice in typing.get_args(wanted))
    if _counts(wanted):
        name = getattr(wanted, "__name__", "")
        like = getattr(current, "count", "N") if type(current) is wanted else "N"
        return f"a number of {name.lower()}, such as {like}" if like != "N" else f"{name}(N)"
    if typing.get_origin(wanted) is Literal:
        return " | ".join(map(str, typing.get_args(wanted)))
    if wanted is types.NoneType:
        return "none"
    if typing.get_origin(wanted) is tuple:
        inner, *more = typing.get_args(wanted)
        count = "any number of items" if more == [...] else f"{1 + len(more)} items"
        return f"{count} with commas between them, each {_written_type(inner)}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return words.get(wanted, getattr(wanted, "__name__", str(wanted)))
