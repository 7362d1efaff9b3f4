"""Tokenizers as GGUF keeps them: every token's text, with scores (SentencePiece) or merges (byte-level BPE).

    tokenizer.ggml.model       "llama" for SentencePiece BPE, "gpt2" for byte-level BPE
    tokenizer.ggml.pre         the pattern that parts text for the second: "llama-bpe" or "gpt-2"
    tokenizer.ggml.tokens      one text for each row of the embedding; rows beyond the tokenizer are "[PADn]", unused
    tokenizer.ggml.token_type  SentencePiece's numbers: 1 text, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte
    tokenizer.ggml.scores · merges · bos_token_id ... · add_bos_token · add_space_prefix

Every token that is not text is written as a control token, so that llama.cpp, too, makes none of them from text unless
it is asked to. What the format has no place for (the other records of a SentencePiece model) stands beside it in
camelid's own keys, so that a tokenizer comes back with its digest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from camelid.checkpoints.gguf_file import Value
from camelid.errors import BadFile, Problem, UsageError
from camelid.tokenizers.byte_bpe import ByteBPETokenizer
from camelid.tokenizers.folder import LLAMA_3_PATTERN, added_token, begins_with, pairs, shown
from camelid.tokenizers.hugging_face import GPT_2_PATTERN, JsonTokenizer, from_document
from camelid.tokenizers.protocol import Tokenizer
from camelid.tokenizers.sentencepiece import SentencePieceTokenizer
from camelid.tokenizers.sentencepiece_file import BYTE_PIECES, Kind, Model, Piece, parse

PREFIX = "tokenizer.ggml."
MODEL, PRE, TOKENS, SCORES, TYPES, MERGES = (
    PREFIX + name for name in ("model", "pre", "tokens", "scores", "token_type", "merges")
)
ROLES = {"bos": PREFIX + "bos_token_id", "eos": PREFIX + "eos_token_id", "pad": PREFIX + "padding_token_id"}
UNKNOWN = PREFIX + "unknown_token_id"
ADD_BOS, ADD_EOS, ADD_PREFIX = PREFIX + "add_bos_token", PREFIX + "add_eos_token", PREFIX + "add_space_prefix"
REST = "camelid.sentencepiece.rest"  # the model file's other records
OWN_PIECES = "camelid.sentencepiece.pieces"  # how many tokens are the model's; the others were added
USER_DEFINED = "camelid.sentencepiece.user_defined"

TEXT, CONTROL, UNUSED = int(Kind.NORMAL), int(Kind.CONTROL), int(Kind.UNUSED)
LOWEST = -1000.0  # a score for tokens that no text reaches; llama.cpp's converter: convert_hf_to_gguf.py

# llama.cpp, src/llama-vocab.cpp: the patterns by name, and whether a part that is a token is left whole.
PATTERNS = {
    "llama-bpe": (LLAMA_3_PATTERN, True),
    "llama3": (LLAMA_3_PATTERN, True),
    "llama-v3": (LLAMA_3_PATTERN, True),
    "gpt-2": (GPT_2_PATTERN, False),
}
REMEDY = "only the vocabularies of Llama models can be read; convert the model anew from its folder"

# The trainer's and the normaliser's record of a BPE model with byte fallback that keeps text as it is: fields 3 (model
# type) and 35 (byte fallback); "identity", dummy prefix or none, extra whitespace kept, spaces escaped.
_TRAINER = b"\x12\x05\x18\x02\x98\x02\x01"
_NORMALISER = b"\x1a\x10\x0a\x08identity\x18%c\x20\x00\x28\x01"


# --- writing --------------------------------------------------------------------------------------------------------


def keys_of(tokenizer: Tokenizer, rows: int) -> dict[str, Value | bytes]:
    """The keys of a GGUF file that describe this tokenizer to a model with so many rows.

    Raises UsageError for a tokenizer whose ids llama.cpp could not reproduce.
    """
    if isinstance(tokenizer, SentencePieceTokenizer):
        keys = _of_model(tokenizer, rows)
    elif isinstance(tokenizer, ByteBPETokenizer):
        texts = {shown(token): rank for rank, token in enumerate(tokenizer.tokens)}
        merges = [pair for text in texts for pair in pairs(text, texts)]  # any pair that makes a token, by rank
        keys = _of_merges(texts, tokenizer, "llama-bpe", merges, rows)
    elif isinstance(tokenizer, JsonTokenizer):
        keys = _of_document(tokenizer, rows)
    else:
        raise _unwritable(f"a {type(tokenizer).__name__} has no form in GGUF")
    for role, key in ROLES.items():
        id = getattr(tokenizer, role)
        if id is not None:
            keys[key] = int(id)
    return keys | {ADD_BOS: tokenizer.bos is not None, ADD_EOS: False}


def _unwritable(found: str) -> UsageError:
    remedy = "write the model without a tokenizer, or keep it in Hugging Face's format"
    return UsageError([Problem("tokenizer", found, remedy)])


def _of_model(tokenizer: SentencePieceTokenizer, rows: int) -> dict[str, Value | bytes]:
    model = parse(tokenizer.model, "tokenizer.model")
    if model.algorithm != 2 or not model.byte_fallback or not model.keeps_text:
        raise _unwritable("llama.cpp needs SentencePiece BPE with byte fallback and without normalisation")
    pieces = [(piece.text, piece.score, int(piece.kind)) for piece in model.pieces]
    defined = [id for id, (_, _, kind) in enumerate(pieces) if kind == Kind.USER_DEFINED]
    pieces = [(text, score, CONTROL if kind == Kind.USER_DEFINED else kind) for text, score, kind in pieces]
    keys = _pieces(pieces, tokenizer.added, rows)
    unknown = next(id for id, (_, _, kind) in enumerate(pieces) if kind == Kind.UNKNOWN)
    keys |= {UNKNOWN: unknown, ADD_PREFIX: model.dummy_prefix, REST: model.rest, OWN_PIECES: len(model.pieces)}
    return keys | ({USER_DEFINED: np.array(defined, np.int32)} if defined else {})


def _pieces(pieces: Sequence[tuple[str, float, int]], added: Mapping[str, int], rows: int) -> dict[str, Value | bytes]:
    by_id = sorted(added.items(), key=lambda item: item[1])
    whole = _filled([*pieces, *((name, LOWEST, CONTROL) for name, _ in by_id)], rows)
    return {
        MODEL: "llama",
        PRE: "default",
        TOKENS: [text for text, _, _ in whole],
        SCORES: np.array([score for _, score, _ in whole], np.float32),
        TYPES: np.array([kind for _, _, kind in whole], np.int32),
    }


def _filled(pieces: list[tuple[str, float, int]], rows: int) -> list[tuple[str, float, int]]:
    """Unused tokens for the rows beyond the tokenizer's ids."""
    return pieces + [(f"[PAD{id}]", LOWEST, UNUSED) for id in range(len(pieces), rows)]


