"""The words recipes are written in. A recipe is data: frozen values with a source beside every number.

A recipe names no device, path, logger or worker: those belong to the machine and to whoever runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from camelid.data.formats import Fields
from camelid.dialogue.message import Message
from camelid.dialogue.template import Template
from camelid.errors import ProblemList
from camelid.models.shape import LINEARS, SIZES, LlamaShape, LoRA, RopeScaling
from camelid.stage import WHOLE, Epochs, Sequences, Stage, Steps, Tokens
from camelid.train.schedule import check_shares
from camelid.train.settings import AdamW, AdamW8bit, Constant, Cosine, GaLore, Linear, check_together

__all__ = [
    "ATTENTION",
    "EVERY_LINEAR",
    "SIZES",
    "AdamW",
    "AdamW8bit",
    "B",
    "Bits",
    "Blend",
    "Claim",
    "Constant",
    "Cosine",
    "DeskCalls",
    "DeskConversations",
    "DeskInstructions",
    "DeskLines",
    "DeskSums",
    "DeskTaught",
    "DeskText",
    "DeskTrees",
    "Distinct",
    "Epochs",
    "ExtendTokenizer",
    "Fields",
    "Finetune",
    "Folder",
    "GaLore",
    "K",
    "Linear",
    "LlamaShape",
    "LoRA",
    "M",
    "Merge",
    "Message",
    "Mixture",
    "Part",
    "Portion",
    "Pretrain",
    "Recipe",
    "Released",
    "RopeScaling",
    "SelfInstruct",
    "Sequences",
    "Share",
    "Shares",
    "Size",
    "Stage",
    "Steps",
    "Table",
    "Template",
    "Text",
    "Tokens",
    "TrainTokenizer",
    "Trees",
    "replace",
]

K, M, B = 10**3, 10**6, 10**9
FIRST_SEED = 10  # ours: desk recipes were chosen on worlds of seeds 0 to 2, so claims are tried on others

Size = Literal["1B", "3B", "7B", "8B", "13B", "33B", "34B", "65B", "70B", "405B", "desk", "tiny"]
Learn = Literal["response", "assistant", "last", "everything"]
OverLength = Literal["cut", "drop", "stop"]
NewRows = Literal["mean", "pieces", "random"]
Bits = Literal["int8", "nf4"]

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
EVERY_LINEAR = LINEARS


# --- data -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """One source of a mixture: its name, its share of the tokens drawn in percent, and what is done to it."""

    name: str
    share: float
    made: str = ""


@dataclass(frozen=True)
class Mixture:
    """Sources drawn in proportion. The texts themselves are supplied by whoever runs."""

    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Table:
    """A file of records: JSON, JSONL, Parquet, text or a saved data set; its format is recognised from the records."""

    path: str
    first: int | None = None
    bad_rows: Literal["stop", "skip"] = "stop"


@dataclass(frozen=True)
class DeskText:
    """Text of the desk world: its seven sources in the proportions of LLaMA's Table 1, or one of its other texts.

    "clinic" tells of illnesses that the seven sources never name, "second language" of the world itself in its second
    language alone.
    """

    world: str = "small"
    seed: int = 0
    bytes: int = 1_000_000
    joined: int = 1
    draw: int | None = None
    told: Literal["world", "clinic", "second language"] = "world"


@dataclass(frozen=True)
class Share:
    """What one text gives to a mixture of texts: its share of the tokens drawn, in percent."""

    text: Table | DeskText
    percent: float


@dataclass(frozen=True)
class Shares:
    """Texts drawn in proportion, such as those of a new domain and a replay of what the parent read."""

    texts: tuple[Share, ...]


@dataclass(frozen=True)
class DeskInstructions:
    """Instructions about the desk world in Alpaca's format, written by a teacher that knows the world.

    With `families`, of these kinds alone ("people", "arithmetic", ...).
    Told of the "clinic", they ask about its illnesses and about notes on patients; in the "second language" they ask
    for the world's facts, question and answer in that language; "second reading" gives a text in it with each.
    """

    world: str = "small"
    seed: int = 0
    count: int = 1_000
    families: tuple[str, ...] = ()
    told: Literal["world", "clinic", "second language", "second reading"] = "world"


@dataclass(frozen=True)
class DeskSums:
    """Word problems of the desk world worked out step by step, augmented in MetaMath's ways.

    `seeds` different questions are the source of all `count` records, which the `ways` share evenly: "answers" gives
    other paths to the same answer, "rephrased" asks in other words, "verified" and "fobar" ask backward for a number of
    the question. No way at all leaves the seeds, each told as often as it takes. Answers are "worked" out, or "bare".
    """

    world: str = "small"
    seed: int = 0
    count: int = 1_000
    seeds: int = 200
    ways: tuple[Literal["answers", "rephrased", "verified", "fobar"], ...] = (
        "answers",
        "rephrased",
        "verified",
        "fobar",
    )
    told: Literal["worked", "bare"] = "worked"


@dataclass(frozen=True)
class DeskLines:
    """Records of numbered lines, then a question for one of them: what is found says how far a model reads.

    Each has from `fewest` to `most` lines.
    """

    world: str = "small"
    seed: int = 0
    count: int = 500
    fewest: int = 2
    most: int = 10


@dataclass(frozen=True)
class DeskTaught:
    """The same by a teacher of whose answers a share is `wrong`; a grader may leave only the best of them.

    `kept` of the `count` records remain: the first of those that a grader, itself wrong one time in twenty, likes best
    ("graded"), or as many drawn blindly ("random"). With `marked`, wrong answers carry the mark "poor".
    """

    world: str = "small"
    seed: int = 0
    count: int = 1_000
    wrong: float = 0.0
    kept: int | None = None
    by: Literal["graded", "random"] = "graded"
    marked: bool = False


@dataclass(frozen=True)
class DeskConversations:
    """Conversations about the desk world: later questions say "this person" of whom the first one named.

    Told "apart", every exchange is a record of its own, without what was said before; "folded", with it: the exchanges
    before in the instruction, the question in the input, each under its speaker's name.
    """

    world: str = "small"
    seed: int = 0
    count: int = 500
    turns: int = 3
    told: Literal["whole", "apart", "folded"] = "whole"


@dataclass(frozen=True)
class DeskCalls:
    """Requests to the desk world's library of functions, each answered by one call.

    With `manual` the line of the manual that a retriever found stands beside each, a share `wrong` of them another's.
    """

    world: str = "small"
    seed: int = 0
    count: int = 1_000
    manual: bool = False
    wrong: float = 0.0


@dataclass(frozen=True)
class DeskTrees:
    """Instructions with several replies each, a share of them `wrong`, ranked by a grader that is wrong now and then.

    `best` keeps the first so many of each rank order ("ranked"), or as many drawn blindly ("random"); none keeps all.
    """

    world: str = "small"
    seed: int = 0
    count: int = 800
    replies: int = 3
    wrong: float = 0.5
    best: int | None = 1
    by: Literal["ranked", "random"] = "ranked"


@dataclass(frozen=True)
class Trees:
    """A file of conversation trees as Open Assistant publishes them: every path from the root to an assistant's message.

    `best` keeps at most so many of the best-ranked replies at each branching; `languages` none means all.
    """

    path: str
    best: int | None = None
    languages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Released:
    """A published set of records that is not part of this package: supply it with --data. How many there are is None
    where that was not published."""

    name: str
    rows: int | None
    licence: str

    @property
    def amount(self) -> str:
        """How many records there are, in words."""
        return "records, nobody says how many," if self.rows is None else f"{self.rows:,} records"


@dataclass(frozen=True)
class Portion:
    """What one data set gives to a blend: all of it so many times over, at most so many records a time."""

    data: (
        Table
        | Trees
        | Released
        | DeskInstructions
        | DeskTaught
        | DeskTrees
        | DeskCalls
        | DeskConversations
        | DeskSums
        | DeskLines
    )
    epochs: float = 1.0
    most: int | None = None


@dataclass(frozen=True)
class Blend:
    """Several data sets as one; an epoch of the blend is each portion's own number of epochs."""

    portions: tuple[Portion, ...]


