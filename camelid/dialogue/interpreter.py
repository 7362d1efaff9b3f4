"""What a chat template of others says of a dialogue, found without running anything of it.

Jinja's own way is to turn a template into Python and run that. Here jinja2 only parses; the tree that it gives is walked by
an interpreter that knows text, numbers, lists and tables, and nothing of Python: a name, a filter, a test or a method
that does not stand in this file ends the reading. Every step and every character made is counted, so work is bounded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from camelid.errors import CamelidError

if TYPE_CHECKING:
    from jinja2 import Environment, nodes

# Ours: the longest published template of a Llama chat model that we read has 4 thousand characters.
MAX_CHARACTERS = 32 << 10
STEPS = 10_000  # nodes walked for one dialogue; those templates need some 500
MADE = 128 << 10  # characters and list items made for one dialogue


class Unreadable(CamelidError):
    """The template uses what the interpreter does not know, or too much of what it knows."""


class Refused(CamelidError):
    """The template itself refuses the dialogue (raise_exception)."""


class _Nothing:
    """A name or item that is not there: no text, not true, nothing to walk."""

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        return ""


NOTHING = _Nothing()


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


@dataclass
class _Namespace:
    values: dict[str, Any]


@dataclass
class _Raise:
    """The function by which templates refuse."""


@dataclass
class _Scope:
    """Names: those set in a loop's body end with it, those of an `if` do not."""

    names: dict[str, Any]
    outer: _Scope | None = None

    def find(self, name: str) -> Any:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.outer
        return NOTHING


def parsed(text: str) -> nodes.Template:
    """The tree of a template's text. Raises Unreadable."""
    from jinja2 import TemplateSyntaxError

    if len(text) > MAX_CHARACTERS:
        raise Unreadable(f"it has {len(text):,} characters, more than {MAX_CHARACTERS:,}")
    try:
        return _environment().parse(text)
    except TemplateSyntaxError as error:
        raise Unreadable(f"line {error.lineno}: {error.message}") from None
    except (RecursionError, ValueError, OverflowError) as error:
        raise Unreadable(f"it is no Jinja text ({type(error).__name__})") from None


def _environment() -> Environment:
    """Of the settings that transformers and llama.cpp read templates with; used for parsing only."""
    from jinja2 import Environment, nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class Generation(Extension):
        """transformers' marks around what is learned, which say nothing of their own."""

        tags = {"generation"}  # noqa: RUF012  # as jinja2 declares it

        def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    return Environment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"])


def said(tree: nodes.Template, names: Mapping[str, Any]) -> str:
    """The text that the template makes of these names (`messages`, `add_generation_prompt`, `bos_token`, ...).

    Raises Refused where the template itself refuses them, Unreadable for what the interpreter does not know.
    """
    walker = _Walker()
    scope = _Scope({"raise_exception": _Raise(), **names})
    try:
        walker.body(tree.body, scope)
    except (_Break, _Continue):
        raise Unreadable("a loop is left where there is none") from None
    except RecursionError:
        raise Unreadable("it is nested too deeply") from None
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError) as error:
        raise Unreadable(f"a step in it has no meaning ({type(error).__name__}: {str(error)[:80]})") from None
    return "".join(walker.out)


