"""Control tokens added later: the next ids, unreachable by text, and still there after writing and reading."""

from __future__ import annotations

import pytest

from camelid.errors import UsageError
from camelid.tokenizers import load
from camelid.tokenizers.extend import with_controls, with_pad


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
