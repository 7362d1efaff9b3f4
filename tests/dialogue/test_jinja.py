"""The chat_template written into folders says what the template says: equal ids, equal masks, equal refusals."""

from __future__ import annotations

import pytest

from camelid.dialogue.jinja import jinja
from camelid.dialogue.message import Message
from camelid.dialogue.template import Control, Template, parts, render
from camelid.errors import BadData
from tests.conftest import size
from tests.dialogue.chats import benign
from tests.dialogue.conftest import TEMPLATES, every_pair, tokenizer_for


def as_objects(messages: list[Message]) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} | ({"input": m.input} if m.input else {}) for m in messages]


def flat(template: Template, messages: list[Message], tokenizer, *, generate: bool) -> str:
    ids = tokenizer.controls | {"bos": tokenizer.bos, "eos": tokenizer.eos}
    whole = parts(template, messages, generate=generate)
    return "".join(tokenizer.piece(ids[part.name]) if isinstance(part, Control) else part.text for part in whole)


# One string cannot hold the border between a prompt and its reply. Where the border falls between a mark and a letter,
# byte-level BPE joins them (":The"), which the published prompts never saw; there the strings are compared instead.
JOINS = {("alpaca", "byte_level"), ("alpaca", "llama_3")} | {("plain", kind) for _, kind in every_pair()}


@pytest.mark.parametrize(("name", "kind"), every_pair())
def test_transformers_renders_the_same_ids(name, kind, request: pytest.FixtureRequest, opened):
    template, ours = TEMPLATES[name], tokenizer_for(name, kind, request)
    theirs = opened(ours)
    theirs.chat_template = jinja(template, ours)
    takes = {"system": template.takes_system, "input": bool(template.user_with_input)}
    for messages in benign(31, size(60), **takes):
        chat = as_objects(messages)
        text = theirs.apply_chat_template(chat, tokenize=False)
        assert text == flat(template, messages, ours, generate=False)
        asked = theirs.apply_chat_template(chat[:-1], tokenize=False, add_generation_prompt=True)
        assert asked == flat(template, messages[:-1], ours, generate=True)
        first = 2 if messages[0].role == "system" else 1
        prompt = theirs.apply_chat_template(chat[:first], add_generation_prompt=True, return_dict=False)
        assert prompt == render(template, messages[:first], ours, generate=True).ids
        if (name, kind) not in JOINS:
            assert theirs.apply_chat_template(chat, return_dict=False) == render(template, messages, ours).ids
            prompt = theirs.apply_chat_template(chat[:-1], add_generation_prompt=True, return_dict=False)
            assert prompt == render(template, messages[:-1], ours, generate=True).ids


@pytest.mark.parametrize("name", ["alpaca", "alpaca_lora", "llama_2", "llama_3", "vicuna"])
def test_with_masks_transformers_marks_the_same_ids(name, request: pytest.FixtureRequest, opened):
    template, ours = TEMPLATES[name], tokenizer_for(name, "pieces", request)
    theirs = opened(ours)
    theirs.chat_template = jinja(template, ours, masks=True)
    for messages in benign(32, size(40), system=template.takes_system, input=bool(template.user_with_input)):
        chat = theirs.apply_chat_template(as_objects(messages), return_dict=True, return_assistant_tokens_mask=True)
        rendered = render(template, messages, ours)
        assert chat["input_ids"] == rendered.ids
        assert [bool(mark) for mark in chat["assistant_masks"]] == rendered.supervised


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_the_template_refuses_its_jinja_refuses(name, request: pytest.FixtureRequest, opened):
    template, ours = TEMPLATES[name], tokenizer_for(name, "pieces", request)
    theirs = opened(ours)
    theirs.chat_template = jinja(template, ours)
    user, reply = Message("user", "u"), Message("assistant", "a")
    cases = [
        [reply], [user, user], [user, reply, reply], [user, reply, user], [user, Message("system", "s")],
        [Message("system", "s"), user], [Message("system", ""), user], [Message("system", "<<SYS>>"), user],
        [Message("user", "[INST]")], [Message("user", "u", "in")], [Message("system", "s"), Message("user", "u", "in")],
    ]  # fmt: skip
    refused = 0
    for messages in cases:
        try:
            expected = flat(template, messages, ours, generate=False)
        except BadData:
            refused += 1
            with pytest.raises(Exception, match=r"turns|no place|a mark"):
                theirs.apply_chat_template(as_objects(messages), tokenize=False)
        else:
            assert theirs.apply_chat_template(as_objects(messages), tokenize=False) == expected
    assert refused >= 4


def test_text_that_jinja_would_read_is_only_text(request: pytest.FixtureRequest, opened):
    template = Template(user="{{{{ '}}' }}}} {{%- if -%}} \\n 'q' \" é\t\r\n{instruction}", cue="\\'{<|eot_id|>}")
    ours = tokenizer_for("llama_3", "pieces", request)
    theirs = opened(ours)
    theirs.chat_template = jinja(template, ours)
    messages = [Message("user", "{{ bos_token }} {% raw %} {# x"), Message("assistant", "{{ 7 * 7 }}")]
    shown = theirs.apply_chat_template(as_objects(messages), tokenize=False)
    assert shown == flat(template, messages, ours, generate=False)
    assert "{{ '}' }} {%- if -%} \\n 'q' \" é\t\r\n{{ bos_token }} {% raw %} {# x\\'" in shown
