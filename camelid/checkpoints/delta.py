"""Weight deltas: a tuned model published as its difference from a parent that may not be passed on (Vicuna v0, Alpaca).

    make:   delta = tuned - parent            apply:   tuned = parent + delta

Rows that the tuned model added (Alpaca's [PAD]) stand in the delta whole: the parent counts as zero there. Sums are taken
in float64 and rounded once to the tuned weights' type. Float subtraction loses the last bits where parent and child
differ much in size; whether the child comes back bit for bit is measured when the delta is made, and told.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from camelid.checkpoints import directory
from camelid.checkpoints.directory import Checkpoint
from camelid.errors import Problem, ProblemList, UsageError

KIND = "delta"
GROWING = ("model.embed_tokens.weight", "lm_head.weight")  # what new tokens give rows to


@dataclass(frozen=True)
class Made:
    """A delta that was made: where it lies, how many weights come back exactly, of how many, and the largest error."""

    path: Path
    exact: int
    weights: int
    largest_error: float


def make(parent: Path, tuned: Path, target: Path) -> Made:
    """Writes the difference of two model folders as the folder `target`, and says how exactly it gives `tuned` back.

    Raises UsageError naming every tensor that has no counterpart, StoreError where `target` exists.
    """
    base, child = directory.load(parent), directory.load(tuned)
    _check(base, child)
    before, after = dict(base.tensors()), dict(child.tensors())
    state, exact, weights, worst = {}, 0, 0, 0.0
    for name, tensor in after.items():
        grown = _grown(before[name], tensor)
        state[name] = (tensor.double() - grown).to(tensor.dtype)
        again = (grown + state[name].double()).to(tensor.dtype)
        exact += int((again == tensor).sum())
        weights += tensor.numel()
        worst = max(worst, float((again.double() - tensor.double()).abs().max()))
    provenance = {"kind": KIND, "parent": base.digest, "tuned": child.digest, "provenance": child.provenance}
    directory.save(
        target,
        state,
        shape=child.shape,
        tokenizer=child.tokenizer,
        template=child.template,
        provenance=provenance,
        generation=child.generation,
    )
    return Made(target, exact, weights, worst)


def apply(parent: Path, delta: Path, target: Path) -> Path:
    """Writes the tuned model: the parent plus its delta, tokenizer and template those of the delta.

    Raises UsageError where `delta` is none, or was made from another parent; StoreError where `target` exists.
    """
    base, change = directory.load(parent), directory.load(delta)
    found = change.provenance.get("kind") if change.provenance else None
    if found != KIND:
        raise UsageError([Problem(str(delta), "is a model, not a delta", "name a folder that delta.make wrote")])
    if change.provenance["parent"] != base.digest:
        remedy = "name the very parent it was made from: another one would give a model that nobody tuned"
        raise UsageError([Problem(str(parent), "is not the parent of this delta", remedy)])
    _check(base, change)
    before = dict(base.tensors())
    state = {
        name: (_grown(before[name], tensor) + tensor.double()).to(tensor.dtype)
        for name, tensor in change.tensors().items()
    }
    return directory.save(
        target,
        state,
        shape=change.shape,
        tokenizer=change.tokenizer,
        template=change.template,
        provenance={**change.provenance["provenance"], "from_delta": change.digest},
        generation=change.generation,
    )


def _grown(parent: Tensor, child: Tensor) -> Tensor:
    """The parent in float64, with rows of zeros where the child has more."""
    grown = torch.zeros(child.shape, dtype=torch.float64)
    grown[: len(parent)] = parent.double()
    return grown


def _check(base: Checkpoint, child: Checkpoint) -> None:
    problems = ProblemList()
    before, after = dict(_shapes(base)), dict(_shapes(child))
    for name in sorted(before.keys() ^ after.keys()):
        problems.add(name, f"is only in {base.path if name in before else child.path}", "compare parent and child")
    for name in sorted(before.keys() & after.keys()):
        one, two = before[name], after[name]
        more_rows = name in GROWING and one[1:] == two[1:] and one[0] < two[0]
        if one != two and not more_rows:
            problems.add(name, f"shape {list(one)} in the parent, {list(two)} in the child", "compare parent and child")
    problems.raise_usage()


def _shapes(checkpoint: Checkpoint) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, tensor in checkpoint.tensors().items():
        yield name, tuple(tensor.shape)
