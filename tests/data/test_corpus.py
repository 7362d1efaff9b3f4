from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camelid.data import cache
from camelid.data.cache import from_dialogues, from_texts
from camelid.data.corpus import Corpus, collect, id_type, render_all, tokenise
from camelid.data.source import dialogues, documents
from camelid.dialogue.message import Message
from camelid.dialogue.template import render
from camelid.durable import verify
from camelid.errors import BadData, BadFile
from tests.conftest import size
from tests.data.stand_ins import ASK, BOS, EOS, ByteTokenizer, corpora, corpus

CHAT = st.tuples(st.text(max_size=8), st.sampled_from(["", "x", "ab\n"]), st.text(max_size=12))


def said(asked: str, added: str, answer: str) -> list[Message]:
    return [Message("user", asked, input=added), Message("assistant", answer)]


def same(one: Corpus, other: Corpus) -> bool:
    marks = (one.learned is None) == (other.learned is None)
    if marks and one.learned is not None and other.learned is not None:
        marks = np.array_equal(one.learned, other.learned)
    return marks and np.array_equal(one.ids, other.ids) and np.array_equal(one.starts, other.starts)


# --- in memory ------------------------------------------------------------------------------------------------------


@settings(max_examples=size(100), deadline=None)
@given(st.lists(st.text(), max_size=8), st.booleans(), st.booleans())
def test_decoding_a_corpus_gives_back_the_texts(texts: list[str], bos: bool, eos: bool) -> None:
    tokenizer = ByteTokenizer()
    made = tokenise(texts, tokenizer, bos=bos, eos=eos)
    assert [tokenizer.decode(made.sequence(index).tolist()) for index in range(len(made))] == texts
    assert made.tokens == sum(len(text.encode()) for text in texts) + len(texts) * (bos + eos)
    assert made.supervised == sum(max(0, int(length) - 1) for length in made.lengths)
    for index in range(len(made)):
        ids = made.sequence(index).tolist()
        assert ids.count(BOS) == bos and ids.count(EOS) == eos
        assert not bos or ids[0] == BOS
        assert not eos or ids[-1] == EOS


@settings(max_examples=size(150), deadline=None)
@given(st.lists(CHAT, max_size=8), st.integers(2, 40), st.sampled_from(["cut", "drop"]))
def test_every_token_that_was_rendered_is_kept_or_reported_lost(
    chats: list[tuple[str, str, str]], length: int, over_length: str
) -> None:
    tokenizer = ByteTokenizer()
    rendered = [render(ASK, said(*chat), tokenizer) for chat in chats]
    made, report = render_all([said(*chat) for chat in chats], ASK, tokenizer, length=length, over_length=over_length)
    assert report.rows == len(chats)
    assert report.kept == len(made) == report.rows - sum(report.dropped.values())
    assert report.tokens == made.tokens
    assert report.supervised == made.supervised
    assert (
        report.tokens_in
        == report.tokens + report.tokens_cut + report.tokens_dropped
        == sum(len(r.ids) for r in rendered)
    )
    learned = sum(sum(r.supervised[1:]) for r in rendered)
    assert report.supervised + report.supervised_cut + report.supervised_dropped == learned
    expected = [r for r in rendered if over_length == "cut" or len(r.ids) <= length]
    for index, one in enumerate(expected):
        assert made.sequence(index).tolist() == one.ids[:length]
        assert made.marks(index).tolist() == one.supervised[:length]
    assert report.truncated == sum(len(r.ids) > length for r in expected)
    assert report.unsupervised == sum(not any(r.supervised[1:length]) for r in expected)
    assert bool(report.lines()) == bool(report.truncated or report.dropped or report.unsupervised)


def test_what_was_lost_is_said_in_words() -> None:
    chats = [said("a", "", "b"), said("a", "", "b" * 50), said("a" * 50, "", "b")]
    _, cut = render_all(chats, ASK, ByteTokenizer(), length=20, over_length="cut")
    assert cut.lines() == [
        "2 of 3 sequences were cut at the end, losing 78 tokens, 41 of them supervised",
        "1 kept sequences have nothing to learn: dialogue 3",
    ]
    _, dropped = render_all(chats, ASK, ByteTokenizer(), length=20, over_length="drop")
    assert dropped.lines() == ["2 of 3 rows were dropped: longer than 20 tokens"]
    with pytest.raises(BadData) as error:
        render_all(chats, ASK, ByteTokenizer(), length=20, over_length="stop")
    assert "2 of 3 rows cannot be used; allow more than 20 tokens" in str(error.value)
    assert "dialogue 3: 59 tokens, over the length of 20" in str(error.value)


