"""Right answers counted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """Right answers of one family of questions, or of all, with Wilson's 95 % interval of the share."""

    family: str
    correct: int
    count: int
    low: float
    high: float

    @property
    def share(self) -> float:
        return self.correct / self.count if self.count else 0.0
