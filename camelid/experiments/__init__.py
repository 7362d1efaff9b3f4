"""The experiments: for each member what it claims, the smallest trial in the desk world that could refute it, its controls."""

from __future__ import annotations

from camelid.experiments import adapting, bases, conversing, knowing, reading, teaching
from camelid.experiments.trial import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    **bases.EXPERIMENTS,
    **teaching.EXPERIMENTS,
    **conversing.EXPERIMENTS,
    **knowing.EXPERIMENTS,
    **reading.EXPERIMENTS,
    **adapting.EXPERIMENTS,
}
