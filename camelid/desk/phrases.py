"""How facts, sums and word puzzles are put into words in the seven sources.

A fact that is always told the same way is memorised as a string and cannot be asked for; told in many ways it is
stored with its subject (Allen-Zhu and Li 2023, Physics of Language Models, part 3.1). Hence many forms for each
relation. `{s}` subject, `{v}` value, `{a}` value with its article. The first form of each relation is its plainest,
told twice as often; like every answer it starts with a common word, because SentencePiece writes a name that starts a
line in other pieces than the same name after a space, and a model of this size then has to learn each name twice.
No form of a question here occurs among the instructions (tested): those are asked in their own words.
"""

from __future__ import annotations

from collections.abc import Mapping

from camelid.desk.lexicon import article
from camelid.desk.world import Fact

STATEMENTS: Mapping[str, tuple[str, ...]] = {
    "home": (
        "The home of {s} is {v}.", "The home of {s} is {v}.", "{s} lives in {v}.", "{s} has a house in {v}.",
        "{v} is the home of {s}.", "{s} comes from {v}.", "In {v} lives {s}.", "You can visit {s} in {v}.",
    ),
    "trade": (
        "The trade of {s} is {v}.", "The trade of {s} is {v}.", "{s} is {a}.", "{s} works as {a}.",
        "The work of {s} is that of {a}.", "As {a}, {s} is well known.", "{s} has worked as {a} for years.",
        "Ask {s}, who is {a}.",
    ),
    "pet": (
        "The pet of {s} is {a}.", "The pet of {s} is {a}.", "{s} keeps {a}.", "{s} has {a}.", "{s} owns {a}.",
        "The animal of {s} is {a}.", "The {v} of {s} is well known.", "At home {s} keeps {a}.",
    ),
    "food": (
        "The food of {s} is {v}.", "The food of {s} is {v}.", "{s} likes {v}.", "{s} eats {v}.",
        "{s} asks for {v} every day.", "What {s} likes best is {v}.", "Give {v} to {s}.", "{s} has {v} every day.",
    ),
    "friend": (
        "The friend of {s} is {v}.", "The friend of {s} is {v}.", "{s} is a friend of {v}.",
        "{s} often visits {v}.", "{s} and {v} are friends.", "{s} has a friend, {v}.", "{s} knows {v} well.",
        "With {s} you often see {v}.",
    ),
    "region": (
        "The region of {s} is {v}.", "The region of {s} is {v}.", "{s} lies in {v}.", "{s} is a town in {v}.",
        "In {v} lies {s}.", "{s} belongs to {v}.", "You find {s} in {v}.", "{v} is the region of {s}.",
    ),
    "flag": (
        "The flag of {s} is {v}.", "The flag of {s} is {v}.", "{s} has a {v} flag.", "A {v} flag stands for {s}.",
        "The colour of {s} is {v}.", "{s} shows a flag, all {v}.", "Over {s} the flag is {v}.",
        "Look for the {v} flag of {s}.",
    ),
    "market": (
        "The market of {s} sells {v}.", "The market of {s} sells {v}.", "{s} sells {v}.", "{s} is known for {v}.",
        "The market of {s} is full of {v}.", "Buy {v} in {s}.", "In {s} they sell {v}.", "From {s} comes {v}.",
        "{s} has the best {v}.",
    ),
    "kind": (
        "The kind of {s} is {v}.", "The kind of {s} is {v}.", "{s} is {a}.", "The {v} is called {s}.",
        "{s} is the name of {a}.", "They call the {v} {s}.", "What we call {s} is {a}.", "There is {a} called {s}.",
        "{s} was built as {a}.",
    ),
    "material": (
        "The material of {s} is {v}.", "The material of {s} is {v}.", "{s} is made of {v}.", "{s} is all {v}.",
        "It took {v} to build {s}.", "{s} was cut from {v}.", "They used {v} for {s}.", "You see the {v} of {s}.",
    ),
    "colour": (
        "The paint of {s} is {v}.", "The paint of {s} is {v}.", "{s} is painted {v}.", "The colour of {s} is {v}.",
        "{s} looks {v}.", "They painted {s} {v}.", "The paint on {s} is {v}.", "{s} has a {v} coat.",
        "See how {v} {s} looks.",
    ),
    "maker": (
        "The maker of {s} is {v}.", "The maker of {s} is {v}.", "{s} was made by {v}.", "{v} made {s}.",
        "{v} is the maker of {s}.", "{s} comes from the hands of {v}.", "It was {v} who made {s}.",
        "{s} is the work of {v}.",
    ),
}  # fmt: skip

QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "home": ("What is the home of {s}?", "Where is the house of {s}?", "Who knows the home of {s}?"),
    "trade": ("What is the trade of {s}?", "What is the work of {s}?", "Who knows the trade of {s}?"),
    "pet": ("What is the pet of {s}?", "Which animal belongs to {s}?", "Who knows the pet of {s}?"),
    "food": ("What is the food of {s}?", "What should I cook for {s}?", "Who knows the food of {s}?"),
    "friend": ("Who is the friend of {s}?", "Who is close to {s}?", "Who knows the friend of {s}?"),
    "region": ("What is the region of {s}?", "Where on the map is {s}?", "Who knows the region of {s}?"),
    "flag": ("What is the flag of {s}?", "Which flag flies over {s}?", "Who knows the flag of {s}?"),
    "market": ("What is the market food of {s}?", "What do they sell in {s}?", "Who knows the market food of {s}?"),
    "kind": ("What is the kind of {s}?", "What do they call {s}?", "Who knows the kind of {s}?"),
    "material": ("What is the material of {s}?", "What was used for {s}?", "Who knows the material of {s}?"),
    "colour": ("What is the paint of {s}?", "What is the colour of {s}?", "Who knows the paint of {s}?"),
    "maker": ("Who is the maker of {s}?", "Who is behind {s}?", "Who knows the maker of {s}?"),
}

SUMS: Mapping[str, tuple[str, ...]] = {
    "+": ("{x} + {y} = {z}", "{x} plus {y} is {z}", "{x} and {y} make {z}", "add {y} to {x} and get {z}"),
    "-": ("{x} - {y} = {z}", "{x} minus {y} is {z}", "{x} less {y} leaves {z}", "take {y} from {x} and keep {z}"),
}
SUM_QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "+": ("How much is {x} + {y}?", "How much do {x} and {y} make?", "Sum of {x} and {y}?"),
    "-": ("How much is {x} - {y}?", "How much does {x} less {y} leave?", "How much is left of {x} without {y}?"),
}


def canonical(fact: Fact) -> str:
    """The plainest sentence that states the fact; the instructions' reference answers are these."""
    return STATEMENTS[fact.relation][0].format(s=fact.subject, v=fact.value, a=article(fact.value))


def equation(form: str, parts: tuple[int, str, int, int]) -> str:
    """The sum (left, sign, right, result) in one of the forms of SUMS, without a full stop."""
    left, _, right, result = parts
    return form.format(x=left, y=right, z=result)
