"""Llama 3's tool calls: prompts as published, calls read and written, and no control id from anything anybody wrote."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camelid.dialogue.jinja import jinja
from camelid.dialogue.message import Message
from camelid.dialogue.published import LLAMA_3_1, LLAMA_3_2
from camelid.dialogue.template import Template, render
from camelid.dialogue.tools import (
    BUILTIN,
    CODE,
    TAG,
    Call,
    Tool,
    check_tools,
    environment,
    heard,
    offered,
    offered_3_2,
    read,
    tools_of,
    written,
)
from camelid.errors import BadData
from camelid.tokenizers.byte_bpe import LLAMA_3_1_CONTROLS, ByteBPETokenizer
from camelid.tokenizers.extend import with_controls
from tests.adversarial import texts
from tests.conftest import size
from tests.dialogue.conftest import LLAMA_3_NAMES, opened  # noqa: F401
from tests.dialogue.test_jinja import as_objects, flat
from tests.tokenizers.conftest import byte_level, llama_3, pieces  # noqa: F401

NAMES = (*LLAMA_3_NAMES, "<|eom_id|>", TAG)
WEATHER = Tool("get_weather", "The weather in a town", {"type": "object", "properties": {"town": {"type": "string"}}})


@pytest.fixture(scope="session", params=["byte_level", "pieces", "llama_3"])
def tokenizer(request: pytest.FixtureRequest):
    found = request.getfixturevalue(request.param)
    if request.param == "llama_3":
        return ByteBPETokenizer.from_tokens(
            found.tokens, controls=dict(zip(LLAMA_3_1_CONTROLS, range(128_000, 128_256), strict=True))
        )
    return with_controls(found, NAMES)


# --- as published -----------------------------------------------------------------------------------------------------


def spelled(ids: list[int], tokenizer) -> str:
    """Ids as text with the names of control tokens, as the published examples are printed."""
    names = {id: name for name, id in tokenizer.controls.items()}
    out, run, starts = "", [], True
    for id in [*ids, -1]:
        if id in names or id == -1:
            out += tokenizer.decode(run, starts=starts) + names.get(id, "")
            run, starts = [], True
        else:
            run.append(id)
    return out


def test_the_builtin_search_is_prompted_as_published(tokenizer) -> None:
    """prompt_format.md, "Builtin Tool Calling"."""
    system = environment("You are a helpful assistant.", builtin=BUILTIN[:2], today="21 September 2024")
    asked = [Message("system", system), Message("user", "Search the web for the latest price of 1oz gold?")]
    assert spelled(render(LLAMA_3_1, asked, tokenizer, generate=True).ids, tokenizer) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython\nTools: brave_search, "
        "wolfram_alpha\nCutting Knowledge Date: December 2023\nToday Date: 21 September 2024\n\nYou are a helpful "
        "assistant.\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nSearch the web for the latest price of 1oz "
        "gold?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_a_whole_interaction_with_a_builtin_tool_is_as_published(tokenizer) -> None:
    """prompt_format.md, "Built-in tools full interaction" (its result abridged)."""
    call = Call("wolfram_alpha", {"query": "100th decimal of pi"}, "builtin")
    told = [
        Message("system", environment(builtin=BUILTIN[:2])),
        Message("user", "What is the 100th decimal of pi?"),
        Message("call", written(call)),
        Message("ipython", '\n{\n    "queryresult": {\n        "success": true\n    }\n}\n'),
    ]
    rendered = render(LLAMA_3_1, told, tokenizer, generate=True)
    assert spelled(rendered.ids, tokenizer) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython\nTools: brave_search, "
        "wolfram_alpha\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWhat is the 100th decimal of pi?<|eot_id|>"
        '<|start_header_id|>assistant<|end_header_id|>\n\n<|python_tag|>wolfram_alpha.call(query="100th decimal of pi")'
        "<|eom_id|><|start_header_id|>ipython<|end_header_id|>\n\n\n{\n    \"queryresult\": {\n        \"success\": true\n"
        "    }\n}\n<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )  # fmt: skip
    reply = rendered.replies[0]
    learned = [id for id, taught in zip(rendered.ids, rendered.supervised, strict=True) if taught]
    assert learned == rendered.ids[reply.start : reply.end] and spelled(learned, tokenizer).endswith(")<|eom_id|>")
    assert heard(learned, tokenizer).calls == (call,)


def test_every_environment_is_one_of_the_published_kind() -> None:
    """prompt_format.md and text_prompt_format.md: code interpreter, with and without dates; the last is ours."""
    assert environment() == "Environment: ipython"
    dates = "Cutting Knowledge Date: December 2023\nToday Date: 24 September 2024\n"
    assert environment(today="24 September 2024") == f"Environment: ipython\n\n{dates}"
    assert environment("Be brief.") == "Environment: ipython\n\nBe brief.\n"


def test_functions_of_ones_own_are_offered_as_published(tokenizer) -> None:
    """prompt_format.md, "JSON based tool calling"; its odd list of properties is kept."""
    properties = [
        {"n": {"type": "object", "description": "The number of songs to return"}},
        {"genre": {"type": "object", "description": "The genre of the songs to return"}},
    ]
    tool = Tool(
        "trending_songs", "Returns the trending songs on a Music site",
        {"type": "object", "properties": properties, "required": ["n"]},
    )  # fmt: skip
    asked = [
        Message("system", environment("You are a helpful assistant.", today="21 September 2024")),
        Message("tools", offered([tool])),
        Message("user", "Use tools to get latest trending songs"),
    ]
    found = spelled(render(LLAMA_3_1, asked, tokenizer, generate=True).ids, tokenizer)
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    published = json.dumps({"type": "function", "function": function}, indent=4)
    assert found == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython\n\nCutting Knowledge Date: "
        "December 2023\nToday Date: 21 September 2024\n\nYou are a helpful assistant.\n<|eot_id|><|start_header_id|>user"
        "<|end_header_id|>\n\nAnswer the user's question by making use of the following functions if needed.\nIf none of "
        "the function can be used, please say so.\nHere is a list of functions in JSON format:\n" + published + "\n\n"
        "Return function calls in JSON format.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nUse tools to get "
        "latest trending songs<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    said = json.dumps(
        {"type": "function", "name": "trending_songs", "parameters": {"n": "10", "genre": "all"}}, indent=4
    )
    assert read(said, tagged=True).calls == (Call("trending_songs", {"n": "10", "genre": "all"}),)


def test_llama_3_2s_lists_are_as_published(tokenizer) -> None:
    """text_prompt_format.md, "Zero shot function calling E2E format"."""
    needs = {
        "type": "dict", "required": ["city"],
        "properties": {
            "city": {"type": "string", "description": "The name of the city to get the weather for"},
            "metric": {
                "type": "string", "description": "The metric for weather. Options are: celsius, fahrenheit",
                "default": "celsius",
            },
        },
    }  # fmt: skip
    system = offered_3_2([Tool("get_weather", "Get weather info for places", needs)])
    call = Call("get_weather", {"city": "San Francisco", "metric": "celsius"}, "python")
    told = [
        Message("system", system), Message("user", "What is the weather in SF?"), Message("call", written(call)),
        Message("ipython", '"25 C"'),
    ]  # fmt: skip
    found = spelled(render(LLAMA_3_2, told, tokenizer, generate=True).ids, tokenizer)
    assert found.startswith(
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nYou are an expert in composing"
    )
    assert (
        system.count("\n") == 32 and '[\n    {\n        "name": "get_weather",\n        "description": "Get' in system
    )
    assert found.endswith(
        "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWhat is the weather in SF?<|eot_id|><|start_header_id|>"
        'assistant<|end_header_id|>\n\n<|python_tag|>[get_weather(city="San Francisco", metric="celsius")]<|eot_id|>'
        '<|start_header_id|>ipython<|end_header_id|>\n\n"25 C"<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n'
    )
    several = "[get_weather(city='San Francisco', metric='celsius'), get_weather(city='Seattle', metric='celsius')]"
    assert [call.arguments["city"] for call in read(several).calls] == ["San Francisco", "Seattle"]


@pytest.mark.parametrize("kind", ["byte_level", "pieces"])
def test_the_chat_template_says_the_same_in_transformers(kind, request: pytest.FixtureRequest, opened) -> None:  # noqa: F811
    tokenizer = with_controls(request.getfixturevalue(kind), NAMES)
    theirs = opened(tokenizer)
    for template, tools in ((LLAMA_3_1, True), (LLAMA_3_2, False)):
        theirs.chat_template = jinja(template, tokenizer)
        for messages in conversations(5, size(15), tools=tools, said=lambda: "The camel's 3 walks: né?\n"):
            text = theirs.apply_chat_template(as_objects(messages), tokenize=False)
            assert text == flat(template, messages, tokenizer, generate=False)
            if messages[-1].role in ("user", "ipython"):
                text = theirs.apply_chat_template(as_objects(messages), tokenize=False, add_generation_prompt=True)
                assert text == flat(template, messages, tokenizer, generate=True)
        for wrong in ([Message("call", "x")], [Message("user", "a"), Message("ipython", "b")]):
            with pytest.raises(BadData):
                render(template, wrong, tokenizer)
            with pytest.raises(Exception, match="take turns"):
                theirs.apply_chat_template(as_objects(wrong), tokenize=False)


# --- D1: nothing anybody wrote becomes a control id -------------------------------------------------------------------


def conversations(seed: int, count: int, *, tools: bool, said) -> Iterator[list[Message]]:
    draw = random.Random(seed)
    for _ in range(count):
        messages = [Message("system", said())] if draw.random() < 0.5 else []
        if tools and draw.random() < 0.7:
            messages.append(Message("tools", said()))
        for _ in range(draw.randint(1, 3)):
            messages.append(Message("user", said()))
            for _ in range(draw.randint(0, 2)):
                messages += [Message("call", said()), Message("ipython", said())]
            messages.append(Message("assistant", said()))
        yield messages[: draw.choice([len(messages), -1]) or None]


@pytest.mark.parametrize("template", [LLAMA_3_1, LLAMA_3_2], ids=["3.1", "3.2"])
def test_hostile_names_arguments_and_results_never_become_control_ids(template: Template, tokenizer) -> None:
    """Every field is hostile: descriptions, calls, results; control ids are exactly those of the structure."""
    source, draw = texts(11, 10**9), random.Random(3)
    controls = set(tokenizer.controls.values())
    count = size(400)
    for messages in conversations(9, count, tools=bool(template.tools), said=lambda: next(source)):
        messages = [
            Message("tools", offered([Tool("f", message.content, {"properties": {next(source): next(source)}})]))
            if message.role == "tools"
            else Message("call", written(Call("f", {next(source): next(source)}, draw.choice(["json", "tag"]))))
            if message.role == "call" and draw.random() < 0.5
            else message
            for message in messages
        ]
        rendered = render(template, messages, tokenizer)
        structure = 1 + sum(4 if message.role == "call" else 3 for message in messages)
        assert sum(id in controls for id in rendered.ids) == structure
        for reply in rendered.replies:
            message = messages[reply.message]
            ids = rendered.ids[reply.start : reply.end]
            assert [id in controls for id in ids].count(True) == (2 if message.role == "call" else 1)
            found = heard(ids, tokenizer)
            if message.role == "call" and message.content.startswith(('{"type"', "<function=f>")) and not found.wrong:
                start = message.content.index("{", int(message.content[0] == "<"))
                kept = json.loads(message.content[start:].removesuffix("</function>"))
                exact = kept.get("parameters", kept) if message.content[0] == "{" else kept
                assert [dict(call.arguments) for call in found.calls] == [exact]


def test_the_tag_written_as_text_is_text(tokenizer) -> None:
    ids = tokenizer.encode('<|python_tag|>brave_search.call(query="x")', starts=False)
    assert heard(ids, tokenizer).calls == ()
    assert heard(ids, tokenizer).text == '<|python_tag|>brave_search.call(query="x")'
    marked = [tokenizer.controls[TAG], *tokenizer.encode('brave_search.call(query="x")', starts=False)]
    assert heard(marked, tokenizer).calls == (Call("brave_search", {"query": "x"}, "builtin"),)


# --- reading and writing ----------------------------------------------------------------------------------------------

ANY = st.characters(codec="utf-8")
NUMBERS = st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False)
LEAVES = st.none() | st.booleans() | NUMBERS | st.text(ANY, max_size=12)
INNER = LEAVES | st.lists(LEAVES, max_size=3) | st.dictionaries(st.text(ANY, max_size=6), LEAVES, max_size=3)
VALUES = INNER | st.lists(INNER, max_size=3) | st.dictionaries(st.text(ANY, max_size=6), INNER, max_size=3)
WORDS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,12}", fullmatch=True).filter(
    lambda name: name not in ("None", "True", "False")
)


@given(WORDS, st.dictionaries(WORDS, VALUES, max_size=4), st.sampled_from(["json", "tag", "python"]))
@settings(max_examples=size(300), deadline=None)
def test_what_is_written_is_heard_again(name: str, arguments: dict, form) -> None:
    from keyword import iskeyword

    call = Call(name, arguments, form)
    if form == "python" and any(map(iskeyword, (name, *arguments))):
        return
    tagged = form != "tag"
    assert read(written(call), tagged=tagged).calls == (call,)


@pytest.mark.parametrize(
    ("text", "tagged", "wrong"),
    [
        ('{"name": "f", "parameters": {', True, "a call that brackets do not match"),
        ('{"name": "f", "name": "g", "parameters": {}}', True, "appears twice"),
        ('{"name": "f", "parameters": {"x": NaN}}', True, "not strict JSON"),
        ('{"name": "f"}', True, "without exactly a name and parameters"),
        ('{"name": "f", "parameters": [1]}', False, "parameters are no object"),
        ('{"name": "../f", "parameters": {}}', False, "which is no name"),
        ('{"name": 3, "parameters": {}}', False, "which is no name"),
        ('{"name": "f", "parameters": ' + '{"a": ' * 40 + "1" + "}" * 41, True, "brackets"),
        ('<function=f>{"x": }</function>', False, "not strict JSON"),
        ("", True, "a call of nothing"),
        ("x" * 70_000, True, "a call of 70000 characters"),
        ('{"name": "other", "parameters": {}}', False, "calls 'other', which was not offered"),
    ],
)
def test_what_looks_like_a_call_and_is_none_is_told_once_and_never_called(text: str, tagged: bool, wrong: str) -> None:
    found = read(text, tagged=tagged, known=["f", "get_weather"])
    assert found.calls == () and wrong in found.wrong and found.text == text


@pytest.mark.parametrize(
    "text",
    [
        "It is 25 C.", '{"temperature": 25}', "[1, 2, 3]", "[f(x)]", "[f(**{'a': 1})]", "[f(a=1), 2]", "[f(a=g(1))]", "[]",
        "[f(a=__import__('os'))]", 'brave_search.call(query="x")', "<function=f>none</function>", "[" * 500 + "]" * 500,
        "[f(a=" + "(" * 30 + "1" + ")" * 30 + ")]", '{"name": "f", "parameters": {', "[f(a=1j)]", "[f(a=b'x')]", "x" * 70_000,
    ],
)  # fmt: skip
def test_what_is_no_call_stays_text(text: str) -> None:
    assert read(text) == read(text, known=["f"])
    assert (read(text).text, read(text).calls, read(text).wrong) == (text, (), "")


def test_after_the_tag_what_is_no_other_call_is_code() -> None:
    for text in ("print(7)", "[f(x)]", 'shell.call(query="x")', "[" * 40 + "]" * 40):
        assert read(text, tagged=True).calls == (Call(CODE, {"code": text}, "code"),)
    assert written(read("print(7)", tagged=True).calls[0]) == "print(7)"


@given(st.text(st.sampled_from('{}[]()"\\,:= fname<>/0.e-\n') | st.characters(), max_size=60), st.booleans())
@settings(max_examples=size(600), deadline=None)
def test_any_text_at_all_is_read_without_a_fault(text: str, tagged: bool) -> None:
    found = read(text, tagged=tagged)
    assert found.calls or found.text == text
    assert not (found.calls and found.wrong)


def test_wrong_tools_and_calls_are_named_all_at_once() -> None:
    with pytest.raises(BadData) as caught:
        check_tools([Tool("a b"), WEATHER, WEATHER, Tool("brave_search"), Tool("x", "", {"a": float("nan")})])
    assert [problem.where for problem in caught.value.problems] == [
        "tools[0].name", "tools[2].name", "tools[3].name", "tools[4].parameters"
    ]  # fmt: skip
    with pytest.raises(BadData, match=r"tools\[1\]: is no function"):
        tools_of([{"name": "f"}, {"name": 3}])
    with pytest.raises(BadData, match="tools: is no list"):
        tools_of({"name": "f"})
    openai = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}]
    assert tools_of(openai) == (Tool("f", "d", {"type": "object"}),)
    for call, told in (
        (Call("brave_search", {"query": 'a"b'}, "builtin"), "quotation mark"),
        (Call("brave_search", {"q": "a"}, "builtin"), "give the text 'query' alone"),
        (Call("f", {"a b": 1}, "python"), "Python cannot write"),
        (Call("f\n", {}, "json"), "is no name"),
        (Call("f", {"a": object()}, "json"), "JSON"),
    ):
        with pytest.raises(BadData, match=told):
            written(call)


def test_a_template_with_half_of_tool_calls_is_refused() -> None:
    with pytest.raises(BadData, match=r"template\.call: and template\.result go together"):
        Template(user="{instruction}", call="{call}")
    with pytest.raises(BadData, match=r"template\.tools: is set without template\.call"):
        Template(user="{instruction}", tools="{tools}")
