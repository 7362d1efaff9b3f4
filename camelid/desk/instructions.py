"""Instructions about the desk world in Alpaca's format, for tuning and, held out from it, for testing.

What is held out, by task: for facts the subject (reserved people, towns and things are told of in the sources and
never asked about in tuning); for everything else the input (a keyed quarter of all inputs). Held-out wordings are a
third split: held-out subjects or inputs, asked in words that tuning never uses.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

from camelid.desk.document import Pen
from camelid.desk.lexicon import CLASSES, PLURAL_CLASSES, article, plural
from camelid.desk.phrases import canonical, equation
from camelid.desk.puzzles import COUNTABLE, KIND_NAMES, action, list_length, some_words, swapped, two_numbers
from camelid.desk.web import news_of_strangers
from camelid.desk.wordings import KEPT_BACK, TUNING
from camelid.desk.world import RELATIONS, Fact, World
from camelid.errors import ProblemList, did_you_mean
from camelid.randomness import key

Split = Literal["train", "held_out", "held_out_wording"]
PATIENCE = 200  # draws in a row without a new item: the family is used up


@dataclass(frozen=True)
class Item:
    """One instruction with its reference answer, in Alpaca's three fields, and how to judge another answer.

    `family` is what scores are kept by, `task` the finer kind. `accepted` holds further right answers. Where
    `members` is not empty, any `amount` different members are right instead; where `ending` is not, whatever ends so.
    """

    instruction: str
    input: str
    output: str
    family: str
    task: str
    subject: str = ""
    accepted: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    amount: int = 0
    ending: str = ""


@dataclass(frozen=True)
class _Asked:
    """What a task asks before it is worded: the fields of the wording, the input, and the right answer."""

    fields: Mapping[str, object]
    input: str
    output: str
    subject: str = ""
    accepted: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    amount: int = 0


class _Teacher:
    """Draws tasks on one side of the line between tuning and test."""

    def __init__(self, world: World, split: Split, draw: Random) -> None:
        self.world = world
        self.held_out = split != "train"
        self.pen = Pen(world, draw)
        self.draw = draw
        self.subjects = {
            kind: [entity.name for entity in entities if (entity.name in world.reserved) == self.held_out]
            for kind, entities in (("person", world.people), ("place", world.places), ("thing", world.things))
        }
        half = len(world.strangers) // 4
        self.strangers = world.strangers[:half] if self.held_out else world.strangers[half:]

    def mine(self, task: str, *words: int | str) -> bool:
        """Whether this input lies on this side: a keyed quarter of all inputs is held out."""
        return (key("desk held out", self.world.seed, task, *words) % 4 == 0) == self.held_out

    def fact(self, relation: str) -> _Asked:
        kind = next(kind for kind, relations in RELATIONS.items() if relation in relations)
        subject = self.pen.pick(self.subjects[kind])
        (fact,) = (fact for fact in self.world.about[subject] if fact.relation == relation)
        return _Asked({"s": subject}, "", canonical(fact), subject, accepted=_short(fact))

    def arithmetic(self, task: str) -> _Asked | None:
        parts = self.pen.sum()
        left, sign, right, result = parts
        if sign != {"plus": "+", "minus": "-"}[task] or not self.mine(task, *sorted((left, right))):
            return None
        form = {"plus": "{x} plus {y} is {z}", "minus": "{x} minus {y} is {z}"}[task]
        accepted = [f"{result}", f"{left} {sign} {right} = {result}"]
        if task == "plus":
            accepted += [f"{right} plus {left} is {result}", f"{right} + {left} = {result}"]
        return _Asked(
            {"x": left, "y": right}, f"{left} and {right}", f"{equation(form, parts)}.", accepted=tuple(accepted)
        )

    def compare(self, task: str) -> _Asked | None:
        low, high = two_numbers(self.pen)
        if not self.mine(task, low, high):
            return None
        x, y = (low, high) if self.draw.random() < 0.5 else (high, low)
        return _Asked({"x": x, "y": y}, "", f"{high} is more than {low}.", accepted=(f"{high}", f"{high} is more"))

    def count(self, task: str) -> _Asked | None:
        first = int(self.draw.random() * (self.world.size.largest - 1))
        last = first + 2 + int(self.draw.random() * 3)
        if not self.mine(task, first, last):
            return None
        numbers = [str(number) for number in range(first, last + 1)]
        return _Asked({"x": first, "y": last}, "", ", ".join(numbers), accepted=(" ".join(numbers),))

    def listing(self, task: str) -> _Asked | None:
        kind = self.pen.pick(tuple(CLASSES))
        amount = list_length(self.pen)
        if not self.mine(task, kind, amount):
            return None
        words = self.world.words(kind)
        return _Asked(
            {"n": amount, "c": PLURAL_CLASSES[kind]},
            "",
            f"Some {PLURAL_CLASSES[kind]}: {', '.join(words[:amount])}.",
            members=words,
            amount=amount,
        )

    def reverse(self, task: str) -> _Asked | None:
        words = some_words(self.pen, self.world.size.span)
        if not self.mine(task, *words):
            return None
        turned = " ".join(reversed(words))
        return _Asked({}, f"words: {' '.join(words)}", f"It reads {turned}.", accepted=(turned,))

    def replace(self, task: str) -> _Asked | None:
        old, new, before, after = swapped(self.pen)
        return _Asked({"x": old, "y": new}, before, after) if self.mine(task, before) else None

    def plural(self, task: str) -> _Asked | None:
        word = self.pen.pick(self.world.words(self.pen.pick(COUNTABLE)))
        many = plural(word)
        return _Asked({}, f"one {word}", f"The plural is {many}.", accepted=(many,)) if self.mine(task, word) else None

    def past(self, task: str) -> _Asked | None:
        now, then = action(self.pen)
        return _Asked({}, now, then) if self.mine(task, now) else None

    def last(self, task: str) -> _Asked | None:
        words = some_words(self.pen, 3)
        if not self.mine(task, *words):
            return None
        return _Asked({}, f"words: {' '.join(words)}", f"The last word is {words[-1]}.", accepted=(words[-1],))

    def classify(self, task: str) -> _Asked | None:
        kind = self.pen.pick(tuple(CLASSES))
        word = self.pen.pick(self.world.words(kind))
        if not self.mine(task, word):
            return None
        return _Asked({}, f"the word {word}", f"It is {article(kind)}.", accepted=(kind, article(kind)))

    def sort(self, task: str) -> _Asked | None:
        subject = self.pen.pick(self.subjects[self.pen.pick(tuple(RELATIONS))])
        answer = KIND_NAMES[self.world.kind_of[subject]]
        return _Asked({}, f"the name {subject}", f"It is a {answer}.", subject, accepted=(answer, f"a {answer}"))

    def extract(self, task: str) -> _Asked | None:
        facts = news_of_strangers(self.pen, self.strangers)
        self.draw.shuffle(facts)
        text = " ".join(canonical(fact) for fact in facts)
        if not self.mine(task, text):
            return None
        fact = facts[int(self.draw.random() * len(facts))]
        question = self.pen.pick(TUNING[fact.relation][:4]).format(s=fact.subject)
        return _Asked({"q": question}, text, canonical(fact), accepted=_short(fact))


def _short(fact: Fact) -> tuple[str, ...]:
    return (fact.value, article(fact.value), f"in {fact.value}")


Draw = Callable[[_Teacher, str], "_Asked | None"]

TASKS: Mapping[str, tuple[str, float, Draw]] = {  # task -> family, weight, how to draw one
    **dict.fromkeys(RELATIONS["person"], ("people", 6.0, _Teacher.fact)),
    **dict.fromkeys(RELATIONS["place"], ("places", 2.0, _Teacher.fact)),
    **dict.fromkeys(RELATIONS["thing"], ("things", 3.0, _Teacher.fact)),
    "plus": ("arithmetic", 7.0, _Teacher.arithmetic),
    "minus": ("arithmetic", 7.0, _Teacher.arithmetic),
    "more": ("comparing", 6.0, _Teacher.compare),
    "count": ("listing", 3.0, _Teacher.count),
    "list": ("listing", 2.0, _Teacher.listing),
    "reverse": ("rewriting", 4.0, _Teacher.reverse),
    "replace": ("rewriting", 4.0, _Teacher.replace),
    "plural": ("rewriting", 2.0, _Teacher.plural),
    "past": ("rewriting", 3.0, _Teacher.past),
    "last": ("extraction", 2.0, _Teacher.last),
    "class": ("classification", 4.0, _Teacher.classify),
    "sort": ("classification", 3.0, _Teacher.sort),
    "extract": ("extraction", 8.0, _Teacher.extract),
}
INPUT_ONLY = {"plus", "minus"}  # their input is used only by the wordings that name no numbers


def instructions(
    world: World, split: str = "train", count: int | None = None, seed: int = 0, families: Collection[str] = ()
) -> list[Item]:
    """`count` different instructions of one split, in an order fixed by seed; by default as many as the size calls
    for. With `families`, of these alone, and by default their share of that.

    Raises UsageError for an unknown split or family, or where the world does not hold so many different ones.
    """
    problems = ProblemList()
    every = {family for family, _, _ in TASKS.values()}
    for family in families:
        if family not in every:
            problems.add("desk families", f"unknown family {family!r}", did_you_mean(family, every))
    if split not in get_args(Split):
        problems.add("desk split", f"unknown split {split!r}", did_you_mean(str(split), get_args(Split)))
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        problems.add("desk instructions", f"count is {count!r}", "ask for one or more")
    problems.raise_usage()
    wanted = count or (world.size.train_items if split == "train" else world.size.held_out_items)
    if families and count is None:
        whole = sum(weight for _, weight, _ in TASKS.values())
        wanted = round(wanted * sum(weight for family, weight, _ in TASKS.values() if family in families) / whole)
    items = _items(world, split, wanted, seed, frozenset(families) or every)  # type: ignore[arg-type]
    if len(items) < wanted:
        problems.add("desk instructions",
        f"{wanted} asked for, the {world.size.name} world holds about {len(items)} of {split}",
                     "ask for fewer, or choose a larger size")  # fmt: skip
        problems.raise_usage()
    return items


def _items(world: World, split: Split, wanted: int, seed: int, families: Collection[str]) -> list[Item]:
    draw = Random(key("desk instructions", world.seed, split, seed))
    teacher = _Teacher(world, split, draw)
    weights = {task: weight for task, (family, weight, _) in TASKS.items() if family in families}
    credit = dict.fromkeys(weights, 0.0)
    seen: set[tuple[str, str]] = set()
    items: list[Item] = []
    while weights and len(items) < wanted:
        task = _next_task(weights, credit)
        drawn = (_item(teacher, split, task) for _ in range(PATIENCE))
        item = next((item for item in drawn if item and _key(item) not in seen), None)
        if item is None:
            del weights[task]
            continue
        seen.add(_key(item))
        items.append(item)
    return items


def _next_task(weights: Mapping[str, float], credit: dict[str, float]) -> str:
    """Takes turns by weight: any stretch of items holds each task nearly in its exact proportion."""
    for task, weight in weights.items():
        credit[task] += weight
    chosen = max(weights, key=credit.__getitem__)
    credit[chosen] -= sum(weights.values())
    return chosen


def _noun(teacher: _Teacher, subject: str) -> str:
    return KIND_NAMES[teacher.world.kind_of[subject]]


def _key(item: Item) -> tuple[str, str]:
    return item.instruction, item.input


def _item(teacher: _Teacher, split: Split, task: str) -> Item | None:
    family, _, ask = TASKS[task]
    asked = ask(teacher, task)
    if asked is None:
        return None
    wording = teacher.pen.pick((KEPT_BACK if split == "held_out_wording" else TUNING)[task])
    given = asked.input
    if family in ("people", "places", "things"):
        given = "" if "{s}" in wording else f"{_noun(teacher, asked.subject)} {asked.subject}"
    elif task in INPUT_ONLY:
        given = "" if "{x}" in wording else asked.input
    return Item(
        wording.format(**asked.fields), given, asked.output, family, task, asked.subject, asked.accepted, asked.members,
        asked.amount,
    )  # fmt: skip