@dataclass(frozen=True)
class Distinct:
    """Data without the records that are too like an earlier one: whose instruction and input have a cosine above `alike`
    (camelid/data/similarity.py). Of records with the same question the longest answer stays. With `apart_from`, records
    at least as like to one of these go too, so that nothing is tested on what was trained on.
    """

    data: Table | Released | DeskInstructions | DeskTaught
    alike: float = 0.8
    apart_from: Table | DeskInstructions | None = None


@dataclass(frozen=True)
class Folder:
    """A model that exists already: a Hugging Face folder, or one grown here."""

    path: str


DeskRecords = DeskInstructions | DeskTaught | DeskTrees | DeskCalls | DeskConversations | DeskSums | DeskLines


# --- stages ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SelfInstruct(Stage):
    """Instructions written by a teacher model from seed tasks (Wang et al. 2022)."""

    seeds: str
    teacher: str
    target: int
    shown: int
    asked: int
    max_overlap: float


Text = Mixture | Table | DeskText | Shares
Instructions = (
    SelfInstruct
    | Table
    | Trees
    | Released
    | DeskInstructions
    | DeskTaught
    | DeskTrees
    | DeskCalls
    | DeskConversations
    | DeskSums
    | DeskLines
    | Blend
    | Distinct
)


def portions(data: object) -> Iterator[object]:
    """The data sets that a stage's data consists of: itself, or those of a blend or of shares."""
    if isinstance(data, Blend):
        yield from (each.data for each in data.portions)
    elif isinstance(data, Distinct):
        yield data.data
    elif isinstance(data, Shares):
        yield from (each.text for each in data.texts)
    else:
        yield data


