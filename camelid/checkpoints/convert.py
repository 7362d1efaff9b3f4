"""One model rewritten in another format: Hugging Face's folder, Meta's folder, one GGUF file.

Between the floating-point forms every tensor stays the same to the bit, whatever the way; quantised weights are decoded
only when a type to decode them to is named.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from camelid.checkpoints import directory
from camelid.checkpoints.gguf_file import is_gguf
from camelid.durable import FILES, MANIFEST, Draft, Files, commit, json_bytes, read_json, scratch, verify
from camelid.errors import BadFile, Problem, ProblemList, UsageError
from camelid.frozen import from_data
from camelid.models.shape import LlamaShape
from camelid.quantize.forms import FLOATS, WRITTEN
from camelid.tokenizers.protocol import Tokenizer

if TYPE_CHECKING:
    import torch

    from camelid.checkpoints.huggingface import Generation
    from camelid.checkpoints.names import Cut
    from camelid.checkpoints.safetensors_io import Deferred
    from camelid.dialogue.template import Template

NOTE = "camelid.json"
NOTE_FORMAT = "camelid meta model 1"
Format = Literal["hf", "meta", "gguf"]
NAMES: Mapping[Format, str] = {"hf": "Hugging Face's", "meta": "Meta's", "gguf": "GGUF"}


@dataclass(frozen=True)
class Source:
    """A model to be rewritten: its weights under Hugging Face's names, and all that goes with them."""

    format: Format
    shape: LlamaShape
    tensors: Mapping[str, torch.Tensor | Deferred]
    told: Mapping[str, Any]  # camelid.json
    origin: Mapping[str, Any] = field(default_factory=dict)  # how the weights lay, for the provenance
    tokenizer: Tokenizer | None = None
    template: Template | None = None
    chat_template: str | None = None  # of a foreign model, as it stands; nothing where there is a template
    generation: Generation | None = None
    digest: str | None = None
    certificate: Mapping[str, Any] | None = None
    is_quantised: bool = False

    @property
    def provenance(self) -> Mapping[str, Any]:
        return {**self.told.get("provenance", {}), "converted_from": {"format": self.format, **self.origin}}


def convert(
    source: Path,
    target: Path,
    *,
    to: Format,
    type: str | None = None,
    shards: int = 1,
    embedding: Cut | None = None,
    context: int | None = None,
    files: Files = FILES,
) -> Path:
    """`target`, now the model of `source` in the other format, every tensor the same to the bit unless `type` is given.

    type       what matrices are stored as: f32, f16 or bf16, for GGUF also q8_0, q6_k, q4_0 or q4_k_m; by default as they are
    shards     (to Meta) model-parallel pieces: 1, 2, 4 or 8
    embedding  (to Meta) how its embedding is cut: by "columns" before Llama 3, by "rows" since; by default as the shape
               suggests
    context    (from Meta) tokens the weights were trained with, which Meta's format does not say

    Raises BadFile for a source that cannot be read, UsageError for one that the format cannot hold, StoreError.
    """
    source, target = Path(source), Path(target)
    _check(source, to, type)
    with _opened(source, target, context, files) as model:
        if model.is_quantised and type is None:
            found = f"{source} holds quantised weights, and none of its own type can be copied"
            raise UsageError([Problem("type", found, "name f32, f16 or bf16 to decode them")])
        return {"hf": _to_huggingface, "meta": _to_meta, "gguf": _to_gguf}[to](
            model, target, type=type, shards=shards, embedding=embedding, files=files
        )


def format_of(path: Path) -> Format | None:
    """In which format a model lies there; None where there is none."""
    if is_gguf(path):
        return "gguf"
    if not path.is_dir():
        return None
    from camelid.checkpoints.meta import is_meta

    return "meta" if is_meta(path) else "hf"


