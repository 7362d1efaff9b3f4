"""How many threads a call should take: found by trying, while it runs, for no machine tells how busy its cores are.

Threads meet many times in one step. One that has to wait for a core holds all others up, so that four threads on three
free cores can be twenty times slower than two. Results do not depend on the number, so any call may try another.
Where that was met of late, other calls that are no longer follow the number that served until they have tried for
themselves: a model that drafts is called too seldom to find out what the one that it drafts for knows.
"""

from __future__ import annotations

import math
import time

SOONEST, LATEST = 32, 512  # ours: calls between two trials; the pause doubles after each one that was in vain
CALLS, SECONDS = 8, 0.05  # ours: a trial ends after so many calls or so much time; one call alone is mostly chance
COST = 1 / 20  # ours: trials in vain take no more than this share of the time
MARGIN = 0.9  # ours: fewer threads than `most` must take less than this share of its time, for a moment proves little
CROWDED, AGO = 5.0, 30.0  # ours: `most` threads took so many times as long as the best number: others are at work,
# which is believed for so many seconds
SHARE = 1 / 16  # ours: how much of a call's time goes into what is remembered


_crowd: list[tuple[float, int, int]] = []  # when that was last met, the number that served, and the work of that call


class Pace:
    """Numbers of threads from 1 to `most`, and how many seconds calls took with each."""

    def __init__(self, most: int, *, tries: bool = True, known: int | None = None, work: int = 0) -> None:
        """`known` is what served calls of about this size; it is begun with, and the others are tried one by one, late.
        `work` says how long calls are beside others', in any unit. Without trials the number is `most` whatever was met:
        such calls are long, and their threads meet seldom."""
        self._work, self._tried = work, -math.inf
        if known is None and tries:
            known = self._met(most)
        self.most, self._known = most, known
        numbers = range(1, most + 1) if most <= 8 else (*(1 << n for n in range(most.bit_length())), most)
        self._numbers = sorted(set(numbers), reverse=True) if tries else [most]
        self._seconds: dict[int, float] = {}
        self._pause, self._calls, self._turn = SOONEST, 0, 0
        self._trial: int | None = self._numbers[0] if len(self._numbers) > 1 and known is None else None
        self._spent: list[float] = []
        self._rest = 0.0  # seconds to go before the next trial is earned
        self._warm = False

    def threads(self) -> int:
        """The number for the next call: at first each in turn, then the fastest, and now and then another for a while."""
        if self._trial is not None:
            return self._trial
        met = self._met(self.most) if len(self._numbers) > 1 else None
        return self.best if met is None else min(self.best, met)

    def took(self, threads: int, seconds: float) -> None:
        """Remembers a call; the first of all warms caches up and does not count."""
        if len(self._numbers) == 1:
            return
        if not self._warm:
            self._warm = True
        elif self._trial is not None:
            self._spent.append(seconds)
            if len(self._spent) >= CALLS or sum(self._spent) >= SECONDS:
                self._judge()
        else:
            before = self._seconds.setdefault(threads, seconds)
            self._seconds[threads] += SHARE * (seconds - before)
            self._calls += 1
            self._rest -= seconds
            if self._calls >= self._pause and self._rest <= 0:
                self._calls = 0
                self._turn += 1
                others = [number for number in self._numbers if number != threads]
                self._trial = others[(self._turn - 1) % len(others)]  # `most` before all others

    @property
    def best(self) -> int:
        """The number that has served best so far."""
        if not self._seconds:
            return self._known or self.most
        fastest = min(self._seconds, key=self._seconds.__getitem__)
        whole = self._seconds.get(self.most)
        return self.most if whole is not None and self._seconds[fastest] > MARGIN * whole else fastest

    def _judge(self) -> None:
        """Ends a trial; where some numbers were never tried, the next begins."""
        assert self._trial is not None
        before = self.best if self._seconds else None
        counted = sorted(self._spent[1:] or self._spent)  # the first call fills other caches than the one before
        self._seconds[self._trial] = counted[len(counted) // 2]
        self._tried = time.monotonic()
        self._meet_others()
        self._rest = sum(self._spent) / COST
        self._spent = []
        left = [number for number in self._numbers if number not in self._seconds] if self._known is None else []
        self._trial = left[0] if left else None
        if not left:
            self._pause = min(2 * self._pause, LATEST) if self.best == before else SOONEST

    def _meet_others(self) -> None:
        """Notes whether `most` threads have to wait for others' work, as far as that was measured."""
        if self.most in self._seconds and len(self._seconds) > 1:
            best = self.best
            crowded = self._seconds[self.most] > CROWDED * self._seconds[best]
            _crowd[:] = [(time.monotonic(), best, self._work)] if crowded else []

    def _met(self, most: int) -> int | None:
        """The number below `most` that served calls at least as long when others were met of late, after the last trial
        here; None where that is not so."""
        if not _crowd:
            return None
        when, number, work = _crowd[0]
        follows = self._work <= work and self._tried < when and time.monotonic() - when < AGO
        return number if follows and number < most else None
