"""Scores on requests for calls: how many answers are right, wrong, or call what the library does not have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from camelid.desk.apis import Request
from camelid.dialogue.message import Message
from camelid.dialogue.template import Template
from camelid.evaluate.calls import calls, judge
from camelid.evaluate.desk import BEYOND
from camelid.generate.loaded import Loaded
from camelid.generate.settings import Settings


@dataclass(frozen=True)
class Called:
    """Shares of the answers by kind."""

    right: float
    wrong: float
    hallucinated: float
    no_call: float


def called(
    loaded: Loaded, requests: Sequence[Request], template: Template, known: Collection[str], *, manual: bool
) -> Called:
    """How a model answers requests, with the manual's line beside each or without it, judged by syntax tree."""
    prompts = [
        loaded.prompt([Message("user", each.asked, each.manual if manual else "")], template=template)
        for each in requests
    ]
    longest = max(len(loaded.tokenizer.encode(each.call, starts=False)) for each in requests)
    done = loaded.complete_all(prompts, Settings(max_tokens=longest + BEYOND))
    tally = Counter(
        judge(template.content(answer.text), calls(each.call), known)
        for each, answer in zip(requests, done, strict=True)
    )
    shares = {kind: tally[kind] / len(requests) for kind in ("right", "wrong", "hallucinated", "no call")}
    return Called(shares["right"], shares["wrong"], shares["hallucinated"], shares["no call"])
