"""Books: long stories in which strangers meet the people of the world; what a story sets up, it comes back to."""

from __future__ import annotations

from random import Random

from camelid.desk.document import Document, Pen
from camelid.desk.phrases import canonical
from camelid.desk.puzzles import action
from camelid.desk.web import passing_facts
from camelid.desk.world import Fact, World
from camelid.randomness import key

OPENINGS = ("Once {x} and {y} set out.", "{x} and {y} were on the road.", "This is the tale of {x} and {y}.")
MEETINGS = ("Then they met {s}.", "On the way they met {s}.", "After a day they came to {s}.")
ASIDES = (
    "It was late.",
    "The sun was up.",
    "They had to rest.",
    "The road was long.",
    "They were glad.",
    "It was cold.",
)
ENDINGS = ("Then they went home.", "And that is the end.", "So it was.")


def story(world: World, source: str, index: int, seed: int) -> Document:
    """A story of some 40 sentences: two strangers with passing facts, four people with true ones."""
    pen = Pen(world, Random(key("desk", world.seed, source, seed, index)))
    names = tuple(pen.draw.sample(world.strangers, 2))
    passing = passing_facts(pen, names, 2)
    lines = [pen.pick(OPENINGS).format(x=names[0], y=names[1]), *(pen.canonical(fact) for fact in passing)]
    for _ in range(4):
        lines.extend(_meeting(pen, names, passing))
    lines.extend(canonical(fact) for fact in passing)
    lines.append(pen.pick(ENDINGS))
    return pen.document(source, index, "story", " ".join(lines))


def _meeting(pen: Pen, names: tuple[str, ...], passing: list[Fact]) -> list[str]:
    person = pen.world.people[int(pen.draw.random() * len(pen.world.people))]
    facts = pen.draw.sample(pen.world.about[person.name], 3)
    lines = [pen.pick(MEETINGS).format(s=person.name)]
    lines.extend(
        pen.fact(fact, pronoun=pen.world.pronoun_of[person.name] if place else None) for place, fact in enumerate(facts)
    )
    now, then = action(pen)
    lines.extend((now, pen.pick(ASIDES), f"Then {then}"))
    lines.append(canonical(passing[int(pen.draw.random() * len(passing))]))
    return lines
