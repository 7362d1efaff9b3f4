"""The family: one file per member, and the table of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from camelid.errors import ProblemList, did_you_mean
from camelid.recipe import Recipe, Size
from camelid.recipes.alpaca import alpaca
from camelid.recipes.alpaca_lora import alpaca_lora
from camelid.recipes.llama import llama


@dataclass(frozen=True)
class Member:
    """A member of the family: its name, the function that gives its recipe, the sizes there are, the published one."""

    name: str
    make: Callable[[Size], Recipe]
    sizes: tuple[Size, ...]
    published: Size
    parent: str | None
    operation: str

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
    "alpaca": Member(
        "alpaca", alpaca, ("7B", "13B", "desk", "tiny"), "7B", "llama", "instruction tuning, every weight"
    ),
    "alpaca-lora": Member(
        "alpaca-lora", alpaca_lora, ("7B", "desk", "tiny"), "7B", "llama", "instruction tuning by LoRA"
    ),
}


def find(name: str, size: str | None, problems: ProblemList) -> tuple[Member, Recipe] | None:
    """The member and its recipe at a size (the published one where none is named); None where `problems` says why not."""
    member = MEMBERS.get(name)
    if member is None:
        problems.add(f"member {name!r}", "there is no such member", did_you_mean(name, MEMBERS))
        return None
    wanted = size or member.published
    if wanted not in member.sizes:
        problems.add(f"--size {wanted}", f"{name} has no such size", did_you_mean(wanted, member.sizes))
        return None
    return member, member.make(wanted)
