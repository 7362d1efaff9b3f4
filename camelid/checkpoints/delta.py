"""Weight deltas: a tuned model published as its difference from a parent that may not be passed on (Vicuna, Alpaca).

    make:   delta = tuned - parent            apply:   tuned = parent + delta

Sums are taken in float64, one tensor at a time, and rounded once to the delta's type. Float subtraction loses the last
bits where parent and child differ much in size; whether the child comes back bit for bit is measured when the delta is
made, and told. Rows that the tuned model added (Alpaca's [PAD]) are taken beside zeros, or beside the mean of the parent's
rows as Alpaca's own delta is (stanford_alpaca, weight_diff.py: the parent is resized as for training first).

Deltas of others are model folders like any other. What camelid wrote says of which parent it is; of another folder only
this can be seen: the scales of its norms are near zero, where a model's are not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from camelid.checkpoints import directory
from camelid.checkpoints.directory import Checkpoint
from camelid.checkpoints.merge import Extra
from camelid.checkpoints.names import expected
from camelid.checkpoints.safetensors_io import Deferred
from camelid.durable import FILES, Files, json_bytes
from camelid.errors import Problem, ProblemList, UsageError

Beside = Literal["zero", "mean"]

KIND = "delta"
GROWING = ("model.embed_tokens.weight", "lm_head.weight")  # what new tokens give rows to
LOOKS = 0.5  # ours: of the parent's norm scales; tuning moves them by a few hundredths at most


@dataclass(frozen=True)
class Made:
    """A delta that was made: where it lies, how many weights come back exactly, of how many, and the largest error."""

    path: Path
    exact: int
    weights: int
    largest_error: float


@dataclass(frozen=True)
class Applied:
    """The model that was written, the sum of all its weights in float64, and what a person should know of it."""

    path: Path
    total: float
    notes: tuple[str, ...]


@dataclass
class _Tally:
    """What was seen of each tensor on its way to the disk."""

    exact: dict[str, int] = field(default_factory=dict)
    worst: dict[str, float] = field(default_factory=dict)
    totals: dict[str, float] = field(default_factory=dict)


def make(parent: Path, tuned: Path, target: Path, *, new_rows: Beside = "zero", files: Files = FILES) -> Made:
    """Writes the difference of two model folders as the folder `target`, and says how exactly it gives `tuned` back.

    Raises UsageError naming every tensor that has no counterpart, StoreError where `target` exists.
    """
    base, child = directory.load(parent), directory.load(tuned)
    _check(base, child)
    before, after, tally = base.tensors(), child.tensors(), _Tally()
    state = {
        name: Deferred(tensor.dtype, tuple(tensor.shape), partial(_difference, before, after, name, new_rows, tally))
        for name, tensor in after.items()
    }
    told = {"kind": KIND, "parent": base.digest, "tuned": child.digest, "new_rows": new_rows}
    directory.save(
        target,
        state,
        shape=child.shape,
        tokenizer=child.tokenizer,
        template=child.template,
        provenance={**told, "provenance": dict(child.provenance)},
        generation=child.generation,
        extra=_carried(child),
        files=files,
    )
    return Made(target, sum(tally.exact.values()), child.shape.parameters(), max(tally.worst.values()))


def apply(
    parent: Path,
    delta: Path,
    target: Path,
    *,
    new_rows: Beside | None = None,
    extra: Extra | None = None,
    files: Files = FILES,
) -> Applied:
    """Writes the tuned model: the parent plus its delta, tokenizer and template those of the delta.

    new_rows    beside what a delta of others took its added rows: "mean" unless said; ours say so themselves
    extra       further files where the delta brings no certificate of the tuned model, as in checkpoints/merge.py

    Raises UsageError where `delta` is none, or was made from another parent; StoreError where `target` exists.
    """
    base, change = directory.load(parent), directory.load(delta)
    _check(base, change)
    notes: list[str] = []
    if problem(change):
        _check_own(parent, base, change, new_rows)
        beside: Beside = change.provenance.get("new_rows", "zero")
        origin = dict(change.provenance["provenance"])
    else:
        _check_foreign(delta, base, change)
        beside, origin = new_rows or "mean", {"parent": base.digest}
        notes.append(f"{delta} does not say which parent it was made from: compare the sum with its authors'")
        if change.shape.vocab > base.shape.vocab:
            count = change.shape.vocab - base.shape.vocab
            notes.append(f"{count} new row{'s' * (count > 1)} taken as made beside {_BESIDE[beside]} (--new-rows)")
    before, after, tally = base.tensors(), change.tensors(), _Tally()
    state = {
        name: Deferred(tensor.dtype, tuple(tensor.shape), partial(_sum, before, after, name, beside, tally))
        for name, tensor in after.items()
    }
    directory.save(
        target,
        state,
        shape=change.shape,
        tokenizer=change.tokenizer,
        template=change.template,
        provenance={**origin, "from_delta": change.digest},
        generation=change.generation,
        extra=_carried(change) or (extra(state, change.shape, change.tokenizer, change.template) if extra else {}),
        files=files,
    )
    return Applied(target, math.fsum(tally.totals.values()), tuple(notes))


def problem(checkpoint: Checkpoint) -> Problem | None:
    """What keeps a folder from being talked with or trained on: it is a delta, which alone says nothing."""
    if not checkpoint.provenance or checkpoint.provenance.get("kind") != KIND:
        return None
    remedy = "make the model of it first: camelid delta apply PARENT DELTA DST"
    return Problem(str(checkpoint.path), "is a delta, what a model has beyond its parent", remedy)


def _carried(checkpoint: Checkpoint) -> dict[str, bytes]:
    """The tuned model's certificate, which goes through its delta, so that what comes back is held to it."""
    told = checkpoint.certificate
    return {} if told is None else {directory.CERTIFICATE: json_bytes(dict(told))}


