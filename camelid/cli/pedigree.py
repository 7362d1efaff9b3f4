"""family: every member with parent, operation, published numbers, desk verdict and the command that regrows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from camelid.cli.asked import Asked, Command, store_option
from camelid.recipes import MEMBERS, Member

if TYPE_CHECKING:
    from camelid.evaluate.claim import ClaimCard

DESK_SIZES = ("desk", "tiny")
HEAD = """# The family

Made by `camelid family`; do not edit. A verdict is that of the card of the last `camelid claims NAME` at desk scale
(`docs/cards` keeps those of this page, `docs/family.html` shows them whole); "no card" means that no experiment is declared.
"""


@click.command(cls=Command)
@click.option("--cards", "folder", metavar="FOLDER", help="Where the cards lie (default: claims in the store).")
@click.option("--page", "target", metavar="FILE", help="Write the web page, with every card, there.")
@store_option
@click.pass_obj
def family(asked: Asked, /, folder: str | None, target: str | None, store: str | None) -> None:
    """The family as a page in Markdown, or with --page as a web page that shows every card whole."""
    place = asked.store(store).root / "claims" if folder is None else Path(folder).expanduser()
    if folder is not None and not place.is_dir():
        asked.problems.add("--cards", f"{folder} is not a folder", "name the one that holds the cards")
    if target is not None and not Path(target).expanduser().parent.is_dir():
        absent = f"there is no folder {Path(target).expanduser().parent}"
        asked.problems.add(f"--page {target}", absent, "make it first, or name another")
    elif target is not None and Path(target).expanduser().is_dir():
        asked.problems.add(f"--page {target}", "is a folder", "name a file in it: family.html")
    asked.settle()
    from camelid.claims import cards

    found = cards(place)
    if target is None:
        click.echo(page(found), nl=False)
        return
    from camelid.durable import replace_file
    from camelid.gallery import gallery

    replace_file(Path(target).expanduser(), gallery(found).encode())
    click.echo(f"wrote {target}: {len(MEMBERS)} members, {len(found)} cards")


def page(cards: Mapping[str, ClaimCard]) -> str:
    """The page in Markdown, with the verdicts of these cards."""
    lines = [HEAD, "```", *(line for m in MEMBERS.values() if m.parent is None for line in _tree(m, "", "")), "```", ""]
    lines += ["| member | sizes | parent | operation | published | desk verdict | command |", "|" + "---|" * 7]
    lines += [_row(member, cards) for member in MEMBERS.values()]
    return "\n".join(lines) + "\n"


def _tree(member: Member, before: str, below: str) -> Iterator[str]:
    yield f"{before}{member.name}  {member.operation}"
    children = [child for child in MEMBERS.values() if child.parent == member.name]
    for child in children:
        last = child is children[-1]
        yield from _tree(child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "))


def _row(member: Member, cards: Mapping[str, ClaimCard]) -> str:
    sizes = ", ".join(size for size in member.sizes if size not in DESK_SIZES)
    told = member.make(member.published).claims
    claims = [f"{c.what}: {'not published' if c.value is None else c.value} ({c.source})" for c in told]
    cells = (
        member.name,
        sizes,
        member.parent or "none",
        member.operation,
        "; ".join(claims) or "not published",
        verdict(member.name, cards),
        f"`camelid grow {member.name}`",
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def verdict(name: str, cards: Mapping[str, ClaimCard]) -> str:
    """The verdict of a member's desk card, or why there is none."""
    from camelid.experiments import EXPERIMENTS

    if name in cards:
        card = cards[name]
        return f"{card.verdict} ({card.date}" + (f", {len(card.seeds)} seeds)" if card.seeds else ")")
    return "not run" if name in EXPERIMENTS else "no card"
