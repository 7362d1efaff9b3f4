"""Templates of the supervised members: the published string, token by token; masks; transformers' rendering."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from camelid.dialogue.jinja import jinja
from camelid.dialogue.message import Message
from camelid.dialogue.template import Template, render
from camelid.tokenizers.extend import with_controls
from tests.conftest import size
from tests.dialogue.chats import benign
from tests.dialogue.test_jinja import as_objects
from tests.dialogue.wave import WAVE, controls, turns

OTHERS = ("<EOT>", "<|prompter|>", "<|assistant|>", "<|system|>")  # of no template at hand, and in its vocabulary


@pytest.fixture
def tokenizer(llama_2, request):
    """A vocabulary with the control tokens of the template that a test is about, and a few more."""
    name = getattr(request.node, "callspec", None) and request.node.callspec.params.get("name")
    own = controls(WAVE[name][0]) if name else []
    return with_controls(llama_2, [*OTHERS, *own])


def spelled(rendered, tokenizer) -> str:
    """The ids as one string, control tokens by name, text stretch by stretch."""
    names = {id: name for name, id in tokenizer.controls.items()}
    told, text, starts = "", [], True
    for id in [*rendered.ids, None]:
        if id is None or id in names:
            told += tokenizer.decode(text, starts=starts)
            told += names.get(id, "")
            text, starts = [], True
        else:
            text.append(id)
    return told


@pytest.mark.parametrize("name", WAVE)
def test_a_dialogue_is_the_published_string(name, tokenizer):
    template, written = WAVE[name]
    for messages in benign(51, size(60), system=False, input=False):
        assert spelled(render(template, messages, tokenizer), tokenizer) == written(turns(messages))


@pytest.mark.parametrize("name", WAVE)
def test_the_prompt_has_the_ids_of_the_published_string(name, tokenizer):
    """Control tokens by id, every stretch of text between them encoded by the library as one."""
    import sentencepiece

    library = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    template, written = WAVE[name]
    spelled_out = re.compile("(" + "|".join(map(re.escape, ("<s>", "</s>", *controls(template)))) + ")")
    for (user, _), *_ in (turns(m) for m in benign(52, size(60), system=False, input=False)):
        whole = written([(user, "\x00")]).partition("\x00")[0]
        if template.assistant.startswith(" "):  # the space before the answer belongs to the answer's run
            whole = whole.removesuffix(" ")
        ids: list[int] = []
        for stretch in spelled_out.split(whole):
            if stretch in tokenizer.controls:
                ids.append(tokenizer.controls[stretch])
            elif stretch:
                ids += library.encode(stretch)
        assert render(template, [Message("user", user)], tokenizer, generate=True).ids == ids


@pytest.mark.parametrize("name", WAVE)
def test_what_is_learned_is_each_answer_and_what_ends_it(name, tokenizer):
    template = WAVE[name][0]
    names = {id: control for control, id in tokenizer.controls.items()}
    for messages in benign(53, size(60), system=False, input=False):
        rendered = render(template, messages, tokenizer, learn="assistant")
        told = []
        for reply in rendered.replies:
            assert all(rendered.supervised[reply.start : reply.end])
            ids = rendered.ids[reply.start : reply.end]
            text = [id for id in ids if id not in names]
            told.append(
                template.content(tokenizer.decode(text, starts=reply.start and rendered.ids[reply.start - 1] in names))
            )
            ended = ids[-1] in rendered.stop_ids if rendered.stop_ids and not template.stop_texts else None
            assert ended or any(stop in tokenizer.decode(text, starts=False) for stop in template.stop_texts)
        assert [t.strip() for t in told] == [a.strip() for _, a in turns(messages)]
        assert sum(rendered.supervised) == sum(reply.end - reply.start for reply in rendered.replies)


@pytest.mark.parametrize("name", WAVE)
def test_transformers_writes_the_same_string(name, tokenizer, opened):
    template, written = WAVE[name]
    theirs = opened(tokenizer)
    theirs.chat_template = jinja(template, tokenizer)
    for messages in benign(54, size(40), system=False, input=False):
        assert theirs.apply_chat_template(as_objects(messages), tokenize=False) == written(turns(messages))
        prompt = theirs.apply_chat_template(as_objects(messages[:1]), add_generation_prompt=True, return_dict=False)
        assert prompt == render(template, messages[:1], tokenizer, generate=True).ids


def test_a_separator_changed_by_one_space_is_found(tokenizer):
    template, written = WAVE["koala"]
    planted = replace(template, cue="GPT: ")
    messages = next(benign(55, 1, system=False, input=False))
    assert spelled(render(planted, messages, tokenizer), tokenizer) != written(turns(messages))


def test_a_template_within_an_older_vocabulary_leaves_its_control_tokens_out(llama_2, tokenizer):
    template: Template = WAVE["openassistant"][0]
    assert template.within(tokenizer) is template
    old = template.within(llama_2)
    assert old.user == "{instruction}{eos}" and old.cue == "" and render(old, [Message("user", "x")], llama_2).ids
