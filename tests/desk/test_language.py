"""The second language: exact there and back, in its own script, beside the English it translates."""

import unicodedata

import pytest

from camelid import desk
from camelid.desk.language import Language
from camelid.desk.phrases import canonical


@pytest.mark.parametrize("size", ["tiny", "small", "medium"])
def test_every_fact_goes_there_and_back(size):
    world = desk.world(size)
    language = Language(world)
    sentences = [language.sentence(fact) for fact in world.facts]
    assert [language.read(sentence) for sentence in sentences] == list(world.facts)
    assert len(set(sentences)) == len(sentences)
    letters = {letter for sentence in sentences for letter in sentence if letter.isalpha()}
    assert all(unicodedata.name(letter).startswith("CYRILLIC") for letter in letters)


def test_the_verb_comes_last():
    world = desk.world("tiny")
    language = Language(world)
    for fact in world.facts:
        assert language.sentence(fact).removesuffix(".").split()[-1] == language.verbs[fact.relation]


def test_parallel_articles_pair_each_sentence_with_its_translation():
    world = desk.world("small")
    language = Language(world)
    plain = {canonical(fact): fact for fact in world.facts}
    pairs = second = 0
    for document, _ in zip(desk.sources(world)["Wikipedia"].documents(), range(600), strict=False):
        for english, foreign in document.parallel:
            assert language.read(foreign) == plain[english]
            assert f"{english} = {foreign}" in document.text.split("\n")
            pairs += 1
        if document.kind == "second language":
            body = document.text.split("\n\n")[1]
            sentences = [f"{sentence}." for sentence in body.removesuffix(".").split(". ")]
            assert [language.read(sentence) for sentence in sentences] == list(document.facts)
            second += 1
    assert pairs > 100
    assert second > 30


@pytest.mark.parametrize("sentence", ["", "Mira lives in Torvale.", "а б в.", "один два три четыре."])
def test_what_is_no_sentence_of_it_is_refused(sentence):
    with pytest.raises(ValueError, match=r"sentence|unknown"):
        Language(desk.world("tiny")).read(sentence)
