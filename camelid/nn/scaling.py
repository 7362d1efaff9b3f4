"""The rotation speeds of rotary position embedding, in plain double-precision arithmetic: the published stretchings.

Su et al. 2021 rotate pair i of a head of width E by `position * theta ** (-2 i / E)`. A longer context than the weights
were trained for needs slower rotations; each kind here is one published answer.

    linear    position / s                                            Chen et al. 2023 (position interpolation)
    ntk       theta * s ** (E / (E - 2))                              NTK-aware, static
    dynamic   the same with s growing with the length L of the text   dynamic NTK: s L / L_max - (s - 1), once L > L_max;
              what answers a text turns, id by id, as the last of the text up to it, as in Hugging Face's generation
    yarn      fast pairs kept, slow pairs divided by s, a ramp between, and cos and sin times 0.1 ln(s) + 1
              (Peng et al. 2023)
    llama3    by wavelength: short kept, long divided by s, a blend between (llama-models, models/llama3/model.py)

No PyTorch here: shapes are read, checked and counted without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args

from camelid.errors import ProblemList, did_you_mean

Kind = Literal["linear", "ntk", "dynamic", "yarn", "llama3"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# Which settings besides `kind` and `factor` each kind reads; a setting another kind reads is a mistake, not a no-op.
READS: dict[Kind, frozenset[str]] = {
    "linear": frozenset(),
    "ntk": frozenset(),
    "dynamic": frozenset({"original"}),
    "yarn": frozenset({"original", "fast", "slow", "attention"}),
    "llama3": frozenset({"original", "low", "high"}),
}


@dataclass(frozen=True)
class RopeScaling:
    """How the rotations are slowed for texts longer than the training context.

    `original` is the context the weights were trained with: needed by yarn and llama3; dynamic takes the shape's own
    context when it is left out. `low` and `high` are llama3's, `fast`, `slow` and `attention` yarn's (`attention`, the
    factor on cos and sin, follows from `factor` when left out).
    """

    kind: Kind
    factor: float
    original: int | None = None
    low: float = 1.0  # llama-models, models/llama3/model.py: apply_scaling
    high: float = 4.0  # the same
    fast: float = 32.0  # Peng et al. 2023, section 3.2: beta
    slow: float = 1.0  # Peng et al. 2023, section 3.2: alpha
    attention: float | None = None

    def problems(self, problems: ProblemList, where: str) -> None:
        """Adds everything that is wrong with these settings to `problems`."""
        if self.kind not in KINDS:
            problems.add(f"{where}.kind", f"{self.kind!r} is not a known stretching", did_you_mean(self.kind, KINDS))
            return
        if not (math.isfinite(self.factor) and self.factor >= 1):
            problems.add(f"{where}.factor", f"{self.factor} does not stretch", "use a finite factor of 1 or more")
        for field in fields(self)[2:]:
            if field.name not in READS[self.kind] and getattr(self, field.name) != field.default:
                readers = " and ".join(kind for kind in KINDS if field.name in READS[kind])
                problems.add(f"{where}.{field.name}", f"{self.kind} does not read it", f"{readers} does; leave it out")
        if self.original is None and self.kind in ("yarn", "llama3"):
            problems.add(f"{where}.original", "missing", f"{self.kind} needs the context of the training")
        if self.original is not None and self.original < 1:
            problems.add(f"{where}.original", f"{self.original} is no context length", "use 1 or more")
        if self.kind == "llama3" and not 0 < self.low < self.high:
            problems.add(f"{where}.low", f"low {self.low} and high {self.high}", "needs 0 < low < high")
        if self.kind == "yarn" and not 0 < self.slow < self.fast:
            problems.add(f"{where}.slow", f"slow {self.slow} and fast {self.fast}", "needs 0 < slow < fast")
        if self.attention is not None and not (math.isfinite(self.attention) and self.attention > 0):
            problems.add(f"{where}.attention", f"{self.attention} is no factor", "leave it out or use more than 0")


@dataclass(frozen=True)
class Frequencies:
    """Radians per position of each of the E/2 pairs, and the factor on cos and sin (1 except for yarn)."""

    radians: tuple[float, ...]
    attention: float


def frequencies(
    theta: float, width: int, scaling: RopeScaling | None, *, context: int, length: int | None = None
) -> Frequencies:
    """The rotation speeds of a head of `width`. `length` (of the whole text) matters to dynamic alone."""
    if scaling is None:
        return Frequencies(_plain(theta, width), 1.0)
    return {"linear": _linear, "ntk": _ntk, "dynamic": _dynamic, "yarn": _yarn, "llama3": _llama3}[scaling.kind](
        theta, width, scaling, context, length
    )


def ntk_theta(theta: float, width: int, stretch: float) -> float:
    """The base that stretches the slowest rotation of a head of `width` by `stretch` and leaves the fastest alone."""
    exponent: float = width / (width - 2)
    return theta * math.pow(stretch, exponent)


def _plain(theta: float, width: int) -> tuple[float, ...]:
    return tuple(theta ** (-pair / width) for pair in range(0, width, 2))


def _linear(theta: float, width: int, scaling: RopeScaling, context: int, length: int | None) -> Frequencies:
    return Frequencies(tuple(speed / scaling.factor for speed in _plain(theta, width)), 1.0)


def _ntk(theta: float, width: int, scaling: RopeScaling, context: int, length: int | None) -> Frequencies:
    return Frequencies(_plain(ntk_theta(theta, width, scaling.factor), width), 1.0)


def _dynamic(theta: float, width: int, scaling: RopeScaling, context: int, length: int | None) -> Frequencies:
    trained = scaling.original or context
    stretch = scaling.factor * max(length or 0, trained) / trained - (scaling.factor - 1)
    return Frequencies(_plain(ntk_theta(theta, width, stretch), width), 1.0)


def _yarn(theta: float, width: int, scaling: RopeScaling, context: int, length: int | None) -> Frequencies:
    original = scaling.original or context

    def pair_turning(turns: float) -> float:  # the pair that turns so often within the original context
        return width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(pair_turning(scaling.fast)), 0)
    high = min(math.ceil(pair_turning(scaling.slow)), width - 1)
    span = high - low or 0.001
    speeds = []
    for pair, speed in enumerate(_plain(theta, width)):
        kept = 1 - min(max((pair - low) / span, 0.0), 1.0)
        speeds.append(speed * kept + speed / scaling.factor * (1 - kept))
    attention = scaling.attention if scaling.attention is not None else 0.1 * math.log(scaling.factor) + 1
    return Frequencies(tuple(speeds), attention)


def _llama3(theta: float, width: int, scaling: RopeScaling, context: int, length: int | None) -> Frequencies:
    original = scaling.original or context
    speeds = []
    for speed in _plain(theta, width):
        turns = original * speed / (2 * math.pi)  # of this pair within the original context
        kept = min(max((turns - scaling.low) / (scaling.high - scaling.low), 0.0), 1.0)
        speeds.append((1 - kept) * speed / scaling.factor + kept * speed)
    return Frequencies(tuple(speeds), 1.0)
