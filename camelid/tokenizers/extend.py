"""Growing a vocabulary: by control tokens, as Alpaca does with "[PAD]", and by pieces, as the Chinese members do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, Self, TypeVar, cast

from camelid.errors import Problem, UsageError
from camelid.tokenizers.protocol import Tokenizer
from camelid.tokenizers.sentencepiece import SentencePieceTokenizer


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


def with_pieces(
    tokenizer: Tokenizer,
    learned: Tokenizer,
    size: int | None = None,
    *,
    only: Literal["pieces", "characters"] = "pieces",
) -> SentencePieceTokenizer:
    """The tokenizer with the pieces of `learned` that it lacks after its last id, in their order, each with score 0.

    size    rows of the result: pieces beyond it are left out; None takes all
    only    "characters" takes pieces of a single character alone

    Chinese-LLaMA, scripts/merge_tokenizers.py (facts: chinese-llama-alpaca, tokenizer.merge). Score 0 is the best there
    is, so the new pieces are merged before any old one. Raises UsageError for other kinds of vocabulary, for control
    tokens that stand where the pieces would, and where `learned` does not hold enough new pieces.
    """
    if not isinstance(tokenizer, SentencePieceTokenizer) or not isinstance(learned, SentencePieceTokenizer):
        found = "is no SentencePiece vocabulary, to which alone pieces can be appended"
        raise UsageError([Problem("the parent's tokenizer", found, "start from a LLaMA or Llama 2 model")])
    return tokenizer.with_pieces(learned, size, only)
