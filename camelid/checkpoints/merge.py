"""Models made of models: the mean of several of one shape, or a base with adapters added, each by its share.

    mean           sum of share_i W_i, the shares adding up to 1; a share may be below zero: parent -1, children 1 and 1
                   is the parent with what both children learned
    with_adapters  W + sum of share_i s_i B_i A_i, each share 1 unless said (Lee et al. 2023, Platypus, merge so, linearly)

Sums are taken in float32, or wider where the weights are, one tensor at a time, and rounded once to the type in which all
parents are stored (float32 where theirs differ).
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import camelid
from camelid.checkpoints import adapter as adapters
from camelid.checkpoints import directory
from camelid.checkpoints.adapter import Adapter
from camelid.checkpoints.directory import Checkpoint
from camelid.checkpoints.names import expected
from camelid.checkpoints.safetensors_io import Deferred
from camelid.dialogue.template import Template
from camelid.durable import FILES, Files
from camelid.errors import ProblemList
from camelid.frozen import diff
from camelid.models.adapt import merged
from camelid.models.shape import LlamaShape
from camelid.stage import WHOLE
from camelid.tokenizers.protocol import Tokenizer

# What else goes into the folder, such as a certificate, from what is to be saved: weights, shape, tokenizer, template.
Extra = Callable[[Mapping[str, Tensor | Deferred], LlamaShape, Tokenizer, Template | None], Mapping[str, bytes]]

KIND = "merge"


@dataclass(frozen=True)
class Parent:
    """A model folder or an adapter folder, and how much of it goes in."""

    path: Path
    share: float


@dataclass(frozen=True)
class Merged:
    """The folder that was written, and what a person should know of it."""

    path: Path
    notes: tuple[str, ...]


def mean(
    parents: Sequence[Parent],
    target: Path,
    *,
    extra: Extra | None = None,
    provenance: Mapping[str, Any] | None = None,
    files: Files = FILES,
) -> Merged:
    """Writes the mean of model folders as the folder `target`; tokenizer and template are those of the first.

    What the caller tells of itself, such as a recipe, goes before what is told of the merge.

    Raises UsageError naming everything that keeps them apart, StoreError where `target` exists.
    """
    found = [directory.load(parent.path) for parent in parents]
    _check_parents(parents, found)
    first, tensors = found[0], [each.tensors() for each in found]
    dtype = _common(found)
    shares = [parent.share for parent in parents]
    state = {
        name: Deferred(dtype, size, partial(_mean, tensors, shares, name, dtype))
        for name, size in expected(first.shape).items()
    }
    notes = [
        f"{parent.path} was tuned in another template; the mean talks in that of {parents[0].path}"
        for parent, each in zip(parents[1:], found[1:], strict=True)
        if each.template is not None and each.template != first.template
    ]
    template = first.template or next((each.template for each in found if each.template is not None), None)
    directory.save(
        target,
        state,
        shape=first.shape,
        tokenizer=first.tokenizer,
        template=template,
        provenance={**_told("mean", parents, [each.digest for each in found]), **(provenance or {})},
        generation=first.generation if template == first.template else None,
        extra=None if extra is None else extra(state, first.shape, first.tokenizer, template),
        files=files,
    )
    return Merged(target, tuple(notes) if first.template is not None else ())


def with_adapters(
    base: Path, worn: Sequence[Parent], target: Path, *, extra: Extra | None = None, files: Files = FILES
) -> Merged:
    """Writes a base with adapters added as the folder `target`; it talks in the template of the first that has one.

    Raises UsageError for adapters that cannot be added up, BadFile for one of another base, StoreError where `target`
    exists.
    """
    ground = directory.load(base)
    problems = ProblemList()
    _check_whole(base, ground, problems)
    _check_shares(worn, problems)
    problems.raise_usage()
    found = [adapters.load(each.path, ground) for each in worn]
    _check_adapters(worn, found)
    dtype = _common([ground])
    if all(_is_plain(each) for each in found):
        shares = [each.share for each in worn]
        state = {
            name: Deferred(dtype, size, partial(_added, ground.tensors(), found, shares, name, dtype))
            for name, size in expected(ground.shape).items()
        }
        shape, tokenizer = ground.shape, ground.tokenizer
    else:
        (only,) = found
        model = adapters.put_on(directory.build(ground, torch.float32), only)
        shape, sizes = model.shape, expected(model.shape)
        tokenizer = only.tokenizer or ground.tokenizer
        state = {
            name: Deferred(dtype, sizes[name], partial(_cast, make, dtype)) for name, make in merged(model).items()
        }
    template = next((each.template for each in found if each.template is not None), ground.template)
    told = _told("adapters", [Parent(base, 1.0), *worn], [ground.digest, *(_digest(each) for each in found)])
    more = None if extra is None else extra(state, shape, tokenizer, template)
    directory.save(
        target,
        state,
        shape=shape,
        tokenizer=tokenizer,
        template=template,
        provenance=told,
        extra=more,
        files=files,
    )
    others = [each for each in found if each.template is not None and each.template != template]
    return Merged(target, tuple(f"{each.path} was tuned in another template than the result's" for each in others))


# --- what does not go together --------------------------------------------------------------------------------------


def _check_parents(parents: Sequence[Parent], found: Sequence[Checkpoint]) -> None:
    problems = ProblemList()
    if len(parents) < 2:
        problems.add("merge", f"{len(parents)} model given", "name two or more, or adapters for one")
    _check_shares(parents, problems)
    total = sum(parent.share for parent in parents)
    if len(parents) > 1 and math.isfinite(total) and abs(total - 1) > WHOLE:
        shares = " + ".join(f"{parent.share:g}" for parent in parents)
        problems.add("shares", f"{shares} = {total:g}", "let them add up to 1, or leave all out for equal ones")
    for parent, each in zip(parents, found, strict=True):
        _check_whole(parent.path, each, problems)
    for parent, each in zip(parents[1:], found[1:], strict=True):
        changes = diff(found[0].shape, each.shape)
        if changes:
            told = ", ".join(f"{c.path} {c.after or 'as usual'} for {c.before or 'the usual'}" for c in changes)
            remedy = "only models of one shape have a mean: name another size or parent"
            problems.add(str(parent.path), f"another shape than {parents[0].path}: {told}", remedy)
        elif (odd := _odd_piece(found[0], each)) is not None:
            one, two = (model.tokenizer.piece(odd) for model in (found[0], each))
            remedy = "its rows mean other pieces: name models of one vocabulary"
            found_words = f"another vocabulary than {parents[0].path}: id {odd} is {two!r} for {one!r}"
            problems.add(str(parent.path), found_words, remedy)
    problems.raise_usage()


def _check_shares(parents: Sequence[Parent], problems: ProblemList) -> None:
    for parent in parents:
        if not math.isfinite(parent.share):
            problems.add(f"{parent.path}", f"its share is {parent.share}", "use a number")


def _check_whole(path: Path, found: Checkpoint, problems: ProblemList) -> None:
    if found.quantised:
        problems.add(str(path), "is in few bits already", "name the folder that it was made from")


def _check_adapters(worn: Sequence[Parent], found: Sequence[Adapter]) -> None:
    problems = ProblemList()
    for parent, each in zip(worn, found, strict=True):
        if not _is_plain(each) and (len(found) > 1 or parent.share != 1):
            what = "sets lengths of columns anew (DoRA)" if each.lora.kind == "dora" else "brings whole matrices"
            problems.add(str(parent.path), f"{what}, which has no part and no sum", "merge it alone, with share 1")
    if not found:
        problems.add("--adapter", "none is given", "name the folder of one")
    problems.raise_usage()


def _is_plain(found: Adapter) -> bool:
    return found.lora.kind == "lora" and not found.lora.trained


def _odd_piece(one: Checkpoint, two: Checkpoint) -> int | None:
    """The first id that means something else in two models of the same number of rows."""
    a, b = one.tokenizer, two.tokenizer
    if a.digest() == b.digest():
        return None
    sizes = sorted((a.size, b.size))
    return next((id for id in range(sizes[0]) if a.piece(id) != b.piece(id)), None)


# --- sums -----------------------------------------------------------------------------------------------------------


def _common(found: Sequence[Checkpoint]) -> torch.dtype:
    names = {each.dtype for each in found}
    dtype: torch.dtype = getattr(torch, names.pop()) if len(names) == 1 else torch.float32
    return dtype


def _mean(tensors: Sequence[Mapping[str, Tensor]], shares: Sequence[float], name: str, dtype: torch.dtype) -> Tensor:
    wide = torch.promote_types(dtype, torch.float32)
    total = tensors[0][name].to(wide) * shares[0]
    for each, share in zip(tensors[1:], shares[1:], strict=True):
        total.add_(each[name].to(wide), alpha=share)
    return total.to(dtype)


def _added(
    base: Mapping[str, Tensor], found: Sequence[Adapter], shares: Sequence[float], name: str, dtype: torch.dtype
) -> Tensor:
    wide = torch.promote_types(dtype, torch.float32)
    total = base[name].to(wide, copy=True)
    at = adapters.PREFIX + name.removesuffix(".weight")
    for each, share in zip(found, shares, strict=True):
        state = each.tensors()
        if f"{at}.lora_A.weight" in state:
            a, b = (state[f"{at}.lora_{which}.weight"].to(wide) for which in "AB")
            total.add_(b @ a, alpha=share * each.lora.factor)
    return total.to(dtype)


def _cast(make: Any, dtype: torch.dtype) -> Tensor:
    made: Tensor = make().to(dtype)
    return made


# --- where it came from ---------------------------------------------------------------------------------------------


def _digest(found: Adapter) -> str:
    """What names an adapter: its base and its weights' file, whose bytes the manifest vouches for where there is one."""
    with open(found.path / adapters.WEIGHTS, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _told(how: str, parents: Sequence[Parent], digests: Sequence[str]) -> dict[str, Any]:
    named = [
        {"name": parent.path.name, "digest": digest, "share": parent.share}
        for parent, digest in zip(parents, digests, strict=True)
    ]
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    title = ("mean of " if how == "mean" else "") + " and ".join(parent.path.name for parent in parents)
    return {"kind": KIND, "how": how, "title": title, "made": made, "camelid": camelid.__version__, "parents": named}
