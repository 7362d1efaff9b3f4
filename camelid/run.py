"""Walks a recipe's stages and makes each that the store does not hold yet.

A stage is named by its mark: the fingerprint of its text and of its inputs (the mark of its parent, the digest of its
data). Two recipes that share a stage share its directory; what changes a number changes the mark. Devices, threads and
micro-batches are not part of it: a machine never changes what a recipe means.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import camelid
from camelid import durable
from camelid.errors import Problem, UsageError
from camelid.frozen import fingerprint, text, to_data
from camelid.journal import Narrator
from camelid.machine import GIB, Machine, divided, hands, resident
from camelid.ranks import ALONE, Ranks
from camelid.recipe import (
    AnyStage,
    Blend,
    DeskRecords,
    DeskText,
    Distinct,
    ExtendTokenizer,
    Finetune,
    Folder,
    Merge,
    Pretrain,
    Recipe,
    Shares,
    Size,
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
    from camelid.evaluate.score import Score
    from camelid.models.shape import LlamaShape
    from camelid.report import Sample
    from camelid.tokenizers.protocol import Tokenizer
    from camelid.train.loop import Conduct
    from camelid.train.scalars import Follower, Log

MARK = "camelid stage 1"  # changes when a stage function changes what the same text means
DESK = 2  # changes when the desk world tells other texts: tests/test_run.py knows their digest
SAMPLE_BYTES = 1_000_000  # of text that a vocabulary is learned from
LATER = {  # settings newer than MARK: told only where they are set, so that what was grown before is found again
    *((Pretrain, name) for name in ("new_rows", "adapter", "cut", "teacher")),
    *((Finetune, name) for name in ("fields", "order", "tokenizer", "new_rows", "context", "scaling", "noise", "base")),
}


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
    """What came of growing a member: every stage of the line, those of members grown beside it, the file it was carried
    into, scores and samples side by side, the page, what next."""

    request: Request
    recipe: Recipe
    made: tuple[Made, ...]
    beside: tuple[Made, ...]
    carried: Path | None
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
            {"name": m.stage.name, "path": str(m.path), "fresh": m.fresh, "seconds": m.seconds}
            for m in (*self.made, *self.beside)
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
        self,
        request: Request,
        recipe: Recipe,
        store: Store,
        machine: Machine,
        narrator: Narrator,
        seconds: float,
        ranks: Ranks = ALONE,
        spikes: int | None = None,
        log: Log | None = None,
    ) -> None:
        self.request, self.recipe, self.store, self.machine = request, recipe, store, machine
        self.narrator, self.seconds, self.ranks, self.spikes = narrator, seconds, ranks, spikes
        self.log = log

    def other(self, request: Request, recipe: Recipe) -> Work:
        """Another request carried out on the same machine, into the same store."""
        common = (self.store, self.machine, self.narrator, self.seconds, self.ranks, self.spikes, self.log)
        return Work(request, recipe, *common)

    @property
    def grown_as_declared(self) -> bool:
        """Whether the newest model of the member's name is the one that this request grows."""
        return (
            not (self.request.start or self.request.data or self.request.texts or self.request.settings)
            and self.request.size == "desk"
        )

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
        if not isinstance(stage, TrainTokenizer | ExtendTokenizer | Pretrain | Finetune | Merge):
            found = f"{type(stage).__name__} {stage.name!r} cannot be run here"
            raise UsageError([Problem(f"stage {stage.name}", found, "supply its result with --data")])
        mark = self.mark(stage)
        target, run = self.store.stage(stage.name, mark), self.store.run(stage.name, mark)
        if self.ranks.told(self.ranks.leads and self.store.is_made(target), f"looking for {stage.name} in the store"):
            self.narrator.say(f"[dim]{owner.title}: {stage.name} is in the store[/] {target}")
            return Made(owner.title, stage, target, run, False, 0.0)
        began = time.monotonic()
        with self.held(target, run):
            self.narrator.say(f"[bold]{owner.title}[/]: {stage.name}  [dim]{run}[/]")
            if isinstance(stage, Pretrain | Finetune):
                self.carry_out(owner, stage, target, run)
            else:
                with self.ranks.first(f"making {stage.name}"):
                    if self.ranks.leads:
                        self.carry_out(owner, stage, target, run)
        return Made(owner.title, stage, target, run, True, time.monotonic() - began)

    @contextmanager
    def held(self, target: Path, run: Path) -> Iterator[None]:
        """While rank 0 holds the entry's lock and has made the run's directory; the other ranks follow it."""
        with ExitStack() as after:
            with self.ranks.first(f"taking {target.name}"):
                if self.ranks.leads:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    after.enter_context(durable.locked(target))
                    run.mkdir(parents=True, exist_ok=True)
                    replace(self.request, store=str(self.store.root)).write(run)
            yield

    def carry_out(
        self,
        owner: Recipe,
        stage: TrainTokenizer | ExtendTokenizer | Pretrain | Finetune | Merge,
        target: Path,
        run: Path,
    ) -> None:
        """Run the function of the stage's type; what it refuses of its settings is told by their whole names."""
        try:
            STAGES[type(stage)](self, owner, stage, target, run)
        except UsageError as error:
            own = {field.name for field in fields(stage)} - {"data", "start", "tokenizer"}
            raise UsageError(
                replace(problem, where=f"--set {stage.name}.{problem.where}")
                if problem.where.partition(".")[0] in own
                else problem
                for problem in error.problems
            ) from None

    # --- marks -------------------------------------------------------------------------------------------------------

    def mark(self, stage: AnyStage) -> str:
        """Sixteen digits that name a stage by its text and inputs."""
        told: dict[str, Any] = {"format": MARK, "type": type(stage).__name__}
        for field in fields(stage):
            value = getattr(stage, field.name)
            later = (type(stage), field.name) in LATER and value == field.default
            if field.name != "name" and not later:
                told[field.name] = self.input_mark(value)
        return fingerprint(told)

    def input_mark(self, value: object) -> Any:
        """An input by what it holds: a parent by its mark, a folder or file by its digest, anything else by its text."""
        if isinstance(value, Recipe):
            return {"stage": self.mark(value.last)}
        if isinstance(value, TrainTokenizer | ExtendTokenizer | Pretrain | Finetune | Merge):
            return {"stage": self.mark(value)}
        if isinstance(value, Shares):
            return [[self.input_mark(share.text), share.percent] for share in value.texts]
        if isinstance(value, Folder):
            return {"folder": self.folder_digest(value.path)}
        if isinstance(value, Table):
            return {"table": table_digest(Path(value.path)), "first": value.first, "bad_rows": value.bad_rows}
        if isinstance(value, Trees):
            return {"trees": file_digest(Path(value.path)), "best": value.best, "languages": list(value.languages)}
        if isinstance(value, Blend):
            return [[self.input_mark(p.data), p.epochs, p.most] for p in value.portions]
        if isinstance(value, Distinct):
            others = None if value.apart_from is None else self.input_mark(value.apart_from)
            return {"distinct": self.input_mark(value.data), "alike": value.alike, "apart_from": others}
        if isinstance(value, DeskText | DeskRecords):
            return {"desk": DESK, "data": to_data(value)}
        return to_data(value)

    def folder_digest(self, path: str) -> str:
        from camelid.checkpoints import delta, directory

        checkpoint = directory.load(Path(path), check="lengths")
        if (wrong := delta.problem(checkpoint)) is not None:
            raise UsageError([wrong])
        return checkpoint.digest + checkpoint.tokenizer.digest()

    # --- parents -----------------------------------------------------------------------------------------------------

    def folder(self, start: Recipe | Folder | AnyStage) -> Path:
        """Where a parent lies."""
        if isinstance(start, Folder):
            return Path(start.path)
        stage = start.last if isinstance(start, Recipe) else start
        return self.store.stage(stage.name, self.mark(stage))

    # --- data --------------------------------------------------------------------------------------------------------

    def texts(self, data: Text, most: int | None = None) -> dict[str, Iterator[str]]:
        """The texts of a stage by source, all of them or about `most` bytes in the sources' proportions."""
        if isinstance(data, Shares):
            parts = [
                (share.text, None if most is None else int(most * share.percent / self.whole(data)))
                for share in data.texts
            ]
            return {name: told for text, part in parts for name, told in self.texts(text, part).items()}
        if isinstance(data, DeskText):
            from camelid.supply import desk_texts

            return desk_texts(data, most)
        if isinstance(data, Table):
            from camelid.data.source import documents

            texts = documents(data.path, first=data.first, bad_rows=data.bad_rows)
            return {Path(data.path).name: iter(texts) if most is None else first_bytes(texts, most)}
        raise UsageError([Problem("data", "the published mixture is not supplied", "name your texts with --data")])

    def corpora(self, data: Text, tokenizer: Tokenizer) -> dict[str, Corpus]:
        """The same as ids: files cached on disk by content, generated text in memory."""
        if isinstance(data, Shares):
            return {name: told for share in data.texts for name, told in self.corpora(share.text, tokenizer).items()}
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
        if isinstance(data, Shares):
            shares: dict[str, float] = {}
            for share in data.texts:
                own = self.shares(share.text, {name: corpora[name] for name in self.names(share.text)})
                shares |= {name: weight * share.percent / sum(own.values()) for name, weight in own.items()}
            return shares
        if isinstance(data, DeskText):
            from camelid.supply import desk_sources

            return {name: source.weight for name, source in desk_sources(data).items()}
        return dict.fromkeys(corpora, 1.0)

    def names(self, data: Table | DeskText) -> list[str]:
        """The names of a text's sources."""
        from camelid.supply import desk_sources

        return [Path(data.path).name] if isinstance(data, Table) else list(desk_sources(data))

    def whole(self, data: Shares) -> float:
        """What the shares add up to."""
        return sum(share.percent for share in data.texts)

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
                fields=stage.fields,
                first=data.first,
                bad_rows=data.bad_rows,
            )
        from camelid.data.corpus import render_all
        from camelid.supply import supplied

        notes: list[str] = []
        told = supplied(data, stage.prompt, stage.name, notes, stage.fields)
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
        from camelid.train.spikes import Spikes

        torch.set_num_threads(self.machine.threads)
        weights = shape.parameters()
        machine = divided(self.machine, weights)
        share = training_flops(shape, seen=seen, lora=stage.adapter) / (rate(self.machine) * self.machine.ranks)
        self.narrator.say(f"[dim]{weights:,} weights, trained on {hands(machine)}[/]")
        with (
            self.narrator.progress(f"{owner.title} {stage.name}", 100, "%") as report,
            self.followed(self.store.run(stage.name, self.mark(stage))) as follower,
        ):

            def progress(step: int, steps: int, loss: float, speed: float) -> None:
                told = utilisation(speed * share)
                held = f"{resident() / GIB:.1f} GiB"
                report(
                    100 * step / steps,
                    f"step {step} of {steps}, loss {loss:.3f}, {speed:,.0f} tokens/s, {told}, {held}",
                )
                if follower is not None:
                    follower.follow()

            cadence = Cadence(seconds=self.seconds)
            yield Conduct(
                machine=machine,
                cadence=cadence,
                spikes=None if self.spikes is None else Spikes(budget=self.spikes),
                rehearse=True,
                progress=progress,
                note=self.narrator.warn,
                ranks=self.ranks,
            )

    @contextmanager
    def followed(self, run: Path) -> Iterator[Follower | None]:
        """What hands the run's scalars on, on rank 0 where somebody asked for it; the last of them at the end."""
        if self.log is None or not self.ranks.leads:
            yield None
            return
        from camelid.train.scalars import follower, shown_by

        self.narrator.say(f"[dim]shown by  {shown_by(self.log, run)}[/]")
        with closing(follower(self.log, run)) as found:
            yield found

    # --- provenance --------------------------------------------------------------------------------------------------

    def provenance(self, owner: Recipe, stage: AnyStage, **more: Any) -> dict[str, Any]:
        """What a finished model tells about itself: it is that member whose last stage it is, where there is one."""
        member, size = self.named(owner)
        plain = member.partition("+")[0]
        if stage != owner.last and plain != member and (own := MEMBERS[plain].make(cast(Size, size))).last == stage:
            member, owner = plain, own
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
        for name, member in MEMBERS.items():
            for size in member.sizes:
                if member.make(size).title == owner.title:
                    return name, size
                for variant, make in member.variants.items():
                    if make(size).title == owner.title:
                        return f"{name}+{variant}", size
        return "", ""


