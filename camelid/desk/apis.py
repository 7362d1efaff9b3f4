"""A library of functions in the desk world, requests that never name them, and a manual that can change.

    Bring 2 red chairs to the market.        brivify(amount=2)
    manual: brivify(amount)

Every function does one thing to tools of one kind and colour, and bears a name of its maker's invention, as packages
do: nothing in it says what it does, so that it must be remembered or read. In a changed manual each function has
another name: a model that reads the manual writes it, one that remembers writes the old.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from camelid.desk.lexicon import every_word, names, plural
from camelid.desk.world import World
from camelid.errors import ProblemList
from camelid.randomness import key

# What is asked for, in words that hold no function's name.
ACTIONS = (
    "Bring {n} {c} {k} to the market.",
    "Give away {n} {c} {k} for money.",
    "Let {n} {c} {k} look better.",
    "Cover {n} {c} {k} with cloth.",
    "Get the dust off {n} {c} {k}.",
    "Hide {n} {c} {k} in the barn.",
    "Take {n} {c} {k} to another town.",
    "Put {n} {c} {k} in my house.",
    "Where are {n} {c} {k}?",
    "Count {n} {c} {k} for me.",
    "The {n} {c} {k} do not work.",
    "Who made {n} {c} {k} here?",
)
ENDS = ("ate", "ise", "ify")  # of the names of functions


@dataclass(frozen=True)
class Function:
    """A function of the library: what it does, to tools of which kind and colour, and its name."""

    action: int
    kind: str
    colour: str
    name: str

    @property
    def manual(self) -> str:
        """Its line in the manual."""
        return f"{self.name}(amount)"

    def call(self, amount: int) -> str:
        """The call that does this to so many things."""
        return f"{self.name}(amount={amount})"


@dataclass(frozen=True)
class Request:
    """What somebody asks for, which function does it, the call, and the line of the manual that was found for it."""

    asked: str
    function: Function
    call: str
    manual: str


def library(world: World, *, changed: bool = False) -> tuple[Function, ...]:
    """The functions of a world's library, in its manual's order; `changed` after every name has changed."""
    kinds, colours = world.words("tool"), world.words("colour")
    does = [(action, kind, colour) for action in range(len(ACTIONS)) for kind in kinds for colour in colours]
    every = names(Random(key("desk functions", world.seed)), 2 * len(does), ENDS, set(every_word()))
    called = every[len(does) :] if changed else every[: len(does)]
    return tuple(Function(*one, name.lower()) for one, name in zip(does, called, strict=True))


def requests(
    world: World, split: str = "train", count: int = 100, *, seed: int = 0, wrong: float = 0.0, changed: bool = False
) -> list[Request]:
    """`count` different requests of one split, fixed by seed; a keyed share `wrong` of them comes with another
    function's line of the manual. A keyed quarter of all requests is held out.

    Raises UsageError for an unknown split, a share that is none, or where there are not so many.
    """
    problems = ProblemList()
    if split not in ("train", "held_out"):
        problems.add("desk split", f"unknown split {split!r}", "choose train or held_out")
    if not 0 <= wrong <= 1:
        problems.add("desk calls, wrong", f"{wrong}", "give a share from 0 to 1")
    functions = library(world, changed=changed)
    every = [
        (function, amount)
        for function in functions
        for amount in range(2, 10)
        if (key("desk call", world.seed, function.action, function.kind, function.colour, amount) % 4 == 0)
        == (split == "held_out")
    ]
    if not 1 <= count <= len(every):
        problems.add("desk calls, count", f"{count} of {len(every)}", "ask for fewer, or choose a larger size")
    problems.raise_usage()
    draw = Random(key("desk calls", world.seed, split, seed))
    found = []
    for function, amount in draw.sample(every, count):
        asked = ACTIONS[function.action].format(n=amount, c=function.colour, k=plural(function.kind))
        shown = draw.choice([each for each in functions if each != function]) if draw.random() < wrong else function
        found.append(Request(asked, function, function.call(amount), shown.manual))
    return found
