from __future__ import annotations

import gzip
import io
import json
import os
import random
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camelid.data import json_array, rows, source
from camelid.data.cache import from_dialogues
from camelid.data.formats import Fields
from camelid.data.json_array import Broken, elements
from camelid.data.source import Rejected, dialogues, documents, recognise, records
from camelid.dialogue.message import Message
from camelid.dialogue.published import VICUNA_1_1
from camelid.dialogue.template import render
from camelid.errors import BadData, BadFile, CamelidError
from tests.conftest import size
from tests.data.stand_ins import ByteTokenizer

GOOD = {"instruction": "Name a fruit.", "input": "", "output": "Pear."}
ASKED, ANSWERED = Message("user", "Name a fruit."), Message("assistant", "Pear.")


def written(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def lines(*values: object) -> str:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


# --- real files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "format", "count"),
    [
        ("instruct/alpaca_random_9k.json", "alpaca", 9_229),
        ("instruct/alpaca_zh_1k.json", "alpaca", 1_000),
        ("instruct/alpagasus_claude_t45.json", "alpaca", 5_305),
        ("instruct/huatuo_8k.json", "alpaca", 8_658),  # JSON lines, whatever it is called
        ("instruct/vicuna_dummy_conversation.json", "sharegpt", 500),
    ],
)
def test_real_dialogues_are_read_as_they_stand(shared: Path, name: str, format: str, count: int) -> None:
    path = shared / name
    raw = path.read_text(encoding="utf-8")
    plain = json.loads(raw) if raw.startswith("[") else [json.loads(line) for line in raw.splitlines()]
    found = list(dialogues(path))
    assert recognise(path) == format
    assert len(found) == len(plain) == count
    for dialogue, record in zip(found, plain, strict=True):
        if format == "alpaca":
            expected = [Message("user", record["instruction"], record["input"]), Message("assistant", record["output"])]
        else:
            roles = {"human": "user", "gpt": "assistant"}
            expected = [Message(roles[turn["from"]], turn["value"]) for turn in record["conversations"]]
        assert dialogue == expected


@pytest.mark.parametrize(
    ("name", "count"), [("c4_300.jsonl", 300), ("wiki_30.txt", 30), ("tinyshakespeare.txt", 32_777)]
)
def test_real_texts_are_read_as_they_stand(shared: Path, name: str, count: int) -> None:
    path = shared / "pretrain" / name
    raw = path.read_text(encoding="utf-8")
    found = list(documents(path))
    assert len(found) == count
    if name.endswith("jsonl"):
        assert found == [json.loads(line)["text"] for line in raw.splitlines()]
    else:
        assert found == [line for line in raw.split("\n") if line]
        assert list(documents(path, text="file")) == [raw]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("instruct/oasst_en_100_trees.jsonl", "line 1: fields message_tree_id, tree_state, prompt: no known format"),
        ("instruct/self_instruct_seed_tasks.jsonl", "instances, is_classification: no known format"),
        ("preference/dpo_en_300.json", "row 1: fields conversations, chosen, rejected: 'chosen' makes it a preference"),
        ("preference/kto_en_300.json", "row 1: fields messages, label: a true or false 'label' makes it a verdict"),
        ("preference/stack_exchange_paired_tiny.json", "row 1: fields question, response_j, response_k: no known"),
    ],
)
def test_real_files_of_other_kinds_are_refused_with_their_fields(shared: Path, name: str, why: str) -> None:
    for read in (recognise, lambda path: list(dialogues(path))):
        with pytest.raises(BadData) as error:
            read(shared / name)
        assert why in str(error.value)
        assert "sharegpt (conversations)" in error.value.problems[0].remedy


