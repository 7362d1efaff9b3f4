"""Walks a recipe's stages and makes each that the store does not hold yet.

A stage is named by its mark: the fingerprint of its text and of its inputs (the mark of its parent, the digest of its
data). Two recipes that share a stage share its directory; what changes a number changes the mark. Devices, threads and
micro-batches are not part of it: a machine never changes what a recipe means.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import camelid
from camelid import durable
from camelid.errors import Problem, UsageError
from camelid.frozen import fingerprint, text, to_data
from camelid.journal import Narrator
from camelid.machine import GIB, Machine, divided, hands, resident
from camelid.recipe import (
    AnyStage,
    Blend,
    DeskRecords,
    DeskText,
    Finetune,
    Folder,
    Pretrain,
    Recipe,
    Table,
    Text,
    TrainTokenizer,
    Trees,
    portions,
    reference,
)
from camelid.recipes import MEMBERS
from camelid.request import Request
from camelid.store import PROVENANCE, Store

if TYPE_CHECKING:
    from camelid.data.corpus import Corpus, Report
    from camelid.models.shape import LlamaShape
    from camelid.report import Sample, Score
    from camelid.tokenizers.protocol import Tokenizer
    from camelid.train.loop import Conduct

MARK = "camelid stage 1"  # changes when a stage function changes what the same text means
DESK = 2  # changes when the desk world tells other texts: tests/test_run.py knows their digest
SAMPLE_BYTES = 1_000_000  # of text that a vocabulary is learned from


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
    """What came of growing a member: every stage of the line, scores and samples side by side, the page, what next."""

    request: Request
    recipe: Recipe
    made: tuple[Made, ...]
    scores: tuple[tuple[str, tuple[Score, ...]], ...]
    samples: tuple[Sample, ...]
    commands: tuple[tuple[str, str], ...]
    page: Path
    tokens: int
    seconds: float

    @property
    def model(self) -> Path:
        return self.made[-1].path

    def to_json(self) -> dict[str, Any]:
        """For programs: where everything lies, and the scores."""
        stages = [
            {"name": m.stage.name, "path": str(m.path), "fresh": m.fresh, "seconds": m.seconds} for m in self.made
        ]
        return {
            "member": self.request.member,
            "title": self.recipe.title,
            "model": str(self.model),
            "run": str(self.made[-1].run),
            "report": str(self.page),
            "seconds": self.seconds,
            "stages": stages,
            "scores": {title: [to_data(score) for score in scores] for title, scores in self.scores},
        }


class Work:
    """One request being carried out: knows the mark of every stage and makes those that are not there."""

    def __init__(
        self, request: Request, recipe: Recipe, store: Store, machine: Machine, narrator: Narrator, seconds: float
    ) -> None:
        self.request, self.recipe, self.store, self.machine = request, recipe, store, machine
        self.narrator, self.seconds = narrator, seconds

    @property
    def grown_as_declared(self) -> bool:
        """Whether the newest model of the member's name is the one that this request grows."""
        return not (self.request.start or self.request.data or self.request.settings) and self.request.size == "desk"

    def stages(self) -> Iterator[tuple[Recipe, AnyStage]]:
        """Every stage to make, ancestors first, each with the recipe it belongs to."""
        for ancestor in self.recipe.lineage():
            for stage in ancestor.stages:
                yield ancestor, stage

    def is_made(self, stage: AnyStage) -> bool:
        """Whether the store holds the stage's result; whether it is whole is looked at when it is used."""
        return self.store.stage(stage.name, self.mark(stage)).exists()

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
        target.parent.mkdir(parents=True, exist_ok=True)
        with durable.locked(target):
            run.mkdir(parents=True, exist_ok=True)
            replace(self.request, store=str(self.store.root)).write(run)
            self.narrator.say(f"[bold]{owner.title}[/]: {stage.name}  [dim]{run}[/]")
            self.carry_out(owner, stage, target, run)
        return Made(owner.title, stage, target, run, True, time.monotonic() - began)

    def carry_out(self, owner: Recipe, stage: TrainTokenizer | Pretrain | Finetune, target: Path, run: Path) -> None:
        """Run the function of the stage's type."""
        STAGES[type(stage)](self, owner, stage, target, run)

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
        if isinstance(value, Trees):
            return {"trees": file_digest(Path(value.path)), "best": value.best, "languages": list(value.languages)}
        if isinstance(value, Blend):
            return [[self.input_mark(p.data), p.epochs, p.most] for p in value.portions]
        if isinstance(value, DeskText | DeskRecords):
            return {"desk": DESK, "data": to_data(value)}
        return to_data(value)

    def folder_digest(self, path: str) -> str:
        from camelid.checkpoints import directory

        checkpoint = directory.load(Path(path), check="lengths")
        return checkpoint.digest + checkpoint.tokenizer.digest()

    # --- parents -----------------------------------------------------------------------------------------------------

    def folder(self, start: Recipe | Folder | TrainTokenizer) -> Path:
        """Where a parent lies."""
        if isinstance(start, Folder):
            return Path(start.path)
        stage = start.last if isinstance(start, Recipe) else start
        return self.store.stage(stage.name, self.mark(stage))

    # --- data --------------------------------------------------------------------------------------------------------

    def texts(self, data: Text, most: int | None = None) -> dict[str, Iterator[str]]:
        """The texts of a stage by source, all of them or about `most` bytes in the sources' proportions."""
        if isinstance(data, DeskText):
            from camelid import desk

            found = desk.sources(desk.world(data.world, data.seed))
            amount = min(data.bytes, most or data.bytes)
            return {
                name: (told.text for told in source.documents(bytes=int(amount * source.weight / 100), seed=data.seed))
                for name, source in found.items()
            }
        if isinstance(data, Table):
            from camelid.data.source import documents

            texts = documents(data.path, first=data.first, bad_rows=data.bad_rows)
            return {Path(data.path).name: iter(texts) if most is None else first_bytes(texts, most)}
        raise UsageError([Problem("data", "the published mixture is not supplied", "name your texts with --data")])

    def corpora(self, data: Text, tokenizer: Tokenizer) -> dict[str, Corpus]:
        """The same as ids: files cached on disk by content, generated text in memory."""
        if isinstance(data, Table):
            from camelid.data.cache import from_texts

            corpus, report = from_texts(
                data.path, tokenizer, self.store.cache, first=data.first, bad_rows=data.bad_rows
            )
            for line in report.lines():
                self.narrator.warn(line)
            return {Path(data.path).name: corpus}
        from camelid.data.corpus import tokenise

        return {name: tokenise(texts, tokenizer) for name, texts in self.texts(data).items()}

    def shares(self, data: Text, corpora: Mapping[str, Corpus]) -> dict[str, float]:
        """The share of each source in the tokens drawn."""
        if isinstance(data, DeskText):
            from camelid import desk

            return {name: source.weight for name, source in desk.sources(desk.world(data.world, data.seed)).items()}
        return dict.fromkeys(corpora, 1.0)

    def dialogues(self, stage: Finetune, tokenizer: Tokenizer) -> tuple[Corpus, Report]:
        """The records of a stage rendered through its template, and what was lost on the way."""
        data = stage.data
        if isinstance(data, Table):
            from camelid.data.cache import from_dialogues

            return from_dialogues(
                data.path,
                stage.prompt,
                tokenizer,
                self.store.cache,
                learn=stage.learn,
                length=stage.length,
                over_length=stage.over_length,
                first=data.first,
                bad_rows=data.bad_rows,
            )
        from camelid.data.corpus import render_all
        from camelid.supply import supplied

        notes: list[str] = []
        told = supplied(data, stage.prompt, stage.name, notes)
        for line in notes:
            self.narrator.warn(line)
        return render_all(
            told, stage.prompt, tokenizer, learn=stage.learn, length=stage.length, over_length=stage.over_length
        )

    # --- training ----------------------------------------------------------------------------------------------------

    @contextmanager
    def training(self, owner: Recipe, stage: Pretrain | Finetune, shape: LlamaShape, seen: float) -> Iterator[Conduct]:
        """How the run of a model of this shape is carried out, with live progress; the process takes the machine's number
        of threads. A token sees `seen` tokens on average."""
        import torch

        from camelid.models.count import training_flops
        from camelid.train.loop import Cadence, Conduct
        from camelid.train.products import rate

        torch.set_num_threads(self.machine.threads)
        weights = shape.parameters()
        machine = divided(self.machine, weights)
        lora = stage.adapter if isinstance(stage, Finetune) else None
        share = training_flops(shape, seen=seen, lora=lora) / rate(self.machine)
        self.narrator.say(f"[dim]{weights:,} weights, trained on {hands(machine)}[/]")
        with self.narrator.progress(f"{owner.title} {stage.name}", 100, "%") as report:

            def progress(step: int, steps: int, loss: float, speed: float) -> None:
                fast = f"{speed:,.0f} tokens/s, {speed * share:.0%} of this machine's products"
                held = f"{resident() / GIB:.1f} GiB"
                report(100 * step / steps, f"step {step} of {steps}, loss {loss:.3f}, {fast}, {held}")

            cadence = Cadence(seconds=self.seconds)
            yield Conduct(machine=machine, cadence=cadence, progress=progress, note=self.narrator.warn)

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
            **desk_of(stage),
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