@dataclass
class _Walker:
    out: list[str] = field(default_factory=list)
    steps: int = 0
    made: int = 0

    # --- statements ---

    def body(self, body: Sequence[nodes.Node], scope: _Scope) -> None:
        for node in body:
            self._step()
            known = getattr(self, f"_do_{type(node).__name__.lower()}", None)
            if known is None:
                raise Unreadable(f"line {node.lineno}: it uses {type(node).__name__}")
            known(node, scope)

    def _do_output(self, node: nodes.Output, scope: _Scope) -> None:
        from jinja2 import nodes

        for part in node.nodes:
            made = part.data if isinstance(part, nodes.TemplateData) else self._text(self.value(part, scope))
            self.out.append(self._counted(made))

    def _do_if(self, node: nodes.If, scope: _Scope) -> None:
        for branch in (node, *node.elif_):
            if self.value(branch.test, scope):
                self.body(branch.body, scope)
                return
        self.body(node.else_, scope)

    def _do_for(self, node: nodes.For, scope: _Scope) -> None:
        if node.recursive:
            raise Unreadable(f"line {node.lineno}: it uses a recursive loop")
        items = list(self._items(self.value(node.iter, scope)))
        if node.test is not None:
            items = [item for item in items if self.value(node.test, self._bound(node.target, item, scope))]
        self._counted(items)
        for index, item in enumerate(items):
            inner = self._bound(node.target, item, scope)
            inner.names["loop"] = _loop(items, index)
            try:
                self.body(node.body, inner)
            except _Continue:
                continue
            except _Break:
                break
        if not items:
            self.body(node.else_, scope)

    def _do_assign(self, node: nodes.Assign, scope: _Scope) -> None:
        self._set(node.target, self.value(node.node, scope), scope)

    def _do_assignblock(self, node: nodes.AssignBlock, scope: _Scope) -> None:
        if node.filter is not None:
            raise Unreadable(f"line {node.lineno}: it uses a filter on a block")
        before, self.out = self.out, []
        try:
            self.body(node.body, scope)
            made = "".join(self.out)
        finally:
            self.out = before
        self._set(node.target, made, scope)

    def _do_scope(self, node: nodes.Scope, scope: _Scope) -> None:
        self.body(node.body, _Scope({}, scope))

    def _do_break(self, node: nodes.Node, scope: _Scope) -> None:
        raise _Break

    def _do_continue(self, node: nodes.Node, scope: _Scope) -> None:
        raise _Continue

    def _bound(self, target: nodes.Node, item: Any, scope: _Scope) -> _Scope:
        inner = _Scope({}, scope)
        self._set(target, item, inner)
        return inner

    def _set(self, target: nodes.Node, value: Any, scope: _Scope) -> None:
        from jinja2 import nodes

        if isinstance(target, nodes.Name):
            scope.names[target.name] = value
        elif isinstance(target, nodes.NSRef):
            space = scope.find(target.name)
            if not isinstance(space, _Namespace):
                raise Unreadable(f"line {target.lineno}: {target.name!r} is no namespace")
            space.values[target.attr] = value
        elif isinstance(target, nodes.Tuple):
            values = list(self._items(value))
            if len(values) != len(target.items):
                raise Unreadable(f"line {target.lineno}: {len(values)} values for {len(target.items)} names")
            for each, one in zip(target.items, values, strict=True):
                self._set(each, one, scope)
        else:
            raise Unreadable(f"line {target.lineno}: it sets {type(target).__name__}")

    # --- values ---

    def value(self, node: nodes.Node, scope: _Scope) -> Any:
        self._step()
        known = getattr(self, f"_of_{type(node).__name__.lower()}", None)
        if known is None:
            raise Unreadable(f"line {node.lineno}: it uses {type(node).__name__}")
        return known(node, scope)

    def _of_const(self, node: nodes.Const, scope: _Scope) -> Any:
        return node.value

    def _of_name(self, node: nodes.Name, scope: _Scope) -> Any:
        return scope.find(node.name)

    def _of_list(self, node: nodes.List, scope: _Scope) -> list[Any]:
        return [self.value(item, scope) for item in node.items]

    def _of_tuple(self, node: nodes.Tuple, scope: _Scope) -> list[Any]:
        return [self.value(item, scope) for item in node.items]

    def _of_dict(self, node: nodes.Dict, scope: _Scope) -> dict[str, Any]:
        pairs = [(self.value(pair.key, scope), self.value(pair.value, scope)) for pair in node.items]
        return {_as(str, key): value for key, value in pairs}

    def _of_getattr(self, node: nodes.Getattr, scope: _Scope) -> Any:
        return _item(self.value(node.node, scope), node.attr)

    def _of_getitem(self, node: nodes.Getitem, scope: _Scope) -> Any:
        from jinja2 import nodes

        owner = self.value(node.node, scope)
        if not isinstance(node.arg, nodes.Slice):
            return _item(owner, self.value(node.arg, scope))
        if not isinstance(owner, str | list):
            raise Unreadable(f"line {node.lineno}: it cuts what is neither text nor list")
        bounds = (node.arg.start, node.arg.stop, node.arg.step)
        return self._counted(owner[slice(*(None if each is None else self.value(each, scope) for each in bounds))])

    def _of_condexpr(self, node: nodes.CondExpr, scope: _Scope) -> Any:
        if self.value(node.test, scope):
            return self.value(node.expr1, scope)
        return NOTHING if node.expr2 is None else self.value(node.expr2, scope)

    def _of_and(self, node: nodes.And, scope: _Scope) -> Any:
        left = self.value(node.left, scope)
        return self.value(node.right, scope) if left else left

    def _of_or(self, node: nodes.Or, scope: _Scope) -> Any:
        left = self.value(node.left, scope)
        return left if left else self.value(node.right, scope)

    def _of_not(self, node: nodes.Not, scope: _Scope) -> bool:
        return not self.value(node.node, scope)

    def _of_neg(self, node: nodes.Neg, scope: _Scope) -> Any:
        return -_as(int, self.value(node.node, scope))

    def _of_concat(self, node: nodes.Concat, scope: _Scope) -> str:
        return str(self._counted("".join(self._text(self.value(each, scope)) for each in node.nodes)))

    def _of_add(self, node: nodes.Add, scope: _Scope) -> Any:
        left, right = self.value(node.left, scope), self.value(node.right, scope)
        if (isinstance(left, str) and isinstance(right, str)) or (isinstance(left, list) and isinstance(right, list)):
            return self._counted(left + right)  # type: ignore[operator]  # of one kind, as asked above
        return _small(_as(int, left) + _as(int, right))

    def _of_sub(self, node: nodes.Sub, scope: _Scope) -> Any:
        return _small(_as(int, self.value(node.left, scope)) - _as(int, self.value(node.right, scope)))

    def _of_mul(self, node: nodes.Mul, scope: _Scope) -> Any:
        return _small(_as(int, self.value(node.left, scope)) * _as(int, self.value(node.right, scope)))

    def _of_mod(self, node: nodes.Mod, scope: _Scope) -> Any:
        return _as(int, self.value(node.left, scope)) % _as(int, self.value(node.right, scope))

    def _of_floordiv(self, node: nodes.FloorDiv, scope: _Scope) -> Any:
        return _as(int, self.value(node.left, scope)) // _as(int, self.value(node.right, scope))

    def _of_compare(self, node: nodes.Compare, scope: _Scope) -> bool:
        left = self.value(node.expr, scope)
        for operand in node.ops:
            right = self.value(operand.expr, scope)
            if not COMPARISONS[operand.op](left, right):
                return False
            left = right
        return True

    def _of_test(self, node: nodes.Test, scope: _Scope) -> bool:
        if node.name not in TESTS or node.kwargs or node.dyn_args is not None or node.dyn_kwargs is not None:
            raise Unreadable(f"line {node.lineno}: it tests for {node.name!r}")
        given = [self.value(each, scope) for each in node.args or ()]
        return bool(TESTS[node.name](self.value(node.node, scope), *given))

    def _of_filter(self, node: nodes.Filter, scope: _Scope) -> Any:
        if node.name not in FILTERS or node.node is None or node.kwargs or node.dyn_args or node.dyn_kwargs:
            raise Unreadable(f"line {node.lineno}: it uses the filter {node.name!r}")
        given = [self.value(each, scope) for each in node.args or ()]
        return self._counted(FILTERS[node.name](self.value(node.node, scope), *given))

    def _of_call(self, node: nodes.Call, scope: _Scope) -> Any:
        from jinja2 import nodes

        if node.dyn_args is not None or node.dyn_kwargs is not None:
            raise Unreadable(f"line {node.lineno}: it calls with arguments that it computes")
        given = [self.value(each, scope) for each in node.args]
        named = {pair.key: self.value(pair.value, scope) for pair in node.kwargs}
        if isinstance(node.node, nodes.Getattr) and not named:
            owner = self.value(node.node.node, scope)
            methods = TEXT_METHODS if isinstance(owner, str) else TABLE_METHODS if isinstance(owner, dict) else {}
            if node.node.attr in methods:
                return self._counted(methods[node.node.attr](owner, *given))
            raise Unreadable(f"line {node.lineno}: it calls {node.node.attr!r}")
        name = node.node.name if isinstance(node.node, nodes.Name) else ""
        called = scope.find(name)
        if isinstance(called, _Raise):
            raise Refused(self._text(given[0]) if given else "")
        if called is NOTHING and name == "namespace" and not given:
            return _Namespace(named)
        if called is NOTHING and name == "range" and not named:
            bounds = range(*(_as(int, each) for each in given))
            if len(bounds) > MADE - self.made:
                raise Unreadable(f"line {node.lineno}: it counts too far")
            return self._counted(list(bounds))
        raise Unreadable(f"line {node.lineno}: it calls {name or 'what it computes'!r}")

    # --- bounds ---

    def _step(self) -> None:
        self.steps += 1
        if self.steps > STEPS:
            raise Unreadable(f"it takes more than {STEPS:,} steps")

    def _counted(self, made: Any) -> Any:
        if isinstance(made, str | list):
            self.made += len(made)
            if self.made > MADE:
                raise Unreadable(f"it makes more than {MADE:,} characters")
        return made

    def _text(self, value: Any) -> str:
        if isinstance(value, str):
            return value
        if value is None or isinstance(value, bool | int | float | _Nothing):
            return str(value)
        raise Unreadable(f"it writes a {type(value).__name__} as text")

    def _items(self, value: Any) -> Iterator[Any]:
        if not isinstance(value, str | list | dict | _Nothing):
            raise Unreadable(f"it walks through a {type(value).__name__}")
        return iter(()) if isinstance(value, _Nothing) else iter(value)


