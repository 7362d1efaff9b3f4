"""Hugging Face's tokenizer.json: checked content, handed piece by piece to the tokenizers library.

Two forms are read, byte-level BPE (Llama 3) and BPE with byte fallback (LLaMA 1 and 2). What a file lists as added
tokens is taken out of the text vocabulary and its merges, so no text yields a control id. The dummy prefix of the
second form is SentencePiece's, however the file spells it: one space before text that starts, another space or not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import tokenizers
from tokenizers import models, normalizers

from camelid.errors import BadFile
from camelid.tokenizers.byte_bpe import ByteBPETokenizer, byte_level
from camelid.tokenizers.decoding import ByteStream, ByteTable, grown, utf8
from camelid.tokenizers.folder import LLAMA_3_PATTERN, added_token, config_files, hidden, pairs
from camelid.tokenizers.sentencepiece_file import BYTE_PIECES

MAX_IDS = 1_000_000
SPACE = "\u2581"
GPT_2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PATTERNS = (LLAMA_3_PATTERN, GPT_2_PATTERN)  # a pattern from a file is only ever compared, never compiled
REMEDY = "only the tokenizer.json of Llama models can be read"

Merge = tuple[str, str]


@dataclass(frozen=True)
class JsonTokenizer:
    """A tokenizer.json whose rule is its own list of merges. `pattern` parts text for byte-level BPE; "" for pieces."""

    document: Mapping[str, Any] = field(repr=False)
    vocabulary: Mapping[str, int] = field(repr=False)
    merges: tuple[Merge, ...] = field(repr=False)
    controls: Mapping[str, int]
    pattern: str = ""
    whole_first: bool = False  # a part that is a token is not merged ("ignore_merges")
    prefixed: bool = False
    bos: int | None = None
    eos: int | None = None
    pad: int | None = None

    @property
    def size(self) -> int:
        return len(self.vocabulary) + len(self.controls)

    def encode(self, text: str, *, starts: bool = True) -> list[int]:
        utf8(text)
        encoder = self._starting if starts and self.prefixed else self._continuing
        return list(encoder.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int], *, starts: bool = True) -> str:
        return self._table.decode(ids, starts=starts)

    def stream(self, *, starts: bool = True) -> ByteStream:
        return self._table.stream(starts=starts)

    def bytes_of(self, id: int) -> bytes:
        return self._table.bytes_of(id)

    def piece(self, id: int) -> str:
        self._table.bytes_of(id)
        return self._names[id]

    def files(self) -> dict[str, bytes]:
        """tokenizer.json, with what was added since, and the configuration."""
        added = [added_token(name, id) for name, id in sorted(self.controls.items(), key=lambda item: item[1])]
        document = {**self.document, "added_tokens": added}
        roles = {"bos": self.bos, "eos": self.eos, "pad": self.pad}
        names = {role: self._names[id] for role, id in roles.items() if id is not None}
        written = json.dumps(document, ensure_ascii=False).encode("utf-8")
        return {"tokenizer.json": written} | config_files(names, self.controls, "PreTrainedTokenizerFast")

    def digest(self) -> str:
        rule = [self.pattern, self.whole_first, self.prefixed, self.bos, self.eos, self.pad]
        defining = [sorted(self.vocabulary.items()), self.merges, sorted(self.controls.items()), rule]
        return hashlib.sha256(json.dumps(defining).encode()).hexdigest()

    def with_controls(self, names: Sequence[str]) -> JsonTokenizer:
        """The same tokenizer with further control tokens after the last id; names that exist keep their id."""
        added = grown(self.controls, self.size, names, self.vocabulary)
        return replace(self, controls=dict(self.controls) | added)

    def with_pad(self, name: str) -> JsonTokenizer:
        """The same tokenizer, padding with the control token of this name, which is added if need be."""
        tokenizer = self.with_controls([name])
        return replace(tokenizer, pad=tokenizer.controls[name])

    @cached_property
    def _names(self) -> Mapping[int, str]:
        return {id: name for name, id in [*self.vocabulary.items(), *self.controls.items()]}

    @cached_property
    def _table(self) -> ByteTable:
        table = [b""] * self.size
        for text, id in self.vocabulary.items():
            table[id] = _bytes(text, bool(self.pattern))
        return ByteTable(table, prefixed=self.prefixed)

    @cached_property
    def _continuing(self) -> tokenizers.Tokenizer:
        encoder = tokenizers.Tokenizer(
            models.BPE(
                vocab=dict(self.vocabulary),
                merges=list(self.merges),
                byte_fallback=not self.pattern,
                ignore_merges=self.whole_first,
            )
        )
        if self.pattern:
            encoder.pre_tokenizer = byte_level(self.pattern)
        else:
            encoder.normalizer = normalizers.Replace(" ", SPACE)
        return encoder

    @cached_property
    def _starting(self) -> tokenizers.Tokenizer:
        encoder = tokenizers.Tokenizer(self._continuing.model)
        encoder.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
        return encoder


def _bytes(text: str, byte_level: bool) -> bytes:
    if byte_level:
        return hidden(text) or b""
    if text in BYTE_PIECES:
        return bytes([int(text[3:5], 16)])
    return text.replace(SPACE, " ").encode("utf-8")


# --- reading ----------------------------------------------------------------------------------------------------------


def from_document(
    document: object, path: Path | str, *, bos: str = "", eos: str = "", pad: str = ""
) -> ByteBPETokenizer | JsonTokenizer:
    """The tokenizer that the content of a tokenizer.json describes. Raises BadFile for any other content."""
    if not isinstance(document, dict) or not isinstance(document.get("model"), dict):
        raise BadFile(path, "model", "is missing, so this is no tokenizer.json", REMEDY)
    model: dict[str, Any] = document["model"]
    if model.get("type", "BPE") != "BPE":
        raise BadFile(path, "model.type", f"{str(model['type'])[:40]!r}", REMEDY)
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise BadFile(path, f"model.{key}", f"{str(model[key])[:40]!r}", REMEDY)
    form, pattern, prefixed = _form(document, path)
    if form == "pieces" and model.get("ignore_merges"):  # "<0x0A>" written as text would become a byte
        raise BadFile(path, "model.ignore_merges", "is on beside byte fallback", REMEDY)
    listed = _vocabulary(model.get("vocab"), path)
    controls = _added(document.get("added_tokens"), listed, path)
    unknown = model.get("unk_token")
    if isinstance(unknown, str) and unknown in listed:
        controls.setdefault(unknown, listed[unknown])
    vocabulary = {text: id for text, id in listed.items() if text not in controls}
    _check_ids([*vocabulary.values(), *controls.values()], path)
    _check_alphabet(vocabulary, form, path)
    merges = _merges(model.get("merges"), listed, vocabulary, path)
    tokenizer = JsonTokenizer(
        document=document,
        vocabulary=vocabulary,
        merges=merges,
        controls=controls,
        pattern=pattern,
        whole_first=model.get("ignore_merges") is True,
        prefixed=prefixed,
        bos=_role(bos, ("<|begin_of_text|>", "<s>"), controls, path),
        eos=_role(eos, ("<|end_of_text|>", "</s>"), controls, path),
        pad=_role(pad, (), controls, path),
    )
    return _by_ranks(tokenizer) or tokenizer


def _by_ranks(tokenizer: JsonTokenizer) -> ByteBPETokenizer | None:
    """The same tokenizer by tiktoken's rule, where that is exactly what its merges say; it is several times faster."""
    if tokenizer.pattern != LLAMA_3_PATTERN or not tokenizer.whole_first:
        return None
    ranked = sorted(tokenizer.vocabulary.items(), key=lambda item: item[1])
    if [id for _, id in ranked] != list(range(len(ranked))):
        return None
    ranks = [tokenizer.vocabulary[left + right] for left, right in tokenizer.merges]
    every = {pair for text, _ in ranked for pair in pairs(text, tokenizer.vocabulary)}
    if ranks != sorted(ranks) or set(tokenizer.merges) != every:
        return None
    tokens = tuple(hidden(text) or b"" for text, _ in ranked)
    return ByteBPETokenizer(tokens, tokenizer.controls, tokenizer.bos, tokenizer.eos, tokenizer.pad)


