"""Tokenizers from folders and files, recognised by content and never by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from camelid.durable import parse_json, read_bytes
from camelid.errors import BadFile
from camelid.tokenizers.byte_bpe import ByteBPETokenizer
from camelid.tokenizers.hugging_face import from_document
from camelid.tokenizers.protocol import Tokenizer
from camelid.tokenizers.sentencepiece import SentencePieceTokenizer
from camelid.tokenizers.sentencepiece_file import parse

MAX_BYTES = 64 << 20  # the largest of the family, a tokenizer.json of Llama 3.1, has 17 MB
MAX_CONFIG_BYTES = 8 << 20
MAX_DEPTH = 16
NAMES = ("tokenizer.model", "tokenizer.json")
ROLES = ("bos", "eos", "pad")


def read(path: Path) -> Tokenizer:
    """The tokenizer in a folder or file; see `camelid.tokenizers.load`."""
    if not path.is_dir():
        return _from_bytes(read_bytes(path, max_bytes=MAX_BYTES), path, {}, {})
    source = next((path / name for name in NAMES if (path / name).exists()), None)
    if source is None:
        raise BadFile(path, "", f"holds neither {' nor '.join(NAMES)}", "name a folder or file with a tokenizer")
    added, roles = _settings(path)
    return _from_bytes(read_bytes(source, max_bytes=MAX_BYTES), source, added, roles)


def _from_bytes(data: bytes, path: Path, added: Mapping[int, str], roles: Mapping[str, str]) -> Tokenizer:
    if not data.strip():
        raise BadFile(path, "", "is empty", "copy it again whole")
    if data.startswith(b"version https://git-lfs"):
        raise BadFile(path, "", "is a Git LFS pointer, not the file itself", "fetch it with git lfs pull")
    if data.lstrip()[:1] == b"{":
        return from_document(parse_json(data, path, max_depth=MAX_DEPTH), path, **roles)
    if _is_rank_file(data):
        return _from_ranks(data, path, added, roles)
    if data[:1] == b"\x0a":
        return _from_model(data, path, added, roles)
    found = f"begins with {data[:8]!r}"
    raise BadFile(path, "", found, "expected a SentencePiece model, tiktoken ranks or a tokenizer.json")


def _is_rank_file(data: bytes) -> bool:
    line = data[:8192].split(b"\n", 1)[0].rstrip(b"\r")
    return line.endswith(b" 0") and line.isascii()


def _from_ranks(data: bytes, path: Path, added: Mapping[int, str], roles: Mapping[str, str]) -> Tokenizer:
    tokenizer = ByteBPETokenizer.from_ranks(data, path=path)
    first = len(tokenizer.tokens)
    if added:
        if sorted(added) != list(range(first, first + len(added))):
            raise BadFile(path.parent, "added tokens", f"their ids do not follow on from {first}", _WRONG_CONFIG)
        tokenizer = ByteBPETokenizer.from_tokens(tokenizer.tokens, controls={added[id]: id for id in sorted(added)})
    found: dict[str, Any] = {}
    for role, name in roles.items():
        if name not in tokenizer.controls:
            raise BadFile(path.parent, f"{role}_token", f"{name[:40]!r} is no control token", _WRONG_CONFIG)
        found[role] = tokenizer.controls[name]
    return ByteBPETokenizer(
        **{"bos": tokenizer.bos, "eos": tokenizer.eos} | found, tokens=tokenizer.tokens, controls=tokenizer.controls
    )


_WRONG_CONFIG = "correct tokenizer_config.json, or take it away"


def _from_model(data: bytes, path: Path, added: Mapping[int, str], roles: Mapping[str, str]) -> Tokenizer:
    pieces = parse(data, path).pieces if added else ()
    for id, name in added.items():
        if id < len(pieces) and pieces[id].text != name:
            found = f"{name[:40]!r} is said to be {id}, which is {pieces[id].text[:40]!r} in {path.name}"
            raise BadFile(path.parent, "added tokens", found, _WRONG_CONFIG)
    beyond = {name: id for id, name in added.items() if id >= len(pieces)}
    return SentencePieceTokenizer.from_bytes(data, added=beyond, path=path, **roles)


# --- the configuration beside it --------------------------------------------------------------------------------------


def _settings(folder: Path) -> tuple[dict[int, str], dict[str, str]]:
    """The added tokens by id, and the names for begin, end and padding, as the files of the folder say."""
    config = _object(folder / "tokenizer_config.json", MAX_CONFIG_BYTES)
    special = _object(folder / "special_tokens_map.json", MAX_CONFIG_BYTES)
    added: dict[int, str] = {}
    listed = config.get("added_tokens_decoder")
    if isinstance(listed, dict):
        for id, token in listed.items():
            _put(added, id, token.get("content") if isinstance(token, dict) else None, folder / "tokenizer_config.json")
    for name, id in _object(folder / "added_tokens.json", MAX_CONFIG_BYTES).items():
        _put(added, id, name, folder / "added_tokens.json")
    if not added and (folder / "tokenizer.model").exists():
        tokens = _object(folder / "tokenizer.json", MAX_BYTES).get("added_tokens")
        for token in tokens if isinstance(tokens, list) else []:
            if isinstance(token, dict):
                _put(added, token.get("id"), token.get("content"), folder / "tokenizer.json")
    if len(set(added.values())) != len(added):
        raise BadFile(folder, "added tokens", "one name has two ids", _WRONG_CONFIG)
    roles = {role: _name(config.get(f"{role}_token") or special.get(f"{role}_token")) for role in ROLES}
    return added, {role: name for role, name in roles.items() if name}


def _object(path: Path, max_bytes: int) -> dict[str, Any]:
    if not path.exists():
        return {}
    value = parse_json(read_bytes(path, max_bytes=max_bytes), path, max_depth=MAX_DEPTH)
    if not isinstance(value, dict):
        raise BadFile(path, "", "is no JSON object", "take the original file")
    return value


def _put(added: dict[int, str], id: object, name: object, path: Path) -> None:
    number = int(id) if isinstance(id, str) and id.isascii() and id.isdigit() and len(id) < 8 else id
    if type(number) is not int or not 0 <= number < 10**7 or not isinstance(name, str) or not name:
        raise BadFile(path, "added tokens", f"{str(name)[:40]!r} with id {str(id)[:40]!r}", "take the original file")
    if added.setdefault(number, name) != name:
        found = f"{name[:40]!r} and {added[number][:40]!r} both have id {number}"
        raise BadFile(path, "added tokens", found, _WRONG_CONFIG)


def _name(token: object) -> str:
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""
