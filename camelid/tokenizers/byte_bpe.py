"""Byte-level BPE: Llama 3's tokenizer, and new ones trained in its manner.

Ids are tiktoken's, also where tiktoken itself gives up: its pattern overflows a stack on some 700,000 whitespace
characters in a row. The reference code avoids that by encoding slices of 400,000 characters, cut again where 25,000
characters run on with or without whitespace, which changes ids at the cuts. Here long runs of whitespace are taken out
exactly as the pattern would, so there are no cuts. A lone surrogate is refused: it is not a character.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import tiktoken
import tokenizers

from camelid.errors import BadFile, ProblemList
from camelid.tokenizers.decoding import ByteStream, ByteTable, grown, utf8
from camelid.tokenizers.folder import CHARACTER_TO_BYTE, LLAMA_3_PATTERN, byte_bpe_json, config_files, shown

MAX_TOKENS = 1_000_000
MAX_TOKEN_BYTES = 4_096


def _llama_3_controls(named: Mapping[int, str]) -> tuple[str, ...]:
    """256 names: the given ones at their place after the ranks, the others reserved and numbered in order."""
    names, reserved = [], 0
    for place in range(256):
        if place in named:
            names.append(named[place])
        else:
            names.append(f"<|reserved_special_token_{reserved}|>")
            reserved += 1
    return tuple(names)


# code: llama3/llama/tokenizer.py. Places are counted from 128000.
_FIRST = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    9: "<|eot_id|>",
}
LLAMA_3_CONTROLS = _llama_3_controls(_FIRST)
# code: llama-models/models/llama3/tokenizer.py, the names since 3.1.
_SINCE_3_1 = {4: "<|finetune_right_pad_id|>", 5: "<|step_id|>", 8: "<|eom_id|>", 10: "<|python_tag|>", 11: "<|image|>"}
LLAMA_3_1_CONTROLS = _llama_3_controls(_FIRST | _SINCE_3_1)

# For vocabularies too small for 256 of them: those that the templates use, and one to pad with.
FEW_CONTROLS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|finetune_right_pad_id|>",
)


@dataclass(frozen=True)
class ByteBPETokenizer:
    """Tokens in the order of their ranks, and control tokens, which have the ids after them or ids of their own."""

    tokens: tuple[bytes, ...] = field(repr=False)
    controls: Mapping[str, int]
    bos: int | None = None
    eos: int | None = None
    pad: int | None = None

    @classmethod
    def from_ranks(
        cls, data: bytes, *, controls: Sequence[str] = LLAMA_3_CONTROLS, path: Path | str = "tokenizer.model"
    ) -> ByteBPETokenizer:
        """The tokenizer of a tiktoken file, one "base64 rank" a line, with control tokens after the last rank.

        Raises BadFile, naming `path` and the line.
        """
        tokens = read_ranks(data, path)
        return cls.from_tokens(tokens, controls={name: len(tokens) + place for place, name in enumerate(controls)})

    @classmethod
    def from_tokens(cls, tokens: Sequence[bytes], *, controls: Mapping[str, int]) -> ByteBPETokenizer:
        """The tokenizer of tokens in rank order; begin and end of text are found among the controls by their names."""
        bos, eos = controls.get("<|begin_of_text|>"), controls.get("<|end_of_text|>")
        return cls(tokens=tuple(tokens), controls=dict(controls), bos=bos, eos=eos)

    # --- the protocol -------------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        return len(self.tokens) + len(self.controls)

    def encode(self, text: str, *, starts: bool = True) -> list[int]:
        utf8(text)
        if len(text) < LONG or not (long := list(_LONG_SPACE.finditer(text))):
            return self._pieces.encode_ordinary(text)
        ids: list[int] = []
        for stretch, whole in _stretches(text, long):
            ids += (self._whole if whole else self._pieces).encode_ordinary(stretch)
        return ids

    def decode(self, ids: Iterable[int], *, starts: bool = True) -> str:
        return self._table.decode(ids, starts=starts)

    def stream(self, *, starts: bool = True) -> ByteStream:
        return self._table.stream(starts=starts)

    def bytes_of(self, id: int) -> bytes:
        return self._table.bytes_of(id)

    def piece(self, id: int) -> str:
        self._table.bytes_of(id)
        return shown(self.tokens[id]) if id < len(self.tokens) else self._names[id]

    def files(self) -> dict[str, bytes]:
        """tokenizer.json and the configuration."""
        roles = {"bos": self.bos, "eos": self.eos, "pad": self.pad}
        names = {role: self._names[id] for role, id in roles.items() if id is not None}
        files = {"tokenizer.json": byte_bpe_json(self.tokens, self.controls, self.bos)}
        return files | config_files(names, self.controls, "PreTrainedTokenizerFast")

    def digest(self) -> str:
        roles = repr((sorted(self.controls.items()), self.bos, self.eos, self.pad))
        return hashlib.sha256(self.model + roles.encode()).hexdigest()

    # --- beyond it ----------------------------------------------------------------------------------------------------

    @cached_property
    def model(self) -> bytes:
        """The ranks as a tiktoken file: Meta's tokenizer.model."""
        lines = (base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(self.tokens))
        return b"".join(lines)

    def with_controls(self, names: Sequence[str]) -> ByteBPETokenizer:
        """The same tokenizer with further control tokens after the last id; names that exist keep their id."""
        texts = {shown(token) for token in self.tokens}
        return replace(self, controls=dict(self.controls) | grown(self.controls, self.size, names, texts))

    def with_pad(self, name: str) -> ByteBPETokenizer:
        """The same tokenizer, padding with the control token of this name, which is added if need be."""
        tokenizer = self.with_controls([name])
        return replace(tokenizer, pad=tokenizer.controls[name])

    @cached_property
    def _names(self) -> Mapping[int, str]:
        return {id: name for name, id in self.controls.items()}

    @cached_property
    def _table(self) -> ByteTable:
        return ByteTable((*self.tokens, *[b""] * len(self.controls)))

    @cached_property
    def _pieces(self) -> tiktoken.Encoding:
        return _encoding(self.tokens, LLAMA_3_PATTERN)

    @cached_property
    def _whole(self) -> tiktoken.Encoding:
        return _encoding(self.tokens, r"[\s\S]+")


