"""`camelid runs`: what ran in the store, one run in full, or two side by side."""

from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from camelid.cli.asked import Asked, Command, json_option, store_option
from camelid.journal import clock

if TYPE_CHECKING:
    from camelid.runs import Comparison, Run

NARROW = 96  # places: a window below that gets a run on two lines


@click.command(cls=Command)
@click.argument("run", metavar="[RUN]", required=False, default="")
@click.argument("other", metavar="[RUN]", required=False, default="")
@store_option
@json_option
@click.pass_obj
def runs(asked: Asked, /, run: str, other: str, store: str | None, as_json: bool) -> None:
    """What ran in the store: state, steps, tokens, loss, time. With one RUN that one alone; with two, what differs.

    A stopped run goes on with: camelid resume RUN
    """
    place = asked.store(store)
    from camelid.runs import compare, find_run
    from camelid.runs import runs as found_in

    paths = [find_run(name, place, asked.problems) for name in (run, other) if name]
    asked.settle()
    found = found_in(place)
    if len(paths) == 2 and paths[0] and paths[1]:
        differences = compare(paths[0], paths[1])
        if as_json:
            click.echo(json.dumps({"runs": [path.name for path in paths if path], **asdict(differences)}))
        else:
            _compared(paths[0].name, paths[1].name, differences)
        return
    if paths:
        found = [each for each in found if each.path == paths[0]]
    if as_json:
        click.echo(json.dumps([each.data() for each in found]))
        return
    if not found:
        click.echo(f"nothing ran in {place.root} yet: camelid demo")
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else NARROW
    for each in found:
        for line in told(each, width):
            click.echo(line)
    if any(each.state == "stopped" for each in found):
        click.echo("go on with: camelid resume RUN")


def told(run: Run, width: int) -> list[str]:
    """A run on one line, or on two where the window is narrow."""
    who = f"{run.member} {run.size}".strip() or "?"
    if run.steps:
        loss = f"loss {run.loss:.3f}" if run.loss is not None else "no loss"
        far = f"{run.step:,} of {run.steps:,} steps  {run.tokens:,} tokens  {loss}  {clock(run.seconds)}"
    else:
        far = "no steps" if run.state != "done" else "nothing to train"
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.last)) if run.last else ""
    if width >= NARROW:
        asked = [f"{'':<8} {'':<16} with {', '.join(run.asked)}"] if run.asked else []
        return [f"{run.state:<8} {who:<16} {run.name:<30}  {far}  {when}".rstrip(), *asked]
    short = far.replace(" tokens", " tok").replace(" steps", "").replace(" of ", "/").replace("  ", " ")
    return [f"{run.state} {who}", f"  {run.name}", f"  {short}", *(f"  with {word}" for word in run.asked)]


def _compared(one: str, two: str, found: Comparison) -> None:
    click.echo(f"A  {one}\nB  {two}")
    for name, first, second in found.settings:
        click.echo(f"{name}\n  A {_short(first)}\n  B {_short(second)}")
    if not found.settings:
        click.echo("no setting differs")
    if found.losses:
        click.echo(f"{'step':>8} {'loss A':>9} {'loss B':>9} {'B - A':>9}")
    for step, first_loss, second_loss in found.losses:
        both = first_loss is not None and second_loss is not None
        gap: Any = f"{second_loss - first_loss:+9.4f}" if both else f"{'-':>9}"  # type: ignore[operator]
        click.echo(f"{step:>8} {_loss(first_loss)} {_loss(second_loss)} {gap}")


def _loss(value: float | None) -> str:
    return f"{'refused':>9}" if value is None else f"{value:9.4f}"


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
