"""A tokenizer whose ids are any byte strings, and a model that says what it is told: so no weights are needed."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from camelid.dialogue.template import Template
from camelid.generate.loaded import Loaded
from camelid.models.llama import Llama, initialise
from camelid.models.shape import LlamaShape
from camelid.nn.cache import KeyValueCache
from camelid.nn.paged import PagedTokens
from camelid.tokenizers.sentencepiece import SentencePieceTokenizer, train


class ByteStream:
    def __init__(self, tokenizer: ByteTokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:
        return self._decoder.decode(self._tokenizer.bytes_of(id))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


@dataclass
class ByteTokenizer:
    """Ids 0 and 1 are controls, the others stand for `pieces`, which may begin or end inside a character."""

    pieces: Sequence[bytes]
    bos: int | None = 0
    eos: int | None = 1
    pad: int | None = None

    @property
    def size(self) -> int:
        return len(self.pieces) + 2

    @property
    def controls(self) -> Mapping[str, int]:
        return {"<s>": 0, "</s>": 1}

    def bytes_of(self, id: int) -> bytes:
        return b"" if id < 2 else self.pieces[id - 2]

    def encode(self, text: str, *, starts: bool = True) -> list[int]:
        single = {piece: id for id, piece in enumerate(self.pieces, 2) if len(piece) == 1}
        return [single[bytes([byte])] for byte in text.encode()]

    def decode(self, ids: Iterable[int], *, starts: bool = True) -> str:
        return b"".join(map(self.bytes_of, ids)).decode("utf-8", "replace")

    def stream(self, *, starts: bool = True) -> ByteStream:
        return ByteStream(self)

    def piece(self, id: int) -> str:
        return repr(self.bytes_of(id))

    def files(self) -> Mapping[str, bytes]:
        return {}

    def digest(self) -> str:
        return repr(list(self.pieces))


BYTES = ByteTokenizer([bytes([byte]) for byte in range(256)])


class ForcedModel(nn.Module):
    """After the prompt [..., n] it says `scripts[n]`, id by id, each with all the probability there is."""

    def __init__(self, scripts: Sequence[Sequence[int]], vocab: int, context: int = 4096) -> None:
        super().__init__()
        self.scripts = scripts
        self.shape = LlamaShape(1, 1, 1, 1, 2, 1, vocab, context)
        self.dtype, self.device = torch.float32, torch.device("cpu")
        self.rope = type("Rope", (), {"follows_length": False})()
        self._head = torch.eye(vocab) * 100
        self._script: dict[int, tuple[int, int]] = {}
        self.shape.__dict__["width"] = vocab  # states are rows of the head

    def head_weight(self) -> Tensor:
        return self._head

    def logits(self, states: Tensor) -> Tensor:
        return states @ self._head

    def hidden(self, ids: Tensor, *, cache: PagedTokens | KeyValueCache) -> Tensor:
        """States that say the next id of each text's script; the keys carry which script a text follows, and where.

        Prompts are taken to be read at once, and not to share a page.
        """
        states = torch.zeros(*ids.shape, self.shape.vocab)
        if isinstance(cache, KeyValueCache):
            for row, start in enumerate(cache.lengths):
                self._say(ids[row], cache.keys[0, row, 0], start, states[row])
            cache.advance([ids.shape[1]] * len(ids))
            return states
        for slot in np.unique(cache.slots):
            rows = np.flatnonzero(cache.slots == slot)
            keys = cache.cache.keys[0, cache.tables[slot, 0], 0]
            said = torch.zeros(len(rows), self.shape.vocab)
            self._say(ids[0, rows], keys, int(cache.places[rows[0]]), said)
            states[0, rows] = said
        return states

    def _say(self, ids: Tensor, keys: Tensor, start: int, states: Tensor) -> None:
        if not start:
            keys[0, 0], keys[0, 1] = int(ids[-1]), len(ids)
        number, prompt = (int(value) for value in keys[0])
        script = self.scripts[number]
        for row in range(len(ids)):
            said = start + row + 1 - prompt
            states[row, script[said] if 0 <= said < len(script) else 0] = 1

    def forward(self, ids: Tensor, *, cache: PagedTokens | KeyValueCache) -> Tensor:
        return self.hidden(ids, cache=cache) @ self._head


@cache
def small_tokenizer() -> SentencePieceTokenizer:
    """A vocabulary with bytes, learned from a few made-up sentences once per process."""
    people, places = ("Mila", "Oren", "Tova", "Ziv", "Runa"), ("Arl", "Besk", "Corvin", "Dunmar")
    texts = [f"{who} lives in the town of {where}. Who lives there?" for who in people for where in places]
    return train([*texts, *(f"### Instruction: add {n} and {n + 7}, USER: what?" for n in range(40))], vocab=360)


def small(template: Template | None = None, *, context: int = 256, seed: int = 0, spread: float = 12) -> Loaded:
    """A random float64 model with a real tokenizer; its logits spread enough for decided answers."""
    tokenizer = small_tokenizer()
    shape = LlamaShape(2, 32, 4, 2, 8, 48, tokenizer.size, context)
    model = Llama(shape, dtype=torch.float64)
    initialise(model, seed)
    with torch.no_grad():
        model.head_weight().mul_(spread)
    return Loaded(model, tokenizer, template, shape, Path("small"))
