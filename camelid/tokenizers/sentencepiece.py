"""SentencePiece tokenizers: those of LLaMA 1 and 2, and new ones trained with the same settings.

What is ours: every piece that is not text (control, unknown, and user-defined pieces too) is a control token, so no
text yields its id. Encoding is the library's, id for id. The single character that cannot come back is U+2581, with
which SentencePiece writes a space: it has the ids of a space, as in the reference, and decodes to a space. A lone
surrogate is refused: it is not a character.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import sentencepiece

from camelid.errors import BadFile, ProblemList
from camelid.tokenizers.decoding import ByteStream, ByteTable, grown, utf8
from camelid.tokenizers.folder import config_files, sentencepiece_json
from camelid.tokenizers.sentencepiece_file import BYTE_PIECES, Kind, Model, parse

SPACE = "\u2581"
UNKNOWN_SURFACE = " \u2047 "  # what the library writes for text that a model without byte fallback cannot spell

# A model record that says only "add no dummy prefix": appended to a model, it overrides that one setting.
_WITHOUT_PREFIX = b"\x1a\x02\x18\x00"


@dataclass(frozen=True)
class SentencePieceTokenizer:
    """A SentencePiece model and the control tokens added to it. `model` are the bytes of tokenizer.model."""

    model: bytes = field(repr=False)
    added: Mapping[str, int] = field(default_factory=dict)
    bos: int | None = None
    eos: int | None = None
    pad: int | None = None

    @classmethod
    def from_bytes(
        cls,
        model: bytes,
        *,
        added: Mapping[str, int] | None = None,
        bos: str = "",
        eos: str = "",
        pad: str = "",
        path: Path | str = "tokenizer.model",
    ) -> SentencePieceTokenizer:
        """The tokenizer of a model file. `added` are controls beyond the model; names override the model's roles.

        Raises BadFile, naming `path`.
        """
        parsed = parse(model, path)
        controls = _model_controls(parsed) | dict(added or {})
        _check_added(parsed, added or {}, path)
        try:
            processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, OSError) as error:
            raise BadFile(
                path, "", f"SentencePiece refuses it: {str(error)[:200]}", "take the original file"
            ) from error
        roles = {}
        for role, name in (("bos", bos), ("eos", eos), ("pad", pad)):
            own = int(getattr(processor, f"{role}_id")())
            if name and name not in controls:
                raise BadFile(path, role, f"{name!r} is no control token here", "correct tokenizer_config.json")
            roles[role] = controls.get(name, own if own >= 0 else None)
        tokenizer = cls(model=model, added=dict(added or {}), **roles)
        tokenizer.__dict__["_file"] = parsed  # the cached property, filled
        return tokenizer

    # --- the protocol -------------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        return len(self._file.pieces) + len(self.added)

    @cached_property
    def controls(self) -> Mapping[str, int]:
        return _model_controls(self._file) | dict(self.added)

    def encode(self, text: str, *, starts: bool = True) -> list[int]:
        utf8(text)
        ids: list[int] = (self._starting if starts else self._continuing).encode(text)
        return ids

    def decode(self, ids: Iterable[int], *, starts: bool = True) -> str:
        return self._table.decode(ids, starts=starts)

    def stream(self, *, starts: bool = True) -> ByteStream:
        return self._table.stream(starts=starts)

    def bytes_of(self, id: int) -> bytes:
        return self._table.bytes_of(id)

    def piece(self, id: int) -> str:
        self._table.bytes_of(id)
        pieces = self._file.pieces
        return pieces[id].text if id < len(pieces) else self._added_names[id]

    def files(self) -> dict[str, bytes]:
        """tokenizer.model and the configuration; for BPE models that keep text as it is, also tokenizer.json."""
        files = {"tokenizer.model": self.model}
        roles = {"bos": self.bos, "eos": self.eos, "pad": self.pad, "unk": self._unknown}
        names = {role: self.piece(id) for role, id in roles.items() if id is not None}
        exact = self._file.algorithm == 2 and self._file.keeps_text
        if exact:
            files["tokenizer.json"] = sentencepiece_json(self._file, self.controls, self.bos)
        return files | config_files(names, self.controls, "PreTrainedTokenizerFast" if exact else "LlamaTokenizer")

    def digest(self) -> str:
        roles = repr((sorted(self.added.items()), self.bos, self.eos, self.pad))
        return hashlib.sha256(self.model + roles.encode()).hexdigest()

    # --- beyond it ----------------------------------------------------------------------------------------------------

    def with_controls(self, names: Sequence[str]) -> SentencePieceTokenizer:
        """The same tokenizer with further control tokens after the last id; names that exist keep their id."""
        texts = {piece.text for piece in self._file.pieces}
        return replace(self, added=dict(self.added) | grown(self.controls, self.size, names, texts))

    def with_pieces(
        self, learned: SentencePieceTokenizer, size: int | None, only: Literal["pieces", "characters"]
    ) -> SentencePieceTokenizer:
        """The same tokenizer with the text pieces of `learned` that it lacks appended; see camelid/tokenizers/extend.py."""
        known = {piece.text for piece in self._file.pieces}
        fresh = [piece for piece in learned._file.pieces if piece.kind == Kind.NORMAL and piece.text not in known]
        fresh = [piece for piece in fresh if only == "pieces" or len(piece.text.removeprefix(SPACE)) == 1]
        wanted = len(fresh) if size is None else size - self.size
        problems = ProblemList()
        if self.added:
            names = ", ".join(list(self.added)[:4])
            problems.add(
                "the parent's tokenizer", f"{names} stand after its pieces", "extend it before these are added"
            )
        if not 0 < wanted <= len(fresh):
            found = f"{self.size} rows there, {len(fresh)} new {only} learned"
            most = f"from {self.size + 1} to {self.size + len(fresh)}" if fresh else "no size: learn from other text"
            problems.add("vocab", f"{found}, {size} rows wanted", f"choose {most}")
        problems.raise_usage()
        pieces = (*self._file.pieces, *(replace(piece, score=0.0) for piece in fresh[:wanted]))
        return replace(self, model=replace(self._file, pieces=pieces).written())

    def with_pad(self, name: str) -> SentencePieceTokenizer:
        """The same tokenizer, padding with the control token of this name, which is added if need be."""
        tokenizer = self.with_controls([name])
        return replace(tokenizer, pad=tokenizer.controls[name])

    @cached_property
    def _file(self) -> Model:
        return parse(self.model, "tokenizer.model")

    @cached_property
    def _unknown(self) -> int:
        return next(id for id, piece in enumerate(self._file.pieces) if piece.kind == Kind.UNKNOWN)

    @cached_property
    def _added_names(self) -> Mapping[int, str]:
        return {id: name for name, id in self.added.items()}

    @cached_property
    def _text_model(self) -> bytes:
        """The model as the encoder sees it: user-defined pieces are control pieces, which no text can reach."""
        if not any(piece.kind == Kind.USER_DEFINED for piece in self._file.pieces):
            return self.model
        closed = (replace(p, kind=Kind.CONTROL) if p.kind == Kind.USER_DEFINED else p for p in self._file.pieces)
        return replace(self._file, pieces=tuple(closed)).written()

    @cached_property
    def _starting(self) -> Any:
        return sentencepiece.SentencePieceProcessor(model_proto=self._text_model)

    @cached_property
    def _continuing(self) -> Any:
        return sentencepiece.SentencePieceProcessor(model_proto=self._text_model + _WITHOUT_PREFIX)

    @cached_property
    def _table(self) -> ByteTable:
        pieces = [_bytes(piece.text, piece.kind, self._file.byte_fallback) for piece in self._file.pieces]
        return ByteTable(pieces + [b""] * len(self.added), prefixed=self._file.dummy_prefix)


def _model_controls(model: Model) -> dict[str, int]:
    kinds = {Kind.CONTROL, Kind.USER_DEFINED} | ({Kind.UNKNOWN} if model.byte_fallback else set())
    return {piece.text: id for id, piece in enumerate(model.pieces) if piece.kind in kinds}


def _check_added(model: Model, added: Mapping[str, int], path: Path | str) -> None:
    first = len(model.pieces)
    if sorted(added.values()) != list(range(first, first + len(added))):
        found = ", ".join(f"{name!r}: {id}" for name, id in list(added.items())[:8])
        raise BadFile(path, "added tokens", f"{found}", f"ids must follow on from {first} without gaps")
    known = {piece.text for piece in model.pieces}
    for name in added:
        if name in known or not name:
            raise BadFile(path, "added tokens", f"{name!r} is a piece of the model already", "choose another name")


def _bytes(text: str, kind: Kind, byte_fallback: bool) -> bytes:
    if kind == Kind.BYTE:
        return bytes([int(text[3:5], 16)])
    if kind == Kind.NORMAL:
        return text.replace(SPACE, " ").encode("utf-8")
    return UNKNOWN_SURFACE.encode("utf-8") if kind == Kind.UNKNOWN and not byte_fallback else b""


# --- training ---------------------------------------------------------------------------------------------------------

# The trainer record inside LLaMA's tokenizer file (facts: meta.shared_tokenizer_llama1_2; `hard_vocab_limit` as it
# stands in the file that came with Llama 2: texts that give fewer pieces than asked for are refused).
LLAMA_TRAINER: Mapping[str, object] = {
    "model_type": "bpe",
    "character_coverage": 0.99995,
    "input_sentence_size": 200_000_000,
    "shuffle_input_sentence": True,
    "max_sentence_length": 4192,
    "max_sentencepiece_length": 16,
    "split_by_unicode_script": True,
    "split_by_whitespace": True,
    "split_by_number": True,
    "split_digits": True,
    "treat_whitespace_as_suffix": False,
    "allow_whitespace_only_pieces": True,
    "vocabulary_output_piece_score": True,
    "hard_vocab_limit": True,
    "byte_fallback": True,
    "unk_surface": UNKNOWN_SURFACE,
    "pad_id": -1,
    "normalization_rule_name": "identity",
    "add_dummy_prefix": True,
    "remove_extra_whitespaces": False,
}
_RESERVED = re.compile("[\n\0\u2585]")  # the trainer skips a sentence that holds NUL or its own unknown mark


def train(texts: Iterable[str], *, vocab: int, **settings: object) -> SentencePieceTokenizer:
    """A tokenizer of `vocab` pieces, control and byte pieces included, learned from the texts.

    The settings are LLaMA's unless overridden by the trainer's own names. Lines longer than the trainer's limit, which
    it would leave out without a word, are cut, before a space where there is one. One thread: the same texts and
    settings give the same bytes. Raises UsageError where the trainer cannot do what is asked, and whatever `texts`
    raises.
    """
    chosen: dict[str, Any] = {**LLAMA_TRAINER, **settings}
    sentences = _Sentences(texts, int(chosen["max_sentence_length"]))
    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=written,
            vocab_size=vocab,
            num_threads=1,
            minloglevel=2,
            **chosen,
        )
    except (RuntimeError, OSError) as error:
        if sentences.failure is not None:
            raise sentences.failure from None
        problems = ProblemList()
        remedy = (
            "control and byte pieces take 259, each frequent character one; more than texts repeat cannot be learned"
        )
        problems.add("vocab", f"{vocab} pieces cannot be learned from these texts: {_reason(error)}", remedy)
        problems.raise_usage()
    return SentencePieceTokenizer.from_bytes(written.getvalue())


def _reason(error: Exception) -> str:
    return " ".join(str(error).rsplit("] ", 1)[-1].split())[:200].rstrip(".")


class _Sentences:
    """The lines of texts, none longer than the trainer takes; keeps what went wrong, which the trainer would garble."""

    def __init__(self, texts: Iterable[str], limit: int) -> None:
        self._texts, self._limit = texts, limit
        self.failure: Exception | None = None

    def __iter__(self) -> Iterator[str]:
        try:
            for text in self._texts:
                utf8(text)
                for line in filter(None, _RESERVED.split(text)):
                    yield from _cut(line, self._limit)
        except Exception as failure:
            self.failure = failure
            raise


def _cut(line: str, limit: int) -> Iterator[str]:
    """The line in stretches of at most `limit` UTF-8 bytes, cut before a space where one lies in the second half."""
    data, place = line.encode("utf-8"), 0
    while len(data) - place > limit:
        end = place + limit
        space = data.rfind(b" ", place + limit // 2, end)
        if space > place:
            end = space
        while data[end] & 0xC0 == 0x80:  # never inside a character
            end -= 1
        yield data[place:end].decode("utf-8")
        place = end
    yield data[place:].decode("utf-8")


__all__ = ["BYTE_PIECES", "LLAMA_TRAINER", "SentencePieceTokenizer", "train"]