def test_dialogues_that_the_template_cannot_express_are_named_all_at_once_or_left_out_and_counted() -> None:
    system = [Message("system", "Be brief."), *said("a", "", "b")]
    twice = [Message("user", "a"), *said("a", "", "b")]
    chats = [said("a", "", "b"), system, twice]
    with pytest.raises(BadData) as error:
        render_all(chats, ASK, ByteTokenizer(), length=99, over_length="cut")
    text = str(error.value)
    assert "data: 2 of 3 rows" in text and "dialogue 2: messages[0]: is a system message" in text
    assert "dialogue 3: messages[1].role: is 'user' where 'assistant' is due" in text
    made, report = render_all(chats, ASK, ByteTokenizer(), length=99, over_length="cut", bad_rows="skip")
    assert (len(made), report.rows, report.kept, report.bad_rows) == (1, 3, 1, 2)
    assert "2 rows could not be used and were left out: dialogue 2: messages[0]" in report.lines()[0]


def test_ids_take_the_smallest_type_that_holds_the_vocabulary() -> None:
    assert [id_type(n).name for n in (258, 1 << 16, (1 << 16) + 1, 128_256)] == ["uint16", "uint16", "uint32", "uint32"]
    assert collect([([65_535], None)], 1 << 16).sequence(0).tolist() == [65_535]
    for ids in ([65_536], [-1]):
        with pytest.raises(ValueError, match="outside a vocabulary"):
            collect([(ids, None)], 1 << 16)
    for marks in ([1, 0], [2], []):
        with pytest.raises(ValueError, match="marks for 1 ids"):
            collect([([5], marks)], 10)
    with pytest.raises(ValueError, match="some have none"):
        collect([([5], [1]), ([5], None)], 10)


def test_a_first_id_is_nobodys_target_whatever_its_mark() -> None:
    assert corpus([[1, 2, 3], [4]], marks=[[1, 0, 1], [1]]).supervised == 1
    assert corpus([[1, 2, 3], [], [4]]).supervised == 2


def test_equal_content_has_equal_digests_and_any_difference_shows() -> None:
    made = [
        corpus([[1, 2], [3]]),
        corpus([[1], [2, 3]]),
        corpus([[1, 2, 3]]),
        corpus([[1, 2], [4]]),
        corpus([[1, 2], [3], []]),
        corpus([[1, 2], [3]], marks=[[0, 1], [1]]),
        corpus([[1, 2], [3]], marks=[[1, 1], [1]]),
        collect([([1, 2], None), ([3], None)], 10),
    ]
    assert len({one.digest for one in made}) == len(made)
    assert corpus([[1, 2], [3]]).digest == made[0].digest


# --- on disk --------------------------------------------------------------------------------------------------------


@settings(max_examples=size(25), deadline=None)
@given(data=corpora(shortest=0), marked=st.booleans())
def test_what_was_saved_is_what_is_loaded(tmp_path_factory: pytest.TempPathFactory, data: Corpus, marked: bool) -> None:
    if marked:
        data = Corpus(data.ids, data.starts, (data.ids % 2).astype(np.uint8))
    path = tmp_path_factory.mktemp("corpus") / "here"
    saved = cache.save(data, path)
    assert same(saved, data) and same(cache.load(path), data)
    assert saved.digest == data.digest == cache.load(path).digest
    assert data.ids.size == 0 or isinstance(saved.ids, np.memmap)


def test_a_corpus_without_tokens_can_be_kept_too(tmp_path: Path) -> None:
    for name, data in (("none", corpus([])), ("empty", corpus([[], []]))):
        assert same(cache.save(data, tmp_path / name), data)


