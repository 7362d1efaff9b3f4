"""Conversation trees as Open Assistant publishes them, read into conversations.

    prompt ── reply 0 ── question ── reply        every path from the root to an assistant's message that nothing of
           └─ reply 1 ── question                 the assistant's follows is a conversation; a question at the end, which
                                                  nobody answered, is left off

Köpf et al. 2023 (arXiv 2304.07327), as their training code reads them: only trees that are ready for export, only
messages that passed review and were not deleted; what hangs below such a message is left out with it. Whatever is left
out is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from camelid.data.formats import Unfit, kind
from camelid.data.rows import BadRow
from camelid.data.rows import rows as read_rows
from camelid.data.source import Dialogue, Rejected
from camelid.dialogue.message import Message
from camelid.errors import BadFile

READY = "ready_for_export"
DEEPEST = 200  # messages on one path; published trees have some twenty


@dataclass
class Pruned:
    """What of the trees is in no conversation."""

    trees: int = 0  # not ready for export
    messages: int = 0  # refused by review, deleted, in another language, or below such a message
    lower_ranked: int = 0  # replies, and what hangs below them, beyond the best so many
    unanswered: int = 0  # questions at the end of a path
    first: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people: one sentence for each kind of loss, none where nothing was lost."""
        told = (
            (self.trees, "trees are not ready for export and were left out"),
            (self.messages, "messages did not pass review, or are of another language, with all below them"),
            (self.lower_ranked, "messages stand below replies of lower rank and were left out"),
            (self.unanswered, "questions at the end of a path have no answer and were left off"),
        )
        return [f"{count} {what}" for count, what in told if count]


def is_trees(path: Path | str) -> bool:
    """Whether a file's first row is a tree: a root message under "prompt" that may have replies."""
    try:
        row = next(iter(read_rows(Path(path), None)), None)
    except BadFile:
        return False  # its reader says what is wrong with it
    root = None if row is None or isinstance(row, BadRow) else row.data.get("prompt")
    return isinstance(root, dict) and "role" in root and "text" in root


def conversations(
    path: Path | str, *, best: int | None = None, languages: tuple[str, ...] = (), pruned: Pruned | None = None
) -> Iterator[Dialogue]:
    """The conversations of a file of trees, in its order, each told where it was read.

    best       how many replies are followed at each branching after a question, best rank first; unranked ones last
    languages  of messages, as "en"; all where none is named
    pruned     where what is left out is counted

    Raises BadData naming every row that is no tree, once the file was read; BadFile where it cannot be read.
    """
    if best is not None and best < 1:
        raise ValueError(f"best={best}: follow at least one reply")
    path, lost, rejected, seen = Path(path), pruned or Pruned(), Rejected(), 0
    for row in read_rows(path, None):
        seen += 1
        place = f"{path}, row {seen}" if isinstance(row, BadRow) else f"{path}, {row.place}"
        try:
            if isinstance(row, BadRow):
                raise Unfit(row.found)
            threads = list(_threads(row.data, best, languages, lost))
        except Unfit as unfit:
            rejected.add(place, str(unfit))
            continue
        if not rejected.count:
            yield from (Dialogue(messages, place) for messages in threads)
    if rejected.count:
        raise rejected.error(str(path), seen, remedy="a tree has tree_state and a prompt with text, role and replies")


def _threads(
    tree: Mapping[str, Any], best: int | None, languages: tuple[str, ...], lost: Pruned
) -> Iterator[list[Message]]:
    root = tree.get("prompt")
    if not isinstance(root, dict):
        raise Unfit(f"'prompt' is {kind(root)}, not a message")
    _check(root, "prompter", "prompt", 0)
    if tree.get("tree_state") != READY:
        lost.trees += 1
        return
    if not _usable(root, languages):
        lost.messages += _count(root)
        return
    yield from _paths(root, [], best, languages, lost)


def _paths(
    node: Mapping[str, Any], before: list[Message], best: int | None, languages: tuple[str, ...], lost: Pruned
) -> Iterator[list[Message]]:
    path = [*before, Message("user" if node["role"] == "prompter" else "assistant", node["text"])]
    follow = [reply for reply in node["replies"] if _usable(reply, languages)]
    lost.messages += sum(_count(reply) for reply in node["replies"] if not _usable(reply, languages))
    if node["role"] == "prompter" and best is not None:
        follow.sort(key=lambda reply: (reply.get("rank") is None, reply.get("rank") or 0))
        lost.lower_ranked += sum(_count(reply) for reply in follow[best:])
        follow = follow[:best]
    found = False
    for reply in follow:
        for thread in _paths(reply, path, best, languages, lost):
            found = True
            yield thread
    if node["role"] == "assistant" and not found:
        yield path
    if node["role"] == "prompter" and not found:
        lost.unanswered += 1


def _usable(node: Mapping[str, Any], languages: tuple[str, ...]) -> bool:
    passed = node.get("review_result") is not False and not node.get("deleted")
    return passed and (not languages or node.get("lang") in languages)


def _count(node: Mapping[str, Any]) -> int:
    return 1 + sum(_count(reply) for reply in node["replies"])


def _check(node: object, role: str, where: str, depth: int) -> None:
    """Raises Unfit where a message is none, or does not answer the other side."""
    if depth > DEEPEST:
        raise Unfit(f"{where[:60]}... is more than {DEEPEST} messages deep")
    if not isinstance(node, dict):
        raise Unfit(f"{where} is {kind(node)}, not a message")
    if node.get("role") != role:
        raise Unfit(f"{where}.role is {str(node.get('role'))[:40]!r} where {role!r} is due")
    if not isinstance(node.get("text"), str):
        raise Unfit(f"{where}.text is {kind(node.get('text'))}, not text")
    rank = node.get("rank")
    if rank is not None and (not isinstance(rank, int) or isinstance(rank, bool)):
        raise Unfit(f"{where}.rank is {kind(rank)}, not a whole number")
    replies = node.setdefault("replies", [])
    if not isinstance(replies, list):
        raise Unfit(f"{where}.replies is {kind(replies)}, not a list")
    for number, reply in enumerate(replies):
        _check(reply, "assistant" if role == "prompter" else "prompter", f"{where}.replies[{number}]", depth + 1)