def _loop(items: Sequence[Any], index: int) -> dict[str, Any]:
    count = len(items)
    return {
        "index": index + 1,
        "index0": index,
        "revindex": count - index,
        "revindex0": count - index - 1,
        "first": index == 0,
        "last": index == count - 1,
        "length": count,
        "previtem": items[index - 1] if index else NOTHING,
        "nextitem": items[index + 1] if index + 1 < count else NOTHING,
    }


def _item(owner: Any, name: Any) -> Any:
    """What a table or list holds there; nothing where it holds none. What lies in an object of Python is out of reach."""
    if isinstance(owner, _Namespace):
        owner = owner.values
    if isinstance(owner, dict):
        return owner.get(name, NOTHING) if isinstance(name, str) else NOTHING
    if isinstance(owner, list | str) and isinstance(name, int):
        return owner[name] if -len(owner) <= name < len(owner) else NOTHING
    if isinstance(owner, list | str):
        return NOTHING
    raise Unreadable(f"it looks for {str(name)[:40]!r} in what is no table")


def _as(kind: type | tuple[type, ...], value: Any) -> Any:
    if not isinstance(value, kind):
        raise Unreadable(f"a {type(value).__name__.strip('_').lower()} stands where it has no meaning")
    return value


def _small(number: int) -> int:
    if abs(number) > 1 << 62:
        raise Unreadable("it counts too far")
    return number


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, list | dict) and isinstance(right, list | dict):
        raise Unreadable("it compares lists or tables")  # whose parts may be shared: exponential work in few steps
    return bool(left == right)


