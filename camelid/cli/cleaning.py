"""`camelid data dedup`, `decontaminate` and `filter`: a file without its repetitions, without what is tested on, or
without what breaks a rule."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from camelid.cli.asked import Asked, Command, json_option


@click.command(cls=Command)
@click.argument("file", metavar="FILE", required=False)
@click.option("--out", metavar="FILE", help="Where to write what is kept, as JSON lines.")
@click.option("--similarity", metavar="S", help="How near is too near, as a share of common word runs (default: 0.8).")
@click.option("--run", metavar="N", help="Words in a run (default: 5).")
@click.option("--exact", "only_exact", is_flag=True, help="Remove only texts that are equal to the byte.")
@click.option(
    "--datatrove",
    metavar="SCRIPT",
    help="Do nothing but write a datatrove script that does nearly the same on a cluster; OUT is then its folder.",
)
@json_option
@click.pass_obj
def dedup(asked: Asked, /, file: str | None, out: str | None, as_json: bool, **options: Any) -> None:
    """Remove repetitions: of texts that are equal, or nearly, the first is kept. OUT.removed.jsonl names what went."""
    path, target = asked.records("FILE", file), new_file(asked, out)
    similarity = asked.number("--similarity", options["similarity"], 0.8, least=0.3, most=1.0)
    run = asked.whole("--run", options["run"], 5)
    if options["only_exact"] and (options["similarity"] or options["run"]):
        asked.problems.add("--exact", "compares bytes", "leave out --similarity and --run")
    script = new_script(asked, options["datatrove"], path)
    if script and options["only_exact"]:
        asked.problems.add("--datatrove", "is written for near repetitions", "leave out --exact")
    asked.settle()
    assert path and target and similarity and run
    if script:
        from camelid.data.handover import dedup_script

        hand_over(path, target, script, partial(dedup_script, similarity=similarity, run=run))
        return
    from camelid.data import duplicates

    texts = texts_of(path)
    if options["only_exact"]:
        found = duplicates.exact(texts)
    else:
        found = duplicates.near(texts, similarity=similarity, run=run)
    removed = [
        {"row": r.text + 1, "repeats": r.of + 1, "similarity": round(r.similarity, 4), "kind": r.kind}
        for r in found.removed
    ]
    written(path, target, found.kept, removed, found.lines(), as_json)


def new_script(asked: Asked, /, name: str | None, path: Path | None) -> Path | None:
    """A script to be written for datatrove, which reads `path`."""
    if name is None:
        return None
    script = Path(name).expanduser()
    if script.exists():
        asked.problems.add("--datatrove", f"{script} exists", "name another, or remove it first")
    if not script.absolute().parent.is_dir():
        asked.problems.add("--datatrove", f"there is no folder {script.absolute().parent}")
    if path and path.is_dir():
        asked.problems.add("--datatrove", f"{path} is a folder", "name a file of JSON lines or Parquet")
    return script


def hand_over(path: Path, target: Path, script: Path, write: Callable[..., str]) -> None:
    """Write the script. Raises BadData for records that are no texts, which datatrove does not read."""
    from camelid.data import source
    from camelid.durable import replace_file
    from camelid.errors import BadData, Problem

    found = source.recognise(path)
    with open(path, "rb") as file:
        head = file.read(4).lstrip()
    if found != "text" or not (head == b"PAR1" or head.startswith((b"{", b"\x1f\x8b", b"\x28\xb5"))):
        remedy = "write its texts as JSON lines with a field 'text'"
        raise BadData(
            [Problem(str(path), "is not JSON lines or Parquet with a field 'text', which datatrove reads", remedy)]
        )
    folder, parquet = str(path.absolute().parent), head == b"PAR1"
    told = write(folder, path.name, str(target.absolute()), parquet=parquet)
    replace_file(script, told.encode("utf-8", "surrogateescape"))
    click.echo(f"script  {script}\nstart   pip install 'camelid[datatrove]' && python {script}")


@click.command("filter", cls=Command)
@click.argument("file", metavar="FILE", required=False)
@click.option("--out", metavar="FILE", help="Where to write what is kept, as JSON lines.")
@click.option(
    "--rules", metavar="KIND", help="prose: Gopher's rules of running text; code: RedPajama's of source files."
)
@click.option(
    "--datatrove",
    metavar="SCRIPT",
    help="Do nothing but write a datatrove script that does the same on a cluster (prose); OUT is then its folder.",
)
@json_option
@click.pass_obj
def filter_(
    asked: Asked, /, file: str | None, out: str | None, rules: str | None, datatrove: str | None, as_json: bool
) -> None:
    """Remove texts that break one of the published rules of their kind. OUT.removed.jsonl names what went, and why."""
    path, target = asked.records("FILE", file), new_file(asked, out)
    if rules is None:
        asked.problems.add("--rules", "is missing", "say prose or code")
    kind = asked.choice("--rules", rules, ("prose", "code"), "prose")
    script = new_script(asked, datatrove, path)
    if script and kind != "prose":
        asked.problems.add("--datatrove", "is written for prose, whose rules datatrove has", "leave it out")
    asked.settle()
    assert path and target
    if script:
        from camelid.data.handover import filter_script

        hand_over(path, target, script, filter_script)
        return
    from camelid.data import quality

    found = quality.filtered(texts_of(path), "code" if kind == "code" else "prose")
    removed = [{"row": broken.text + 1, "rule": broken.rule} for broken in found.removed]
    written(path, target, found.kept, removed, found.lines(), as_json)


@click.command(cls=Command)
@click.argument("file", metavar="FILE", required=False)
@click.option(
    "--against", multiple=True, metavar="FILE", help="Held-out texts or dialogues; may be given several times."
)
@click.option("--out", metavar="FILE", help="Where to write what is kept, as JSON lines.")
@click.option("--run", metavar="N", help="Words in a row that a text may not share (default: 13).")
@json_option
@click.pass_obj
def decontaminate(
    asked: Asked, /, file: str | None, against: tuple[str, ...], out: str | None, run: str | None, as_json: bool
) -> None:
    """Remove what shares a run of words with held-out items. OUT.removed.jsonl names what went, and why."""
    path, target = asked.records("FILE", file), new_file(asked, out)
    held_out = [asked.records("--against", name) for name in against]
    count = asked.whole("--run", run, 13)
    if not against:
        asked.problems.add("--against", "is missing", "name a file of held-out items")
    asked.settle()
    assert path and target and count
    from camelid.data.overlap import HeldOut

    held = HeldOut((text for items in held_out if items for text in texts_of(items)), run=count)
    found = held.clear(texts_of(path))
    removed = [{"row": r.text + 1, "item": r.item + 1, "shared": r.run} for r in found.removed]
    written(path, target, found.kept, removed, found.lines(), as_json)


def new_file(asked: Asked, /, name: str | None) -> Path | None:
    """A file to be written, in a folder that is there and where nothing stands yet."""
    if name is None:
        asked.problems.add("--out", "is missing", "name the file to write")
        return None
    path = Path(name).expanduser()
    for each in (path, removals(path)):
        if each.exists():
            asked.problems.add("--out", f"{each} exists", "name another, or remove it first")
    if not path.absolute().parent.is_dir():
        asked.problems.add("--out", f"there is no folder {path.absolute().parent}")
    return path


def removals(target: Path) -> Path:
    """Where it is told what was left out."""
    return target.with_name(target.name + ".removed.jsonl")


def texts_of(path: Path) -> Iterator[str]:
    """The text of every record: a document's own, or all that is said in a dialogue, line after line."""
    from camelid.data import source

    if source.recognise(path) == "text":
        yield from source.documents(path)
        return
    for messages in source.dialogues(path):
        yield "\n".join(part for message in messages for part in (message.content, message.input) if part)


def written(
    path: Path, target: Path, kept: Sequence[int], removed: list[dict[str, Any]], said: list[str], as_json: bool
) -> None:
    """Writes what is kept and what is not, each row as it was, and says how many there are of both."""
    from camelid.data import source
    from camelid.durable import replace_file

    chosen = set(kept)
    rows = (row.data for number, row in enumerate(source.records(path)) if number in chosen)
    replace_file(removals(target), b"".join(map(_line, removed)))
    replace_file(target, b"".join(map(_line, rows)))
    if as_json:
        counts = {"kept": len(kept), "removed": len(removed)}
        click.echo(json.dumps({**counts, "out": str(target), "removals": str(removals(target)), "said": said}))
        return
    for line in said:
        click.echo(line)
    click.echo(f"kept     {target}\nremoved  {removals(target)}")


def _line(data: Any) -> bytes:
    """A row as a JSON line. Raises BadData for what JSON cannot say, such as a date out of Parquet."""
    from camelid.errors import BadData, Problem

    try:
        text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadData([Problem("row", f"cannot be written as JSON: {error}", "convert the field to text")]) from None
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair: only its escape is UTF-8
        return json.dumps(data).encode() + b"\n"
