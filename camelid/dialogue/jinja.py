"""A template as a Hugging Face `chat_template`, for folders that other programs open.

It says the same as `parts` does, but it can only say it as one string, which the other program then cuts into tokens:
there, text that spells a control token becomes one. That is why nothing here is ever rendered through it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from camelid.dialogue.part import Control, Trusted
from camelid.dialogue.pattern import Piece, control_ids, pieces
from camelid.tokenizers.protocol import Tokenizer

if TYPE_CHECKING:
    from camelid.dialogue.template import Template

_TEXT = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_MESSAGE = {"input": "message['input']"} | dict.fromkeys(
    ("instruction", "reply", "tools", "call", "result"), "message['content']"
)
_STRIPPED = {"": "{}", "strip": "{} | trim", "lstrip": "{}.lstrip()", "rstrip": "{}.rstrip()"}


def jinja(template: Template, tokenizer: Tokenizer, *, masks: bool = False) -> str:
    """The Jinja text of a template for this tokenizer's control tokens.

    Messages are objects with "role", "content" and, for templates that take one, "input". With `masks`, learned text
    stands between Hugging Face's generation marks, which other readers of chat templates do not know.
    Raises UsageError where the tokenizer lacks a control token.
    """
    named = {id: name for name, id in tokenizer.controls.items()}
    names = {name: named[id] for name, id in control_ids(template.patterns, tokenizer).items()}
    lines = [*_beginning(template, names), "{%- for message in turns -%}"]
    lines += _refusals(template)
    lines += ["{%- if message['role'] == 'user' -%}", *_user(template, names)]
    lines += [*_tools(template, names, masks), "{%- else -%}"]
    lines += [*_announced(template, names), *_reply(template, names, masks), "{%- endif -%}", "{%- endfor -%}"]
    if template.cue:
        lines += ["{%- if add_generation_prompt -%}", _said(template.cue, names), "{%- endif -%}"]
    return "\n".join(line for line in lines if line)


def _beginning(template: Template, names: Mapping[str, str]) -> list[str]:
    given = "{%- set system = messages[0]['content'] -%}"
    if not template.takes_system:
        given = _raise("this template has no place for a system message")
    lines = [
        "{%- if messages and messages[0]['role'] == 'system' -%}",
        given,
        "{%- set turns = messages[1:] -%}",
        "{%- else -%}",
        f"{{%- set system = {_quoted(template.default_system) if template.default_system else 'none'} -%}}",
        "{%- set turns = messages -%}",
        "{%- endif -%}",
        _said(template.opening, names),
    ]
    if template.system:
        lines += ["{%- if system is not none -%}", _said(template.system, names)]
        lines += ["{%- else -%}", _said(template.without_system, names)] if template.without_system else []
        lines += ["{%- endif -%}"]
    return lines


def _refusals(template: Template) -> list[str]:
    wrong = "message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant')"
    if template.call:
        first = "['user', 'tools']" if template.tools else "['user']"
        replies = "['assistant', 'call']"
        after = f"{{'user': {replies}, 'ipython': {replies}, 'assistant': ['user'], 'call': ['ipython'], 'tools': ['user']}}"
        wrong = f"message['role'] not in ({first} if loop.first else {after}[loop.previtem['role']])"
    lines = [
        f"{{%- if {wrong} -%}}",
        _raise("user and assistant must take turns, the user first"),
        "{%- endif -%}",
    ]
    if template.on_markers == "refuse":
        said = "[message['content'], message['input'] or '', system or '']"
        lines += ["{%- for text in " + said + " -%}"]
        for marker in map(_quoted, template.markers):
            lines += [
                f"{{%- if {marker} in text -%}}",
                _raise("a message contains a mark of this template"),
                "{%- endif -%}",
            ]
        lines += ["{%- endfor -%}"]
    return lines


def _user(template: Template, names: Mapping[str, str]) -> list[str]:
    no_input = _raise("this template has no place for an input here")
    with_input = _said(template.user_with_input, names) if template.user_with_input else no_input
    lines = ["{%- if message['input'] -%}", with_input, "{%- else -%}", _said(template.user, names), "{%- endif -%}"]
    if not template.user_with_system:
        return lines
    folded = ["{%- if message['input'] -%}", no_input, "{%- endif -%}", _said(template.user_with_system, names)]
    return ["{%- if loop.first and system is not none -%}", *folded, "{%- else -%}", *lines, "{%- endif -%}"]


def _tools(template: Template, names: Mapping[str, str], masks: bool) -> list[str]:
    """Turns that only templates with tools have."""
    if not template.call:
        return []
    called = _said(template.call, names)
    marked = ["{%- generation -%}", called, "{%- endgeneration -%}"] if masks else [called]
    lines = ["{%- elif message['role'] == 'call' -%}", _said(template.cue, names), *marked]
    lines += ["{%- elif message['role'] == 'ipython' -%}", _said(template.result, names)]
    if template.tools:
        lines += ["{%- elif message['role'] == 'tools' -%}", _said(template.tools, names)]
    return lines


def _announced(template: Template, names: Mapping[str, str]) -> list[str]:
    if not template.marks:
        return [_said(template.cue, names)]
    lines, word = [], "if"
    for mark, cue in template.marks:
        lines += [f"{{%- {word} message['mark'] == {_quoted(mark)} -%}}", _said(cue, names)]
        word = "elif"
    return [*lines, "{%- else -%}", _said(template.cue, names), "{%- endif -%}"]


def _reply(template: Template, names: Mapping[str, str], masks: bool) -> list[str]:
    said = _said(template.assistant, names)
    return ["{%- generation -%}", said, "{%- endgeneration -%}"] if masks else [said]


def _said(written: str, names: Mapping[str, str]) -> str:
    """A pattern as one Jinja expression; "" for an empty pattern."""
    terms = [_term(piece, names) for piece in pieces(written)]
    return f"{{{{- {' ~ '.join(terms)} -}}}}" if terms else ""


def _term(piece: Piece, names: Mapping[str, str]) -> str:
    if isinstance(piece, Control):
        return _quoted(names[piece.name])
    if isinstance(piece, Trusted):
        return _quoted(piece.text)
    text = _MESSAGE.get(piece.field, "system")
    return f"({_STRIPPED[piece.strip].format(text)})" if piece.strip else text


def _quoted(text: str) -> str:
    return "'" + "".join(_TEXT.get(character, character) for character in text) + "'"


def _raise(text: str) -> str:
    return f"{{{{- raise_exception({_quoted(text)}) -}}}}"