def test_real_tool_calls_are_counted_one_by_one_or_left_out_by_request(shared: Path) -> None:
    path = shared / "instruct" / "glaive_toolcall_300.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    bad = [
        i
        for i, row in enumerate(raw, 1)
        if any(t["from"] not in ("human", "gpt", "system") for t in row["conversations"]) or row["tools"] != "[]"
    ]
    assert 153 < len(bad) < 300, "some call functions, others only offer them"
    with pytest.raises(BadData) as error:
        list(dialogues(path))
    head, *each, rest = error.value.problems
    assert f"{len(bad)} of 300 rows cannot be used" in head.found
    assert [problem.where for problem in each] == [f"{path}, row {number}" for number in bad[: source.SHOWN]]
    assert rest.found == f"and {len(bad) - source.SHOWN} more"
    rejected = Rejected()
    kept = list(dialogues(path, bad_rows="skip", rejected=rejected))
    assert (len(kept), rejected.count) == (300 - len(bad), len(bad))


# --- formats --------------------------------------------------------------------------------------------------------


def test_each_format_gives_the_same_dialogue(tmp_path: Path) -> None:
    forms = {
        "alpaca": {"instruction": "Add.", "input": "1 2", "output": "3"},
        "sharegpt": {"conversations": [{"from": "human", "value": "Add."}, {"from": "gpt", "value": "3"}], "id": "x"},
        "messages": {"messages": [{"role": "user", "content": "Add."}, {"role": "assistant", "content": "3"}]},
    }
    for format, record in forms.items():
        path = written(tmp_path, f"{format}.jsonl", lines(record, record))
        assert recognise(path) == format
        asked = Message("user", "Add.", input="1 2" if format == "alpaca" else "")
        assert list(dialogues(path)) == [[asked, Message("assistant", "3")]] * 2


