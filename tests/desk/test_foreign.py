"""Questions in the second language: each has its answer in its text, and no split meets the other's strangers."""

from __future__ import annotations

import pytest

from camelid.desk.articles import language
from camelid.desk.foreign import FORMS, asking, foreign
from camelid.desk.grade import grade
from camelid.desk.world import Fact, world
from camelid.errors import UsageError


@pytest.mark.parametrize("seed", range(3))
def test_every_answer_stands_in_its_text_and_the_splits_share_no_stranger(seed: int) -> None:
    w = world("small", seed)
    tongue = language(w)
    strangers = {}
    for split in ("train", "held_out"):
        items = foreign(w, split, seed=seed)
        strangers[split] = {item.subject for item in items}
        assert len({(item.instruction, item.input) for item in items}) == len(items)
        for item in items:
            sentences = [part + "." for part in item.input.removesuffix(".").split(". ")]
            answers = [sentence.split(" ", 1)[1] for sentence in sentences]
            assert answers.count(item.output) == 1 and grade(item, item.output) and grade(item, item.accepted[0])
            wrong = [each for each in answers if each != item.output]
            assert wrong and not any(grade(item, each) for each in wrong)
            told = Fact(item.subject, item.task, _value(w, tongue, item.output))
            assert tongue.sentence(told) == f"{tongue.name(item.subject)} {item.output}"
    assert not strangers["train"] & strangers["held_out"]


def _value(w, tongue, sentence: str) -> str:
    there = {word: english for english, word in tongue.words.items()}
    names = [*w.kind_of, *w.regions, *w.strangers]
    there |= {tongue.name(name): name for name in names}
    return there[sentence.removesuffix(".").split(" ")[0]]


def test_questions_are_fixed_by_seed_and_their_words_are_nothing_else() -> None:
    w = world("tiny", 1)
    assert foreign(w, "train", 40, seed=2) == foreign(w, "train", 40, seed=2) != foreign(w, "train", 40, seed=3)
    words = asking(w)
    assert len(set(words)) == len(FORMS) and not {*language(w).words.values(), *language(w).verbs.values()} & {*words}


def test_an_unknown_split_or_too_many_are_refused() -> None:
    with pytest.raises(UsageError, match="held_out_wording"):
        foreign(world("tiny"), "held_out_wording")
    with pytest.raises(UsageError, match="holds about"):
        foreign(world("tiny"), "held_out", 10_000_000)
