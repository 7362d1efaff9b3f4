"""Control tokens added later: the next ids, unreachable by text, and still there after writing and reading."""

from __future__ import annotations

import pytest

from camelid.errors import UsageError
from camelid.tokenizers import load, sentencepiece
from camelid.tokenizers.extend import with_controls, with_pad, with_pieces


def test_alpacas_pad_is_id_32000(llama_2):
    padded = with_pad(llama_2, "[PAD]")
    assert (padded.pad, padded.size, padded.controls["[PAD]"]) == (32_000, 32_001, 32_000)
    assert 32_000 not in padded.encode("[PAD]") and padded.decode([32_000, 15043]) == "Hello"
    assert padded.piece(32_000) == "[PAD]" and padded.digest() != llama_2.digest()
    assert (llama_2.size, llama_2.pad) == (32_000, None)


@pytest.mark.parametrize("kind", ["pieces", "byte_level"])
def test_added_controls_survive_writing_and_reading(kind, request: pytest.FixtureRequest, tmp_path):
    small = request.getfixturevalue(kind)
    grown = with_pad(with_controls(small, ["<|one|>", "<|two|>", "<|one|>"]), "[PAD]")
    for name, content in grown.files().items():
        (tmp_path / name).write_bytes(content)
    back = load(tmp_path)
    assert (back.size, back.bos, back.eos, back.pad) == (small.size + 3, small.bos, small.eos, small.size + 2)
    assert dict(back.controls) == dict(grown.controls) and back.digest() == grown.digest()
    assert back.encode("<|one|>[PAD]") == small.encode("<|one|>[PAD]")


def test_an_existing_control_can_become_the_pad(byte_level):
    padded = with_pad(byte_level, "<|finetune_right_pad_id|>")
    assert padded.size == byte_level.size and padded.pad == byte_level.controls["<|finetune_right_pad_id|>"]


def test_a_name_that_is_text_already_is_refused(pieces, byte_level):
    for tokenizer in (pieces, byte_level):
        with pytest.raises(UsageError, match="'a' is a piece of text already"):
            with_controls(tokenizer, ["a"])
        with pytest.raises(UsageError, match="'' is no name"):
            with_pad(tokenizer, "")


CHINESE = "人工智能是计算机科学、心理学、哲学等学科融合的交叉学科。"


def test_chinese_llamas_vocabulary_has_its_published_size_and_a_third_of_the_ids(shared, llama_2):
    """facts: chinese-llama-alpaca, tokenizer: 17,953 pieces follow LLaMA's 32,000."""
    from sentencepiece import SentencePieceProcessor

    chinese = load(shared / "tokenizers" / "chinese_sp.model")
    merged = with_pieces(llama_2, chinese)
    assert merged.size == 49_953 and (merged.bos, merged.eos) == (llama_2.bos, llama_2.eos)
    assert [merged.piece(id) for id in range(32_000)] == [llama_2.piece(id) for id in range(32_000)]
    library = SentencePieceProcessor(model_proto=merged.model)
    ids = merged.encode(CHINESE)
    assert ids == library.encode(CHINESE) and merged.decode(ids) == CHINESE
    assert 2 * len(ids) < len(llama_2.encode(CHINESE)), "about half or less of what LLaMA needs"
    assert with_pieces(llama_2, chinese, 40_000).size == 40_000
    single = with_pieces(llama_2, chinese, only="characters")
    assert all(len(single.piece(id).removeprefix("▁")) == 1 for id in range(32_000, single.size))


def test_a_merged_vocabulary_survives_writing_and_reading(pieces, tmp_path):
    merged = with_pieces(pieces, sentencepiece.train(["камень на камень, верблюд за верблюдом\n" * 9], vocab=300))
    for name, content in merged.files().items():
        (tmp_path / name).write_bytes(content)
    back = load(tmp_path)
    text = "верблюд на камень, The camel walked"
    assert back.encode(text) == merged.encode(text) and back.digest() == merged.digest()
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.encode(text, add_special_tokens=False) == merged.encode(text)


def test_what_cannot_be_extended_says_why(pieces, byte_level):
    with pytest.raises(UsageError, match="no SentencePiece vocabulary"):
        with_pieces(byte_level, pieces)
    with pytest.raises(UsageError, match="stand after its pieces"):
        with_pieces(with_pad(pieces), pieces, 500)
    with pytest.raises(UsageError, match="0 new pieces learned, 430 rows wanted; choose no size"):
        with_pieces(pieces, pieces, 430)
