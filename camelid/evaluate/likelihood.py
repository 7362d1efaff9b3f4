"""How likely a model finds texts, and one text after another: natural logarithms, and bits per byte."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from camelid.errors import Problem, ProblemList, UsageError
from camelid.generate.decode import Model, quiet, reach, scores, training
from camelid.generate.loaded import Loaded

IDS_AT_ONCE = 8192  # ours: ids of a batch, padding included
LOGITS_AT_ONCE = 1 << 24  # ours: 64 MiB of logits in float32


@dataclass(frozen=True)
class Likelihood:
    """The log-likelihood of a text: a sum over its tokens, in nats, and what to divide it by.

    Between models with different tokenizers only bits per byte compare.
    """

    logprob: float
    tokens: int
    bytes: int

    @property
    def per_token(self) -> float:
        """Nats per token; its negative is the loss."""
        return self.logprob / self.tokens

    @property
    def bits_per_byte(self) -> float:
        """Bits that the model needs for each byte of UTF-8; lower is better."""
        return -self.logprob / math.log(2) / self.bytes

    def __add__(self, other: Likelihood) -> Likelihood:
        return Likelihood(self.logprob + other.logprob, self.tokens + other.tokens, self.bytes + other.bytes)


def texts(loaded: Loaded, given: Sequence[str], *, overlap: float = 0.5) -> list[Likelihood]:
    """The likelihood of each text after the begin token, every token of the text counted exactly once.

    A text longer than the context C is read through windows that overlap by the share `overlap`; each token is
    predicted from at least `overlap * C` tokens before it, or from all there are:

        ids        s a b c d e f g h i j          s = begin token, C = 6, overlap = 0.5
        window 1   s A B C D E                    capitals are counted
        window 2         c d e F G H
        window 3               f g h I J

    Raises UsageError, naming all of them, for texts that are empty, and for a tokenizer without a begin token.
    """
    problems = ProblemList()
    if loaded.tokenizer.bos is None:
        problems.add("tokenizer", "has no begin token", "the first token of a text then has no probability")
    if not 0 <= overlap < 1:
        problems.add("overlap", f"{overlap} of a window", "give 0 or more, below 1")
    for index, text in enumerate(given):
        if not text:
            problems.add(f"text {index}", "is empty", "leave it out: it has no bytes to divide by")
    problems.raise_usage()
    context = reach(loaded.shape)
    step = max(1, context - max(1, math.floor(context * overlap)))
    parts: list[tuple[Sequence[int], int]] = []
    owners: list[int] = []
    sums = [0.0] * len(given)
    tokens = [0] * len(given)
    for index, text in enumerate(given):
        ids = [loaded.tokenizer.bos or 0, *loaded.tokenizer.encode(text)]
        tokens[index] = len(ids) - 1
        for window in windows(ids, context, step):
            parts.append(window)
            owners.append(index)
    for owner, logprobs in zip(owners, scored(loaded.model, parts), strict=True):
        sums[owner] += math.fsum(logprobs)
    return [
        Likelihood(total, count, len(text.encode())) for total, count, text in zip(sums, tokens, given, strict=True)
    ]


def continuations(model: Model, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, ...]]:
    """Natural log-probabilities of the ids of each continuation after its prompt, for choosing among answers.

    Raises UsageError naming the pairs with an empty side, and those longer than the context: nothing is cut.
    """
    problems, limit = ProblemList(), reach(model.shape)
    for index, (prompt, answer) in enumerate(pairs):
        if not prompt or not answer:
            problems.add(f"pair {index}", "has an empty side", "give at least one id to each")
        if len(prompt) + len(answer) > limit:
            found = f"{len(prompt)} + {len(answer)} ids exceed the model's context of {limit}"
            problems.add(f"pair {index}", found, "shorten the prompt; nothing is cut silently")
    problems.raise_usage()
    return scored(model, [([*prompt, *answer], len(prompt)) for prompt, answer in pairs])


def scored(model: Model, windows: Sequence[tuple[Sequence[int], int]]) -> list[tuple[float, ...]]:
    """For each (ids, first): log-probabilities of ids[first:], each given all ids before it in the window. first >= 1.

    Windows of similar length are read together, padded at the end, where causality hides the padding.
    """
    found: list[tuple[float, ...]] = [()] * len(windows)
    loud = training(model)
    for group in _groups([len(ids) for ids, _ in windows]):
        with quiet(loud):
            results = _read(model, [windows[index] for index in group])
        for index, logprobs in zip(group, results, strict=True):
            found[index] = logprobs
    return found


def total(likelihoods: Iterable[Likelihood]) -> Likelihood:
    """The likelihood of all texts together: sums divided once, not a mean of means."""
    joined = sum(likelihoods, Likelihood(0.0, 0, 0))
    if not joined.bytes:
        raise UsageError([Problem("texts", "none", "give at least one")])
    return joined


def windows(ids: Sequence[int], context: int, step: int) -> Iterator[tuple[Sequence[int], int]]:
    """Windows of at most `context` ids, and where in each the ids begin that no window before it has counted."""
    done = min(len(ids), context)
    yield ids[:done], 1
    while done < len(ids):
        end = min(len(ids), done + step)
        start = end - context
        yield ids[start:end], done - start
        done = end


def _groups(lengths: Sequence[int]) -> Iterator[list[int]]:
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        if group and lengths[index] * (len(group) + 1) > IDS_AT_ONCE:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


@torch.inference_mode()
def _read(model: Model, windows: Sequence[tuple[Sequence[int], int]]) -> list[tuple[float, ...]]:
    width = max(len(ids) for ids, _ in windows)
    table = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids, _ in windows], device=model.device)
    states = model.hidden(table)  # [B, T, D]
    rows = [row for row, (ids, first) in enumerate(windows) for _ in range(len(ids) - first)]
    places = [place for ids, first in windows for place in range(first, len(ids))]
    row, place = torch.tensor([rows, places], dtype=torch.int64, device=model.device)
    flat = _log_probabilities(model, states[row, place - 1], table[row, place]).tolist()
    ends = [0]
    for ids, first in windows:
        ends.append(ends[-1] + len(ids) - first)
    return [tuple(flat[start:end]) for start, end in pairwise(ends)]


def _log_probabilities(model: Model, states: Tensor, ids: Tensor) -> Tensor:
    """[N] of ids [N] predicted by states [N, D], through slices of the [N, V] logits."""
    at_once = max(1, LOGITS_AT_ONCE // model.shape.vocab)
    parts = zip(torch.split(states, at_once), torch.split(ids, at_once), strict=True)
    return torch.cat([scores(model, model.logits(state), id) for state, id in parts])