def desk_of(stage: AnyStage) -> dict[str, Any]:
    """The desk world that a stage's data comes from, for those who score its model later."""
    data = getattr(stage, "data", None)
    found = [each for each in portions(data) if isinstance(each, DeskText | DeskRecords)]
    return {"desk": {"world": found[0].world, "seed": found[0].seed}} if found else {}


def first_bytes(texts: Iterable[str], most: int) -> Iterator[str]:
    """Texts from the beginning until together they reach so many bytes."""
    for each in texts:
        if most <= 0:
            return
        most -= len(each.encode())
        yield each


# --- the stages -----------------------------------------------------------------------------------------------------


def make_tokenizer(work: Work, owner: Recipe, stage: TrainTokenizer, target: Path, run: Path) -> None:
    """A vocabulary, committed as the files of a Hugging Face folder."""
    from camelid.tokenizers import byte_bpe, sentencepiece

    sample = [text for texts in work.texts(stage.data, SAMPLE_BYTES).values() for text in texts]
    train = sentencepiece.train if stage.kind == "sentencepiece" else byte_bpe.train
    files = train(sample, vocab=stage.vocab).files()
    provenance = durable.json_bytes({"provenance": work.provenance(owner, stage)})

    def fill(draft: durable.Draft) -> None:
        for name, data in files.items():
            draft.write(name, data)
        draft.write(PROVENANCE, provenance)

    durable.commit(target, fill)


