"""merge and delta: a model made of models, or of its parent and what it has beyond it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from camelid.cli.asked import Asked, Command, store_option
from camelid.store import Store

if TYPE_CHECKING:
    from camelid.checkpoints.merge import Extra


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
    from camelid.checkpoints.merge import Parent, mean, with_adapters

    _check_memory(parents[0][0], anyway=options["anyway"])
    wanted = Path(target).expanduser()
    noted = _noted()
    if worn:
        chosen = [Parent(Path(path).expanduser(), 1.0 if share is None else share) for path, share in adapters]
        made = with_adapters(parents[0][0], chosen, wanted, extra=noted)
    else:
        equal = 1 / len(parents)
        made = mean([Parent(path, equal if share is None else share) for path, share in parents], wanted, extra=noted)
    click.echo(str(made.path))
    for note in made.notes:
        click.echo(f"warning {note}", err=True)


@click.group(name="delta")
def delta() -> None:
    """A tuned model as its difference from its parent, as Vicuna and Alpaca were published."""


def new_rows_option(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        "--new-rows",
        metavar="zero|mean",
        help=f"Beside what rows that the parent lacks are taken (default: {default}).",
    )


@delta.command(name="make", cls=Command)
@click.argument("names", metavar="PARENT TUNED DST", nargs=-1)
@new_rows_option("zero")
@click.option("--anyway", is_flag=True, help="Start even where memory does not suffice.")
@store_option
@click.pass_obj
def make_delta(asked: Asked, /, names: tuple[str, ...], store: str | None, **options: Any) -> None:
    """Write DST: TUNED less PARENT, each a folder or a grown member. It says how exactly the two give TUNED back."""
    parent, tuned, target = _three(asked, names, "PARENT TUNED DST", store)
    new_rows = asked.choice("--new-rows", options["new_rows"], ("zero", "mean"), "zero")
    asked.settle()
    from camelid.checkpoints import delta as deltas

    _check_memory(tuned, anyway=options["anyway"])
    made = deltas.make(parent, tuned, target, new_rows=cast("deltas.Beside", new_rows))
    click.echo(str(made.path))
    lost = made.weights - made.exact
    told = (
        "come back bit for bit"
        if not lost
        else f"come back bit for bit but {lost:,}, off by {made.largest_error:.2g} at most"
    )
    click.echo(f"{made.weights:,} weights, which {told}", err=True)


@delta.command(name="apply", cls=Command)
@click.argument("names", metavar="PARENT DELTA DST", nargs=-1)
@new_rows_option("as the delta says, else mean, as in Alpaca's")
@click.option("--anyway", is_flag=True, help="Start even where memory does not suffice.")
@store_option
@click.pass_obj
def apply_delta(asked: Asked, /, names: tuple[str, ...], store: str | None, **options: Any) -> None:
    """Write DST: PARENT plus DELTA, a folder that delta make wrote or one that was published."""
    parent, change, target = _three(asked, names, "PARENT DELTA DST", store)
    asked.choice("--new-rows", options["new_rows"], ("zero", "mean"), "mean")
    asked.settle()
    from camelid.checkpoints import delta as deltas

    _check_memory(change, anyway=options["anyway"])
    new_rows = cast("deltas.Beside | None", options["new_rows"])
    made = deltas.apply(parent, change, target, new_rows=new_rows, extra=_noted())
    click.echo(str(made.path))
    for note in made.notes:
        click.echo(f"warning {note}", err=True)
    click.echo(f"the weights add up to {made.total:.4f}", err=True)


def _three(asked: Asked, names: tuple[str, ...], wanted: str, store: str | None) -> tuple[Path, Path, Path]:
    """Two models and the folder to write."""
    if len(names) != 3:
        found = f"{len(names)} name{'s' * (len(names) != 1)} given" if names else "nothing is given"
        asked.problems.add(wanted, found, "name two folders or grown members, and a folder to write")
        asked.settle()
    one, two, target = names
    if Path(target).expanduser().exists():
        asked.problems.add("DST", f"{target} exists", "name something that does not exist yet")
    found_store = asked.store(store)
    return asked.model(one, found_store), asked.model(two, found_store), Path(target).expanduser()


def _noted() -> Extra:
    """What certifies a model as it is written; where memory does not suffice for it, that is told."""
    from camelid.generate.certificate import certificate

    return partial(certificate, note=lambda line: click.echo(f"warning {line}", err=True))


def _check_memory(model: Path, *, anyway: bool) -> None:
    from camelid.checkpoints import directory
    from camelid.cli.memory import check_converting
    from camelid.machine import detect

    check_converting(directory.load(model, check="lengths"), detect("cpu"), anyway=anyway)


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
