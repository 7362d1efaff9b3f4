"""grow, resume, demo, claims: what makes models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import click

from camelid.cli.asked import SETTING, Asked, Command, json_option, machine_options, store_option, training_options
from camelid.cli.family import override_recipe, relinked
from camelid.errors import did_you_mean
from camelid.journal import Narrator
from camelid.plan.plan import shape_of
from camelid.recipe import (
    FIRST_SEED,
    AnyStage,
    Blend,
    ExtendTokenizer,
    Finetune,
    Folder,
    LlamaShape,
    Merge,
    Mixture,
    Portion,
    Pretrain,
    Recipe,
    Released,
    SelfInstruct,
    Share,
    Shares,
    Table,
    TrainTokenizer,
    Trees,
    portions,
    replace,
)
from camelid.recipes import MEMBERS, Member
from camelid.request import Given, Request, read_given, read_request
from camelid.runs import find_run
from camelid.stage import WHOLE

WIDER = ("vocab", "context", "theta", "scaling")  # what a stage of plain text may change of its parent's shape


@click.command(cls=Command)
@click.argument("member", metavar="MEMBER", required=False)
@click.option("--size", metavar="SIZE", help="desk (default), tiny, or a published size (default: that of --start).")
@click.option(
    "--start", metavar="FOLDER", help="A Hugging Face Llama folder to start from, in place of the recipe's parent."
)
@click.option(
    "--data",
    multiple=True,
    metavar="[STAGE=]FILE",
    help="Your records (alpaca, sharegpt, messages or APIBench's format, or Open Assistant's trees) or texts, or a folder saved by "
    "Hugging Face's datasets, in place of the last stage's or the one named. Several: texts by shares, 70%:FILE; records so "
    "many times over, 2x:FILE.",
)
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE", help=SETTING)
@click.option("--bad-rows", metavar="stop|skip", help="What to do with rows that cannot be used (default: stop).")
@click.option("--other-size", is_flag=True, help="Take the settings of --size for a --start of another published size.")
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
    plain = [word for word in options["data"] if read_given(word) == Given("", word)]
    request = Request(
        member=options["member"] or "",
        size=options["size"] or ("desk" if options["start"] is None and not options["data"] else ""),
        start=options["start"],
        data=plain[0] if len(plain) == 1 else None,
        texts=tuple(word for word in options["data"] if len(plain) != 1 or word != plain[0]),
        settings=options["settings"],
        bad_rows=options["bad_rows"],
        other_size=options["other_size"],
    )
    run_request(asked, request, options, as_json)


def run_request(
    asked: Asked,
    /,
    request: Request,
    options: dict[str, Any],
    as_json: bool,
    beside: Sequence[Request] = (),
    carry: str | None = None,
) -> None:
    """Check everything that was asked for, then grow it, and others beside it, and say what came of it."""
    recipe = asked_recipe(asked, request)
    others = [(other, asked_recipe(asked, other)) for other in beside]
    store = asked.store(options["store"])
    found = asked.machine(
        options["device"],
        options["dtype"],
        options["threads"],
        options["micro_tokens"],
        options["recompute"],
        options["compiled"],
        options["float8"],
    )
    machine = asked.ranks(found, options)
    if machine.float8:
        from camelid.train.float8 import check as check_float8

        check_float8(machine, asked.problems)
    seconds = asked.number("--save-every", options.get("save_every"), 60.0)
    spikes = asked.whole("--spikes", options["spikes"], least=0)
    log = asked.log(options["log"])
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
        spikes=spikes,
        log=log,
        beside=[(other.settled(found), found) for other, found in others if found],
        carry=carry,
    )
    if outcome is None:
        return  # rank 0 tells
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
    changes = asked.settings(request.settings)
    bad_rows = asked.choice("--bad-rows", request.bad_rows, ("stop", "skip"), "stop")
    if found is not None and start is not None and (start / "config.json").is_file():
        found = sized(found, request, start, asked)
    if found is None:
        return None
    recipe = found[1]
    skips: Literal["skip", "stop"] = "skip" if bad_rows == "skip" else "stop"
    files = asked_files(recipe, request, skips, asked)
    if start is not None and (start / "config.json").is_file():
        check_parent(recipe, start, asked)
        recipe = started(recipe, Folder(str(start.resolve())))
    changed = tuple(_told(stage, files[stage.name], asked) if stage.name in files else stage for stage in recipe.stages)
    recipe = replace(recipe, stages=relinked(recipe.stages, changed))
    recipe = override_recipe(recipe, changes, asked)
    check_room(recipe, asked)
    missing(recipe, asked, named=request.start is not None)
    return recipe


def asked_files(
    recipe: Recipe, request: Request, bad_rows: Literal["stop", "skip"], asked: Asked
) -> dict[str, list[tuple[Given, Table]]]:
    """What a person names for each stage that learns from data."""
    names = [stage.name for stage in recipe.stages if hasattr(stage, "data")]
    files: dict[str, list[tuple[Given, Table]]] = {}
    for word in (*([request.data] if request.data else []), *request.texts):
        given = read_given(word)
        stage = given.stage or recipe.fed.name
        if stage not in names:
            asked.problems.add(f"--data {word}", f"there is no stage {stage!r}", did_you_mean(stage, names))
        elif (path := asked.records("--data", given.file)) is not None:
            files.setdefault(stage, []).append((given, Table(path=str(path.resolve()), bad_rows=bad_rows)))
    return files


def _told(stage: AnyStage, files: list[tuple[Given, Table]], asked: Asked) -> AnyStage:
    """The stage with a person's own records, trees or texts: of several files texts by their shares of the tokens drawn,
    records so many times over."""
    if isinstance(stage, SelfInstruct | Merge):
        return stage
    if isinstance(stage, Finetune):
        from camelid.data.trees import is_trees

        for given, _ in files:
            if given.unit == "%":
                found, remedy = f"{given.text()}: dialogues are not drawn by shares", f"say how often: 2x:{given.file}"
                asked.problems.add("--data", found, remedy)
        own = [Trees(path=table.path) if is_trees(table.path) else table for _, table in files]
        if len(own) == 1 and files[0][0].amount is None:
            return replace(stage, data=own[0])
        times = [1.0 if given.amount is None else given.amount for given, _ in files]
        return replace(stage, data=Blend(tuple(Portion(data, epochs=n) for data, n in zip(own, times, strict=True))))
    tables = [table for _, table in files]
    if len(tables) == 1 and files[0][0].amount is None:
        return replace(stage, data=tables[0])
    shares = [given.amount or 0.0 for given, _ in files]
    wrong = [given.text() for given, _ in files if given.unit != "%" or not given.amount]
    typed = " ".join(f"--data {100 // len(files)}%:{given.file}" for given, _ in files)
    if wrong or abs(sum(shares) - 100) > WHOLE:
        found = f"of {len(files)} files for {stage.name}, " + (
            f"{', '.join(wrong)} has no share in percent" if wrong else f"the shares add up to {sum(shares):g}%"
        )
        asked.problems.add("--data", found, f"say how much of the tokens each gives, 100 in all, such as {typed}")
    bases = [Path(table.path).name for table in tables]
    for name in sorted({name for name in bases if bases.count(name) > 1}):
        asked.problems.add(
            "--data", f"{bases.count(name)} files are called {name}", "rename one: names tell sources apart"
        )
    if isinstance(stage, Pretrain | TrainTokenizer | ExtendTokenizer):
        parts = zip(tables, shares, strict=True)
        return replace(stage, data=Shares(tuple(Share(table, percent) for table, percent in parts)))
    return stage


def check_parent(recipe: Recipe, folder: Path, asked: Asked) -> None:
    """What makes a folder no parent of this member: another kind of vocabulary, or another template than was tuned."""
    from camelid.checkpoints import delta, directory

    declared = recipe.parent if isinstance(recipe.parent, Recipe) else recipe
    kinds = [s.kind for owner in declared.lineage() for s in owner.stages if isinstance(s, TrainTokenizer)]
    found = directory.load(folder, check="lengths")
    if (wrong := delta.problem(found)) is not None:
        asked.problems.add(f"--start {wrong.where}", wrong.found, wrong.remedy)
    kind = "sentencepiece" if type(found.tokenizer).__name__ == "SentencePieceTokenizer" else "byte_bpe"
    if kinds and kind != kinds[0]:
        words = {"sentencepiece": "a SentencePiece vocabulary", "byte_bpe": "a byte-level vocabulary, as Llama 3's"}
        told = f"has {words[kind]}; {declared.title} has {words[kinds[0]]}"
        asked.problems.add(f"--start {folder}", told, "name a model of that line, or another member: camelid tree")
    prompt = declared.trained.prompt if isinstance(declared.trained, Finetune) and declared is not recipe else None
    if prompt is not None and found.template is not None and found.template != prompt:
        told = f"talks in another template than {declared.title}, from which this member goes on"
        asked.problems.add(f"--start {folder}", told, f"name a folder of {declared.title}, or set another prompt")
    if prompt is None and found.template is not None and isinstance(recipe.trained, Finetune):
        Narrator().warn(f"--start {folder}: was tuned on dialogues already; {recipe.title} starts from a base model")


def check_room(recipe: Recipe, asked: Asked) -> None:
    """What makes a folder no parent of a vocabulary that is to be extended: it has as many rows already."""
    from camelid.checkpoints import directory

    for stage in recipe.stages:
        if isinstance(stage, ExtendTokenizer) and isinstance(stage.start, Folder):
            rows = directory.load(Path(stage.start.path), check="lengths").tokenizer.size
            if rows >= stage.vocab:
                found = f"its vocabulary has {rows:,} ids, {recipe.title} extends its parent's to {stage.vocab:,}"
                remedy = (
                    f"name a model whose vocabulary was not extended, or --set {stage.name}.vocab={rows + 1} or more"
                )
                asked.problems.add(f"--start {stage.start.path}", found, remedy)


def sized(found: tuple[Member, Recipe], request: Request, folder: Path, asked: Asked) -> tuple[Member, Recipe] | None:
    """The member at the size whose parent has the shape of the folder's model, which is told, where no size was named.

    One that was named and is another published one's is refused unless the request says that it is meant.
    """
    from rich.markup import escape

    from camelid.checkpoints import directory

    member, body = found[0], _body(directory.load(folder, check="lengths").shape)
    own, fitting = request.size or member.published, []
    for size in member.sizes:
        parent = member.make(size).parent
        if isinstance(parent, Recipe) and isinstance(parent.trained, Pretrain | Finetune):
            fitting += [size] * (_body(shape_of(parent.trained)) == body)
    if not fitting or own in fitting or request.other_size:
        return found
    told = f"has the shape of the parent that {member.name} has at {' and '.join(fitting)}"
    if not request.size:
        Narrator().say(escape(f"--start {folder}: {told}: grown with the settings of --size {fitting[0]}"))
        return asked.member(request.member, fitting[0])
    remedy = f"use --size {fitting[0]}, which has its settings, or --other-size where {own}'s are meant"
    asked.problems.add(f"--start {folder}", f"{told}, not at {own}", remedy)
    return found


def _body(shape: LlamaShape) -> tuple[int, int, int]:
    """What tells a model's size, whatever its vocabulary and context."""
    return shape.layers, shape.width, shape.hidden


