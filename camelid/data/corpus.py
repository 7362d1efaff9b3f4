"""Tokenised sequences laid end to end, and how texts and dialogues become them (on disk: camelid/data/cache.py)."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from camelid.data import encoding
from camelid.data.source import SHOWN, BadRows, Rejected
from camelid.dialogue.message import Message
from camelid.dialogue.template import Learn, Template, parts, render
from camelid.errors import BadData
from camelid.tokenizers.protocol import Tokenizer

Ids: TypeAlias = NDArray[np.unsignedinteger[Any]]
Marks: TypeAlias = NDArray[np.uint8]
OverLength: TypeAlias = Literal["cut", "drop", "stop"]

UNEXPRESSED = "correct them, or leave them out with --bad-rows skip"
LAYOUT = "camelid corpus 1"  # what digests and caches are of; a new one where the bytes, or what they mean, change


class Corpus:
    """n sequences of ids, N tokens in all; `digest` is the SHA-256 of their content, wherever it lies."""

    def __init__(self, ids: Ids, starts: NDArray[np.int64], learned: Marks | None, digest: str | None = None) -> None:
        assert starts.size and starts[0] == 0 and starts[-1] == ids.size, "starts run from 0 to the number of ids"
        assert learned is None or learned.size == ids.size, "one mark for each id"
        self.ids, self.starts, self.learned = ids, starts, learned
        self.digest = digest or _digest(ids, starts, learned)

    def __len__(self) -> int:
        return self.starts.size - 1

    @property
    def tokens(self) -> int:
        """N."""
        return int(self.ids.size)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sequence [n]."""
        return np.diff(self.starts)

    @property
    def supervised(self) -> int:
        """Targets that count in the loss: learned ids, less those that begin a sequence and so are nobody's target."""
        begins = self.starts[:-1][self.lengths > 0]
        if self.learned is None:
            return self.tokens - begins.size
        return int(np.count_nonzero(self.learned)) - int(np.count_nonzero(self.learned[begins]))

    def sequence(self, index: int) -> Ids:
        """The ids of one sequence, without copying."""
        return self.ids[self.starts[index] : self.starts[index + 1]]

    def marks(self, index: int) -> Marks | None:
        """1 for each id of the sequence that is to be learned; None where all are."""
        return None if self.learned is None else self.learned[self.starts[index] : self.starts[index + 1]]


@dataclass(frozen=True)
class Report:
    """What became of the rows. tokens_in = tokens + tokens_cut + tokens_dropped, always.

    "supervised" counts targets in the loss: learned ids other than the first of a sequence.
    """

    rows: int = 0  # rows that could be read
    kept: int = 0  # sequences in the corpus
    tokens: int = 0  # in the corpus
    supervised: int = 0  # of these
    truncated: int = 0  # sequences cut at the end
    tokens_cut: int = 0
    supervised_cut: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)  # reason: rows
    tokens_dropped: int = 0
    supervised_dropped: int = 0
    unsupervised: int = 0  # kept sequences without any target in the loss
    first_unsupervised: tuple[str, ...] = ()  # where the first of them were read
    bad_rows: int = 0  # rows that could not be read, left out because that was asked for
    first_bad: tuple[str, ...] = ()

    @property
    def tokens_in(self) -> int:
        """All tokens that were rendered, before anything was cut or dropped."""
        return self.tokens + self.tokens_cut + self.tokens_dropped

    def lines(self) -> list[str]:
        """For people: one sentence for each thing that was lost, none where nothing was."""
        said = []
        if self.bad_rows:
            said.append(f"{self.bad_rows} rows could not be used and were left out: {'; '.join(self.first_bad[:3])}")
        if self.truncated:
            lost = f"{self.tokens_cut} tokens, {self.supervised_cut} of them supervised"
            said.append(f"{self.truncated} of {self.kept} sequences were cut at the end, losing {lost}")
        for reason, count in self.dropped.items():
            said.append(f"{count} of {self.rows} rows were dropped: {reason}")
        if self.unsupervised:
            where = "; ".join(self.first_unsupervised[:3])
            said.append(f"{self.unsupervised} kept sequences have nothing to learn: {where}")
        return said


