"""LLaMA 1 and 2: the ids of the reference library, for any text, and the text back."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece as reference

from camelid.errors import BadData, UsageError
from camelid.tokenizers import load
from camelid.tokenizers.sentencepiece import LLAMA_TRAINER, SPACE, SentencePieceTokenizer, train
from camelid.tokenizers.sentencepiece_file import Kind, Piece, parse
from tests.adversarial import strings, texts
from tests.conftest import size
from tests.tokenizers.conftest import TALE

N = 100_000


def test_ids_are_the_reference_librarys_and_decode_to_the_text(llama_2):
    library = reference.SentencePieceProcessor(model_proto=llama_2.model)
    controls = set(llama_2.controls.values())
    for text in strings(seed=1, count=size(N)):
        ids = llama_2.encode(text)
        assert ids == library.encode(text), repr(text)
        assert llama_2.decode(ids) == text.replace(SPACE, " "), repr(text)
        assert controls.isdisjoint(ids), repr(text)


def test_text_that_continues_has_no_dummy_prefix(llama_2):
    assert llama_2.encode("Hello", starts=True) == [15043]  # "▁Hello"
    assert llama_2.encode("Hello", starts=False) == [10994]  # "Hello"
    for text in strings(seed=2, count=size(5_000)):
        ids = llama_2.encode(text, starts=False)
        assert llama_2.decode(ids, starts=False) == text.replace(SPACE, " "), repr(text)


def test_parts_of_a_text_decode_to_the_parts_joined(llama_2):
    for first, second in zip(strings(3, size(3_000)), strings(4, size(3_000)), strict=True):
        if first:
            ids = llama_2.encode(first) + llama_2.encode(second, starts=False)
            assert llama_2.decode(ids) == (first + second).replace(SPACE, " ")


def test_the_dummy_prefix_is_taken_off_once_and_only_where_text_starts(pieces):
    assert pieces.decode(pieces.encode("  x")) == "  x"
    assert pieces.decode(pieces.encode(" x", starts=False), starts=False) == " x"
    assert pieces.encode("") == [] and pieces.decode([]) == ""


def test_streamed_text_is_the_whole_text_and_shows_no_broken_character(pieces, llama_2):
    for tokenizer, count in ((pieces, 2_000), (llama_2, 2_000)):
        for text in strings(seed=5, count=size(count)):
            text = text.replace(SPACE, " ")
            for starts in (True, False):
                stream = tokenizer.stream(starts=starts)
                shown = [stream.push(id) for id in tokenizer.encode(text, starts=starts)]
                assert "".join(shown) + stream.finish() == text
                assert "\ufffd" in text or not any("\ufffd" in part for part in shown)


def test_streaming_any_ids_equals_decoding_them(pieces):
    import random

    draw = random.Random(6)
    for _ in range(size(3_000)):
        ids = [draw.randrange(pieces.size) for _ in range(draw.randint(0, 12))]
        for starts in (True, False):
            stream = pieces.stream(starts=starts)
            assert "".join(map(stream.push, ids)) + stream.finish() == pieces.decode(ids, starts=starts)


def test_a_megabyte_of_anything_takes_under_two_seconds(llama_2):
    for unit in (" ", "a", "\n", "é", "🙂", "\0", " \t", "<s>"):
        text = unit * (1_000_000 // len(unit.encode()))
        start = time.process_time()
        ids = llama_2.encode(text)
        assert time.process_time() - start < 2, repr(unit)
        assert llama_2.decode(ids) == text


def test_a_lone_surrogate_is_refused_with_its_place(pieces):
    with pytest.raises(BadData, match=r"U\+D800 at character 3 is half a surrogate pair"):
        pieces.encode("ab\ud800c")


def test_an_id_outside_the_vocabulary_is_refused(pieces):
    for id in (-1, pieces.size):
        with pytest.raises(UsageError, match=rf"found {id}; this tokenizer has ids 0 to {pieces.size - 1}"):
            pieces.decode([5, id])
        with pytest.raises(UsageError):
            pieces.piece(id)


def test_user_defined_pieces_are_controls_that_no_text_reaches(pieces):
    model = parse(pieces.model, "m")
    marks = tuple(Piece(text, 0.0, Kind.USER_DEFINED) for text in ("[PAD]", "<|im_start|>", "ca"))
    tokenizer = SentencePieceTokenizer.from_bytes(replace(model, pieces=model.pieces + marks).written())
    first = len(model.pieces)
    assert {"[PAD]": first, "<|im_start|>": first + 1, "ca": first + 2}.items() <= dict(tokenizer.controls).items()
    for text in ["[PAD]", "camel", "<|im_start|>user", *texts(seed=7, count=size(1_000))]:
        ids = tokenizer.encode(text)
        assert set(tokenizer.controls.values()).isdisjoint(ids)
        assert tokenizer.decode(ids) == text.replace(SPACE, " ")


def test_pieces_are_shown_as_people_write_them(llama_2):
    assert [llama_2.piece(id) for id in (0, 1, 2, 13, 278)] == ["<unk>", "<s>", "</s>", "<0x0A>", "▁the"]


def test_a_model_without_byte_fallback_reads_as_the_library_reads_it(shared: Path):
    path = shared / "tokenizers" / "chinese_sp.model"  # unigram, normalising, no byte pieces
    tokenizer, library = load(path), reference.SentencePieceProcessor(model_file=str(path))
    for text in strings(seed=8, count=size(2_000)):
        assert tokenizer.encode(text) == library.encode(text)
    assert "tokenizer.json" not in tokenizer.files()  # no merges say what such a model does


# --- training ---------------------------------------------------------------------------------------------------------


def test_training_gives_the_same_bytes_again_and_the_layout_of_llama(pieces):
    again = train([TALE * 20], vocab=420)
    assert again.digest() == pieces.digest() and again.model == pieces.model
    assert [pieces.piece(id) for id in (0, 1, 2, 3, 258)] == ["<unk>", "<s>", "</s>", "<0x00>", "<0xFF>"]
    assert (pieces.size, pieces.bos, pieces.eos, pieces.pad) == (420, 1, 2, None)


def test_trained_digits_stand_alone_and_every_text_comes_back(pieces):
    digits = [piece.text for piece in parse(pieces.model, "m").pieces[259:] if any(c.isdigit() for c in piece.text)]
    assert digits and all(len(text) == 1 for text in digits)
    for text in strings(seed=9, count=size(5_000)):
        assert pieces.decode(pieces.encode(text)) == text.replace(SPACE, " ")


def test_the_settings_of_the_trainer_are_those_inside_the_llama_file(llama_2, pieces):
    from sentencepiece import sentencepiece_model_pb2 as protocol

    for tokenizer in (llama_2, pieces):
        model = protocol.ModelProto.FromString(tokenizer.model)
        found = {"model_type": "bpe", "normalization_rule_name": model.normalizer_spec.name}
        for name in LLAMA_TRAINER.keys() - found.keys():
            spec = model.normalizer_spec if hasattr(model.normalizer_spec, name) else model.trainer_spec
            found[name] = getattr(spec, name)
        assert model.trainer_spec.model_type == 2
        assert {**LLAMA_TRAINER, "character_coverage": pytest.approx(0.99995)} == found


def test_a_line_longer_than_the_trainers_limit_is_cut_and_not_lost():
    words = " ".join(f"dromedary{letter}" for letter in "abcdefgh" * 400)  # one line of 33 KB, the limit is 4,192
    long, short = (train(texts, vocab=300, hard_vocab_limit=False) for texts in ([words], words.split(" ")))
    assert "dromedary" in {piece.text.strip("▁") for piece in parse(long.model, "m").pieces}
    assert {p.text for p in parse(long.model, "m").pieces} == {p.text for p in parse(short.model, "m").pieces}
    train(["é" * 30_000], vocab=300, hard_vocab_limit=False)  # no space to cut at, and two bytes a character


def test_characters_that_the_trainer_reserves_cost_no_line():
    trained = train(["the camel\u2585walked\0far"] * 50, vocab=305)
    assert {"▁camel", "▁walked", "▁far"} <= {piece.text for piece in parse(trained.model, "m").pieces}


def test_a_vocabulary_that_the_texts_cannot_give_is_refused():
    with pytest.raises(
        UsageError, match=r"vocab: 100 pieces cannot be learned from these texts: Vocabulary size is small"
    ):
        train([TALE], vocab=100)
    with pytest.raises(UsageError, match=r"Vocabulary size too high \(5000\)\. Please set it to a value <= \d+;"):
        train([TALE], vocab=5_000)
    with pytest.raises(UsageError, match="vocab: 400 pieces cannot be learned"):
        train([], vocab=400)


def test_what_goes_wrong_while_texts_are_read_is_told_as_it_was():
    def broken():
        yield TALE
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        train(broken(), vocab=300)
    with pytest.raises(BadData, match=r"U\+D800 at character 2"):
        train([TALE, "a\ud800"], vocab=300)
