"""An answer as it grows, one id at a time, and the whole of it when it has ended.

The same object serves streaming and decoding of many prompts at once, so both show the same text and stop alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from camelid.errors import Problem, UsageError
from camelid.generate.sample import Ranked
from camelid.generate.settings import Settings
from camelid.generate.stop import StopTexts
from camelid.tokenizers.protocol import StreamDecoder, Tokenizer

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Completion:
    """What came of one prompt.

    token_ids      every generated id, the one that stopped it included
    text           their text, without control tokens, without a stop id's text, cut before the stop text
    logprobs       one natural log-probability per generated id, of the model's own distribution: log_softmax of the raw
                   logits in float32, before temperature, penalties and filters
    finish_reason  "stop" (a stop id or stop text came) or "length" (max_tokens, or the context is full)
    prompt_logprobs  the same for the ids of the prompt, None for the first of them; None where not asked for
    top_logprobs   the likeliest ids, with their log-probabilities, at the place of each generated id; None where not
                   asked for; prompt_top_logprobs the same for the prompt, empty for its first id
    """

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    prompt_logprobs: tuple[float | None, ...] | None = None
    top_logprobs: tuple[Ranked, ...] | None = None
    prompt_top_logprobs: tuple[Ranked, ...] | None = None

    def data(self) -> dict[str, Any]:
        """The completion as JSON; `prompt_logprobs` and the top ones are there when they were asked for."""
        found: dict[str, Any] = {
            "prompt_ids": list(self.prompt_ids),
            "token_ids": list(self.token_ids),
            "text": self.text,
            "logprobs": list(self.logprobs),
            "finish_reason": self.finish_reason,
        }
        if self.prompt_logprobs is not None:
            found["prompt_logprobs"] = list(self.prompt_logprobs)
        for name in ("top_logprobs", "prompt_top_logprobs"):
            tops: tuple[Ranked, ...] | None = getattr(self, name)
            if tops is not None:
                found[name] = [[{"id": id, "logprob": logprob} for id, logprob in top] for top in tops]
        return found


class Answer:
    """Takes generated ids one by one and gives the text that may be shown, until a stop or until `room` ids are there.

    Without a tokenizer there is no text, and stop texts cannot be found: asking for them raises UsageError. `starts`
    says whether the answer begins a text of its own or continues the prompt's (SentencePiece: whether the blank of the
    first piece belongs to the text). Ids of padded rows, which the model has and the tokenizer lacks, show nothing.
    """

    def __init__(
        self,
        prompt_ids: Sequence[int],
        settings: Settings,
        tokenizer: Tokenizer | None,
        *,
        room: int,
        starts: bool = False,
    ) -> None:
        if tokenizer is None and settings.stop_texts:
            found = "given without a tokenizer, so no text is there to search"
            raise UsageError([Problem("stop_texts", found, "give the tokenizer, or use stop_ids")])
        self.prompt_ids, self.starts = tuple(prompt_ids), starts
        self.prompt_logprobs: tuple[float | None, ...] | None = None
        self.prompt_top_logprobs: tuple[Ranked, ...] | None = None
        self.finish_reason: FinishReason | None = None
        self._room = min(room, settings.max_tokens)
        self._stop_ids = frozenset(settings.stop_ids)
        self._decoder: StreamDecoder | None = None if tokenizer is None else tokenizer.stream(starts=starts)
        self._size = 0 if tokenizer is None else tokenizer.size
        self._stop = StopTexts(settings.stop_texts)
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        self._tops: list[Ranked] | None = [] if settings.top_logprobs else None
        self._text: list[str] = []
        if self._room <= 0:
            self.finish_reason = "length"

    def add(self, id: int, logprob: float, top: Ranked = ()) -> str:
        """The text that this id lets be shown, with all that was held back once it ends the answer."""
        assert self.finish_reason is None, "an ended answer takes no more ids"
        self._ids.append(id)
        self._logprobs.append(logprob)
        if self._tops is not None:
            self._tops.append(top)
        if id in self._stop_ids:
            self.finish_reason = "stop"
            return self._show(self._rest())
        known = self._decoder is not None and id < self._size
        shown = self._stop.push(self._decoder.push(id)) if self._decoder and known else ""
        if self._stop.stopped is not None:
            self.finish_reason = "stop"
        elif len(self._ids) >= self._room:
            shown += self._rest()
            self.finish_reason = "stop" if self._stop.stopped is not None else "length"
        return self._show(shown)

    def completion(self) -> Completion:
        """The whole answer; one that was left before its end counts as ended by length."""
        if self.finish_reason is None:
            self.finish_reason = "length"
            self._show(self._rest())
        return Completion(
            self.prompt_ids,
            tuple(self._ids),
            "".join(self._text),
            tuple(self._logprobs),
            self.finish_reason,
            self.prompt_logprobs,
            None if self._tops is None else tuple(self._tops),
            self.prompt_top_logprobs,
        )

    def _rest(self) -> str:
        """What the decoder and the search for stop texts still hold."""
        shown = self._stop.push(self._decoder.finish()) if self._decoder else ""
        return shown + self._stop.finish()

    def _show(self, text: str) -> str:
        if text:
            self._text.append(text)
        return text
