"""Texts and questions in the second language, read back into facts."""

from __future__ import annotations

import pytest

from camelid import desk
from camelid.desk.articles import language
from camelid.desk.second import WHAT, second_instructions
from camelid.errors import UsageError


def test_every_sentence_reads_back_as_a_fact_of_the_world() -> None:
    world = desk.world("small", 2)
    other = language(world)
    told = desk.sources(world, "second language")
    for document in told["second language"].documents(bytes=4_000):
        facts = [other.read(f"{sentence}.") for sentence in document.text.rstrip(".").split(". ")]
        assert set(facts) == set(document.facts) and all(world.holds(fact) for fact in facts)
    for document in told["parallel"].documents(bytes=4_000):
        assert [other.sentence(other.read(theirs)) for _, theirs in document.parallel] == [
            t for _, t in document.parallel
        ]


def test_questions_hold_their_subjects_out_and_no_word_is_the_question_word() -> None:
    world = desk.world("small", 2)
    other = language(world)
    assert WHAT not in {*other.words.values(), *other.verbs.values()}
    train, held_out = (second_instructions(world, split) for split in ("train", "held_out"))
    assert not {item.subject for item in train} & world.reserved
    assert {item.subject for item in held_out} <= world.reserved
    for item in (*train, *held_out):
        fact = other.read(item.output)
        assert world.holds(fact) and fact.subject == item.subject and desk.grade(item, item.accepted[0])
    with pytest.raises(UsageError, match="of train"):
        second_instructions(world, "train", 10**5)
