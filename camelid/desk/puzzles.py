"""Word puzzles, word lists, counting and comparing, as web pages tell them: each states its own answer."""

from __future__ import annotations

from camelid.desk.document import Pen
from camelid.desk.lexicon import CLASSES, KINDS, PLURAL_CLASSES, VERBS, article, plural
from camelid.desk.phrases import SUM_QUESTIONS, SUMS, equation

CLASS_NAMES = tuple(CLASSES)
COUNTABLE = ("animal", "trade", "tool")


def some_words(pen: Pen, count: int) -> list[str]:
    """Closed words of any class, all different."""
    found: list[str] = []
    while len(found) < count:
        word = pen.pick(pen.world.words(pen.pick(CLASS_NAMES)))
        if word not in found:
            found.append(word)
    return found


def list_length(pen: Pen) -> int:
    """How many members of a class a list asks for: two to five, and never more than the world has."""
    return 2 + int(pen.draw.random() * min(4, pen.world.size.words - 1))


def swapped(pen: Pen) -> tuple[str, str, str, str]:
    """(old word, new word, phrase with the old, phrase with the new)."""
    old, new = pen.draw.sample(pen.world.words("colour"), 2)
    tools = pen.draw.sample(pen.world.words("tool"), 2)
    other = pen.pick(pen.world.words("animal"))
    form = pen.pick(("the {c} {k}", "the {c} {k} and the {o}", "the {o} and the {c} {k}"))
    before = form.format(c=old, k=tools[0], o=other)
    return old, new, before, form.format(c=new, k=tools[0], o=other)


def action(pen: Pen) -> tuple[str, str]:
    """What somebody does, now and in the past."""
    present, past = VERBS[int(pen.draw.random() * min(len(VERBS), pen.world.size.words))]
    trade, thing = pen.pick(pen.world.words("trade")), pen.pick(pen.world.words("tool"))
    return f"The {trade} {present} the {thing}.", f"The {trade} {past} the {thing}."


def _reversed(pen: Pen) -> str:
    words = some_words(pen, pen.world.size.span)
    forward, backward = " ".join(words), " ".join(reversed(words))
    return pen.pick(
        (
            f"Read {forward} backwards: {backward}.",
            f"Not {forward} but {backward}.",
            f"Turn {forward} round: {backward}.",
        )
    )


def _replaced(pen: Pen) -> str:
    old, new, before, after = swapped(pen)
    return pen.pick((f"Put {new} for {old}: {before}, {after}.", f"Not {old} but {new}: not {before} but {after}."))


def _plural(pen: Pen) -> str:
    word = pen.pick(pen.world.words(pen.pick(COUNTABLE)))
    many = plural(word)
    return pen.pick(
        (f"one {word}, two {many}", f"one {word}, many {many}", f"The plural is {many}: more than one {word}.")
    )


def _past(pen: Pen) -> str:
    now, then = action(pen)
    return pen.pick((f"Today {now} Yesterday {then}", f"Now: {now} Then: {then}"))


def _edge(pen: Pen) -> str:
    words = some_words(pen, 3)
    text = " ".join(words)
    return pen.pick((f"The words {text} end with {words[-1]}.", f"The words {text} start with {words[0]}."))


def _class(pen: Pen) -> str:
    if pen.draw.random() < 0.3:
        name = pen.pick(tuple(pen.world.kind_of))
        return f"The name {name}: it is a {KIND_NAMES[pen.world.kind_of[name]]}."
    kind = pen.pick(CLASS_NAMES)
    word = pen.pick(pen.world.words(kind))
    return pen.pick(
        (
            f"Of the word {word}: it is {article(kind)}.",
            f"The word {word} names {article(kind)}.",
            f"It names {article(kind)}: {word}.",
        )
    )


KIND_NAMES = {"person": "person", "place": "town", "thing": "thing"}


def _list(pen: Pen) -> str:
    kind = pen.pick(CLASS_NAMES)
    many = PLURAL_CLASSES[kind]
    words = pen.world.words(kind)[: list_length(pen)]
    lead = pen.pick((f"Some {many}", f"The first {len(words)} {many}", f"{len(words)} {many}"))
    return f"{lead}: {', '.join(words)}."


def _count(pen: Pen) -> str:
    first = int(pen.draw.random() * (pen.world.size.largest - 1))
    last = first + 2 + int(pen.draw.random() * 3)
    return f"From {first} to {last}: {', '.join(str(number) for number in range(first, last + 1))}."


def _compare(pen: Pen) -> str:
    low, high = two_numbers(pen)
    return pen.pick((f"{high} is more than {low}.", f"{low} is less than {high}."))


def two_numbers(pen: Pen) -> tuple[int, int]:
    """Two different numbers within the world's, the lower first."""
    low, high = sorted(pen.draw.sample(range(pen.world.size.largest + 1), 2))
    return low, high