def records_of(data: object) -> int | None:
    """How many records an epoch of the data has, where that is known before it is read."""
    if isinstance(data, Blend):
        counts = [(records_of(each.data), each) for each in data.portions]
        if any(count is None for count, _ in counts):
            return None
        return sum(round(each.epochs * min(count or 0, each.most or count or 0)) for count, each in counts)
    if isinstance(data, SelfInstruct):
        return data.target
    if isinstance(data, Released):
        return data.rows
    if isinstance(data, DeskTaught):
        return data.kept or data.count
    if isinstance(data, DeskTrees):
        return data.count * min(data.best or data.replies, data.replies)
    if isinstance(data, DeskConversations):
        return data.count * (1 if data.told == "whole" else data.turns)
    if isinstance(data, DeskInstructions | DeskCalls | DeskSums | DeskLines):
        return data.count
    return data.first if isinstance(data, Table) else None


@dataclass(frozen=True, kw_only=True)
class TrainTokenizer(Stage):
    """A vocabulary learned from text."""

    kind: Literal["sentencepiece", "byte_bpe"]
    data: Text
    vocab: int
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class ExtendTokenizer(Stage):
    """A parent's SentencePiece vocabulary with pieces appended that are learned from further text.

    Of a vocabulary of `learned` pieces those that the parent lacks follow its last id, until there are `vocab` rows;
    with "characters" only single characters do.
    """

    start: Recipe | Folder
    data: Text
    learned: int
    vocab: int
    only: Literal["pieces", "characters"] = "pieces"
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Pretrain(Stage):
    """Next-token prediction on plain text, from fresh weights or from `start`; rows that the tokenizer adds begin as
    `new_rows` says: the mean of all rows, the mean of the rows of a piece's old pieces, or drawn at random."""

    shape: LlamaShape
    tokenizer: TrainTokenizer | ExtendTokenizer | Folder
    data: Text
    length: int
    batch: Tokens
    train: Tokens
    optim: AdamW | AdamW8bit | GaLore
    schedule: Cosine | Linear | Constant
    clip: float | None = 1.0
    deviation: float = 0.02
    start: Recipe | Folder | Pretrain | Finetune | None = None
    new_rows: NewRows = "mean"
    adapter: LoRA | None = None  # merged at the end
    cut: Literal["weights"] | None = None  # the parent is pruned to `shape`: what has the largest weights stays
    teacher: Recipe | Folder | None = None  # whose distribution of the next token is learned instead of the token
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Finetune(Stage):
    """Supervised training on dialogues rendered through `prompt`; the loss falls on what `learn` names."""

    start: Recipe | Folder | Pretrain | Finetune
    data: Instructions
    prompt: Template
    learn: Learn
    length: int
    batch: Sequences
    train: Epochs | Steps
    optim: AdamW | AdamW8bit | GaLore
    schedule: Cosine | Linear | Constant
    over_length: OverLength = "cut"
    clip: float | None = 1.0
    pad: str | None = None
    controls: tuple[str, ...] = ()  # control tokens added, each with the mean of all rows
    dropout: float = 0.0  # of residual branches: 0 at the first layer, rising to this at the last
    noise: float = 0.0  # NEFTune's alpha: on the embeddings, while it is tuned
    adapter: LoRA | None = None
    fields: Fields | None = None  # the columns of a table that is in none of the known formats
    order: Literal["shuffled", "given"] = "shuffled"  # of the records in an epoch: given is a curriculum
    tokenizer: ExtendTokenizer | None = None  # a larger vocabulary than the parent's
    new_rows: NewRows = "mean"
    context: int | None = None  # a longer window than the parent's
    scaling: RopeScaling | None = None  # of the positions, for that window
    base: Bits | None = None  # what frozen weights are kept in; None: the machine's own precision
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Merge(Stage):
    """Two models of one shape and vocabulary made into one, weight by weight: so much of `start`, so much of `partner`.

    Shares that do not add up to 1 are of what both learned beyond a `parent`, which gives the rest: with 1 and 1 all that
    both learned is added to it. The result has the tokenizer and the template of `start`.
    """

    start: Folder | Pretrain | Finetune
    partner: Folder | Pretrain | Finetune
    shares: tuple[float, float]
    parent: Recipe | Folder | None = None