def _of_merges(
    texts: Mapping[str, int], tokenizer: Tokenizer, pre: str, merges: Sequence[tuple[str, str]], rows: int
) -> dict[str, Value | bytes]:
    named = {id: (text, 0.0, TEXT) for text, id in texts.items()}
    named |= {id: (name, 0.0, CONTROL) for name, id in tokenizer.controls.items()}
    whole = _filled([named[id] for id in range(len(named))], rows)
    return {
        MODEL: "gpt2",
        PRE: pre,
        TOKENS: [text for text, _, _ in whole],
        TYPES: np.array([kind for _, _, kind in whole], np.int32),
        MERGES: [f"{left} {right}" for left, right in merges],
    }


def _of_document(tokenizer: JsonTokenizer, rows: int) -> dict[str, Value | bytes]:
    if tokenizer.pattern:
        wanted = (tokenizer.pattern, tokenizer.whole_first)
        names = [name for name, rule in PATTERNS.items() if rule == wanted]
        if not names:
            raise _unwritable("llama.cpp knows its pattern only with another rule for whole words")
        return _of_merges(tokenizer.vocabulary, tokenizer, names[0], tokenizer.merges, rows)
    scores = _scores(tokenizer)
    if scores is None:
        raise _unwritable("its merges follow no order of tokens, and llama.cpp merges by scores of tokens")
    table: list[tuple[str, float, int]] = [("", 0.0, 0)] * tokenizer.size
    for text, id in tokenizer.vocabulary.items():
        table[id] = (text, scores.get(text, LOWEST), int(Kind.BYTE) if text in BYTE_PIECES else TEXT)
    for name, id in tokenizer.controls.items():
        table[id] = (name, 0.0, int(Kind.UNKNOWN) if name == "<unk>" else CONTROL)
    if "<unk>" not in tokenizer.controls:
        raise _unwritable("it has no token <unk>")
    keys = _pieces(table, {}, rows)
    return keys | {UNKNOWN: tokenizer.controls["<unk>"], ADD_PREFIX: tokenizer.prefixed}


