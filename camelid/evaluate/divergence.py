"""How far one model's predictions lie from another's on the same ids: perplexities, Kullback-Leibler, first choices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from camelid.errors import Problem, UsageError
from camelid.evaluate.likelihood import LOGITS_AT_ONCE, windows
from camelid.generate.decode import quiet, reach, training
from camelid.models.llama import Llama

WINDOW = 512  # ours: ids read together, as llama.cpp's perplexity tool has by default; the context if that is shorter


@dataclass(frozen=True)
class Divergence:
    """What was found over `tokens` predicted ids, in windows of `window` ids of which the second half is counted.

    `kl` is the mean over ids of the sum over the vocabulary of p ln(p / q), p the original's probabilities, in nats;
    `same_first` the share of ids at which both models find the same id likeliest.
    """

    tokens: int
    window: int
    perplexity: float
    perplexity_of_original: float
    kl: float
    kl_largest: float
    same_first: float

    def data(self) -> dict[str, Any]:
        """The same as a JSON object."""
        return asdict(self)


def divergence(original: Llama, other: Llama, ids: Sequence[int]) -> Divergence:
    """Both models over the same ids, each but the first predicted once, from at least half a window where there is one.

    Raises UsageError for fewer than two ids, and for models with different vocabularies or contexts.
    """
    if original.shape.vocab != other.shape.vocab:
        rows = f"have {original.shape.vocab} and {other.shape.vocab} rows"
        raise UsageError([Problem("models", rows, "compare models that share a tokenizer")])
    if len(ids) < 2:
        raise UsageError([Problem("text", f"has {len(ids)} ids", "give a text of two tokens or more")])
    window = min(reach(original.shape), reach(other.shape), WINDOW)
    sums = torch.zeros(4, dtype=torch.float64)
    largest = 0.0
    with quiet(training(original)), quiet(training(other)):
        for part, first in windows(ids, window, max(1, window // 2)):
            found, most = _read(original, other, part, first)
            sums += found
            largest = max(largest, most)
    count = len(ids) - 1
    own, others, kl, same = (sums / count).tolist()
    return Divergence(count, window, math.exp(-others), math.exp(-own), kl, largest, same)


@torch.inference_mode()
def _read(original: Llama, other: Llama, ids: Sequence[int], first: int) -> tuple[Tensor, float]:
    """Sums over ids[first:] of both log-probabilities, of the divergence, and of equal first choices; its largest."""
    states = [model.hidden(torch.tensor([ids]))[0, first - 1 : -1] for model in (original, other)]
    targets = torch.tensor(ids[first:])
    at_once = max(1, LOGITS_AT_ONCE // (4 * original.shape.vocab))  # float64, for two models
    sums, largest = torch.zeros(4, dtype=torch.float64), 0.0
    for start in range(0, len(targets), at_once):
        rows = slice(start, start + at_once)
        logits = [
            nn.functional.linear(state[rows], model.head_weight()).double()
            for model, state in zip((original, other), states, strict=True)
        ]
        p, q = (torch.log_softmax(one, dim=-1) for one in logits)
        kl = (p.exp() * (p - q)).sum(-1)
        same = (p.argmax(-1) == q.argmax(-1)).double()
        chosen = [one.gather(-1, targets[rows, None]).sum() for one in (p, q)]
        sums += torch.stack([*chosen, kl.sum(), same.sum()])
        largest = max(largest, float(kl.max()))
    return sums, largest
