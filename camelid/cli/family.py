"""tree, show, diff, plan: what the recipes say, before anything runs."""

from __future__ import annotations

import json
from typing import Any

import click

from camelid.cli.asked import SETTING, Asked, Command, json_option
from camelid.cli.distance import ABSENT, distance
from camelid.errors import ProblemList, did_you_mean
from camelid.frozen import is_frozen, stated, text, to_data
from camelid.recipe import Recipe, Stage, check, reference
from camelid.recipes import MEMBERS, Member
from camelid.recipes.sources import Source, sources

INPUTS = ("start", "data", "tokenizer", "teacher", "partner", "parent")  # of a stage
DIM, BOLD, RESET = "\x1b[2m", "\x1b[1m", "\x1b[0m"


def echo(line: str = "") -> None:
    """One line on standard output; click strips the colours where nobody sees them."""
    click.echo(line)


@click.command(cls=Command)
@json_option
@click.pass_obj
def tree(asked: Asked, /, as_json: bool) -> None:
    """The family tree: each member under its parent, and the operation between them."""
    asked.settle()
    if as_json:
        members = [
            {"member": m.name, "parent": m.parent, "operation": m.operation, "sizes": list(m.sizes)}
            for m in MEMBERS.values()
        ]
        echo(json.dumps(members))
        return
    for name, member in MEMBERS.items():
        if member.parent is None:
            _branch(name, "", "")


