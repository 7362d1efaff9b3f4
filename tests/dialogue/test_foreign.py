"""A foreign chat template is told by its marks, and never run."""

from __future__ import annotations

import re

import pytest

from camelid.dialogue.foreign import LONGEST, NAMED, recognised
from camelid.dialogue.jinja import jinja
from camelid.dialogue.template import render
from camelid.tokenizers.extend import with_controls
from tests.conftest import size
from tests.dialogue.chats import benign
from tests.dialogue.test_tools import NAMES


@pytest.fixture(scope="module")
def all_controls(pieces):
    """A tokenizer with the control tokens of every published template."""
    return with_controls(pieces, NAMES)


@pytest.mark.parametrize("name", [name for name in NAMED if name not in ("none", "llama-3.2-instruct")])
def test_what_our_renderer_writes_for_others_is_recognised(name, all_controls):
    assert recognised(jinja(NAMED[name], all_controls), all_controls) == name


def test_llama_3s_own_text_is_recognised_and_says_what_ours_says(llama_3):
    """As Meta published it, by the copy that llama-cpp-python holds; what it renders are our ids."""
    formats = pytest.importorskip("llama_cpp.llama_chat_format", reason="llama-cpp-python is not installed")
    text = formats.LLAMA3_INSTRUCT_CHAT_TEMPLATE
    name = recognised(text, llama_3)
    assert name == "llama-3-instruct"
    assert not recognised(formats.CHATML_CHAT_TEMPLATE, llama_3)
    assert not recognised(formats.MISTRAL_INSTRUCT_CHAT_TEMPLATE, llama_3)
    formatter = formats.Jinja2ChatFormatter(text, eos_token="<|end_of_text|>", bos_token="<|begin_of_text|>")
    for messages in benign(71, size(40), system=True, input=False):
        asked = messages[:-1] if messages[-1].role == "assistant" else messages
        said = [{"role": message.role, "content": message.content} for message in asked]
        theirs = llama_3_ids(llama_3, formatter(messages=said).prompt)
        assert theirs == render(NAMED[name], asked, llama_3, generate=True).ids


def llama_3_ids(tokenizer, prompt):
    """The ids of a rendered text, its control tokens read as such: there is no other way to read a string."""
    marks = "|".join(map(re.escape, tokenizer.controls))
    pieces = re.split(f"({marks})", prompt)
    return [
        id
        for piece in pieces
        for id in ([tokenizer.controls[piece]] if piece in tokenizer.controls else tokenizer.encode(piece))
    ]


@pytest.mark.parametrize("text", [
    "", "{{ messages }}", "{% for m in messages %}<|im_start|>{{ m.role }}{% endfor %}", "[INST] {{ m }} [/INST]",
    "<|start_header_id|>", "<|start_header_id|><|eot_id|>" + " " * LONGEST,
    "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{% for x in range(10**9) %}{{ x * 10**9 }}{% endfor %}",
])  # fmt: skip
def test_what_is_none_of_them_is_not_recognised_and_not_run(text, all_controls):
    assert recognised(text, all_controls) is None


def test_a_template_whose_control_tokens_are_not_there_is_not_taken(pieces, all_controls):
    for name in ("llama-3-instruct", "llama-3.1-instruct"):
        text = jinja(NAMED[name], all_controls)
        assert recognised(text, pieces) is None
    later = jinja(NAMED["llama-3.1-instruct"], all_controls)
    former = with_controls(pieces, [name for name in NAMES if name not in ("<|eom_id|>", "<|python_tag|>")])
    assert recognised(later, former) == "llama-3-instruct"
