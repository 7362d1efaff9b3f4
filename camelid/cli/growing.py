"""grow, resume, demo, claims: what makes models."""

from __future__ import annotations

import json
from typing import Any

import click

from camelid.cli.asked import Asked, Command, json_option, machine_options, store_option, training_options
from camelid.cli.family import override_recipe
from camelid.journal import Narrator
from camelid.recipe import Finetune, Folder, Pretrain, Recipe, Released, SelfInstruct, Table, portions, replace
from camelid.recipes import MEMBERS
from camelid.request import Request, read_request
from camelid.runs import find_run


@click.command(cls=Command)
@click.argument("member", metavar="MEMBER", required=False)
@click.option("--size", metavar="SIZE", help="desk (default), a published size, or tiny.")
@click.option(
    "--start", metavar="FOLDER", help="A Hugging Face Llama folder to start from, in place of the recipe's parent."
)
@click.option(
    "--data", metavar="FILE", help="Your records (alpaca, sharegpt or messages format), in place of the recipe's."
)
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE", help="Change one setting: tuned.length=1024.")
@click.option("--bad-rows", metavar="stop|skip", help="What to do with rows that cannot be used (default: stop).")
@click.option("--save-every", metavar="SECONDS", help="Seconds between checkpoints of a run (default: 60).")
@training_options
@machine_options
@store_option
@json_option
@click.pass_obj
def grow(asked: Asked, /, as_json: bool, **options: Any) -> None:
    """Grow a member of the family from its parent.

    Without --start, everything is generated and grown at desk scale, offline. With --start and --data the published
    recipe runs on a real model and real records. A stage that the store already holds is not made again; a run that was
    stopped goes on where it stood.
    """
    request = Request(
        member=options["member"] or "",
        size=options["size"] or ("desk" if options["start"] is None and options["data"] is None else ""),
        start=options["start"],
        data=options["data"],
        settings=options["settings"],
        bad_rows=options["bad_rows"],
    )
    run_request(asked, request, options, as_json)


def run_request(asked: Asked, /, request: Request, options: dict[str, Any], as_json: bool) -> None:
    """Check everything that was asked for, then grow it and say what came of it."""
    recipe = asked_recipe(asked, request)
    store = asked.store(options["store"])
    machine = asked.machine(
        options["device"], options["dtype"], options["threads"], options["micro_tokens"], options["recompute"]
    )
    seconds = asked.number("--save-every", options.get("save_every"), 60.0)
    asked.settle()
    assert recipe and seconds is not None
    from camelid.grow import grow as grown
    from camelid.summary import tell

    narrator = Narrator()
    outcome = grown(
        request.settled(recipe),
        recipe,
        store=store,
        machine=machine,
        narrator=narrator,
        seconds=seconds,
        anyway=options["anyway"],
    )
    if as_json:
        click.echo(json.dumps(outcome.to_json()))
    else:
        tell(outcome, store)


def asked_recipe(asked: Asked, /, request: Request) -> Recipe | None:
    """The recipe with --start, --data, --bad-rows and --set put into its last stage."""
    found = asked.member(request.member, request.size or None)
    start = asked.folder("--start", request.start)
    if start is not None and start.is_dir() and not (start / "config.json").is_file():
        asked.problems.add(
            "--start",
            f"{request.start} holds no config.json",
            "name a Hugging Face model folder, or first: camelid convert",
        )
    data = asked.file("--data", request.data)
    changes = asked.settings(request.settings)
    bad_rows = asked.choice("--bad-rows", request.bad_rows, ("stop", "skip"), "stop")
    if found is None:
        return None
    recipe, last = found[1], found[1].last
    if isinstance(last, Finetune | Pretrain):
        if start is not None:
            folder = Folder(str(start.resolve()))
            last = replace(last, start=folder)
            last = last if isinstance(last, Finetune) else replace(last, tokenizer=folder)
        if data is not None:
            table = Table(path=str(data.resolve()), bad_rows="skip" if bad_rows == "skip" else "stop")
            last = replace(last, data=table)
        recipe = replace(
            recipe, stages=(*recipe.stages[:-1], last) if start is None or isinstance(last, Finetune) else (last,)
        )
    recipe = override_recipe(recipe, changes, asked)
    missing(recipe, request, asked)
    return recipe


