"""A conversation with a model: turns are kept, and what the model has read already is not read again."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal

from camelid.dialogue.message import Message
from camelid.dialogue.published import PLAIN
from camelid.errors import Problem, UsageError
from camelid.generate.engine import GREEDY
from camelid.generate.events import End, Event, Token
from camelid.generate.limits import reach
from camelid.generate.loaded import Loaded, Prompt
from camelid.generate.settings import Settings

Forget = Literal["never", "oldest"]
SHARE = (
    4  # ours: where turns may be forgotten, an answer is left a quarter of the context, or max_tokens if that is less
)


@dataclass(frozen=True)
class Forgot:
    """So many exchanges, the oldest, were dropped to make room; the first event of the turn that dropped them."""

    exchanges: int


class Chat:
    """Messages in order, rendered whole through the model's template at every turn, through one engine.

    The engine keeps the pages that it has read; what the new ids begin with is found there, and everything after it is
    read anew. So the answers are those of a fresh session given the same messages, however a reply was tokenised when
    it was said. The model's weights are not to change while the conversation lasts.
    """

    def __init__(
        self, loaded: Loaded, settings: Settings = GREEDY, *, system: str = "", forget: Forget = "never"
    ) -> None:
        if settings.prompt_logprobs:
            found = "asked for in a conversation, whose beginning is not read again"
            raise UsageError([Problem("prompt_logprobs", found, "ask for them of a single prompt")])
        self.loaded, self.settings, self.forget = loaded, settings, forget
        self.messages: list[Message] = [Message("system", system)] if system else []
        self.engine = loaded.runs(rows=1)
        self._speaking: Generator[Event | Forgot, None, None] | None = None

    def say(self, text: str, *, input: str = "") -> Generator[Event | Forgot, None, None]:
        """The reply to a new user message, as a stream; once it has ended, both stand in `messages`.

        A reply that is left early (the iterator closed, the user's interrupt) is kept as far as it was said; one that
        said nothing, or failed, leaves the conversation as it was. Raises UsageError, with both numbers, for a
        conversation that fills the context, unless `forget` is "oldest"; BadData for what the template refuses.
        """
        self._hush()
        asked = [*self.messages, Message("user", text, input)]
        prompt, messages, dropped = self._fitted(asked)
        self._speaking = self._reply(prompt, messages, dropped)
        return self._speaking

    def clear(self) -> None:
        """Begins anew; a system message stays."""
        self._hush()
        self.messages = [message for message in self.messages if message.role == "system"]

    def begin(self, system: str = "") -> None:
        """Begins anew with this system message, or with none."""
        self._hush()
        self.messages = [Message("system", system)] if system else []

    def undo(self) -> Message | None:
        """Takes the last exchange back; the user's message of it, None where there is none."""
        self._hush()
        if len(self.messages) < 2 or self.messages[-1].role != "assistant":
            return None
        *self.messages, asked, _ = self.messages
        return asked

    def _reply(self, prompt: Prompt, messages: list[Message], dropped: int) -> Generator[Event | Forgot, None, None]:
        if dropped:
            yield Forgot(dropped)
        text = ""
        kept = False
        events = self.loaded.generate(prompt, self.settings, engine=self.engine)
        try:
            for event in events:
                if isinstance(event, Token):
                    text += event.text
                if isinstance(event, End):
                    self._keep(messages, text)
                    kept = True
                yield event
        except (GeneratorExit, KeyboardInterrupt):
            if text and not kept:
                self._keep(messages, text)
            raise
        finally:
            self.engine.close()

    def _keep(self, messages: list[Message], text: str) -> None:
        template = self.loaded.template or PLAIN
        self.messages = [*messages, Message("assistant", template.content(text))]

    def _hush(self) -> None:
        """Closes a reply that was left open, so that the cache and the messages are settled."""
        speaking, self._speaking = self._speaking, None
        if speaking is not None:
            speaking.close()

    def _fitted(self, messages: list[Message]) -> tuple[Prompt, list[Message], int]:
        """The prompt, the messages that it shows, and how many exchanges were dropped for it."""
        limit = reach(self.loaded.shape)
        spare = min(self.settings.max_tokens, limit // SHARE) if self.forget == "oldest" else 1
        first = 1 if messages[0].role == "system" else 0
        dropped = 0
        prompt = self.loaded.prompt(messages)
        while len(prompt.ids) + spare > limit and self.forget == "oldest" and len(messages) - first > 2:
            messages = [*messages[:first], *messages[first + 2 :]]
            dropped += 1
            prompt = self.loaded.prompt(messages)
        if len(prompt.ids) >= limit:
            found = f"{len(prompt.ids)} ids with this message leave no room in the model's context of {limit}"
            forgets = "" if self.forget == "oldest" else ', or let it forget its oldest turns (forget="oldest")'
            remedy = f"shorten the message{forgets}, or begin a new conversation"
            raise UsageError([Problem("conversation", found, remedy)])
        return prompt, messages, dropped