def _sum(pen: Pen) -> str:
    parts = pen.sum()
    return equation(pen.pick(SUMS[parts[1]]), parts) + "."


PUZZLES = (_reversed, _replaced, _plural, _past, _edge, _class, _list, _count, _compare)
WEIGHTS = (3, 7, 2, 2, 2, 4, 4, 4, 3)


def riddle(pen: Pen) -> tuple[str, str]:
    """A question of any kind but about facts, and its answer; asked otherwise than by the instructions."""
    (kind,) = pen.draw.choices(RIDDLES, RIDDLE_WEIGHTS)
    return kind(pen)


def _ask_reversed(pen: Pen) -> tuple[str, str]:
    words = some_words(pen, pen.world.size.span)
    return pen.pick(("What is {} backwards?", "{} turned round?")).format(
        " ".join(words)
    ), f"It reads {' '.join(reversed(words))}."


def _ask_replaced(pen: Pen) -> tuple[str, str]:
    old, new, before, after = swapped(pen)
    return pen.pick(("{n} for {o} in {b}?", "Not {o} but {n}: {b}?")).format(n=new, o=old, b=before), after


def _ask_plural(pen: Pen) -> tuple[str, str]:
    word = pen.pick(pen.world.words(pen.pick(COUNTABLE)))
    return pen.pick(("More than one {}?", "Two of {}?")).format(word), f"The plural is {plural(word)}."


def _ask_past(pen: Pen) -> tuple[str, str]:
    now, then = action(pen)
    return pen.pick(("Today {} And yesterday?", "Now {} And then?")).format(now), then


def _ask_edge(pen: Pen) -> tuple[str, str]:
    words = some_words(pen, 3)
    return f"How does {' '.join(words)} end?", f"The last word is {words[-1]}."


def _ask_class(pen: Pen) -> tuple[str, str]:
    if pen.draw.random() < 0.4:
        name = pen.pick(tuple(pen.world.kind_of))
        return pen.pick(("What kind of name is {}?", "What does {} name?")).format(name), KIND_NAMES[
            pen.world.kind_of[name]
        ]
    kind = pen.pick(CLASS_NAMES)
    word = pen.pick(pen.world.words(kind))
    return pen.pick(("What kind of word is {}?", "What does {} name?")).format(word), f"It is {article(kind)}."


def _ask_list(pen: Pen) -> tuple[str, str]:
    kind = pen.pick(CLASS_NAMES)
    amount = list_length(pen)
    words = pen.world.words(kind)[:amount]
    return pen.pick(("Which {n} {c} come first?", "The first {n} {c}?")).format(
        n=amount, c=PLURAL_CLASSES[kind]
    ), f"Some {PLURAL_CLASSES[kind]}: {', '.join(words)}."


def _ask_count(pen: Pen) -> tuple[str, str]:
    first = int(pen.draw.random() * (pen.world.size.largest - 1))
    last = first + 2 + int(pen.draw.random() * 3)
    question = pen.pick(("What comes from {} to {}?", "{} up to {}?")).format(first, last)
    return question, ", ".join(str(number) for number in range(first, last + 1))


def _ask_more(pen: Pen) -> tuple[str, str]:
    low, high = two_numbers(pen)
    first, second = (low, high) if pen.draw.random() < 0.5 else (high, low)
    question = pen.pick(("{} against {}?", "Is {} or {} more?")).format(first, second)
    return question, f"{high} is more than {low}."


def _ask_sum(pen: Pen) -> tuple[str, str]:
    parts = pen.sum()
    question = pen.pick(SUM_QUESTIONS[parts[1]]).format(x=parts[0], y=parts[2])
    return question, f"{equation(SUMS[parts[1]][1], parts)}."


RIDDLES = (_ask_reversed, _ask_replaced, _ask_plural, _ask_past, _ask_edge, _ask_class, _ask_list, _ask_count, _ask_more,
           _ask_sum)  # fmt: skip
RIDDLE_WEIGHTS = (3, 6, 2, 2, 2, 4, 5, 6, 6, 9)


def puzzle_lines(pen: Pen, count: int) -> str:
    """Lines of one kind of puzzle."""
    (kind,) = pen.draw.choices(PUZZLES, WEIGHTS)
    return "\n".join(kind(pen) for _ in range(count))


def sum_lines(pen: Pen, count: int) -> str:
    """Lines of sums and differences."""
    return "\n".join(_sum(pen) for _ in range(count))


__all__ = [
    "COUNTABLE",
    "KINDS",
    "action",
    "list_length",
    "puzzle_lines",
    "riddle",
    "some_words",
    "sum_lines",
    "swapped",
    "two_numbers",
]
