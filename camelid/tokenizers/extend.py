"""Growing a vocabulary by control tokens, as Alpaca does with "[PAD]"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self, TypeVar, cast

from camelid.tokenizers.protocol import Tokenizer


class Extendable(Protocol):
    """A tokenizer that can be given further control tokens; all of ours can."""

    def with_controls(self, names: Sequence[str]) -> Self: ...

    def with_pad(self, name: str) -> Self: ...


T = TypeVar("T", bound=Tokenizer)


def with_controls(tokenizer: T, names: Sequence[str]) -> T:
    """The same tokenizer with control tokens of these names, new ones after the last id. Text yields none of them.

    Raises UsageError for a name that stands for text already.
    """
    return cast(T, cast(Extendable, tokenizer).with_controls(names))


def with_pad(tokenizer: T, name: str = "[PAD]") -> T:
    """The same tokenizer, padding with the control token `name`; it gets the next id if it is new (Alpaca: 32000)."""
    return cast(T, cast(Extendable, tokenizer).with_pad(name))
