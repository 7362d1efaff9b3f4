from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from camelid.desk.instructions import Item
from camelid.dialogue.message import Message
from camelid.dialogue.published import PLAIN
from camelid.dialogue.template import render
from camelid.errors import UsageError
from camelid.evaluate.desk import Scores, asked, score
from camelid.generate.loaded import Loaded
from camelid.recipes.alpaca import PROMPT
from tests.generate.stand_ins import small

PEOPLE, PLACES = ("Mila", "Oren", "Tova", "Ziv"), ("Arl", "Besk", "Corvin", "Dunmar")
ITEMS = [
    Item(f"Where does {who} live?", "", f"{who} lives in {where}.", "people", "town", who, accepted=(where,))
    for who, where in zip(PEOPLE, PLACES, strict=True)
] + [Item("Repeat this.", word, word, "rewriting", "repeat") for word in ("seven", "of", "what?")]


def taught(loaded: Loaded, items: list[Item], steps: int = 120) -> None:
    """The model learns the items' answers by heart."""
    rows = [
        render(PROMPT, [asked(item, PROMPT), Message("assistant", item.output)], loaded.tokenizer) for item in items
    ]
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [0] * (width - len(row.ids)) for row in rows])
    learned = torch.tensor([row.supervised + [False] * (width - len(row.ids)) for row in rows])
    optimizer = torch.optim.Adam(loaded.model.parameters(), lr=1e-2)
    for _ in range(steps):
        logits = loaded.model(ids)[:, :-1]
        loss = F.cross_entropy(logits[learned[:, 1:]], ids[:, 1:][learned[:, 1:]])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.fixture(scope="module")
def taught_five() -> Loaded:
    loaded = small(PROMPT, spread=1)
    taught(loaded, ITEMS[:5])
    return loaded


def test_questions_beyond_the_context_count_as_not_answered_and_are_told(taught_five: Loaded) -> None:
    long = Item(" ".join(["seven"] * 600), "", "seven", "rewriting", "repeat")
    seen: list[int] = []
    found = score(taught_five, [long, *ITEMS, long], finished=lambda place, _: seen.append(place))
    assert found.unread == 2 and found.data()["unread"] == 2 and sorted(seen) == list(range(1, 8))
    assert [each.finish_reason for each in found.answers][::8] == ["context", "context"]
    assert found.answers[1:-1] == score(taught_five, ITEMS).answers and (
        found.overall.correct,
        found.overall.count,
    ) == (5, 9)
    alone = score(taught_five, [long])
    assert (alone.unread, alone.overall.correct, alone.overall.count) == (1, 0, 1)


def test_answers_learned_by_heart_are_right_and_others_are_not(taught_five: Loaded) -> None:
    found = score(taught_five, ITEMS)
    assert [each.right for each in found.answers] == [True] * 5 + [False] * 2
    assert [(each.family, each.correct, each.count) for each in found.families] == [
        ("people", 4, 4), ("rewriting", 1, 3),
    ]  # fmt: skip
    assert (found.overall.family, found.overall.correct, found.overall.count) == ("all", 5, 7)
    assert found.overall.low < found.overall.share == 5 / 7 < found.overall.high
    assert found.answers[0].answer == "Mila lives in Arl." and found.answers[0].finish_reason == "stop"


def test_an_answer_that_goes_on_after_the_right_words_is_wrong(taught_five: Loaded) -> None:
    deaf = replace(PROMPT, assistant="{reply}", stops=())  # the end token is learned, and now nothing listens to it
    found = score(taught_five, ITEMS[:5], template=deaf)
    assert all(each.finish_reason == "length" for each in found.answers)
    assert found.overall.correct < 5


def test_no_answer_is_right_by_being_cut_off_after_the_right_words() -> None:
    loaded = small(PROMPT, spread=1)
    taught(loaded, [replace(ITEMS[0], output=ITEMS[0].output + " Who?")], steps=100)
    (answered,) = score(loaded, ITEMS[:1]).answers
    assert answered.answer.startswith(ITEMS[0].output) and not answered.right


def test_a_base_is_asked_in_its_childs_words(taught_five: Loaded) -> None:
    base = small(spread=1)
    same = replace(taught_five, template=None)
    assert score(base, ITEMS, template=PROMPT).overall.correct == 0
    assert score(same, ITEMS, template=PROMPT).overall == score(taught_five, ITEMS).overall
    assert score(same, ITEMS).overall.correct < 5, "without the template it is not the prompt it learned"


def test_scores_do_not_depend_on_how_many_are_decoded_together(taught_five: Loaded) -> None:
    seen: list[int] = []
    together = score(taught_five, ITEMS, finished=lambda index, _: seen.append(index))
    assert sorted(seen) == list(range(7))
    assert together == score(taught_five, ITEMS, rows=1) == score(taught_five, ITEMS, rows=3)


def test_an_input_without_a_place_in_the_template_follows_the_instruction() -> None:
    assert asked(ITEMS[-1], PROMPT) == Message("user", "Repeat this.", "what?")
    assert asked(ITEMS[-1], PLAIN) == Message("user", "Repeat this.\nwhat?")


def test_scores_are_json_and_samples_are_of_many_families(taught_five: Loaded) -> None:
    found = score(taught_five, ITEMS)
    assert [each.family for each in found.samples(3)] == ["people", "rewriting", "people"]
    data = json.loads(json.dumps(found.data(samples=2)))
    assert data["families"]["people"] == {
        "correct": 4,
        "count": 4,
        "share": 1.0,
        "low": data["families"]["people"]["low"],
        "high": 1.0,
    }
    assert len(data["answers"]) == 2 and len(found.data()["answers"]) == 7
    assert isinstance(found, Scores)


def test_no_items_are_refused() -> None:
    with pytest.raises(UsageError, match="items: none"):
        score(small(PROMPT), [])
