"""Two programs timed beside each other: each runs in a process of its own and works only while it has the turn.

parent                               child
Side(command)  waits for "ready" <-  Turns() once it is warm
go(seconds)                      ->  works; calls turns.tick(tokens) after each step
               [seconds, tokens] <-  when the time is over, after a whole step; then it waits for the next turn
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


class Turns:
    """The child's part. Standard output is kept for the parent; whatever else prints, prints to standard error.

    BENCH_CLOCK=processor counts this process's processor time instead of seconds: of one thread, on a busy machine.
    """

    def __init__(self, *, warm: int = 2) -> None:
        self.now = time.process_time if os.environ.get("BENCH_CLOCK") == "processor" else time.perf_counter
        self._answers = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self.warm, self.rest = warm, 0.0
        self.steps: list[tuple[float, int]] = []
        self.last = self.now()
        self.told: dict[str, Any] = {}

    def tick(self, tokens: int) -> None:
        """A step of so many real tokens has ended now."""
        now = self.now()
        if self.warm > 0:
            self.warm -= 1
            if not self.warm:
                self._wait({"ready": True, **self.told})
            return
        self.steps.append((now - self.last, tokens))
        self.last = now
        if sum(seconds for seconds, _ in self.steps) >= self.rest:
            self._wait({"steps": self.steps, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024})

    def _wait(self, answer: Mapping[str, Any]) -> None:
        self._answers.write(json.dumps(answer) + "\n")
        told = sys.stdin.readline().split()
        if not told:
            os._exit(0)
        self.rest, self.steps = float(told[0]), []
        self.last = self.now()

    def work(self, step: Callable[[], int]) -> None:
        """Steps, each of which gives its tokens, for as long as the parent lives."""
        while True:
            self.tick(step())


class Side:
    """The parent's part: a started program, ready to take turns."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name, self.began = name, time.perf_counter()
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        log = subprocess.DEVNULL if os.environ.get("BENCH_LOG") is None else None
        self.process = subprocess.Popen(command, env={**os.environ, **environment}, stderr=log, **pipes)
        self.rates: list[float] = []
        self.steps: list[tuple[float, int]] = []
        self.peak, self.started = 0, 0.0

    def ready(self) -> bool:
        """Waits until it is warm; False if it ended instead."""
        told = self._answer()
        self.started = time.perf_counter() - self.began
        return told is not None

    def go(self, seconds: float) -> bool:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        told = self._answer()
        if told is None:
            return False
        steps = [(float(spent), int(tokens)) for spent, tokens in told["steps"]]
        self.steps += steps
        self.rates.append(sum(tokens for _, tokens in steps) / sum(spent for spent, _ in steps))
        self.peak = max(self.peak, told["peak"])
        return True

    def take(self, other: Side) -> None:
        """Adds the turns that the same program had when it was started again."""
        self.rates += other.rates
        self.steps += other.steps
        self.peak = max(self.peak, other.peak)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def _answer(self) -> dict[str, Any] | None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        answer: dict[str, Any] | None = json.loads(line) if line else None
        return answer

    def row(self) -> dict[str, Any]:
        """Median, least and greatest rate of its turns, in tokens a second."""
        numbers = {"median": statistics.median(self.rates), "least": min(self.rates), "most": max(self.rates)}
        return {
            **{name: round(value, 1) for name, value in numbers.items()},
            "turns": [round(rate, 1) for rate in self.rates],
            "steps": len(self.steps),
            "peak_bytes": self.peak,
            "ready_after_s": round(self.started, 1),
        }