def missing(recipe: Recipe, request: Request, asked: Asked) -> None:
    """What a recipe at its published size needs from whoever runs it."""
    last = recipe.last
    if isinstance(last, Finetune):
        if isinstance(last.data, SelfInstruct):
            asked.problems.add(
                "--data",
                f"{recipe.title} needs records: its teacher {last.data.teacher} is retired",
                "name a file with --data",
            )
        for each in portions(last.data):
            if isinstance(each, Released):
                asked.problems.add(
                    "--data",
                    f"{recipe.title} needs {each.rows:,} records of {each.name}, which is not part of this package",
                    "name a file with --data",
                )
        if isinstance(last.start, Recipe) and not grows_here(last.start):
            asked.problems.add(
                "--start",
                f"{recipe.title} starts from {last.start.title}, which cannot be grown here",
                "name its folder with --start",
            )
    elif isinstance(last, Pretrain) and isinstance(last.start, Recipe) and not grows_here(last.start):
        asked.problems.add(
            "--start",
            f"{recipe.title} starts from {last.start.title}, which cannot be grown here",
            "name its folder with --start",
        )
    elif not grows_here(recipe):
        asked.problems.add(
            "--data",
            f"the texts of {recipe.title} are not published as assembled",
            "grow --size desk, or name texts with --data and a model with --start",
        )


def grows_here(recipe: Recipe) -> bool:
    """Whether every stage of a base recipe has data that this package generates or the person supplied."""
    from camelid.recipe import Mixture

    stages = [stage for ancestor in recipe.lineage() for stage in ancestor.stages]
    needed = [each for stage in stages for each in portions(getattr(stage, "data", None))]
    return not any(isinstance(each, Mixture | SelfInstruct | Released) for each in needed)


@click.command(cls=Command)
@click.argument("run", metavar="RUN", required=False)
@click.option("--save-every", metavar="SECONDS", help="Seconds between checkpoints of a run (default: 60).")
@training_options
@machine_options
@store_option
@json_option
@click.pass_obj
def resume(asked: Asked, /, run: str | None, as_json: bool, **options: Any) -> None:
    """Continue a run that was stopped or killed, exactly as if it had not been.

    RUN is its folder, or its name as camelid runs tells it.
    """
    path = find_run(run, asked.store(options["store"]), asked.problems) if run else None
    request = read_request(str(path), asked.problems) if path else None
    if request is None:
        asked.settle()
        return
    if options["store"] is None and request.store:
        options["store"] = request.store
    run_request(asked, request, options, as_json)


@click.command(cls=Command)
@training_options
@machine_options
@store_option
@click.pass_obj
def demo(asked: Asked, /, **options: Any) -> None:
    """Grow a base model and an Alpaca from nothing, offline, and show what came of it."""
    run_request(asked, Request(member="alpaca", size="desk"), options, False)


@click.command(cls=Command)
@click.argument("member", metavar="MEMBER", required=False)
@click.option("--seeds", metavar="N", help="How many seeds to try (default: 3).")
@click.option("--size", metavar="SIZE", help="desk (default) or tiny.")
@machine_options
@store_option
@json_option
@click.pass_obj
def claims(
    asked: Asked, /, member: str | None, seeds: str | None, size: str | None, as_json: bool, **options: Any
) -> None:
    """Try a member's central claim: an experiment that could refute it, a control, several seeds, an honest verdict."""
    count = asked.whole("--seeds", seeds, 3, least=2)
    scale = asked.choice("--size", size, ("desk", "tiny"), "desk")
    if member is not None and member not in MEMBERS:
        asked.member(member, None)
    store = asked.store(options["store"])
    machine = asked.machine(options["device"], options["dtype"], options["threads"])
    asked.settle()
    assert member and count
    from camelid.claims import show_card, try_claim

    card = try_claim(member, scale, seeds=count, store=store, machine=machine, narrator=Narrator())
    if as_json:
        click.echo(json.dumps(card.data()))
    else:
        show_card(card)