def test_a_dialogue_knows_where_it_was_read(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", "\n" + lines(GOOD) + "\n \n" + lines(GOOD))
    assert [dialogue.place for dialogue in dialogues(path)] == [f"{path}, line 2", f"{path}, line 5"]


def test_a_system_message_comes_first_from_wherever_the_format_keeps_it(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Name a fruit."}, {"from": "gpt", "value": "Pear."}]
    first = [{"from": "system", "value": "Be brief."}, *turns]
    path = written(
        tmp_path, "a.jsonl", lines({"conversations": turns, "system": "Be brief."}, {"conversations": first})
    )
    assert list(dialogues(path)) == [[Message("system", "Be brief."), ASKED, ANSWERED]] * 2
    path = written(tmp_path, "b.jsonl", lines({**GOOD, "system": "Be brief."}, {**GOOD, "system": None, "input": None}))
    assert list(dialogues(path)) == [[Message("system", "Be brief."), ASKED, ANSWERED], [ASKED, ANSWERED]]


def test_what_is_asked_for_decides_where_a_record_is_both_text_and_dialogue(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", lines({**GOOD, "text": "Below is an instruction."}))
    assert recognise(path) == "alpaca"
    assert list(documents(path)) == ["Below is an instruction."]
    assert list(dialogues(path)) == [[ASKED, ANSWERED]]
    both = {**GOOD, "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}
    path = written(tmp_path, "b.jsonl", lines(both))
    with pytest.raises(BadData, match="fit alpaca and messages; say which by format="):
        list(dialogues(path))
    assert list(dialogues(path, format="messages")) == [[Message("user", "Hi"), Message("assistant", "Ho")]]


TURN = {"from": "human", "value": "Hi"}
REPLY = {"from": "gpt", "value": "Ho"}


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"instruction": 3, "output": "x"}, "'instruction' is a number, not text"),
        ({"instruction": "x", "output": ["y"]}, "'output' is a list, not text"),
        ({"instruction": "x", "output": None}, "no known format; for alpaca, 'output' is missing"),
        ({"instruct": "x", "answer": "y"}, "expected instruction and output (alpaca), or conversations (sharegpt), or"),
        ({"instruct": "x", "answer": "y"}, "'instruct': did you mean 'instruction'?"),
        ({"instruction": " ", "output": "x"}, "'instruction' is empty, and there is no 'input': nothing is asked"),
        ({"instruction": "x", "input": {}, "output": "y"}, "'input' is an object, not text"),
        (
            {"instruction": "x", "output": "y", "history": [["a", "b"]]},
            "'history' makes it an Alpaca record with earlier",
        ),
        ({"conversations": []}, "'conversations' is empty"),
        ({"conversations": "x"}, "'conversations' is text, not a list"),
        ({"conversations": [TURN, 3]}, "turn 2 is a number, not an object"),
        (
            {"conversations": [TURN, {"from": "bot", "value": ""}]},
            "turn 2: 'from' is 'bot', not one of human, user, gpt",
        ),
        ({"conversations": [TURN, {"value": "x"}]}, "turn 2: 'from' is missing, not text"),
        ({"conversations": [TURN, {"from": "gpt", "value": True}]}, "turn 2: 'value' is a truth value, not text"),
        ({"conversations": [TURN]}, "no turn is the assistant's"),
        (
            {"conversations": [TURN, REPLY, {"from": "human", "value": " \n"}, REPLY]},
            "turn 3: 'value' of the human is empty: nothing is asked",
        ),
        (
            {"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": "Ho"}]},
            "turn 1: 'content' of the user is empty: nothing is asked",
        ),
        ({"conversations": [TURN, REPLY, {"from": "system", "value": "x"}]}, "turn 3 is the system's"),
        ({"conversations": [{"from": "system", "value": "x"}, TURN, REPLY], "system": "y"}, "turn 2 is the system's"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "turn 1: 'content' is a list, not text"),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "turn 1: 'role' is 'tool', not one of user, assistant, system",
        ),
        ({"conversations": [TURN, REPLY | {"weight": 0}]}, "every turn of the assistant has the weight 0"),
        ({"conversations": [TURN, REPLY | {"weight": 0.5}]}, "turn 2: 'weight' is 0.5, not 0 or 1"),
        ({"conversations": [TURN, REPLY | {"weight": True}]}, "turn 2: 'weight' is True, not 0 or 1"),
        ({"conversations": [TURN | {"weight": 1}, REPLY]}, "turn 1: 'weight' asks that a turn of the user is learned"),
        ({"conversations": [TURN, REPLY | {"train": False}]}, "turn 2: 'train' is False; write \"weight\": 0"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": [{}]}]},
            "turn 2: 'tool_calls' makes it a call of functions",
        ),
        (
            {"messages": [{"role": "assistant", "content": None, "function_call": {"name": "f"}}]},
            "turn 1: 'function_call' makes it a call of a function",
        ),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "turn 1: 'tool_call_id' makes it what"),
        ({"conversations": [TURN, REPLY], "tools": "[{}]"}, "'tools' makes it one in which functions may be called"),
        ({"conversations": [TURN, REPLY], "functions": [{}]}, "'functions' makes it one in which functions may be"),
        ({}, "no fields: no known format"),
        ({f"field {i}": 1 for i in range(20)}, "field 11 and 8 more: no known format"),
        ({"x" * 99: 1}, "x...: no known format"),
        ({"\x1b[2J": 1}, "fields '\\x1b[2J': no known format"),
        ({"text": "plain"}, "fields text: text, but the rows before are alpaca; one file, one format"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            "messages, but the rows before are alpaca",
        ),
        ([GOOD], "is a list, not an object"),
        ("text", "is text, not an object"),
    ],
)
def test_a_wrong_record_is_named_with_its_line_and_what_it_holds(tmp_path: Path, record: object, why: str) -> None:
    good = {**GOOD, "output": "Ho", "instruction": "Hi"}
    if isinstance(record, dict) and "conversations" in record:
        good = {"conversations": [TURN, REPLY]}
    elif isinstance(record, dict) and why.startswith("turn"):
        good = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}
    path = written(tmp_path, "a.jsonl", lines(good, record, good))
    with pytest.raises(BadData) as error:
        list(dialogues(path))
    said = str(error.value)
    assert why in said and f"{path}, line 2: " in said and f"{path}: 1 of 3 rows cannot be used" in said
    rejected = Rejected()
    assert (
        list(dialogues(path, bad_rows="skip", rejected=rejected))
        == [[Message("user", "Hi"), Message("assistant", "Ho")]] * 2
    )
    assert rejected.count == 1 and why in str(rejected.first[0])


