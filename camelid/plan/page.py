"""A plan on the terminal."""

from __future__ import annotations

from camelid.machine import GIB
from camelid.plan.plan import Plan, StagePlan


def printed(plan: Plan) -> None:
    """The plan on standard output: a line a quantity, what is missing, what would make it fit."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    each = f"{plan.memory_bytes / plan.count / GIB:.0f} GiB" + (" each" if plan.count > 1 else "")
    console.print(f"[bold]{plan.title}[/] on {plan.count} x {plan.machine} ({each}), {plan.dtype}")
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=bool(len(plan.stages) > 1), header_style="bold")
    table.add_column("")
    for stage in plan.stages:
        table.add_column(stage.stage, justify="right")
    rows = [_rows(stage) for stage in plan.stages]
    for index, (name, _) in enumerate(rows[0]):
        table.add_row(name, *(row[index][1] for row in rows))
    console.print(table)
    for stage in plan.stages:
        for note in stage.notes:
            console.print(f"[dim]{note}[/]")
    for title, lines in (("missing", plan.missing), ("it would fit with", plan.remedies)):
        if lines:
            console.print(f"[bold]{title}[/]")
            for line in lines:
                console.print(f"  {line}", markup=False)


def _rows(stage: StagePlan) -> list[tuple[str, str]]:
    memory = stage.memory
    most = "" if stage.exact else "at most "
    hours = "not known: the rate of this machine was not measured" if stage.hours is None else _time(stage.hours)
    return [
        ("parameters", f"{stage.parameters:,}"),
        ("trained", f"{stage.trained:,} ({stage.trained / stage.parameters:.2%})"),
        ("steps", f"{stage.steps:,}" if stage.steps else "depends on the data"),
        ("tokens", f"{most}{stage.tokens:,}" if stage.tokens else "depends on the data"),
        ("training FLOPs", f"{most}{stage.flops:.3g}" if stage.flops else "depends on the data"),
        ("weights", _bytes(memory.weights)),
        ("gradients", _bytes(memory.gradients)),
        ("optimizer", _bytes(memory.optimizer)),
        (f"activations (estimate, {stage.micro_tokens:,} tokens at once)", _bytes(memory.activations)),
        ("memory per device", f"{_bytes(stage.per_device)}, {'fits' if stage.fits else 'does not fit'}"),
        ("time at 40% of the peak", hours),
    ]


def _bytes(count: int) -> str:
    return f"{count / GIB:,.1f} GiB" if count >= GIB / 10 else f"{count / 1024**2:,.1f} MiB"


def _time(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:.1f} seconds"
    if hours < 1:
        return f"{hours * 60:.0f} minutes"
    return f"{hours:,.1f} hours" if hours < 100 else f"{hours / 24:,.1f} days"
