"""Where each number of a recipe comes from, read out of the comments beside it.

A recipe states `lr=LR[size],  # README, training command`; this file finds, for every setting of every stage, the words
behind the number: on its own line, else in the table it is looked up in, else on the line of what encloses it. What
`replace` leaves as it was has the words of the file that states it, and so has what another file's function returns.
"""

from __future__ import annotations

import ast
import importlib.util
import io
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

DESK_SIZES = ("desk", "tiny")
RECIPES = "camelid.recipes."


@dataclass(frozen=True)
class Source:
    """Where a setting comes from, and whether the expression that states it holds a number."""

    words: str
    numeric: bool


def sources(module: str, size: str, others: Sequence[str] = ()) -> dict[str, Source]:
    """The source of every setting of a recipe module by its path, such as "tuned.optim.lr"; "" where none is given.

    `others` are functions left out of account: variants of the recipe that is asked about.
    """
    return read(_text_of(module), size, others)


def read(text: str, size: str, others: Sequence[str] = ()) -> dict[str, Source]:
    """The same, from the text of a recipe."""
    reader = _Reader(text, size)
    functions = [node for node in reader.tree.body if isinstance(node, ast.FunctionDef) and node.name not in others]
    return {path: source for function in functions for path, source in reader.walk(function)}


def _text_of(module: str) -> str:
    found = importlib.util.find_spec(module)
    assert found is not None and found.origin is not None, module
    return Path(found.origin).read_text(encoding="utf-8")


def _comments(text: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}


class _Reader:
    """One recipe file: its tables by name, the comments by line, and the readers of the recipes it takes tables from."""

    def __init__(self, text: str, size: str) -> None:
        self.text, self.tree, self.comments, self.size = text, ast.parse(text), _comments(text), size
        self.tables: dict[str, tuple[_Reader, ast.expr]] = {}
        self.returns: dict[str, tuple[_Reader, ast.Call]] = {}
        for node in self.tree.body:
            if isinstance(node, ast.ImportFrom) and node.module == RECIPES.rstrip("."):
                for alias in node.names:  # a whole file, whose names follow a dot
                    other = _Reader(_text_of(RECIPES + alias.name), size)
                    self.tables |= {f"{alias.name}.{name}": table for name, table in other.tables.items()}
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(RECIPES):
                other = _Reader(_text_of(str(node.module)), size)
                names = {alias.name: alias.asname or alias.name for alias in node.names}
                self.tables |= {names[name]: table for name, table in other.tables.items() if name in names}
                self.returns |= {names[name]: told for name, told in other.returns.items() if name in names}
            if isinstance(node, ast.FunctionDef) and isinstance(node.body[-1], ast.Return):
                stage = node.body[-1].value
                if isinstance(stage, ast.Call) and any(keyword.arg == "name" for keyword in stage.keywords):
                    self.returns[node.name] = (self, stage)
            value = getattr(node, "value", None)
            if isinstance(value, ast.expr):
                self.tables |= {target.id: (self, value) for target in _targets(node) if isinstance(target, ast.Name)}

    def walk(self, function: ast.FunctionDef) -> Iterator[tuple[str, Source]]:
        for statement in function.body:
            value = getattr(statement, "value", None)
            if isinstance(value, ast.Call):
                names = [k.value for k in value.keywords if k.arg == "name" and isinstance(k.value, ast.Constant)]
                if names:
                    yield from self.settings(value, str(names[0].value), "")

    def settings(self, call: ast.Call, path: str, around: str) -> Iterator[tuple[str, Source]]:
        if isinstance(call.func, ast.Name) and call.func.id == "replace" and call.args:
            reader, changed = self.resolved(call.args[0])
            if isinstance(changed, ast.Call) and changed is not call.args[0]:
                yield from reader.settings(changed, path, self.looked_up(call.args[0]))
        for keyword in call.keywords:
            if keyword.arg in (None, "name"):
                continue
            made = self.returned(keyword.value)
            if made is not None:
                yield f"{path}.{keyword.arg}", Source(self.beside(keyword.value), False)
                yield from made[0].settings(made[1], f"{path}.{keyword.arg}", "")
                continue
            where = f"{path}.{keyword.arg}"
            found = [self.beside(keyword.value), self.looked_up(keyword.value)]
            ends = [part.end_lineno for part in (call, *(other.value for other in call.keywords))]
            if where.count(".") > 1 and ends.count(keyword.value.end_lineno) > 1:
                found.reverse()  # several parts on one line share its comment: a table knows better
            here = found[0] or found[1] or around
            yield where, Source(here, _numeric(keyword.value))
            reader, inner = self.resolved(keyword.value)
            if isinstance(inner, ast.Call):
                yield from reader.settings(inner, where, here)

    def returned(self, node: ast.expr) -> tuple[_Reader, ast.Call] | None:
        """The stage that a call of another file's function gives, and in which file it is stated."""
        called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
        if called not in self.returns or not isinstance(node, ast.Call):
            return None
        reader, stage = self.returns[called]
        size = self.resolved(node.args[0])[1] if node.args else node
        other = size.value if isinstance(size, ast.Constant) and isinstance(size.value, str) else reader.size
        return (reader if other == reader.size else _Reader(reader.text, other)), stage

    def resolved(self, node: ast.expr) -> tuple[_Reader, ast.expr]:
        """What an expression stands for, and in which file: the entry of a table, the value of a name, or itself."""
        name = _name(node.value if isinstance(node, ast.Subscript) else node)
        if name not in self.tables:
            return self, node
        reader, value = self.tables[name]
        if isinstance(node, ast.Subscript):
            entry = reader.entry(value)
            return reader.resolved(entry) if entry is not None else (self, node)
        return reader.resolved(value)

    def entry(self, table: ast.expr) -> ast.expr | None:
        """The entry of a table at this reader's size."""
        if not isinstance(table, ast.Dict):
            return None
        pairs = zip(table.keys, table.values, strict=True)
        return next((value for key, value in pairs if isinstance(key, ast.Constant) and key.value == self.size), None)

    def beside(self, node: ast.expr) -> str:
        """The comment on the line where the expression ends, else those on its lines."""
        end = node.end_lineno or node.lineno
        inside = dict.fromkeys(self.comments[line] for line in range(node.lineno, end) if line in self.comments)
        return self.comments.get(end) or "; ".join(inside)

    def looked_up(self, node: ast.expr) -> str:
        within = {
            id(part.value) for part in ast.walk(node) if isinstance(part, ast.Attribute)
        }  # PROMPT.user is no table
        for part in ast.walk(node):
            if id(part) not in within and (name := _name(part)) in self.tables:
                reader, value = self.tables[name]
                if words := reader.in_table(value):
                    return words
        return ""

    def in_table(self, value: ast.expr) -> str:
        entry = self.entry(value)
        if entry is not None and value.end_lineno != value.lineno:
            found = self.beside(entry) or self.looked_up(entry)
            if found:
                return found
        words = self.comments.get(value.end_lineno or value.lineno) or self.beside(value)
        published, ours, _ = words.partition("; ours")
        return ("ours: desk scale" if self.size in DESK_SIZES else published) if ours else words


def _targets(node: ast.stmt) -> list[ast.expr]:
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign) else []


def _name(node: ast.AST) -> str:
    """NAME or FILE.NAME; "" of anything else."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _numeric(node: ast.expr) -> bool:
    return any(
        (isinstance(part, ast.Constant) and isinstance(part.value, int | float) and not isinstance(part.value, bool))
        or isinstance(part, ast.Subscript)
        for part in ast.walk(node)
    )
