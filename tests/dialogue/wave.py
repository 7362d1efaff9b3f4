"""The templates of the supervised members, and each published string written down once more, without our templates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from camelid.dialogue.message import Message
from camelid.dialogue.published import VICUNA_0
from camelid.dialogue.template import Template
from camelid.recipes.anima import PROMPT as ANIMA
from camelid.recipes.baize import PROMPT as BAIZE
from camelid.recipes.belle import PROMPT as BELLE
from camelid.recipes.chinese_vicuna import PROMPT as CHINESE_VICUNA
from camelid.recipes.chinese_vicuna_chat import PROMPT as CHINESE_VICUNA_CHAT
from camelid.recipes.expertllama import PROMPT as EXPERTLLAMA
from camelid.recipes.gorilla import PROMPT as GORILLA
from camelid.recipes.guanaco import PROMPT as GUANACO
from camelid.recipes.guanaco_dataset import PROMPT as GUANACO_DATASET
from camelid.recipes.huatuo import PROMPT as HUATUO
from camelid.recipes.koala import PROMPT as KOALA
from camelid.recipes.lima import PROMPT as LIMA
from camelid.recipes.openassistant import PROMPT as OPENASSISTANT
from camelid.recipes.platypus import PROMPT as PLATYPUS
from camelid.recipes.ultralm import PROMPT as ULTRALM

BAIZE_HEAD = "The conversation between human and AI assistant.\n"
HUMAN_0 = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the human's questions.\n"
)
ULTRA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, very detailed, "
    "and polite answers to the user's questions."
)
BELOW = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n"
)
CHAT_ZH = (
    "The following is a conversation between an AI assistant called Assistant and a human user called User. "
    "The assistant is intelligent, knowledgeable and polite to answer questions of user.\n\n"
)
MED = "下面是一个问题，运用医学知识来正确回答提问.\n### 问题:\n"

Turns = Sequence[tuple[str, str]]


def turns(messages: Sequence[Message]) -> list[tuple[str, str]]:
    return [(u.content, a.content) for u, a in zip(messages[::2], messages[1::2], strict=True)]


def ultra(pairs: Turns) -> str:
    return f"<s>User: {ULTRA}</s>" + "".join(f"\nUser: {u}</s>\nAssistant: {a}</s>" for u, a in pairs)


def baize_text(pairs: Turns) -> str:
    return "<s>" + BAIZE_HEAD + "".join(f"[|Human|] {u}\n[|AI|] {a}\n" for u, a in pairs) + "[|Human|] "


# Template, the whole published string with control tokens spelled out, and the string before the first answer.
WAVE: dict[str, tuple[Template, Callable[[Turns], str]]] = {
    "vicuna_0": (
        VICUNA_0,
        lambda p: "<s>" + HUMAN_0 + "".join(f"### Human: {u}\n### Assistant: {a}\n" for u, a in p) + "###",
    ),
    "koala": (
        KOALA,
        lambda p: "<s>BEGINNING OF CONVERSATION: " + "".join(f"USER: {u} GPT:{a}</s>" for u, a in p),
    ),
    "lima": (LIMA, lambda p: "<s>" + "".join(f"{u}<EOT>{a}<EOT>" for u, a in p)),
    "belle": (BELLE, lambda p: "".join(f"Human: \n{u}\n\nAssistant: \n{a}</s>" for u, a in p)),
    "openassistant": (
        OPENASSISTANT,
        lambda p: "".join(f"<|prompter|>{u}</s><|assistant|>{a}</s>" for u, a in p),
    ),
    "ultralm": (ULTRALM, ultra),
    "baize": (BAIZE, baize_text),
    "huatuo": (HUATUO, lambda p: "<s>" + "".join(f"{MED}{u}\n### 回答:\n{a}</s>" for u, a in p)),
    "expertllama": (
        EXPERTLLAMA,
        lambda p: "<s>" + "".join(f"### Human:\n{u}\n\n### Assistant:\n{a}</s>" for u, a in p),
    ),
    "gorilla": (GORILLA, lambda p: "<s>" + "".join(f"###USER: {u}###ASSISTANT: {a}</s>" for u, a in p)),
    "guanaco": (GUANACO, lambda p: "<s>" + "".join(f"### Human: {u}### Assistant: {a}" for u, a in p) + "###"),
    "guanaco_dataset": (
        GUANACO_DATASET,
        lambda p: "<s>" + "".join(f"### Instruction:\n{u}\n### Response:\n{a}</s>" for u, a in p),
    ),
    "anima": (ANIMA, lambda p: "<s>" + "".join(f"{BELOW}{u}\n\n### Response: {a}</s>" for u, a in p)),
    "platypus": (PLATYPUS, lambda p: "<s>" + "".join(f"{BELOW}{u}\n\n### Response:\n{a}</s>" for u, a in p)),
    "chinese_vicuna": (
        CHINESE_VICUNA,
        lambda p: "<s>" + "".join(f"{BELOW}{u}\n\n### Response:{a}</s>" for u, a in p),
    ),
    "chinese_vicuna_chat": (
        CHINESE_VICUNA_CHAT,
        lambda p: "<s>" + CHAT_ZH + "".join(f"User:{u}\n\nAssistant:{a}\n\n" for u, a in p),
    ),
}
CONTROLS = ("<EOT>", "<|prompter|>", "<|assistant|>", "<|system|>", "<|prefix_begin|>", "<|prefix_end|>")
