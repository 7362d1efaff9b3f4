"""Llama 3: tiktoken's ids for any text, the reference vectors, and the text back."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import tiktoken

from camelid.errors import BadData, UsageError
from camelid.tokenizers import byte_bpe
from camelid.tokenizers.byte_bpe import (
    FEW_CONTROLS,
    LLAMA_3_1_CONTROLS,
    LLAMA_3_CONTROLS,
    LONG,
    ByteBPETokenizer,
    train,
)
from camelid.tokenizers.folder import LLAMA_3_PATTERN
from tests.adversarial import SPACES, strings, texts
from tests.conftest import size
from tests.tokenizers.conftest import TALE

N = 100_000


def library_of(tokenizer: ByteBPETokenizer) -> tiktoken.Encoding:
    ranks = {token: rank for rank, token in enumerate(tokenizer.tokens)}
    specials = dict(tokenizer.controls)
    return tiktoken.Encoding("t", pat_str=LLAMA_3_PATTERN, mergeable_ranks=ranks, special_tokens=specials)


def test_the_reference_vectors_hold(llama_3, shared: Path):
    folder = shared / "tokenizers"
    cases = (folder / "ggml-vocab-llama-bpe.gguf.inp").read_text("utf-8").split("\n__ggml_vocab_test__\n")[:-1]
    lines = (folder / "ggml-vocab-llama-bpe.gguf.out").read_text("utf-8").splitlines()
    assert len(cases) == len(lines) == 46
    for text, line in zip(cases, lines, strict=True):
        assert llama_3.encode(text) == [int(id) for id in line.split()], repr(text)


def test_ids_are_tiktokens_and_decode_to_the_text(llama_3):
    library = library_of(llama_3)
    first = len(llama_3.tokens)
    for text in strings(seed=1, count=size(N)):
        ids = llama_3.encode(text)
        assert ids == library.encode_ordinary(text), repr(text)
        assert llama_3.decode(ids) == text, repr(text)
        assert max(ids, default=0) < first, repr(text)


def test_text_never_yields_a_control_id(byte_level):
    controls = set(byte_level.controls.values())
    for text in texts(seed=2, count=size(5_000)):
        ids = byte_level.encode(text)
        assert controls.isdisjoint(ids) and byte_level.decode(ids) == text


def test_special_tokens_have_the_published_ids():
    ids = {name: 128000 + place for place, name in enumerate(LLAMA_3_CONTROLS)}
    assert len(ids) == 256
    published = {  # facts: llama-3, tokenizer.ids_llama_3
        "<|begin_of_text|>": 128000, "<|end_of_text|>": 128001, "<|reserved_special_token_0|>": 128002,
        "<|reserved_special_token_3|>": 128005, "<|start_header_id|>": 128006, "<|end_header_id|>": 128007,
        "<|reserved_special_token_4|>": 128008, "<|eot_id|>": 128009, "<|reserved_special_token_5|>": 128010,
        "<|reserved_special_token_250|>": 128255,
    }  # fmt: skip
    assert published.items() <= ids.items()
    since = {name: 128000 + place for place, name in enumerate(LLAMA_3_1_CONTROLS)}
    changed = {  # facts: llama-3-1-rope, tokenizer.ids_changed_vs_llama_3
        "<|finetune_right_pad_id|>": 128004, "<|step_id|>": 128005, "<|eom_id|>": 128008, "<|eot_id|>": 128009,
        "<|python_tag|>": 128010, "<|image|>": 128011,
    }  # fmt: skip
    assert changed.items() <= since.items() and len(since) == 256


def test_the_real_file_comes_back_byte_for_byte(llama_3, shared: Path):
    assert llama_3.model == (shared / "tokenizers" / "llama3.model").read_bytes()
    assert (llama_3.size, llama_3.bos, llama_3.eos, llama_3.pad) == (128_256, 128_000, 128_001, None)


def test_long_runs_of_whitespace_are_parted_as_the_pattern_parts_them(byte_level, monkeypatch: pytest.MonkeyPatch):
    library = library_of(byte_level)
    monkeypatch.setattr(byte_bpe, "LONG", 3)
    monkeypatch.setattr(
        byte_bpe, "_LONG_SPACE", byte_bpe.re.compile(byte_bpe._LONG_SPACE.pattern.replace(f"{LONG}", "3"))
    )
    import random

    draw = random.Random(3)
    alphabet = ["a", "Z", "7", ".", "!", "'s", "é", "\x1c", "_", *SPACES, " ", " ", "\n"]
    for _ in range(size(30_000)):
        text = "".join(draw.choice(alphabet) for _ in range(draw.randint(1, 14)))
        assert byte_level.encode(text) == library.encode_ordinary(text), repr(text)


def test_a_megabyte_of_anything_takes_under_two_seconds(llama_3):
    for unit in (" ", "a", "\n", "é", "🙂", "\0", " \t", "\u3000", "!", "7", "\n\n  ", "<|eot_id|>"):
        text = unit * (1_000_000 // len(unit.encode()))
        start = time.process_time()
        ids = llama_3.encode(text)
        assert time.process_time() - start < 2, repr(unit)
        assert llama_3.decode(ids) == text


def test_streamed_text_is_the_whole_text_and_shows_no_broken_character(byte_level):
    for text in strings(seed=4, count=size(4_000)):
        stream = byte_level.stream()
        shown = [stream.push(id) for id in byte_level.encode(text)]
        assert "".join(shown) + stream.finish() == text
        assert "\ufffd" in text or not any("\ufffd" in part for part in shown)


def test_a_lone_surrogate_is_refused_with_its_place(byte_level):
    with pytest.raises(BadData, match=r"U\+DC80 at character 1 "):
        byte_level.encode("\udc80")


def test_training_gives_the_same_tokens_again(byte_level):
    again = train([TALE * 20], vocab=420)
    assert again.digest() == byte_level.digest() and again.size == 420
    assert list(again.controls) == list(FEW_CONTROLS)
    assert byte_level.tokens[:2] == (b"!", b'"') and len(set(byte_level.tokens)) == 414
    for text in strings(seed=5, count=size(3_000)):
        assert byte_level.decode(byte_level.encode(text)) == text


def test_a_vocabulary_that_the_texts_cannot_give_is_refused():
    with pytest.raises(UsageError, match="vocab: found 200; 256 bytes and 6 control tokens need at least 262"):
        train([TALE], vocab=200)
    with pytest.raises(
        UsageError, match=r"vocab: 9000 ids cannot be learned from these texts; set it to a value <= \d+,"
    ):
        train([TALE], vocab=9_000)
