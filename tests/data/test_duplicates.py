"""Planted repetitions are found, unlike texts are left alone, and every text is accounted for."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camelid.data.duplicates import MINIMA, MISSED, band_rows, exact, near
from camelid.data.overlap import HeldOut
from camelid.data.shingles import runs, words
from camelid.errors import UsageError
from tests.conftest import size

FEW = st.lists(st.sampled_from(["ab", "cd", "ef", "gh"]), max_size=14).map(" ".join)  # few words: much in common


def jaccard(one: str, two: str, run: int) -> float:
    """By the definition, on tuples of words."""
    sets = []
    for text in (one, two):
        parts = words(text)
        n = min(run, len(parts))
        sets.append({tuple(parts[i : i + n]) for i in range(len(parts) - n + 1)} if n else set())
    return len(sets[0] & sets[1]) / max(1, len(sets[0] | sets[1]))


@settings(max_examples=size(150), deadline=None)
@given(st.lists(FEW, max_size=25), st.sampled_from([0.4, 0.6, 0.8, 1.0]), st.integers(1, 5))
def test_what_goes_is_near_and_what_stays_is_not(texts: list[str], similarity: float, run: int) -> None:
    """Against all pairs compared by the definition: a pair is missed once in a million, so here never."""
    found = near(texts, similarity=similarity, run=run)
    assert sorted([*found.kept, *(removed.text for removed in found.removed)]) == list(range(len(texts)))
    for removed in found.removed:
        assert removed.of in found.kept and removed.of < removed.text
        told = 1.0 if removed.kind == "exact" else jaccard(texts[removed.text], texts[removed.of], run)
        assert (removed.similarity == pytest.approx(told) and told >= similarity) or removed.kind == "exact"
    for place, number in enumerate(found.kept):
        for earlier in found.kept[:place]:
            assert jaccard(texts[number], texts[earlier], run) < similarity and texts[number] != texts[earlier]
    assert found.texts == len(texts) and f"{len(found.kept)} of {len(texts)} texts kept" in found.lines()[0]


def planted(draw: random.Random, count: int, length: int, changed: int) -> tuple[list[str], dict[int, int]]:
    """Random texts, and after them each again with at most so many of its words changed; which repeats which."""
    vocabulary = [f"word{number}" for number in range(5000)]
    texts = [" ".join(draw.choices(vocabulary, k=length)) for _ in range(count)]
    pairs = {}
    for number in range(count):
        parts = texts[number].split()
        for place in draw.sample(range(length), draw.randint(1, changed)):
            parts[place] = draw.choice(vocabulary)
        pairs[len(texts)] = number
        texts.append(", ".join(parts).upper())  # other punctuation, other case
    return texts, pairs


def test_planted_near_duplicates_are_all_found_and_nothing_else() -> None:
    texts, pairs = planted(random.Random(0), size(150), 200, 8)
    alike = [jaccard(texts[two], texts[one], 5) for two, one in pairs.items()]
    wanted = {two: one for (two, one), share in zip(pairs.items(), alike, strict=True) if share >= 0.8}
    assert 0.3 < len(wanted) / len(pairs) < 1, "the planted pairs lie on both sides of the similarity"
    found = near(texts, similarity=0.8)
    assert {removed.text: removed.of for removed in found.removed} == wanted
    assert {removed.kind for removed in found.removed} == {"near"}


@pytest.mark.parametrize("similarity", [0.3, 0.4, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0])
def test_bands_miss_less_than_one_pair_in_a_million(similarity: float) -> None:
    rows = band_rows(similarity)
    assert (1 - similarity**rows) ** (MINIMA // rows) <= MISSED or rows == 1


def test_equal_texts_go_by_their_bytes_and_texts_without_words_are_counted() -> None:
    texts = ["a b", "a  b", "", "a b", "...", "", "!"]
    found = exact(texts)
    assert found.kept == (0, 1, 2, 4, 6) and [(r.text, r.of) for r in found.removed] == [(3, 0), (5, 2)]
    also = near(texts)
    assert also.kept == (0, 2, 4, 6) and also.wordless == 4
    assert [(r.text, r.of, r.kind) for r in also.removed] == [(1, 0, "near"), (3, 0, "exact"), (5, 2, "exact")]
    assert "4 texts have no word" in also.lines()[1]
    assert near([]).lines() == ["0 of 0 texts kept; 0 repeat an earlier one, 0 nearly do"]


def test_numbers_that_cannot_be_are_refused() -> None:
    with pytest.raises(UsageError, match=r"(?s)similarity.*run"):
        near([], similarity=0.1, run=0)
    with pytest.raises(UsageError, match="run"):
        HeldOut([], run=0)


@settings(max_examples=size(150), deadline=None)
@given(st.lists(FEW, max_size=12), st.lists(FEW, max_size=6), st.integers(1, 6))
def test_a_text_goes_if_and_only_if_it_shares_a_run_with_an_item(texts: list[str], items: list[str], run: int) -> None:
    def grams(text: str) -> set[tuple[str, ...]]:
        parts = words(text)
        return {tuple(parts[i : i + run]) for i in range(len(parts) - run + 1)}

    found = HeldOut(items, run=run).clear(texts)
    shared = {
        number: [i for i, item in enumerate(items) if grams(text) & grams(item)] for number, text in enumerate(texts)
    }
    assert {r.text for r in found.removed} == {number for number, hits in shared.items() if hits}
    assert sorted([*found.kept, *(r.text for r in found.removed)]) == list(range(len(texts)))
    for removed in found.removed:
        assert removed.item in shared[removed.text] and tuple(removed.run.split()) in grams(items[removed.item])
    assert found.short == sum(len(words(item)) < run for item in items) and found.items == len(items)


def test_planted_test_items_are_found_inside_long_texts() -> None:
    draw = random.Random(1)
    texts, _ = planted(draw, size(60), 300, 300)
    items = [" ".join(draw.choices([f"word{n}" for n in range(5000)], k=20)) for _ in range(30)]
    dirty = {}
    for item, number in enumerate(draw.sample(range(len(texts)), len(items))):
        parts, piece = texts[number].split(), items[item].split()[3:16]  # thirteen of its words
        texts[number] = " ".join([*parts[:100], *piece, *parts[100:]])
        dirty[number] = item
    found = HeldOut([*items, "too short"]).clear(texts)
    assert {removed.text: removed.item for removed in found.removed} == dirty
    assert found.lines()[1] == "1 of 31 items are shorter than the run and were not looked for"


def test_runs_are_numbered_by_their_words_in_order() -> None:
    one, two = (runs(text.split(), 3).tolist() for text in ("a b c d", "x a b c"))
    assert one[0] == two[1] and len(set(one) | set(two)) == 3
    assert runs(["b", "a", "c"], 3).tolist() != runs(["a", "b", "c"], 3).tolist()
    assert runs(["a"], 3).size == 1 and runs([], 3).size == 0