def api(code: object, **more: object) -> dict[str, object]:
    return {"code": code, "api_call": "f()", "provider": "P", "api_data": {"name": "é", "n": 1.50}, **more}


ONE = "{'Instruction': Sort, quickly., 'Output': {'api_call': \"f('a')\", 'code': 'f('a')'}}"
OTHER = "###Instruction: Sort it.\n###Output: <<<domain>>>: Lists\n<<<api_call>>>: f('a')\n<<<code>>>: f('a')\n"


@pytest.mark.parametrize(
    ("code", "asked", "answer"),
    [
        (ONE, "Sort, quickly.", "{'api_call': \"f('a')\", 'code': 'f('a')'}"),
        (OTHER, "Sort it.", "<<<domain>>>: Lists\n<<<api_call>>>: f('a')\n<<<code>>>: f('a')"),
        ("{'Instruction': 'Sort.', 'Output':{'api_call': f()}}\n", "Sort.", "{'api_call': f()}"),
        ("{'Instruction': \"What's it?\", 'Output': {'api_call': f()}}", "What's it?", "{'api_call': f()}"),
        ("{'Instruction': \"A\" or \"B\", 'Output': {'api_call': f()}}", '"A" or "B"', "{'api_call': f()}"),
        (
            "{'Instruction': Say., 'Input': 'Hi', 'Output': {'api_call': f()}}",
            "Say.\n###Input: Hi",
            "{'api_call': f()}",
        ),
        ("{'Instruction': Say., 'Input': '<noinput>', 'Output': {'api_call': f()}}", "Say.", "{'api_call': f()}"),
    ],
)
def test_apibench_is_parted_into_the_request_and_the_answer(tmp_path: Path, code: str, asked: str, answer: str) -> None:
    path = written(tmp_path, "a.json", lines(api(code)))
    assert recognise(path) == "apibench"
    assert list(dialogues(path)) == [[Message("user", asked), Message("assistant", answer)]]
    (documented,) = dialogues(path, fields=Fields(input="api_data"))
    assert documented == [Message("user", asked, '{"name": "\\u00e9", "n": 1.5}'), Message("assistant", answer)]


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (api("Sort it."), "'code' is not of the form {'Instruction': ..., 'Output': {...}} or ###Instruction"),
        (api(ONE[:-1]), "'code' breaks off before its end"),
        (api(ONE[:30]), "'code' breaks off before its end"),
        (api(OTHER[:30]), "'code' breaks off before its end"),
        (api("###Instruction: Sort.\n###Output: {'api_call': f("), "'code' breaks off before its end"),
        (
            api("{'Instruction': Sort., 'Output': 'sorted'}"),
            "'code' has an answer without 'api_call': it calls nothing",
        ),
        (api("{'Instruction': , 'Output': {'api_call': f()}}"), "'code' has an empty request: nothing is asked"),
        (api(3), "'code' is a number, not text"),
        (api(ONE, api_data=None), "for apibench, 'api_data' is missing"),
    ],
)
def test_a_row_of_apibench_that_cannot_be_parted_is_named_with_its_field(
    tmp_path: Path, record: dict[str, object], why: str
) -> None:
    path = written(tmp_path, "a.json", lines(api(ONE), record))
    with pytest.raises(BadData) as error:
        list(dialogues(path))
    assert f"{path}, line 2: " in str(error.value) and why in str(error.value)


def test_a_field_is_shown_beside_one_request_or_the_row_is_named(tmp_path: Path) -> None:
    shown = Fields(input="manual")
    twice = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * 2
    path = written(tmp_path, "a.json", lines({**GOOD, "manual": "Fruit: pear."}, {**GOOD, "input": "Its own."}))
    assert [dialogue[0].input for dialogue in dialogues(path, fields=shown)] == ["Fruit: pear.", "Its own."]
    for bad, why in (
        (GOOD, "'manual' is missing, and there is no input"),
        ({**GOOD, "input": "Its own.", "manual": "x"}, "has both 'manual' and an input"),
    ):
        path = written(tmp_path, "b.json", lines({**GOOD, "manual": "x"}, bad))
        with pytest.raises(BadData, match=f"line 2: {why}"):
            list(dialogues(path, fields=shown))
    path = written(tmp_path, "c.json", lines({"messages": twice, "manual": "x"}))
    with pytest.raises(BadData, match="2 turns are the user's: 'manual' is shown beside one request alone"):
        list(dialogues(path, fields=shown))
    path = written(tmp_path, "d.json", lines({"prompt": "x"}))
    with pytest.raises(BadData, match="with 'manual' to be shown beside what is asked"):
        list(dialogues(path, fields=shown))


