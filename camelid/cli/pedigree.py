"""family: every member with parent, operation, published numbers, desk verdict and the command that regrows it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click

from camelid.cli.asked import Asked, Command, store_option
from camelid.recipes import MEMBERS, Member
from camelid.store import Store

DESK_SIZES = ("desk", "tiny")
HEAD = """# The family

Made by `camelid family`; do not edit. A verdict stands here only where `camelid claims NAME` was run at desk scale in the
store that was read; "no card" means that no experiment is declared yet.
"""


@click.command(cls=Command)
@store_option
@click.pass_obj
def family(asked: Asked, /, store: str | None) -> None:
    """The family as a page in Markdown: docs/family.md is what this prints on an empty store."""
    place = asked.store(store)
    asked.settle()
    click.echo(page(place), nl=False)


def page(store: Store) -> str:
    """The page, with the verdicts that the store holds."""
    lines = [HEAD, "```", *(line for m in MEMBERS.values() if m.parent is None for line in _tree(m, "", "")), "```", ""]
    lines += ["| member | sizes | parent | operation | published | desk verdict | command |", "|" + "---|" * 7]
    lines += [_row(member, store) for member in MEMBERS.values()]
    return "\n".join(lines) + "\n"


def _tree(member: Member, before: str, below: str) -> Iterator[str]:
    yield f"{before}{member.name}  {member.operation}"
    children = [child for child in MEMBERS.values() if child.parent == member.name]
    for child in children:
        last = child is children[-1]
        yield from _tree(child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "))


def _row(member: Member, store: Store) -> str:
    sizes = ", ".join(size for size in member.sizes if size not in DESK_SIZES)
    told = member.make(member.published).claims
    claims = [f"{c.what}: {'not published' if c.value is None else c.value} ({c.source})" for c in told]
    cells = (
        member.name,
        sizes,
        member.parent or "none",
        member.operation,
        "; ".join(claims) or "not published",
        verdict(member.name, store),
        f"`camelid grow {member.name}`",
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def verdict(name: str, store: Store) -> str:
    """The verdict of a member's desk card, or why there is none."""
    from camelid.experiments import EXPERIMENTS

    path: Path = store.root / "claims" / f"{name}-desk.json"
    if path.is_file():
        told = json.loads(path.read_text("utf-8"))
        return f"{told['verdict']} ({told['date']}, {len(told['seeds'])} seeds)"
    return "not run" if name in EXPERIMENTS else "no card"
