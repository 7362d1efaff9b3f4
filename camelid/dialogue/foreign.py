"""In which template a foreign model talks, by the chat template in its files.

Such a chat template is a program in Jinja, and is never run. What it says of a few dialogues is found by a bounded
interpreter (interpreter.py) and read as a template of ours (reading.py), whose control tokens no text can forge. A text
that cannot be read so is told by the marks that it writes between turns, and the published template of the same marks is
used; what it does beyond them (dates, other system messages) is then not done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from camelid.dialogue.interpreter import Unreadable
from camelid.dialogue.pattern import control_ids
from camelid.dialogue.published import LLAMA_2, LLAMA_3, LLAMA_3_1, LLAMA_3_2, PLAIN, VICUNA_1_1
from camelid.dialogue.reading import read
from camelid.dialogue.template import Template
from camelid.errors import UsageError
from camelid.tokenizers.protocol import Tokenizer

LONGEST = 1 << 20  # characters; those of the family have under ten thousand
NAMED: Mapping[str, Template] = {
    "llama-2-chat": LLAMA_2,
    "llama-3-instruct": LLAMA_3,
    "llama-3.1-instruct": LLAMA_3_1,
    "llama-3.2-instruct": LLAMA_3_2,
    "vicuna-v1.1": VICUNA_1_1,
    "none": PLAIN,
}
# Marks that all stand in the text; the more particular first. Llama 3.1 and later name the role of a tool's result.
MARKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("llama-3.1-instruct", ("<|start_header_id|>", "<|eot_id|>", "ipython")),
    ("llama-3-instruct", ("<|start_header_id|>", "<|eot_id|>")),
    ("llama-2-chat", ("[INST]", "[/INST]", "<<SYS>>")),
    ("vicuna-v1.1", ("USER:", "ASSISTANT:")),
)


@dataclass(frozen=True)
class Recognised:
    """In which template a foreign model talks, and how that is known.

    how  "same": the published one of that name says the same; "read": no published one does, and it was read from the
         text; "marks": the text could not be read, for the reason `problem`, and has the marks of the published one of
         that name; "unknown": it has not even those, and there is no template
    """

    how: Literal["same", "read", "marks", "unknown"]
    template: Template | None = None
    name: str = ""
    problem: str = ""


def recognised(text: str, tokenizer: Tokenizer) -> Recognised:
    """What a chat template means for a model with this tokenizer."""
    published = {name: template for name, template in NAMED.items() if name != "none"}
    name = _marked(text, tokenizer)
    try:
        found = read(text, tokenizer, tuple(published.values()))
    except Unreadable as error:
        problem = str(error)
        return Recognised("marks", NAMED[name], name, problem) if name else Recognised("unknown", problem=problem)
    for known, template in published.items():
        if template == found:
            return Recognised("same", template, known)
    return Recognised("read", found if name is None else _with_tools(found, NAMED[name]))


def _with_tools(found: Template, marked: Template) -> Template:
    """What was read, with what a few dialogues do not show: how functions are called, and what else ends a reply."""
    return replace(
        found, tools=marked.tools, call=marked.call, result=marked.result, stops=(*found.stops, *marked.stops)
    )


def _marked(text: str, tokenizer: Tokenizer) -> str | None:
    """The name, in NAMED, of the template whose marks all stand in the text, where the tokenizer has its control tokens."""
    for name, marks in MARKS:
        if len(text) <= LONGEST and all(mark in text for mark in marks) and _has_controls(NAMED[name], tokenizer):
            return name
    return None


def _has_controls(template: Template, tokenizer: Tokenizer) -> bool:
    try:
        control_ids(template.patterns, tokenizer)
    except UsageError:
        return False
    return True


__all__ = ["MARKS", "NAMED", "Recognised", "recognised"]
