"""Conversation trees: every usable path once, nothing lost uncounted."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from camelid.data.trees import Pruned, conversations
from camelid.errors import BadData
from tests.conftest import size


def message(draw: Random, role: str, depth: int) -> dict:
    other = "assistant" if role == "prompter" else "prompter"
    replies = [message(draw, other, depth - 1) for _ in range(draw.randint(0, 3))] if depth else []
    for rank, reply in enumerate(draw.sample(replies, len(replies)) if role == "prompter" else []):
        reply["rank"] = rank
    node = {"text": f"{draw.random()}", "role": role, "lang": draw.choice(("en", "en", "de")), "replies": replies}
    return node | {"review_result": draw.random() > 0.15, "deleted": draw.random() < 0.1}


def trees(seed: int, count: int) -> list[dict]:
    draw = Random(seed)
    states = ("ready_for_export", "ready_for_export", "growing")
    return [
        {"tree_state": draw.choice(states), "prompt": message(draw, "prompter", draw.randint(0, 5))}
        for _ in range(count)
    ]


def write(path: Path, values: list[dict]) -> Path:
    path.write_text("\n".join(json.dumps(value) for value in values) + "\n")
    return path


def paths_by_hand(node: dict, languages: tuple[str, ...]) -> list[list[str]]:
    """All paths to an assistant's message below which no usable path reaches another one."""
    if node["review_result"] is False or node["deleted"] or (languages and node["lang"] not in languages):
        return []
    below = [[node["text"], *path] for reply in node["replies"] for path in paths_by_hand(reply, languages)]
    return below or ([[node["text"]]] if node["role"] == "assistant" else [])


@pytest.mark.parametrize("languages", [(), ("en",)])
def test_every_usable_path_comes_once_in_order(tmp_path: Path, languages: tuple[str, ...]) -> None:
    values = trees(1, size(200))
    path = write(tmp_path / "trees.jsonl", values)
    wanted = [p for v in values if v["tree_state"] == "ready_for_export" for p in paths_by_hand(v["prompt"], languages)]
    found = list(conversations(path, languages=languages))
    assert [[m.content for m in dialogue] for dialogue in found] == wanted and len(wanted) > size(50)
    for dialogue in found:
        assert [m.role for m in dialogue] == (["user", "assistant"] * len(dialogue))[: len(dialogue)]
        assert dialogue[-1].role == "assistant" and "line" in dialogue.place


def test_each_message_is_in_a_conversation_or_counted(tmp_path: Path) -> None:
    values = trees(2, size(200))
    pruned = Pruned()
    for best in (None, 1):
        pruned = Pruned()
        kept = {
            m.content for d in conversations(write(tmp_path / f"{best}", values), best=best, pruned=pruned) for m in d
        }
        ready = [v["prompt"] for v in values if v["tree_state"] == "ready_for_export"]

        def count(node: dict) -> int:
            return 1 + sum(count(reply) for reply in node["replies"])

        lost = pruned.messages + pruned.lower_ranked + pruned.unanswered
        assert len(kept) + lost == sum(map(count, ready))
        assert pruned.trees == len(values) - len(ready) and len(pruned.lines()) == (4 if best else 3)


def test_the_best_ranked_reply_is_followed(tmp_path: Path) -> None:
    for dialogue in conversations(write(tmp_path / "trees", trees(3, size(100))), best=1):
        assert dialogue
    replies = [
        {"text": text, "role": "assistant", "rank": rank, "replies": []}
        for text, rank in (("unranked", None), ("second", 1), ("best", 0))
    ]
    tree = {"tree_state": "ready_for_export", "prompt": {"text": "q", "role": "prompter", "replies": replies}}
    path = write(tmp_path / "one", [tree])
    assert [d[-1].content for d in conversations(path, best=2)] == ["best", "second"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"role": "assistant"}, "prompt.role is 'assistant' where 'prompter' is due"),
        ({"text": 3}, "prompt.text is a number, not text"),
        ({"replies": {}}, "prompt.replies is an object, not a list"),
        ({"replies": [{"role": "prompter", "text": "x"}]}, r"prompt.replies\[0\].role is 'prompter' where 'assistant'"),
    ],
)
def test_what_is_no_tree_is_named_with_its_place(tmp_path: Path, change: dict, told: str) -> None:
    good = trees(4, 1)[0]
    bad = good | {"prompt": good["prompt"] | change}
    with pytest.raises(BadData, match=f"line 2: {told}"):
        list(conversations(write(tmp_path / "trees", [good, bad])))


def test_the_real_trees_give_every_path(shared: Path) -> None:
    pruned = Pruned()
    path = shared / "instruct" / "oasst_en_100_trees.jsonl"
    found = list(conversations(path, pruned=pruned))
    values = [json.loads(line) for line in path.read_text("utf-8").splitlines()]

    def leaves(node: dict) -> int:
        below = sum(leaves(reply) for reply in node["replies"])
        return below or (node["role"] == "assistant")

    assert len(found) == sum(leaves(value["prompt"]) for value in values) > 400
    assert pruned.messages == pruned.trees == 0
    ranked = list(conversations(path, best=1))
    assert len(values) <= len(ranked) < len(found)
