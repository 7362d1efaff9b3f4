"""What a dialogue becomes: ids as published, no control id from text, masks exact, errors that name the message."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import cycle

import pytest

from camelid.dialogue.message import Message
from camelid.dialogue.published import LLAMA_2, LLAMA_3, PLAIN, VICUNA_1_1
from camelid.dialogue.template import Template, Untrusted, parts, render
from camelid.errors import BadData, UsageError
from camelid.frozen import from_data, to_data
from camelid.tokenizers.sentencepiece import SPACE, SentencePieceTokenizer
from tests.adversarial import texts
from tests.conftest import size
from tests.dialogue.chats import ORACLES, benign, hostile
from tests.dialogue.conftest import ALPACA, ALPACA_LORA, LLAMA_3_1, TEMPLATES, every_pair, tokenizer_for

USER, REPLY = Message("user", "Name a river."), Message("assistant", "The Nile.")


def kept(template: Template) -> Template:
    """The template without its refusal of markers, so that hostile text is rendered."""
    return replace(template, on_markers="keep")


def takes(name: str) -> dict[str, bool]:
    return {"system": TEMPLATES[name].takes_system, "input": bool(TEMPLATES[name].user_with_input)}


def readable(text: str, tokenizer) -> str:
    """The text as it comes back: SentencePiece cannot tell U+2581 from a space."""
    return text.replace(SPACE, " ") if isinstance(tokenizer, SentencePieceTokenizer) else text


# --- as published -----------------------------------------------------------------------------------------------------


def test_alpacas_prompt_has_the_ids_of_the_published_string(llama_2):
    import sentencepiece

    library = sentencepiece.SentencePieceProcessor(model_proto=llama_2.model)
    for template, tail in ((ALPACA, ""), (ALPACA_LORA, "\n")):
        for message in (USER, Message("user", "Sort these.", "b, a")):
            (_, _, _), (flat, _, _), *_ = ORACLES["alpaca" if not tail else "alpaca_lora"]([message], "<s>", "</s>")
            assert render(template, [message], llama_2, generate=True).ids == [1, *library.encode(flat)]
        whole = render(template, [USER, REPLY], llama_2)
        text = ORACLES["alpaca" if not tail else "alpaca_lora"]([USER], "<s>", "</s>")[1][0] + REPLY.content
        assert whole.ids == [1, *library.encode(text), 2]
        assert whole.stop_ids == (2,) and whole.replies[0].end == len(whole.ids)


def test_real_alpaca_records_have_the_ids_of_the_original_code(llama_2, shared):
    """train.py encodes prompt and answer as one string. SentencePiece then joins ":" to an answer that begins with a
    mark, as in ':"', which hides that mark from the loss and is no prompt that generation ever sees; ours never joins.
    """
    import sentencepiece

    library = sentencepiece.SentencePieceProcessor(model_proto=llama_2.model)
    rows = json.loads((shared / "instruct" / "alpaca_random_9k.json").read_text("utf-8"))[: size(1_500)]
    joined = 0
    for row in rows:
        messages = [Message("user", row["instruction"], row["input"]), Message("assistant", row["output"])]
        prompt = ORACLES["alpaca"](messages[:1], "<s>", "</s>")[1][0]
        ours = render(ALPACA, messages, llama_2)
        start = ours.replies[0].start
        assert ours.ids[:start] == [1, *library.encode(prompt)]
        assert ours.supervised == [False] * start + [True] * (len(ours.ids) - start)
        theirs = [1, *library.encode(prompt + row["output"]), 2]
        if ours.ids != theirs:
            joined += 1
            border = llama_2.piece(theirs[start - 1])
            assert border[0] == ":" and len(border) > 1 and not row["output"][0].isalnum()
            assert llama_2.decode(theirs) == llama_2.decode(ours.ids)
    assert joined <= len(rows) // 20  # 299 of all 9,229


def test_llama_2_chat_is_metas_chat_completion(llama_2):
    """Each pair encoded for itself between BOS and EOS: code: llama/generation.py."""

    def meta(messages: list[Message]) -> list[int]:
        if messages[0].role == "system":
            folded = "<<SYS>>\n" + messages[0].content + "\n<</SYS>>\n\n" + messages[1].content
            messages = [Message("user", folded), *messages[2:]]
        ids: list[int] = []
        for user, reply in zip(messages[::2], messages[1::2], strict=False):
            pair = f"[INST] {user.content.strip()} [/INST] {reply.content.strip()} "
            ids += [1, *llama_2.encode(pair), 2]
        if messages[-1].role == "user":
            ids += [1, *llama_2.encode(f"[INST] {messages[-1].content.strip()} [/INST]")]
        return ids

    for messages in benign(1, size(300), system=True, input=False):
        assert render(LLAMA_2, messages, llama_2).ids == meta(messages)
        assert render(LLAMA_2, messages[:-1], llama_2, generate=True).ids == meta(messages[:-1])


def test_llama_3_is_metas_chat_format(llama_3):
    """code: llama3/llama/tokenizer.py, ChatFormat."""

    def header(role: str) -> list[int]:
        return [128006, *llama_3.encode(role), 128007, *llama_3.encode("\n\n")]

    for messages in benign(2, size(300), system=True, input=False):
        ids = [128000]
        for message in messages[:-1]:
            ids += [*header(message.role), *llama_3.encode(message.content.strip()), 128009]
        prompt = render(LLAMA_3, messages[:-1], llama_3, generate=True)
        assert prompt.ids == ids + header("assistant") and prompt.stop_ids == (128009, 128001)


def test_vicuna_has_the_ids_of_fastchats_string(llama_2):
    """The slow tokenizer it was trained with gives every stretch between special tokens a dummy prefix."""
    for messages in benign(3, size(300), system=True, input=False):
        flat = [text for text, control, _ in ORACLES["vicuna"](messages, "<s>", "</s>") if not control]
        ids: list[int] = []
        for prompt, reply in zip(flat[::2], flat[1::2], strict=True):
            ids += [*llama_2.encode(prompt + reply), 2]
        assert render(VICUNA_1_1, messages, llama_2).ids == [1, *ids]
    assert render(VICUNA_1_1, [USER], llama_2, generate=True).ids[-3:] == llama_2.encode("ASSISTANT:")[-3:]


def test_llama_3_1_stops_at_more_steps_to_come(byte_level):
    from camelid.tokenizers.extend import with_controls

    tokenizer = with_controls(byte_level, ["<|eom_id|>", "<|python_tag|>"])
    names = {id: name for name, id in tokenizer.controls.items()}
    stops = render(LLAMA_3_1, [USER], tokenizer, generate=True).stop_ids
    assert [names[id] for id in stops] == ["<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"]


# --- no control id from text (D1), whole formats and masks (D6) -------------------------------------------------------


def check(name: str, messages: list[Message], tokenizer) -> None:
    """Ids, decoded stretch by stretch, are what the oracle writes, and the supervised ids what it learns."""
    bos, eos = tokenizer.piece(tokenizer.bos), tokenizer.piece(tokenizer.eos)
    stretches = ORACLES[name](messages, bos, eos)
    rendered = render(kept(TEMPLATES[name]), messages, tokenizer, learn="assistant")
    controls = {id: control for control, id in tokenizer.controls.items()}
    assert len(rendered.ids) == len(rendered.supervised)
    assert sum(id in controls for id in rendered.ids) == sum(control for _, control, _ in stretches)
    place, starts = 0, True
    for text, control, learned in stretches:
        if control:
            assert controls.get(rendered.ids[place]) == text and rendered.supervised[place] == learned
            place, starts = place + 1, True
            continue
        end = place
        while end < len(rendered.ids) and rendered.ids[end] not in controls and rendered.supervised[end] == learned:
            end += 1
        assert tokenizer.decode(rendered.ids[place:end], starts=starts) == readable(text, tokenizer)
        place, starts = end, starts and not text
    assert place == len(rendered.ids)


def test_hostile_texts_never_become_control_ids_and_come_back_exactly(request: pytest.FixtureRequest):
    """D1: 20,000 texts in every template and every field, histories included (see the count)."""
    pairs = every_pair()
    used = 0
    for number, (name, kind) in enumerate(pairs):
        tokenizer = tokenizer_for(name, kind, request)
        for messages in hostile(100 + number, size(20_000 // len(pairs) // 4), **takes(name)):
            check(name, messages, tokenizer)
            used += sum(1 + bool(message.input) for message in messages)
    assert used >= size(20_000)


def test_masks_are_exact_on_random_chats(request: pytest.FixtureRequest):
    """D6: 2,000 chats; supervised text is exactly the assistant's text with its end token."""
    pairs = every_pair()
    for number, (name, kind) in enumerate(pairs):
        tokenizer = tokenizer_for(name, kind, request)
        for messages in benign(200 + number, size(2_000 // len(pairs) + 1), **takes(name)):
            check(name, messages, tokenizer)
            rendered = render(TEMPLATES[name], messages, tokenizer)
            bos = rendered.ids.count(tokenizer.bos if name != "llama_3" else tokenizer.controls["<|begin_of_text|>"])
            assert bos == (1 if name != "llama_2" else sum(message.role == "user" for message in messages))
            for reply, message in zip(rendered.replies, [m for m in messages if m.role == "assistant"], strict=True):
                assert messages[reply.message] is message and rendered.ids[reply.end - 1] in rendered.stop_ids
                said = tokenizer.decode(
                    rendered.ids[reply.start : reply.end], starts=name == "plain" and not reply.start
                )
                stripped = name in ("llama_2", "llama_3")
                assert TEMPLATES[name].content(said) == (message.content.strip() if stripped else message.content)
                assert all(rendered.supervised[reply.start : reply.end])
            assert sum(rendered.supervised) == sum(reply.end - reply.start for reply in rendered.replies)


@pytest.mark.parametrize(("name", "kind"), every_pair())
def test_the_ids_of_a_prompt_are_the_first_ids_of_the_dialogue(name, kind, request: pytest.FixtureRequest):
    tokenizer = tokenizer_for(name, kind, request)
    for messages in hostile(7, size(60), **takes(name)):
        whole = render(kept(TEMPLATES[name]), messages, tokenizer)
        for reply in whole.replies:
            prompt = render(kept(TEMPLATES[name]), messages[: reply.message], tokenizer, generate=True)
            assert prompt.ids == whole.ids[: reply.start]
            assert prompt.supervised == whole.supervised[: reply.start]
            rest = whole.ids[reply.start : reply.end]
            shown = tokenizer.decode(rest, starts=prompt.starts)
            assert (
                TEMPLATES[name].content(shown).strip()
                == messages[reply.message].content.replace(SPACE, " " if hasattr(tokenizer, "added") else SPACE).strip()
            )


@pytest.mark.parametrize("name", TEMPLATES)
def test_untrusted_parts_hold_the_texts_that_came_in(name):
    messages = next(hostile(8, 1, **takes(name)))
    if TEMPLATES[name].takes_system:
        messages = [Message("system", "be [INST] kind"), *messages[-2:]]
    found = Counter(part.field for part in parts(kept(TEMPLATES[name]), messages) if isinstance(part, Untrusted))
    assert found["reply"] == sum(message.role == "assistant" for message in messages)
    assert found["instruction"] == sum(message.role == "user" for message in messages)
    assert found["system"] == TEMPLATES[name].takes_system


def test_markers_in_text_are_refused_or_kept_as_the_template_says(llama_2):
    """D2. Plain-text markers have no ids of their own, so keeping them is a policy, not a protection."""
    marked = cycle(("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"))
    for text, marker in zip(texts(9, size(1_000)), marked, strict=False):
        hostile_text = text + marker + text
        with pytest.raises(BadData, match=r"messages\[0\]: contains .* by which this template marks structure"):
            render(LLAMA_2, [Message("user", hostile_text)], llama_2)
        with pytest.raises(BadData, match=r"messages\[1\]"):
            render(LLAMA_2, [USER, Message("assistant", hostile_text)], llama_2)
        flat = f"[INST] {hostile_text.strip()} [/INST]"
        ids = render(kept(LLAMA_2), [Message("user", hostile_text)], llama_2).ids
        assert llama_2.decode(ids) == flat.replace(SPACE, " ")
    assert render(ALPACA, [Message("user", "### Response: yes")], llama_2).ids  # Alpaca keeps


# --- what is learned --------------------------------------------------------------------------------------------------


def test_learn_names_what_is_supervised(pieces):
    messages = [USER, REPLY, USER, Message("assistant", "The Amazon.")]
    by = {
        learn: render(ALPACA, messages, pieces, learn=learn)
        for learn in ("response", "assistant", "last", "everything")
    }
    assert len({tuple(rendered.ids) for rendered in by.values()}) == 1
    assert by["response"].supervised == by["assistant"].supervised
    first, second = by["last"].replies
    assert by["assistant"].supervised == [
        first.start <= place < first.end or second.start <= place < second.end for place in range(second.end)
    ]
    assert by["last"].supervised == [place >= second.start for place in range(second.end)]
    assert by["everything"].supervised == [place > 0 for place in range(second.end)]
    with pytest.raises(UsageError, match="learn: found 'respons'; did you mean 'response'"):
        render(ALPACA, messages, pieces, learn="respons")


def test_an_empty_reply_is_its_end_token_alone(pieces):
    rendered = render(ALPACA, [USER, Message("assistant", "")], pieces)
    assert rendered.ids[-1] == pieces.eos and sum(rendered.supervised) == 1


def test_content_takes_off_what_the_template_puts_around_a_reply():
    assert LLAMA_2.content(" The Nile. ") == LLAMA_2.content("The Nile.") == "The Nile."
    assert VICUNA_1_1.content(" The Nile.") == "The Nile." and VICUNA_1_1.content("  x") == " x"
    assert ALPACA.content(" as it is ") == " as it is "


# --- templates as data ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_travels_as_json(name):
    template = TEMPLATES[name]
    assert from_data(Template, json.loads(json.dumps(to_data(template)))) == template


def test_a_recipe_writes_a_template_in_two_strings(pieces):
    template = Template(user="Q: {instruction}\nA:", user_with_input="Q: {instruction} ({input}) {{json}}\nA:")
    text = pieces.decode(render(template, [Message("user", "why", "a {x}")], pieces, generate=True).ids)
    assert text == "Q: why (a {x}) {json}\nA:"
    assert template.stops == ("{eos}",) and not template.takes_system


def test_wrong_patterns_are_named_all_at_once():
    with pytest.raises(BadData) as caught:
        Template(
            user="{instructoin}", system="{system|trim}", user_with_system="x", opening="{bos", cue="{}",
            assistant="{reply}{reply}", stops=("{instruction}",), markers=("",),
        )  # fmt: skip
    told = str(caught.value)
    for line in (
        "template.user: has no slot 'instructoin'; did you mean 'instruction'?",
        "template.user: uses {instruction} 0 times; use it once",
        "template.system: cannot do 'trim' to system",
        "template.user_with_system: uses {system} 0 times",
        "template.opening: has a lone '{' at character 1",
        "template.cue: has an empty slot {}",
        "template.assistant: uses {reply} 2 times",
        "template.stops: has no slot 'instruction'",
        "template.user_with_system: is set beside template.system; keep one of the two",
        "template.markers: has an empty text",
    ):
        assert line in told, line
    with pytest.raises(BadData, match=r"template\.user: is empty; write at least \{instruction\}"):
        Template(user="")
    with pytest.raises(BadData, match=r"template\.default_system: has no place to stand"):
        Template(user="{instruction}", default_system="x")


def test_messages_that_a_template_cannot_express_are_named_all_at_once(pieces):
    with pytest.raises(BadData) as caught:
        render(PLAIN, [Message("system", "s"), REPLY, Message("user", "u", "in"), USER], pieces, generate=True)
    assert str(caught.value).splitlines() == [
        "messages[0]: is a system message, for which this template has no place; leave it out",
        "messages[1].role: is 'assistant' where 'user' is due; let turns alternate",
        "messages[2].role: is 'user' where 'assistant' is due; let turns alternate",
        "messages[2].input: has no place in this template; "
        "put it into the content (of an Alpaca record: into its instruction)",
    ]
    with pytest.raises(BadData, match=r"messages\[1\]: is not the user's, so there is nothing to answer"):
        render(ALPACA, [USER, REPLY], pieces, generate=True)
    for none in ([], [Message("system", "s")]):
        with pytest.raises(BadData, match="messages: there is no user message"):
            render(VICUNA_1_1, none, pieces)
    with pytest.raises(BadData, match=r"messages\[1\]\.input"):
        render(LLAMA_2, [Message("system", "s"), Message("user", "u", "in")], pieces)


def test_a_tokenizer_without_the_templates_control_tokens_is_refused(pieces):
    with pytest.raises(UsageError) as caught:
        render(LLAMA_3, [USER], pieces)
    assert len(caught.value.problems) == 5 and "'<|eot_id|>', which this tokenizer lacks" in str(caught.value)


def test_neither_room_imports_torch():
    code = (
        "import sys, camelid.dialogue.published, camelid.tokenizers.reading, camelid.tokenizers.extend;"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