def collect(sequences: Iterable[tuple[Sequence[int] | Ids, Sequence[int] | None]], vocabulary: int) -> Corpus:
    """A corpus in memory of (ids, learned marks or None for all) pairs; either all have marks or none has."""
    dtype = id_type(vocabulary)
    ids, starts, learned, marked = [np.zeros(0, dtype)], array("q", [0]), bytearray(), None
    for sequence, marks in sequences:
        if marked not in (None, marks is not None):
            raise ValueError("some sequences have marks and some have none")
        marked = marks is not None
        ids.append(checked_ids(sequence, dtype, vocabulary))
        starts.append(starts[-1] + len(sequence))
        if marks is not None:
            learned += checked_marks(marks, len(sequence)).tobytes()
    flags = np.frombuffer(bytes(learned), np.uint8) if marked else None
    return Corpus(np.concatenate(ids), np.array(starts, np.int64), flags)


def tokenise(texts: Iterable[str], tokenizer: Tokenizer, *, bos: bool = True, eos: bool = True) -> Corpus:
    """A corpus in memory with one sequence for each text, BOS before and EOS after it; every id is learned.

    Raises ValueError where the tokenizer has no BOS or EOS and one is asked for.
    """
    return collect(((ids, None) for ids in encoded(texts, tokenizer, bos, eos)), tokenizer.size)


def render_all(
    dialogues: Iterable[Sequence[Message]],
    template: Template,
    tokenizer: Tokenizer,
    *,
    learn: Learn = "response",
    length: int,
    over_length: OverLength,
    bad_rows: BadRows = "stop",
) -> tuple[Corpus, Report]:
    """A corpus in memory with one sequence for each dialogue, its learned ids marked, and what was lost on the way.

    length       the most tokens a sequence may have, BOS and end of turn included
    over_length  "cut": keep the first `length` tokens, as Alpaca's released train.py does (its tokenizer truncates on
                 the right): the end of the response is lost, and the end token with it. "drop": leave the sequence out.
                 "stop": raise BadData that names the sequences.
    bad_rows     "skip": leave out dialogues that the template cannot express, and count them in the report

    Raises BadData with all dialogues that the template cannot express, or that are too long where that stops.
    """
    tally = Tally()
    pairs = rendered_pairs(dialogues, template, tokenizer, learn, length, over_length, bad_rows, tally)
    return collect(pairs, tokenizer.size), tally.report()


def check_expressed(dialogues: Iterable[Sequence[Message]], template: Template) -> None:
    """Raises BadData with all dialogues that the template cannot express, without a tokenizer."""
    refused, seen = Rejected(), 0
    for seen, dialogue in enumerate(dialogues, 1):
        try:
            parts(template, dialogue)
        except BadData as error:
            refused.add(getattr(dialogue, "place", "") or f"dialogue {seen}", _joined(error))
    if refused.count:
        raise refused.error("data", seen, remedy=UNEXPRESSED)


def _joined(error: BadData) -> str:
    return "; ".join(str(problem) for problem in error.problems)


def id_type(vocabulary: int) -> np.dtype[Any]:
    """The smallest unsigned type that holds every id of a vocabulary of this size."""
    return np.dtype(np.uint16 if vocabulary <= 1 << 16 else np.uint32)


def encoded(
    texts: Iterable[str], tokenizer: Tokenizer, bos: bool, eos: bool, workers: int | None = None
) -> Iterator[Ids]:
    """The ids of each text between BOS and EOS, made on all cores where there is much to do."""
    if (bos and tokenizer.bos is None) or (eos and tokenizer.eos is None):
        raise ValueError("this tokenizer has no begin or end token; pass bos=False or eos=False")
    before = [tokenizer.bos] if bos and tokenizer.bos is not None else []
    after = [tokenizer.eos] if eos and tokenizer.eos is not None else []
    for ids in encoding.encoded(texts, tokenizer, workers=workers):
        yield np.concatenate([np.array(before, ids.dtype), ids, np.array(after, ids.dtype)])


