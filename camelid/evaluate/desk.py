"""Scores on held-out instructions of the desk world: greedy answers, judged by program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from camelid.desk.grade import grade
from camelid.desk.instructions import Item
from camelid.dialogue.message import Message
from camelid.dialogue.published import PLAIN
from camelid.dialogue.template import Template
from camelid.errors import Problem, UsageError
from camelid.evaluate.interval import wilson
from camelid.evaluate.score import Score
from camelid.generate.answer import Completion
from camelid.generate.decode import ROWS
from camelid.generate.limits import reach
from camelid.generate.loaded import Loaded
from camelid.generate.settings import Settings

ALL = "all"
TOO_LONG = "context"  # the finish reason of a question that was not put
BEYOND = 8  # ours: ids that an answer may be longer than the longest right one, so that none is right by being cut off


@dataclass(frozen=True)
class Answered:
    """One instruction, what was wanted, what was said, and whether it was right."""

    family: str
    task: str
    instruction: str
    input: str
    wanted: str
    answer: str
    right: bool
    finish_reason: str


@dataclass(frozen=True)
class Scores:
    """Scores by family, in the order in which families first occur, over all, and every answer in the items' order."""

    families: tuple[Score, ...]
    overall: Score
    answers: tuple[Answered, ...]

    @property
    def unread(self) -> int:
        """Questions that the model's context cannot hold."""
        return sum(answered.finish_reason == TOO_LONG for answered in self.answers)

    def samples(self, count: int) -> tuple[Answered, ...]:
        """So many answers, from as many families as there are: the same items for every model scored on them."""
        turns: dict[str, int] = {}
        ranked = []
        for place, answered in enumerate(self.answers):
            turns[answered.family] = turns.get(answered.family, 0) + 1
            ranked.append((turns[answered.family], place))
        return tuple(self.answers[place] for _, place in sorted(ranked)[:count])

    def data(self, samples: int | None = None) -> dict[str, Any]:
        """The scores as JSON, with all answers or a few."""
        shown = self.answers if samples is None else self.samples(samples)
        return {
            "overall": _score_data(self.overall),
            **({"unread": self.unread} if self.unread else {}),
            "families": {score.family: _score_data(score) for score in self.families},
            "answers": [asdict(answered) for answered in shown],
        }


def score(
    loaded: Loaded,
    items: Sequence[Item],
    *,
    template: Template | None = None,
    rows: int = ROWS,
    finished: Callable[[int, Completion], None] | None = None,
) -> Scores:
    """The model's greedy answers to `items`, each judged whole.

    `template` asks in another member's words: the control "the base, given the same prompt" is this with its child's
    template. An answer may be `BEYOND` ids longer than the longest right answer of all items, and ends there. Where the
    template has no place for an input, it follows the instruction after a line break. A question that leaves no room in
    the model's context is not put to it and counts as not answered: `Scores.unread` says how many.

    Raises UsageError for no items.
    """
    if not items:
        raise UsageError([Problem("items", "none", "a score needs at least one instruction")])
    written = template or loaded.template or PLAIN
    prompts = [loaded.prompt([asked(item, written)], template=written) for item in items]
    longest = max(len(loaded.tokenizer.encode(right, starts=False)) for item in items for right in _right(item))
    own = Settings(max_tokens=longest + BEYOND)
    room = reach(loaded.shape)
    places = [place for place, prompt in enumerate(prompts) if len(prompt.ids) < room]

    def told(index: int, done: Completion) -> None:
        if finished is not None:
            finished(places[index], done)

    put = [prompts[place] for place in places]
    completions = dict(zip(places, loaded.complete_all(put, own, rows=rows, finished=told), strict=True))
    answers = tuple(_answered(item, completions.get(place), written) for place, item in enumerate(items))
    families = dict.fromkeys(answered.family for answered in answers)
    by_family = (_score(name, [each for each in answers if each.family == name]) for name in families)
    return Scores(tuple(by_family), _score(ALL, answers), answers)


def asked(item: Item, template: Template) -> Message:
    """The item as a user message that the template can express."""
    if item.input and not template.user_with_input:
        return Message("user", f"{item.instruction}\n{item.input}")
    return Message("user", item.instruction, item.input)


def _right(item: Item) -> tuple[str, ...]:
    """Right answers of an item, among them its longest."""
    members = sorted(item.members, key=len)[-item.amount :] if item.amount else []
    return (item.output, *item.accepted, ", ".join(members))


def _answered(item: Item, done: Completion | None, template: Template) -> Answered:
    """What came back, judged; None where the question was not put."""
    answer = "" if done is None else template.content(done.text)
    right = done is not None and grade(item, answer)
    ended = TOO_LONG if done is None else done.finish_reason
    return Answered(item.family, item.task, item.instruction, item.input, item.output, answer, right, ended)


def _score(family: str, answers: Sequence[Answered]) -> Score:
    correct = sum(answered.right for answered in answers)
    interval = wilson(correct, len(answers))
    return Score(family, correct, len(answers), interval.low, interval.high)


def _score_data(score: Score) -> dict[str, Any]:
    return {"correct": score.correct, "count": score.count, "share": score.share, "low": score.low, "high": score.high}
