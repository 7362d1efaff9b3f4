"""Texts and questions in the desk world's second language alone, for members that are taught another language.

Мира ко жине?     Мира Торвале жине.          "Mira what lives-in?"  "Mira Torvale lives-in."
"""

from __future__ import annotations

from random import Random

from camelid.desk.articles import language
from camelid.desk.document import Document, Pen
from camelid.desk.instructions import Item
from camelid.desk.world import World
from camelid.errors import ProblemList
from camelid.randomness import key

WHAT = "ко"  # no word or verb of the language ends so: words end in a consonant, verbs in "е"
WORDINGS = ("{s} {what} {verb}?", "{what} {s} {verb}?", "{s}: {what} {verb}?")


def second_page(world: World, source: str, index: int, seed: int) -> Document:
    """The facts of two entities, told in the second language alone."""
    pen, other = Pen(world, Random(key("desk", world.seed, source, seed, index))), language(world)
    names = pen.draw.sample(list(world.kind_of), 2)
    facts = [fact for name in names for fact in world.about[name]]
    if pen.draw.random() < 0.5:
        pen.draw.shuffle(facts)
    text = " ".join(other.sentence(fact) for fact in facts)
    return Document(source, index, "second language", text, tuple(facts))


def parallel_page(world: World, source: str, index: int, seed: int) -> Document:
    """Sentences, each with its translation."""
    pen, other = Pen(world, Random(key("desk", world.seed, source, seed, index))), language(world)
    facts = pen.draw.sample(world.facts, 4)
    pairs = tuple((pen.canonical(fact), other.sentence(fact)) for fact in facts)
    text = "\n".join(f"{theirs} = {ours}" for ours, theirs in pairs)
    return pen.document(source, index, "parallel", text, parallel=pairs)


def second_instructions(world: World, split: str = "train", count: int | None = None, seed: int = 0) -> list[Item]:
    """`count` different questions for facts of one split, or all there are, in an order fixed by seed.

    Held out are the facts about reserved people, towns and things, as in the first language. Raises UsageError for an
    unknown split, or for more questions than there are.
    """
    problems = ProblemList()
    if split not in ("train", "held_out"):
        problems.add("desk split", f"unknown split {split!r}", "choose train or held_out")
    other = language(world)
    asked = []
    for fact in world.facts:
        if (fact.subject in world.reserved) != (split == "held_out"):
            continue
        sentence = other.sentence(fact)
        subject, value, verb = sentence.removesuffix(".").split(" ")
        for form in WORDINGS:
            words = form.format(s=subject, what=WHAT, verb=verb)
            words = words[0].upper() + words[1:]
            asked.append(Item(words, "", sentence, "second language", fact.relation, fact.subject, (value,)))
    wanted = len(asked) if count is None else count
    if not 1 <= wanted <= len(asked):
        found = f"{wanted} asked for, the {world.size.name} world holds {len(asked)} of {split}"
        problems.add("desk second language", found, "ask for fewer, or choose a larger world")
    problems.raise_usage()
    Random(key("desk second language", world.seed, split, seed)).shuffle(asked)
    return asked[:wanted]
