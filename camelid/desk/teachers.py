"""Teachers of whom some answers are wrong, and a grader that finds most of these: the data that AlpaGasus filters.

A wrong answer is another record's right answer of the same task, so nothing but its truth gives it away.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

from camelid.desk.instructions import Item, instructions
from camelid.desk.world import World
from camelid.errors import ProblemList
from camelid.randomness import key

BLIND = 0.05  # ours: share of records about which the grader errs
LIKED = 4.5  # AlpaGasus keeps what scores at least this (Chen et al. 2023, paper or repository)


@dataclass(frozen=True)
class Record:
    """An instruction, what the teacher answered, whether that is right, and the grader's score from 0 to 5."""

    item: Item
    answer: str
    right: bool
    score: float


def taught(world: World, count: int, *, seed: int = 0, wrong: float = 0.0) -> list[Record]:
    """`count` records of the training split in their order, a keyed share `wrong` of them answered wrongly.

    Records whose task has no other answer to confuse theirs with stay right. Raises UsageError as `instructions` does.
    """
    problems = ProblemList()
    if not 0 <= wrong <= 1:
        problems.add("desk teacher, wrong", f"{wrong}", "give a share from 0 to 1")
    problems.raise_usage()
    items = instructions(world, "train", count, seed)
    answers = _answers(items)
    return [_record(world, seed, place, item, answers[item.task], wrong) for place, item in enumerate(items)]


def kept(records: list[Record], amount: int, by: Literal["graded", "random"], *, seed: int = 0) -> list[Record]:
    """`amount` of the records in their order: those with the highest scores, or as many drawn blindly.

    Raises UsageError where there are fewer.
    """
    problems = ProblemList()
    if not 1 <= amount <= len(records):
        problems.add("desk teacher, kept", f"{amount} of {len(records)} records", "keep one or more, at most all")
    problems.raise_usage()
    draws = [key("desk kept", seed, place) for place in range(len(records))]
    if by == "graded":
        order = sorted(range(len(records)), key=lambda place: (-records[place].score, draws[place]))
    else:
        order = sorted(range(len(records)), key=draws.__getitem__)
    return [records[place] for place in sorted(order[:amount])]


def threads(world: World, count: int, replies: int, *, seed: int = 0, wrong: float = 0.0) -> list[list[Record]]:
    """`count` instructions of the training split with `replies` records each, wrong by a keyed share of their own.

    Raises UsageError for fewer than one reply, a share that is none, and as `instructions` does.
    """
    problems = ProblemList()
    if replies < 1:
        problems.add("desk trees, replies", f"{replies}", "ask for one or more")
    if not 0 <= wrong <= 1:
        problems.add("desk trees, wrong", f"{wrong}", "give a share from 0 to 1")
    problems.raise_usage()
    items = instructions(world, "train", count, seed)
    answers = _answers(items)
    return [
        [_record(world, seed, place * replies + turn, item, answers[item.task], wrong) for turn in range(replies)]
        for place, item in enumerate(items)
    ]


def ranked(replies: list[Record], best: int, by: Literal["ranked", "random"]) -> list[Record]:
    """The `best` replies of one instruction, those with the highest scores first, or as many without looking."""
    return sorted(replies, key=lambda record: -record.score)[:best] if by == "ranked" else replies[:best]


def _answers(items: list[Item]) -> dict[str, list[str]]:
    """Task -> the right answers of its items."""
    found: dict[str, list[str]] = {}
    for item in items:
        found.setdefault(item.task, []).append(item.output)
    return found


def _record(world: World, seed: int, place: int, item: Item, answers: list[str], wrong: float) -> Record:
    draw = Random(key("desk teacher", world.seed, seed, place))
    others = [answer for answer in answers if answer != item.output]
    right = draw.random() >= wrong or not others
    answer = item.output if right else others[int(draw.random() * len(others))]
    seen_right = right != (draw.random() < BLIND)
    score = LIKED + draw.random() * (5 - LIKED) if seen_right else draw.random() * LIKED
    return Record(item, answer, right, score)
