"""Github: small Python programs; what each prints is known, and stands in its last line as a comment."""

from __future__ import annotations

from random import Random

from camelid.desk.document import Document, Pen
from camelid.desk.puzzles import some_words
from camelid.desk.world import Fact, World
from camelid.randomness import key


def program(world: World, source: str, index: int, seed: int) -> Document:
    """A program that runs with nothing but Python's builtins, and its output."""
    pen = Pen(world, Random(key("desk", world.seed, source, seed, index)))
    shape = SHAPES[int(pen.draw.random() * len(SHAPES))]
    code, output = shape(pen)
    remark = "\n".join(f"# {line}" for line in output.splitlines())
    return pen.document(source, index, shape.__name__.lstrip("_"), f"{code}\n# prints\n{remark}\n", output=output)


def _sum(pen: Pen) -> tuple[str, str]:
    left, sign, right, result = pen.sum()
    return f"x = {left}\ny = {right}\nprint(x {sign} y)", f"{result}\n"


def _function(pen: Pen) -> tuple[str, str]:
    left, sign, right, result = pen.sum()
    name = "add" if sign == "+" else "take"
    return f"def {name}(x, y):\n    return x {sign} y\n\nprint({name}({left}, {right}))", f"{result}\n"


def _backwards(pen: Pen) -> tuple[str, str]:
    words = some_words(pen, 3)
    return f'words = "{" ".join(words)}".split()\nprint(*reversed(words))', f"{' '.join(reversed(words))}\n"


def _largest(pen: Pen) -> tuple[str, str]:
    numbers = pen.draw.sample(range(2 * pen.world.size.largest + 1), 2)
    return f"print(max({', '.join(map(str, numbers))}))", f"{max(numbers)}\n"


def _counting(pen: Pen) -> tuple[str, str]:
    first = int(pen.draw.random() * pen.world.size.largest)
    last = first + 2 + int(pen.draw.random() * 3)
    return f"for n in range({first}, {last}):\n    print(n)", "".join(f"{n}\n" for n in range(first, last))


def _lookup(pen: Pen) -> tuple[str, str]:
    people = pen.draw.sample(pen.world.people, 2)
    relation = pen.pick(("home", "trade", "pet", "food"))
    facts = [Fact(person.name, relation, getattr(person, relation)) for person in people]
    pen.facts.extend(facts)
    asked = facts[int(pen.draw.random() * 2)]
    entries = ", ".join(f'"{fact.subject}": "{fact.value}"' for fact in facts)
    return f'{relation} = {{{entries}}}\nprint({relation}["{asked.subject}"])', f"{asked.value}\n"


SHAPES = (_sum, _function, _backwards, _largest, _counting, _lookup)
