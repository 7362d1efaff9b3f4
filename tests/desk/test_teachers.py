"""Teachers with errors, the grader, and conversations: shares, keys, and what is held out."""

from __future__ import annotations

import pytest

from camelid import desk
from camelid.desk.conversations import conversations
from camelid.desk.teachers import kept, taught
from camelid.desk.wordings import TUNING
from camelid.errors import UsageError
from tests.conftest import size

WORLD = desk.world("small", 0)


@pytest.mark.parametrize("wrong", [0.0, 0.3, 0.6])
def test_a_share_of_answers_is_wrong_and_no_other(wrong: float) -> None:
    records = taught(WORLD, size(2000), wrong=wrong)
    assert [record.item for record in records] == desk.instructions(WORLD, "train", size(2000))
    share = sum(not record.right for record in records) / len(records)
    assert abs(share - wrong) < 0.05
    for record in records:
        assert record.right == (record.answer == record.item.output)
    judged = sum(desk.grade(record.item, record.answer) for record in records if not record.right)
    assert judged <= 0.02 * len(records)  # another list of the same length may be right too


def test_the_grader_beats_chance_and_is_not_perfect() -> None:
    records = taught(WORLD, 2400, wrong=0.6)
    graded, blind = kept(records, 426, "graded"), kept(records, 426, "random")
    rights = [sum(record.right for record in some) / len(some) for some in (graded, blind)]
    assert 0.85 < rights[0] < 1.0 and abs(rights[1] - 0.4) < 0.08
    assert [r for r in records if r in graded] == graded, "their order is kept"
    assert kept(records, 426, "random") == blind != kept(records, 426, "random", seed=1)


def test_impossible_teachers_are_refused() -> None:
    with pytest.raises(UsageError, match="wrong: 2"):
        taught(WORLD, 10, wrong=2)
    with pytest.raises(UsageError, match="kept: 11 of 10 records"):
        kept(taught(WORLD, 10), 11, "random")


def test_later_turns_do_not_name_whom_they_are_about() -> None:
    for split in ("train", "held_out"):
        for turns in conversations(WORLD, split, size(300)):
            (subject,) = {turn.item.subject for turn in turns}
            assert (subject in WORLD.reserved) == (split == "held_out")
            assert subject in turns[0].item.instruction and not turns[0].back
            for turn in turns[1:]:
                assert turn.back and subject not in turn.item.instruction
                assert turn.item.instruction in TUNING[turn.item.task]
            assert len({turn.item.task for turn in turns}) == len(turns) == 3
            assert all(desk.grade(turn.item, turn.item.output) for turn in turns)


def test_conversations_are_keyed() -> None:
    assert conversations(WORLD, count=20) == conversations(WORLD, count=20) != conversations(WORLD, count=20, seed=1)
    assert conversations(WORLD, count=20) == conversations(WORLD, count=40)[:20]
    with pytest.raises(UsageError) as caught:
        conversations(WORLD, "trian", 0, turns=9)
    assert len(caught.value.problems) == 3
