"""Values as text: read back equal, compared, overridden by typed settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camelid.errors import BadData, ProblemList, UsageError
from camelid.frozen import diff, fingerprint, from_data, override, text, to_data
from camelid.stage import Epochs, Steps, Tokens


@dataclass(frozen=True)
class Inner:
    rate: float
    word: Literal["cut", "drop"] = "cut"
    many: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    train: Epochs | Steps
    length: int = 512
    maybe: float | None = None
    parts: tuple[Inner, ...] = ()
    batch: Tokens = Tokens(4)


inners = st.builds(
    Inner,
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["cut", "drop"]),
    st.lists(st.integers()).map(tuple),
)
outers = st.builds(
    Outer,
    st.text(),
    inners,
    st.one_of(st.builds(Epochs, st.floats(0, 9)), st.builds(Steps, st.integers(0, 9))),
    st.integers(),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
    st.lists(inners, max_size=3).map(tuple),
    st.builds(Tokens, st.integers()),
)


@given(outers)
def test_what_was_written_reads_back_equal(value: Outer) -> None:
    assert from_data(Outer, to_data(value)) == value


@given(outers, outers)
def test_equal_fingerprints_mean_equal_values_and_no_differences(one: Outer, two: Outer) -> None:
    assert (fingerprint(one) == fingerprint(two)) == (to_data(one) == to_data(two)) == (not diff(one, two))


def test_a_default_left_unsaid_does_not_change_the_fingerprint() -> None:
    plain = Outer("a", Inner(1.0), Steps(1))
    assert fingerprint(plain) == fingerprint(Outer("a", Inner(1.0), Steps(1), length=512, parts=()))
    assert "length" not in text(plain)


def test_reading_back_reports_every_problem_at_once() -> None:
    data = {"name": 3, "inner": {"rate": "x", "wrod": "cut"}, "train": {"type": "Steps"}, "lenght": 1}
    with pytest.raises(BadData) as caught:
        from_data(Outer, data, "config")
    told = str(caught.value)
    for part in ("config.name", "config.inner.rate", "did you mean 'word'?", "did you mean 'length'?", "config.train"):
        assert part in told


def test_settings_are_read_as_the_type_of_their_field() -> None:
    value = Outer("a", Inner(1.0), Epochs(3), parts=(Inner(0.0),))
    problems = ProblemList()
    written = {
        "length": "1K",
        "inner.rate": "2e-5",
        "inner.word": "drop",
        "inner.many": "1,2",
        "train": "5",
        "maybe": "1",
    }
    changed = override(value, written | {"batch": "4M"}, problems)
    assert not problems.problems
    assert changed == Outer("a", Inner(2e-5, "drop", (1, 2)), Epochs(5), 1000, 1.0, (Inner(0.0),), Tokens(4_000_000))
    assert override(value, {"train": "Steps(7)"}, problems).train == Steps(7)
    assert override(changed, {"maybe": "none"}, problems).maybe is None


@pytest.mark.parametrize(
    ("path", "written", "said"),
    [
        ("lenght", "1", "did you mean 'length'?"),
        ("length", "many", "expected a whole number"),
        ("length", "1.5", "expected a whole number"),
        ("inner.word", "cat", "did you mean 'cut'?"),
        ("inner.rate", "nan", "expected a number"),
        ("length.more", "1", "has no settings of its own"),
        ("parts.9.rate", "1", "there is no '9' here"),
        ("train", "Tokens(3)", "expected a number of epochs, such as 3 or Steps(N)"),
    ],
)
def test_a_setting_that_cannot_be_is_told_with_its_remedy(path: str, written: str, said: str) -> None:
    problems = ProblemList()
    value = Outer("a", Inner(1.0), Epochs(3), parts=(Inner(0.0),))
    assert override(value, {path: written}, problems) == value
    with pytest.raises(UsageError) as caught:
        problems.raise_usage()
    assert said in str(caught.value) and f"--set {path}" in str(caught.value)