ROWS = [{"instruction": f"What is {i} + {i}?", "input": "", "output": str(2 * i)} for i in range(30)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.json"
    path.write_text(json.dumps(ROWS))
    return path


def test_a_file_is_rendered_once_and_mapped_from_then_on(tmp_path: Path, data: Path) -> None:
    tokenizer, store = ByteTokenizer(), tmp_path / "cache"
    made, report = from_dialogues(data, ASK, tokenizer, store, length=30, over_length="cut")
    work = tokenizer.encoded
    expected, expected_report = render_all(dialogues(data), ASK, tokenizer, length=30, over_length="cut")
    assert same(made, expected) and made.digest == expected.digest and report == expected_report
    assert work > 0
    tokenizer.encoded = 0
    again, report_again = from_dialogues(
        shutil.copy(data, tmp_path / "b"), ASK, tokenizer, store, length=30, over_length="cut"
    )
    assert (again.digest, report_again, tokenizer.encoded) == (made.digest, report, 0)
    assert isinstance(again.ids, np.memmap)


def test_whatever_decides_the_tokens_decides_the_name_in_the_cache(tmp_path: Path, data: Path) -> None:
    from dataclasses import replace

    store = tmp_path / "cache"
    changed = tmp_path / "other.json"
    changed.write_text(json.dumps(ROWS[:-1]))
    calls = [
        lambda: from_dialogues(data, ASK, ByteTokenizer(), store, length=30, over_length="cut"),
        lambda: from_dialogues(changed, ASK, ByteTokenizer(), store, length=30, over_length="cut"),
        lambda: from_dialogues(data, replace(ASK, cue="?"), ByteTokenizer(), store, length=30, over_length="cut"),
        lambda: from_dialogues(data, ASK, ByteTokenizer("other"), store, length=30, over_length="cut"),
        lambda: from_dialogues(data, ASK, ByteTokenizer(), store, length=29, over_length="cut"),
        lambda: from_dialogues(data, ASK, ByteTokenizer(), store, length=30, over_length="drop"),
        lambda: from_dialogues(data, ASK, ByteTokenizer(), store, length=30, over_length="cut", learn="everything"),
        lambda: from_dialogues(data, ASK, ByteTokenizer(), store, length=30, over_length="cut", first=5),
    ]
    for count, call in enumerate(calls, 1):
        call()
        call()
        assert len(list(store.glob("corpus-*"))) == count


def test_texts_on_disk_are_those_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("one\n\ntwo 雪\r\nthree".encode())
    tokenizer = ByteTokenizer()
    for settings_ in ({}, {"text": "file"}, {"bos": False}, {"eos": False}, {"first": 2}):
        made, report = from_texts(path, tokenizer, tmp_path / "cache", **settings_)
        read = {name: settings_[name] for name in ("text", "first") if name in settings_}
        put = {name: settings_[name] for name in ("bos", "eos") if name in settings_}
        expected = tokenise(documents(path, **read), tokenizer, **put)
        assert same(made, expected)
        assert (report.rows, report.tokens, report.supervised) == (len(made), made.tokens, made.supervised)
        assert report.lines() == []


def test_where_nothing_is_left_once_bad_rows_are_skipped_skipping_is_no_remedy() -> None:
    backward = [[Message("assistant", "a"), Message("user", "b")]]
    for bad_rows, remedy in (("stop", "leave them out with --bad-rows skip"), ("skip", "none is left to learn from")):
        with pytest.raises(BadData, match=remedy):
            render_all(backward, ASK, ByteTokenizer(), length=99, over_length="cut", bad_rows=bad_rows)


def test_bad_rows_leave_nothing_in_the_cache_and_skipped_ones_stay_in_the_report(tmp_path: Path) -> None:
    path, store = tmp_path / "a.jsonl", tmp_path / "cache"
    path.write_text("".join(json.dumps(row) + "\n" for row in [ROWS[0], {"instruction": 1, "output": "x"}, ROWS[1]]))
    with pytest.raises(BadData, match="line 2: 'instruction' is a number"):
        from_dialogues(path, ASK, ByteTokenizer(), store, length=99, over_length="cut")
    assert not list(store.glob("corpus-*"))
    assert not list(store.glob("*draft*"))
    for _ in range(2):  # made, then found
        made, report = from_dialogues(path, ASK, ByteTokenizer(), store, length=99, over_length="cut", bad_rows="skip")
        assert (len(made), report.rows, report.bad_rows) == (2, 2, 1)
        assert "line 2: 'instruction' is a number, not text" in report.lines()[0]


@pytest.mark.parametrize("name", ["ids", "starts", "learned", "manifest.json"])
def test_a_damaged_cache_is_refused_by_name_with_what_to_do(tmp_path: Path, data: Path, name: str) -> None:
    from_dialogues(data, ASK, ByteTokenizer(), tmp_path / "cache", length=30, over_length="cut")
    (entry,) = (tmp_path / "cache").glob("corpus-*")
    verify(entry)
    raw = bytearray((entry / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (entry / name).write_bytes(raw)
    with pytest.raises(BadFile) as error:
        from_dialogues(data, ASK, ByteTokenizer(), tmp_path / "cache", length=30, over_length="cut")
    assert str(entry / name) in str(error.value) and f"remove {entry}; it will be made again" in str(error.value)


def test_all_of_a_real_alpaca_file_is_conserved(shared: Path, tmp_path: Path) -> None:
    path = shared / "instruct" / "alpaca_random_9k.json"
    tokenizer = ByteTokenizer()
    made, report = from_dialogues(path, ASK, tokenizer, tmp_path, length=512, over_length="cut")
    plain = json.loads(path.read_text(encoding="utf-8"))
    frame = {False: len("Q: \nA:"), True: len("Q: \nC: \nA:")}
    whole = [
        sum(len(row[name].encode()) for name in ("instruction", "input", "output")) + frame[bool(row["input"])] + 2
        for row in plain
    ]
    assert report.tokens_in == sum(whole)
    assert made.lengths.tolist() == [min(512, length) for length in whole]
    assert report.truncated == sum(length > 512 for length in whole)
    assert (report.rows, report.kept, report.bad_rows, report.dropped) == (9_229, 9_229, 0, {})
