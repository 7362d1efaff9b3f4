"""A tokenizer whose ids are the bytes of the text, and ways to make small corpora."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from types import MappingProxyType

from hypothesis import strategies as st

from camelid.data.corpus import Corpus, collect
from camelid.dialogue.template import Template

BOS, EOS, VOCABULARY = 256, 257, 258

ASK = Template(user="Q: {instruction}\nA:", user_with_input="Q: {instruction}\nC: {input}\nA:")


class ByteTokenizer:
    """Ids 0..255 are bytes, 256 begins, 257 ends; `encoded` counts the texts that came by."""

    size, bos, eos, pad = VOCABULARY, BOS, EOS, None
    controls: Mapping[str, int] = MappingProxyType({"<s>": BOS, "</s>": EOS})

    def __init__(self, name: str = "bytes") -> None:
        self.name, self.encoded = name, 0

    def encode(self, text: str, *, starts: bool = True) -> list[int]:
        self.encoded += 1
        return list(text.encode("utf-8"))

    def decode(self, ids: Iterable[int], *, starts: bool = True) -> str:
        return bytes(id for id in ids if id < 256).decode("utf-8")

    def piece(self, id: int) -> str:
        return {BOS: "<s>", EOS: "</s>"}.get(id) or bytes([id]).decode("latin-1")

    def digest(self) -> str:
        return self.name


def corpus(sequences: Sequence[Sequence[int]], marks: Sequence[Sequence[int]] | None = None) -> Corpus:
    pairs = zip(sequences, marks if marks is not None else [None] * len(sequences), strict=True)
    return collect(pairs, 1 << 20)


def corpora(sequences: int = 12, longest: int = 9, shortest: int = 1) -> st.SearchStrategy[Corpus]:
    """Corpora whose ids are all different, so that every token can be told from every other."""
    lengths = st.lists(st.integers(shortest, longest), min_size=1, max_size=sequences)
    return lengths.filter(any).map(numbered)


def numbered(lengths: Sequence[int]) -> Corpus:
    return corpus([range(end - length, end) for end, length in zip(accumulate(lengths), lengths, strict=True)])
