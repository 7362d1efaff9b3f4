"""Instructions in the second language: a few sentences about a stranger, and a question about one of them.

    Мира Торвале жине. Мира кат пасе. | Мира кон жине?        Торвале жине.

An answer leaves out who is meant, as many languages do.
The sources tell facts in this language in a fiftieth of their text and never ask for one; its question words occur in
tuning alone. What is asked stands in the text, so that no more is needed than to read this language and to write it.
"""

from __future__ import annotations

from random import Random

from camelid.desk.articles import language
from camelid.desk.document import Pen
from camelid.desk.instructions import Item
from camelid.desk.language import CODAS, ONSETS, VOWELS, Language
from camelid.desk.web import news_of_strangers
from camelid.desk.world import World
from camelid.errors import ProblemList
from camelid.randomness import key

FORMS = ("{s} {ask} {verb}?", "{ask} {s} {verb}?", "{s} {verb} {ask}.")
PATIENCE = 200  # draws in a row without a new question: they are used up


def foreign(world: World, split: str = "train", count: int | None = None, seed: int = 0) -> list[Item]:
    """`count` different questions of one split, by default as many as the size calls for, in an order fixed by seed.

    The held-out split is about strangers of its own, the last quarter of them. Raises UsageError for an unknown split,
    or where the world does not hold so many.
    """
    problems = ProblemList()
    if split not in ("train", "held_out"):
        problems.add("desk split", f"unknown split {split!r}", "choose train or held_out")
    problems.raise_usage()
    wanted = count or (world.size.train_items if split == "train" else world.size.held_out_items)
    most = len(world.strangers) * 3 // 4
    names = world.strangers[:most] if split == "train" else world.strangers[most:]
    draw = Random(key("desk foreign", world.seed, split, seed))
    pen, tongue, words = Pen(world, draw), language(world), asking(world)
    found: dict[tuple[str, str], Item] = {}
    missed = 0
    while len(found) < wanted and missed < PATIENCE:
        item = _item(pen, tongue, words, names)
        missed = missed + 1 if (item.instruction, item.input) in found else 0
        found[item.instruction, item.input] = item
    if len(found) < wanted:
        told = f"{wanted} asked for, the {world.size.name} world holds about {len(found)} of {split}"
        problems.add("desk instructions in the second language", told, "ask for fewer, or choose a larger size")
    problems.raise_usage()
    return list(found.values())


def asking(world: World) -> tuple[str, ...]:
    """The question words of a world, one for each form, which are none of its other words."""
    draw = Random(key("desk foreign asking", world.seed))
    tongue = language(world)
    taken = {*tongue.words.values(), *tongue.verbs.values()}
    found: list[str] = []
    while len(found) < len(FORMS):
        word = draw.choice(ONSETS) + draw.choice(VOWELS) + draw.choice(CODAS)
        if word not in taken:
            taken.add(word)
            found.append(word)
    return tuple(found)


def _item(pen: Pen, tongue: Language, words: tuple[str, ...], names: tuple[str, ...]) -> Item:
    facts = news_of_strangers(pen, names)
    pen.draw.shuffle(facts)
    fact = facts[int(pen.draw.random() * len(facts))]
    subject, value, verb = tongue.sentence(fact).removesuffix(".").split(" ")
    form = int(pen.draw.random() * len(FORMS))
    asked = FORMS[form].format(s=subject, ask=words[form], verb=verb)
    text = " ".join(tongue.sentence(each) for each in facts)
    return Item(asked, text, f"{value} {verb}.", "second language", fact.relation, fact.subject, accepted=(value,))