def test_nothing_is_yielded_once_a_bad_row_was_met_and_all_of_them_are_found(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", lines(GOOD, GOOD, 1, GOOD, 2, *([3] * 30)))
    given_out, reading = [], dialogues(path)
    with pytest.raises(BadData) as error:
        for dialogue in reading:
            given_out.append(dialogue)
    assert len(given_out) == 2
    assert "32 of 35 rows" in str(error.value) and "and 12 more" in str(error.value)
    assert len(error.value.problems) == 1 + source.SHOWN + 1


def test_skipping_needs_somebody_who_counts(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", lines(GOOD))
    with pytest.raises(ValueError, match="nobody would hear"):
        dialogues(path, bad_rows="skip")
    path = written(tmp_path, "b.jsonl", lines({}, {}))
    with pytest.raises(BadData, match="2 of 2 rows cannot be used; known are alpaca"):
        list(dialogues(path, bad_rows="skip", rejected=Rejected()))


def test_text_where_dialogues_are_wanted_and_dialogues_where_text_is_are_told_apart(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", "One.\nTwo.\n")
    with pytest.raises(
        BadData, match=r"plain text, where a dialogue is wanted \(alpaca, sharegpt, messages, apibench\)"
    ):
        list(dialogues(path))
    path = written(tmp_path, "a.jsonl", lines(GOOD))
    with pytest.raises(BadData, match=r"a dialogue \(alpaca\), where plain text is wanted \(text\)"):
        list(documents(path))


def test_only_the_first_rows_are_read_where_only_they_are_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path, "a.json", "[" + json.dumps(GOOD) + "," + json.dumps(GOOD) + ", broken")
    assert list(dialogues(path, first=2)) == [[ASKED, ANSWERED]] * 2
    with pytest.raises(BadFile, match="ends in the middle of the array"):
        list(dialogues(path, first=3))


# --- containers -----------------------------------------------------------------------------------------------------


def stored(folder: Path, records: list[dict[str, object]], container: str) -> Path:
    whole = json.dumps(records, ensure_ascii=False)
    if container == "parquet":
        path = folder / "a.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path, row_group_size=3)
        return path
    content = {
        "lines": lines(*records).encode(),
        "lines, CRLF": lines(*records).replace("\n", "\r\n").encode(),
        "lines, no last end": lines(*records).rstrip("\n").encode(),
        "lines, BOM": b"\xef\xbb\xbf" + lines(*records).encode(),
        "lines, gzip": gzip.compress(lines(*records).encode()),
        "lines, escaped": "".join(json.dumps(record) + "\n" for record in records).encode(),
        "array": whole.encode(),
        "array, indented": json.dumps(records, indent=4).encode(),
        "array, CRLF, BOM": b"\xef\xbb\xbf \r\n" + json.dumps(records, indent=2).replace("\n", "\r\n").encode(),
        "array, gzip": gzip.compress(whole.encode()),
    }[container]
    return written(folder, "a.json", content)


CONTAINERS = ("lines", "lines, CRLF", "lines, no last end", "lines, BOM", "lines, gzip", "lines, escaped", "array",
              "array, indented", "array, CRLF, BOM", "array, gzip", "parquet")  # fmt: skip


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_gives_the_same_records(tmp_path: Path, container: str) -> None:
    words = ["", "plain", 'a "quote" \\ and ] } , [ {', "雪 🦙 \u2028 \x00 \x7f", "two\nlines\r\n", "x" * 1_000]
    plain = [
        {"instruction": word, "input": word[::-1] or "-", "output": words[i % 5]} for i, word in enumerate(words * 2)
    ]
    path = stored(tmp_path, plain, container)
    assert [dict(row.data) for row in records(path)] == plain
    assert len(list(dialogues(path))) == 12


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=size(200), deadline=None)
@given(st.lists(JSON, max_size=6), st.sampled_from([None, 0, 2]), st.booleans(), st.integers(1, 9))
def test_the_elements_of_an_array_are_those_that_a_whole_parse_finds(
    values: list[object], indent: int | None, escaped: bool, chunk: int
) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    before, json_array.CHUNK = json_array.CHUNK, chunk
    try:
        found = list(elements(io.BytesIO(text), 1 << 20))
        assert [json.loads(data) for _, data in found] == values
        assert all(text[offset : offset + len(data)] == data for offset, data in found)
        for end in range(len(text)):
            taken: list[object] = []
            with pytest.raises(Broken) as broken:
                taken.extend(json.loads(data) for _, data in elements(io.BytesIO(text[:end]), 1 << 20))
            assert taken == values[: len(taken)], "what was read before the cut is right"
            assert broken.value.offset <= end
    finally:
        json_array.CHUNK = before


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[{"a": 1} {"a": 2}]', "after row 1, offset 10): b'{' where a comma or the closing bracket is due"),
        ('[{"a": 1},]', "after row 1, offset 10): a comma without a record after it"),
        ("[,]", "after row 0, offset 1): b',' where a record is due"),
        ('[{"a": 1}] [', "after row 1, offset 11): b'[' where the end of the file is due"),
        ('[{"a": 1}', "after row 1, offset 9): the file ends in the middle of the array"),
        ('[{"a": 1}, {"b', "after row 1, offset 11): the file ends in the middle of the array"),
        ("[", "the file ends in the middle of the array"),
    ],
)
def test_a_broken_array_says_where(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(BadFile) as error:
        list(records(written(tmp_path, "a.json", text), bad_rows="skip", rejected=Rejected()))
    assert why in str(error.value)


def test_an_array_is_never_held_as_a_whole(tmp_path: Path) -> None:
    record = json.dumps({"text": "a llama is no alpaca; " * 40}).encode()
    path = written(tmp_path, "a.json", b"[" + b",\n".join([record] * 8_000) + b"]")
    assert path.stat().st_size > 7_000_000
    tracemalloc.start()
    try:
        assert sum(1 for _ in documents(path)) == 8_000
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b'{"instruction": "x", "out', "is not strict JSON|brackets do not match"),
        (b'{"instruction": "a\xff", "output": "b"}', "is not UTF-8: byte 0xff at offset 83 (invalid start byte)"),
        (
            b'{"instruction": "a\xe2\x82", "output": "b"}',
            "is not UTF-8: byte 0xe2 at offset 83 (invalid continuation byte)",
        ),
        (b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested more than 32 deep"),
        (b"[" * 100_000, "brackets do not match, or are nested more than 32 deep"),
        (b'{"instruction": "x", "output": NaN}', "NaN is no JSON number"),
        (b'{"instruction": "x", "output": "1", "output": "2"}', "the key 'output' appears twice"),
        (b'{"instruction": "\\ud800", "output": "x"}', "surrogates not allowed"),
        (b'{"instruction": ' + b"9" * 5_000 + b', "output": "x"}', "is not strict JSON"),
        (b"instruction,output", "is not strict JSON"),
        (b'{"instruction": "x", "output": "' + b"y" * 5_000_000 + b'"}', "longer than 1000000 bytes"),
    ],
)
def test_a_bad_line_is_one_bad_row_and_the_lines_after_it_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: bytes, why: str
) -> None:
    monkeypatch.setattr(rows, "LONGEST", 1_000_000)
    good = lines(GOOD).encode()
    path = written(tmp_path, "a.jsonl", good + bad + b"\n" + good)
    rejected = Rejected()
    assert list(dialogues(path, bad_rows="skip", rejected=rejected)) == [[ASKED, ANSWERED]] * 2
    (problem,) = rejected.first
    assert problem.where == f"{path}, line 2"
    assert any(part in problem.found for part in why.split("|")), problem.found
    with pytest.raises(BadData, match="1 of 3 rows"):
        list(dialogues(path))