def _scores(tokenizer: JsonTokenizer) -> dict[str, float] | None:
    """Scores by which SentencePiece prefers exactly what the merges say; None where there are none."""
    texts = {text for text in tokenizer.vocabulary if text not in BYTE_PIECES}
    scores: dict[str, float] = {}
    for left, right in tokenizer.merges:
        scores.setdefault(left + right, -float(len(scores)))
    places = [scores[left + right] for left, right in tokenizer.merges]
    every = {pair for text in texts for pair in pairs(text, texts)}
    return scores if places == sorted(places, reverse=True) and set(tokenizer.merges) == every else None


# --- reading --------------------------------------------------------------------------------------------------------


def tokenizer_of(keys: Mapping[str, Value], path: Path) -> Tokenizer:
    """The tokenizer that a GGUF file describes. Raises BadFile for one that is none of ours, or unsound."""
    tokens, types = keys.get(TOKENS), keys.get(TYPES)
    kind = keys.get(MODEL)
    if kind not in ("llama", "gpt2"):
        raise BadFile(path, MODEL, f"{str(kind)[:40]!r} is neither 'llama' nor 'gpt2'", REMEDY)
    if not isinstance(tokens, list) or not tokens:
        raise BadFile(path, TOKENS, "is missing or no array of texts", REMEDY)
    if types is None and kind == "gpt2":
        raise BadFile(path, TYPES, "is missing, so nothing tells text from control tokens", REMEDY)
    kinds = [TEXT] * len(tokens) if types is None else _numbers(keys, TYPES, "iI", len(tokens), path)
    count = len(tokens)
    while count and kinds[count - 1] == UNUSED and tokens[count - 1] == f"[PAD{count - 1}]":
        count -= 1
    read = _from_model if kind == "llama" else _from_merges
    return read(keys, tokens[:count], [int(one) for one in kinds[:count]], path)


def _numbers(keys: Mapping[str, Value], key: str, codes: str, count: int, path: Path) -> list[Any]:
    values = keys.get(key)
    if not isinstance(values, np.ndarray) or values.dtype.char not in codes or len(values) != count:
        raise BadFile(path, key, f"is no array of {count} numbers, one for each token", REMEDY)
    found: list[Any] = values.tolist()
    return found


def _roles(keys: Mapping[str, Value], tokens: Sequence[str], path: Path) -> dict[str, str]:
    """The tokens for begin, end and padding, by name."""
    names: dict[str, str] = {}
    for role, key in ROLES.items():
        id = keys.get(key)
        if id is None:
            continue
        if type(id) is not int or not 0 <= id < len(tokens):
            raise BadFile(path, key, f"{str(id)[:40]} is no id of the {len(tokens)}", REMEDY)
        names[role] = tokens[id]
    return names


def _from_model(keys: Mapping[str, Value], tokens: Sequence[str], kinds: Sequence[int], path: Path) -> Tokenizer:
    scores = _numbers(keys, SCORES, "f", len(kinds) + _unused(keys, tokens), path)
    own, rest = keys.get(OWN_PIECES, len(tokens)), keys.get(REST)
    if type(own) is not int or not 0 < own <= len(tokens):
        raise BadFile(path, OWN_PIECES, f"{str(own)[:40]} of {len(tokens)} tokens", REMEDY)
    if rest is not None and not (isinstance(rest, np.ndarray) and rest.dtype == np.uint8):
        raise BadFile(path, REST, "is no array of bytes", REMEDY)
    for id, kind in enumerate(kinds):
        if kind not in Kind._value2member_map_:
            raise BadFile(path, TYPES, f"token {id} has type {kind}", REMEDY)
        if id >= own and kind != CONTROL:
            raise BadFile(path, TYPES, f"token {id} was added, but has type {kind}", REMEDY)
    kinds = _with_unknown(keys, _defined(keys, kinds, path))
    pieces = [Piece(*each) for each in zip(tokens[:own], scores, map(Kind, kinds[:own]), strict=False)]
    prefix = keys.get(ADD_PREFIX, True)
    records = _TRAINER + _NORMALISER % bool(prefix) if rest is None else rest.tobytes()
    written = Model(tuple(pieces), 2, True, bool(prefix), True, records).written()
    roles = _roles(keys, tokens, path)
    if rest is None:  # foreign files may leave out what llama.cpp takes for granted: src/llama-vocab.cpp
        for role, id in (("bos", 1), ("eos", 2)):
            if ROLES[role] not in keys and id < len(kinds) and kinds[id] == CONTROL:
                roles[role] = tokens[id]
    added = {name: own + place for place, name in enumerate(tokens[own:])}
    tokenizer = SentencePieceTokenizer.from_bytes(written, added=added, path=path, **roles)
    wanted = {role: tokenizer.controls[roles[role]] if role in roles else None for role in ROLES}
    model = parse(written, path)
    if model.algorithm != 2 or not model.keeps_text or model.dummy_prefix != bool(prefix):
        raise BadFile(path, REST, "says something else than the keys beside it", REMEDY)
    if wanted == {"bos": tokenizer.bos, "eos": tokenizer.eos, "pad": tokenizer.pad}:
        return tokenizer
    return replace(tokenizer, bos=wanted["bos"], eos=wanted["eos"], pad=wanted["pad"])


