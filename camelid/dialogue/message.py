"""One turn of a dialogue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "tools", "user", "assistant", "call", "ipython"]


@dataclass(frozen=True)
class Message:
    """What one side said. `input` is the further context that Alpaca's second form shows beside the instruction.

    Three roles are those of templates with tools (dialogue/tools.py): "tools" offers functions, "call" is a turn of the
    assistant that calls one, and "ipython" (Llama 3.1's name) is what the tool answered.

    `mark` says of what kind an assistant's reply is, for templates that announce kinds in words of their own
    (`Template.marks`): Koala's "poor" replies follow "An Unhelpful Answer:".

    `learned` is False for a reply that is shown and not imitated, whatever else of its dialogue is learned.
    """

    role: Role
    content: str
    input: str = ""
    mark: str = ""
    learned: bool = True