_BESIDE: dict[Beside, str] = {"zero": "zeros", "mean": "the mean of the parent's rows"}


# --- sums -----------------------------------------------------------------------------------------------------------


def _difference(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], name: str, beside: Beside, tally: _Tally
) -> Tensor:
    tensor, grown = after[name], _grown(before[name], len(after[name]), beside)
    made = (tensor.double() - grown).to(tensor.dtype)
    again = (grown + made.double()).to(tensor.dtype)
    tally.exact[name] = int((again == tensor).sum())
    tally.worst[name] = float((again.double() - tensor.double()).abs().max())
    return made


def _sum(before: Mapping[str, Tensor], after: Mapping[str, Tensor], name: str, beside: Beside, tally: _Tally) -> Tensor:
    change = after[name]
    made = (_grown(before[name], len(change), beside) + change.double()).to(change.dtype)
    tally.totals[name] = float(made.double().sum())
    return made


def _grown(parent: Tensor, rows: int, beside: Beside) -> Tensor:
    """The parent in float64, with further rows where the child has more."""
    exact = parent.double()
    if rows == len(exact):
        return exact
    new = exact.mean(dim=0, keepdim=True) if beside == "mean" else torch.zeros_like(exact[:1])
    return torch.cat([exact, new.expand(rows - len(exact), -1)])


# --- what does not go together --------------------------------------------------------------------------------------


def _check(base: Checkpoint, child: Checkpoint) -> None:
    problems = ProblemList()
    for each in (base, child):
        if each.quantised:
            problems.add(str(each.path), "is in few bits already", "name the folder that it was made from")
    before, after = expected(base.shape), expected(child.shape)
    for name in sorted(before.keys() ^ after.keys()):
        problems.add(name, f"is only in {base.path if name in before else child.path}", "compare parent and child")
    for name in sorted(before.keys() & after.keys()):
        one, two = before[name], after[name]
        more_rows = name in GROWING and one[1:] == two[1:] and one[0] < two[0]
        if one != two and not more_rows:
            problems.add(name, f"shape {list(one)} in the parent, {list(two)} in the child", "compare parent and child")
    problems.raise_usage()


def _check_own(parent: Path, base: Checkpoint, change: Checkpoint, new_rows: Beside | None) -> None:
    problems = ProblemList()
    if change.provenance["parent"] != base.digest:
        remedy = "name the very parent it was made from: another one would give a model that nobody tuned"
        problems.add(str(parent), "is not the parent of this delta", remedy)
    kept = change.provenance.get("new_rows", "zero")
    if new_rows not in (None, kept):
        problems.add("new_rows", f"{new_rows!r}, where this delta says {kept!r}", "leave it out")
    problems.raise_usage()


def _check_foreign(delta: Path, base: Checkpoint, change: Checkpoint) -> None:
    """A delta's norm scales are differences, near zero; those of a model are about as large as its parent's."""
    before, after = base.tensors(), change.tensors()
    norms = [name for name in expected(base.shape) if name.endswith("norm.weight")]
    sizes = [float(torch.stack([each[name].double().norm() for name in norms]).norm()) for each in (before, after)]
    if sizes[1] > LOOKS * sizes[0]:
        found = f"is a model, not a delta: its norms' scales are {sizes[1] / sizes[0]:.2g} times the parent's"
        raise UsageError(
            [Problem(str(delta), found, "name a folder of differences: camelid delta make, or its authors'")]
        )
