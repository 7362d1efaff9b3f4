"""Calls are judged by their syntax trees, and nothing of an answer is ever run."""

from __future__ import annotations

import json
import keyword
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camelid.data.source import Rejected, dialogues
from camelid.desk.apis import library, requests
from camelid.desk.world import world
from camelid.errors import UsageError
from camelid.evaluate.calls import Api, Call, calls, calls_api, judge, judge_domain, matches, stated

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


def test_every_reference_of_apibench_is_right_against_itself_and_wrong_once_it_is_changed(shared: Path) -> None:
    told = [
        json.loads(line) for line in (shared / "instruct" / "apibench_torchhub_train.json").read_text().splitlines()
    ]
    library = list(
        {row["api_call"]: Api(calls(row["api_call"])[0], row["api_data"]["domain"]) for row in told}.values()
    )
    assert len(told) == 837 and len(library) == 94, "as the repository's README counts them"
    other = Call("torch.hub.load", (), {"repo_or_dir": "no/body", "model": "none"})
    for row in told:
        text, domain = row["api_call"], row["api_data"]["domain"]
        (call, *_) = calls(text)
        assert judge(text, [call], {call.name}) == judge_domain(text, domain, library) == "right"
        assert judge(text, [other], {call.name}) == judge_domain(text, "cookery", library) == "wrong"
        changed = text.replace("repo_or_dir='", "repo_or_dir='x")
        assert changed != text and judge(changed, [call], {call.name}) == "wrong"
        assert judge_domain(changed, domain, library) == "hallucinated"
        renamed = text.replace("torch.hub.load", "torch.hub.lode")
        assert judge(renamed, [call], {call.name}) == judge_domain(renamed, domain, library) == "hallucinated"


def test_the_answers_of_apibench_call_what_their_rows_document_but_for_seven(shared: Path) -> None:
    path = shared / "instruct" / "apibench_torchhub_train.json"
    told = [json.loads(line) for line in path.read_text().splitlines()]
    library = [Api(calls(row["api_call"])[0], row["api_data"]["domain"]) for row in told]
    verdicts: dict[str, list[int]] = {}
    for dialogue in dialogues(path, bad_rows="skip", rejected=Rejected()):
        line = int(dialogue.place.rpartition(" ")[2])
        verdict = judge_domain(dialogue[1].content, told[line - 1]["api_data"]["domain"], library)
        verdicts.setdefault(verdict, []).append(line)
    assert {verdict: len(lines) for verdict, lines in verdicts.items()} == {"right": 828, "hallucinated": 6, "wrong": 1}
    for line in verdicts["hallucinated"]:  # their teacher called what is not in the library
        answer = told[line - 1]["code"]
        assert not any(calls_api(call, api.call) for call in calls(stated(answer)) for api in library)


@pytest.mark.parametrize(
    ("answer", "call"),
    [
        (
            "{'domain': 'D', 'api_call': \"m = f.g('a', b='c')\", 'api_provider': 'P', 'code': 'h(1)'}",
            "m = f.g('a', b='c')",
        ),
        ("<<<domain>>>: D\n<<<api_call>>>: f.g((1, 2))\n<<<api_provider>>>: P", "f.g((1, 2))"),
        ("<<<domain>>>: D, <<<api_call>>>: f.g('a'), <<<api_provider>>>: P, <<<code>>>: h(1)", "f.g('a')"),
        ("{'api_call': \\\"f(\\'a\\')\\\", 'api_provider': 'P'}", "f('a')"),
        ("f(api_call=3)", "f(api_call=3)"),
        ("I do not know.", "I do not know."),
    ],
)
def test_the_call_is_found_in_an_answer_of_apibench(answer: str, call: str) -> None:
    assert stated(answer) == call


def test_arguments_by_place_behind_named_ones_are_read_as_before_them() -> None:
    assert calls("f(a='x', 'y', b=(1, 2), 'z', )") == [Call("f", ("y", "z"), {"a": "x"})]
    assert calls("f(a='x', 'y'") == calls("f(a=='x', b") == []
