"""What a person reads when growing has ended: members, scores side by side, answers, where things lie, what to do next."""

from __future__ import annotations

from camelid.report import Sample, amount
from camelid.run import Outcome
from camelid.store import Store


def tell(outcome: Outcome, store: Store) -> None:
    """The end of `camelid grow` and `camelid demo`, on standard output."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    console.print()
    for made in (*outcome.made, *outcome.beside):
        how = f"grown in {made.seconds:.0f} s" if made.fresh else "was in the store"
        console.print(f"[bold]{made.title}[/] {made.stage.name}: {how}  [dim]{made.path}[/]", soft_wrap=True)
    if outcome.scores:
        console.print("\nheld-out instructions answered rightly")
        _scores(outcome)
    for sample in outcome.samples:
        _sample(sample)
    console.print(f"\nreport   {outcome.page}\nmodel    {outcome.model}", markup=False)
    if outcome.carried is not None:
        size = f"{outcome.carried.stat().st_size / 1e6:.1f} MB, opens in llama.cpp"
        console.print(f"file     {outcome.carried}  [dim]{size}[/]")
    console.print(f"run      {outcome.made[-1].run}", markup=False)
    console.print("\n[bold]go on from here[/]")
    wide = max(len(what) for what, _ in outcome.commands)
    for what, command in outcome.commands:
        console.print(f"  {what:<{wide}}  {command}", markup=False)
    console.print(
        f"\n[dim]{outcome.seconds:.0f} s in all, {amount(outcome.tokens)} tokens seen by what was grown now[/]"
    )


def _scores(outcome: Outcome) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("of", justify="right")
    for title, _ in outcome.scores:
        table.add_column(title, justify="right")
    for rows in zip(*(scores for _, scores in outcome.scores), strict=True):
        shares = [f"{row.share:.1%}" for row in rows]
        table.add_row(rows[0].family, str(rows[0].count), *shares, style="bold" if rows[0].family == "all" else "")
    Console(highlight=False).print(table)


def _sample(sample: Sample) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"\n[bold]asked[/]   {_line(sample.question)}")
    console.print(f"[dim]wanted  {_line(sample.wanted)}[/]")
    wide = max(len(title) for title, _, _ in sample.answers)
    for title, answer, right in sample.answers:
        mark = "[green]right[/]" if right else "[red]wrong[/]"
        console.print(f"{title:<{wide}}  {mark}  {_line(answer)}")


def _line(text: str) -> str:
    from rich.markup import escape

    shown = text.replace("\n", " ⏎ ")
    return escape(shown if len(shown) <= 160 else shown[:157] + "...")