def _less(left: Any, right: Any) -> bool:
    return bool(_as((str, int, float), left) < _as((str, int, float), right))


def _within(left: Any, right: Any) -> bool:
    if isinstance(right, str):
        return isinstance(left, str) and left in right
    return any(_same(left, each) for each in _as((list, dict, _Nothing), right) or ())


COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": _same,
    "ne": lambda left, right: not _same(left, right),
    "lt": _less,
    "lteq": lambda left, right: not _less(right, left),
    "gt": lambda left, right: _less(right, left),
    "gteq": lambda left, right: not _less(left, right),
    "in": _within,
    "notin": lambda left, right: not _within(left, right),
}


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


TESTS: dict[str, Callable[..., bool]] = {
    "defined": lambda value: value is not NOTHING,
    "undefined": lambda value: value is NOTHING,
    "none": lambda value: value is None,
    "string": _is(str),
    "mapping": _is(dict),
    "sequence": _is(list, str, dict),
    "iterable": _is(list, str, dict),
    "number": _is(int, float),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "boolean": _is(bool),
    "true": lambda value: value is True,
    "false": lambda value: value is False,
    "even": lambda value: _as(int, value) % 2 == 0,
    "odd": lambda value: _as(int, value) % 2 == 1,
    "in": _within,
    **dict.fromkeys(("==", "eq", "equalto"), _same),
    **{name: lambda left, right: not _same(left, right) for name in ("!=", "ne")},
}