def _encoding(tokens: Sequence[bytes], pattern: str) -> tiktoken.Encoding:
    ranks = {token: rank for rank, token in enumerate(tokens)}
    return tiktoken.Encoding("camelid", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


# --- long runs of whitespace ------------------------------------------------------------------------------------------

LONG = 10_000
_SPACES = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # Unicode's White_Space, as in the pattern
_LONG_SPACE = re.compile(f"[{_SPACES}]{{{LONG},}}")
_SPACE = re.compile(f"[{_SPACES}]")


def _stretches(text: str, long: Sequence[re.Match[str]]) -> Iterator[tuple[str, bool]]:
    """The text in stretches that the pattern would part anyway, and whether a stretch is one piece of the pattern.

    A run of whitespace is parted thus: line ends right after punctuation belong to the punctuation; then one piece up
    to the last line end; then one piece of what is left, but for a last character that may join what follows.
    """
    done = 0
    for run in long:
        start, end = run.span()
        if start and _is_punctuation(text[start - 1]):
            while start < end and text[start] in "\r\n":
                start += 1
        yield text[done:start], False
        line_end = max(text.rfind("\n", start, end), text.rfind("\r", start, end)) + 1
        if line_end > start:
            yield text[start:line_end], True
            start = line_end
        done = end if end == len(text) else max(start, end - 1)
        if done > start:
            yield text[start:done], True
    yield text[done:], False


def _is_punctuation(character: str) -> bool:
    return not _SPACE.match(character) and unicodedata.category(character)[0] not in "LN"


# --- rank files -------------------------------------------------------------------------------------------------------


def read_ranks(data: bytes, path: Path | str) -> tuple[bytes, ...]:
    """The tokens of a tiktoken file in rank order. Ranks count up from 0; every single byte is among the tokens."""
    tokens: list[bytes] = []
    for number, line in enumerate(data.splitlines()):
        place = f"line {number + 1}"
        encoded, _, rank = line.partition(b" ")
        if rank != b"%d" % number or number >= MAX_TOKENS:
            raise BadFile(path, place, f"rank {rank[:20].decode('ascii', 'replace')!r}", f"expected {number}")
        try:
            token = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadFile(
                path, place, "a token that is not base64", "see whether the file was cut or edited"
            ) from error
        if not 0 < len(token) <= MAX_TOKEN_BYTES:
            raise BadFile(path, place, f"a token of {len(token)} bytes", f"expected 1 to {MAX_TOKEN_BYTES}")
        tokens.append(token)
    check_tokens(tokens, path)
    return tuple(tokens)


def check_tokens(tokens: Sequence[bytes], path: Path | str) -> None:
    """Raises BadFile unless the tokens differ from each other and every byte is one of them."""
    known = set(tokens)
    if len(known) != len(tokens):
        raise BadFile(path, "", f"{len(tokens) - len(known)} tokens stand there twice", "take the original file")
    missing = [value for value in range(256) if bytes([value]) not in known]
    if missing:
        raise BadFile(path, "", f"{len(missing)} single bytes have no token", "see whether the file was cut")


# --- training ---------------------------------------------------------------------------------------------------------


def train(texts: Iterable[str], *, vocab: int, controls: Sequence[str] = FEW_CONTROLS) -> ByteBPETokenizer:
    """A byte-level BPE of `vocab` ids, 256 bytes and the controls included, learned from the texts.

    Llama 3's pattern parts the text first. The same texts give the same tokens. Raises UsageError for a vocabulary with
    no room for bytes and controls, or larger than the texts give.
    """
    problems = ProblemList()
    least = 256 + len(controls)
    tokens = _learned(texts, vocab - len(controls)) if vocab >= least else []
    if vocab < least:
        problems.add("vocab", f"found {vocab}", f"256 bytes and {len(controls)} control tokens need at least {least}")
    elif len(tokens) + len(controls) < vocab:
        found = f"{vocab} ids cannot be learned from these texts"
        problems.add("vocab", found, f"set it to a value <= {len(tokens) + len(controls)}, or give more text")
    problems.raise_usage()
    return ByteBPETokenizer.from_tokens(tokens, controls={name: len(tokens) + n for n, name in enumerate(controls)})


def _learned(texts: Iterable[str], count: int) -> list[bytes]:
    learner = tokenizers.Tokenizer(tokenizers.models.BPE())
    learner.pre_tokenizer = byte_level(LLAMA_3_PATTERN)
    alphabet = sorted(CHARACTER_TO_BYTE)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=count, initial_alphabet=alphabet, special_tokens=[], show_progress=False
    )
    learner.train_from_iterator((text for text in texts if utf8(text)), trainer)
    ranked = sorted(learner.get_vocab().items(), key=lambda item: item[1])
    return [bytes(CHARACTER_TO_BYTE[character] for character in text) for text, _ in ranked]


def byte_level(pattern: str) -> tokenizers.pre_tokenizers.PreTokenizer:
    """What parts a text by the pattern, and writes each part's bytes as printable characters."""
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizers.pre_tokenizers.Sequence([split, level])
