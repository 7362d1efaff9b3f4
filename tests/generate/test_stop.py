from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from camelid.generate.stop import StopTexts, cut
from tests.conftest import size

LETTERS = st.text("ab\n", max_size=30)
STOPS = st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=4)


def by_hand(text: str, stops: list[str]) -> str:
    """Read letter by letter until what was read ends with a stop."""
    for end in range(1, len(text) + 1):
        if found := [stop for stop in stops if text[:end].endswith(stop)]:
            return text[: end - max(map(len, found))]
    return text


def pieces_of(text: str, borders: list[int]) -> list[str]:
    cuts = [0, *sorted(border % (len(text) + 1) for border in borders), len(text)]
    return [text[start:end] for start, end in pairwise(cuts)]


@given(LETTERS, STOPS, st.lists(st.integers(0, 30), max_size=12))
@settings(max_examples=size(1500), deadline=None)
def test_every_way_of_cutting_the_text_gives_the_same_answer(text: str, stops: list[str], borders: list[int]) -> None:
    search, shown = StopTexts(stops), []
    for piece in pieces_of(text, borders):
        shown.append(search.push(piece))
        assert by_hand(text, stops).startswith("".join(shown)), "text was shown that a stop took back"
    shown.append(search.finish())
    assert "".join(shown) == by_hand(text, stops) == cut(text, stops)[0]
    assert (search.stopped is None) == (cut(text, stops)[1] is None) == (not any(stop in text for stop in stops))


def test_only_what_may_become_a_stop_is_held_back() -> None:
    search = StopTexts(["\nUSER:"])
    assert [search.push(piece) for piece in ("yes\nUS", "A is big", "\nUSER: so", "more")] == [
        "yes", "\nUSA is big", "", ""
    ]  # fmt: skip
    assert search.stopped == "\nUSER:" and search.finish() == ""


def test_the_longest_of_the_stops_that_end_together_is_cut() -> None:
    assert cut("one two", ["wo", "two", " two"]) == ("one", " two")
    assert cut("abcdef", ["abcdef", "cd"]) == ("ab", "cd")