def utilisation(share: float) -> str:
    """A step's operations as a share of what large products reached just before the run, in words.

    More than all of it shows that other work had the machine while the products were timed.
    """
    return f"{share:.0%} of this machine's products" if share <= 1 else "utilisation unknown, the machine was busy"


def table_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, or of those of a saved data set."""
    from camelid.data import saved

    return saved.digest(path) if saved.is_saved(path) else file_digest(path)


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
    save_tokenizer(train(sample, vocab=stage.vocab), work, owner, stage, target)


def extend_tokenizer(work: Work, owner: Recipe, stage: ExtendTokenizer, target: Path, run: Path) -> None:
    """The parent's vocabulary with what further text taught, committed in the same way."""
    from camelid import tokenizers
    from camelid.tokenizers import sentencepiece
    from camelid.tokenizers.extend import with_pieces

    sample = [text for texts in work.texts(stage.data, SAMPLE_BYTES).values() for text in texts]
    learned = sentencepiece.train(sample, vocab=stage.learned)
    parent = tokenizers.load(work.folder(stage.start))
    save_tokenizer(with_pieces(parent, learned, stage.vocab, only=stage.only), work, owner, stage, target)


def save_tokenizer(tokenizer: Tokenizer, work: Work, owner: Recipe, stage: AnyStage, target: Path) -> None:
    """Commit the files that a Hugging Face folder needs of a tokenizer."""
    files = tokenizer.files()
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
    with work.ranks.first("reading the data"):
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
            new_rows=stage.new_rows,
            adapter=stage.adapter,
            cut=stage.cut,
            teacher=None if stage.teacher is None else work.folder(stage.teacher),
            seed=stage.seed,
            conduct=conduct,
            provenance=work.provenance(owner, stage, mixture=drawn),
        )
    tell_adapter(work, run)


