"""Folders written here open in transformers with the same ids, and here again as the same tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from camelid.tokenizers import load
from camelid.tokenizers.byte_bpe import ByteBPETokenizer
from camelid.tokenizers.extend import with_pad
from camelid.tokenizers.folder import BYTE_TO_CHARACTER, hidden, shown
from camelid.tokenizers.hugging_face import JsonTokenizer
from camelid.tokenizers.sentencepiece import SPACE
from tests.adversarial import strings
from tests.conftest import size

transformers = pytest.importorskip("transformers")


def written(tokenizer, folder: Path) -> Path:
    for name, content in tokenizer.files().items():
        (folder / name).write_bytes(content)
    return folder


def plain(text: str, tokenizer) -> bool:
    """Whether the text is free of names that transformers would read as control tokens."""
    return not any(name in text for name in tokenizer.controls)


@pytest.mark.parametrize("kind", ["pieces", "byte_level", "llama_2", "llama_3"])
def test_transformers_opens_the_folder_and_agrees(kind, request: pytest.FixtureRequest, tmp_path):
    ours = with_pad(request.getfixturevalue(kind), "[PAD]")
    theirs = transformers.AutoTokenizer.from_pretrained(str(written(ours, tmp_path)))
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (ours.bos, ours.eos, ours.pad)
    assert len(theirs) == ours.size
    assert theirs.convert_tokens_to_ids(list(ours.controls)) == list(ours.controls.values())
    compared = 0
    for text in strings(seed=11, count=size(5_000)):
        if plain(text, ours):
            ids = ours.encode(text)
            assert theirs(text, add_special_tokens=False)["input_ids"] == ids, repr(text)
            assert theirs.decode(ids) == ours.decode(ids), repr(text)
            compared += 1
    assert compared > size(5_000) // 2
    assert theirs("Hello")["input_ids"] == [ours.bos, *ours.encode("Hello")]


@pytest.mark.parametrize("kind", ["pieces", "byte_level", "llama_2", "llama_3"])
def test_reading_back_gives_the_same_tokenizer(kind, request: pytest.FixtureRequest, tmp_path):
    ours = request.getfixturevalue(kind)
    back = load(written(ours, tmp_path))
    assert type(back) is type(ours) and back.digest() == ours.digest() and back.size == ours.size
    assert (back.bos, back.eos, back.pad, dict(back.controls)) == (ours.bos, ours.eos, ours.pad, dict(ours.controls))


@pytest.mark.parametrize("kind", ["pieces", "llama_2"])
def test_a_folder_with_tokenizer_json_alone_gives_the_same_ids(kind, request: pytest.FixtureRequest, tmp_path):
    ours = with_pad(request.getfixturevalue(kind), "[PAD]")
    written(ours, tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    back = load(tmp_path)
    assert isinstance(back, JsonTokenizer)
    assert (back.size, back.bos, back.eos, back.pad) == (ours.size, ours.bos, ours.eos, ours.pad)
    assert set(back.controls) == set(ours.controls)
    for text in strings(seed=12, count=size(5_000)):
        for starts in (True, False):
            ids = back.encode(text, starts=starts)
            assert ids == ours.encode(text, starts=starts), repr(text)
            assert back.decode(ids, starts=starts) == text.replace(SPACE, " ")
    assert load(written(with_pad(back, "<|end|>"), tmp_path)).pad is not None


def test_merges_of_their_own_are_followed_exactly(tmp_path):
    """A byte-level BPE that transformers' library trained: its merges, and not the ranks of what they make, decide."""
    import tokenizers

    from camelid.tokenizers.byte_bpe import byte_level
    from camelid.tokenizers.folder import LLAMA_3_PATTERN
    from tests.tokenizers.conftest import TALE

    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = byte_level(LLAMA_3_PATTERN)
    library.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"], show_progress=False
    )
    library.train_from_iterator([TALE * 20], trainer)
    library.save(str(tmp_path / "tokenizer.json"))
    ours = load(tmp_path)
    assert isinstance(ours, JsonTokenizer) and (ours.bos, ours.eos, ours.size) == (0, 1, 400)
    for text in strings(seed=13, count=size(3_000)):
        ids = ours.encode(text)
        assert ours.decode(ids) == text
        if plain(text, ours):
            assert ids == library.encode(text, add_special_tokens=False).ids


def test_no_merge_builds_a_control_or_byte_piece_from_text(pieces, tmp_path):
    """A file may list merges that spell out "<s>" or "<0x0A>"."""
    document = json.loads(pieces.files()["tokenizer.json"])
    vocabulary, merges = document["model"]["vocab"], []
    for left, right in [("<", "s>"), ("<", "0"), ("x", "0"), ("x0", "A"), ("x0A", ">"), ("<0", "x0A>")]:
        merges.append([left, right])
        for text in (left, right, left + right):
            vocabulary.setdefault(text, len(vocabulary))
    document["model"]["merges"] = [*merges, ["s", ">"], *document["model"]["merges"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), "utf-8")
    tokenizer = load(tmp_path)
    for text in ("<s>", "a<s>b", "</s>", "<unk>", "<0x0A>", "a<0x0A>"):
        for starts in (True, False):
            ids = tokenizer.encode(text, starts=starts)
            assert set(tokenizer.controls.values()).isdisjoint(ids)
            assert tokenizer.decode(ids, starts=starts) == text


def test_a_part_that_is_a_control_token_whole_stays_text(byte_level, tmp_path):
    """With "ignore_merges" a part of the text that is a token gets its id, so no control may stand among the texts."""
    document = json.loads(byte_level.files()["tokenizer.json"])
    document["model"]["vocab"] |= {"camelid": 420, "<s>": 421}
    document["added_tokens"] += [{"id": 420, "content": "camelid"}, {"id": 421, "content": "<s>"}]
    for kind in (ByteBPETokenizer, JsonTokenizer):
        (tmp_path / "tokenizer.json").write_text(json.dumps(document), "utf-8")
        tokenizer = load(tmp_path)
        assert isinstance(tokenizer, kind) and tokenizer.controls["camelid"] == 420
        ids = tokenizer.encode("camelid<s>")
        assert set(tokenizer.controls.values()).isdisjoint(ids) and tokenizer.decode(ids) == "camelid<s>"
        document["model"]["merges"].pop()  # no longer what the ranks say


def test_bytes_and_their_printable_characters_are_gpt_2s(byte_level):
    import tokenizers

    assert set(BYTE_TO_CHARACTER.values()) == set(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    assert hidden(shown(bytes(range(256)))) == bytes(range(256)) and hidden(" ") is None
    assert shown(" é\n".encode()) == "ĠÃ©Ċ"
