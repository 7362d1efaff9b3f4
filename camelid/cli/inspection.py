"""`camelid data inspect`: a data set through a template, counted and shown."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import click

from camelid.cli.talking import load_tokenizer
from camelid.data.cache import from_dialogues
from camelid.data.corpus import Corpus, Report
from camelid.data.inspect import coloured, counts, plain, sample
from camelid.frozen import to_data
from camelid.recipe import Finetune, Recipe
from camelid.tokenizers.protocol import Tokenizer


def inspected(
    path: Path, recipe: Recipe, where: Path, *, length: int | None, samples: int, bad_rows: str, as_json: bool
) -> None:
    """Counts and samples of a file of dialogues on standard output; nothing is kept."""
    stage = recipe.trained
    if not isinstance(stage, Finetune):
        raise click.UsageError(f"{recipe.title} is trained on plain text, which has no template to look through")
    tokenizer = load_tokenizer(where)
    with tempfile.TemporaryDirectory(prefix="camelid-") as scratch:
        corpus, report = from_dialogues(
            path,
            stage.prompt,
            tokenizer,
            Path(scratch),
            learn=stage.learn,
            length=length or stage.length,
            over_length=stage.over_length,
            fields=stage.fields,
            bad_rows="skip" if bad_rows == "skip" else "stop",
        )
        if as_json:
            click.echo(json.dumps({"counts": to_data(counts(corpus)), "report": to_data(report)}))
        else:
            _show(corpus, report, tokenizer, samples, length or stage.length, recipe)


def _show(corpus: Corpus, report: Report, tokenizer: Tokenizer, samples: int, length: int, recipe: Recipe) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    found = counts(corpus)
    console.print(f"[bold]{report.rows:,}[/] rows through the template of {recipe.title}, at most {length} tokens each")
    console.print(
        f"{found.sequences:,} sequences kept, {found.tokens:,} tokens, {found.supervised:,} supervised ({found.share:.1%})"
    )
    console.print(f"lengths: shortest {found.shortest}, median {found.median:g}, longest {found.longest}")
    most = max((count for _, _, count in found.histogram), default=1)
    for low, high, count in found.histogram:
        console.print(f"  {low:>6}-{high:<6} {count:>8,} {'█' * round(40 * count / most)}")
    for line in report.lines():
        console.print(line, style="yellow", markup=False)
    for index in range(min(samples, len(corpus))):
        place = index * max(1, len(corpus) // max(1, samples))
        console.print(f"\n[bold]sequence {place + 1}[/]  [dim]context[/] [bold green]learned[/] [reverse]control[/]")
        shown = sample(corpus, place, tokenizer)
        console.print(coloured(shown) if console.is_terminal else plain(shown), markup=False)
