"""Random chats, and an oracle that writes each template's format down once more, as characters."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from camelid.dialogue.message import Message
from tests.adversarial import texts

SENTENCES = (
    "The camel walked to Aswan.", "How many dates are 3 baskets?", "Name two rivers.", "Rewrite this: it were late.",
    "Omar's sister sold 42 of them", "Ein Kamel läuft weiter, als man glaubt", "верблюд идёт", "骆驼走了很远。", "yes",
    "def f(n): return n * 3", "No!", "I don't know; ask her.", "First line\nSecond line\n\nThird", "a  b   c",
    "🐪 walks", "1 + 2 = 3",
)  # fmt: skip

# One stretch of a rendered dialogue: a control token ("<name>", True) or text, and whether it is learned.
Stretch = tuple[str, bool, bool]


def benign(seed: int, count: int, *, system: bool, input: bool) -> Iterator[list[Message]]:
    """Chats such as people hold, of one to four exchanges."""
    draw = random.Random(seed)

    def said() -> str:
        text = " ".join(draw.choice(SENTENCES) for _ in range(draw.randint(1, 3)))
        return draw.choice((" ", "  ")) + text + draw.choice((" ", "\n")) if draw.random() < 0.1 else text

    for _ in range(count):
        yield _chat(draw, said, system, input)


def hostile(seed: int, count: int, *, system: bool, input: bool) -> Iterator[list[Message]]:
    """Chats in which every field tries to be structure, some of them empty or with whitespace around."""
    draw = random.Random(seed)
    source = texts(seed, 1_000_000_000)

    def said() -> str:
        around = draw.choice(("", " ", "\n\n", "\t", "\u3000")) if draw.random() < 0.2 else ""
        return around + (next(source) if draw.random() < 0.95 else "") + around

    for _ in range(count):
        yield _chat(draw, said, system, input)


def _chat(draw: random.Random, said: Callable[[], str], system: bool, input: bool) -> list[Message]:
    messages = [Message("system", said())] if system and draw.random() < 0.5 else []
    for _ in range(draw.randint(1, 4)):
        messages.append(Message("user", said(), said() if input and draw.random() < 0.5 else ""))
        messages.append(Message("assistant", said()))
    return messages


# --- the oracle: each format written down from its publication, without our templates ---------------------------------

BELOW = "Below is an instruction that describes a task"
REQUEST = "Write a response that appropriately completes the request.\n\n### Instruction:\n"
CONTEXT = ", paired with an input that provides further context. "


def alpaca(messages: Sequence[Message], bos: str, eos: str, tail: str = "") -> list[Stretch]:
    out: list[Stretch] = [(bos, True, False)]
    for m in messages:
        if m.role == "assistant":
            out += [(m.content, False, True), (eos, True, True)]
        elif m.input:
            form = f"{BELOW}{CONTEXT}{REQUEST}{m.content}\n\n### Input:\n{m.input}\n\n### Response:{tail}"
            out.append((form, False, False))
        else:
            out.append((f"{BELOW}. {REQUEST}{m.content}\n\n### Response:{tail}", False, False))
    return out


def alpaca_lora(messages: Sequence[Message], bos: str, eos: str) -> list[Stretch]:
    return alpaca(messages, bos, eos, "\n")


def llama_2(messages: Sequence[Message], bos: str, eos: str) -> list[Stretch]:
    turns = list(messages)
    if turns[0].role == "system":
        head = "<<SYS>>\n" + turns[0].content + "\n<</SYS>>\n\n"
        asked = turns[1].content.rstrip()
        turns = [Message("user", head + asked), *turns[2:]]
        lead = head + asked
    else:
        lead = turns[0].content.strip()
    out: list[Stretch] = []
    for place, m in enumerate(turns):
        if m.role == "user":
            out += [(bos, True, False), (f"[INST] {lead if place == 0 else m.content.strip()} [/INST]", False, False)]
        else:
            out += [(f" {m.content.strip()} ", False, True), (eos, True, True)]
    return out


def llama_3(messages: Sequence[Message], bos: str, eos: str) -> list[Stretch]:
    out: list[Stretch] = [("<|begin_of_text|>", True, False)]
    for m in messages:
        out += [("<|start_header_id|>", True, False), (m.role, False, False), ("<|end_header_id|>", True, False)]
        learned = m.role == "assistant"
        if learned:
            out += [("\n\n", False, False), (m.content.strip(), False, True)]
        else:
            out.append(("\n\n" + m.content.strip(), False, False))
        out.append(("<|eot_id|>", True, learned))
    return out


VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)


def vicuna(messages: Sequence[Message], bos: str, eos: str) -> list[Stretch]:
    system, turns = (messages[0].content, messages[1:]) if messages[0].role == "system" else (VICUNA_SYSTEM, messages)
    out: list[Stretch] = [(bos, True, False)]
    text = system + " "
    for m in turns:
        if m.role == "user":
            out.append((text + f"USER: {m.content} ASSISTANT:", False, False))
            text = ""
        else:
            out += [(" " + m.content, False, True), (eos, True, True)]
    return out


def plain(messages: Sequence[Message], bos: str, eos: str) -> list[Stretch]:
    out: list[Stretch] = [(bos, True, False)]
    for m in messages:
        out += [(m.content, False, m.role == "assistant")]
        if m.role == "assistant":
            out.append((eos, True, True))
    return out


ORACLES: dict[str, Callable[[Sequence[Message], str, str], list[Stretch]]] = {
    "alpaca": alpaca,
    "alpaca_lora": alpaca_lora,
    "llama_2": llama_2,
    "llama_3": llama_3,
    "vicuna": vicuna,
    "plain": plain,
}
