"""Conversations about the desk world in which every question after the first needs what was said before.

    Tell me the home of Mira.             The home of Mira is Torvale.
    Say what this person works as.        The trade of Mira is baker.

The first question names its subject, later ones say "this person", "this town", "this thing". Held-out conversations are
about entities that tuning never asks about.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from camelid.desk.instructions import Item, _short
from camelid.desk.phrases import canonical
from camelid.desk.wordings import TUNING
from camelid.desk.world import RELATIONS, World
from camelid.errors import ProblemList
from camelid.randomness import key


@dataclass(frozen=True)
class Turn:
    """One exchange, as an item that a program can judge; `back` is whether it needs an earlier turn."""

    item: Item
    back: bool


def conversations(
    world: World, split: str = "train", count: int = 100, *, turns: int = 3, seed: int = 0
) -> list[tuple[Turn, ...]]:
    """`count` conversations of `turns` exchanges each (three for a town, which has no more relations), fixed by seed.

    Raises UsageError for an unknown split, or for numbers that make no conversation.
    """
    problems = ProblemList()
    if split not in ("train", "held_out"):
        problems.add("desk split", f"unknown split {split!r}", "choose train or held_out")
    most = min(len(relations) for relations in RELATIONS.values())
    if not 1 <= turns <= most:
        problems.add("desk conversations, turns", f"{turns}", f"choose from 1 to {most}")
    if count < 1:
        problems.add("desk conversations, count", f"{count}", "ask for one or more")
    problems.raise_usage()
    named = (("person", world.people), ("place", world.places), ("thing", world.things))
    held_out = split == "held_out"
    subjects = [(kind, e.name) for kind, all in named for e in all if (e.name in world.reserved) == held_out]
    return [_conversation(world, subjects, split, number, turns, seed) for number in range(count)]


def _conversation(
    world: World, subjects: list[tuple[str, str]], split: str, number: int, turns: int, seed: int
) -> tuple[Turn, ...]:
    draw = Random(key("desk conversation", world.seed, split, seed, number))
    kind, subject = subjects[int(draw.random() * len(subjects))]
    relations = draw.sample(RELATIONS[kind], turns)
    return tuple(_turn(world, subject, relation, place > 0, draw) for place, relation in enumerate(relations))


def _turn(world: World, subject: str, relation: str, back: bool, draw: Random) -> Turn:
    (fact,) = (fact for fact in world.about[subject] if fact.relation == relation)
    forms = [form for form in TUNING[relation] if ("{s}" in form) != back]
    asked = forms[int(draw.random() * len(forms))].format(s=subject)
    item = Item(asked, "", canonical(fact), "conversation", relation, subject, accepted=_short(fact))
    return Turn(item, back)
