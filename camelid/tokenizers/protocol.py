"""What every tokenizer can do: text and control tokens are different types, so no text ever becomes a control id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol


class StreamDecoder(Protocol):
    """Text as ids arrive: what is pushed out, joined, equals the decoding of all ids at once."""

    def push(self, id: int) -> str:
        """The text that this id settles; "" while a character is incomplete."""
        ...

    def finish(self) -> str:
        """What is left when no more ids come."""
        ...


class Tokenizer(Protocol):
    """Ids for text and text for ids. Control tokens have names and ids of their own and cannot be written as text."""

    @property
    def size(self) -> int:
        """Rows that a model's embedding needs: text, byte and control ids together."""
        ...

    @property
    def bos(self) -> int | None: ...

    @property
    def eos(self) -> int | None: ...

    @property
    def pad(self) -> int | None: ...

    @property
    def controls(self) -> Mapping[str, int]:
        """Control tokens by name, for example {"<s>": 1, "</s>": 2}."""
        ...

    def encode(self, text: str, *, starts: bool = True) -> list[int]:
        """Ids of the text, never a control id, whatever the text says.

        With `starts=False` the text continues earlier text: SentencePiece's dummy prefix is not added.
        """
        ...

    def decode(self, ids: Iterable[int], *, starts: bool = True) -> str:
        """Text of the ids; control ids are left out. `starts` must be as it was when encoding."""
        ...

    def stream(self, *, starts: bool = True) -> StreamDecoder:
        """A decoder that takes one id at a time and never shows half a character."""
        ...

    def bytes_of(self, id: int) -> bytes:
        """What the id adds to a text, b"" for a control id; a character's bytes may be spread over several ids."""
        ...

    def piece(self, id: int) -> str:
        """One id as people write it: "▁the", "<0x0A>", "<s>"."""
        ...

    def files(self) -> Mapping[str, bytes]:
        """The files by which a Hugging Face folder describes this tokenizer, ready to write."""
        ...

    def digest(self) -> str:
        """SHA-256 of what defines the ids: equal digests, equal tokenizers."""
        ...
