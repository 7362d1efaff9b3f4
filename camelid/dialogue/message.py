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
    """

    role: Role
    content: str
    input: str = ""