def _branch(name: str, before: str, below: str) -> None:
    member = MEMBERS[name]
    published = " ".join(size for size in member.sizes if size not in ("desk", "tiny"))
    echo(f"{before}{BOLD}{name}{RESET}  {member.operation}  {DIM}{published}{RESET}")
    children = [child.name for child in MEMBERS.values() if child.parent == name]
    for child in children:
        last = child == children[-1]
        _branch(child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "))


@click.command(cls=Command)
@click.argument("member", metavar="MEMBER", required=False)
@click.option("--size", metavar="SIZE", help="A published size, or desk (default: the published one).")
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE", help=SETTING)
@json_option
@click.pass_obj
def show(asked: Asked, /, member: str | None, size: str | None, settings: tuple[str, ...], as_json: bool) -> None:
    """A member's recipe: its paper, its parent, and every setting with the source of its number."""
    found = asked.member(member, size)
    changes = asked.settings(settings)
    recipe = found and override_recipe(found[1], changes, asked)
    asked.settle()
    assert found and recipe
    told = sources(found[0].module, size or found[0].published, found[0].others)
    told |= {path: Source("set on the command line", True) for path in changes}
    if as_json:
        echo(json.dumps(_shown(found[0], recipe, told)))
        return
    echo(found[0].docstring)
    for ancestor in recipe.lineage():
        if ancestor is not recipe:
            echo(f"\n{DIM}# from {ancestor.title}: camelid show {_name_of(ancestor)}{RESET}")
    for stage in recipe.stages:
        echo(f"\n{BOLD}{stage.name}{RESET} = {type(stage).__name__}(")
        for name, value in stated(stage):
            if name != "name":
                value = next((Named(f"<{own.name}>") for own in recipe.stages if own is value), value)
                _setting(f"{stage.name}.{name}", name, value, told)
        echo(")")
    for variant, make in found[0].variants.items():
        echo(f"\n{DIM}# variant: camelid show {found[0].name.partition('+')[0]}+{variant}  {make.__doc__}{RESET}")
    for claim in recipe.claims:
        echo(f"\nclaims: {claim.what}: {claim.value}  {DIM}# {claim.source}{RESET}")


class Named(str):
    """A stage that was shown before, by its name."""

    def __repr__(self) -> str:
        return str(self)


def _name_of(recipe: Recipe) -> str:
    return next(
        (m.name for m in MEMBERS.values() if any(m.make(s).title == recipe.title for s in m.sizes)), recipe.title
    )


def _setting(path: str, name: str, value: Any, told: dict[str, Source], depth: int = 1) -> None:
    """One setting on its line with its source; one that fills several lines is opened up, each part with its own."""
    written, margin = text(value, name_of=reference), "    " * depth
    own = told[path].words if path in told else ""
    if "\n" in written and is_frozen(value):
        echo(f"{margin}{name}={type(value).__name__}(")
        for inner, content in stated(value):
            place = f"{path}.{inner}"
            found = told.get(place, Source("" if inner == "name" else own, True))  # a name is the project's own
            _setting(place, inner, content, {**told, place: found}, depth + 1)
        echo(f"{margin}),")
        return
    parts = {
        p[len(path) + 1 :]: s.words for p, s in told.items() if p.startswith(f"{path}.") and s.words and s.words != own
    }
    words = "; ".join([own] * bool(own) + [f"{part}: {source}" for part, source in parts.items()])
    written = written.replace("\n", f"\n{margin}")
    echo(f"{margin}{name}={written}," + (f"  {DIM}# {words}{RESET}" if words else ""))


def _shown(member: Member, recipe: Recipe, told: dict[str, Source]) -> dict[str, Any]:
    return {
        "member": member.name,
        "title": recipe.title,
        "parent": member.parent,
        "operation": member.operation,
        "sizes": list(member.sizes),
        "variants": {name: (make.__doc__ or "").strip() for name, make in member.variants.items()},
        "about": member.docstring,
        "stages": [_shown_stage(stage, told) for stage in recipe.stages],
        "claims": [{"what": c.what, "value": c.value, "source": c.source} for c in recipe.claims],
    }


def _shown_stage(stage: Any, told: dict[str, Source]) -> dict[str, Any]:
    settings = {}
    for name, value in stated(stage):
        source = told.get(f"{stage.name}.{name}")
        shown = value.title if isinstance(value, Recipe) else value.name if isinstance(value, Stage) else to_data(value)
        settings[name] = {"value": shown, "source": source.words if source else ""}
    nested = {
        path: s.words
        for path, s in told.items()
        if path.startswith(f"{stage.name}.") and path.count(".") > 1 and s.words
    }
    return {"name": stage.name, "type": type(stage).__name__, "settings": settings, "sources": nested}


def override_recipe(recipe: Recipe, changes: dict[str, str], asked: Asked) -> Recipe:
    """The recipe with typed overrides applied: a path begins with the name of a stage of the member or of an ancestor."""
    from dataclasses import replace

    from camelid.frozen import override

    names = {stage.name for ancestor in recipe.lineage() for stage in ancestor.stages}
    for path, written in changes.items():
        stage = path.split(".")[0]
        if stage not in names:
            asked.problems.add(f"--set {path}", f"there is no stage {stage!r}", did_you_mean(stage, sorted(names)))
        elif path.partition(".")[2] in INPUTS and written.lower() != "none":
            asked.problems.add(
                f"--set {path}", "is what the stage is given", "use --start FOLDER and --data [STAGE=]FILE"
            )
        else:
            recipe = _override_in(recipe, stage, path, written, asked)
    for ancestor in recipe.lineage() if changes else ():
        for own in ancestor.stages:
            wrong = ProblemList()
            check(own, wrong)
            for problem in wrong.problems:
                asked.problems.add(f"--set {problem.where}", problem.found, problem.remedy)
    return recipe if not names else replace(recipe, stages=override(recipe.stages, {}, asked.problems))


def _override_in(recipe: Recipe, stage: str, path: str, written: str, asked: Asked) -> Recipe:
    from dataclasses import replace

    from camelid.frozen import override

    if any(own.name == stage for own in recipe.stages):
        changed = override(recipe.stages, {path: written}, asked.problems)
        return replace(recipe, stages=relinked(recipe.stages, changed))
    if isinstance(recipe.parent, Recipe):
        parent = _override_in(recipe.parent, stage, path, written, asked)
        stages: tuple[Any, ...] = recipe.stages
        changed = tuple(
            replace(own, start=parent) if getattr(own, "start", None) == recipe.parent else own for own in stages
        )
        return replace(recipe, stages=relinked(recipe.stages, changed))
    return recipe


def relinked(before: tuple[Any, ...], after: tuple[Any, ...]) -> tuple[Any, ...]:
    """Stages refer to each other as values: where an earlier one changed, later ones refer to the changed one."""
    from dataclasses import fields, replace

    linked: list[Any] = []
    for stage in after:
        for old, new in zip(before, list(linked), strict=False):
            for field in fields(stage):
                if getattr(stage, field.name) == old and old != new:
                    stage = replace(stage, **{field.name: new})
        linked.append(stage)
    return tuple(linked)


@click.command(cls=Command)
@click.argument("first", metavar="MEMBER", required=False)
@click.argument("second", metavar="MEMBER", required=False)
@click.option("--size", metavar="SIZE", help="The size of both (default: each one's published size).")
@json_option
@click.pass_obj
def diff(asked: Asked, /, first: str | None, second: str | None, size: str | None, as_json: bool) -> None:
    """The distance between two members: the settings in which their stages differ, the last with the last."""
    one, two = asked.member(first, size), asked.member(second, size)
    asked.settle()
    assert one and two
    changes = list(distance(one[1], two[1]))
    if as_json:
        echo(json.dumps([{"setting": c.path, str(first): c.one, str(second): c.two} for c in changes]))
        return
    if not changes:
        echo(f"{one[1].title} and {two[1].title} are trained alike")
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("setting", no_wrap=True)
    for title in (one[1].title, two[1].title):
        table.add_column(title, overflow="fold")
    for change in changes:
        table.add_row(*(escape(word or ABSENT) for word in (change.path, change.one, change.two)))
    Console(highlight=False).print(table)
    if any(ABSENT in (c.one or ABSENT, c.two or ABSENT) for c in changes):
        echo(f"{DIM}{ABSENT} no such setting there{RESET}")
    if size is None and one[0].published != two[0].published:
        echo(f"{DIM}each at its published size; --size desk compares both at one{RESET}")


@click.command(cls=Command)
@click.argument("member", metavar="MEMBER", required=False)
@click.option("--size", metavar="SIZE", help="A published size, or desk (default: the published one).")
@click.option(
    "--device", metavar="NAME", help="cpu, or a GPU with its memory: rtx4090, a6000, a100-80gb, h100, h200 ..."
)
@click.option("--count", metavar="N", help="How many of them.")
@click.option("--dtype", metavar="TYPE", help="float32 or bfloat16.")
@click.option("--tensor", metavar="N", help="Devices that divide each matrix (default: 1).")
@click.option("--pipeline", metavar="N", help="Devices that hold consecutive layers (default: 1).")
@click.option("--data", "replicas", metavar="N", help="Replicas; the other devices shard (default: 1).")
@click.option("--recompute", is_flag=True, help="Keep each layer's input only and compute the rest again.")
@click.option(
    "--micro-tokens",
    metavar="N",
    help="Tokens on a device at once (default: one row; on this CPU as a run takes them).",
)
@click.option("--utilisation", metavar="SHARE", help="Share of the peak rate to assume (default: 0.4).")
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE", help=SETTING)
@json_option
@click.pass_obj
def plan(asked: Asked, /, member: str | None, size: str | None, as_json: bool, **options: Any) -> None:
    """Memory, step time, tokens per second, days and device-hours of a recipe on a machine; what is missing; what would fit."""
    from camelid.plan.machines import machine_named
    from camelid.plan.plan import UTILISATION, Choices, here
    from camelid.plan.training import Layout

    found = asked.member(member, size)
    changes = asked.settings(options["settings"])
    recipe = found and override_recipe(found[1], changes, asked)
    number = asked.whole("--count", options["count"], 1) or 1
    word = asked.choice("--dtype", options["dtype"], ("float32", "bfloat16"), "")
    machine = machine_named(options["device"], number, word, asked.problems)
    tensor, pipeline = (asked.whole(f"--{name}", options[name], 1) or 1 for name in ("tensor", "pipeline"))
    replicas = asked.whole("--data", options["replicas"], 1) or 1
    share = asked.number("--utilisation", options["utilisation"], UTILISATION, least=0.01, most=1.0)
    micro = asked.whole("--micro-tokens", options["micro_tokens"], None)
    rest = tensor * pipeline * replicas
    if number % rest:
        asked.problems.add("--count", f"{number} cannot be divided by {rest}", f"use a multiple of {rest}")
    asked.settle()
    assert recipe and machine and share
    from camelid.plan.plan import plan as planned

    layout = Layout(data=replicas, shard=number // rest, tensor=tensor, pipeline=pipeline) if rest > 1 else None
    choices = Choices(layout=layout, micro_tokens=micro, recompute=options["recompute"], utilisation=share)
    if options["device"] in (None, "cpu") and number == 1:
        choices = here(recipe, machine, choices)
    result = planned(recipe, machine, choices)
    if as_json:
        echo(json.dumps(to_data(result)))
    else:
        from camelid.plan.page import printed

        printed(result)
