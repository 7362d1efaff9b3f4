"""The three kinds of things a rendered dialogue is made of. They differ by type, so none can pass for another."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Control:
    """A control token, by name; "bos" and "eos" stand for whatever the tokenizer uses."""

    name: str
    learned: bool = False
    message: int = -1


@dataclass(frozen=True)
class Trusted:
    """Text of the template itself."""

    text: str
    learned: bool = False
    message: int = -1


@dataclass(frozen=True)
class Untrusted:
    """Text that came from outside, with the slot it fills and the message (by index) it came from."""

    text: str
    field: str = ""
    learned: bool = False
    message: int = -1


Part = Control | Trusted | Untrusted