def _check(source: Path, to: Format, type: str | None) -> None:
    problems = ProblemList()
    form = format_of(source)
    if form is None:
        what = "is no GGUF file" if source.is_file() else "is neither a folder nor a GGUF file"
        problems.add(f"source {source}", what, "name the folder or file that holds the model")
    elif form == to and type is None:
        problems.add("to", f"{source} is in {NAMES[form]} format already", "copy it, or name another format or a type")
    choices = WRITTEN if to == "gguf" else FLOATS
    if type is not None and type not in choices:
        problems.add("type", f"found {type!r}", f"for {to}, choose from {', '.join(choices)}")
    problems.raise_usage()


# --- reading --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(source: Path, target: Path, context: int | None, files: Files) -> Iterator[Source]:
    if format_of(source) == "meta":
        from camelid.checkpoints.meta import stored_bytes

        with scratch(target, needed=2 * stored_bytes(source), files=files) as room:
            yield _from_meta(source, room, context)
        return
    checkpoint = directory.load(source)
    quantised = checkpoint.quantised
    origin: dict[str, Any] = {"forms": dict(checkpoint.forms)} if quantised or is_gguf(source) else {}
    yield Source(
        format="hf" if source.is_dir() else "gguf",
        shape=checkpoint.shape,
        tensors=checkpoint.tensors(),
        told=_told(checkpoint.told, checkpoint.certificate, checkpoint.stored_as),
        origin=origin,
        tokenizer=checkpoint.tokenizer if checkpoint.has_tokenizer else None,
        template=checkpoint.template,
        chat_template=checkpoint.chat_template if checkpoint.template is None else None,
        generation=checkpoint.generation,
        digest=checkpoint.digest,
        certificate=checkpoint.certificate,
        is_quantised=quantised,
    )


def _from_meta(source: Path, room: Path, context: int | None) -> Source:
    from camelid.checkpoints.huggingface import generation_from
    from camelid.checkpoints.meta import read_meta

    note = _read_note(source)
    model = read_meta(source, room, context=context or note.get("context"))
    generation = note.get("generation")
    narrowest = min((tensor.dtype for tensor in model.tensors.values()), key=lambda dtype: dtype.itemsize)
    return Source(
        format="meta",
        shape=model.shape,
        tensors=model.tensors,
        told=_told(note.get("told", {}), note.get("certificate"), str(narrowest).removeprefix("torch.")),
        origin={"shards": model.shards, "embedding": model.embedding, "left_out": list(model.dropped)},
        tokenizer=_tokenizer(source),
        template=_template(note),
        chat_template=note.get("chat_template"),
        generation=None if generation is None else generation_from(generation, source / NOTE),
        certificate=note.get("certificate"),
    )


def _told(told: Mapping[str, Any], certificate: Mapping[str, Any] | None, stored_as: str) -> Mapping[str, Any]:
    """What camelid.json says, with how narrow the weights once were if they are no longer those of the certificate."""
    provenance = told.get("provenance", {})
    if certificate is None or stored_as == certificate.get("weights") or "rounded_to" in provenance:
        return told
    return {**told, "provenance": {**provenance, "rounded_to": stored_as}}


def _read_note(source: Path) -> dict[str, Any]:
    """What a Meta folder of ours says beside Meta's own files; nothing for a foreign one."""
    if not (source / MANIFEST).is_file():
        return {}
    verify(source)
    note = read_json(source / NOTE)
    if not isinstance(note, dict) or note.get("format") != NOTE_FORMAT or type(note.get("context")) is not int:
        raise BadFile(source / NOTE, "", f"is not in the format {NOTE_FORMAT!r}", "read it with what wrote it")
    if not isinstance(note.get("certificate", {}), dict):
        raise BadFile(source / NOTE, "certificate", "is no table", "read it with what wrote it")
    if not isinstance(note.get("chat_template", ""), str):
        raise BadFile(source / NOTE, "chat_template", "is no text", "read it with what wrote it")
    if not isinstance(note.get("told"), dict) or not isinstance(note["told"].get("provenance", {}), dict):
        raise BadFile(source / NOTE, "told", "is no table", "read it with what wrote it")
    return note


def _template(note: dict[str, Any]) -> Template | None:
    if note.get("told", {}).get("template") is None:
        return None
    from camelid.dialogue.template import Template

    return from_data(Template, note["told"]["template"], f"{NOTE}: template")