def test_a_bad_element_of_an_array_is_one_bad_row_too(tmp_path: Path) -> None:
    good = json.dumps(GOOD)
    path = written(tmp_path, "a.json", f'[{good}, {{"instruction": nope}}, 7, null, "x", {good}]')
    rejected = Rejected()
    assert len(list(dialogues(path, bad_rows="skip", rejected=rejected))) == 2
    assert [problem.where for problem in rejected.first] == [f"{path}, row {number}" for number in (2, 3, 4, 5)]


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.jsonl", b"", "holds no records"),
        ("a.json", b"[]", "holds no records"),
        ("a.jsonl", b"\n \n", "holds no records"),
        ("a.txt", b"\xef\xbb\xbf", "holds no records"),
        ("a.json", b"instruction,output\n", "is called JSON and begins with b'instruction,'"),
        ("a.parquet", b'{"text": "x"}', "is called Parquet and does not begin as one"),
        ("a.txt", b'{"text": "x"}\n', "is called text and begins like JSON"),
        ("a.json", "[]".encode("utf-16"), "is UTF-16 text; convert it to UTF-8"),
        ("a.json.bz2", b"BZh91AY rest", "is bzip2; unpack it first"),
        ("a.zip", b"PK\x03\x04 rest", "is a zip archive; unpack it first"),
        ("a.jsonl.gz", gzip.compress(lines(GOOD).encode() * 99)[:-9], "damaged gzip"),
        ("a.jsonl.gz", b"\x1f\x8b" + b"\x00" * 30, "damaged gzip"),
        ("a.parquet", b"PAR1" + b"\x00" * 50 + b"PAR1", "damaged Parquet"),
    ],
)
def test_a_file_that_is_not_what_it_claims_is_refused(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    path = written(tmp_path, name, content)
    with pytest.raises(BadFile) as error:
        list(documents(path))
    assert why in str(error.value) and str(path) in str(error.value)


def test_what_is_no_file_is_refused_and_nothing_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, why in (
        ("pipe", "not a regular file"),
        (".", "not a regular file"),
        ("gone", "is missing"),
        ("a\0b", "null byte"),
    ):
        for read in (recognise, source.digest, lambda path: list(documents(path))):
            with pytest.raises(BadFile, match=why):
                read(tmp_path / name)


def test_plain_text_that_looks_like_json_is_read_where_that_is_said(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", "[Enter two Gentlemen]\r\n\r\n{Exeunt}\n")
    assert list(documents(path, text="line")) == ["[Enter two Gentlemen]", "{Exeunt}"]
    assert list(documents(path, text="file")) == ["[Enter two Gentlemen]\r\n\r\n{Exeunt}\n"]


def test_bad_bytes_in_plain_text_are_placed_to_the_byte(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", b"\xef\xbb\xbffirst\nsec\x80nd\nthird")
    rejected = Rejected()
    assert list(documents(path, bad_rows="skip", rejected=rejected)) == ["first", "third"]
    assert "line 2" in rejected.first[0].where and "byte 0x80 at offset 12" in rejected.first[0].found
    with pytest.raises(BadData, match="line 1: is not UTF-8: byte 0x80 at offset 5"):
        list(documents(written(tmp_path, "b.txt", b"\xef\xbb\xbfab\x80\nsecond")))


def test_a_line_may_have_exactly_the_longest_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "LONGEST", 10)
    path = written(tmp_path, "a.txt", b"0123456789\n0123456789a\n" + b"x" * 99 + b"\nend")
    rejected = Rejected()
    assert list(documents(path, bad_rows="skip", rejected=rejected)) == ["0123456789", "end"]
    assert [problem.where.rpartition(", ")[2] for problem in rejected.first] == ["line 2", "line 3"]
    with pytest.raises(BadData, match="the whole file: longer than 10 bytes"):
        list(documents(path, text="file"))


DAMAGE: dict[str, Callable[[bytearray, random.Random], object]] = {
    "flip": lambda raw, rng: raw.__setitem__(rng.randrange(len(raw)), rng.randrange(256)),
    "cut": lambda raw, rng: raw.__delitem__(slice(rng.randrange(len(raw)), None)),
    "hole": lambda raw, rng: raw.__delitem__(slice(at := rng.randrange(len(raw)), at + rng.randrange(1, 40))),
    "junk": lambda raw, rng: raw.__setitem__(slice(at := rng.randrange(len(raw)), at), rng.randbytes(9)),
    "brackets": lambda raw, rng: raw.__setitem__(
        slice(at := rng.randrange(len(raw)), at), rng.choice([b"[", b"{"]) * 5_000
    ),
    "ones": lambda raw, rng: raw.__setitem__(slice(at := rng.randrange(len(raw)), at + 8), b"\xff" * 8),
}


@pytest.mark.parametrize("container", ["lines", "lines, gzip", "array, indented", "parquet"])
def test_a_damaged_file_gives_rows_or_one_of_our_errors_and_never_anything_else(tmp_path: Path, container: str) -> None:
    plain = [{"instruction": f"What is {i} and {i}?", "input": "é", "output": str(2 * i)} for i in range(20)]
    path = stored(tmp_path, plain, container)
    whole, rng, refused = path.read_bytes(), random.Random(3), 0
    for _ in range(size(300)):
        raw = bytearray(whole)
        rng.choice(list(DAMAGE.values()))(raw, rng)
        path.write_bytes(raw)
        try:
            assert all(isinstance(row, source.Dialogue) for row in dialogues(path))
        except CamelidError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 100


def test_zstandard_is_read_as_what_it_packs_and_damage_is_named(tmp_path):
    import pyarrow

    def packed(data):
        sink = pyarrow.BufferOutputStream()
        with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(data)
        return sink.getvalue().to_pybytes()

    texts = [f"text {number} " + "long " * (number % 40) for number in range(3000)]
    lines = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)
    frames = packed(lines[:70_000]) + packed(lines[70_000:])  # two frames, one after the other
    path = tmp_path / "texts.jsonl.zst"
    path.write_bytes(frames)
    assert list(source.documents(path)) == texts
    plain = tmp_path / "texts.jsonl"
    plain.write_bytes(lines)
    assert source.digest(path) == source.digest(plain)
    for damaged in (frames[: len(frames) // 2], frames[:-3], frames[:500] + b"\x55" + frames[501:]):
        path.write_bytes(damaged)
        with pytest.raises(BadFile, match="damaged Zstandard"):
            list(source.documents(path))


def test_a_reply_of_weight_nought_is_shown_and_not_learned(tmp_path: Path) -> None:
    """As OpenAI's fine-tuning format has it; empty lists of calls and tools, as exports write them, say nothing."""
    turns = [
        {"role": "user", "content": "One?", "weight": 0}, {"role": "assistant", "content": "bad", "weight": 0},
        {"role": "user", "content": "Two?"}, {"role": "assistant", "content": "good", "weight": 1, "tool_calls": []},
    ]  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": turns, "tools": []}) + "\n")
    (messages,) = dialogues(path)
    assert [message.learned for message in messages] == [True, False, True, True]
    tokenizer = ByteTokenizer()
    plain = render(VICUNA_1_1, [replace(message, learned=True) for message in messages], tokenizer)
    for learn in ("response", "assistant", "last", "everything"):
        found = render(VICUNA_1_1, messages, tokenizer, learn=learn)  # type: ignore[arg-type]
        shown, said = plain.replies
        assert found.ids == plain.ids and not any(found.supervised[shown.start : shown.end])
        assert all(found.supervised[said.start : said.end])
    (whole, _), (part, _) = (
        from_dialogues(path, VICUNA_1_1, tokenizer, tmp_path / str(n), length=400, over_length="cut", learn=learn)
        for n, learn in enumerate(("everything", "response"))
    )
    assert part.supervised < whole.supervised
