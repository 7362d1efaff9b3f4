"""Scores on later turns of desk conversations: each question needs what was said before, and is judged by program."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from camelid.desk.conversations import Turn
from camelid.desk.grade import grade
from camelid.dialogue.message import Message
from camelid.dialogue.template import Template
from camelid.errors import Problem, UsageError
from camelid.evaluate.desk import BEYOND
from camelid.generate.loaded import Loaded
from camelid.generate.settings import Settings


def later_turns(
    loaded: Loaded,
    conversations: Sequence[Sequence[Turn]],
    template: Template,
    fold: Callable[[list[Message]], list[Message]] | None = None,
) -> float:
    """Share of the questions after the first that a model answers rightly, the turns before them given as they should
    have gone, each a turn of its own or as `fold` writes them into one.

    Raises UsageError where no conversation has a second turn.
    """
    asked: list[tuple[list[Message], Turn]] = []
    for turns in conversations:
        said: list[Message] = []
        for turn in turns:
            said.append(Message("user", turn.item.instruction))
            if turn.back:
                asked.append((list(said) if fold is None else fold(said), turn))
            said.append(Message("assistant", turn.item.output))
    if not asked:
        raise UsageError([Problem("conversations", "none has a later turn", "ask for two turns or more")])
    longest = max(len(loaded.tokenizer.encode(turn.item.output, starts=False)) for _, turn in asked)
    prompts = [loaded.prompt(messages, template=template) for messages, _ in asked]
    done = loaded.complete_all(prompts, Settings(max_tokens=longest + BEYOND))
    answers = zip(asked, done, strict=True)
    return sum(grade(turn.item, template.content(each.text)) for (_, turn), each in answers) / len(asked)
