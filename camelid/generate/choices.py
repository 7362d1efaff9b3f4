"""Several answers to one prompt: n of them, the best n of many, or those that a search by beams finds.

Answers that are drawn are requests of their own, the first with the seed that was given and each further one with a
seed derived from it: whatever decodes requests can decode them, together or apart, and the first of n is the one that
is given alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from camelid.generate.answer import Completion
from camelid.generate.beams import search
from camelid.generate.decode import GREEDY, Model, complete, complete_all
from camelid.generate.settings import Settings
from camelid.nn.paged import CacheKind
from camelid.randomness import key
from camelid.tokenizers.protocol import Tokenizer


def branches(settings: Settings) -> tuple[Settings, ...]:
    """The requests, each for one answer, that `n` and `best_of` stand for."""
    count = max(settings.n, settings.best_of)
    one = replace(settings, n=1, best_of=0)
    return (one, *(replace(one, seed=key(settings.seed, "choice", number)) for number in range(1, count)))


def best(settings: Settings, drawn: Sequence[Completion]) -> tuple[Completion, ...]:
    """The `n` answers to give of all that were drawn: those of the highest mean log-probability, the best first.

    All of them, in the order of their seeds, where no more were drawn.
    """
    if len(drawn) <= settings.n:
        return tuple(drawn)
    return tuple(sorted(drawn, key=lambda one: -mean(one))[: settings.n])


def mean(completion: Completion) -> float:
    """The mean log-probability of the ids of an answer; 0 for an empty one."""
    return sum(completion.logprobs) / max(1, len(completion.logprobs))


def complete_choices(
    model: Model,
    prompt_ids: Sequence[int],
    settings: Settings = GREEDY,
    tokenizer: Tokenizer | None = None,
    *,
    starts: bool = False,
    cache: CacheKind = "float",
) -> tuple[Completion, ...]:
    """The `n` answers that the settings ask for; arguments and faults are those of decode.generate."""
    if settings.beams > 1:
        found = search(model, prompt_ids, settings, tokenizer, starts=starts, cache=cache)
        notes = dict[str, Any]()
        if settings.prompt_logprobs:
            asked = Settings(max_tokens=0, prompt_logprobs=True, top_logprobs=settings.top_logprobs)
            noted = complete(model, prompt_ids, asked, cache=cache)
            notes = {name: getattr(noted, name) for name in ("prompt_logprobs", "prompt_top_logprobs")}
        return tuple(replace(beam.completion, **notes) for beam in found)
    wanted = branches(settings)
    return best(
        settings, complete_all(model, [prompt_ids] * len(wanted), wanted, tokenizer, starts=starts, cache=cache)
    )
