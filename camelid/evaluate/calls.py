"""Calls of functions, judged by their syntax trees: right, wrong, or of something that does not exist.

Patil et al. 2023 parse an answer and look for the sub-tree of a known call in it; here a call is its dotted name and
those of its arguments that are plain values. Of an answer in APIBench's form the call is what stands between "api_call"
and "api_provider".

Two questions are asked of an answer: whether it makes the wanted call (`judge`), and, as the paper's figures do, whether it
calls anything of a library at all and that serves the wanted domain (`judge_domain`). The released scripts take the last
sub-tree where no name fits, leave entries without arguments out and let the first entry in order win; ours do not.
"""

from __future__ import annotations

import ast
import io
import tokenize
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


@dataclass(frozen=True)
class Api:
    """An entry of a library: the call that it documents, and what it is good for."""

    call: Call
    domain: str


def stated(answer: str) -> str:
    """The part of an answer that is the call: what its "api_call" says, without the marks and quotes around it, to the
    bracket that closes it; the whole answer where it does not say so."""
    told = answer.partition("api_call")[2]
    if told[:1] not in ("'", '"', ">", "\\"):
        return answer
    piece = told.partition("api_provider")[0].lstrip("'\\\">: \n").replace("\\'", "'").replace('\\"', '"')
    depth = 0
    for place, letter in enumerate(piece):
        depth += (letter == "(") - (letter == ")")
        if letter == ")" and depth <= 0:
            return piece[: place + 1]
    return piece


def calls(text: str) -> list[Call]:
    """Every call in a piece of Python, the outermost first; none where it is no Python. Nothing is ever run.

    Text that is not Python as a whole is read up to the last closing bracket of its first line that has one. Arguments by
    place that stand behind named ones, which Python refuses and APIBench has, are read as if they stood before them.
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
    found = calls(stated(answer))
    if not found:
        return "no call"
    if any(matches(call, each) for call in found for each in wanted):
        return "right"
    return "wrong" if any(call.name in known for call in found) else "hallucinated"


def calls_api(found: Call, entry: Call) -> bool:
    """Whether a call is of a library's entry: the same name, and every text among the entry's arguments is given, by
    whatever place or name; a version behind a colon counts as the same."""
    given = [value for value in (*found.arguments, *found.named.values()) if isinstance(value, str)]
    told = [value for value in (*entry.arguments, *entry.named.values()) if isinstance(value, str)]
    return found.name == entry.name and all(
        any(value in (each, each.partition(":")[0]) for each in given) for value in told
    )


def judge_domain(answer: str, domain: str, library: Sequence[Api]) -> Verdict:
    """Whether an answer calls an entry of the library that serves the domain: "wrong" where what it calls serves another,
    "hallucinated" where no call of it is in the library (Patil et al. 2023)."""
    found = calls(stated(answer))
    if not found:
        return "no call"
    called = [api for api in library if any(calls_api(call, api.call) for call in found)]
    if not called:
        return "hallucinated"
    return "right" if any(api.domain == domain for api in called) else "wrong"


def _same(one: Plain, other: Plain) -> bool:
    return type(one) is type(other) and one == other


def _parsed(text: str) -> ast.AST | None:
    lines = [line for line in text.splitlines() if ")" in line]
    pieces = [text.strip(), *(line[: line.rindex(")") + 1].strip() for line in lines[:1])]
    for piece in pieces:
        for spelt in (piece, _ordered(piece)):
            try:
                with warnings.catch_warnings(action="ignore"):  # of escapes that Python will not know for ever
                    return ast.parse(spelt)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                continue
    return None


def _ordered(text: str) -> str:
    """A call whose arguments by place are put before the named ones; any other text as it is."""
    opening = text.find("(")
    if opening < 0 or not text.endswith(")"):
        return text
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(" ".join(text[opening + 1 : -1].splitlines())).readline))
    except (tokenize.TokenError, SyntaxError):
        return text
    arguments: list[list[str]] = [[]]
    depth = 0
    for token in tokens:
        depth += (token.string in "([{" and token.type == tokenize.OP) - (
            token.string in ")]}" and token.type == tokenize.OP
        )
        if token.string == "," and not depth:
            arguments.append([])
        else:
            arguments[-1].append(token.string)
    written = [argument for argument in arguments if "".join(argument).strip()]
    in_order = sorted(written, key=lambda argument: argument[1:2] == ["="])
    return f"{text[:opening]}({', '.join(' '.join(argument).strip() for argument in in_order)})"


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
