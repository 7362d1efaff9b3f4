"""merge: a model made of models."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from camelid.cli.asked import Asked, Command, store_option
from camelid.store import Store


@click.command(cls=Command)
@click.argument("names", metavar="MODEL... DST", nargs=-1)
@click.option(
    "--adapter", "worn", multiple=True, metavar="FOLDER[=X]", help="Add X times this adapter (1); repeatable."
)
@click.option("--anyway", is_flag=True, help="Start even where memory does not suffice.")
@store_option
@click.pass_obj
def merge(asked: Asked, /, names: tuple[str, ...], worn: tuple[str, ...], store: str | None, **options: Any) -> None:
    """Write DST: the mean of models of one shape and vocabulary, or one model with adapters added.

    MODEL is a folder or a grown member, and MODEL=X its share, where all have one; without shares all count alike.
    Shares add up to 1. With --adapter there is one MODEL, the base that the adapters were trained beside.
    """
    *models, target = names or ("",)
    if len(names) < 2:
        asked.problems.add("MODEL... DST", "a model and a folder to write are needed", "see camelid merge --help")
    elif Path(target).expanduser().exists():
        asked.problems.add("DST", f"{target} exists", "name something that does not exist yet")
    if worn and len(models) > 1:
        asked.problems.add("MODEL", f"{len(models)} beside --adapter", "name the one base of the adapters")
    if not worn and len(models) == 1:
        asked.problems.add("MODEL", "there is one alone", "name two or more, or adapters for it with --adapter")
    parents = [_parent(asked, name, asked.store(store)) for name in models]
    adapters = [_shared(name) for name in worn]
    for path, _ in adapters:
        asked.folder("--adapter", path)
    given = [share for _, share in parents if share is not None]
    if given and (worn or len(given) < len(parents)):
        found = "a share for the base" if worn else f"shares for {len(given)} of {len(parents)} models"
        asked.problems.add("MODEL=X", found, "leave it out" if worn else "give each one, or none")
    asked.settle()
    from camelid.checkpoints import directory
    from camelid.checkpoints.merge import Parent, mean, with_adapters
    from camelid.cli.memory import check_converting
    from camelid.generate.certificate import certificate
    from camelid.machine import detect

    check_converting(directory.load(parents[0][0], check="lengths"), detect("cpu"), anyway=options["anyway"])
    wanted, noted = (
        Path(target).expanduser(),
        partial(certificate, note=lambda line: click.echo(f"warning {line}", err=True)),
    )
    if worn:
        chosen = [Parent(Path(path).expanduser(), 1.0 if share is None else share) for path, share in adapters]
        made = with_adapters(parents[0][0], chosen, wanted, extra=noted)
    else:
        equal = 1 / len(parents)
        made = mean([Parent(path, equal if share is None else share) for path, share in parents], wanted, extra=noted)
    click.echo(str(made.path))
    for note in made.notes:
        click.echo(f"warning {note}", err=True)


def _shared(text: str) -> tuple[str, float | None]:
    """NAME=X as a name and a share; a folder whose own name has an = is taken for a folder."""
    name, equals, share = text.rpartition("=")
    if not equals or Path(text).expanduser().exists():
        return text, None
    try:
        return name, float(share)
    except ValueError:
        return text, None


def _parent(asked: Asked, text: str, store: Store) -> tuple[Path, float | None]:
    name, share = _shared(text)
    return asked.model(name, store), share
