"""Patterns: text with slots in braces, as templates write it.

{instruction} {input} {system} {reply}   text that somebody else wrote: untrusted, never a control id
{instruction|strip}                      the same without surrounding whitespace (also lstrip, rstrip)
{bos} {eos}                              the control tokens that the tokenizer uses for these
{<|eot_id|>}                             a control token by its name
{{ }}                                    braces that are meant as text
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from camelid.dialogue.part import Control, Trusted
from camelid.errors import ProblemList, did_you_mean
from camelid.tokenizers.protocol import Tokenizer

Strip = Literal["", "strip", "lstrip", "rstrip"]
STRIPS: dict[str, Strip] = {"": "", "strip": "strip", "lstrip": "lstrip", "rstrip": "rstrip"}
ROLES = ("bos", "eos")

_SLOT = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|([{}])")


@dataclass(frozen=True)
class Slot:
    """A place in a pattern that a message fills."""

    field: str
    strip: Strip = ""

    def filled(self, text: str) -> str:
        """The text as it stands in the slot."""
        return {"": text, "strip": text.strip(), "lstrip": text.lstrip(), "rstrip": text.rstrip()}[self.strip]


Piece = Control | Trusted | Slot


@lru_cache(maxsize=1024)
def pieces(written: str) -> tuple[Piece, ...]:
    """What a pattern consists of: control tokens, text of the template (neighbours joined), and slots."""
    found: list[Piece] = []
    text, end = "", 0
    for match in _SLOT.finditer(written):
        text += written[end : match.start()]
        end = match.end()
        if match[1] is None:
            text += match[0][0]
            continue
        if text:
            found.append(Trusted(text))
            text = ""
        found.append(_piece(match[1]))
    text += written[end:]
    return (*found, Trusted(text)) if text else tuple(found)


def _piece(inside: str) -> Control | Slot:
    if inside in ROLES or not inside[:1].isalpha():
        return Control(inside)
    name, _, strip = inside.partition("|")
    return Slot(name, STRIPS.get(strip, ""))


def around(written: str, field: str) -> tuple[tuple[Piece, ...], Slot, tuple[Piece, ...]]:
    """What stands before a slot, the slot, and what stands after it."""
    all = pieces(written)
    place = next(i for i, piece in enumerate(all) if isinstance(piece, Slot) and piece.field == field)
    slot = all[place]
    assert isinstance(slot, Slot)
    return all[:place], slot, all[place + 1 :]


def check(where: str, written: str, slots: Collection[str], problems: ProblemList) -> None:
    """Adds to `problems` whatever is wrong with a pattern; each of `slots` must stand in it once, unless it is ""."""
    known = sorted({*slots, *ROLES})
    for match in _SLOT.finditer(written):
        inside = match[1]
        if match[2]:
            found = f"has a lone {match[2]!r} at character {match.start() + 1}"
            problems.add(where, found, "double braces that are meant as text")
        elif inside == "":
            problems.add(where, "has an empty slot {}", f"choose from {', '.join(known)}")
        elif inside and inside[0].isalpha() and inside not in ROLES:
            name, bar, strip = inside.partition("|")
            if name not in slots:
                problems.add(where, f"has no slot {name!r}", did_you_mean(name, known))
            if bar and strip not in list(STRIPS)[1:]:
                problems.add(where, f"cannot do {strip!r} to {name}", did_you_mean(strip, list(STRIPS)[1:]))
    for slot in sorted(slots) if written else ():
        count = sum(isinstance(piece, Slot) and piece.field == slot for piece in pieces(written))
        if count != 1:
            problems.add(where, f"uses {{{slot}}} {count} times", "use it once")


def control_ids(patterns: Iterable[str], tokenizer: Tokenizer) -> dict[str, int]:
    """The ids of the control tokens in the patterns, by the names that stand there.

    Raises UsageError with all that the tokenizer lacks.
    """
    found: dict[str, int] = {}
    problems = ProblemList()
    names = (piece.name for written in patterns for piece in pieces(written) if isinstance(piece, Control))
    for name in dict.fromkeys(names):
        id = {"bos": tokenizer.bos, "eos": tokenizer.eos}.get(name, tokenizer.controls.get(name))
        if id is None:
            remedy = did_you_mean(name, tokenizer.controls) or "take another template or tokenizer"
            problems.add("template", f"uses the control token {name!r}, which this tokenizer lacks", remedy)
        else:
            found[name] = id
    problems.raise_usage()
    return found
