"""How sure a measured number is: intervals for shares, for means over seeds, and for differences of pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

from camelid.errors import Problem, UsageError
from camelid.randomness import numpy_generator

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its confidence interval, in the unit of what was measured."""

    estimate: float
    low: float
    high: float
    level: float = LEVEL

    def __str__(self) -> str:
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def data(self) -> dict[str, float]:
        """The same as JSON."""
        return {"estimate": self.estimate, "low": self.low, "high": self.high, "level": self.level}


def wilson(correct: int, count: int, *, level: float = LEVEL) -> Interval:
    """The share correct / count with Wilson's score interval (Wilson 1927), which stays within 0..1 even at its ends.

    Raises UsageError where nothing was counted: a share of nothing is no number.
    """
    if not (0 <= correct <= count and count):
        raise UsageError([Problem("correct", f"{correct} of {count}", "count at least one item, and none twice")])
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share, scale = correct / count, 1 + z * z / count
    middle = (share + z * z / (2 * count)) / scale
    reach = z / scale * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    low = 0.0 if correct == 0 else max(0.0, middle - reach)
    high = 1.0 if correct == count else min(1.0, middle + reach)
    return Interval(share, low, high, level)


def over_seeds(values: Sequence[float], *, level: float = LEVEL) -> Interval:
    """The mean of one result per seed with Student's t interval: few seeds make it wide, as they should.

    Raises UsageError for fewer than two values: one run says nothing about the next.
    """
    if len(values) < 2:
        raise UsageError([Problem("seeds", f"{len(values)} result", "run at least two seeds, better three")])
    mean = fmean(values)
    reach = student(0.5 + level / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - reach, mean + reach, level)


def paired(treated: Sequence[float], control: Sequence[float], *, level: float = LEVEL) -> Interval:
    """The mean difference treated - control over seeds, each pair from one seed, with Student's t interval."""
    if len(treated) != len(control):
        found = f"{len(treated)} results against {len(control)} of the control"
        raise UsageError([Problem("seeds", found, "run both with the same seeds")])
    return over_seeds([ours - theirs for ours, theirs in zip(treated, control, strict=True)], level=level)


def bootstrap(values: Sequence[float], *, seed: int = 0, draws: int = 2000, level: float = LEVEL) -> Interval:
    """The mean with its percentile bootstrap interval (Efron 1979): for many values of one run, as items of a test."""
    import numpy

    if not values:
        raise UsageError([Problem("values", "none", "a mean needs at least one")])
    sample = numpy.asarray(values, dtype=numpy.float64)
    generator = numpy_generator(seed, "bootstrap", draws)
    means = [sample[generator.integers(0, len(sample), len(sample))].mean() for _ in range(draws)]
    low, high = numpy.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(float(sample.mean()), float(low), float(high), level)


def student(probability: float, freedom: int) -> float:
    """The quantile of Student's t distribution, by bisection of its distribution function."""
    if not (0 < probability < 1 and freedom >= 1):
        found = f"probability {probability}, {freedom} degrees of freedom"
        raise UsageError([Problem("student", found, "give 0 < probability < 1 and at least 1 degree")])
    if probability < 0.5:
        return -student(1 - probability, freedom)
    low, high = 0.0, 1.0
    while _student_below(high, freedom) < probability:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_below(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def _student_below(t: float, freedom: int) -> float:
    """P(T <= t) for t >= 0: the finite sums of Abramowitz and Stegun 1964, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = total = 0.0
    if freedom > 1:
        term = total = cosine if odd else 1.0
    for k in range(3 if odd else 2, freedom - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    within = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return (1 + within) / 2