def started(recipe: Recipe, folder: Folder) -> Recipe:
    """The recipe from a folder in place of its parent; what it reads takes the shape of the folder's model.

    Where a stage of plain text widens the parent's shape, by a longer context or a larger vocabulary, it widens the
    folder's in the same way.
    """
    changed: list[AnyStage] = []
    for stage in recipe.stages:
        if isinstance(stage, Pretrain) and (stage.start is None or isinstance(stage.start, Recipe)):
            tokenizer = folder if isinstance(stage.tokenizer, TrainTokenizer) else stage.tokenizer
            stage = replace(stage, shape=_widened(stage, folder), start=folder, tokenizer=tokenizer)
        elif isinstance(stage, Finetune | ExtendTokenizer) and isinstance(stage.start, Recipe):
            stage = replace(stage, start=folder)
        changed.append(stage)
    linked = relinked(recipe.stages, tuple(changed))
    return replace(recipe, stages=tuple(stage for stage in linked if not isinstance(stage, TrainTokenizer)))


def _widened(stage: Pretrain, folder: Folder) -> LlamaShape:
    from camelid.checkpoints import directory

    own = directory.load(Path(folder.path), check="lengths").shape
    if not isinstance(stage.start, Recipe):
        return own
    parent = shape_of(cast(Pretrain | Finetune, stage.start.trained))
    wider = {f: getattr(stage.shape, f) for f in WIDER if getattr(stage.shape, f) != getattr(parent, f)}
    return replace(own, **wider)


