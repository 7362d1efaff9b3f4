"""What a run tells on standard error: live progress where a person watches, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_EVERY = 15.0  # seconds between progress lines where no person watches


class Report(Protocol):
    """Called as work goes on: how much is done, and a few words on how it goes."""

    def __call__(self, done: float, note: str = "") -> None: ...


class Narrator:
    """Tells a person what happens. `quiet` keeps all but warnings to itself."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet

    @property
    def console(self) -> Console:
        from rich.console import Console

        return Console(stderr=True, highlight=False)

    def say(self, text: str) -> None:
        """One line for whoever watches."""
        if not self.quiet:
            self.console.print(text, soft_wrap=True)

    def warn(self, text: str) -> None:
        """One line that must be seen."""
        self.console.print("warning", text, style="yellow", soft_wrap=True, markup=False)

    @contextmanager
    def progress(self, title: str, total: float, unit: str = "steps") -> Iterator[Report]:
        """A bar on a terminal, a line every fifteen seconds elsewhere; yields the function to call as work goes on."""
        if self.quiet:
            yield lambda done, note="": None
        elif sys.stderr.isatty():
            with self._bar(title, total) as report:
                yield report
        else:
            yield _plain(title, total, unit)

    @contextmanager
    def _bar(self, title: str, total: float) -> Iterator[Report]:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description:<24}"),
            BarColumn(bar_width=28),
            TextColumn("{task.percentage:>4.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self.console, transient=False) as bar:
            task = bar.add_task(title, total=total, note="")

            def report(done: float, note: str = "") -> None:
                bar.update(task, completed=done, note=note)

            yield report


def _plain(title: str, total: float, unit: str) -> Report:
    last = time.monotonic()

    def report(done: float, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if done >= total or now - last >= PLAIN_EVERY:
            last = now
            print(f"{title}: {done:.0f} of {total:.0f} {unit} {note}".rstrip(), file=sys.stderr, flush=True)

    return report
