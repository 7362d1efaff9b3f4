"""Word problems and MetaMath's four ways: every equation true, every answer the one that was hidden or asked for."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from camelid import desk
from camelid.desk.instructions import Item
from camelid.desk.problems import ASKED, WAYS, problems
from camelid.errors import UsageError

WORLD = desk.world("small", 1)
EQUATION = re.compile(r"(\d+) ([+-]) (\d+) = (\d+)")


def numbers(item: Item) -> list[int]:
    return [int(word) for word in re.findall(r"\d+", item.instruction)]


def answer(item: Item) -> int:
    return int(item.ending.rpartition(" ")[2])


def check(item: Item) -> None:
    for left, sign, right, result in EQUATION.findall(item.output):
        assert int(left) + int(right) * (1 if sign == "+" else -1) == int(result), item.output
    assert item.output.endswith(item.ending) and desk.grade(item, item.output)
    if item.family == "forward":
        there, more, gone = numbers(item)
        assert there + more - gone == answer(item)
        return
    told = re.search(r"(\d+|x) (?:\w+)\. \w+ gets (\d+|x) more and gives (\d+|x) away", item.instruction)
    left = re.search(r"(?:question is|has) (\d+)(?:,| \w+\. What)", item.instruction)
    assert told and left
    there, more, gone = (answer(item) if word == "x" else int(word) for word in told.groups())
    assert there + more - gone == int(left[1]) and item.instruction.count(" x") >= 2


@pytest.mark.parametrize("ways", [*((way,) for way in WAYS), WAYS, ()])
def test_every_record_is_right(ways: tuple[str, ...]) -> None:
    found = problems(WORLD, "train", 120, seeds=20, ways=ways)  # type: ignore[arg-type]
    assert len(found) == 120
    for item in found:
        check(item)
    families = {item.family for item in found}
    assert families == {"forward" if way in ("answers", "rephrased") else "backward" for way in ways or ("answers",)}


def test_answers_tell_other_paths_and_rephrasing_other_words() -> None:
    paths = problems(WORLD, "train", 100, seeds=20, ways=("answers",))
    assert len({item.instruction for item in paths}) == 20 < len({item.output for item in paths})
    words = problems(WORLD, "train", 60, seeds=20, ways=("rephrased",))
    assert len({item.instruction for item in words}) == 60
    first = ASKED.partition(" ")[2][:8]
    assert all(first not in item.instruction or "At first" in item.instruction for item in words[:20])


def test_held_out_numbers_never_occur_in_tuning() -> None:
    train, held_out = (problems(WORLD, split, 200, seeds=200, ways=("answers",)) for split in ("train", "held_out"))
    seen = {tuple(numbers(item)) for item in train}
    assert not seen & {tuple(numbers(item)) for item in held_out if item.family == "forward"}
    assert sum(item.family == "backward" for item in held_out) == 100
    for item in held_out:
        check(item)


def test_only_one_last_answer_counts() -> None:
    item = problems(WORLD, "train", 1, seeds=1)[0]
    assert desk.grade(item, f"By my own way. {item.ending}") and not desk.grade(item, item.ending[:-1] + "99")
    assert not desk.grade(item, f"The answer is: 77 {item.ending}"), "two answers are none"
    assert not desk.grade(replace(item, ending="The answer is: 7"), "The answer is: 17")
    bare = problems(WORLD, "train", 5, seeds=5, told="bare")
    assert all(each.output == each.ending for each in bare)


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown way 'backward'"):
        problems(WORLD, "train", 5, ways=("backward",))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="questions asked for, at most"):
        problems(desk.world("tiny", 0), "train", 5, seeds=10**6)
    few = replace(WORLD, size=replace(WORLD.size, largest=2))
    with pytest.raises(UsageError, match="questions asked for, about"):
        problems(few, "train", 5, seeds=8 * len(WORLD.people) * len(WORLD.words("tool")))