Form = Literal["bytes", "pieces"]


def _form(document: Mapping[str, Any], path: Path | str) -> tuple[Form, str, bool]:
    """Which of the two forms it is, the pattern of the first, whether the second has a dummy prefix."""
    normaliser, before = document.get("normalizer"), document.get("pre_tokenizer")
    if document["model"].get("byte_fallback") is True:
        steps = _steps(normaliser, "normalizers")
        prepends = [step for step in steps if step.get("type") == "Prepend" and step.get("prepend") == SPACE]
        replaces = [step for step in steps if step.get("type") == "Replace" and _replaces_spaces(step)]
        if len(steps) == len(prepends) + len(replaces) and len(replaces) == 1 and before is None:
            return "pieces", "", bool(prepends)
        if normaliser is None and _is(before, "Metaspace", replacement=SPACE, split=False):
            return "pieces", "", not _is(before, "Metaspace", prepend_scheme="never")
        raise BadFile(path, "normalizer", "does not only write spaces as U+2581", REMEDY)
    steps = _steps(before, "pretokenizers")
    levels = bool(steps) and _is(steps[-1], "ByteLevel", add_prefix_space=False)
    if normaliser is None and levels and len(steps) == 1 and steps[0].get("use_regex", True) is True:
        return "bytes", GPT_2_PATTERN, False
    if normaliser is None and levels and len(steps) == 2 and steps[1].get("use_regex") is False:
        pattern = steps[0].get("pattern")
        written = pattern.get("Regex") if isinstance(pattern, dict) else None
        whole = _is(steps[0], "Split", behavior="Isolated") and not steps[0].get("invert")
        if whole and written in PATTERNS:
            return "bytes", str(written), False
    raise BadFile(path, "pre_tokenizer", "parts text in an unknown way", REMEDY)


