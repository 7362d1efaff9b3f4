"""Batches: N tokens laid end to end, no padding; segment ids keep documents apart.

    ids       <s> the  cat  </s> <s> a    dog  </s>
    targets   the cat  </s>  -   a   dog  </s>  -       the next id of the same document; 0 where there is none
    learned    1   1    1    0   1    1    1    0       1 where the target counts in the loss
    segments   0   0    0    0   1    1    1    1       attention stays inside a segment; positions restart in each

Both builders are pure functions of (seed, digest of the data, step): nothing has to be replayed to resume, and the
cursor of a run is the step alone. A step's micro-batches are its logical shards: their partition depends on the step,
on `micro_tokens` and on `shares`, never on how many processes share them, and they are listed in a fixed order.

    micro_tokens    the most that one may hold
    shares          with more than one, a step is cut into a multiple of so many of about equal size, as far as it has
                    rows or sequences: processes that share it are then done at the same time
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

from camelid.data.corpus import Corpus, Ids, Marks
from camelid.data.mixture import Mixture
from camelid.errors import ProblemList
from camelid.randomness import key, order


@dataclass(frozen=True, eq=False)
class Batch:
    """Documents laid end to end, each array [1, N]; see the drawing at the head of this file."""

    ids: NDArray[np.int64]  # [1, N]
    targets: NDArray[np.int64]  # [1, N]: the next id of the same document, 0 where there is none
    learned: NDArray[np.bool_]  # [1, N]: whether the target at this place counts in the loss
    segments: NDArray[np.int32]  # [1, N]: 0, 1, 2 ... in order; a border wherever positions restart

    @property
    def tokens(self) -> int:
        """N: how many tokens the model sees."""
        return int(self.ids.shape[1])

    @property
    def supervised(self) -> int:
        """How many targets count in the loss."""
        return int(np.count_nonzero(self.learned))

    @property
    def positions(self) -> NDArray[np.int64]:
        """[1, N]: places counted from 0 within each segment."""
        flat = self.segments[0]
        begins = np.flatnonzero(np.diff(flat, prepend=-1))
        return (np.arange(flat.size) - np.repeat(begins, np.diff(begins, append=flat.size)))[None, :]


@dataclass(frozen=True, eq=False)
class StepBatches(Sequence[Batch]):
    """The micro-batches of one optimizer step in their fixed order, and the counts of the step as a whole.

    The loss of the step is the sum over all micro-batches divided once by `supervised`.
    """

    batches: tuple[Batch, ...]
    supervised: int  # targets of the whole step that count in the loss
    sequences: int  # sequences, or rows when pre-training
    tokens: int

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | Sequence[Batch]:
        return self.batches[index]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


def lay(sequences: Sequence[tuple[Ids, Marks | None]]) -> Batch:
    """Whole documents laid end to end as one batch; each comes with the marks of its learned ids, None for all.

    A mark says that the id itself is learned, so it shows one place earlier, where that id is the target. The first id
    of a document is nobody's target, and its mark has no effect. Documents without ids leave no trace.
    """
    sequences = [(ids, marks) for ids, marks in sequences if ids.size]
    lengths = [ids.size for ids, _ in sequences]
    total = sum(lengths)
    flat, targets = np.zeros(total, np.int64), np.zeros(total, np.int64)
    learned = np.zeros(total, np.bool_)
    at = 0
    for (ids, marks), length in zip(sequences, lengths, strict=True):
        flat[at : at + length] = ids
        targets[at : at + length - 1] = ids[1:]
        learned[at : at + length - 1] = True if marks is None else marks[1:] != 0
        at += length
    segments = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    return Batch(flat[None, :], targets[None, :], learned[None, :], segments[None, :])


class PretrainingBatches:
    """Rows of `length` tokens cut from a mixture's token stream, `tokens_per_step / length` rows a step.

    Documents lie one after another. One that crosses the border of a row goes on in the next row as a segment of its
    own, where its positions restart; the last token before the border still has its target, the next id of the
    document, so no token and no target is lost to the cut. What does not fill a last step is left out and counted
    (`left_over` tokens), or kept as a smaller step whose last row may be short.

        row 0 |  doc A . . . . | doc B . . . |      row 1 |  . . doc B | doc C . . . . |
        segment       0              1                         2             3
    """

    def __init__(
        self,
        mixture: Mixture,
        *,
        length: int,
        tokens_per_step: int,
        micro_tokens: int,
        shares: int = 1,
        last: Literal["drop", "keep"] = "drop",
    ) -> None:
        problems = ProblemList()
        if length < 1:
            problems.add("length", f"{length} tokens", "a row holds at least one token")
        elif tokens_per_step < length or tokens_per_step % length:
            below, above = tokens_per_step // length * length, (tokens_per_step // length + 1) * length
            near = f"use {below} or {above}" if below else f"use {above}"
            problems.add("batch", f"{tokens_per_step} tokens a step are not whole rows of {length}", near)
        if micro_tokens < length:
            problems.add("micro_tokens", f"{micro_tokens} tokens hold no row of {length}", f"give at least {length}")
        if shares < 1:
            problems.add("shares", f"{shares} parts of a step", "give at least one")
        problems.raise_usage()
        self.mixture, self.length, self.tokens_per_step = mixture, length, tokens_per_step
        self.rows_per_batch, self.shares = micro_tokens // length, shares
        whole, rest = divmod(mixture.tokens, tokens_per_step)
        self.steps = whole + (1 if rest and last == "keep" else 0)
        self.left_over = 0 if last == "keep" else rest
        if self.steps == 0:
            problems.add(
                "data",
                f"{mixture.tokens} tokens do not fill one step of {tokens_per_step}",
                "give more data or smaller steps",
            )
            problems.raise_usage()

    @property
    def digest(self) -> str:
        """SHA-256 of everything that decides what a step holds; a resumed run must find it unchanged."""
        words = ("pretraining", self.mixture.digest, self.length, self.tokens_per_step, self.steps, self.left_over)
        return hashlib.sha256(repr(words).encode()).hexdigest()

    def at(self, step: int) -> StepBatches:
        """The micro-batches of this step, found without looking at any other. Raises IndexError outside the run."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} is outside a run of {self.steps} steps")
        start = step * self.tokens_per_step
        stop = min(start + self.tokens_per_step, self.mixture.tokens)
        whole = self._lay(start, stop)
        rows = -(-(stop - start) // self.length)
        borders = [row * self.length for row in self._borders(rows)]
        batches = tuple(_cut(whole, begin, end) for begin, end in pairwise(borders))
        return StepBatches(batches, whole.supervised, rows, stop - start)

    def largest(self) -> Batch:
        """A micro-batch as large as any of the run, every target of it learned."""
        borders = self._borders(self.tokens_per_step // self.length)
        return _filled([self.length] * max(end - begin for begin, end in pairwise(borders)))

    def _borders(self, rows: int) -> list[int]:
        """The rows before which a step of so many rows is cut, its end included."""
        if self.shares == 1:
            return [*range(0, rows, self.rows_per_batch), rows]
        count = _count(-(-rows // self.rows_per_batch), self.shares, rows)
        return [rows * index // count for index in range(count + 1)]

    def _lay(self, start: int, stop: int) -> Batch:
        total = stop - start
        ids, targets = np.zeros(total, np.int64), np.zeros(total, np.int64)
        learned, borders = np.zeros(total, np.bool_), np.zeros(total, np.int32)
        borders[:: self.length] = 1
        at = 0
        for piece in self.mixture.pieces(start, stop):
            corpus = self.mixture.corpora[piece.source]
            text, marks = corpus.sequence(piece.document), corpus.marks(piece.document)
            end, followed = at + piece.end - piece.begin, min(piece.end + 1, text.size)
            ids[at:end] = text[piece.begin : piece.end]
            known = followed - piece.begin - 1
            targets[at : at + known] = text[piece.begin + 1 : followed]
            learned[at : at + known] = True if marks is None else marks[piece.begin + 1 : followed] != 0
            borders[at] = 1
            at = end
        segments = np.cumsum(borders, dtype=np.int32) - 1
        return Batch(ids[None, :], targets[None, :], learned[None, :], segments[None, :].astype(np.int32))


class SequenceBatches:
    """Whole sequences, `per_step` of them a step, in a fresh keyed order each epoch, or in the corpus's own ("given").

    The last step of an epoch keeps what is left, however few (Hugging Face's Trainer with drop_last off), so an epoch
    has ceil(sequences / per_step) steps and every sequence comes exactly once in it. Within a step the sequences are
    sorted by length and cut into micro-batches of at most `micro_tokens` tokens, as few as that order allows and as
    evenly filled as can be: neighbours are of like length, and the split never changes which sequences a step holds.
    """

    def __init__(
        self,
        corpus: Corpus,
        *,
        per_step: int,
        epochs: float,
        micro_tokens: int,
        seed: int,
        shares: int = 1,
        sequence: Literal["shuffled", "given"] = "shuffled",
    ) -> None:
        problems = ProblemList()
        longest = int(corpus.lengths.max(initial=0))
        if len(corpus) == 0:
            problems.add("data", "no sequences", "give at least one")
        if empty := int(np.count_nonzero(corpus.lengths == 0)):
            problems.add(
                "data", f"{empty} of {len(corpus)} sequences hold no token", "leave them out, or add BOS and EOS"
            )
        if per_step < 1:
            problems.add("batch", f"{per_step} sequences a step", "give at least one")
        if not (epochs > 0 and math.isfinite(epochs)):
            problems.add("train", f"{epochs} epochs", "give a number above zero")
        if longest > micro_tokens:
            remedy = f"give at least {longest}, or a smaller length"
            problems.add("micro_tokens", f"{micro_tokens} tokens do not hold the longest sequence, {longest}", remedy)
        if shares < 1:
            problems.add("shares", f"{shares} parts of a step", "give at least one")
        problems.raise_usage()
        self.corpus, self.per_step, self.epochs = corpus, per_step, epochs
        self.micro_tokens, self.seed, self.shares, self.sequence = micro_tokens, seed, shares, sequence
        self.steps_per_epoch = -(-len(corpus) // per_step)
        self.steps = math.ceil(Fraction(str(epochs)) * self.steps_per_epoch)  # 1.1 as it is written

    @property
    def digest(self) -> str:
        """SHA-256 of everything that decides what a step holds; a resumed run must find it unchanged."""
        words: tuple[object, ...] = ("sequences", self.corpus.digest, self.per_step, self.steps, self.seed)
        words += (self.sequence,) if self.sequence == "given" else ()
        return hashlib.sha256(repr(words).encode()).hexdigest()

    def chosen(self, step: int) -> list[int]:
        """Which sequences of the corpus this step holds, in drawing order; constant time whatever the step."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} is outside a run of {self.steps} steps")
        epoch, turn = divmod(step, self.steps_per_epoch)
        begin = turn * self.per_step
        places = range(begin, min(begin + self.per_step, len(self.corpus)))
        if self.sequence == "given":
            return list(places)
        shuffled = order(key(self.seed, "sequences", self.corpus.digest, epoch), len(self.corpus))
        return [shuffled[place] for place in places]

    def at(self, step: int) -> StepBatches:
        """The micro-batches of this step, found without looking at any other. Raises IndexError outside the run."""
        chosen = self.chosen(step)
        lengths = self.corpus.starts[np.asarray(chosen) + 1] - self.corpus.starts[np.asarray(chosen)]
        by_length = sorted(range(len(chosen)), key=lambda place: (-int(lengths[place]), place))
        groups = split([int(lengths[place]) for place in by_length], self.micro_tokens, self.shares)
        batches, at = [], 0
        for count in groups:
            members = [chosen[place] for place in by_length[at : at + count]]
            batches.append(lay([(self.corpus.sequence(index), self.corpus.marks(index)) for index in members]))
            at += count
        supervised = sum(batch.supervised for batch in batches)
        return StepBatches(tuple(batches), supervised, len(chosen), int(lengths.sum()))

    def largest(self) -> Batch:
        """A micro-batch as large as any of the run, every target of it learned.

        Of a run of up to SCANNED sequences it is the fullest; of a longer one what no micro-batch can pass.
        """
        longest = int(self.corpus.lengths.max())
        if self.steps * self.per_step > SCANNED:
            most = min(self.micro_tokens, self.per_step * longest)
            return _filled([longest] * (most // longest) + [most % longest] * bool(most % longest))
        fullest: list[int] = []
        known = self.corpus.lengths
        for step in range(self.steps):
            lengths = sorted(known[self.chosen(step)].tolist(), reverse=True)
            at = 0
            for count in split(lengths, self.micro_tokens, self.shares):
                fullest = max(fullest, lengths[at : at + count], key=sum)
                at += count
        return _filled(fullest)


SCANNED = 200_000  # ours: sequences whose lengths are looked through in about a second


def _filled(lengths: Sequence[int]) -> Batch:
    """Documents of these lengths, id 0 throughout, every target learned but the last of each."""
    return lay([(np.zeros(length, np.int64), None) for length in lengths])


def split(lengths: Sequence[int], most: int, shares: int = 1) -> list[int]:
    """How many neighbours go into each group so that none passes `most`: as few groups as neighbours allow, then up to
    the next multiple of `shares`, and among those splits one whose fullest group is the least full. Raises ValueError
    where one length alone passes `most`."""
    if lengths and max(lengths) > most:
        raise ValueError(f"a length of {max(lengths)} does not fit {most}")
    fewest = _count(len(_fill(lengths, most)), shares, len(lengths))
    low, high = max(lengths, default=0), most
    while low < high:
        middle = (low + high) // 2
        if len(_fill(lengths, middle)) <= fewest:
            high = middle
        else:
            low = middle + 1
    return _fill(lengths, high)


def _count(fewest: int, shares: int, items: int) -> int:
    """How many groups to make of so many items: the next multiple of `shares`, where there are so many items."""
    return min(-(-fewest // shares) * shares, items)


def _fill(lengths: Sequence[int], most: int) -> list[int]:
    counts: list[int] = []
    room = 0
    for length in lengths:
        if not counts or length > room:
            counts.append(0)
            room = most
        counts[-1] += 1
        room -= length
    return counts


def _cut(batch: Batch, begin: int, end: int) -> Batch:
    segments = batch.segments[:, begin:end]
    return Batch(
        batch.ids[:, begin:end], batch.targets[:, begin:end], batch.learned[:, begin:end], segments - segments[0, 0]
    )