def missing(recipe: Recipe, asked: Asked, *, named: bool = False) -> None:
    """What a recipe at its published size needs from whoever runs it."""
    parent = recipe.parent
    based = parent is not None or isinstance(recipe.trained, Finetune)
    for stage in recipe.stages if based else ():
        option = "--data" if stage is recipe.fed else f"--data {stage.name}=FILE"
        for each in portions(getattr(stage, "data", None)):
            if isinstance(each, SelfInstruct):
                found, remedy = f"records: its teacher {each.teacher} is retired", "name a file with --data"
            elif isinstance(each, Released):
                found, remedy = f"{each.amount} of {each.name}", "name a file with --data"
                found += ", which is not part of this package"
            elif isinstance(each, Mixture):
                found, remedy = (
                    "texts, which are not published as assembled",
                    "name a file of texts, or grow --size desk",
                )
            else:
                continue
            asked.problems.add(option, f"{recipe.title} needs {found}", remedy)
    if isinstance(parent, Recipe) and not named and not grows_here(parent):  # a start that is none was told
        found = f"{recipe.title} starts from {parent.title}, which cannot be grown here"
        asked.problems.add("--start", found, "name its folder with --start")
    lacking = [stage.name for stage in recipe.stages if isinstance(getattr(stage, "data", None), Mixture)]
    if not based and lacking:
        given = " ".join("--data FILE" if name == recipe.fed.name else f"--data {name}=FILE" for name in lacking)
        asked.problems.add(
            "--data",
            f"the texts of {recipe.title} are not published as assembled",
            f"grow --size desk, or name yours for each stage: {given}; with --start FOLDER, --data FILE alone",
        )


