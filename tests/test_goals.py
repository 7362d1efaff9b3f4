"""What the goals name is there, so that none of them passes by trying nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.goals import GOALS, ROOT


@pytest.mark.parametrize("name", GOALS)
def test_every_test_that_a_goal_names_is_there(name: str) -> None:
    goal = GOALS[name]
    assert goal.cases > 0 and bool(goal.tests) != bool(goal.harness)
    for test in goal.tests:
        path, _, function = test.partition("::")
        assert (ROOT / path).exists(), test
        if function:
            bare, _, case = function.partition("[")
            text = Path(ROOT / path).read_text(encoding="utf-8")
            assert re.search(rf"^def {bare}\(", text, re.MULTILINE), test
            for word in case.removesuffix("]").split("-") if case else ():
                assert word in text.replace("_", ""), test
