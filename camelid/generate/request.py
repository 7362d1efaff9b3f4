"""One prompt on its way through the engine, and the one owner of everything that it takes up there."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Literal

from camelid.errors import CamelidError
from camelid.generate.answer import Answer, Completion
from camelid.generate.events import End, Event, Token
from camelid.generate.pages import Lease
from camelid.generate.sample import Drawn, Ranked, Sampler
from camelid.generate.settings import Settings

State = Literal["waiting", "running", "ended"]


class Request:
    """Place in the queue, slot, pages, and stream of one prompt. However it ends, all four are given back in one place,
    `Engine.release`; ending twice, or before anything began, does no harm.

    state       "waiting" for a slot, "running", or "ended"
    completion  the answer, once it has ended by itself
    error       why it failed, if it did: its own logits were not finite, or the call that it was part of failed
    cancelled   whether somebody asked for it to end; obeyed before the engine's next step
    """

    def __init__(
        self,
        number: int,
        settings: Settings,
        answer: Answer,
        sampler: Sampler,
        *,
        owner: Hashable,
        room: int | None,
        streams: bool,
        drive: Callable[[Request], None],
        release: Callable[[Request], None],
    ) -> None:
        self.number, self.settings, self.answer = number, settings, answer
        self.owner, self.room = owner, room
        self.state: State = "waiting"
        self.cancelled = False
        self.completion: Completion | None = None
        self.error: BaseException | None = None
        self.ids: list[int] = list(answer.prompt_ids)  # prompt and answer so far
        self.held = 0  # ids whose keys and values are in its pages
        self.reused = 0  # ids that were in pages when it first began
        self.preempted = 0
        self.noted: list[float] = []  # log-probabilities of the prompt's ids from the second on
        self.tops: list[Ranked] = [()]  # the likeliest ids at each place of the prompt, where asked for
        self.slot: int | None = None
        self.lease: Lease | None = None
        self.sampler = sampler
        self._streams, self._drive, self._release = streams, drive, release
        self._events: deque[Event] = deque()

    @property
    def prompt_ids(self) -> Sequence[int]:
        return self.answer.prompt_ids

    @property
    def left(self) -> int:
        """Ids that are known and not yet read."""
        return len(self.ids) - self.held

    @property
    def told(self) -> bool:
        """Whether there is something for who listens: an event, or its end."""
        return bool(self._events) or self.state == "ended"

    def say(self, drawn: Drawn) -> None:
        """Takes the next id of the answer, which may be its last."""
        text = self.answer.add(drawn.id, drawn.logprob, drawn.top)
        self.ids.append(drawn.id)
        self.sampler.take(drawn.id)
        if self._streams:
            self._events.append(Token(drawn.id, drawn.logprob, text, drawn.top))

    def finish(self) -> None:
        """The answer is whole."""
        if self.settings.prompt_logprobs:
            self.answer.prompt_logprobs = (None, *self.noted)
            self.answer.prompt_top_logprobs = tuple(self.tops) if self.settings.top_logprobs else None
        self.completion = self.answer.completion()
        if self._streams:
            self._events.append(End(self.completion))

    def cancel(self) -> None:
        """Asks for the end, from any thread and without waiting; what it holds is given back before the next step."""
        self.cancelled = True

    def abort(self) -> None:
        """Ends it now, whatever state it is in; what it holds is given back on return."""
        self._release(self)

    def events(self) -> Iterator[Event]:
        """Tokens as they are drawn, then End; whoever waits drives the engine, and all other requests with it.

        Leaving early aborts the request. Raises what made it fail; ends without End if it was aborted.
        """
        try:
            while True:
                while self._events:
                    yield self._events.popleft()
                if self.state == "ended":
                    break
                self._drive(self)
            if self.error is not None:
                raise self.error
        finally:
            self.abort()

    def result(self) -> Completion:
        """The whole answer, driving the engine until it is there. Raises what made it fail, or CamelidError if it was
        aborted."""
        try:
            while self.state != "ended":
                self._events.clear()  # nobody listens
                self._drive(self)
        finally:
            self.abort()
            self._events.clear()
        if self.error is not None:
            raise self.error
        if self.completion is None:
            raise CamelidError(f"request {self.number} was aborted before its answer was whole")
        return self.completion
