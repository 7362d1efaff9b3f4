"""Answers to prompts of ids: one as a stream of events, or many together. A few lines over the engine.

Through the kernels, and through PyTorch on a CPU, an answer has the same bits alone and in any company (goal N4,
tested). On a GPU products of other sizes add in another order: there log-probabilities differ by rounding, and ids where
two of them are as close as that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from camelid.errors import Problem, UsageError
from camelid.generate.answer import Completion
from camelid.generate.draw import pick
from camelid.generate.engine import CHUNK, GREEDY, ROWS, Engine
from camelid.generate.events import End, Event, Token
from camelid.generate.forward import Model, quiet, scores, training
from camelid.generate.limits import check_constraints, check_prompts, check_single, reach
from camelid.generate.settings import Settings
from camelid.nn.paged import CacheKind
from camelid.tokenizers.protocol import Tokenizer


def generate(
    model: Model,
    prompt_ids: Sequence[int],
    settings: Settings = GREEDY,
    tokenizer: Tokenizer | None = None,
    *,
    starts: bool = False,
    cache: CacheKind = "float",
) -> Iterator[Event]:
    """Tokens as they are drawn, then End. Nothing is computed before the first is asked for; faults are raised at once.

    `starts` says whether the answer begins a text of its own (see Answer), `cache` how keys and values are kept (see
    Engine). Raises UsageError for a prompt that is empty, names unknown ids or does not fit the context.
    """
    return Engine(model, tokenizer, rows=1, cache=cache).submit(prompt_ids, settings, starts=starts).events()


def complete(
    model: Model,
    prompt_ids: Sequence[int],
    settings: Settings = GREEDY,
    tokenizer: Tokenizer | None = None,
    *,
    starts: bool = False,
    cache: CacheKind = "float",
) -> Completion:
    """The whole answer to one prompt; arguments and faults are those of `generate`."""
    return (
        Engine(model, tokenizer, rows=1, cache=cache)
        .submit(prompt_ids, settings, starts=starts, streams=False)
        .result()
    )


def ended(events: Iterator[Event]) -> Completion:
    """The completion at the end of a stream of events."""
    for event in events:
        if isinstance(event, End):
            return event.completion
    raise AssertionError("a stream of events ends with End")


def complete_all(
    model: Model,
    prompts: Sequence[Sequence[int]],
    settings: Settings | Sequence[Settings] = GREEDY,
    tokenizer: Tokenizer | None = None,
    *,
    starts: bool | Sequence[bool] = False,
    rows: int = ROWS,
    cache: CacheKind = "float",
    finished: Callable[[int, Completion], None] | None = None,
) -> list[Completion]:
    """The answers to many prompts, in their order, `rows` of them decoded together.

    `settings` and `starts` are one for all or one for each; under one seed equal prompts get equal answers, as they
    would alone. `finished` is told the index and the answer of each prompt as soon as it has one. All prompts are
    checked before the first is read: raises UsageError naming every one that `generate` would refuse.
    """
    each = [settings] * len(prompts) if isinstance(settings, Settings) else list(settings)
    begins = [starts] * len(prompts) if isinstance(starts, bool) else list(starts)
    if len(each) != len(prompts) or len(begins) != len(prompts):
        found = f"{len(each)} settings and {len(begins)} starts for {len(prompts)} prompts"
        raise UsageError([Problem("settings", found, "give one for all or one for each")])
    check_prompts(model.shape, prompts, each)
    check_single(each)
    check_constraints(each)
    engine = Engine(model, tokenizer, rows=rows, cache=cache)
    requests = [
        engine.submit(prompt, own, starts=begin, streams=False)
        for prompt, own, begin in zip(prompts, each, begins, strict=True)
    ]
    index = {request: number for number, request in enumerate(requests)}
    for request in chain([one for one in requests if one.state == "ended"], engine.run()):
        completion = request.result()
        if finished:
            finished(index[request], completion)
    return [request.result() for request in requests]


__all__ = [
    "CHUNK",
    "GREEDY",
    "ROWS",
    "Completion",
    "End",
    "Event",
    "Model",
    "Token",
    "check_constraints",
    "check_prompts",
    "check_single",
    "complete",
    "complete_all",
    "ended",
    "generate",
    "pick",
    "quiet",
    "reach",
    "scores",
    "training",
]