def _steps(value: object, key: str) -> list[dict[str, Any]]:
    steps = value.get(key, []) if isinstance(value, dict) and value.get("type") == "Sequence" else [value]
    if not isinstance(steps, list):
        return []
    return [step for step in steps if isinstance(step, dict)] if all(isinstance(step, dict) for step in steps) else []


def _is(value: Any, kind: str, **fields: object) -> bool:
    return isinstance(value, dict) and value.get("type") == kind and all(value.get(k) == v for k, v in fields.items())


def _replaces_spaces(step: Mapping[str, Any]) -> bool:
    return step.get("pattern") == {"String": " "} and step.get("content") == SPACE


def _vocabulary(value: object, path: Path | str) -> dict[str, int]:
    if not isinstance(value, dict) or not value:
        raise BadFile(path, "model.vocab", "is missing or empty", REMEDY)
    for text, id in value.items():
        if type(id) is not int or not 0 <= id < MAX_IDS:
            raise BadFile(path, "model.vocab", f"{text[:40]!r} has id {str(id)[:40]}", REMEDY)
    return dict(value)


def _added(value: object, listed: Mapping[str, int], path: Path | str) -> dict[str, int]:
    controls: dict[str, int] = {}
    for place, token in enumerate(value if isinstance(value, list) else []):
        name, id = (token.get("content"), token.get("id")) if isinstance(token, dict) else (None, None)
        where = f"added_tokens[{place}]"
        if not isinstance(name, str) or not name or type(id) is not int or not 0 <= id < MAX_IDS:
            raise BadFile(path, where, "is no token with content and id", REMEDY)
        if controls.setdefault(name, id) != id or listed.get(name, id) != id:
            raise BadFile(path, where, f"{name[:40]!r} has two ids", REMEDY)
    if value is not None and not isinstance(value, list):
        raise BadFile(path, "added_tokens", "is no list", REMEDY)
    return controls


def _check_ids(ids: Sequence[int], path: Path | str) -> None:
    if sorted(ids) != list(range(len(ids))):
        raise BadFile(path, "model.vocab", f"{len(ids)} ids that do not count up from 0 without gaps", REMEDY)


def _check_alphabet(vocabulary: Mapping[str, int], form: Form, path: Path | str) -> None:
    if form == "pieces":
        missing = len(BYTE_PIECES - vocabulary.keys())
    else:
        single = {hidden(text) for text in vocabulary if len(text) == 1}
        missing = sum(bytes([value]) not in single for value in range(256))
        strange = next((text for text in vocabulary if hidden(text) is None), None)
        if strange is not None:
            raise BadFile(path, "model.vocab", f"{strange[:40]!r} does not stand for bytes", REMEDY)
    if missing:
        raise BadFile(path, "model.vocab", f"{missing} single bytes have no token", "see whether the file was cut")


def _merges(
    value: object, listed: Mapping[str, int], vocabulary: Mapping[str, int], path: Path | str
) -> tuple[Merge, ...]:
    """The merges between texts; those that would build a control or byte piece from text are left out."""
    if not isinstance(value, list):
        raise BadFile(path, "model.merges", "is no list", REMEDY)
    merges: list[Merge] = []
    for place, item in enumerate(value):
        pair = item.split(" ") if isinstance(item, str) else item
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise BadFile(path, f"model.merges[{place}]", "is no pair of tokens", REMEDY)
        left, right = pair
        whole = left + right
        if whole not in listed or left not in listed or right not in listed:
            raise BadFile(path, f"model.merges[{place}]", "does not join two tokens to a third", REMEDY)
        if whole in vocabulary and whole not in BYTE_PIECES and left in vocabulary and right in vocabulary:
            merges.append((left, right))
    return tuple(merges)


def _role(name: str, usual: Sequence[str], controls: Mapping[str, int], path: Path | str) -> int | None:
    if name and name not in controls:
        raise BadFile(path, "added_tokens", f"{name[:40]!r} is not among them", "correct tokenizer_config.json")
    return next((controls[each] for each in ([name] if name else usual) if each in controls), None)
