"""One prompt over a cache of its own, for what walks back and forth in it: speculation and searches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from camelid.errors import ProblemList
from camelid.generate.answer import Answer
from camelid.generate.draw import tops
from camelid.generate.engine import CHUNK
from camelid.generate.forward import Model, quiet, scores, training
from camelid.generate.limits import reach
from camelid.generate.sample import Ranked
from camelid.generate.settings import Settings
from camelid.models.llama import Cache
from camelid.native.llama import NativeLlama
from camelid.nn.cache import KeyValueCache


def check_cache(cache: KeyValueCache, prompt: Sequence[int], settings: Settings) -> None:
    """Raises UsageError unless the cache holds one beginning of the prompt, short of at least its last id."""
    problems = ProblemList()
    if cache.batch != 1 or cache.lengths[0] >= len(prompt):
        found = f"holds {cache.lengths} ids of a prompt of {len(prompt)}"
        problems.add("cache", found, "roll it back so that at least the prompt's last id is read")
    elif settings.prompt_logprobs and cache.lengths[0]:
        problems.add("prompt_logprobs", "the cache holds ids that are not read again", "leave the cache out")
    problems.raise_usage()


@torch.inference_mode()
def opened(
    model: Model, answer: Answer, settings: Settings, cache: KeyValueCache | None = None
) -> tuple[Tensor, KeyValueCache]:
    """Reads the prompt but for what the cache holds of it; logits [1, V] after its last id, and the cache.

    Where they are asked for, the prompt's log-probabilities go to the answer.
    """
    prompt = answer.prompt_ids
    if cache is None:
        room = min(reach(model.shape), len(prompt) + settings.max_tokens)
        cache = Cache(model.shape, 1, room, model.dtype, model.device)
        cache.given = len(prompt)
    if isinstance(model, NativeLlama) and not settings.prompt_logprobs:
        return model.after(torch.tensor([prompt[cache.lengths[0] :]]), cache=cache), cache
    held, noted, top = cache.lengths[0], [], list[Ranked]([()])
    states = torch.empty(1, 0, model.shape.width)
    with quiet(training(model)):
        for first in range(held, len(prompt), CHUNK):
            part = prompt[first : first + CHUNK]
            states = model.hidden(torch.tensor([part], device=model.device), cache=cache)
            if settings.prompt_logprobs:
                following = prompt[first + 1 : first + len(part) + 1]
                logits = model.logits(states[0, : len(following)])
                chosen = torch.tensor(following, dtype=torch.int64, device=logits.device)
                noted += scores(model, logits, chosen).tolist()
                top += tops(logits, settings.top_logprobs, len(top))
    if settings.prompt_logprobs:
        answer.prompt_logprobs = (None, *noted)
        answer.prompt_top_logprobs = tuple(top) if settings.top_logprobs else None
    return model.logits(states[0, -1:]), cache
