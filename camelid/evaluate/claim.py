"""A card for each claim: what the paper says, what was tried here against which controls, and whether it held.

The burden of proof lies with the claim. It held only where the whole interval says so; "cannot be tested at this scale"
is decided by what was known before its own results: the number of seeds, the control's, or a stated reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from camelid.errors import BadData, BadFile, ProblemList
from camelid.evaluate.interval import LEVEL, Interval, over_seeds, paired
from camelid.frozen import from_data

Word = Literal["held", "did not hold", "cannot be tested at this scale"]
Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Arm:
    """One side of an experiment: what was measured, one result per seed, in the order of the card's seeds."""

    name: str
    results: tuple[float, ...]


@dataclass(frozen=True)
class Difference:
    """By how much the claimed side beats a control, paired by seed; positive is better, whatever the measure."""

    control: str
    interval: Interval


@dataclass(frozen=True)
class Verdict:
    """Whether a claim held, and why; the intervals are None where too few seeds ran to have any."""

    word: Word
    why: str
    interval: Interval | None = None
    differences: tuple[Difference, ...] = ()


@dataclass(frozen=True)
class ClaimCard:
    """Everything needed to believe or repeat one verdict."""

    statement: str
    published: str
    experiment: str
    measure: str
    seeds: tuple[int, ...]
    treated: Arm
    controls: tuple[Arm, ...]
    verdict: Word
    why: str
    interval: Interval | None
    differences: tuple[Difference, ...]
    date: str
    commit: str
    machine: str

    def data(self) -> dict[str, Any]:
        """The card as JSON."""
        return asdict(self)

    @classmethod
    def of(cls, data: object, path: Path) -> ClaimCard:
        """The card that `data` gave; BadFile naming `path` where it gave none."""
        try:
            return from_data(cls, data, "card")
        except BadData as error:
            raise BadFile(path, "card", str(error), "run the claim again") from None


def verdict(
    treated: Arm,
    controls: Sequence[Arm],
    *,
    margin: float = 0.0,
    at_least: float | None = None,
    best: float | None = None,
    better: Better = "higher",
    untestable: str = "",
    level: float = LEVEL,
) -> Verdict:
    """Whether results on equal seeds bear a claim out.

    It held if against every control the lower end of the paired difference lies above `margin`, and, where `at_least`
    is given, the treated interval lies wholly on its good side. Anything less did not hold: `why` tells a refutation
    from a difference that the seeds are too few or too unequal to show. It cannot be tested where `untestable` gives
    a reason, fewer than two seeds ran, or a control's mean is within `margin` of `best`, the best value there is.
    """
    if untestable:
        return Verdict("cannot be tested at this scale", untestable)
    _check(treated, controls, margin)
    if len(treated.results) < 2:
        return Verdict("cannot be tested at this scale", "one seed says nothing about the next: run at least two")
    sign = 1.0 if better == "higher" else -1.0
    ours = over_seeds(treated.results, level=level)
    differences = tuple(
        Difference(arm.name, paired(_signed(treated, sign), _signed(arm, sign), level=level)) for arm in controls
    )
    if full := [arm for arm in controls if best is not None and sign * (best - fmean(arm.results)) <= margin]:
        why = "no room above the control: " + ", ".join(f"{arm.name} reaches {fmean(arm.results):.3f}" for arm in full)
        return Verdict("cannot be tested at this scale", f"{why} of at best {best:g}", ours, differences)
    failures = [_failure(each, margin) for each in differences if each.interval.low <= margin]
    if at_least is not None and min(sign * ours.low, sign * ours.high) < sign * at_least:
        failures.append(f"{treated.name} {ours} is not surely {_side(better)} {at_least:g}")
    if failures:
        return Verdict("did not hold", "; ".join(failures), ours, differences)
    gains = [f"better than {each.control} by {each.interval}" for each in differences]
    return Verdict("held", "; ".join([*gains, f"{treated.name} {ours}"]), ours, differences)


def card(
    judged: Verdict,
    *,
    statement: str,
    published: str,
    experiment: str,
    measure: str,
    seeds: Sequence[int],
    treated: Arm,
    controls: Sequence[Arm],
    date: str,
    commit: str,
    machine: str,
) -> ClaimCard:
    """The card of a verdict. Raises UsageError where results and seeds do not pair."""
    problems = ProblemList()
    for arm in (treated, *controls):
        if len(arm.results) != len(seeds):
            problems.add(f"results of {arm.name}", f"{len(arm.results)} for {len(seeds)} seeds", "give one per seed")
    problems.raise_usage()
    return ClaimCard(
        statement=statement,
        published=published,
        experiment=experiment,
        measure=measure,
        seeds=tuple(seeds),
        treated=treated,
        controls=tuple(controls),
        verdict=judged.word,
        why=judged.why,
        interval=judged.interval,
        differences=judged.differences,
        date=date,
        commit=commit,
        machine=machine,
    )


def _check(treated: Arm, controls: Sequence[Arm], margin: float) -> None:
    problems = ProblemList()
    if not controls:
        problems.add("controls", "none", "a claim needs something to be compared with")
    if margin < 0:
        problems.add("margin", f"{margin} would let a loss pass for a gain", "give 0 or more")
    for arm in controls:
        if len(arm.results) != len(treated.results):
            found = f"{len(arm.results)} results against {len(treated.results)} of {treated.name}"
            problems.add(f"control {arm.name}", found, "run both with the same seeds")
    problems.raise_usage()


def _signed(arm: Arm, sign: float) -> list[float]:
    return [sign * result for result in arm.results]


def _failure(difference: Difference, margin: float) -> str:
    tale = "is no better than" if difference.interval.high <= margin else "is not shown to be better than"
    beyond = f" by more than {margin:g}" if margin else ""
    return f"{tale} {difference.control}{beyond}: difference {difference.interval}"


def _side(better: Better) -> str:
    return "at or above" if better == "higher" else "at or below"