def _holds_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("tokenizer.model", "tokenizer.json"))


def _tokenizer(source: Path) -> Tokenizer | None:
    """The tokenizer in a Meta folder, or beside it, where Meta's first release kept it; None if there is none."""
    from camelid import tokenizers

    if _holds_tokenizer(source):
        return tokenizers.load(source)
    if (source.parent / "tokenizer.model").is_file():
        return tokenizers.load(source.parent / "tokenizer.model")
    return None


# --- writing --------------------------------------------------------------------------------------------------------


def _cast(model: Source, type: str | None) -> Mapping[str, Deferred]:
    """The weights, in another floating-point type if one is named. Values beyond it are refused as they are met."""
    from camelid.checkpoints.safetensors_io import Deferred, deferred
    from camelid.errors import NonFinite
    from camelid.quantize.blocks import DTYPES

    waiting = {name: deferred(tensor) for name, tensor in model.tensors.items()}
    if type is None:
        return waiting

    def narrowed(name: str, tensor: Deferred) -> Deferred:
        def read() -> torch.Tensor:
            made = tensor.read().to(DTYPES[type])
            if not bool(made.isfinite().all()):
                raise NonFinite(f"{name}: a weight is beyond the range of {type}; store it as f32")
            return made

        return Deferred(DTYPES[type], tensor.shape, read)

    return {name: narrowed(name, tensor) for name, tensor in waiting.items()}


def _to_huggingface(model: Source, target: Path, *, type: str | None, files: Files, **_: Any) -> Path:
    return directory.save(
        target,
        _cast(model, type),
        shape=model.shape,
        tokenizer=model.tokenizer,
        template=model.template,
        generation=model.generation,
        provenance=model.provenance,
        extra=directory.extras(model.certificate, model.chat_template),
        files=files,
    )


def _to_meta(
    model: Source, target: Path, *, type: str | None, shards: int, embedding: Cut | None, files: Files
) -> Path:
    from camelid.checkpoints.huggingface import Generation, generation_to
    from camelid.checkpoints.meta import PARAMETERS, params_of, pth_file, shards_of, usual_embedding_cut

    shape = model.shape
    parameters = params_of(shape)
    pieces = shards_of(shape, _cast(model, type), shards, embedding or usual_embedding_cut(shape))
    note = {  # what Meta's format has no place for
        "format": NOTE_FORMAT,
        "context": shape.context,
        "from": model.digest,
        "told": dict(model.told),
        "generation": dict(generation_to(model.generation or Generation())),
        **({} if model.certificate is None else {"certificate": dict(model.certificate)}),
        **({} if model.chat_template is None else {"chat_template": model.chat_template}),
    }

    def fill(draft: Draft) -> None:
        draft.write(PARAMETERS, json_bytes(parameters))
        draft.write(NOTE, json_bytes(note))
        for name, data in _vocabulary(model.tokenizer).items():
            draft.write(name, data)
        for number, piece in enumerate(pieces):
            draft.write(f"consolidated.{number:02d}.pth", pth_file(piece, f"consolidated.{number:02d}"))

    needed = sum(tensor.bytes + 256 for piece in pieces for tensor in piece.values())
    return commit(target, fill, needed=needed, files=files)


def _vocabulary(tokenizer: Tokenizer | None) -> dict[str, bytes]:
    """The tokenizer's files, among them the tokenizer.model that Meta's code reads."""
    from camelid.tokenizers.byte_bpe import ByteBPETokenizer

    if tokenizer is None:
        return {}
    found = dict(tokenizer.files())
    if isinstance(tokenizer, ByteBPETokenizer):
        found["tokenizer.model"] = tokenizer.model
    return found


def _to_gguf(model: Source, target: Path, *, type: str | None, files: Files, **_: Any) -> Path:
    from camelid.checkpoints.gguf import save_gguf

    return save_gguf(
        target,
        model.tensors,
        shape=model.shape,
        form=type,
        tokenizer=model.tokenizer,
        template=model.template,
        chat_template=model.chat_template,
        generation=model.generation,
        told=model.told,
        source=model.digest,
        certificate=model.certificate,
        files=files,
    )
