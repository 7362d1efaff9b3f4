"""Do two models say the same, or a model what its certificate says? Ids of a hard corpus, chats, logits of fixed prompts.

Conversions and merges must keep the first two exactly, and the logits to the bit or within a tolerance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from camelid.dialogue.message import Message
from camelid.generate.certificate import (
    CHATS,
    CORPUS,
    PROMPT_IDS,
    PROMPTS,
    Certificate,
    certified,
    logits_of,
    prompt,
    rendered,
)
from camelid.generate.decode import reach
from camelid.generate.loaded import Loaded

TOLERANCE = 1e-3  # of the largest logit
AGAIN = {"float32": 1e-5, "bfloat16": 3e-2}  # ours: the same computation on another machine, of the largest logit


@dataclass(frozen=True)
class Parity:
    """What two models share. The firsts are None where nothing differs."""

    texts: int
    texts_equal: int
    first_text: str | None
    chats: int
    chats_equal: int
    first_chat: int | None
    prompts: int
    positions: int
    largest_difference: float  # between two logits
    relative: float  # the same, divided by the largest logit of A
    first_position: tuple[int, int] | None  # prompt and place at which the likeliest next ids part
    ids_there: tuple[int, int] | None  # A's and B's
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether all ids are equal and the logits within the tolerance."""
        same = self.texts == self.texts_equal and self.chats == self.chats_equal
        return same and self.relative <= self.tolerance

    @property
    def exact(self) -> bool:
        """Whether even the logits are equal to the bit."""
        return self.holds and self.largest_difference == 0

    def data(self) -> dict[str, Any]:
        """The same as a JSON object."""
        return {"format": "camelid parity 1", "holds": self.holds, "exact": self.exact, **asdict(self)}


def parity(a: Loaded, b: Loaded, *, tolerance: float = TOLERANCE) -> Parity:
    """The certificate of two models, both asked in their own tokenizers and templates."""
    corpus = [*CORPUS, *(f"a {name} b" for name in sorted({*a.tokenizer.controls, *b.tokenizer.controls})[:64])]
    texts = [text for text in corpus if a.tokenize(text) != b.tokenize(text)]
    chats = [number for number, chat in enumerate(CHATS) if _rendered(a, chat) != _rendered(b, chat)]
    vocab, length = min(a.shape.vocab, b.shape.vocab), min(PROMPT_IDS, reach(a.shape), reach(b.shape))
    largest = scale = 0.0
    parted: tuple[int, int] | None = None
    ids_there: tuple[int, int] | None = None
    for number in range(PROMPTS):
        ids = prompt(number, vocab, length)
        ours, theirs = logits_of(a.model, ids), logits_of(b.model, ids)
        if ours.shape != theirs.shape:
            largest, scale = float("inf"), 1.0
            break
        largest = max(largest, float((ours - theirs).abs().max()))
        scale = max(scale, float(ours.abs().max()))
        choices = ours.argmax(-1), theirs.argmax(-1)
        apart = (choices[0] != choices[1]).nonzero()
        if parted is None and len(apart):
            place = int(apart[0])
            parted, ids_there = (number, place), (int(choices[0][place]), int(choices[1][place]))
    return Parity(
        texts=len(corpus),
        texts_equal=len(corpus) - len(texts),
        first_text=texts[0] if texts else None,
        chats=len(CHATS),
        chats_equal=len(CHATS) - len(chats),
        first_chat=chats[0] if chats else None,
        prompts=PROMPTS,
        positions=PROMPTS * length,
        largest_difference=largest,
        relative=largest / scale if scale else largest,
        first_position=parted,
        ids_there=ids_there,
        tolerance=tolerance,
    )


def held(certificate: Certificate, loaded: Loaded, *, tolerance: float | None = None) -> Parity:
    """How far a model is from a certificate; `tolerance` is by default that of the same computation done again."""
    found = certified(loaded.model, loaded.tokenizer, loaded.template, loaded.shape)
    now = dict(found.texts)
    texts = [text for text, ids in certificate.texts if now.get(text, tuple(loaded.tokenize(text))) != ids]
    chats = [
        number
        for number, (before, after) in enumerate(zip_longest(certificate.chats, found.chats, fillvalue=()))
        if before != after
    ]
    largest, parted, ids_there = float("inf"), None, None
    if found.logits.shape == certificate.logits.shape:
        largest = float(np.abs(found.logits.astype(np.float64) - certificate.logits).max())
        apart = np.argwhere(found.likeliest != certificate.likeliest)
        if len(apart):
            prompt, place = map(int, apart[0])
            parted = (prompt, place)
            ids_there = (int(certificate.likeliest[parted]), int(found.likeliest[parted]))
    prompts, length = certificate.likeliest.shape
    return Parity(
        texts=len(certificate.texts),
        texts_equal=len(certificate.texts) - len(texts),
        first_text=texts[0] if texts else None,
        chats=len(certificate.chats),
        chats_equal=len(certificate.chats) - len(chats),
        first_chat=chats[0] if chats else None,
        prompts=prompts,
        positions=prompts * length,
        largest_difference=largest,
        relative=largest / certificate.largest if certificate.largest else largest,
        first_position=parted,
        ids_there=ids_there,
        tolerance=AGAIN.get(certificate.dtype, TOLERANCE) if tolerance is None else tolerance,
    )


def _rendered(model: Loaded, chat: Sequence[Message]) -> object:
    return rendered(chat, model.tokenizer, model.template)


__all__ = ["CHATS", "CORPUS", "Parity", "held", "parity"]
