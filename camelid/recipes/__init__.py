"""The family: one file per member, and the table of them.

Every number of a recipe has a comment on where it comes from. "Paper or repository": our sources name both for the
member and do not say which of them holds the number. "Unverified": our sources do not hold it, or hold it from memory
only. "Ours": a choice of this project.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from camelid.dialogue.foreign import NAMED
from camelid.dialogue.template import Template
from camelid.errors import ProblemList, did_you_mean
from camelid.recipe import Recipe, Size
from camelid.recipes.airoboros import airoboros
from camelid.recipes.alpaca import alpaca
from camelid.recipes.alpaca_cot import alpaca_cot
from camelid.recipes.alpaca_lora import alpaca_lora
from camelid.recipes.alpagasus import alpagasus
from camelid.recipes.anima import anima
from camelid.recipes.atom import atom
from camelid.recipes.baize import baize
from camelid.recipes.belle import belle
from camelid.recipes.camel import camel
from camelid.recipes.chinese_llama2 import chinese_llama2
from camelid.recipes.chinese_llama2 import released as chinese_llama2_released
from camelid.recipes.chinese_llama_2 import chinese_llama_2
from camelid.recipes.chinese_llama_2 import full as chinese_llama_2_full
from camelid.recipes.chinese_vicuna import chinese_vicuna
from camelid.recipes.chinese_vicuna_4bit import chinese_vicuna_4bit
from camelid.recipes.chinese_vicuna_chat import chinese_vicuna_chat
from camelid.recipes.dolly import dolly
from camelid.recipes.expertllama import expertllama
from camelid.recipes.gogpt import gogpt
from camelid.recipes.gorilla import gorilla
from camelid.recipes.gorilla import retriever as gorilla_retriever
from camelid.recipes.gpt4_x_alpaca import gpt4_x_alpaca
from camelid.recipes.gpt_4_llm import gpt_4_llm
from camelid.recipes.guanaco import guanaco
from camelid.recipes.guanaco_dataset import guanaco_dataset
from camelid.recipes.huatuo import huatuo
from camelid.recipes.knowlm import knowlm
from camelid.recipes.koala import koala_distill
from camelid.recipes.koala_all import koala_all
from camelid.recipes.lima import lima
from camelid.recipes.llama import llama
from camelid.recipes.llama2_chinese import llama2_chinese
from camelid.recipes.llama_2 import llama_2
from camelid.recipes.llama_3 import llama_3
from camelid.recipes.llama_3_1 import llama_3_1
from camelid.recipes.llama_3_2 import llama_3_2
from camelid.recipes.meditron import base as meditron_base
from camelid.recipes.meditron import meditron
from camelid.recipes.meditron import readme as meditron_readme
from camelid.recipes.metamath import metamath
from camelid.recipes.openassistant import openassistant
from camelid.recipes.openbuddy import openbuddy
from camelid.recipes.openllama import openllama
from camelid.recipes.openllama_v2 import openllama_v2
from camelid.recipes.platypus import merged as platypus_merged
from camelid.recipes.platypus import platypus
from camelid.recipes.ultralm import ultralm
from camelid.recipes.vicuna import vicuna
from camelid.recipes.vicuna_1_5 import vicuna_1_5
from camelid.recipes.vicuna_1_5_16k import vicuna_1_5_16k
from camelid.recipes.yulan_chat import shuffled as yulan_chat_shuffled
from camelid.recipes.yulan_chat import yulan_chat


@dataclass(frozen=True)
class Member:
    """A member of the family: its name, the function that gives its recipe, the sizes there are, the published one.

    `variants` are named recipes beside it, such as what was released where that differs from what is stated: asked for
    as NAME+VARIANT.
    """

    name: str
    make: Callable[[Size], Recipe]
    sizes: tuple[Size, ...]
    published: Size
    parent: str | None
    operation: str
    variants: Mapping[str, Callable[[Size], Recipe]] = field(default_factory=dict)

    @property
    def others(self) -> tuple[str, ...]:
        """The functions of its module that make variants other than this."""
        return tuple(make.__name__ for make in self.variants.values() if make is not self.make)

    @property
    def module(self) -> str:
        """The module that holds the recipe."""
        return self.make.__module__

    @property
    def docstring(self) -> str:
        """The recipe's own words: Paper, Parent, New, Missing, Ours."""
        return (sys.modules[self.module].__doc__ or "").strip()

    @property
    def headline(self) -> str:
        """One line on what the member is."""
        return self.docstring.splitlines()[0]


