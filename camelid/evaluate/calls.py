"""Calls of functions, judged by their syntax trees: right, wrong, or of something that does not exist.

Patil et al. 2023 parse an answer and look for the sub-tree of a known call in it; here a call is its dotted name and
those of its arguments that are plain values.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["right", "wrong", "hallucinated", "no call"]
LONGEST = 2_000  # characters of an answer that are read
Plain = str | int | float | bool | None
OTHER = object()  # an argument that is no plain value


@dataclass(frozen=True)
class Call:
    """A function's dotted name, its plain arguments in order, and its plain named ones. Other arguments are left out."""

    name: str
    arguments: tuple[Plain, ...] = ()
    named: Mapping[str, Plain] = field(default_factory=dict)


def calls(text: str) -> list[Call]:
    """Every call in a piece of Python, the outermost first; none where it is no Python. Nothing is ever run.

    Text that is not Python as a whole is read up to the last closing bracket of its first line that has one.
    """
    tree = _parsed(text[:LONGEST])
    if tree is None:
        return []
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in map(_call, found) if call.name]


def matches(found: Call, wanted: Call) -> bool:
    """Whether a call names the wanted function and gives every plain argument of it, by place or by name."""
    if found.name != wanted.name:
        return False
    by_name = all(name in found.named and _same(value, found.named[name]) for name, value in wanted.named.items())
    by_place = len(found.arguments) >= len(wanted.arguments) and all(map(_same, wanted.arguments, found.arguments))
    if by_name and by_place:
        return True
    told = (*wanted.arguments, *wanted.named.values())
    return not found.named and all(any(_same(value, each) for each in found.arguments) for value in told)


def judge(answer: str, wanted: Sequence[Call], known: Collection[str]) -> Verdict:
    """Whether any call of an answer is a wanted one; "hallucinated" where every call is of a name that is not `known`."""
    found = calls(answer)
    if not found:
        return "no call"
    if any(matches(call, each) for call in found for each in wanted):
        return "right"
    return "wrong" if any(call.name in known for call in found) else "hallucinated"


def _same(one: Plain, other: Plain) -> bool:
    return type(one) is type(other) and one == other


def _parsed(text: str) -> ast.AST | None:
    lines = [line for line in text.splitlines() if ")" in line]
    pieces = [text.strip(), *(line[: line.rindex(")") + 1].strip() for line in lines[:1])]
    for piece in pieces:
        try:
            with warnings.catch_warnings(action="ignore"):  # of escapes that Python will not know for ever
                return ast.parse(piece)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return None


def _call(node: ast.Call) -> Call:
    named = {word.arg: _plain(word.value) for word in node.keywords if word.arg}
    plain = (_plain(each) for each in node.args)
    return Call(
        _dotted(node.func),
        tuple(value for value in plain if value is not OTHER),
        {name: value for name, value in named.items() if value is not OTHER},
    )


def _plain(node: ast.expr) -> Any:
    """The value that a node spells out, a sign before a number included, or OTHER."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _plain(node.operand)
        return -value if isinstance(value, int | float) and not isinstance(value, bool) else OTHER
    if not isinstance(node, ast.Constant):
        return OTHER
    value = node.value
    return value if value is None or isinstance(value, str | int | float) else OTHER


def _dotted(node: ast.expr) -> str:
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(names)]) if isinstance(node, ast.Name) else ""
