"""A library of functions in the desk world, requests that never name them, and a manual that can change.

    Make 2 red chairs ready for sale.        sell_chair(colour="red", amount=2)
    manual: sell_chair(colour, amount)

Every function does one thing to one kind of tool. In a changed manual each function has another name and its second
argument another word: a model that reads the manual writes the new call, one that remembers writes the old.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from camelid.desk.lexicon import plural
from camelid.desk.world import World
from camelid.errors import ProblemList
from camelid.randomness import key

# What is asked for, in words that hold neither the name nor the new name of the function: (name, new name, wordings).
ACTIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("sell", "trade", ("Bring {n} {c} {k} to the market.", "Give away {n} {c} {k} for money.")),
    ("paint", "colour", ("Let {n} {k} look {c}.", "I want {n} {k} to look {c}.")),
    ("wash", "clean", ("Get the dust off {n} {c} {k}.", "Make {n} {c} {k} look like new.")),
    ("move", "carry", ("Take {n} {c} {k} to another town.", "I want {n} {c} {k} in another house.")),
    ("find", "seek", ("Where are {n} {c} {k}?", "I lost {n} {c} {k}: where are they?")),
    ("mend", "fix", ("The {n} {c} {k} do not work.", "Make {n} {c} {k} work again.")),
)
SECOND, RENAMED = "amount", "number"


@dataclass(frozen=True)
class Function:
    """A function of the library: its name and its two arguments, as the manual tells them."""

    action: int
    kind: str
    name: str
    second: str = SECOND

    @property
    def manual(self) -> str:
        """Its line in the manual."""
        return f"{self.name}(colour, {self.second})"

    def call(self, colour: str, amount: int) -> str:
        """The call that does this to so many things of a colour."""
        return f'{self.name}(colour="{colour}", {self.second}={amount})'


@dataclass(frozen=True)
class Request:
    """What somebody asks for, which function does it, the call, and the line of the manual that was found for it."""

    asked: str
    function: Function
    call: str
    manual: str


def library(world: World, *, changed: bool = False) -> tuple[Function, ...]:
    """The functions of a world's library, in its manual's order; `changed` after every name has changed."""
    return tuple(
        Function(place, kind, f"{new if changed else old}_{kind}", RENAMED if changed else SECOND)
        for place, (old, new, _) in enumerate(ACTIONS)
        for kind in world.words("tool")
    )


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
        (function, wording, colour, amount)
        for function in functions
        for wording in range(len(ACTIONS[function.action][2]))
        for colour in world.words("colour")
        for amount in range(2, 10)
        if (key("desk call", world.seed, function.action, function.kind, wording, colour, amount) % 4 == 0)
        == (split == "held_out")
    ]
    if not 1 <= count <= len(every):
        problems.add("desk calls, count", f"{count} of {len(every)}", "ask for fewer, or choose a larger size")
    problems.raise_usage()
    draw = Random(key("desk calls", world.seed, split, seed))
    found = []
    for function, wording, colour, amount in draw.sample(every, count):
        asked = ACTIONS[function.action][2][wording].format(n=amount, c=colour, k=plural(function.kind))
        shown = draw.choice([each for each in functions if each != function]) if draw.random() < wrong else function
        found.append(Request(asked, function, function.call(colour, amount), shown.manual))
    return found
