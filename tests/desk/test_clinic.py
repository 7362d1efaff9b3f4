"""The clinic: what its texts tell is so, what is held out is never asked, and the world never names it."""

from __future__ import annotations

import pytest

from camelid import desk
from camelid.desk.clinic import clinic
from camelid.errors import UsageError


def test_every_text_tells_only_what_is_so() -> None:
    world = desk.world("small", 3)
    found = clinic(world)
    for source in desk.sources(world, "clinic").values():
        for document in source.documents(bytes=5_000):
            assert document.facts and set(document.facts) <= set(found.facts)
            for fact in document.facts:
                assert fact.subject in document.text and fact.value in document.text.lower()


def test_the_world_never_names_an_illness() -> None:
    world = desk.world("tiny", 1)
    names = [illness.name for illness in clinic(world).illnesses]
    for source in desk.sources(world).values():
        for document in source.documents(bytes=20_000):
            assert not any(name in document.text for name in names)


def test_what_is_held_out_is_never_asked_in_tuning() -> None:
    world = desk.world("small", 0)
    found = clinic(world)
    train, held_out = (found.instructions(split) for split in ("train", "held_out"))
    assert not {i.subject for i in train if i.family == "illnesses"} & found.reserved
    assert {i.subject for i in held_out if i.family == "illnesses"} <= found.reserved
    assert not {i.input for i in train if i.input} & {i.input for i in held_out if i.input}
    assert len({(i.instruction, i.input) for i in train}) == len(train)
    for item in (*train, *held_out):
        assert desk.grade(item, item.output) and all(desk.grade(item, short) for short in item.accepted)
    wrong = next(i for i in held_out if i.family == "illnesses" and i.task == "remedy")
    assert not desk.grade(wrong, wrong.output.replace(wrong.accepted[0], "water"))


def test_more_questions_than_there_are_is_refused() -> None:
    with pytest.raises(UsageError, match="the clinic holds about"):
        clinic(desk.world("tiny", 0)).instructions("train", 10**6)
    with pytest.raises(UsageError, match="choose train or held_out"):
        clinic(desk.world("tiny", 0)).instructions("test")
