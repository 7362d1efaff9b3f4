from __future__ import annotations

import math
from statistics import NormalDist

import pytest

from camelid.errors import UsageError
from camelid.evaluate.interval import bootstrap, over_seeds, paired, student, wilson
from camelid.randomness import numpy_generator
from tests.conftest import size


@pytest.mark.parametrize(
    ("probability", "freedom", "printed"),
    [(0.975, 1, 12.706), (0.975, 2, 4.303), (0.975, 3, 3.182), (0.975, 4, 2.776), (0.975, 9, 2.262), (0.95, 2, 2.920),
     (0.975, 30, 2.042), (0.995, 5, 4.032), (0.975, 120, 1.980)],
)  # fmt: skip
def test_student_quantiles_are_those_of_the_printed_table(probability: float, freedom: int, printed: float) -> None:
    assert student(probability, freedom) == pytest.approx(printed, abs=5e-4)
    assert student(1 - probability, freedom) == pytest.approx(-printed, abs=5e-4)


def test_student_approaches_the_normal_distribution() -> None:
    assert student(0.975, 100_000) == pytest.approx(NormalDist().inv_cdf(0.975), abs=1e-4)


def test_wilson_solves_its_defining_equation() -> None:
    z = NormalDist().inv_cdf(0.975)
    for correct, count in [(1, 3), (5, 10), (81, 263), (199, 200)]:
        interval = wilson(correct, count)
        for end in (interval.low, interval.high):  # |share - end| = z sqrt(end (1 - end) / n)
            assert abs(correct / count - end) == pytest.approx(z * math.sqrt(end * (1 - end) / count), rel=1e-9)


def test_wilson_stays_within_bounds_and_wide_at_the_ends() -> None:
    nothing, everything = wilson(0, 20), wilson(20, 20)
    assert nothing.low == 0 and nothing.high == pytest.approx(0.1611, abs=1e-4)
    assert everything.high == 1 and everything.low == pytest.approx(1 - 0.1611, abs=1e-4)


@pytest.mark.parametrize(("correct", "count"), [(3, 2), (-1, 2), (0, 0)])
def test_impossible_counts_are_refused(correct: int, count: int) -> None:
    with pytest.raises(UsageError, match="correct"):
        wilson(correct, count)


def test_three_seeds_by_hand() -> None:
    interval = over_seeds([1.0, 2.0, 3.0])  # mean 2, standard deviation 1, t = 4.303
    assert interval.estimate == 2
    assert interval.high - 2 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


def test_pairing_removes_what_seeds_have_in_common() -> None:
    assert paired([1.1, 5.1, 9.1], [1.0, 5.0, 9.0]).low > 0
    with pytest.raises(UsageError, match="same seeds"):
        paired([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(UsageError, match="two seeds"):
        over_seeds([1.0])


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    trials = size(2000)
    generator = numpy_generator(0, "coverage")
    covered = sum(
        interval.low <= 0 <= interval.high
        for interval in (over_seeds(list(generator.normal(0, 1, 3))) for _ in range(trials))
    )
    assert covered / trials == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / trials))


def test_bootstrap_is_repeatable_and_near_the_normal_interval() -> None:
    values = list(numpy_generator(1, "values").normal(3, 1, 400))
    interval = bootstrap(values)
    assert interval == bootstrap(values)
    assert interval != bootstrap(values, seed=1)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 / 20, rel=0.12)
