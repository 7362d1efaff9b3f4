"""A model with all that belongs to it: weights, tokenizer, template. What people and programs talk to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from camelid.checkpoints import directory
from camelid.dialogue.message import Message
from camelid.dialogue.published import PLAIN
from camelid.dialogue.template import Rendered, Template, render
from camelid.errors import Problem, UsageError
from camelid.generate.answer import Completion
from camelid.generate.decode import GREEDY, ROWS, Event, complete_all, ended, generate
from camelid.generate.settings import Settings
from camelid.models.llama import Llama
from camelid.models.shape import LlamaShape
from camelid.nn.cache import KeyValueCache
from camelid.tokenizers.protocol import Tokenizer

Said = str | Sequence[Message]


@dataclass(frozen=True)
class Prompt:
    """Ids to answer, what ends the answer, and whether its text begins afresh (see Answer)."""

    ids: tuple[int, ...]
    stop_ids: tuple[int, ...]
    stop_texts: tuple[str, ...]
    starts: bool

    def within(self, settings: Settings) -> Settings:
        """The settings with this prompt's stops beside their own."""
        return replace(
            settings,
            stop_ids=tuple(dict.fromkeys((*settings.stop_ids, *self.stop_ids))),
            stop_texts=tuple(dict.fromkeys((*settings.stop_texts, *self.stop_texts))),
        )


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model, its tokenizer and its template; `template` is None for a base model and for foreign folders.

    `ends` are the ids by which the folder says that a text ends; they stop every answer.
    """

    model: Llama
    tokenizer: Tokenizer
    template: Template | None
    shape: LlamaShape
    path: Path
    ends: tuple[int, ...] = ()

    def prompt(self, said: Said, *, raw: bool = False, template: Template | None = None) -> Prompt:
        """What the model is given for a text (one user message) or for messages.

        raw       the begin token and the text, nothing else: a document's beginning, as base models are trained on.
                  A tokenizer without a begin token gives the text alone. Takes one text, not messages.
        template  another template than the model's own: for asking a base what its child is asked

        Raises BadData for messages that the template cannot express.
        """
        if raw:
            return self._raw(said if isinstance(said, str) else _only_text(said))
        messages = [Message("user", said)] if isinstance(said, str) else said
        rendered = self.render(messages, generate=True, template=template)
        stops = tuple(dict.fromkeys((*rendered.stop_ids, *self.ends)))
        return Prompt(tuple(rendered.ids), stops, rendered.stop_texts, rendered.starts)

    def render(
        self, messages: Sequence[Message], *, generate: bool = False, template: Template | None = None
    ) -> Rendered:
        """The messages in the model's own template (plain text where it has none), or in another."""
        return render(template or self.template or PLAIN, messages, self.tokenizer, generate=generate)

    def tokenize(self, text: str) -> list[int]:
        """Ids of a whole text, without begin or end token; never a control id."""
        return self.tokenizer.encode(text)

    def generate(
        self,
        said: Said | Prompt,
        settings: Settings = GREEDY,
        *,
        raw: bool = False,
        template: Template | None = None,
        cache: KeyValueCache | None = None,
    ) -> Iterator[Event]:
        """The answer as a stream of events (see decode.generate); the template's stops are added to the settings'."""
        prompt = said if isinstance(said, Prompt) else self.prompt(said, raw=raw, template=template)
        own = prompt.within(settings)
        return generate(self.model, prompt.ids, own, self.tokenizer, starts=prompt.starts, cache=cache)

    def complete(
        self,
        said: Said | Prompt,
        settings: Settings = GREEDY,
        *,
        raw: bool = False,
        template: Template | None = None,
    ) -> Completion:
        """The whole answer."""
        return ended(self.generate(said, settings, raw=raw, template=template))

    def complete_all(
        self,
        said: Sequence[Said | Prompt],
        settings: Settings = GREEDY,
        *,
        raw: bool = False,
        template: Template | None = None,
        rows: int = ROWS,
        finished: Callable[[int, Completion], None] | None = None,
    ) -> list[Completion]:
        """The answers to many prompts, decoded together (see decode.complete_all)."""
        prompts = [one if isinstance(one, Prompt) else self.prompt(one, raw=raw, template=template) for one in said]
        return complete_all(
            self.model,
            [prompt.ids for prompt in prompts],
            [prompt.within(settings) for prompt in prompts],
            self.tokenizer,
            starts=[prompt.starts for prompt in prompts],
            rows=rows,
            finished=finished,
        )

    def _raw(self, text: str) -> Prompt:
        begin = () if self.tokenizer.bos is None else (self.tokenizer.bos,)
        end = () if self.tokenizer.eos is None else (self.tokenizer.eos,)
        ids = (*begin, *self.tokenizer.encode(text))
        return Prompt(ids, tuple(dict.fromkeys((*end, *self.ends))), (), starts=not text)


def load(
    path: Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    check: Literal["contents", "lengths"] = "contents",
) -> Loaded:
    """The model in a folder, ours or Hugging Face's, ready to answer. `dtype` is that of the stored weights by default.

    Raises BadFile naming everything that is wrong with the folder, before any weight is read.
    """
    checkpoint = directory.load(path, check=check)
    tokenizer, template = checkpoint.tokenizer, checkpoint.template
    model = directory.build(checkpoint, dtype, device).eval().requires_grad_(False)
    return Loaded(model, tokenizer, template, checkpoint.shape, checkpoint.path, checkpoint.generation.eos)


def _only_text(messages: Sequence[Message]) -> str:
    if len(messages) == 1 and messages[0].role == "user" and not messages[0].input:
        return messages[0].content
    found = f"{len(messages)} messages, or one with more than a text"
    raise UsageError([Problem("raw", found, "give one text: roles and inputs need a template")])