def grows_here(recipe: Recipe) -> bool:
    """Whether every stage of a recipe and of its ancestors has data that this package generates or was supplied."""
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
    """Grow a base model, an Alpaca and an Alpaca-LoRA from nothing, offline, and show what came of it."""
    alpaca, adapters = Request(member="alpaca", size="desk"), Request(member="alpaca-lora", size="desk")
    run_request(asked, alpaca, options, False, beside=[adapters], carry="q8_0")


@click.command(cls=Command)
@click.argument("member", metavar="[MEMBER]", required=False, default="")
@click.option("--seeds", metavar="N", help="How many seeds to try (default: 3).")
@click.option("--first", metavar="SEED", help="The first of them (default: 10; recipes were chosen on 0 to 2).")
@click.option("--size", metavar="SIZE", help="desk (default) or tiny.")
@machine_options
@store_option
@json_option
@click.pass_obj
def claims(
    asked: Asked, /, member: str, seeds: str | None, first: str | None, size: str | None, as_json: bool, **options: Any
) -> None:
    """Try MEMBER's central claim: an experiment that could refute it, a control, several seeds, an honest verdict.

    Without a member: every card of the store in a table. camelid family --page shows them whole.
    """
    count = asked.whole("--seeds", seeds, 3, least=2)
    from_seed = asked.whole("--first", first, FIRST_SEED, least=0)
    scale = asked.choice("--size", size, ("desk", "tiny"), "desk")
    if member and member not in MEMBERS:
        asked.member(member, None)
    store = asked.store(options["store"])
    machine = asked.machine(options["device"], options["dtype"], options["threads"])
    asked.settle()
    from camelid.claims import cards, show_card, show_cards, try_claim

    if not member:
        found = cards(store.root / "claims")
        if as_json:
            click.echo(json.dumps({name: card.data() for name, card in found.items()}))
        else:
            show_cards(found)
        return
    assert count and from_seed is not None
    made = try_claim(member, scale, seeds=count, store=store, machine=machine, narrator=Narrator(), first=from_seed)
    if as_json:
        click.echo(json.dumps(made.data()))
    else:
        show_card(made)
