"""Corpora on disk: made once, streamed as they are made, memory-mapped from then on.

A corpus on disk is one commit (camelid/durable.py): raw little-endian arrays and a manifest that says what they are.

    ids      uint16 or uint32 [N]      all sequences laid end to end
    starts   int64 [n + 1]             where each begins, and N
    learned  uint8 [N], 0 or 1         whether the id is one to learn; no file where every id is

In a cache the directory's name is the SHA-256 of what the corpus was made from: the data file's bytes, the tokenizer,
the template and every setting. So nothing stale is ever found, and two runs over the same data share it.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camelid.data import source
from camelid.data.corpus import (
    LAYOUT,
    Corpus,
    Ids,
    Marks,
    OverLength,
    Report,
    Tally,
    checked_ids,
    checked_marks,
    encoded,
    id_type,
    joined_digest,
    little_endian,
    rendered_pairs,
)
from camelid.data.formats import Fields, Format
from camelid.data.rows import TextUnit
from camelid.dialogue.template import Learn, Template
from camelid.durable import Draft, commit, locked, verify
from camelid.errors import BadFile
from camelid.frozen import text as frozen_text
from camelid.tokenizers.protocol import Tokenizer

WAIT = 600.0  # seconds to wait for another process that is making the same corpus
READING = 2  # raised whenever the same dialogues are read otherwise: since 2, a reply's weight is heeded


def save(corpus: Corpus, path: Path) -> Corpus:
    """The same corpus, committed to a directory that must not exist yet, and mapped from there."""
    pairs = ((corpus.sequence(index), corpus.marks(index)) for index in range(len(corpus)))
    _write(path, pairs, corpus.ids.dtype, corpus.learned is not None, dict)
    return load(path)


def load(path: Path) -> Corpus:
    """A corpus mapped from its directory, every byte verified first. Raises BadFile."""
    return _load(Path(path))[0]


def from_texts(
    path: Path | str,
    tokenizer: Tokenizer,
    cache: Path,
    *,
    text: TextUnit | None = None,
    first: int | None = None,
    bos: bool = True,
    eos: bool = True,
    bad_rows: source.BadRows = "stop",
) -> tuple[Corpus, Report]:
    """The texts of a file as a corpus that lies in `cache`: made once, streamed to the disk, mapped from then on.

    The settings are those of `source.documents` and `tokenise`.
    """

    def make(tally: Tally) -> Iterator[tuple[Ids, None]]:
        texts = source.documents(path, text=text, first=first, bad_rows=bad_rows, rejected=tally.bad)
        for ids in encoded(texts, tokenizer, bos, eos):
            tally.counts["rows"] += 1
            tally.keep(f"text {tally.counts['rows']}", ids.size, max(0, ids.size - 1))
            yield ids, None

    made_from = {"text": text, "first": first, "bos": bos, "eos": eos, "bad_rows": bad_rows}
    return _cached(Path(path), tokenizer, cache, made_from, make, marked=False)


def from_dialogues(
    path: Path | str,
    template: Template,
    tokenizer: Tokenizer,
    cache: Path,
    *,
    learn: Learn = "response",
    length: int,
    over_length: OverLength,
    format: Format | None = None,
    fields: Fields | None = None,
    first: int | None = None,
    bad_rows: source.BadRows = "stop",
) -> tuple[Corpus, Report]:
    """The dialogues of a file as a corpus that lies in `cache`: made once, streamed to the disk, mapped from then on.

    The settings are those of `source.dialogues` and `render_all`.
    """

    def make(tally: Tally) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
        read = source.dialogues(path, format=format, fields=fields, first=first, bad_rows=bad_rows, rejected=tally.bad)
        return rendered_pairs(read, template, tokenizer, learn, length, over_length, bad_rows, tally)

    made_from = {
        "reading": READING,
        "template": frozen_text(template),
        "learn": learn,
        "length": length,
        "over_length": over_length,
        "format": format,
        **({"fields": frozen_text(fields)} if fields else {}),
        "first": first,
        "bad_rows": bad_rows,
    }
    return _cached(Path(path), tokenizer, cache, made_from, make, marked=True)


def _cached(
    path: Path,
    tokenizer: Tokenizer,
    cache: Path,
    made_from: Mapping[str, Any],
    make: Callable[[Tally], Iterable[tuple[Sequence[int] | Ids, Sequence[int] | None]]],
    *,
    marked: bool,
) -> tuple[Corpus, Report]:
    made_from = {**made_from, "layout": LAYOUT, "data": source.digest(path), "tokenizer": tokenizer.digest()}
    name = hashlib.sha256(repr(sorted(made_from.items())).encode()).hexdigest()
    target = Path(cache) / f"corpus-{name[:32]}"
    with locked(target, wait=WAIT):
        if not os.path.lexists(target):
            tally = Tally()
            dtype = id_type(tokenizer.size)
            pairs = (
                (checked_ids(ids, dtype, tokenizer.size), None if marks is None else checked_marks(marks, len(ids)))
                for ids, marks in make(tally)
            )
            _write(target, pairs, dtype, marked, lambda: {"report": asdict(tally.report()), "made_from": made_from})
        try:
            corpus, meta = _load(target)
        except BadFile as damage:
            raise BadFile(damage.path, damage.place, damage.found, f"remove {target}; it will be made again") from None
    return corpus, _report(meta, target)


def _write(
    path: Path,
    pairs: Iterable[tuple[Ids, Marks | None]],
    dtype: np.dtype[Any],
    marked: bool,
    meta: Callable[[], Mapping[str, Any]],
) -> None:
    """Commit sequences to a directory as they come; `meta` is asked once they have all passed."""
    starts, learned = array("q", [0]), bytearray()
    noted: dict[str, Any] = {"layout": LAYOUT, "ids": dtype.name}

    def passing() -> Iterator[memoryview]:
        for ids, marks in pairs:
            starts.append(starts[-1] + ids.size)
            if marks is not None:
                learned.extend(marks.tobytes())
            yield little_endian(ids)

    def fill(draft: Draft) -> None:
        sums = [draft.write("ids", passing()).sha256]
        sums.append(draft.write("starts", little_endian(np.array(starts, np.int64))).sha256)
        if marked:
            sums.append(draft.write("learned", learned).sha256)
        noted["digest"] = joined_digest(dtype, sums)
        noted.update(meta())

    commit(path, fill, meta=noted)


def _load(path: Path) -> tuple[Corpus, Mapping[str, Any]]:
    manifest = verify(path)
    meta, names = manifest.meta, set(manifest.files)
    if (
        meta.get("layout") != LAYOUT
        or meta.get("ids") not in ("uint16", "uint32")
        or names - {"learned"} != {"ids", "starts"}
    ):
        raise BadFile(path, "manifest.json", f"is not a {LAYOUT!r}", "remove it; it will be made again")
    ids: Ids = _mapped(path / "ids", np.dtype(str(meta["ids"])))
    starts: NDArray[np.int64] = _mapped(path / "starts", np.dtype(np.int64))
    learned: Marks | None = _mapped(path / "learned", np.dtype(np.uint8)) if "learned" in names else None
    orderly = starts.size > 0 and starts[0] == 0 and starts[-1] == ids.size and bool((np.diff(starts) >= 0).all())
    if not orderly or (learned is not None and learned.size != ids.size):
        raise BadFile(path, "starts", "do not fit the ids", "remove it; it will be made again")
    sums = [manifest.files[name].sha256 for name in ("ids", "starts", "learned") if name in names]
    return Corpus(ids, starts, learned, joined_digest(ids.dtype, sums)), meta


def _mapped(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    length = path.stat().st_size
    if length % dtype.itemsize:
        raise BadFile(
            path, "", f"{length} bytes are no whole number of {dtype.name}", "remove it; it will be made again"
        )
    if length == 0:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype.newbyteorder("<"), mode="r")


def _report(meta: Mapping[str, Any], path: Path) -> Report:
    try:
        kept = dict(meta["report"])
        kept["first_unsupervised"], kept["first_bad"] = tuple(kept["first_unsupervised"]), tuple(kept["first_bad"])
        return Report(**kept)
    except (KeyError, TypeError, ValueError) as error:
        raise BadFile(path, "report", f"is not as written here: {error}", "remove it; it will be made again") from error
