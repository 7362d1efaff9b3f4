"""Chat templates of others are read as templates of ours: what transformers renders from them, ours renders."""

from __future__ import annotations

from pathlib import Path

import pytest

from camelid.dialogue.interpreter import Unreadable
from camelid.dialogue.jinja import jinja
from camelid.dialogue.part import Control
from camelid.dialogue.published import LLAMA_2, VICUNA_1_1
from camelid.dialogue.reading import read
from camelid.dialogue.template import Template, parts, render, stop_ids
from camelid.errors import BadData
from camelid.tokenizers.extend import with_controls
from tests.conftest import size
from tests.dialogue.chats import benign, hostile
from tests.dialogue.test_jinja import as_objects, flat
from tests.dialogue.test_tools import NAMES

CHATML = ("<|im_start|>", "<|im_end|>")
DATE = "26 Jul 2024"  # which Llama 3.2's text names where no clock is at hand


@pytest.fixture(scope="module")
def named(pieces):
    """A tokenizer with the control tokens of all these templates."""
    return with_controls(pieces, (*NAMES, *CHATML, "<start_of_turn>", "<end_of_turn>"))


def held() -> dict[str, str]:
    """Chat templates that installed packages hold, by name; nothing of them is copied here."""
    found = {}
    try:
        import trl
        from llama_cpp import llama_chat_format
    except ImportError:
        return found
    for path in (Path(trl.__file__).parent / "chat_templates").glob("*.jinja"):
        found[path.stem] = path.read_text(encoding="utf-8")
    for name in ("CHATML", "MISTRAL_INSTRUCT", "MIXTRAL_INSTRUCT", "LLAMA3_INSTRUCT"):
        found[name] = getattr(llama_chat_format, f"{name}_CHAT_TEMPLATE")
    return found


# In forms of our own: what is known of models whose texts no installed package holds.
WRITTEN = {
    "turns marked by words, closed by the end token": (
        "{% for m in messages %}\n{% if m['role'] == 'user' %}\n{{ '<|user|>\\n' + m['content'] + eos_token }}\n"
        "{% elif m['role'] == 'system' %}\n{{ '<|system|>\\n' + m['content'] + eos_token }}\n"
        "{% elif m['role'] == 'assistant' %}\n{{ '<|assistant|>\\n'  + m['content'] + eos_token }}\n{% endif %}\n"
        "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
    ),
    "the system message within the first turn": (
        "{% if messages[0].role == 'system' %}{% set system, rest = messages[0].content, messages[1:] %}"
        "{% else %}{% set system, rest = none, messages %}{% endif %}{% for m in rest %}"
        "{% set text = '<<SYS>>\\n' ~ system ~ '\\n<</SYS>>\\n\\n' ~ m.content if loop.first and system else m.content %}"
        "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + text.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "a system message of its own where none is given": (
        "{%- set ns = namespace(system='Be brief {always}.') -%}{%- for m in messages if m.role == 'system' -%}"
        "{%- set ns.system = m.content -%}{%- endfor -%}{{- bos_token ~ ns.system ~ '\\n' -}}"
        "{%- for m in messages -%}{%- if m.role == 'user' -%}{{- '\\nQ: ' ~ m.content -}}{%- elif m.role == 'assistant' -%}"
        "{{- '\\nA: ' ~ m.content -}}{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}{{- '\\nA: ' -}}{%- endif -%}"
    ),
}
READ = (
    "CHATML", "MISTRAL_INSTRUCT", "MIXTRAL_INSTRUCT", "LLAMA3_INSTRUCT", "llama3", "llama3_1", "llama3_2", "qwen2_5",
    "llama3_training", "gemma", "lfm2", "phi3", *WRITTEN,
)  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_a_template_that_was_read_says_what_transformers_says(name, named, opened):
    pytest.importorskip("transformers")
    known = held() | WRITTEN
    if name not in known:
        pytest.skip("trl or llama-cpp-python, which hold this template, are absent")
    if name == "phi3":  # whose end differs after the last answer
        with pytest.raises(Unreadable, match="whether it is the last"):
            read(known[name], named)
        return
    template = read(known[name], named)
    theirs = opened(named)
    theirs.chat_template = known[name]
    for messages in benign(61, size(40), system=template.takes_system, input=False):
        asked = theirs.apply_chat_template(
            as_objects(messages[:-1]), tokenize=False, add_generation_prompt=True, date_string=DATE
        )
        assert asked == flat(template, messages[:-1], named, generate=True)
        whole = theirs.apply_chat_template(as_objects(messages), tokenize=False, date_string=DATE)
        assert whole == flat(template, messages, named, generate=False)
    assert set(stop_ids(template, named)) & {*named.controls.values()}


@pytest.mark.parametrize("name", ["llama3_1", "CHATML", *WRITTEN])
def test_no_message_says_a_control_token_in_a_template_that_was_read(name, named):
    known = held() | WRITTEN
    if name not in known:
        pytest.skip("trl or llama-cpp-python, which hold this template, are absent")
    template = read(known[name], named)
    ids = set(named.controls.values())
    for messages in hostile(62, size(60), system=template.takes_system, input=False):
        wanted = sum(isinstance(part, Control) for part in parts(template, messages))
        assert sum(id in ids for id in render(template, messages, named).ids) == wanted


def test_the_forms_are_read_as_what_they_say(named):
    assert read(WRITTEN["the system message within the first turn"], named, (LLAMA_2,)) is LLAMA_2
    own = read(WRITTEN["a system message of its own where none is given"], named)
    assert own.default_system == "Be brief {always}." and own.stop_texts == ("Q:",)
    marked = read(WRITTEN["turns marked by words, closed by the end token"], named)
    assert (marked.opening, marked.user, marked.cue) == ("", "<|user|>\n{instruction}{eos}\n", "<|assistant|>\n")


def test_ours_written_out_and_read_again_says_the_same(named):
    dated = Template(
        opening="{bos}On {{today}}: ", system="{system|strip}{eos}", without_system="{eos}", user="{instruction}\n",
        cue="> ", assistant="{reply|lstrip}{eos}",
    )  # fmt: skip
    for template in (dated, VICUNA_1_1, LLAMA_2):
        again = read(jinja(template, named), named)
        for messages in benign(63, size(30), system=True, input=False):
            try:
                wanted = render(template, messages, named)
            except BadData:
                continue
            assert render(again, messages, named).ids == wanted.ids


@pytest.mark.parametrize(("text", "reason"), [
    ("{% for m in messages %}{{ m.content }}{{ loop.length }}{% endfor %}", "announces an answer in another way"),
    ("{{ messages[-1].content }}", "leaves a message out"),
    ("{% for m in messages %}{{ m.content ~ m.content }}{% endfor %}", "shows one twice"),
    ("{{ raise_exception('no talk') }}", "it refuses a plain dialogue: no talk"),
    ("{% for m in messages %}{{ m.role ~ (m.content | replace('x', 'y')) }}{% endfor %}{% if messages|length == 6 %}!"
     "{% endif %}", "depends on more than who speaks"),
    ("{% macro f(x) %}{{ x }}{% endmacro %}{{ f(1) }}", "it uses Macro"),
])  # fmt: skip
def test_what_is_no_template_of_ours_is_refused_with_the_reason(text, reason, named):
    with pytest.raises(Unreadable, match=reason):
        read(text, named)
