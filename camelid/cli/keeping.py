"""convert, data, doctor: what keeps models and data in order."""

from __future__ import annotations

import json
import platform
import shutil
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import click

import camelid
from camelid.cli.asked import Asked, Command, json_option, store_option
from camelid.cli.cleaning import decontaminate, dedup, filter_
from camelid.durable import verify
from camelid.errors import BadFile, UsageError
from camelid.machine import GIB, SMALL, Machine, describe, detect, divided, hands
from camelid.native.library import state as native_state
from camelid.quantize.forms import FLOATS, WRITTEN
from camelid.store import Store

FORMATS = ("hf", "meta", "gguf")


@click.command(cls=Command)
@click.argument("source", metavar="SRC", required=False)
@click.argument("target", metavar="DST", required=False)
@click.option("--to", "form", metavar="hf|meta|gguf", help="Hugging Face's layout, Meta's, or one GGUF file.")
@click.option(
    "--type",
    "kind",
    metavar="TYPE",
    help="f32, f16, bf16; for GGUF also q8_0, q6_k, q4_k_m, q4_0 (default: as stored).",
)
@click.option("--context", metavar="N", help="From Meta's layout: the tokens that the weights were trained with.")
@click.option("--anyway", is_flag=True, help="Start even where memory does not suffice.")
@store_option
@click.pass_obj
def convert(asked: Asked, /, source: str | None, target: str | None, store: str | None, **options: Any) -> None:
    """Rewrite a model in another format, every tensor bit for bit unless --type says otherwise.

    SRC is a folder, a GGUF file or a grown member.
    """
    if options["form"] is None:
        asked.problems.add("--to", "is missing", "say --to hf, --to meta or --to gguf")
    wanted = asked.choice("--to", options["form"], FORMATS, "hf")
    types = WRITTEN if wanted == "gguf" else FLOATS
    kind = asked.choice("--type", options["kind"], types, "") or None
    context = asked.whole("--context", options["context"], None)
    folder = asked.model(source, asked.store(store))
    if target is not None and Path(target).expanduser().exists():
        asked.problems.add("DST", f"{target} exists", "name something that does not exist yet")
    if target is not None and options["form"] is not None:
        (asked.gguf if wanted == "gguf" else asked.no_gguf)("DST", target)
    asked.settle()
    assert target is not None
    from camelid.checkpoints import directory
    from camelid.checkpoints.convert import Format, format_of
    from camelid.checkpoints.convert import convert as rewrite
    from camelid.cli.memory import check_converting

    if format_of(folder) in ("hf", "gguf"):
        check_converting(directory.load(folder, check="lengths"), detect("cpu"), anyway=options["anyway"])
    try:
        made = rewrite(folder, Path(target).expanduser(), to=cast(Format, wanted), type=kind, context=context)
    except UsageError as error:
        options_of = {"to": "--to", "type": "--type", "context": "--context"}
        raise UsageError([replace(p, where=options_of.get(p.where, p.where)) for p in error.problems]) from None
    click.echo(str(made))
    if wanted == "meta":  # opened again only by converting it back; the certificate goes with it
        return
    from camelid.cli.measuring import recheck

    checked = recheck(made, detect("cpu"))
    click.echo("\n".join(checked.lines), err=True)
    if not checked.holds:
        click.get_current_context().exit(1)


@click.group(name="data")
def data() -> None:
    """Look at a data set as the model will see it, and clear it of what should not be there."""


data.add_command(dedup)
data.add_command(decontaminate)
data.add_command(filter_)


@data.command(cls=Command)
@click.argument("file", metavar="FILE", required=False)
@click.option("--member", metavar="MEMBER", help="Whose template and lengths (default: alpaca).")
@click.option("--model", metavar="MODEL", help="Whose tokenizer: a folder, a tokenizer file, or a grown member.")
@click.option("--length", metavar="N", help="The longest sequence in tokens (default: the recipe's).")
@click.option("--show", "count", metavar="N", help="How many samples to show (default: 3).")
@click.option("--bad-rows", metavar="stop|skip", help="What to do with rows that cannot be used (default: stop).")
@store_option
@json_option
@click.pass_obj
def inspect(asked: Asked, /, file: str | None, as_json: bool, **options: Any) -> None:
    """Render samples of FILE through a member's template and count tokens, truncations and the supervised share."""
    path = asked.records("FILE", file)
    found = asked.member(options["member"] or "alpaca", None)
    length = asked.whole("--length", options["length"], None, least=2)
    count = asked.whole("--show", options["count"], 3, least=0)
    bad_rows = asked.choice("--bad-rows", options["bad_rows"], ("stop", "skip"), "stop")
    store = asked.store(options["store"])
    named = options["model"]
    if named is None:
        asked.problems.add("--model", "is missing", "name a model folder, a tokenizer file or a grown member")
    where = tokenizer_path(asked, named, store)
    asked.settle()
    assert found and path and count is not None
    from camelid.cli.inspection import inspected

    inspected(path, found[1], where, length=length, samples=count, bad_rows=bad_rows, as_json=as_json)


