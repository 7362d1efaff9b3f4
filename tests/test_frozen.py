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


@dataclass(frozen=True)
class Wider(Inner):
    scale: float = 0.25


@dataclass(frozen=True)
class Chosen:
    kind: Inner | Wider
    other: Wider | None = None


@given(inners)
def test_what_is_shown_of_a_value_can_be_set(value: Inner) -> None:
    wanted, problems = Wider(value.rate, value.word, value.many, 2.0), ProblemList()
    changed = override(Chosen(Inner(3.0)), {"kind": text(wanted), "other": text(wanted)}, problems)
    assert not problems.problems and changed == Chosen(wanted, wanted)


def test_what_is_not_said_of_a_value_stays_as_it_was() -> None:
    before, problems = Chosen(Inner(3.0, "drop", (1, 2))), ProblemList()
    assert override(before, {"kind": "Wider"}, problems).kind == Wider(3.0, "drop", (1, 2))
    assert override(before, {"kind": "Wider(scale=1M, many=(7,))"}, problems).kind == Wider(3.0, "drop", (7,), 1e6)
    assert not problems.problems


@pytest.mark.parametrize(
    ("path", "written", "said"),
    [
        ("other", "Wider", "'Wider' leaves out what cannot be guessed; write Wider(rate=...)"),
        ("other.scale", "1", "'other' is None and has no settings of its own; begin with --set other=Wider(rate=...)"),
        ("kind", "Wide", "cannot read 'Wide'; did you mean 'Wider'?"),
        ("kind", "Wider(scale=1", "close its bracket"),
        ("kind", "Wider(sale=1)", "Wider has no setting 'sale'; did you mean 'scale'?"),
        ("kind", "Wider(1)", "Wider has no setting '1'"),
        ("kind", "Wider(word=cat)", "--set kind.word: cannot read 'cat'; did you mean 'cut'?"),
    ],
)
def test_a_value_that_cannot_be_is_told_with_its_remedy(path: str, written: str, said: str) -> None:
    value, problems = Chosen(Inner(3.0)), ProblemList()
    assert override(value, {path: written}, problems) == value
    with pytest.raises(UsageError) as caught:
        problems.raise_usage()
    assert said in str(caught.value)


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
