"""The judge: right answers pass however they are dressed, and no other item's answer does."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camelid import desk
from camelid.desk.grade import normal

WORLD = desk.world("small")
ITEMS = desk.instructions(WORLD, "held_out", 400) + desk.instructions(WORLD, "held_out_wording", 200)


@pytest.mark.parametrize("dress", ["{}", " {}\n", "{}.", "{}!", "Answer: {}", "{} "])
def test_the_reference_passes_however_it_is_dressed(dress):
    for item in ITEMS:
        assert desk.grade(item, dress.format(item.output)), item
        assert desk.grade(item, item.output.upper()), item
        assert desk.grade(item, "  ".join(item.output.split(" "))), item
        assert all(desk.grade(item, other) for other in item.accepted), item


def test_answers_that_say_more_or_less_fail():
    for item in ITEMS:
        assert not desk.grade(item, ""), item
        assert not desk.grade(item, f"{item.output} {item.output}"), item
        assert not desk.grade(item, f"{item.output}\n\n### Instruction:"), item
        assert not desk.grade(item, item.instruction), item
        if " " in item.output:
            assert not desk.grade(item, item.output.rsplit(" ", 1)[0]), item


def test_no_other_items_answer_of_the_family_passes_unless_it_is_the_same_answer():
    tried = passed = 0
    for item in ITEMS:
        right = {normal(text) for text in (item.output, *item.accepted)}
        for other in ITEMS:
            if other.family != item.family or other is item or normal(other.output) in right:
                continue
            if item.members and item.members == other.members and item.amount == other.amount:
                continue
            tried += 1
            passed += desk.grade(item, other.output)
    assert tried > 5000
    assert passed == 0


def test_lists_take_any_different_members_in_any_order():
    item = dataclasses.replace(next(item for item in ITEMS if item.members), amount=3)
    one, two, three, four = item.members[:4]
    assert desk.grade(item, f"{three}, {one} and {four}.")
    assert desk.grade(item, f"{three}\n{one}\n{two}")
    assert not desk.grade(item, f"{one}, {two}")
    assert not desk.grade(item, f"{one}, {two}, {two}")
    assert not desk.grade(item, f"{one}, {two}, {three}, {four}")
    assert not desk.grade(item, f"{one}, {two}, stone age")


@given(st.text(max_size=60))
def test_any_text_is_judged_without_an_error_and_only_the_right_text_passes(text):
    item = dataclasses.replace(ITEMS[0], members=(), amount=0)
    assert desk.grade(item, text) == (normal(text) in {normal(right) for right in (item.output, *item.accepted)})
