"""Where an answer ends: texts that stop it, found alike however the answer is cut into pieces."""

from __future__ import annotations

from collections.abc import Iterable


class StopTexts:
    """Lets text through until one of `stops` is complete, holding back what may be the beginning of one.

    The stop that is complete first wins; of those that end together, the longest. The text before it is the answer.
    That rule looks at characters only, so what comes out joined is the same for every way of cutting the text:

        stops = ["\\nUSER:"]      pushed   "yes\\nUS"   "A is big"   "\\nUSER: so"
                                 let out  "yes"       "\\nUSA is big"   ""            stopped = "\\nUSER:"
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self.stops = tuple(dict.fromkeys(stops))
        self.stopped: str | None = None
        self._held = ""

    def push(self, text: str) -> str:
        """The text that may now be shown; nothing more once stopped."""
        if self.stopped is not None or not text:
            return ""
        if not self.stops:
            return text
        waiting = self._held + text
        if found := _first(waiting, self.stops):
            _end, start, self.stopped = found
            self._held = ""
            return waiting[:start]
        keep = self._beginning(waiting)
        self._held = waiting[len(waiting) - keep :]
        return waiting[: len(waiting) - keep]

    def finish(self) -> str:
        """What was held back, when no more text comes."""
        held, self._held = self._held, ""
        return held

    def _beginning(self, text: str) -> int:
        """Characters at the end of the text that are the beginning of a stop."""
        longest = max(len(stop) for stop in self.stops) - 1
        tails = range(min(longest, len(text)), 0, -1)
        return next((n for n in tails if any(stop.startswith(text[-n:]) for stop in self.stops)), 0)


def cut(text: str, stops: Iterable[str]) -> tuple[str, str | None]:
    """A whole text up to the stop that is complete first, and that stop; None where no stop occurs."""
    if found := _first(text, tuple(stops)):
        return text[: found[1]], found[2]
    return text, None


def _first(text: str, stops: tuple[str, ...]) -> tuple[int, int, str] | None:
    """End, start and text of the stop that is complete first; the longest of those that end together."""
    found = ((start + len(stop), start, stop) for stop in stops if (start := text.find(stop)) >= 0)
    return min(found, default=None)
