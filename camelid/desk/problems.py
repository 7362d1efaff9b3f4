"""Word problems in two steps, worked out, and the four ways in which MetaMath makes more of them.

    question    Mira has 3 bells. Mira gets 4 more and gives 2 away. How many bells does Mira have?
    answers     another path:       3 - 2 = 1. 1 + 4 = 5. The answer is: 5
    rephrased   the same in other words
    verified    Mira has x bells. Mira gets 4 more and gives 2 away. Mira has 5 bells. What is the value of unknown variable x?
    fobar       the question with x, then: If we know the answer to the above question is 5, what is ...?

Yu et al. 2023 (arXiv 2309.12284), section 3. Every path here is right: what its authors filter is never made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from camelid.desk.instructions import Item
from camelid.desk.lexicon import plural
from camelid.desk.world import World
from camelid.errors import ProblemList
from camelid.randomness import key

Way = Literal["answers", "rephrased", "verified", "fobar"]
WAYS: tuple[Way, ...] = ("answers", "rephrased", "verified", "fobar")
ASKED = "{p} has {a} {n}. {p} gets {b} more and gives {c} away. How many {n} does {p} have?"
REPHRASED = (
    "At first {p} has {a} {n}. Then {p} gets {b} {n} and gives away {c}. How many {n} are left?",
    "{p}, who has {a} {n}, gets another {b} and gives {c} of them away. What is the number of {n} now?",
    "How many {n} does {p} have after a start with {a}, a gift of {b} and a loss of {c}?",
)
TOLD = "{p} has {a} {n}. {p} gets {b} more and gives {c} away. {p} has {r} {n}."
UNKNOWN = "What is the value of unknown variable x?"
KNOWN = "If we know the answer to the above question is {r}, what is the value of unknown variable x?"


@dataclass(frozen=True)
class Problem:
    """Who has what, how many there are, come and go; `left` is what remains."""

    who: str
    what: str
    there: int
    more: int
    gone: int

    @property
    def left(self) -> int:
        return self.there + self.more - self.gone

    def words(self, hidden: str = "") -> dict[str, object]:
        """The fields of a wording; the number named `hidden` is x."""
        told = {"p": self.who, "n": self.what, "a": self.there, "b": self.more, "c": self.gone, "r": self.left}
        return told | ({hidden: "x"} if hidden else {})

    def paths(self) -> tuple[str, ...]:
        """Different ways to the answer, each right."""
        a, b, c, r = self.there, self.more, self.gone, self.left
        found = [f"{a} + {b} = {a + b}. {a + b} - {c} = {r}."]
        found += [f"{a} - {c} = {a - c}. {a - c} + {b} = {r}."] if a >= c else []
        found += [f"{b} - {c} = {b - c}. {a} + {b - c} = {r}."] if b >= c else []
        return (*found, f"{b} + {a} = {a + b}. {a + b} - {c} = {r}.")

    def back(self, hidden: str) -> tuple[str, int]:
        """The way back to a hidden number, and that number."""
        a, b, c, r = self.there, self.more, self.gone, self.left
        if hidden == "c":
            return f"{a} + {b} = {a + b}. {a + b} - {r} = {c}.", c
        other, found = (b, a) if hidden == "a" else (a, b)
        return f"{r} + {c} = {r + c}. {r + c} - {other} = {found}.", found


def problems(
    world: World,
    split: str = "train",
    count: int | None = None,
    *,
    seeds: int = 200,
    ways: Sequence[Way] = WAYS,
    told: Literal["worked", "bare"] = "worked",
    seed: int = 0,
) -> list[Item]:
    """`count` records made from `seeds` questions in these ways, in equal numbers; or, held out, questions of which no
    numbers occur in tuning, one half asked forward and one half backward, whatever the ways. Told "bare", an answer
    is its last sentence.

    Raises UsageError for an unknown split or way, and where the world's numbers do not make so many questions.
    """
    wrong = ProblemList()
    if split not in ("train", "held_out"):
        wrong.add("desk split", f"unknown split {split!r}", "choose train or held_out")
    for way in ways:
        if way not in WAYS:
            wrong.add("desk sums, ways", f"unknown way {way!r}", f"choose from {', '.join(WAYS)}")
    if seeds < 1 or (count is not None and count < 1):
        wrong.add("desk sums", f"{seeds} seeds, {count} records", "ask for one or more")
    wrong.raise_usage()
    draw = Random(key("desk sums", world.seed, split, seed))
    if split == "held_out":
        wanted = count or world.size.held_out_items
        return [_held_out(each, place, draw) for place, each in enumerate(_different(world, draw, True, wanted))]
    chosen = _different(world, draw, False, seeds)
    made = list(_augmented(chosen, tuple(ways), count or world.size.train_items, draw))
    return made if told == "worked" else [replace(item, output=item.ending) for item in made]


def _augmented(chosen: Sequence[Problem], ways: tuple[Way, ...], count: int, draw: Random) -> Iterator[Item]:
    """The ways take turns; each goes through the seeds again and again."""
    for place in range(count):
        way, turn = (ways[place % len(ways)], place // len(ways)) if ways else (None, place)
        problem, round = chosen[turn % len(chosen)], turn // len(chosen)
        if way is None:
            yield _forward(problem, ASKED, 0)
        elif way == "answers":
            yield _forward(problem, ASKED, round)
        elif way == "rephrased":
            yield _forward(problem, REPHRASED[round % len(REPHRASED)], round)
        else:
            yield _backward(problem, way, "abc"[int(draw.random() * 3)])


def _forward(problem: Problem, form: str, path: int) -> Item:
    paths = problem.paths()
    return _item(form.format(**problem.words()), paths[path % len(paths)], problem.left, "forward")


def _backward(problem: Problem, way: Way, hidden: str) -> Item:
    path, found = problem.back(hidden)
    words = problem.words(hidden)
    asked = f"{TOLD} {UNKNOWN}" if way == "verified" else f"{ASKED} {KNOWN}"
    return _item(asked.format(**words), path, found, "backward")


def _held_out(problem: Problem, place: int, draw: Random) -> Item:
    if place % 2:
        return _backward(problem, "verified" if place % 4 == 1 else "fobar", "abc"[int(draw.random() * 3)])
    return _forward(problem, (ASKED, *REPHRASED)[place // 2 % (1 + len(REPHRASED))], 0)


def _item(asked: str, path: str, answer: int, family: str) -> Item:
    ending = f"The answer is: {answer}"
    return Item(asked, "", f"{path} {ending}", family, family, ending=ending)


def _different(world: World, draw: Random, held_out: bool, count: int) -> list[Problem]:
    """So many problems with different numbers, people or things; their numbers lie on one side of tuning and test."""
    found: dict[Problem, None] = {}
    names, tools = [person.name for person in world.people], world.words("tool")
    most = world.size.largest**3 * len(names) * len(tools)  # on both sides: more are not even looked for
    for _ in range(40 * count + 400 if count <= most else 0):
        if len(found) == count:
            break
        there, more = (1 + int(draw.random() * world.size.largest) for _ in range(2))
        gone = 1 + int(draw.random() * min(world.size.largest, there + more))
        if (key("desk held out", world.seed, "problem", there, more, gone) % 4 == 0) == held_out:
            found[Problem(draw.choice(names), plural(draw.choice(tools)), there, more, gone)] = None
    if len(found) < count:
        wrong = ProblemList()
        room = f"about {len(found)}" if count <= most else f"at most {most}"
        wrong.add("desk sums", f"{count} questions asked for, {room} there", "ask for fewer, or a larger world")
        wrong.raise_usage()
    return list(found)
