"""Walks a recipe's stages and makes each that the store does not hold yet.

A stage is named by its mark: the fingerprint of its text and of its inputs (the mark of its parent, the digest of its
data). Two recipes that share a stage share its directory; what changes a number changes the mark. Devices, threads and
micro-batches are not part of it: a machine never changes what a recipe means.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import camelid
from camelid import durable
from camelid.errors import Problem, UsageError
from camelid.frozen import fingerprint, text, to_data
from camelid.journal import Narrator
from camelid.machine import Machine
from camelid.recipe import (
    AnyStage,
    DeskInstructions,
    DeskText,
    Finetune,
    Folder,
    Mixture,
    Pretrain,
    Recipe,
    SelfInstruct,
    Table,
    TrainTokenizer,
    reference,
)
from camelid.recipes import MEMBERS
from camelid.request import Request
from camelid.store import Store

if TYPE_CHECKING:
    from camelid.evaluate.desk import Scores

MARK = "camelid stage 1"  # changes when a stage function changes what the same text means


@dataclass(frozen=True)
class Made:
    """One stage of the line: its recipe's title, where its result lies, its run, and whether this call made it."""

    title: str
    stage: AnyStage
    path: Path
    run: Path
    fresh: bool
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What came of growing a member."""

    request: Request
    recipe: Recipe
    made: tuple[Made, ...]
    scores: tuple[tuple[str, Scores], ...]
    page: Path
    seconds: float

    @property
    def model(self) -> Path:
        return self.made[-1].path

    def to_json(self) -> dict[str, Any]:
        """For programs: where everything lies, and the scores."""
        return {
            "member": self.request.member,
            "title": self.recipe.title,
            "model": str(self.model),
            "run": str(self.made[-1].run),
            "report": str(self.page),
            "seconds": self.seconds,
            "stages": [
                {"name": m.stage.name, "path": str(m.path), "fresh": m.fresh, "seconds": m.seconds} for m in self.made
            ],
            "scores": {title: scores.data() for title, scores in self.scores},
        }


def grow(
    request: Request,
    recipe: Recipe,
    *,
    store: Store,
    machine: Machine,
    narrator: Narrator,
    seconds: float = 60.0,
) -> Outcome:
    """Make every stage of the recipe and of its ancestors, score what can be scored, and write the report."""
    began = time.monotonic()
    store.root.mkdir(parents=True, exist_ok=True)
    work = Work(request, recipe, store, machine, narrator, seconds)
    made = tuple(work.make(owner, stage) for owner, stage in work.stages())
    from camelid.scoring import score_line, write_page

    scores, samples = score_line(work, made)
    page = write_page(work, made, scores, samples)
    return Outcome(request, recipe, made, scores, page, time.monotonic() - began)


class Work:
    """One request being carried out: knows the mark of every stage and makes those that are not there."""

    def __init__(
        self, request: Request, recipe: Recipe, store: Store, machine: Machine, narrator: Narrator, seconds: float
    ) -> None:
        self.request, self.recipe, self.store, self.machine = request, recipe, store, machine
        self.narrator, self.seconds = narrator, seconds

    def stages(self) -> Iterator[tuple[Recipe, AnyStage]]:
        """Every stage to make, ancestors first, each with the recipe it belongs to."""
        for ancestor in self.recipe.lineage():
            for stage in ancestor.stages:
                yield ancestor, stage

    def make(self, owner: Recipe, stage: AnyStage) -> Made:
        """The stage's result, from the store or made now. A second run of the same stage waits for the first to say so."""
        if not isinstance(stage, TrainTokenizer | Pretrain | Finetune):
            found = f"{type(stage).__name__} {stage.name!r} cannot be run here"
            raise UsageError([Problem(f"stage {stage.name}", found, "supply its result with --data")])
        mark = self.mark(stage)
        target, run = self.store.stage(stage.name, mark), self.store.run(stage.name, mark)
        if self.store.is_made(target):
            self.narrator.say(f"[dim]{owner.title}: {stage.name} is in the store[/] {target}")
            return Made(owner.title, stage, target, run, False, 0.0)
        began = time.monotonic()
        with durable.locked(run.with_name(run.name + ".making")):
            run.mkdir(parents=True, exist_ok=True)
            self.request.write(run) if owner is self.recipe else None
            STAGES[type(stage)](self, owner, stage, target, run)
        return Made(owner.title, stage, target, run, True, time.monotonic() - began)

    # --- marks -------------------------------------------------------------------------------------------------------

    def mark(self, stage: AnyStage) -> str:
        """Sixteen digits that name a stage by its text and inputs."""
        told: dict[str, Any] = {"format": MARK, "type": type(stage).__name__}
        for field in fields(stage):
            if field.name != "name":
                told[field.name] = self.input_mark(getattr(stage, field.name))
        return fingerprint(told)

    def input_mark(self, value: object) -> Any:
        """An input by what it holds: a parent by its mark, a folder or file by its digest, anything else by its text."""
        if isinstance(value, Recipe):
            return {"stage": self.mark(value.last)}
        if isinstance(value, TrainTokenizer):
            return {"stage": self.mark(value)}
        if isinstance(value, Folder):
            return {"folder": self.folder_digest(value.path)}
        if isinstance(value, Table):
            return {"table": file_digest(Path(value.path)), "first": value.first, "bad_rows": value.bad_rows}
        if isinstance(value, DeskText | DeskInstructions):
            from camelid import desk

            return {"desk": desk.VERSION, "data": to_data(value)}
        return to_data(value)

    def folder_digest(self, path: str) -> str:
        from camelid.checkpoints import directory

        return directory.load(Path(path)).digest

    # --- parents -----------------------------------------------------------------------------------------------------

    def folder(self, start: Recipe | Folder | TrainTokenizer) -> Path:
        """Where a parent lies."""
        if isinstance(start, Folder):
            return Path(start.path)
        stage = start.last if isinstance(start, Recipe) else start
        return self.store.stage(stage.name, self.mark(stage))

    # --- provenance --------------------------------------------------------------------------------------------------

    def provenance(self, owner: Recipe, stage: AnyStage, **more: Any) -> dict[str, Any]:
        """What a finished model tells about itself."""
        member, size = self.named(owner)
        return {
            "member": member,
            "size": size,
            "title": owner.title,
            "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "camelid": camelid.__version__,
            "recipe": text(owner, name_of=lambda value: None if value is owner else reference(value)),
            "stage": stage.name,
            "mark": self.mark(stage),
            **more,
        }

    def named(self, owner: Recipe) -> tuple[str, str]:
        """The member and size that a recipe is, by its title; ("", "") for one that was changed beyond recognition."""
        for member in MEMBERS.values():
            for size in member.sizes:
                if member.make(size).title == owner.title:
                    return member.name, size
        return "", ""


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


STAGES: Mapping[type, Callable[[Work, Recipe, Any, Path, Path], None]] = {}

__all__ = ["Made", "Mixture", "Outcome", "SelfInstruct", "Work", "cached_property", "grow", "replace"]
