"""A plan on the terminal."""

from __future__ import annotations

from camelid.machine import GIB
from camelid.plan.plan import Plan, StagePlan

KINDS = ("--micro-tokens", "--count", "--device")  # of several that would do, the first is enough


def printed(plan: Plan) -> None:
    """The plan on standard output: a line a quantity, what is missing, what would make it fit."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    each = f"{plan.memory_bytes / plan.count / GIB:.0f} GiB" + (" each" if plan.count > 1 else "")
    name, _, told = plan.machine.removesuffix(")").partition(" (")
    how = f"{plan.dtype}, {plan.layout}" + (", recomputing activations" if plan.recompute else "")
    console.print(f"[bold]{plan.title}[/] on {plan.count} x {name} ({', '.join([told] * bool(told) + [each])}), {how}")
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=bool(len(plan.stages) > 1), header_style="bold")
    table.add_column("")
    for stage in plan.stages:
        table.add_column(stage.stage, justify="right")
    rows = [_rows(plan, stage) for stage in plan.stages]
    for index, (name, _) in enumerate(rows[0]):
        table.add_row(name, *(row[index][1] for row in rows))
    console.print(table)
    for stage in plan.stages:
        for note in stage.notes:
            console.print(f"[dim]{note}[/]")
    for title, lines in (("missing", plan.missing), ("it would fit with any one of", first_of_each(plan.remedies))):
        if lines:
            console.print(f"[bold]{title}[/]")
            for line in lines:
                console.print(f"  {line}", markup=False)


def first_of_each(remedies: tuple[str, ...]) -> tuple[str, ...]:
    """The remedies, but of those that differ only in a number the first alone, which is the cheapest."""
    kept: dict[str, str] = {}
    for line in remedies:
        kind = next((kind for kind in KINDS if line.startswith(kind)), line)
        kept.setdefault(kind, line)
    return tuple(kept.values())


def _rows(plan: Plan, stage: StagePlan) -> list[tuple[str, str]]:
    memory = stage.memory
    most = "" if stage.exact else "at most "
    unknown = "depends on the data" if stage.tokens_per_second else "rate not measured"
    speed = f"{stage.tokens_per_second:,.0f}" if stage.tokens_per_second else unknown
    hours = most + _time(stage.hours) if stage.hours else unknown
    return [
        ("parameters", f"{stage.parameters:,}"),
        ("trained", f"{stage.trained:,} ({stage.trained / stage.parameters:.2%})"),
        ("steps", f"{stage.steps:,}" if stage.steps else "depends on the data"),
        ("tokens", f"{most}{stage.tokens:,}" if stage.tokens else "depends on the data"),
        ("training FLOPs", f"{most}{stage.flops:.3g}" if stage.flops else "depends on the data"),
        ("weights", _bytes(memory.weights) + (f", frozen ones in {stage.base}" if stage.base else "")),
        ("gradients", _bytes(memory.gradients)),
        ("optimizer", _bytes(memory.optimizer)),
        (f"activations ({stage.micro_tokens:,} tokens at once)", _bytes(memory.activations)),
        ("logits and their gradient", _bytes(memory.logits)),
        *([("gathered from other devices", _bytes(memory.gathered))] if plan.count > 1 else []),
        ("memory per device, at most", f"{_bytes(stage.per_device)}, {'fits' if stage.fits else 'does not fit'}"),
        ("cache of one full text", _bytes(stage.cache)),
        ("tokens per second", speed),
        ("a step", most + _time(stage.step_seconds / 3600) if stage.step_seconds else unknown),
        (f"time at {plan.utilisation:.0%} of the peak", hours),
        ("device-hours", f"{most}{stage.device_hours:,.0f}" if stage.device_hours else unknown),
    ]


def _bytes(count: int) -> str:
    return f"{count / GIB:,.1f} GiB" if count >= GIB / 10 else f"{count / 1024**2:,.1f} MiB"


def _time(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:.1f} seconds"
    if hours < 1:
        return f"{hours * 60:.0f} minutes"
    return f"{hours:,.1f} hours" if hours < 100 else f"{hours / 24:,.1f} days"
