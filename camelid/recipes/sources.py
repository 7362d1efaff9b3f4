"""Where each number of a recipe comes from, read out of the comments beside it.

A recipe states `lr=LR[size],  # README, training command`; this file finds, for every setting of every stage, the words
behind the number: on its own line, else in the table it is looked up in, else on the line of what encloses it.
"""

from __future__ import annotations

import ast
import importlib.util
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DESK_SIZES = ("desk", "tiny")


@dataclass(frozen=True)
class Source:
    """Where a setting comes from, and whether the expression that states it holds a number."""

    words: str
    numeric: bool


def sources(module: str, size: str) -> dict[str, Source]:
    """The source of every setting of a recipe module by its path, such as "tuned.optim.lr"; "" where none is given."""
    found = importlib.util.find_spec(module)
    assert found is not None and found.origin is not None, module
    return read(Path(found.origin).read_text(encoding="utf-8"), size)


def read(text: str, size: str) -> dict[str, Source]:
    """The same, from the text of a recipe."""
    tree = ast.parse(text)
    reader = _Reader(tree, _comments(text), size)
    return {
        path: source
        for function in tree.body
        if isinstance(function, ast.FunctionDef)
        for path, source in reader.walk(function)
    }


def _comments(text: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}


class _Reader:
    def __init__(self, tree: ast.Module, comments: dict[int, str], size: str) -> None:
        self.comments, self.size = comments, size
        self.tables = {
            target.id: node for node in tree.body for target in _targets(node) if isinstance(target, ast.Name)
        }

    def walk(self, function: ast.FunctionDef) -> Iterator[tuple[str, Source]]:
        for statement in function.body:
            value = getattr(statement, "value", None)
            if isinstance(value, ast.Call):
                name = next(
                    (k.value.value for k in value.keywords if k.arg == "name" and isinstance(k.value, ast.Constant)),
                    None,
                )
                if isinstance(name, str):
                    yield from self.settings(value, name, "")

    def settings(self, call: ast.Call, path: str, around: str) -> Iterator[tuple[str, Source]]:
        for keyword in call.keywords:
            if keyword.arg in (None, "name"):
                continue
            where = f"{path}.{keyword.arg}"
            found = [self.beside(keyword.value), self.looked_up(keyword.value)]
            if where.count(".") > 1:
                found.reverse()  # several parts on one line share its comment: a table knows better
            here = found[0] or found[1] or around
            yield where, Source(here, _numeric(keyword.value))
            inner = self.resolved(keyword.value)
            if isinstance(inner, ast.Call):
                yield from self.settings(inner, where, here)

    def resolved(self, node: ast.expr) -> ast.expr:
        """What an expression stands for: the entry of a table at this size, the value of a name, or itself."""
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in self.tables:
            table = getattr(self.tables[node.value.id], "value", None)
            if isinstance(table, ast.Dict):
                for key, entry in zip(table.keys, table.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == self.size:
                        return self.resolved(entry)
        if isinstance(node, ast.Name) and node.id in self.tables:
            value = getattr(self.tables[node.id], "value", None)
            return self.resolved(value) if isinstance(value, ast.expr) else node
        return node

    def beside(self, node: ast.expr) -> str:
        """The comment on the line where the expression ends."""
        return self.comments.get(node.end_lineno or node.lineno, "")

    def looked_up(self, node: ast.expr) -> str:
        for part in ast.walk(node):
            if isinstance(part, ast.Name) and part.id in self.tables:
                words = self.in_table(self.tables[part.id])
                if words:
                    return words
        return ""

    def in_table(self, statement: ast.stmt) -> str:
        value = getattr(statement, "value", None)
        if isinstance(value, ast.Dict) and value.end_lineno != value.lineno:
            for key, entry in zip(value.keys, value.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == self.size:
                    return self.beside(entry) or self.looked_up(entry)
        if value is None:
            return ""
        words = self.beside(value)
        published, ours, _ = words.partition("; ours")
        return ("ours: desk scale" if self.size in DESK_SIZES else published) if ours else words


def _targets(node: ast.stmt) -> list[ast.expr]:
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign) else []


def _numeric(node: ast.expr) -> bool:
    return any(
        isinstance(part, ast.Constant)
        and isinstance(part.value, int | float)
        and not isinstance(part.value, bool)
        or isinstance(part, ast.Subscript)
        for part in ast.walk(node)
    )
