"""StackExchange: a question, then its answers with their votes, the best first."""

from __future__ import annotations

from random import Random

from camelid.desk.document import Document, Pen
from camelid.desk.phrases import QUESTIONS, SUM_QUESTIONS, SUMS, equation
from camelid.desk.world import World
from camelid.randomness import key

SHRUGS = ("No idea.", "I do not know.", "Me too.", "Same here.")


def thread(world: World, source: str, index: int, seed: int) -> Document:
    """A thread: two to three answers sorted by score; the last one never helps."""
    pen = Pen(world, Random(key("desk", world.seed, source, seed, index)))
    if pen.draw.random() < 0.2:
        parts = pen.sum()
        question = pen.pick(SUM_QUESTIONS[parts[1]]).format(x=parts[0], y=parts[2])
        helpful = [f"{equation(form, parts)}." for form in pen.draw.sample(SUMS[parts[1]], 2)]
        kind = "sum"
    else:
        fact = world.facts[int(pen.draw.random() * len(world.facts))]
        question = pen.pick(QUESTIONS[fact.relation]).format(s=fact.subject)
        helpful = [pen.canonical(fact), pen.fact(fact)]
        kind = "fact"
    answers = [*helpful[: 1 + int(pen.draw.random() * 2)], pen.pick(SHRUGS)]
    if len(answers) == 2 and kind == "fact":
        del pen.facts[1:]
    low = -2 + int(pen.draw.random() * 3)
    scores = sorted((low + 1 + int(pen.draw.random() * 20) for _ in answers[1:]), reverse=True)
    scores.append(low)
    lines = [f"[{score}] {answer}" for score, answer in zip(scores, answers, strict=True)]
    return pen.document(source, index, kind, "\n".join([f"Q: {question}", *lines]), scores=tuple(scores))
