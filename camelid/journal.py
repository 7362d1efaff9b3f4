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
    """Tells a person what happens. `quiet` keeps all but warnings to itself, without `warns` these too."""

    def __init__(self, *, quiet: bool = False, warns: bool = True) -> None:
        self.quiet, self.warns = quiet, warns

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
        if self.warns:
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
        from rich.progress import Progress, ProgressColumn, Task
        from rich.text import Text

        console = self.console

        class Line(ProgressColumn):
            """Everything in one line that the window has room for; the window may change while it runs."""

            def render(self, task: Task) -> Text:
                share = min(1.0, task.completed / total) if total else 1.0
                solid = "━" if console.encoding.startswith("utf") else "="
                shown = fitting(
                    task.description,
                    share,
                    task.elapsed or 0.0,
                    task.time_remaining,
                    str(task.fields["note"]),
                    width=console.width - 1,
                    solid=solid,
                )
                return Text(shown, no_wrap=True, overflow="crop")

        with Progress(Line(), console=console, transient=False) as bar:
            task = bar.add_task(title, total=total, note="")

            def report(done: float, note: str = "") -> None:
                bar.update(task, completed=done, note=note)

            yield report


BAR = 20  # places of a bar where there is room for one


def fitting(
    title: str, share: float, elapsed: float, left: float | None, note: str, *, width: int, solid: str = "━"
) -> str:
    """How far the work is in at most `width` places: what matters least goes first.

    In order of worth: percent, the title, time left, the loss, what else the note tells, time so far, a bar.
    """
    parts = [part.strip() for part in note.split(", ")] if note else []
    loss = [part for part in parts if part.startswith("loss")]
    ahead = f"{clock(left)} left" if left is not None else ""
    bar, last = solid * round(BAR * share), (title.split() or [""])[-1]
    candidates = (
        [title, f"{bar:<{BAR}}", f"{share:>4.0%}", clock(elapsed), ahead, *parts],
        [title, f"{share:>4.0%}", clock(elapsed), ahead, *parts],
        [title, f"{share:>4.0%}", ahead, *parts],
        [title, f"{share:>4.0%}", ahead, *loss],
        [last, f"{share:>4.0%}", ahead, *loss],
        [last, f"{share:>4.0%}", ahead],
        [f"{share:.0%}"],
    )
    lines = ["  ".join(part for part in parts if part) for parts in candidates]
    return next((line for line in lines if len(line) <= width), lines[-1][: max(0, width)])


def clock(seconds: float) -> str:
    """Hours, minutes and seconds as a person reads them: 0:07, 12:34, 1:02:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _plain(title: str, total: float, unit: str) -> Report:
    """Lines for a pipe or a log file, each whole in itself; nothing is drawn over."""
    begun = last = time.monotonic()

    def report(done: float, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if done >= total or now - last >= PLAIN_EVERY:
            last = now
            far = f"{done / total:.0%}" if unit == "%" and total else f"{done:.0f} of {total:.0f} {unit}"
            spent = now - begun
            times = [f"{clock(spent)} so far"]
            if 0 < done < total:
                times.append(f"{clock(spent * (total - done) / done)} left")
            print(f"{title}: {', '.join([far, *times, *([note] if note else [])])}", file=sys.stderr, flush=True)

    return report