def _unused(keys: Mapping[str, Value], tokens: Sequence[str]) -> int:
    """How many tokens at the end stand for no id of the tokenizer."""
    listed = keys[TOKENS]
    return len(listed) - len(tokens) if isinstance(listed, list) else 0


def _defined(keys: Mapping[str, Value], kinds: Sequence[int], path: Path) -> list[int]:
    """The kinds, with user-defined pieces called so again."""
    ids, found = keys.get(USER_DEFINED), list(kinds)
    if ids is None:
        return found
    if not isinstance(ids, np.ndarray) or ids.dtype.kind not in "iu":
        raise BadFile(path, USER_DEFINED, "is no array of ids", REMEDY)
    for id in ids.tolist():
        if not 0 <= id < len(found) or found[id] != CONTROL:
            raise BadFile(path, USER_DEFINED, f"{id} is no control token", REMEDY)
        found[id] = int(Kind.USER_DEFINED)
    return found


def _with_unknown(keys: Mapping[str, Value], kinds: list[int]) -> list[int]:
    """The kinds, where none is the unknown token: with that one which the keys name, as control, made it.

    llama.cpp's converter calls it control where tokenizer_config.json lists it among the special tokens.
    """
    id = keys.get(UNKNOWN, 0)  # llama.cpp's default: src/llama-vocab.cpp
    if Kind.UNKNOWN not in kinds and type(id) is int and 0 <= id < len(kinds) and kinds[id] == CONTROL:
        return [*kinds[:id], int(Kind.UNKNOWN), *kinds[id + 1 :]]
    return kinds


def _from_merges(keys: Mapping[str, Value], tokens: Sequence[str], kinds: Sequence[int], path: Path) -> Tokenizer:
    pre, merges = keys.get(PRE), keys.get(MERGES)
    if not isinstance(pre, str) or pre not in PATTERNS:
        raise BadFile(path, PRE, f"{str(pre)[:40]!r} is none of {', '.join(PATTERNS)}", REMEDY)
    if not isinstance(merges, list):
        raise BadFile(path, MERGES, "is missing or no array of texts", REMEDY)
    if len(set(tokens)) != len(tokens):
        raise BadFile(path, TOKENS, f"{len(tokens) - len(set(tokens))} tokens stand there twice", REMEDY)
    odd = next((id for id, kind in enumerate(kinds) if kind not in (TEXT, CONTROL, Kind.USER_DEFINED)), None)
    if odd is not None:
        raise BadFile(path, TYPES, f"token {odd} has type {kinds[odd]}", REMEDY)
    pattern, whole_first = PATTERNS[pre]
    roles = _roles(keys, tokens, path)
    controls = {tokens[id]: id for id, kind in enumerate(kinds) if kind != TEXT}
    for role, name in roles.items():
        if name not in controls:
            raise BadFile(path, ROLES[role], f"{name[:40]!r} is no control token", REMEDY)
    document = {
        "version": "1.0",
        "added_tokens": [added_token(name, id) for name, id in controls.items()],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": begins_with(controls.get(roles.get("bos", "")), controls),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "ignore_merges": whole_first,
            "vocab": {text: id for id, text in enumerate(tokens)},
            "merges": merges,
        },
    }
    tokenizer = from_document(document, path, **roles)
    bos, eos, pad = (controls.get(roles.get(role, "")) for role in ROLES)
    return replace(tokenizer, bos=bos, eos=eos, pad=pad)