class Tally:
    """Counts kept while sequences pass."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.unsupervised: list[str] = []
        self.bad = Rejected()  # what the file holds that is no dialogue, and what the template cannot express
        self.long = Rejected()  # what is too long, where that stops

    def keep(self, place: str, tokens: int, supervised: int) -> None:
        self.counts.update(kept=1, tokens=tokens, supervised=supervised)
        if supervised == 0:
            self.counts["unsupervised"] += 1
            if len(self.unsupervised) < SHOWN:
                self.unsupervised.append(place)

    def report(self) -> Report:
        first_bad = tuple(str(problem) for problem in self.bad.first)
        unsupervised = tuple(self.unsupervised)
        return Report(
            **self.counts,
            dropped=dict(self.dropped),
            first_unsupervised=unsupervised,
            bad_rows=self.bad.count,
            first_bad=first_bad,
        )


def rendered_pairs(
    dialogues: Iterable[Sequence[Message]],
    template: Template,
    tokenizer: Tokenizer,
    learn: Learn,
    length: int,
    over_length: OverLength,
    bad_rows: BadRows,
    tally: Tally,
) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """Ids and marks of each dialogue that is kept; see `render_all`."""
    if length < 2:
        raise ValueError(f"length={length}: a sequence needs at least two tokens to have a target")
    if over_length not in get_args(OverLength) or bad_rows not in get_args(BadRows):
        raise ValueError(f"over_length={over_length!r}, bad_rows={bad_rows!r}: say one of the words they have")
    refused = Rejected()
    for number, dialogue in enumerate(dialogues, 1):
        place = getattr(dialogue, "place", "") or f"dialogue {number}"
        tally.counts["rows"] += 1
        try:
            rendered = render(template, dialogue, tokenizer, learn=learn)
        except BadData as error:
            refused.add(place, _joined(error))
            continue
        marks = [int(mark) for mark in rendered.supervised]
        kept = _within(length, rendered.ids, marks, over_length, place, tally)
        stopped = tally.long.count > 0 or (refused.count > 0 and bad_rows == "stop")
        if kept is not None and not stopped:
            tally.keep(place, len(kept[0]), sum(kept[1][1:]))
            yield kept
    tally.bad.merge(refused)
    if refused.count and (bad_rows == "stop" or not tally.counts["kept"]):
        remedy = (
            UNEXPRESSED if bad_rows == "stop" else "none is left to learn from: correct them, or choose another member"
        )
        raise refused.error("data", tally.counts["rows"], remedy=remedy)
    if tally.long.count:
        remedy = f'allow more than {length} tokens, or set over_length to "cut" or "drop"'
        raise tally.long.error("data", tally.counts["rows"], remedy=remedy)


def _within(
    length: int, ids: list[int], marks: list[int], over_length: OverLength, place: str, tally: Tally
) -> tuple[list[int], list[int]] | None:
    """The sequence if it has room in `length` tokens, or what is left of it; counts what is lost."""
    over, targets = len(ids) - length, sum(marks[1:])
    if over <= 0:
        return ids, marks
    if over_length == "stop":
        tally.long.add(place, f"{len(ids)} tokens, over the length of {length}")
        return None
    if over_length == "drop":
        tally.dropped[f"longer than {length} tokens"] += 1
        tally.counts.update(tokens_dropped=len(ids), supervised_dropped=targets)
        return None
    tally.counts.update(truncated=1, tokens_cut=over, supervised_cut=targets - sum(marks[1:length]))
    return ids[:length], marks[:length]


def checked_ids(sequence: Sequence[int] | Ids, dtype: np.dtype[Any], vocabulary: int) -> Ids:
    wide = np.asarray(sequence, np.int64)
    if wide.size and not (wide.min() >= 0 and wide.max() < vocabulary):
        raise ValueError(f"ids {wide.min()}..{wide.max()} are outside a vocabulary of {vocabulary}")
    return wide.astype(dtype)


def checked_marks(marks: Sequence[int], length: int) -> Marks:
    flags = np.asarray(marks, np.uint8)
    if flags.size != length or flags.max(initial=0) > 1:
        raise ValueError(f"{flags.size} marks for {length} ids; give one, 0 or 1, for each")
    return flags


def _digest(ids: Ids, starts: NDArray[np.int64], learned: Marks | None) -> str:
    sums = [hashlib.sha256(little_endian(part)).hexdigest() for part in (ids, starts, learned) if part is not None]
    return joined_digest(ids.dtype, sums)


def joined_digest(dtype: np.dtype[Any], sums: Sequence[str]) -> str:
    return hashlib.sha256(" ".join([LAYOUT, dtype.name, *sums]).encode()).hexdigest()


def little_endian(part: NDArray[Any]) -> memoryview:
    ordered = np.ascontiguousarray(part.astype(part.dtype.newbyteorder("<"), copy=False))
    return ordered.view(np.uint8).data
