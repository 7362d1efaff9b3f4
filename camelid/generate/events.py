"""What a request tells while it is answered."""

from __future__ import annotations

from dataclasses import dataclass

from camelid.generate.answer import Completion
from camelid.generate.sample import Ranked


@dataclass(frozen=True)
class Token:
    """One generated id, its log-probability, and the text that it lets be shown; "" in the middle of a character.

    `top` are the likeliest ids at its place with their log-probabilities, where `Settings.top_logprobs` asks for them.
    """

    id: int
    logprob: float
    text: str
    top: Ranked = ()


@dataclass(frozen=True)
class End:
    """The last event: the whole answer. The texts of all Tokens, joined, are its text."""

    completion: Completion


Event = Token | End
