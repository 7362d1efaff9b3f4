"""The ground truth: who lives where, who keeps what, what is made of what. Everything told later is read from
here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from random import Random

from camelid.desk import lexicon
from camelid.errors import ProblemList, did_you_mean
from camelid.randomness import key

MOST_PEOPLE = 100_000


@dataclass(frozen=True)
class Size:
    """How much there is to know, and how hard its puzzles are.

    `words` is the length of each closed list, `largest` the largest number in a sum, `parties` how many strangers a
    text tells of side by side, `span` how many words are turned round. One party and two words can be solved by
    copying what stands at a known place or is of a known class; more of either needs a model that matches patterns
    in its context.
    """

    name: str
    people: int
    places: int
    things: int
    words: int
    largest: int
    strangers: int = 16
    parties: int = 1
    span: int = 2
    train_items: int = 2400
    held_out_items: int = 240


SIZES: Mapping[str, Size] = {
    "tiny": Size("tiny", people=12, places=6, things=6, words=4, largest=9, strangers=8, train_items=600,
    held_out_items=120), "small": Size("small", people=48, places=8, things=16, words=8, largest=9, strangers=32),
    "medium": Size("medium", people=400, places=40, things=100, words=14, largest=50, strangers=40, parties=2, span=3,
                   train_items=12_000, held_out_items=600),
    "large": Size("large", people=4000, places=200, things=1000, words=18, largest=99, strangers=100, parties=2, span=3,
                  train_items=52_000, held_out_items=1200),
}  # fmt: skip


@dataclass(frozen=True, order=True)
class Fact:
    """One thing that is so: `Fact("Mira", "home", "Torvale")`."""

    subject: str
    relation: str
    value: str


@dataclass(frozen=True)
class Person:
    name: str
    pronoun: str  # "she" or "he"
    home: str
    trade: str
    pet: str
    food: str
    friend: str  # mutual: a friend's friend is oneself


@dataclass(frozen=True)
class Place:
    name: str
    region: str
    flag: str
    market: str


@dataclass(frozen=True)
class Thing:
    name: str
    kind: str
    material: str
    colour: str
    maker: str


RELATIONS: Mapping[str, tuple[str, ...]] = {
    "person": ("home", "trade", "pet", "food", "friend"),
    "place": ("region", "flag", "market"),
    "thing": ("kind", "material", "colour", "maker"),
}


@dataclass(frozen=True)
class World:
    """A whole world; equal seeds and sizes give equal worlds.

    `strangers` are names without facts: stories and puzzles give them passing ones. `reserved` holds the entities that
    no training instruction ever asks about; reserved people and things (and those tied to them) occur in none at all.
    """

    seed: int
    size: Size
    people: tuple[Person, ...]
    places: tuple[Place, ...]
    things: tuple[Thing, ...]
    regions: tuple[str, ...]
    strangers: tuple[str, ...]
    reserved: frozenset[str]

    @cached_property
    def facts(self) -> tuple[Fact, ...]:
        """Every fact, in the order people, places, things."""
        return tuple(
            Fact(entity.name, relation, getattr(entity, relation))
            for kind, entities in (("person", self.people), ("place", self.places), ("thing", self.things))
            for entity in entities
            for relation in RELATIONS[kind]
        )

    @cached_property
    def about(self) -> Mapping[str, tuple[Fact, ...]]:
        """Name -> its facts."""
        found: dict[str, list[Fact]] = {}
        for fact in self.facts:
            found.setdefault(fact.subject, []).append(fact)
        return {name: tuple(facts) for name, facts in found.items()}

    @cached_property
    def kind_of(self) -> Mapping[str, str]:
        """Name -> "person", "place" or "thing"."""
        kinds = (("person", self.people), ("place", self.places), ("thing", self.things))
        return {entity.name: kind for kind, entities in kinds for entity in entities}

    def named(self, kind: str) -> tuple[str, ...]:
        """The names of all of one kind: "person", "place" or "thing"."""
        return self._names[kind]

    @cached_property
    def _names(self) -> Mapping[str, tuple[str, ...]]:
        return {kind: tuple(name for name, of in self.kind_of.items() if of == kind) for kind in RELATIONS}

    @cached_property
    def pronoun_of(self) -> Mapping[str, str]:
        """Name -> its pronoun as it starts a sentence."""
        return dict.fromkeys(self.kind_of, "It") | {person.name: person.pronoun.capitalize() for person in self.people}

    def words(self, of: str) -> tuple[str, ...]:
        """The closed words of one class ("animal", "colour", ...) that this world uses."""
        return lexicon.CLASSES[of][: self.size.words]

    def holds(self, fact: Fact) -> bool:
        """Whether the fact is true."""
        return fact in self._true

    @cached_property
    def _true(self) -> frozenset[Fact]:
        return frozenset(self.facts)


def world(size: str | int | Size = "small", seed: int = 0) -> World:
    """The world of this size and seed. `size` is a name in SIZES, a Size, or a number of people (the rest in
    proportion).

    Raises UsageError where the size or seed makes no world.
    """
    chosen = _size(size, seed)
    draw = Random(
        key("desk world", seed, *(f"{field}={value}" for field, value in vars(chosen).items() if field in COUNTED))
    )
    taken = set(lexicon.every_word())
    person_names = lexicon.names(draw, chosen.people, lexicon.PERSON_ENDS, taken)
    strangers = lexicon.names(draw, chosen.strangers, lexicon.PERSON_ENDS, taken)
    place_names = lexicon.names(draw, chosen.places, lexicon.PLACE_ENDS, taken)
    thing_names = lexicon.names(draw, chosen.things, lexicon.THING_ENDS, taken)
    regions = lexicon.names(draw, 4, lexicon.REGION_ENDS, taken)
    reserved = _reserve(person_names) | _reserve(place_names) | _reserve(thing_names)
    return World(
        seed=seed,
        size=chosen,
        people=_people(draw, person_names, place_names, chosen.words),
        places=_places(draw, place_names, regions, chosen.words),
        things=_things(draw, thing_names, person_names, reserved, chosen.words),
        regions=regions,
        strangers=strangers,
        reserved=reserved,
    )


COUNTED = (
    "people",
    "places",
    "things",
    "words",
    "largest",
    "strangers",
    "parties",
    "span",
)  # what makes a world; item counts do not


def _size(size: str | int | Size, seed: int) -> Size:
    problems = ProblemList()
    chosen: Size | None = None
    if isinstance(size, Size):
        chosen = size
    elif isinstance(size, str):
        chosen = SIZES.get(size)
        if chosen is None:
            problems.add("desk size", f"unknown size {size!r}", did_you_mean(size, SIZES))
    elif isinstance(size, int) and not isinstance(size, bool):
        chosen = _in_proportion(size)
    else:
        problems.add("desk size", f"{size!r} is no size", "give a name, a number of people, or a Size")
    if chosen is not None:
        _check(chosen, problems)
    if isinstance(seed, bool) or not isinstance(seed, int):
        problems.add("desk seed", f"{seed!r} is no whole number", "give a whole number such as 0")
    problems.raise_usage()
    assert chosen is not None
    return chosen


def _in_proportion(people: int) -> Size:
    """Sizes between and beyond the named ones."""
    return Size(
        f"{people} people", people=people, places=max(6, people // 10), things=max(6, people // 4),
        words=min(18, 4 + people // 10), largest=min(99, 9 + people // 10), strangers=max(8, min(100, people // 10)),
        train_items=min(52_000, max(600, 30 * people)), held_out_items=min(1200, max(120, 3 * people)),
    )  # fmt: skip


def _check(size: Size, problems: ProblemList) -> None:
    limits = {
        "people": (8, MOST_PEOPLE), "places": (4, MOST_PEOPLE), "things": (4, MOST_PEOPLE), "words": (4, 18),
        "largest": (9, 99), "strangers": (8, 10_000), "parties": (1, 2), "span": (2, 4),
        "train_items": (1, 10**7), "held_out_items": (1, 10**6),
    }  # fmt: skip
    for field, (least, most) in limits.items():
        value = getattr(size, field)
        if not isinstance(value, int) or not least <= value <= most:
            problems.add(f"desk size, {field}", f"{value!r}", f"choose a whole number from {least} to {most}")
    if isinstance(size.people, int) and size.people % 2:
        problems.add("desk size, people", f"{size.people} is odd", "friends come in pairs: choose an even number")


def _reserve(found: tuple[str, ...]) -> frozenset[str]:
    """The last quarter, an even number of them, so that pairs of friends stay on one side."""
    count = max(2, len(found) // 4 // 2 * 2)
    return frozenset(found[len(found) - count :])


def _dealt(draw: Random, values: tuple[str, ...], count: int) -> list[str]:
    """`count` values as evenly often as can be, in random order: no value can be guessed by being common."""
    dealt = [values[index % len(values)] for index in range(count)]
    draw.shuffle(dealt)
    return dealt


def _people(draw: Random, found: tuple[str, ...], places: tuple[str, ...], words: int) -> tuple[Person, ...]:
    count = len(found)
    columns = (
        _dealt(draw, ("she", "he"), count), _dealt(draw, places, count), _dealt(draw, lexicon.TRADES[:words], count),
        _dealt(draw, lexicon.ANIMALS[:words], count), _dealt(draw, lexicon.FOODS[:words], count),
        [found[index ^ 1] for index in range(count)],
    )  # fmt: skip
    return tuple(Person(name, *values) for name, *values in zip(found, *columns, strict=True))


def _places(draw: Random, found: tuple[str, ...], regions: tuple[str, ...], words: int) -> tuple[Place, ...]:
    count = len(found)
    columns = (
        _dealt(draw, regions, count), _dealt(draw, lexicon.COLOURS[:words], count), _dealt(draw,
        lexicon.FOODS[:words], count) )  # fmt: skip
    return tuple(Place(name, *values) for name, *values in zip(found, *columns, strict=True))


def _things(
    draw: Random, found: tuple[str, ...], people: tuple[str, ...], reserved: frozenset[str], words: int
) -> tuple[Thing, ...]:
    kinds = _dealt(draw, lexicon.KINDS[:words], len(found))
    materials = _dealt(draw, lexicon.MATERIALS[:words], len(found))
    colours = _dealt(draw, lexicon.COLOURS[:words], len(found))
    makers = {side: [name for name in people if (name in reserved) == side] for side in (True, False)}
    return tuple(
        Thing(name, kind, material, colour, draw.choice(makers[name in reserved]))
        for name, kind, material, colour in zip(found, kinds, materials, colours, strict=True)
    )
