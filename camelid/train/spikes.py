"""Losses that leap: the run goes back to its last mark, passes over the batches since, and gives up after so many times.

    steps     ... 100 101 102 103 104 105 ...       a mark (a commit) at every 100th step
    losses        2.1 2.0 2.2 2.1 9.7               9.7 is a spike: more than `factor` times the median before it
    instead   weights of step 100; steps 101 to 105 passed over; on with step 106
    again     a spike at 108, before the next mark: weights of step 100 again, 106 to 108 passed over too; two spikes so far

Chowdhery et al. 2022 (PaLM), section 5.1, went back some 100 steps and passed over some 200 to 500 batches. All numbers
here are ours. What is done depends on losses and steps alone, so a run that is interrupted at any moment does the same.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from camelid.errors import CamelidError, ProblemList

LEAST = 8  # losses before a median is worth comparing with


@dataclass(frozen=True, kw_only=True)
class Spikes:
    """How spikes are met.

    budget  how many of them to pass over in the whole run before it halts
    factor  times the median of the last losses, above which a loss is a spike
    window  losses that the median is taken of
    every   steps between the marks that a run goes back to
    """

    budget: int
    factor: float = 2.0
    window: int = 64
    every: int = 100

    def check(self, where: str, problems: ProblemList) -> None:
        """Adds what makes no sense to `problems`."""
        if self.budget < 0:
            problems.add(f"{where}.budget", f"{self.budget}", "use 0 or more")
        if not 1 < self.factor < float("inf"):
            problems.add(f"{where}.factor", f"{self.factor}", "use a number above 1")
        if self.window < LEAST:
            problems.add(f"{where}.window", f"{self.window} losses", f"use {LEAST} or more")
        if self.every < 1:
            problems.add(f"{where}.every", f"{self.every} steps", "use 1 or more")

    def mark(self, step: int) -> int:
        """The last mark at or before so many steps."""
        return step // self.every * self.every


class Spiked(CamelidError):
    """A step was refused because its loss leapt. Weights and moments are those of the step before."""

    def __init__(self, step: int, steps: int, loss: float, usual: float) -> None:
        self.step, self.loss, self.usual = step, loss, usual
        self.words = f"the loss leapt to {loss:.4g} from {usual:.4g}"
        super().__init__(
            f"step {step + 1} of {steps}: {self.words}; nothing was applied, and no spike more was to be passed over. "
            "The journal names each; lower the learning rate, look at these steps' data, or allow more with --spikes"
        )


class Watch:
    """The last losses of a run, and whether the next one leaps."""

    def __init__(self, spikes: Spikes, losses: Iterable[float | None] = ()) -> None:
        self.spikes = spikes
        self.recent: deque[float] = deque((loss for loss in losses if loss is not None), maxlen=spikes.window)

    def usual(self, loss: float) -> float | None:
        """The median of the last losses where `loss` leaps above it, else None; the loss is then one of the last."""
        if len(self.recent) >= LEAST:
            usual = statistics.median(self.recent)
            if loss > self.spikes.factor * usual:
                return usual
        self.recent.append(loss)
        return None
