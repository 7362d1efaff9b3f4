"""A certificate of what a model says, made when it is trained and kept with it: ids, chats, logits, for checking again.

    texts    a fixed hard corpus and the names of all control tokens, as ids
    chats    fixed conversations in the model's own template: ids, loss mask, stops, or that it cannot express them
    logits   of fixed prompts longer than the some twenty tokens that a model with wrongly ordered rotations survives:
             at each position the likeliest id and the logits of 32 fixed ids, computed in the dtype that is noted

It travels with the model through convert, merge and quantize. A tokenizer, template or weight that was changed on the
way is found; see evaluate/parity.py.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from camelid.checkpoints.directory import CERTIFICATE, Checkpoint
from camelid.checkpoints.names import expected
from camelid.checkpoints.safetensors_io import Deferred
from camelid.dialogue.message import Message
from camelid.dialogue.published import PLAIN
from camelid.dialogue.template import Template, render
from camelid.durable import json_bytes
from camelid.errors import BadData, BadFile, UsageError
from camelid.generate.decode import Model, quiet, reach, training
from camelid.machine import GIB, available
from camelid.models.llama import Llama
from camelid.models.shape import LlamaShape
from camelid.randomness import key
from camelid.tokenizers.protocol import Tokenizer

FORMAT = "camelid certificate 1"
PROMPTS = 4
PROMPT_IDS = 96
DTYPES = ("float32", "bfloat16", "float16", "float64")
SAMPLED = 32  # logits kept at each position
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

Chat = tuple[tuple[int, ...], tuple[bool, ...], tuple[int, ...], tuple[str, ...]] | None


@dataclass(frozen=True, eq=False)
class Certificate:
    """What was found. `weights` tells how the weights were stored, `dtype` in what the logits were computed."""

    texts: tuple[tuple[str, tuple[int, ...]], ...]
    chats: tuple[Chat, ...]
    likeliest: NDArray[np.int64]  # [P, T]
    logits: NDArray[np.float32]  # [P, T, S]
    largest: float  # magnitude of any logit
    weights: str
    dtype: str

    def data(self) -> dict[str, Any]:
        """The same as a JSON object."""
        return {
            "format": FORMAT,
            "weights": self.weights,
            "dtype": self.dtype,
            "texts": [[text, list(ids)] for text, ids in self.texts],
            "chats": [None if chat is None else [list(part) for part in chat] for chat in self.chats],
            "likeliest": self.likeliest.tolist(),
            "shape": list(self.logits.shape),
            "logits": base64.b64encode(self.logits.astype("<f4").tobytes()).decode(),
            "largest": self.largest,
        }

    def files(self) -> dict[str, bytes]:
        """The same as the file that goes with a folder, by its name."""
        return {CERTIFICATE: json_bytes(self.data())}


def certified(
    model: Model, tokenizer: Tokenizer, template: Template | None, shape: LlamaShape, *, weights: str | None = None
) -> Certificate:
    """The certificate of a model, computed in its own dtype."""
    corpus = (*CORPUS, *(f"a {name} b" for name in sorted(tokenizer.controls)[:64]))
    length = min(PROMPT_IDS, reach(shape))
    likeliest, kept, largest = [], [], 0.0
    sampled = torch.tensor([key("certificate", "id", number) % shape.vocab for number in range(SAMPLED)])
    for number in range(PROMPTS):
        found = logits_of(model, prompt(number, shape.vocab, length))
        largest = max(largest, float(found.abs().max()))
        likeliest.append(found.argmax(-1).numpy())
        kept.append(found[:, sampled].float().numpy())
    dtype = str(model.dtype).removeprefix("torch.")
    return Certificate(
        texts=tuple((text, tuple(tokenizer.encode(text))) for text in corpus),
        chats=tuple(rendered(chat, tokenizer, template) for chat in CHATS),
        likeliest=np.stack(likeliest),
        logits=np.stack(kept),
        largest=largest,
        weights=weights or dtype,
        dtype=dtype,
    )


def certificate(
    weights: Mapping[str, torch.Tensor | Deferred],
    shape: LlamaShape,
    tokenizer: Tokenizer,
    template: Template | None,
    *,
    device: str = "cpu",
    note: Callable[[str], None],
) -> dict[str, bytes]:
    """The file in which a model's answers are noted, made from the weights that are to be saved; none, which is told by
    `note`, where there is no memory to hold those that wait on disk or are yet to be merged."""
    waiting = sum(weight.bytes for weight in weights.values() if isinstance(weight, Deferred))
    if waiting and 0 < available(device) < waiting * 1.2:
        note(f"no certificate: it takes {waiting / GIB:.1f} GiB of memory beside the model")
        return {}
    state = {
        name: (weight.read() if isinstance(weight, Deferred) else weight).to(device) for name, weight in weights.items()
    }
    model = Llama(shape, dtype=next(iter(state.values())).dtype, device="meta")
    model.load_state_dict({name: state[name] for name in expected(shape)}, strict=True, assign=True)
    return certified(model.requires_grad_(False).eval(), tokenizer, template, shape).files()


def stored(checkpoint: Checkpoint) -> Certificate | None:
    """The certificate that goes with a model; None where there is none. Raises BadFile for one that is damaged."""
    told = checkpoint.certificate
    return None if told is None else _read(told, checkpoint.path)


def rounded_to(checkpoint: Checkpoint, certificate: Certificate) -> str:
    """What the weights were rounded to since the certificate was made, by this file or one on the way; "" if nothing."""
    before = str(checkpoint.told.get("provenance", {}).get("rounded_to", ""))
    return before or (checkpoint.stored_as if checkpoint.stored_as != certificate.weights else "")


def prompt(number: int, vocab: int, length: int) -> list[int]:
    """The ids of a fixed prompt."""
    return [key("parity", number, place) % vocab for place in range(length)]


def rendered(chat: Sequence[Message], tokenizer: Tokenizer, template: Template | None) -> Chat:
    """Ids, loss mask and stops; None where the template cannot express the chat, which is an answer too."""
    try:
        found = render(template or PLAIN, chat, tokenizer, generate=True)
    except (BadData, UsageError):
        return None
    return (
        tuple(found.ids),
        tuple(map(bool, found.supervised)),
        tuple(found.stop_ids),
        tuple(found.stop_texts),
    )


@torch.inference_mode()
def logits_of(model: Model, ids: Sequence[int]) -> torch.Tensor:
    """[T, V] in float64 on the CPU."""
    with quiet(training(model)):
        logits: torch.Tensor = model(torch.tensor([ids], device=model.device))
        return logits[0].double().cpu()


def _read(told: Mapping[str, Any], path: Path) -> Certificate:
    try:
        if told["format"] != FORMAT:
            raise ValueError(f"is in the format {str(told['format'])[:40]!r}, not {FORMAT!r}")
        if told["dtype"] not in DTYPES:
            raise ValueError(f"was computed in {str(told['dtype'])[:40]!r}, not in one of {', '.join(DTYPES)}")
        shape = tuple(int(size) for size in told["shape"])
        logits = np.frombuffer(base64.b64decode(told["logits"], validate=True), dtype="<f4").reshape(shape)
        likeliest = np.array(told["likeliest"], dtype=np.int64)
        if len(shape) != 3 or likeliest.shape != shape[:2]:
            raise ValueError("holds tables that do not fit each other")
        return Certificate(
            texts=tuple((str(text), tuple(map(int, ids))) for text, ids in told["texts"]),
            chats=tuple(None if chat is None else _chat(chat) for chat in told["chats"]),
            likeliest=likeliest,
            logits=logits,
            largest=float(told["largest"]),
            weights=str(told["weights"]),
            dtype=str(told["dtype"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadFile(path, CERTIFICATE, f"is no certificate: {str(error)[:200]}", "take the original file") from None


def _chat(parts: Sequence[Sequence[Any]]) -> Chat:
    ids, supervised, stop_ids, stop_texts = parts
    return tuple(map(int, ids)), tuple(map(bool, supervised)), tuple(map(int, stop_ids)), tuple(map(str, stop_texts))
