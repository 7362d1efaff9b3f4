"""One turn of a dialogue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """What one side said. `input` is the further context that Alpaca's second form shows beside the instruction."""

    role: Role
    content: str
    input: str = ""
