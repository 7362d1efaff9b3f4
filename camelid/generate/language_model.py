"""A model as a Python program uses it: what `camelid.load` gives.

    import camelid

    model = camelid.load("path/to/folder")
    model.chat("Where does Mila live?").text
    [answer.text for answer in model.generate(["Name a colour.", "Count to three."], max_tokens=20)]
    for token in model.stream("Tell me a story.", temperature=0.8, seed=1): print(token.text, end="")
    model.score(["a sentence"])[0].perplexity

All of it runs through one engine: what several threads ask at once is decoded together, and beginnings that were read
before are not read again. Neither changes an answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import fields as fields_of
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from camelid.dialogue.message import Message
from camelid.dialogue.template import Template
from camelid.errors import BadData, Problem, ProblemList, UsageError, did_you_mean
from camelid.frozen import from_data, to_data
from camelid.generate.answer import Completion
from camelid.generate.choices import best, branches, complete_choices
from camelid.generate.engine import GREEDY, ROWS, Engine
from camelid.generate.events import Token
from camelid.generate.loaded import Loaded, Prompt, load
from camelid.generate.request import Request
from camelid.generate.settings import Settings
from camelid.native.matrix import KINDS
from camelid.nn.paged import CACHES, CacheKind

Said = str | Sequence[Message | Mapping[str, str]]
ENGINES = ("native", "pytorch", "compiled")
DTYPES = ("float32", "bfloat16", "float16", "float64")


@dataclass(frozen=True)
class Scored:
    """What a model thinks of a text: a natural log-probability for each id after the first, None for the first."""

    ids: tuple[int, ...]
    logprobs: tuple[float | None, ...]

    @property
    def total(self) -> float:
        """The log-probability of the text after its first id."""
        return math.fsum(logprob for logprob in self.logprobs if logprob is not None)

    @property
    def perplexity(self) -> float:
        """e to the mean of what each id costs; NaN where there is nothing after the first."""
        count = len(self.ids) - 1
        return math.exp(-self.total / count) if count else math.nan


class LanguageModel:
    """A loaded model. `loaded` has its weights, tokenizer, template and shape; see Settings for what may be set.

    Settings are given by name (max_tokens=20, temperature=0.8, ...), or as `settings`, or both: names then change it.
    The defaults are greedy. Raises UsageError for settings that cannot be, and for prompts that do not fit, with both
    numbers; nothing is cut.
    """

    def __init__(self, loaded: Loaded, *, rows: int = ROWS) -> None:
        self.loaded, self._rows = loaded, rows

    def __repr__(self) -> str:
        shape = self.loaded.shape
        return f"<camelid model {self.loaded.path.name}: {shape.parameters():,} parameters, {self.loaded.engine}>"

    @cached_property
    def engine(self) -> Engine:
        """What runs all requests."""
        return self.loaded.runs(self._rows)

    def chat(self, messages: Said, settings: Settings = GREEDY, **changes: Any) -> Completion:
        """The answer to a conversation, {"role": ..., "content": ...} in order, or to one user message.

        The model's own template is used; a model without one continues the text.
        """
        own = _changed(settings, changes)
        return self._answers([self.loaded.prompt(_messages(messages))], own, several=False)[0]

    def generate(
        self, prompts: str | Sequence[str], settings: Settings = GREEDY, *, raw: bool = False, **changes: Any
    ) -> list[Completion]:
        """One answer for each prompt, in order; with n=k, k of them for each, side by side.

        `raw` leaves the template out: the begin token and the text, to be continued as a base model was trained.
        """
        own = _changed(settings, changes)
        return self._answers([self.loaded.prompt(text, raw=raw) for text in _texts("prompts", prompts)], own)

    def stream(
        self, said: Said, settings: Settings = GREEDY, *, raw: bool = False, **changes: Any
    ) -> Generator[Token, None, Completion]:
        """The answer token by token; joined, their texts are the answer's. The generator returns the Completion.

        What is wrong is raised at once; leaving early ends the request.
        """
        prompt = self.loaded.prompt(said if isinstance(said, str) else _messages(said), raw=raw)
        own = prompt.within(_changed(settings, changes))
        return _tokens(self.engine.submit(prompt.ids, own, starts=prompt.starts))

    def score(self, texts: str | Sequence[str]) -> list[Scored]:
        """How likely each text is: the begin token and its ids, as a document. Those of one full reading, to the bit."""
        prompts = [self.loaded.prompt(text, raw=True) for text in _texts("texts", texts)]
        found = self._answers(prompts, Settings(max_tokens=0, prompt_logprobs=True))
        return [Scored(one.prompt_ids, one.prompt_logprobs or ()) for one in found]

    def _answers(self, prompts: Sequence[Prompt], settings: Settings, *, several: bool = True) -> list[Completion]:
        if not several and settings.n > 1:
            raise UsageError([Problem("n", f"{settings.n} answers in a conversation", "ask generate for several")])
        if settings.beams > 1:
            model, tokenizer, cache = self.loaded.model, self.loaded.tokenizer, self.loaded.cache
            each = ((prompt, prompt.within(settings)) for prompt in prompts)
            return [
                one
                for prompt, own in each
                for one in complete_choices(model, prompt.ids, own, tokenizer, starts=prompt.starts, cache=cache)
            ]
        groups: list[list[Request]] = []
        try:
            for prompt in prompts:
                wanted = branches(prompt.within(settings))
                groups.append([])
                for own in wanted:
                    groups[-1].append(self.engine.submit(prompt.ids, own, starts=prompt.starts, streams=False))
            return [one for group in groups for one in best(settings, [request.result() for request in group])]
        finally:
            for request in (request for group in groups for request in group):
                request.abort()


def load_model(
    path: str | Path,
    *,
    engine: Literal["native", "pytorch", "compiled"] | None = None,
    weights: Literal["float32", "bf16", "q8_0", "q4_0"] | None = None,
    dtype: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    rows: int = ROWS,
    cache: CacheKind = "float",
    template: Template | None = None,
) -> LanguageModel:
    """See `camelid.load`."""
    problems = ProblemList()
    words: tuple[tuple[str, str | None, Collection[str]], ...] = (
        ("engine", engine, ENGINES),
        ("weights", weights, KINDS),
        ("dtype", dtype, DTYPES),
        ("cache", cache, CACHES),
    )
    for name, value, known in words:
        if value is not None and value not in known:
            problems.add(name, f"found {value!r}", did_you_mean(str(value), tuple(known)))
    for name, count in (("threads", threads), ("rows", rows)):
        if count is not None and (type(count) is not int or count < 1):
            problems.add(name, f"found {count!r}", "give a whole number, 1 or more")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", str(device)):
        problems.add("device", f"found {str(device)!r}", 'give "cpu", "cuda" or "cuda:1"')
    elif str(device) != "cpu" and not torch.cuda.is_available():
        problems.add("device", f"{device} where PyTorch finds no GPU", 'give "cpu"')
    problems.raise_usage()
    if threads is not None:
        torch.set_num_threads(threads)
    found = None if dtype is None else getattr(torch, dtype)
    loaded = load(
        Path(path), dtype=found, device=device, weights=weights, engine=engine, cache=cache, template=template
    )
    return LanguageModel(loaded, rows=rows)


def _tokens(request: Request) -> Generator[Token, None, Completion]:
    for event in request.events():
        if isinstance(event, Token):
            yield event
    return request.result()


def _changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """The settings with some changed by name; lists serve as tuples, and a dict as the pairs of `logit_bias`. Raises
    UsageError for unknown names and types."""
    known = [field.name for field in fields_of(Settings)]
    problems = ProblemList()
    for name in changes:
        if name not in known:
            problems.add(name, "is no setting", did_you_mean(name, known))
    problems.raise_usage()
    if isinstance(biases := changes.get("logit_bias"), Mapping):
        changes = {**changes, "logit_bias": tuple(biases.items())}
    plain = {name: to_data(tuple(value) if isinstance(value, list) else value) for name, value in changes.items()}
    try:
        return from_data(Settings, {**_fields(settings), **plain}, "settings")
    except BadData as error:
        raise UsageError(
            [replace(problem, where=problem.where.removeprefix("settings.")) for problem in error.problems]
        ) from None


def _fields(settings: Settings) -> dict[str, Any]:
    return {field.name: to_data(getattr(settings, field.name)) for field in fields_of(Settings)}


def _texts(name: str, given: str | Sequence[str]) -> list[str]:
    """One text or several. Raises UsageError naming all that are none."""
    problems = ProblemList()
    texts = [given] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            where = name if text is given else f"{name}[{index}]"
            problems.add(where, f"found {type(text).__name__}", "give a text, or a list of texts")
    problems.raise_usage()
    return texts


def _messages(said: Said) -> list[Message]:
    if isinstance(said, str):
        return [Message("user", said)]
    wanted = 'give {"role": "user", "content": "..."}'
    if isinstance(said, Mapping) or not isinstance(said, Iterable):
        raise UsageError([Problem("messages", f"found {type(said).__name__}", f"{wanted}, in a list")])
    found, problems = [], ProblemList()
    for index, one in enumerate(said):
        where = f"messages[{index}]"
        if isinstance(one, Message):
            found.append(one)
        elif isinstance(one, Mapping):
            try:
                found.append(from_data(Message, dict(one), where))
            except BadData as error:
                problems.problems += error.problems
        else:
            problems.add(where, f"found {type(one).__name__}", wanted)
    problems.raise_usage()
    return found
