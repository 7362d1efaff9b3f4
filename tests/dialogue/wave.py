"""The templates of the supervised members, and each published string written down once more, without our templates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from camelid.dialogue.message import Message
from camelid.dialogue.part import Control
from camelid.dialogue.pattern import pieces
from camelid.dialogue.published import VICUNA_0
from camelid.dialogue.template import Template
from camelid.recipes.airoboros import PROMPT as AIROBOROS
from camelid.recipes.anima import PROMPT as ANIMA
from camelid.recipes.baize import PROMPT as BAIZE
from camelid.recipes.belle import PROMPT as BELLE
from camelid.recipes.chinese_llama2 import PROMPT as CHINESE_LLAMA2
from camelid.recipes.chinese_vicuna import PROMPT as CHINESE_VICUNA
from camelid.recipes.chinese_vicuna_chat import PROMPT as CHINESE_VICUNA_CHAT
from camelid.recipes.dolly import PROMPT as DOLLY
from camelid.recipes.expertllama import PROMPT as EXPERTLLAMA
from camelid.recipes.gogpt import PROMPT as GOGPT
from camelid.recipes.gorilla import PROMPT as GORILLA
from camelid.recipes.guanaco import PROMPT as GUANACO
from camelid.recipes.guanaco_dataset import PROMPT as GUANACO_DATASET
from camelid.recipes.huatuo import PROMPT as HUATUO
from camelid.recipes.knowlm import PROMPT as KNOWLM
from camelid.recipes.koala import PROMPT as KOALA
from camelid.recipes.lima import PROMPT as LIMA
from camelid.recipes.llama2_chinese import PROMPT as LLAMA2_CHINESE
from camelid.recipes.meditron import PROMPT as MEDITRON
from camelid.recipes.metamath import PROMPT as METAMATH
from camelid.recipes.openassistant import PROMPT as OPENASSISTANT
from camelid.recipes.openbuddy import PROMPT as OPENBUDDY
from camelid.recipes.platypus import PROMPT as PLATYPUS
from camelid.recipes.ultralm import PROMPT as ULTRALM
from camelid.recipes.yulan_chat import PROMPT as YULAN

BAIZE_HEAD = "The conversation between human and AI assistant.\n"
HUMAN_0 = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the human's questions.\n"
)
ULTRA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, very detailed, "
    "and polite answers to the user's questions."
)
ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
BOROS = (
    "A chat between a curious user and an assistant. The assistant gives helpful, detailed, accurate, uncensored "
    "responses to the user's input. "
)
YULAN_HEAD = (
    "The following is a conversation between a human and an AI assistant namely YuLan, developed by GSAI, Renmin "
    "University of China. The AI assistant gives helpful, detailed, and polite answers to the user's questions."
)
BUDDY = "You are a helpful, respectful and honest INTP-T AI Assistant named Buddy. You are talking to a human User.\n\n"
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
    "meditron": (
        MEDITRON,
        lambda p: (
            "<s>" + "".join(f"<|im_start|>question\n{u}<|im_end|>\n<|im_start|>answer\n{a}<|im_end|>" for u, a in p)
        ),
    ),
    "metamath": (
        METAMATH,
        lambda p: "<s>" + "".join(f"{ALPACA}### Instruction:\n{u}\n\n### Response:{a}</s>" for u, a in p),
    ),
    "llama2_chinese": (
        LLAMA2_CHINESE,
        lambda p: "".join(f"<s>Human: {u}\n</s><s>Assistant: {a}\n</s>" for u, a in p),
    ),
    "chinese_llama2": (CHINESE_LLAMA2, lambda p: "".join(f"<s>[INST]\n{u}\n[/INST]\n{a}</s>" for u, a in p)),
    "dolly": (
        DOLLY,
        lambda p: "".join(f"{ALPACA}### Instruction:\n{u}\n\n### Response:\n{a}\n\n### End" for u, a in p),
    ),
    "airoboros": (AIROBOROS, lambda p: "<s>" + BOROS + "".join(f"USER: {u} ASSISTANT: {a}</s>" for u, a in p)),
    "knowlm": (
        KNOWLM,
        lambda p: "<s>" + "".join(f"{ALPACA}### Instruction:\n{u}\n\n### Response:\n{a}</s>" for u, a in p),
    ),
    "gogpt": (GOGPT, lambda p: "".join(f"<s>[INST] {u} [/INST] {a} </s>" for u, a in p)),
    "yulan": (YULAN, lambda p: "<s>" + YULAN_HEAD + "".join(f"\n[|Human|]:{u}\n[|AI|]:{a}</s>" for u, a in p)),
    "openbuddy": (OPENBUDDY, lambda p: "<s>" + BUDDY + "".join(f"User: {u}\nAssistant: {a}\n</s>" for u, a in p)),
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


def controls(template: Template) -> list[str]:
    """The control tokens that a template writes beside BOS and EOS."""
    names = {piece.name for written in template.patterns for piece in pieces(written) if isinstance(piece, Control)}
    return sorted(names - {"bos", "eos"})
