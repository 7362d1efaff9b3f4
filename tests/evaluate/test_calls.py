"""Calls are judged by their syntax trees, and nothing of an answer is ever run."""

from __future__ import annotations

import json
import keyword
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camelid.desk.apis import library, requests
from camelid.desk.world import world
from camelid.errors import UsageError
from camelid.evaluate.calls import Call, calls, judge, matches

NAMES = st.from_regex(r"[a-z]{1,6}(\.[a-z]{1,6}){0,2}", fullmatch=True).filter(
    lambda name: not any(map(keyword.iskeyword, name.split(".")))
)
PLAIN = st.one_of(st.text(max_size=12), st.integers(-999, 999), st.booleans(), st.none())
CALLS = st.builds(
    Call, NAMES, st.lists(PLAIN, max_size=3).map(tuple), st.dictionaries(st.sampled_from(["model", "task", "n"]), PLAIN)
)


def written(call: Call) -> str:
    inside = [*map(repr, call.arguments), *(f"{name}={value!r}" for name, value in call.named.items())]
    return f"{call.name}({', '.join(inside)})"


@given(CALLS, CALLS)
def test_a_call_is_read_back_and_matches_itself_alone(one: Call, other: Call) -> None:
    assert calls(written(one)) == [one] and matches(one, one)
    assert judge(f"x = {written(one)}", [one], {one.name}) == "right"
    if one.name != other.name:
        assert judge(written(other), [one], {one.name}) == "hallucinated"
        assert judge(written(other), [one], {other.name}) == "wrong"


def test_order_places_and_further_arguments() -> None:
    wanted = calls("torch.hub.load(repo_or_dir='a/b', model='c', pretrained=True)")
    assert judge("m = torch.hub.load('a/b', 'c', pretrained=True)", wanted, {"torch.hub.load"}) == "wrong"
    assert judge("m = torch.hub.load('a/b', 'c', True)", wanted, {"torch.hub.load"}) == "right"
    assert judge("torch.hub.load(model='c', repo_or_dir='a/b', pretrained=True, x=1)", wanted, set()) == "right"
    assert judge("torch.hub.load(repo_or_dir='a/b', model='d', pretrained=True)", wanted, {"torch.hub.load"}) == "wrong"
    assert judge("I do not know.", wanted, set()) == "no call"
    assert judge("f(1) and then some", [Call("f", (1,))], {"f"}) == "right"


@pytest.mark.parametrize(
    "text", ["(" * 5_000, "f(" * 900, "\0f(1)", "f(" + "9" * 1_900 + ")", "f(x for x in y)", "*" * 99]
)
def test_hostile_text_is_no_call_and_harms_nothing(text: str) -> None:
    assert judge(text, [Call("g")], {"g"}) in ("no call", "hallucinated")


def test_requests_never_name_their_function_and_the_manual_changes_every_name() -> None:
    w = world("small", 1)
    old, new = library(w), library(w, changed=True)
    assert not {f.name for f in old} & {f.name for f in new} and len(old) == len(new)
    train, held = requests(w, "train", 600, wrong=0.2), requests(w, "held_out", 240, changed=True)
    assert not {r.asked for r in train} & {r.asked for r in held}
    for request in (*train, *held):
        (call,) = calls(request.call)
        assert call.name == request.function.name and call.name not in request.asked.lower()
        assert request.function.colour in request.asked and str(call.named["amount"]) in request.asked
    wrong = sum(request.manual != request.function.manual for request in train) / len(train)
    assert 0.15 < wrong < 0.25 and all(request.manual == request.function.manual for request in held)
    assert requests(w, "train", 50, seed=3) == requests(w, "train", 50, seed=3)
    with pytest.raises(UsageError, match="desk calls, count"):
        requests(world("tiny"), "held_out", 100_000)


def test_apibench_references_are_read(shared: Path) -> None:
    """Every call of the published file that is Python is found, and matches itself and not its neighbour's."""
    told = [
        json.loads(line) for line in (shared / "instruct" / "apibench_torchhub_train.json").read_text().splitlines()
    ]
    texts = [row["api_call"] for row in told]
    read = {text: calls(text)[0] for text in texts if calls(text)}
    unread = {text for text in texts if text not in read}
    assert len(unread) <= 9, "few published references are no Python"
    for text, call in read.items():
        assert judge(text, [call], {call.name}) == "right"
    other = Call("torch.hub.load", (), {"repo_or_dir": "no/body", "model": "none"})
    assert all(judge(text, [other], {"torch.hub.load"}) != "right" for text in texts)
