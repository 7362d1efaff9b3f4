"""The planner beside print and beside runs of our own, as a page: docs/planner.md is this text, and a test says so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from camelid.plan.published import MEMORIES, NOT_PREDICTED, TIMES, TOLERANCE, Printed, Timed
from camelid.recipe import M

GOAL = 0.10  # of our own runs


def markdown(own: Mapping[str, Any]) -> str:
    """The page, from the rows of published.py and the results file of benchmarks/memory_of_runs.py."""
    return "\n".join([*_head(), *_times(), *_memories(), *_left_out(), *_own(own)]) + "\n"


def _head() -> Iterator[str]:
    rows = (*TIMES, *MEMORIES)
    within = sum(abs(row.error) <= TOLERANCE for row in rows)
    yield "# The planner, checked against print"
    yield ""
    yield "`camelid plan` counts memory and time from shapes (camelid/models/count.py, camelid/plan/training.py). Here every"
    yield "prediction stands beside a published figure. This page is generated: `python -m benchmarks.planner_page`."
    yield ""
    yield f"{within} of {len(rows)} figures lie within {TOLERANCE:.0%}; the others are marked, each with what we think is the"
    yield "reason. Time needs a utilisation: the column *given* says where it was taken from, and a duration is only as good as"
    yield "that. Rows whose utilisation belongs to the same run check how operations are counted, and little else."
    yield ""


def _times() -> Iterator[str]:
    yield "## Time"
    yield ""
    yield "| run | print | predicted | off by | given | source |"
    yield "|---|---:|---:|---:|---|---|"
    for row in TIMES:
        assert isinstance(row, Timed)
        given = row.given + (f"; {row.assumed}" if row.assumed else "")
        yield f"| {row.run} | {_figures(row)} | {given} | {row.source} |"
    yield from _misses(TIMES)


def _memories() -> Iterator[str]:
    yield "## Memory of one device"
    yield ""
    yield "| run | print | predicted | off by | assumed | source |"
    yield "|---|---:|---:|---:|---|---|"
    for row in MEMORIES:
        yield f"| {row.run} | {_figures(row)} | {row.assumed} | {row.source} |"
    yield from _misses(MEMORIES)


def _misses(rows: Iterable[Printed]) -> Iterator[str]:
    yield ""
    yield "Misses:"
    yield ""
    for row in rows:
        if row.miss:
            yield f"- {row.run} ({_figure(row.value, row.unit)}): {row.miss}."
    yield ""


def _left_out() -> Iterator[str]:
    yield "Not predicted:"
    yield ""
    for line in NOT_PREDICTED:
        yield f"- {line}"
    yield ""


def _own(own: Mapping[str, Any]) -> Iterator[str]:
    runs = own["runs"]
    errors = [run["predicted"] / run["held"]["peak"] - 1 for run in runs.values()]
    beyond = [run["default"]["peak"] / run["held"]["peak"] - 1 for run in runs.values()]
    within = sum(abs(error) <= GOAL for error in errors)
    yield "## Memory of our own runs"
    yield ""
    yield "`python -m benchmarks.memory_of_runs`: camelid's own loop, each run in a process of its own, how far its resident"
    yield f"memory rises. {own['machine']}; {own['threads']} threads, PyTorch {own['torch']}, {own['date']}."
    yield f"{within} of {len(runs)} predictions lie within {GOAL:.0%} of what a run holds. *As glibc keeps it* is the same run with"
    yield f"the system's default allocator, which keeps freed blocks: {min(beyond):.0%} to {max(beyond):.0%} more on this machine."
    yield ""
    yield "| run | predicted, MiB | held, MiB | off by | as glibc keeps it, MiB |"
    yield "|---|---:|---:|---:|---:|"
    for (name, run), error in zip(runs.items(), errors, strict=True):
        said, held, kept = (
            bytes / (1 << 20) for bytes in (run["predicted"], run["held"]["peak"], run["default"]["peak"])
        )
        mark = f"{error:+.1%}" if abs(error) <= GOAL else f"**{error:+.1%}**"
        yield f"| {name} | {said:,.0f} | {held:,.0f} | {mark} | {kept:,.0f} |"


def _figures(row: Printed) -> str:
    return f"{_figure(row.value, row.unit)} | {_figure(row.predicted(), row.unit)} | {_off(row)}"


def _off(row: Printed) -> str:
    return f"{row.error:+.1%}" if abs(row.error) <= TOLERANCE else f"**{row.error:+.1%}**"


def _figure(value: float, unit: str) -> str:
    if value >= 1e15:
        return f"{value:.3g} {unit}"
    if value >= 10 * M:
        return f"{value / M:,.1f} M {unit}"
    return f"{value:,.0f} {unit}" if value >= 1000 else f"{value:.3g} {unit}"
