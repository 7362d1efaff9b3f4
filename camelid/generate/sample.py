"""From logits to the next id: one request at a time, so that no company can change what it gets.

A `Sampler` belongs to one request. It maps a row of logits to an id by the settings, what was said before, and a number
keyed by (seed, position). Where the row came from (alone, from a batch, from a verification of guessed ids) does not
matter. Everything is computed in float64, in the order of ids: a draw depends on the logits alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camelid.errors import CamelidError
from camelid.generate.settings import Settings
from camelid.randomness import key
from camelid.tokenizers.protocol import Tokenizer

if TYPE_CHECKING:
    from camelid.generate.constrain import Matcher

Row = NDArray[np.float64]
Ids = NDArray[np.int64]
Ranked = tuple[tuple[int, float], ...]  # ids and their log-probabilities, the likeliest first

FEW = 512  # ours: ids that a filter looks at first
BITS = 52  # a uniform number u = n / 2^52 keeps u * total below total in float64, whatever the total


@dataclass(frozen=True, slots=True)
class Drawn:
    """The next id, its log-probability, and the likeliest ids with theirs where `top_logprobs` asks for them.

    Log-probabilities are natural and of the model's own distribution: before biases, penalties, temperature, filters.
    """

    id: int
    logprob: float
    top: Ranked = ()


class Sampler:
    """What one request draws, id by id.

    drawn = sampler.draw(row)      the id at `position`; changes nothing
    sampler.take(drawn.id)         now it stands there: penalties and constraints know of it
    sampler.undo(2)                the last two were never taken: for guesses that were wrong
    """

    def __init__(
        self,
        settings: Settings,
        prompt_ids: Sequence[int],
        vocab: int,
        tokenizer: Tokenizer | None = None,
        *,
        starts: bool = False,
    ) -> None:
        """For rows of `vocab` ids; a constraint needs the tokenizer, and `starts` as Answer does.

        Raises UsageError for a constraint that is malformed (see constrain.matcher).
        """
        self.settings = settings
        self.plain = settings.plain
        self._start = len(prompt_ids)
        self._taken: list[int] = []
        self._said = _Said(prompt_ids) if settings.penalises else None
        self._biased = np.array([id for id, _ in settings.logit_bias], dtype=np.int64)
        self._biases = np.array([bias for _, bias in settings.logit_bias], dtype=np.float64)
        self._matcher: Matcher | None = None
        if settings.constraint is not None:
            from camelid.generate.constrain import matcher

            self._matcher = matcher(settings.constraint, tokenizer, vocab, settings.stop_ids, starts=starts)

    @property
    def position(self) -> int:
        """Where in the sequence the next id will stand."""
        return self._start + len(self._taken)

    def draw(self, logits: Tensor | NDArray[Any]) -> Drawn:
        """The next id, from logits [V]. Raises CamelidError where they are not finite."""
        raw = row_of(logits, self.position)
        chosen = self._choose(self._reshaped(raw))
        total = log_total(raw)
        count = self.settings.top_logprobs
        return Drawn(chosen, float(raw[chosen]) - total, ranked(raw - total, count) if count else ())

    def probabilities(self, logits: Tensor | NDArray[Any]) -> Row:
        """The distribution [V] that `draw` draws from."""
        scores = self._reshaped(row_of(logits, self.position))
        found = np.zeros(len(scores))
        if self.settings.draws:
            ids, masses = kept(scores, self.settings)
            found[slice(None) if ids is None else ids] = masses / masses.sum()
        else:
            found[int(scores.argmax())] = 1
        return found

    def take(self, id: int) -> None:
        """The id stands at `position`, which moves on."""
        self._taken.append(id)
        if self._said is not None:
            self._said.add(id)
        if self._matcher is not None:
            self._matcher.take(id)

    def undo(self, count: int) -> None:
        """The last `count` ids were never taken."""
        if not count:
            return
        gone = self._taken[-count:]
        del self._taken[-count:]
        if self._said is not None:
            for id in reversed(gone):
                self._said.remove(id)
        if self._matcher is not None:
            self._matcher.undo(count)

    def _choose(self, scores: Row) -> int:
        if not self.settings.draws:
            return int(scores.argmax())
        ids, masses = kept(scores, self.settings)
        place = draw(masses, uniform(self.settings.seed, self.position))
        return place if ids is None else int(ids[place])

    def _reshaped(self, raw: Row) -> Row:
        """The row after biases, penalties and constraint; a new one unless nothing changes it."""
        if not len(self._biased) and self._said is None and self._matcher is None:
            return raw
        scores = raw.copy()
        scores[self._biased] += self._biases
        if self._said is not None:
            self._said.penalise(scores, self.settings)
        if self._matcher is not None:
            scores[~self._matcher.allowed()] = -np.inf
        return scores


class _Said:
    """The different ids of prompt and answer, in the order in which they first came, and how often each was answered."""

    def __init__(self, prompt_ids: Sequence[int]) -> None:
        distinct = list(dict.fromkeys(prompt_ids))
        self._slots = {id: slot for slot, id in enumerate(distinct)}
        self._ids: Ids = np.array([*distinct, *[0] * 64], dtype=np.int64)
        self._counts: Row = np.zeros(len(self._ids))
        self._prompt = len(distinct)

    def add(self, id: int) -> None:
        slot = self._slots.setdefault(id, len(self._slots))
        if slot == len(self._ids):
            self._ids, self._counts = np.tile(self._ids, 2), np.concatenate([self._counts, np.zeros(slot)])
        self._ids[slot] = id
        self._counts[slot] += 1

    def remove(self, id: int) -> None:
        """Undoes the last `add`, so an id that goes altogether is the last to have come."""
        slot = self._slots[id]
        self._counts[slot] -= 1
        if slot >= self._prompt and not self._counts[slot]:
            del self._slots[id]

    def penalise(self, scores: Row, own: Settings) -> None:
        """Changes the scores of what was said, in place."""
        ids, counts = self._ids[: len(self._slots)], self._counts[: len(self._slots)]
        said = scores[ids]
        again = np.where(said < 0, said * own.repetition_penalty, said / own.repetition_penalty)
        scores[ids] = again - own.presence_penalty * (counts > 0) - own.frequency_penalty * counts


# --- one row --------------------------------------------------------------------------------------------------------


def row_of(logits: Tensor | NDArray[Any], position: int) -> Row:
    """Logits [V] in float64. Raises CamelidError where one is not finite."""
    values = logits.detach().to("cpu", torch.float64).numpy() if isinstance(logits, Tensor) else logits
    row: Row = np.asarray(values, dtype=np.float64)
    if not np.isfinite(row).all():
        raise not_finite(position)
    return row


def log_total(row: Row) -> float:
    """log(sum(exp(row)))."""
    most = row.max()
    masses = np.subtract(row, most)
    np.exp(masses, out=masses)
    return float(most + np.log(masses.sum()))


def ranked(logs: Row, count: int) -> Ranked:
    """The `count` likeliest ids with their log-probabilities, the lower id first among equals."""
    ids = largest(logs, count)
    order = np.lexsort((ids, -logs[ids]))
    return tuple((int(ids[place]), float(logs[ids[place]])) for place in order)


def largest(values: Row, count: int) -> Ids:
    """Ids of the `count` largest, ascending; the lower ids among equals."""
    if count >= len(values):
        return np.arange(len(values))
    return _down_to(values, float(np.partition(values, len(values) - count)[len(values) - count]), count)


def _down_to(values: Row, border: float, count: int) -> Ids:
    """Ids, ascending, of all above `border` and of the first that equal it, `count` together."""
    above, equal = np.flatnonzero(values > border), np.flatnonzero(values == border)
    return np.sort(np.concatenate([above, equal[: count - len(above)]]))


def kept(scores: Row, own: Settings) -> tuple[Ids | None, Row]:
    """The ids that may be drawn, ascending (None: all), and their unnormalised probabilities: temperature, then filters."""
    ids = largest(scores, own.top_k) if 0 < own.top_k < len(scores) else None
    most = scores.max()
    masses: Row = np.subtract(scores if ids is None else scores[ids], most)  # the largest is 0: no overflow
    with np.errstate(over="ignore", under="ignore"):  # at a tiny temperature: -inf, whose exp is 0
        masses /= own.temperature
        np.exp(masses, out=masses)
    for narrow in (_top_p, _min_p, _typical_p):
        keep = narrow(masses, own)
        if keep is not None:
            ids, masses = keep if ids is None else ids[keep], masses[keep]
    return ids, masses


def _top_p(masses: Row, own: Settings) -> Ids | None:
    if own.top_p >= 1:
        return None
    wanted = own.top_p * masses.sum()
    for count in _growing(len(masses)):  # a few ids hold the mass of most rows, and sorting a few is cheap
        head = masses if count == len(masses) else np.partition(masses, len(masses) - count)[len(masses) - count :]
        ordered = np.sort(head)[::-1]
        needed = max(1, int((ordered.cumsum() - ordered < wanted).sum()))
        if needed < count or count == len(masses):
            break
    ordered = ordered[:needed][ordered[:needed] > 0]
    return _down_to(masses, float(ordered[-1]), len(ordered))


def _min_p(masses: Row, own: Settings) -> Ids | None:
    return np.flatnonzero(masses >= own.min_p * masses.max()) if own.min_p else None


def _typical_p(masses: Row, own: Settings) -> Ids | None:
    if own.typical_p >= 1:
        return None
    probabilities = masses / masses.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = -np.log(probabilities)
        entropy = np.where(probabilities > 0, probabilities * surprise, 0).sum()
    distance = np.abs(surprise - entropy)
    for count in _growing(len(masses)):
        whole = count == len(masses)
        near = distance if whole else np.partition(distance, count - 1)[count - 1]
        places = np.arange(count) if whole else np.flatnonzero(distance <= near)
        order = places[np.argsort(distance[places], kind="stable")]
        needed = int((probabilities[order].cumsum() < own.typical_p).sum())
        if needed < len(order) or whole:
            break
    return np.flatnonzero(distance <= distance[order[min(needed, len(order) - 1)]])


def _growing(size: int) -> Iterator[int]:
    """How many to look at: few first, then more, at last all."""
    count = FEW
    while count < size // 2:
        yield count
        count *= 8
    yield size


def draw(masses: Row, number: float) -> int:
    """The place in unnormalised probabilities where `number` in [0, 1) falls; never one of probability 0.

    The cumulative sum runs in the order of ids, so a rounding error moves borders by as much and never swaps ids.
    """
    cumulative = masses.cumsum()
    return int(np.searchsorted(cumulative, number * cumulative[-1], side="right"))


def uniform(seed: int, position: int) -> float:
    """The number in [0, 1) that decides the draw of the id at this position of the sequence."""
    return float(key(seed, "sample", position) >> (63 - BITS)) / float(1 << BITS)


def not_finite(position: int) -> CamelidError:
    """What to say of logits from which nothing can be drawn."""
    return CamelidError(
        f"position {position}: the model's logits are not finite; its weights are damaged or overflow in "
        "this dtype: check the folder, or use float32"
    )


# --- many rows: log-probabilities of given ids ------------------------------------------------------------------------


def log_probabilities(logits: Tensor) -> Tensor:
    """Natural logarithms of the model's own distribution, [..., V]: log_softmax of the raw logits, before temperature,
    penalties and filters, in float32 (float64 if the logits are)."""
    return torch.log_softmax(_wide(logits), dim=-1)


def log_probability(logits: Tensor, ids: Tensor) -> Tensor:
    """`log_probabilities` of one id per row, [...], without the whole table."""
    wide = _wide(logits)
    return wide.gather(-1, ids[..., None]).squeeze(-1) - torch.logsumexp(wide, dim=-1)


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
