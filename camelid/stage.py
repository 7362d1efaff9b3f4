"""Amounts with their unit in the type, and what every stage of a recipe has in common."""

from __future__ import annotations

from dataclasses import dataclass

WHOLE = 1e-6  # ours: how far from 1 shares written with few digits may add up


@dataclass(frozen=True)
class Tokens:
    """A number of tokens."""

    count: int


@dataclass(frozen=True)
class Sequences:
    """A number of sequences (examples), whatever their length."""

    count: int


@dataclass(frozen=True)
class Steps:
    """A number of optimizer steps."""

    count: int


@dataclass(frozen=True)
class Epochs:
    """A number of passes over the data."""

    count: float


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step from parent to child; its directory in the store is named by the fingerprint of its text and inputs."""

    name: str
