"""One model folder rewritten in another format, bit for bit: Hugging Face's to Meta's and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from camelid.checkpoints import directory
from camelid.durable import FILES, MANIFEST, Draft, Files, commit, json_bytes, read_json, scratch, verify
from camelid.errors import BadFile, Problem, UsageError
from camelid.frozen import from_data
from camelid.tokenizers.protocol import Tokenizer

if TYPE_CHECKING:
    from camelid.checkpoints.names import Cut
    from camelid.checkpoints.safetensors_io import Deferred
    from camelid.dialogue.template import Template

NOTE = "camelid.json"
NOTE_FORMAT = "camelid meta model 1"


def convert(
    source: Path,
    target: Path,
    *,
    to: Literal["hf", "meta"],
    shards: int = 1,
    embedding: Cut | None = None,
    context: int | None = None,
    files: Files = FILES,
) -> Path:
    """`target`, now the model of `source` in the other format, every tensor the same to the bit.

    shards     (to Meta) model-parallel pieces: 1, 2, 4 or 8
    embedding  (to Meta) how its embedding is cut: by "columns" before Llama 3, by "rows" since; by default as the shape
               suggests
    context    (to Hugging Face) tokens the weights were trained with, which Meta's format does not say

    Raises BadFile for a source that cannot be read, UsageError for one that the format cannot hold, StoreError.
    """
    from camelid.checkpoints.meta import is_meta

    source, target = Path(source), Path(target)
    if not source.is_dir():
        raise UsageError([Problem(f"source {source}", "is no folder", "name the folder that holds the model")])
    is_meta_folder = is_meta(source)
    if is_meta_folder == (to == "meta"):
        kind = "Meta's" if is_meta_folder else "Hugging Face's"
        raise UsageError([Problem("to", f"{source} is in {kind} format already", "copy it, or name the other format")])
    if to == "hf":
        return _to_huggingface(source, target, context, files)
    return _to_meta(source, target, shards, embedding, files)


def _to_huggingface(source: Path, target: Path, context: int | None, files: Files) -> Path:
    from camelid.checkpoints.huggingface import generation_from
    from camelid.checkpoints.meta import read_meta, stored_bytes

    note = _read_note(source)
    with scratch(target, needed=2 * stored_bytes(source), files=files) as room:
        model = read_meta(source, room, context=context or note.get("context"))
        provenance = {
            **note.get("told", {}).get("provenance", {}),
            "converted_from": {
                "format": "meta",
                "shards": model.shards,
                "embedding": model.embedding,
                "left_out": list(model.dropped),
            },
        }
        generation = note.get("generation")
        return directory.save(
            target,
            model.tensors,
            shape=model.shape,
            tokenizer=_tokenizer(source),
            template=_template(note),
            generation=None if generation is None else generation_from(generation, source / NOTE),
            provenance=provenance,
            files=files,
        )


def _to_meta(source: Path, target: Path, shards: int, embedding: Cut | None, files: Files) -> Path:
    from camelid.checkpoints.huggingface import generation_to
    from camelid.checkpoints.meta import PARAMETERS, params_of, pth_file, shards_of, usual_embedding_cut
    from camelid.checkpoints.safetensors_io import deferred

    checkpoint = directory.load(source)
    shape = checkpoint.shape
    parameters = params_of(shape)
    tensors: Mapping[str, Deferred] = {name: deferred(tensor) for name, tensor in checkpoint.tensors().items()}
    pieces = shards_of(shape, tensors, shards, embedding or usual_embedding_cut(shape))
    note = {  # what Meta's format has no place for
        "format": NOTE_FORMAT,
        "context": shape.context,
        "from": checkpoint.digest,
        "told": dict(checkpoint.told),
        "generation": dict(generation_to(checkpoint.generation)),
    }

    def fill(draft: Draft) -> None:
        draft.write(PARAMETERS, json_bytes(parameters))
        draft.write(NOTE, json_bytes(note))
        for name, data in _vocabulary(checkpoint).items():
            draft.write(name, data)
        for number, piece in enumerate(pieces):
            draft.write(f"consolidated.{number:02d}.pth", pth_file(piece, f"consolidated.{number:02d}"))

    needed = sum(tensor.bytes + 256 for piece in pieces for tensor in piece.values())
    return commit(target, fill, needed=needed, files=files)


def _read_note(source: Path) -> dict[str, Any]:
    """What a Meta folder of ours says beside Meta's own files; nothing for a foreign one."""
    if not (source / MANIFEST).is_file():
        return {}
    verify(source)
    note = read_json(source / NOTE)
    if not isinstance(note, dict) or note.get("format") != NOTE_FORMAT or type(note.get("context")) is not int:
        raise BadFile(source / NOTE, "", f"is not in the format {NOTE_FORMAT!r}", "read it with what wrote it")
    if not isinstance(note.get("told"), dict) or not isinstance(note["told"].get("provenance", {}), dict):
        raise BadFile(source / NOTE, "told", "is no table", "read it with what wrote it")
    return note


def _template(note: dict[str, Any]) -> Template | None:
    if note.get("told", {}).get("template") is None:
        return None
    from camelid.dialogue.template import Template

    return from_data(Template, note["told"]["template"], f"{NOTE}: template")


def _tokenizer(source: Path) -> Tokenizer | None:
    """The tokenizer in a Meta folder, or beside it, where Meta's first release kept it; None if there is none."""
    from camelid import tokenizers

    if any((source / name).is_file() for name in ("tokenizer.model", "tokenizer.json")):
        return tokenizers.load(source)
    if (source.parent / "tokenizer.model").is_file():
        return tokenizers.load(source.parent / "tokenizer.model")
    return None


def _vocabulary(checkpoint: directory.Checkpoint) -> dict[str, bytes]:
    """The tokenizer's files, among them the tokenizer.model that Meta's code reads."""
    found: dict[str, bytes] = {}
    if any((checkpoint.path / name).is_file() for name in ("tokenizer.model", "tokenizer.json")):
        from camelid.tokenizers.byte_bpe import ByteBPETokenizer

        found.update(checkpoint.tokenizer.files())
        if isinstance(checkpoint.tokenizer, ByteBPETokenizer):
            found["tokenizer.model"] = checkpoint.tokenizer.model
    return found
