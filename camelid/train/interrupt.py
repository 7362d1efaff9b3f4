"""SIGTERM and SIGINT while training: the first asks for a commit after the running step, the second ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from camelid.errors import CamelidError
from camelid.ranks import launched

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(CamelidError):
    """The run was asked to stop and did, committed. `exit_code`: 128 + the signal, 143 for SIGTERM, 130 for SIGINT."""

    def __init__(self, number: int, directory: Path, step: int, steps: int) -> None:
        self.signal, self.step = number, step
        self.exit_code = 128 + number  # type: ignore[misc]
        name = signal.Signals(number).name
        super().__init__(f"{directory}: stopped by {name} after step {step} of {steps}, committed; resume it to go on")


class Request:
    """Whether someone asked the run to stop: `signal` is the first signal's number, or None."""

    signal: int | None = None


@contextmanager
def listening() -> Iterator[Request]:
    """Inside, the first SIGTERM or SIGINT is only noted; from then on either ends the process as if nobody listened.

    Not so under torchrun, which passes on what it hears: where it is asked to stop together with its ranks, as by a service
    manager, each of them hears that twice. It kills by itself those that are not through in time.

    Handlers are put back on leaving. Outside the main thread, where Python cannot listen, nothing changes.
    """
    request = Request()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    alone = launched().world == 1

    def note(number: int, frame: FrameType | None) -> None:
        request.signal = request.signal or number
        for each in SIGNALS if alone else ():
            signal.signal(each, signal.SIG_DFL)

    before: dict[signal.Signals, Any] = {each: signal.signal(each, note) for each in SIGNALS}
    try:
        yield request
    finally:
        for each, handler in before.items():
            signal.signal(each, handler if handler is not None else signal.SIG_DFL)