def pretrain(work: Work, owner: Recipe, stage: Pretrain, target: Path, run: Path) -> None:
    """A base model, or one that read more."""
    from camelid import tokenizers
    from camelid.data.mixture import Mixture as Mixed
    from camelid.train.pretrain import pretrain as train

    tokenizer = tokenizers.load(work.folder(stage.tokenizer))
    corpora = work.corpora(stage.data, tokenizer)
    shares = work.shares(stage.data, corpora)
    mixture = Mixed.by_proportion(corpora, shares, stage.train.count, seed=stage.seed, cache=work.store.cache)
    whole = stage.train.count // stage.batch.count * stage.batch.count  # steps that are not full are left out
    drawn = [
        {"source": share.source, "asked": share.asked, "tokens": count, "epochs": count / corpora[share.source].tokens}
        for share, count in zip(mixture.shares(), mixture.given(whole).values(), strict=True)
    ]
    with work.training(owner, stage, stage.shape, (stage.length + 1) / 2) as conduct:
        train(
            target,
            run,
            shape=stage.shape,
            tokenizer=tokenizer,
            mixture=mixture,
            length=stage.length,
            batch=stage.batch,
            optim=stage.optim,
            schedule=stage.schedule,
            clip=stage.clip,
            start=None if stage.start is None else work.folder(stage.start),
            deviation=stage.deviation,
            seed=stage.seed,
            conduct=conduct,
            provenance=work.provenance(owner, stage, mixture=drawn),
        )


def finetune(work: Work, owner: Recipe, stage: Finetune, target: Path, run: Path) -> None:
    """A model tuned on dialogues, every weight or an adapter."""
    from camelid import tokenizers
    from camelid.checkpoints import directory
    from camelid.tokenizers.extend import with_controls
    from camelid.train.finetune import finetune as train

    start = work.folder(stage.start)
    tokenizer = tokenizers.load(start)
    corpus, report = work.dialogues(stage, with_controls(tokenizer, stage.controls) if stage.controls else tokenizer)
    for line in report.lines():
        work.narrator.warn(line)
    shape = directory.load(start, check="lengths").shape
    seen = (float((corpus.lengths**2).sum() / max(corpus.tokens, 1)) + 1) / 2
    with work.training(owner, stage, shape, seen) as conduct:
        train(
            target,
            run,
            start=start,
            corpus=corpus,
            template=stage.prompt,
            batch=stage.batch,
            amount=stage.train,
            optim=stage.optim,
            schedule=stage.schedule,
            clip=stage.clip,
            pad=stage.pad,
            controls=stage.controls,
            dropout=stage.dropout,
            adapter=stage.adapter,
            seed=stage.seed,
            conduct=conduct,
            provenance=work.provenance(owner, stage, parent=str(start), data=to_data(report)),
        )


STAGES: Mapping[type, Callable[[Work, Recipe, Any, Path, Path], None]] = {
    TrainTokenizer: make_tokenizer,
    Pretrain: pretrain,
    Finetune: finetune,
}
