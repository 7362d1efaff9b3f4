"""A parity certificate: do two models say the same? Token ids of a hard corpus, rendered chats, logits of fixed prompts.

Conversions and merges must keep the first two exactly, and the logits to the bit or within a tolerance. Prompts are
longer than the some twenty tokens that a model with wrongly ordered rotations still survives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from camelid.dialogue.message import Message
from camelid.errors import BadData, UsageError
from camelid.generate.decode import quiet, reach, training
from camelid.generate.loaded import Loaded
from camelid.randomness import key

TOLERANCE = 1e-3  # of the largest logit
PROMPTS = 4
PROMPT_IDS = 96
CORPUS: tuple[str, ...] = (
    "", " ", "   three spaces", "one", " one", "The camel walked 120 miles, then 0.5 more.", "\n\n\t x \r\n", "1234567890",
    "don't we'll I'VE", "naïve cafe\u0301", "é漢字かな한국어", "العربية हिन्दी ไทย", "\U0001f600\U0001f3f3\ufe0f\u200d\U0001f308",
    "\u00a0\u2003\u3000x", "ﬀ Ⅷ ½ x² …—“”", "\u202eabc\u202c\u200b\u200d\ufeff", "a" * 70, "x\x01\x7f\0y",
    "def f(x):\n\treturn {x: [1]}",
    "<s></s><unk>[PAD]", "[INST] <<SYS>>", "<|begin_of_text|><|eot_id|>", "<0x0A>", "### Instruction:\n", "USER: hi ASSISTANT:",
)  # fmt: skip
CHATS: tuple[tuple[Message, ...], ...] = (
    (Message("user", "Where is Aswan?"),),
    (Message("user", "Add them."), Message("assistant", "Which?"), Message("user", " 2 and 3 \n")),
    (Message("system", "Be brief."), Message("user", "Hello </s> there")),
    (Message("user", "Translate.", "Guten Tag"),),
)


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
        ids = [key("parity", number, place) % vocab for place in range(length)]
        ours, theirs = _logits(a, ids), _logits(b, ids)
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


def _rendered(model: Loaded, chat: Sequence[Message]) -> object:
    """Ids, loss mask and stops; or that the template cannot express the chat, which is an answer too."""
    try:
        rendered = model.render(chat, generate=True)
    except (BadData, UsageError):
        return None
    return rendered.ids, rendered.supervised, rendered.stop_ids, rendered.stop_texts


@torch.inference_mode()
def _logits(model: Loaded, ids: Sequence[int]) -> torch.Tensor:
    with quiet(training(model.model)):
        logits: torch.Tensor = model.model(torch.tensor([ids], device=model.model.device))
        return logits[0].double().cpu()
