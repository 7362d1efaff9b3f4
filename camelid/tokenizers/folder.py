"""The files by which a Hugging Face folder describes a tokenizer, so that transformers yields the same ids."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from camelid.tokenizers.sentencepiece_file import Kind, Model

# code: llama3/llama/tokenizer.py
LLAMA_3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def config_files(roles: Mapping[str, str], controls: Mapping[str, int], kind: str) -> dict[str, bytes]:
    """tokenizer_config.json and special_tokens_map.json; `roles` names the tokens for bos, eos, pad and unk."""
    named = {f"{role}_token": name for role, name in roles.items()}
    config = {
        "added_tokens_decoder": {str(id): _flags(name) for name, id in _by_id(controls)},
        "add_bos_token": "bos" in roles,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": kind,
        **named,
    }
    return {"tokenizer_config.json": _json(config), "special_tokens_map.json": _json(named)}


def sentencepiece_json(model: Model, controls: Mapping[str, int], bos: int | None) -> bytes:
    """A SentencePiece BPE model as tokenizer.json. Its merges are all pairs of pieces that make a piece, best first.

    The dummy prefix is a normaliser: like the reference, it goes before every stretch of text between control tokens.
    """
    normaliser: list[Any] = [{"type": "Prepend", "prepend": "▁"}] if model.dummy_prefix else []
    normaliser.append({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})
    decoder: list[Any] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if model.dummy_prefix:
        decoder.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    unknown = next(piece.text for piece in model.pieces if piece.kind == Kind.UNKNOWN)
    vocabulary = {piece.text: id for id, piece in enumerate(model.pieces)}
    return _document(
        controls,
        normalizer={"type": "Sequence", "normalizers": normaliser},
        pre_tokenizer=None,
        post_processor=begins_with(bos, controls),
        decoder={"type": "Sequence", "decoders": decoder},
        model=_bpe(
            vocabulary, _piece_merges(model), unk_token=unknown, fuse_unk=True, byte_fallback=model.byte_fallback
        ),
    )


def byte_bpe_json(tokens: Sequence[bytes], controls: Mapping[str, int], bos: int | None) -> bytes:
    """Byte-level BPE ranks as tokenizer.json, in the layout of Llama 3's own."""
    split = {"type": "Split", "pattern": {"Regex": LLAMA_3_PATTERN}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    vocabulary = {shown(token): rank for rank, token in enumerate(tokens)}
    merges = [pair for text in vocabulary for pair in pairs(text, vocabulary)]  # tiktoken's rule: any pair, by rank
    return _document(
        controls,
        normalizer=None,
        pre_tokenizer={"type": "Sequence", "pretokenizers": [split, level]},
        post_processor=begins_with(bos, controls),
        decoder={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        model=_bpe(vocabulary, merges, ignore_merges=True),
    )


# --- merges -----------------------------------------------------------------------------------------------------------


def _piece_merges(model: Model) -> list[tuple[str, str]]:
    """Every pair of text pieces that makes a text piece, in the order in which SentencePiece prefers them."""
    texts = {piece.text for piece in model.pieces if piece.kind == Kind.NORMAL}
    ranked = sorted((-piece.score, id) for id, piece in enumerate(model.pieces) if piece.kind == Kind.NORMAL)
    return [pair for _, id in ranked for pair in pairs(model.pieces[id].text, texts)]


def pairs(whole: str, known: Collection[str]) -> list[tuple[str, str]]:
    """The ways to make `whole` from two known texts."""
    cuts = [(whole[:cut], whole[cut:]) for cut in range(1, len(whole))]
    return [(left, right) for left, right in cuts if left in known and right in known]


# --- bytes as printable characters (GPT-2's table) --------------------------------------------------------------------


def _printable() -> dict[int, str]:
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [value for value in range(256) if value not in plain]
    return {value: chr(value) for value in plain} | {value: chr(256 + place) for place, value in enumerate(others)}


BYTE_TO_CHARACTER = _printable()
CHARACTER_TO_BYTE = {character: value for value, character in BYTE_TO_CHARACTER.items()}


def shown(token: bytes) -> str:
    """The bytes of a token as the printable characters of byte-level BPE files."""
    return "".join([BYTE_TO_CHARACTER[value] for value in token])


def hidden(text: str) -> bytes | None:
    """The bytes that printable characters stand for; None where one stands for none."""
    try:
        return bytes([CHARACTER_TO_BYTE[character] for character in text])
    except KeyError:
        return None


# --- the document -----------------------------------------------------------------------------------------------------


def added_token(name: str, id: int) -> dict[str, Any]:
    """A control token as tokenizer.json lists it."""
    return {"id": id, **_flags(name)}


def _flags(name: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"content": name, **flags}


def _by_id(controls: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(controls.items(), key=lambda item: item[1])


def _document(controls: Mapping[str, int], **sections: Any) -> bytes:
    added = [added_token(name, id) for name, id in _by_id(controls)]
    head = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added}
    return _json(head | sections)


def begins_with(bos: int | None, controls: Mapping[str, int]) -> dict[str, Any] | None:
    """The post-processor of tokenizer.json that puts the begin token first; None without one."""
    if bos is None:
        return None
    name = next(name for name, id in controls.items() if id == bos)
    first = {"SpecialToken": {"id": name, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [
            first,
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": name, "type_id": 1}},
            {"Sequence": {"id": "B", "type_id": 1}},
        ],
        "special_tokens": {name: {"id": name, "ids": [bos], "tokens": [name]}},
    }


def _bpe(vocabulary: Mapping[str, int], merges: Iterable[tuple[str, str]], **settings: Any) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
    }
    return defaults | settings | {"vocab": dict(vocabulary), "merges": [list(pair) for pair in merges]}


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1 if len(str(value)) < 100_000 else None).encode("utf-8")