def finetune(work: Work, owner: Recipe, stage: Finetune, target: Path, run: Path) -> None:
    """A model tuned on dialogues, every weight or an adapter."""
    from camelid import tokenizers
    from camelid.checkpoints import directory
    from camelid.tokenizers.extend import with_controls
    from camelid.train.finetune import finetune as train

    start = work.folder(stage.start)
    tokenizer = tokenizers.load(start if stage.tokenizer is None else work.folder(stage.tokenizer))
    speller = with_controls(tokenizer, stage.controls) if stage.controls else tokenizer
    with work.ranks.first("reading the data"):
        corpus, report = work.dialogues(stage, speller)
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
            noise=stage.noise,
            adapter=stage.adapter,
            tokenizer=tokenizer,
            new_rows=stage.new_rows,
            context=stage.context,
            scaling=stage.scaling,
            order=stage.order,
            base=stage.base,
            seed=stage.seed,
            conduct=conduct,
            provenance=work.provenance(owner, stage, parent=str(start), data=to_data(report)),
        )
    if stage.adapter is not None:
        work.narrator.say(f"[dim]{merging(target)}[/]")
    tell_adapter(work, run)


def merge(work: Work, owner: Recipe, stage: Merge, target: Path, run: Path) -> None:
    """The models of earlier stages added up by their shares, certified as every finished model is."""
    from camelid.checkpoints.merge import Parent, mean
    from camelid.generate.certificate import certificate

    parents = [
        Parent(work.folder(model), share)
        for model, share in zip((stage.start, stage.partner), stage.shares, strict=True)
    ]
    if stage.parent is not None:
        parents.append(Parent(work.folder(stage.parent), 1 - sum(stage.shares)))
    made = mean(
        parents,
        target,
        extra=partial(certificate, note=work.narrator.warn),
        provenance=work.provenance(owner, stage),
    )
    for note in made.notes:
        work.narrator.warn(note)