def tokenizer_path(asked: Asked, /, named: str | None, store: Store) -> Path:
    """A tokenizer file, a model folder or GGUF file, or the folder of a grown member."""
    if named is not None and Path(named).expanduser().is_file():
        return Path(named).expanduser()
    return asked.model(named, store)


@click.command(cls=Command)
@store_option
@json_option
@click.pass_obj
def doctor(asked: Asked, /, store: str | None, as_json: bool) -> None:
    """What this machine, this installation and the store are like; exit code 1 if something is wrong."""
    place = asked.store(store)
    asked.settle()
    facts, faults = examined(place)
    if as_json:
        click.echo(json.dumps({"facts": facts, "faults": faults}))
    else:
        for name, fact in facts.items():
            for number, line in enumerate(fact.split(", ") if name == "grown" else [fact]):
                click.echo(f"{name if number == 0 else '':<14} {line}")
        for fault in faults:
            click.echo(f"wrong          {fault}")
        click.echo("all well" if not faults else f"{len(faults)} thing{'s' * (len(faults) != 1)} wrong")
    if faults:
        click.get_current_context().exit(1)


def examined(store: Store) -> tuple[dict[str, str], list[str]]:
    """Facts by name, and everything that is wrong, each with its remedy."""
    faults: list[str] = []
    facts = {
        "camelid": camelid.__version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "machine": describe(),
        "training": trained_on(detect()),
    }
    for package in ("torch", "safetensors", "sentencepiece", "tokenizers", "tiktoken", "pyarrow"):
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            faults.append(f"{package} is not installed; run make setup")
    faults += _torch(facts)
    facts["native"] = native_state()
    facts["constraints"] = _constraints()
    facts["store"] = f"{store.root}, {_room(store.root)}"
    models = store.models() if store.root.exists() else []
    facts["grown"] = ", ".join(f"{grown.title} {grown.path.name}" for grown in models) or "nothing yet: camelid demo"
    for path in store.entries():
        try:
            verify(path)
        except BadFile as error:
            faults.append(f"{error}; remove {path} and grow it again")
    return facts, faults


def _constraints() -> str:
    """What bounds answers to a schema, expression or grammar."""
    try:
        return f"llguidance {metadata.version('llguidance')}"
    except metadata.PackageNotFoundError:
        return "none: --json-schema, --regex and --grammar need pip install camelid[constraints]"


def trained_on(machine: Machine) -> str:
    """Who computes when a model is trained here without further wishes."""
    small, large = hands(divided(machine, SMALL)), hands(divided(machine, SMALL + 1))
    return large if small == large else f"{small} up to {SMALL // 10**6}M weights, else {large}"


def _torch(facts: dict[str, str]) -> list[str]:
    """PyTorch itself: does it import, multiply, and see a GPU."""
    try:
        import torch

        threads = torch.get_num_threads()
        facts["arithmetic"] = f"{threads} thread{'s' * (threads != 1)}, {torch.backends.cpu.get_cpu_capability()}"
        facts["gpu"] = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
        if float(torch.ones(3) @ torch.ones(3)) != 3.0:
            return ["PyTorch multiplies wrongly: install it again with make clean setup"]
    except (ImportError, OSError, RuntimeError) as error:
        return [f"PyTorch does not work ({error}); install it again with make clean setup"]
    return []


def _room(path: Path) -> str:
    while not path.exists():
        path = path.parent
    return f"{shutil.disk_usage(path).free / GIB:.0f} GiB free"


__all__ = ["convert", "data", "doctor"]