def _plain_text(value: Any) -> str:
    """Text of a value that `trim` and its like are asked of; nothing is no text."""
    return "" if isinstance(value, _Nothing) else str(_as(str, value))


def _default(value: Any, other: Any = "", empty: Any = False) -> Any:
    return other if value is NOTHING or (empty and not value) else value


def _replaced(text: Any, old: Any, new: Any) -> str:
    if len(str(_as(str, text))) * len(_as(str, new)) > MADE or not _as(str, old):
        raise Unreadable("it replaces too much")
    return str(text.replace(old, new))


def _joined(items: Any, between: Any = "") -> str:
    return str(_as(str, between)).join(_as(str, item) for item in _as(list, items))


FILTERS: dict[str, Callable[..., Any]] = {
    "trim": lambda text, *other: _plain_text(text).strip(*other),
    "length": lambda value: len(_as((str, list, dict), value)),
    "count": lambda value: len(_as((str, list, dict), value)),
    "lower": lambda text: _plain_text(text).lower(),
    "upper": lambda text: _plain_text(text).upper(),
    "capitalize": lambda text: _plain_text(text).capitalize(),
    "title": lambda text: _plain_text(text).title(),
    "default": _default,
    "d": _default,
    "first": lambda value: next(iter(_as((str, list), value)), NOTHING),
    "last": lambda value: _as((str, list), value)[-1] if value else NOTHING,
    "list": lambda value: list(_as((str, list, dict), value)),
    "string": lambda value: _plain_text(value),
    "join": _joined,
    "replace": _replaced,
    "safe": lambda text: _plain_text(text),
    "int": lambda value: int(_as((str, int), value)),
    "tojson": lambda value: json.dumps(_as((str, int), value), ensure_ascii=False),
}

TEXT_METHODS: dict[str, Callable[..., Any]] = {
    "strip": lambda text, *given: text.strip(*given),
    "lstrip": lambda text, *given: text.lstrip(*given),
    "rstrip": lambda text, *given: text.rstrip(*given),
    "startswith": lambda text, start: text.startswith(_as(str, start)),
    "endswith": lambda text, end: text.endswith(_as(str, end)),
    "upper": lambda text: text.upper(),
    "lower": lambda text: text.lower(),
    "title": lambda text: text.title(),
    "capitalize": lambda text: text.capitalize(),
    "split": lambda text, *given: text.split(*given),
    "replace": _replaced,
    "find": lambda text, part: text.find(_as(str, part)),
}

TABLE_METHODS: dict[str, Callable[..., Any]] = {
    "get": lambda table, name, other=None: table.get(_as(str, name), other),
    "keys": lambda table: list(table),
    "values": lambda table: list(table.values()),
    "items": lambda table: [[name, value] for name, value in table.items()],
}
