"""Which published template the chat template of a foreign model means.

Such a chat template is a program in Jinja. It is looked at and never run: the marks that it writes between turns say
whose it is, and the published template of the same marks is used, whose control tokens no text can forge. What a foreign
text does beyond its marks (dates, other system messages) is not done.
"""

from __future__ import annotations

from collections.abc import Mapping

from camelid.dialogue.pattern import control_ids
from camelid.dialogue.published import LLAMA_2, LLAMA_3, LLAMA_3_1, LLAMA_3_2, PLAIN, VICUNA_1_1
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


def recognised(text: str, tokenizer: Tokenizer) -> str | None:
    """The name, in NAMED, of the template that a chat template means; None where it is none of them, or where the
    tokenizer lacks its control tokens."""
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


__all__ = ["MARKS", "NAMED", "recognised"]
