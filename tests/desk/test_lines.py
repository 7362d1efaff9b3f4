"""Records of lines: the line asked for is there once, and stands anywhere."""

from __future__ import annotations

import pytest

from camelid import desk
from camelid.desk.lines import lines
from camelid.errors import UsageError


def test_the_line_asked_for_stands_once_and_holds_the_answer() -> None:
    world = desk.world("tiny", 4)
    found = lines(world, "train", 200, fewest=3, most=30)
    for item in found:
        *told, asked = item.instruction.split("\n")
        (line,) = [line for line in told if line.startswith(f"line {item.subject}: ")]
        assert line == f"line {item.subject}: {item.accepted[0]}." and item.subject in asked and 3 <= len(told) <= 30
        assert desk.grade(item, item.output) and desk.grade(item, item.accepted[0])
    assert {item.task for item in found} == {f"tenth {place}" for place in range(1, 11)}
    assert found != lines(world, "held_out", 200, fewest=3, most=30)


def test_more_lines_than_names_are_refused() -> None:
    with pytest.raises(UsageError, match="choose from 1 to"):
        lines(desk.world("tiny", 0), fewest=5, most=10**4)
    with pytest.raises(UsageError, match="from 9 to 3 lines"):
        lines(desk.world("tiny", 0), fewest=9, most=3)
