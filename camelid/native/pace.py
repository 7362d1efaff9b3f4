"""How many threads a call should take: found by trying, while it runs, for no machine tells how busy its cores are.

Threads meet many times in one step. One that has to wait for a core holds all others up, so that four threads on three
free cores can be twenty times slower than two. Results do not depend on the number, so any call may try another.
"""

from __future__ import annotations

SOONEST, LATEST = 16, 1024  # ours: calls between two trials; the pause doubles after each one that was in vain
SHARE = 0.25  # ours: how much of the last call's time goes into what is remembered


class Pace:
    """Numbers of threads from 1 to `most`, and how many seconds calls took with each."""

    def __init__(self, most: int, *, tries: bool = True) -> None:
        self.most = most
        numbers = range(1, most + 1) if most <= 8 else (*(1 << n for n in range(most.bit_length())), most)
        self._numbers = sorted(set(numbers), reverse=True) if tries else [most]
        self._warm: set[int] = set()
        self._seconds: dict[int, float] = {}
        self._pause, self._calls, self._turn = SOONEST, 0, 0
        self._trial: int | None = None

    def threads(self) -> int:
        """The number for the next call: each twice at first, then the fastest, and now and then another."""
        for number in self._numbers:
            if number not in self._seconds:
                return number
        best = min(self._numbers, key=self._seconds.__getitem__)
        self._calls += 1
        if self._calls < self._pause or len(self._numbers) == 1:
            self._trial = None
            return best
        self._calls = 0
        others = [number for number in self._numbers if number != best]
        self._turn += 1
        self._trial = others[self._turn % len(others)]
        return self._trial

    def took(self, threads: int, seconds: float) -> None:
        """Remembers a call; the first with a number warms caches up and does not count."""
        if threads not in self._warm and len(self._numbers) > 1:
            self._warm.add(threads)
            return
        before = self._seconds.get(threads)
        if threads == self._trial:
            vain = seconds >= min(self._seconds.values())
            self._pause = min(2 * self._pause, LATEST) if vain else SOONEST
            self._seconds[threads] = seconds
        else:
            self._seconds[threads] = seconds if before is None else before + SHARE * (seconds - before)