MEMBERS: dict[str, Member] = {
    "llama": Member("llama", llama, ("7B", "13B", "33B", "65B", "desk", "tiny"), "7B", None, "pre-training"),
    "llama-2": Member("llama-2", llama_2, ("7B", "13B", "34B", "70B", "desk", "tiny"), "7B", None, "pre-training"),
    "llama-3": Member("llama-3", llama_3, ("8B", "70B", "405B", "desk", "tiny"), "8B", None, "pre-training"),
    "llama-3.1": Member(
        "llama-3.1", llama_3_1, ("8B", "70B", "405B", "desk", "tiny"), "8B", "llama-3", "longer context"
    ),
    "llama-3.2": Member(
        "llama-3.2", llama_3_2, ("1B", "3B", "desk", "tiny"), "1B", "llama-3.1", "pruning, then distillation"
    ),
    "openllama": Member("openllama", openllama, ("3B", "7B", "13B", "desk", "tiny"), "7B", None, "pre-training"),
    "openllama-v2": Member("openllama-v2", openllama_v2, ("3B", "7B", "desk", "tiny"), "7B", None, "pre-training"),
    "alpaca": Member(
        "alpaca", alpaca, ("7B", "13B", "desk", "tiny"), "7B", "llama", "instruction tuning, every weight"
    ),
    "alpaca-lora": Member(
        "alpaca-lora", alpaca_lora, ("7B", "desk", "tiny"), "7B", "llama", "instruction tuning by LoRA"
    ),
    "gpt-4-llm": Member(
        "gpt-4-llm", gpt_4_llm, ("7B", "desk", "tiny"), "7B", "llama", "instruction tuning by a better teacher"
    ),
    "alpagasus": Member(
        "alpagasus", alpagasus, ("7B", "13B", "desk", "tiny"), "7B", "llama", "instruction tuning on graded records"
    ),
    "lima": Member(
        "lima", lima, ("65B", "7B", "desk", "tiny"), "65B", "llama", "tuning on a thousand chosen conversations"
    ),
    "vicuna": Member(
        "vicuna", vicuna, ("7B", "13B", "33B", "desk", "tiny"), "7B", "llama", "tuning on shared conversations"
    ),
    "vicuna-v1.5": Member(
        "vicuna-v1.5", vicuna_1_5, ("7B", "13B", "desk", "tiny"), "7B", "llama-2", "tuning on shared conversations"
    ),
    "vicuna-v1.5-16k": Member(
        "vicuna-v1.5-16k",
        vicuna_1_5_16k,
        ("7B", "13B", "desk", "tiny"),
        "7B",
        "llama-2",
        "the same in four times the context",
    ),
    "koala-distill": Member(
        "koala-distill", koala_distill, ("7B", "13B", "desk", "tiny"), "13B", "llama", "tuning on cleaned conversations"
    ),
    "koala-all": Member(
        "koala-all", koala_all, ("7B", "13B", "desk", "tiny"), "13B", "llama", "tuning on a mixture of open data"
    ),
    "belle": Member("belle", belle, ("7B", "desk", "tiny"), "7B", "llama", "instruction tuning in Chinese"),
    "openassistant": Member(
        "openassistant", openassistant, ("7B", "13B", "desk", "tiny"), "13B", "llama", "tuning on conversation trees"
    ),
    "ultralm": Member(
        "ultralm", ultralm, ("13B", "65B", "desk", "tiny"), "13B", "llama", "tuning on simulated conversations"
    ),
    "baize": Member("baize", baize, ("7B", "13B", "desk", "tiny"), "7B", "llama", "tuning on self-chat by LoRA"),
    "huatuo": Member("huatuo", huatuo, ("7B", "desk", "tiny"), "7B", "llama", "medical questions by LoRA"),
    "expertllama": Member(
        "expertllama", expertllama, ("7B", "desk", "tiny"), "7B", "llama", "instruction tuning by experts' answers"
    ),
    "gorilla": Member(
        "gorilla",
        gorilla,
        ("7B", "desk", "tiny"),
        "7B",
        "llama",
        "tuning on calls of APIs",
        {"retriever": gorilla_retriever},
    ),
    "gpt4-x-alpaca": Member(
        "gpt4-x-alpaca", gpt4_x_alpaca, ("13B", "desk", "tiny"), "13B", "alpaca", "a second tuning by a better teacher"
    ),
    "meditron": Member(
        "meditron",
        meditron,
        ("7B", "70B", "desk", "tiny"),
        "7B",
        "llama-2",
        "reading on in medicine with replay, then tuning on exams",
        {"base": meditron_base, "readme": meditron_readme},
    ),
    "metamath": Member(
        "metamath", metamath, ("7B", "13B", "70B", "desk", "tiny"), "7B", "llama-2", "tuning on bootstrapped questions"
    ),
    "llama2-chinese": Member(
        "llama2-chinese", llama2_chinese, ("7B", "13B", "desk", "tiny"), "7B", "llama-2", "tuning in Chinese by LoRA"
    ),
    "atom": Member("atom", atom, ("7B", "desk", "tiny"), "7B", "llama-2", "a Chinese vocabulary and reading on"),
    "chinese-llama2": Member(
        "chinese-llama2",
        chinese_llama2,
        ("7B", "13B", "desk", "tiny"),
        "7B",
        "llama-2",
        "a Chinese vocabulary, reading on and tuning by LoRA",
        {"released": chinese_llama2_released},
    ),
    "chinese-llama-2": Member(
        "chinese-llama-2",
        chinese_llama_2,
        ("7B", "desk", "tiny"),
        "7B",
        "llama-2",
        "tuning in Chinese by LoRA or whole",
        {"full": chinese_llama_2_full},
    ),
    "dolly": Member("dolly", dolly, ("7B", "desk", "tiny"), "7B", "llama", "tuning on instructions that people wrote"),
    "airoboros": Member(
        "airoboros",
        airoboros,
        ("7B", "13B", "33B", "65B", "desk", "tiny"),
        "65B",
        "llama",
        "tuning on a teacher's own instructions by LoRA",
    ),
    "alpaca-cot": Member(
        "alpaca-cot",
        alpaca_cot,
        ("7B", "13B", "33B", "desk", "tiny"),
        "7B",
        "llama",
        "instruction tuning with chains of thought by LoRA",
    ),
    "knowlm": Member(
        "knowlm", knowlm, ("13B", "desk", "tiny"), "13B", "llama", "reading on, then extraction of knowledge by LoRA"
    ),
    "camel": Member(
        "camel", camel, ("7B", "desk", "tiny"), "7B", "llama", "reading on in clinical notes, then tuning on them"
    ),
    "gogpt": Member(
        "gogpt", gogpt, ("7B", "13B", "desk", "tiny"), "7B", "llama-2", "a Chinese vocabulary, reading on and tuning"
    ),
    "yulan-chat": Member(
        "yulan-chat",
        yulan_chat,
        ("13B", "65B", "desk", "tiny"),
        "13B",
        "llama",
        "tuning in two languages, easy before hard",
        {"shuffled": yulan_chat_shuffled},
    ),
    "openbuddy": Member(
        "openbuddy",
        openbuddy,
        ("7B", "13B", "33B", "65B", "desk", "tiny"),
        "33B",
        "llama",
        "new characters, tuning on conversations",
    ),
    "guanaco": Member(
        "guanaco", guanaco, ("7B", "13B", "33B", "65B", "desk", "tiny"), "65B", "llama", "adapters on a 4-bit base"
    ),
    "guanaco-dataset": Member(
        "guanaco-dataset",
        guanaco_dataset,
        ("7B", "desk", "tiny"),
        "7B",
        "llama",
        "tuning with the history in the prompt",
    ),
    "anima": Member("anima", anima, ("33B", "desk", "tiny"), "33B", "guanaco", "a second tuning on a 4-bit base"),
    "chinese-vicuna": Member(
        "chinese-vicuna", chinese_vicuna, ("7B", "13B", "desk", "tiny"), "7B", "llama", "adapters on an 8-bit base"
    ),
    "chinese-vicuna-4bit": Member(
        "chinese-vicuna-4bit", chinese_vicuna_4bit, ("7B", "13B", "desk", "tiny"), "7B", "llama", "the same on 4 bits"
    ),
    "chinese-vicuna-chat": Member(
        "chinese-vicuna-chat",
        chinese_vicuna_chat,
        ("7B", "13B", "desk", "tiny"),
        "7B",
        "llama",
        "the last turn learned",
    ),
    "platypus": Member(
        "platypus",
        platypus,
        ("7B", "13B", "33B", "70B", "desk", "tiny"),
        "70B",
        "llama-2",
        "adapters on curated records",
        {"merged": platypus_merged},
    ),
}