def tell_adapter(work: Work, run: Path) -> None:
    """Where the adapter lies that PEFT reads, and what its base needs first, where a stage left one."""
    from camelid.train.assemble import ADAPTER

    path = run / ADAPTER
    if not work.ranks.leads or not path.exists():
        return
    told: Any = durable.read_json(path / PROVENANCE)
    rows = told.get("rows")
    grow = f"; its base needs base.resize_token_embeddings({rows}) first" if rows else ""
    work.narrator.say(f"[dim]adapter for PEFT  {path}{grow}[/]")


def merging(target: Path) -> str:
    """What merging an adapter changed, in words, from the provenance of the merged model."""
    found = durable.read_json(target / PROVENANCE)["provenance"]["training"]["merged"]  # type: ignore[index]
    words = f"merged in float32: over {found['tokens']} tokens no logit moved by more than {found['largest difference']:.1e}"
    for word, on in (
        ("largest difference to the unquantised base", "the weights before quantisation"),
        ("largest difference on the base as it was", "the base as it was, for which the adapter's folder is,"),
    ):
        if word in found:
            words += f"; on {on} it would move by up to {found[word]:.1e}"
    return words


STAGES: Mapping[type, Callable[[Work, Recipe, Any, Path, Path], None]] = {
    TrainTokenizer: make_tokenizer,
    ExtendTokenizer: extend_tokenizer,
    Pretrain: pretrain,
    Finetune: finetune,
    Merge: merge,
}
