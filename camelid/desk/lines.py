"""Records of many lines, of which one is asked for: how far a model reads, told by where it still finds the line.

    line red goat: 4 7.     (as many as fit)
    What stands in line red goat?        Line red goat holds 4 7.

After the line retrieval task of Li et al. 2023 (LongChat), with words and numbers of the desk world.
"""

from __future__ import annotations

from random import Random

from camelid.desk.instructions import Item
from camelid.desk.lexicon import CLASSES
from camelid.desk.world import World
from camelid.errors import ProblemList
from camelid.randomness import key


def lines(
    world: World, split: str = "train", count: int | None = None, *, fewest: int = 2, most: int = 10, seed: int = 0
) -> list[Item]:
    """`count` records of from `fewest` to `most` lines; the item's `task` says in which tenth of the record its line is.

    Raises UsageError for an unknown split, or for more lines than the world has names for.
    """
    problems = ProblemList()
    words = [word for kind in CLASSES for word in world.words(kind)]
    if split not in ("train", "held_out"):
        problems.add("desk split", f"unknown split {split!r}", "choose train or held_out")
    if not 1 <= fewest <= most <= len(words) * (len(words) - 1):
        found = f"from {fewest} to {most} lines"
        problems.add("desk lines", found, f"choose from 1 to {len(words) * (len(words) - 1)}, the fewest first")
    if count is not None and count < 1:
        problems.add("desk lines, count", f"{count}", "ask for one or more")
    problems.raise_usage()
    wanted = count or (world.size.train_items if split == "train" else world.size.held_out_items)
    return [_record(world, words, split, number, fewest, most, seed) for number in range(wanted)]


def _record(world: World, words: list[str], split: str, number: int, fewest: int, most: int, seed: int) -> Item:
    draw = Random(key("desk lines", world.seed, split, seed, number))
    amount = fewest + int(draw.random() * (most - fewest + 1))
    names: dict[str, str] = {}
    while len(names) < amount:
        names[" ".join(draw.sample(words, 2))] = f"{int(draw.random() * 10)} {int(draw.random() * 10)}"
    place = int(draw.random() * amount)
    name = list(names)[place]
    told = "\n".join(f"line {each}: {value}." for each, value in names.items())
    asked, answer = f"What stands in line {name}?", f"Line {name} holds {names[name]}."
    return Item(f"{told}\n{asked}", "", answer, "lines", f"tenth {10 * place // amount + 1}", name, (names[name],))