def _holding(word: str) -> str:
    """A remedy for a word that is a part of some members' names."""
    found = [name for name in MEMBERS if word and word.lower() in name]
    return f"there are {', '.join(found)};" if 0 < len(found) <= 12 else ""


def template_of(name: str, where: str, problems: ProblemList) -> Template | None:
    """The template of that name, a published one or that in which a member was tuned; None where `problems` says why not."""
    if name in NAMED:
        return NAMED[name]
    member = MEMBERS.get(name)
    if member is None:
        problems.add(where, f"there is no template {name!r}", did_you_mean(name, (*NAMED, *MEMBERS)))
        return None
    found = getattr(member.make(member.published).trained, "prompt", None)
    if not isinstance(found, Template):
        problems.add(
            where, f"{name} is a base, which has no template", f"choose from {', '.join(NAMED)}, or a tuned member"
        )
        return None
    return found


def find(name: str, size: str | None, problems: ProblemList) -> tuple[Member, Recipe] | None:
    """The member and its recipe at a size (the published one where none is named); None where `problems` says why not."""
    plain, plus, variant = name.partition("+")
    member = MEMBERS.get(plain)
    if member is None:
        remedy = did_you_mean(plain, MEMBERS) or _holding(plain)
        problems.add(f"member {name!r}", "there is no such member", f"{remedy} camelid tree shows all".strip())
        return None
    if plus and variant not in member.variants:
        there = did_you_mean(variant, member.variants) if member.variants else f"it has none: say {plain} alone"
        problems.add(f"member {name!r}", f"{plain} has no variant {variant!r}", there)
        return None
    if plus:
        member = replace(member, name=name, make=member.variants[variant])
    wanted = size or member.published
    if wanted not in member.sizes:
        remedy = did_you_mean(wanted, member.sizes)
        remedy += "" if remedy.startswith("choose") else f" there are {', '.join(member.sizes)}"
        problems.add(f"--size {wanted}", f"{name} has no such size", remedy.strip())
        return None
    return member, member.make(wanted)
