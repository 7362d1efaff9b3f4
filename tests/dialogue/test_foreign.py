"""A foreign chat template is told by its marks, and never run."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from camelid.dialogue.foreign import LONGEST, NAMED, recognised
from camelid.dialogue.jinja import jinja
from camelid.dialogue.template import render, stop_ids
from camelid.tokenizers.extend import with_controls
from tests.conftest import size
from tests.dialogue.chats import benign
from tests.dialogue.test_tools import NAMES

OUTSIDE = ("marks", "unknown")  # where the text itself could not be read


@pytest.fixture(scope="module")
def all_controls(pieces):
    """A tokenizer with the control tokens of every published template."""
    return with_controls(pieces, NAMES)


@pytest.mark.parametrize("name", [name for name in NAMED if name not in ("none", "llama-3.2-instruct")])
def test_what_our_renderer_writes_for_others_is_recognised(name, all_controls):
    found = recognised(jinja(NAMED[name], all_controls), all_controls)
    assert (found.how, found.name, found.template) == ("same", name, NAMED[name])


def test_llama_3s_own_text_is_recognised_and_says_what_ours_says(llama_3):
    """As Meta published it, by the copy that llama-cpp-python holds; what it renders are our ids."""
    formats = pytest.importorskip("llama_cpp.llama_chat_format", reason="llama-cpp-python is not installed")
    text = formats.LLAMA3_INSTRUCT_CHAT_TEMPLATE
    found = recognised(text, llama_3)
    assert (found.how, found.name) == ("same", "llama-3-instruct")
    formatter = formats.Jinja2ChatFormatter(text, eos_token="<|end_of_text|>", bos_token="<|begin_of_text|>")
    for messages in benign(71, size(40), system=True, input=False):
        asked = messages[:-1] if messages[-1].role == "assistant" else messages
        said = [{"role": message.role, "content": message.content} for message in asked]
        theirs = llama_3_ids(llama_3, formatter(messages=said).prompt)
        assert theirs == render(found.template, asked, llama_3, generate=True).ids


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
    "", "{{ messages }}", "{% for m in messages %}<|im_start|>{{ m.role }}{% endfor %}", "[INST] {{ m }} [/INST]", "{{",
    "<|start_header_id|>", "<|start_header_id|><|eot_id|>" + " " * LONGEST,
    "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{% for x in range(10**9) %}{{ x * 10**9 }}{% endfor %}",
])  # fmt: skip
def test_what_is_none_of_them_is_not_recognised_and_not_run(text, all_controls):
    found = recognised(text, all_controls)
    assert found.how == "unknown" and found.template is None and found.problem


def test_a_template_that_cannot_be_read_is_told_by_its_marks(pieces, all_controls):
    """Its turns depend on what is said, which no template of ours does; the marks are those of one that is known."""
    text = jinja(NAMED["llama-3.1-instruct"], all_controls) + "{{ '!' if messages|length > 3 }}"
    found = recognised(text, all_controls)
    assert (found.how, found.name) == ("marks", "llama-3.1-instruct") and "who speaks" in found.problem
    former = with_controls(pieces, [name for name in NAMES if name not in ("<|eom_id|>", "<|python_tag|>")])
    assert recognised(text, former).name == "llama-3-instruct"
    assert recognised(text, pieces).how == "unknown"


def test_what_is_read_keeps_the_tools_of_the_template_with_its_marks(all_controls):
    """Llama 3.1's text in Hugging Face's folders has dates before the system message, which Meta's own code does not."""
    trl = pytest.importorskip("trl", reason="trl is not installed")
    text = (Path(trl.__file__).parent / "chat_templates" / "llama3_1.jinja").read_text()
    found = recognised(text, all_controls)
    known = NAMED["llama-3.1-instruct"]
    assert found.how == "read" and "Cutting Knowledge Date" in found.template.opening
    assert (found.template.call, found.template.result) == (known.call, known.result)
    ends = {all_controls.controls[name] for name in ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>")}
    assert ends <= set(stop_ids(found.template, all_controls))


def test_damaged_texts_are_read_or_not_and_never_fail_otherwise(all_controls):
    draw = random.Random(81)
    whole = [jinja(template, all_controls) for template in NAMED.values()]
    bits = (
        "{{",
        "}}",
        "{%",
        "%}",
        "(",
        ")",
        "[",
        "|",
        "'",
        " for ",
        " if ",
        "messages",
        "9" * 30,
        "\0",
        "\ud800",
        "is",
    )
    for _ in range(size(150)):
        text = draw.choice(whole)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(text) + 1)
            text = text[:at] + draw.choice(bits) + text[at + draw.choice((0, 0, 1, 3, 20)) :]
        found = recognised(text, all_controls)
        assert (found.template is None) == (found.how == "unknown") and bool(found.problem) == (found.how in OUTSIDE)
