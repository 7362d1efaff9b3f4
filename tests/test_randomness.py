"""Keyed draws: the same words, the same numbers; a permutation without a table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camelid.randomness import key, numpy_generator, order, torch_generator

words = st.lists(st.one_of(st.text(max_size=8), st.integers()), min_size=1, max_size=4)


@given(words, words)
def test_different_words_give_different_keys(one: list[int | str], two: list[int | str]) -> None:
    same = [(type(word), word) for word in one] == [(type(word), word) for word in two]
    assert (key(*one) == key(*two)) == same


@given(st.integers(0, 2**40), st.integers(1, 3000))
def test_an_order_holds_each_position_once(seed: int, n: int) -> None:
    assert sorted(order(seed, n)) == list(range(n))


def test_orders_of_a_thousand_million_are_found_one_by_one() -> None:
    places = order(7, 10**9)
    found = [places[i] for i in range(0, 10**9, 10**6)]
    assert len(set(found)) == len(found) and all(0 <= place < 10**9 for place in found)
    with pytest.raises(IndexError):
        places[10**9]


def test_orders_look_random() -> None:
    """Each of 4! orders of four about equally often over many seeds: chi-squared with 23 degrees of freedom."""
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(2_400):
        found = tuple(order(seed, 4))
        counts[found] = counts.get(found, 0) + 1
    assert len(counts) == 24
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 60  # p about 4e-5


def test_generators_are_fresh_each_time() -> None:
    assert numpy_generator(1, "a").random() == numpy_generator(1, "a").random() != numpy_generator(1, "b").random()
    assert torch_generator(1, "a").initial_seed() == torch_generator(1, "a").initial_seed()