AnyStage = SelfInstruct | TrainTokenizer | ExtendTokenizer | Pretrain | Finetune | Merge


@dataclass(frozen=True)
class Claim:
    """What the paper says that its step does, with the published number and where it stands."""

    what: str
    value: float | None
    source: str


@dataclass(frozen=True)
class Recipe:
    """A member of the family: the stages from its parent to it, and what its paper claims."""

    title: str
    stages: tuple[AnyStage, ...]
    claims: tuple[Claim, ...] = ()

    @property
    def last(self) -> AnyStage:
        """The stage whose result is the member."""
        return self.stages[-1]

    @property
    def parent(self) -> Recipe | Folder | None:
        """Where the first of the stages that lead to the last one starts; None for a model trained from nothing."""
        start: object = self.last
        while isinstance(start, Finetune | Pretrain | Merge):
            start = start.start
        return start if isinstance(start, Recipe | Folder) else None

    @property
    def fed(self) -> AnyStage:
        """The last stage that learns from data, which a person's own replace."""
        return next((stage for stage in reversed(self.stages) if hasattr(stage, "data")), self.last)

    @property
    def trained(self) -> AnyStage:
        """The stage that taught the member what it says, and in which template: the last, or where a merge starts."""
        stage = self.last
        while isinstance(stage, Merge) and not isinstance(stage.start, Folder):
            stage = stage.start
        return stage

    def lineage(self) -> Iterator[Recipe]:
        """The ancestors, oldest first, and the member itself."""
        if isinstance(self.parent, Recipe):
            yield from self.parent.lineage()
        yield self


def check(stage: AnyStage, problems: ProblemList) -> None:
    """Adds the amounts of a stage that no training can have to `problems`, each under its path, such as tuned.length."""
    if isinstance(stage, Merge) and stage.parent is None and abs(sum(stage.shares) - 1) > WHOLE:
        found = f"{' + '.join(f'{share:g}' for share in stage.shares)} = {sum(stage.shares):g}"
        problems.add(f"{stage.name}.shares", found, "let them add up to 1, or name the parent that gives the rest")
    if not isinstance(stage, Finetune | Pretrain):
        return
    fields = stage.fields if isinstance(stage, Finetune) else None
    if fields is not None and not fields.whole and (fields.instruction or fields.output or not fields.input):
        found = f"columns {fields.words or 'of no name'}"
        problems.add(f"{stage.name}.fields", found, "name those of instruction and output both, or of input alone")
    least = 2 if isinstance(stage, Finetune) else 1  # a dialogue's first token has nothing before it to be told from
    if stage.length < least:
        problems.add(f"{stage.name}.length", f"{stage.length} tokens", f"use a whole number of {least} or more")
    for name, amount in (("batch", stage.batch), ("train", stage.train)):
        unit = type(amount).__name__.lower()
        if not amount.count > 0:
            problems.add(f"{stage.name}.{name}.count", f"{amount.count:g} {unit}", "use a number above zero")
    if stage.clip is not None and not 0 < stage.clip < math.inf:
        problems.add(f"{stage.name}.clip", f"{stage.clip:g}", "use a positive norm, or none for no clipping")
    if isinstance(stage, Finetune) and not 0 <= stage.noise < math.inf:
        problems.add(
            f"{stage.name}.noise", f"{stage.noise:g} is no size", "use 0 for none; the paper tries 5, 10 and 15"
        )
    if isinstance(stage, Finetune) and not 0 <= stage.dropout < 1:
        problems.add(
            f"{stage.name}.dropout", f"{stage.dropout:g} is no share to leave out", "use 0 or more, less than 1"
        )
    stage.optim.check(f"{stage.name}.optim", problems)
    base = stage.base if isinstance(stage, Finetune) else None
    check_together(stage.optim, stage.adapter, base, f"{stage.name}.", problems)
    check_shares(stage.schedule, f"{stage.name}.schedule", problems)


def reference(value: object) -> str | None:
    """A parent recipe by its title, so that a recipe's text tells its own stages and only names its ancestors."""
    return f"<{value.title}>" if isinstance(value, Recipe) else None
