"""A model as a directory: a Hugging Face folder, plus camelid.json (where it came from) and manifest.json (every byte).

    config.json  generation_config.json
    model.safetensors, or model-00001-of-0000N.safetensors ... and model.safetensors.index.json
    the tokenizer's files, chat_template.jinja
    camelid.json        provenance, template, code version
    manifest.json       written by durable.commit

Foreign folders, which lack the last two, are read under the same checks. All that is wrong with one is reported at
once, before any tensor is touched.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import camelid
from camelid.checkpoints.gguf_file import is_gguf
from camelid.checkpoints.huggingface import (
    Config,
    Generation,
    config_to,
    generation_to,
    read_config,
    read_generation,
)
from camelid.checkpoints.layouts import Layout, Piece, biases, standing
from camelid.checkpoints.names import DERIVED, EMBEDDING, HEAD, expected
from camelid.checkpoints.safetensors_io import (
    TORCH,
    Deferred,
    Header,
    TensorFile,
    deferred,
    read_header,
    serialise,
)
from camelid.durable import (
    FILES,
    MANIFEST,
    NAME,
    Draft,
    Files,
    Manifest,
    commit,
    json_bytes,
    read_bytes,
    read_json,
    verify,
)
from camelid.errors import BadFile, NonFinite, ProblemList
from camelid.frozen import from_data, to_data
from camelid.models.shape import LlamaShape
from camelid.tokenizers.protocol import Tokenizer

if TYPE_CHECKING:
    import torch

    from camelid.dialogue.foreign import Recognised
    from camelid.dialogue.template import Template
    from camelid.models.llama import Llama

PROVENANCE = "camelid.json"
CERTIFICATE = "certificate.json"  # see generate/certificate.py
MAX_CERTIFICATE_BYTES = 16 << 20
FORMAT = "camelid model 1"
CONFIG = "config.json"
GENERATION = "generation_config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MIXED = "config.json and the weights are of different models: get all files of one, whole"
CHAT_TEMPLATE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"
MAX_CHAT_TEMPLATE_BYTES = 1 << 20
MAX_SHARD_BYTES = 5_000_000_000  # as in Hugging Face's published folders
MAX_INDEX_BYTES = 8 << 20
FLOATS = {"F64", "F32", "F16", "BF16"}
READ_SUFFIXES = {".json", ".jinja", ".model", ".safetensors"}  # what a reader might take for a part of the model


# --- writing --------------------------------------------------------------------------------------------------------


def save(
    path: Path,
    state: Mapping[str, torch.Tensor | Deferred],
    *,
    shape: LlamaShape,
    tokenizer: Tokenizer | None = None,
    template: Template | None = None,
    provenance: Mapping[str, Any] | None = None,
    generation: Generation | None = None,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    extra: Mapping[str, bytes] | None = None,
    layout: Layout | None = None,
    files: Files = FILES,
) -> Path:
    """`path`, now a complete model folder, or no folder at all. One tensor is in memory at a time.

    state       the weights under Hugging Face's names; those of a tied head may be there (equal) or not
    provenance  JSON values that tell where the model came from; kept in camelid.json
    generation  ids that begin and end texts; by default the tokenizer's, or those that end the template's replies
    dtype       to store all weights in; as they are by default
    extra       further files for the folder, by name
    layout      how linear maps are stored in fewer bits: `state` then holds the pieces of each (see `layouts.pack`)

    Raises UsageError naming every missing, superfluous and misshapen tensor, NonFinite for a weight that is infinite or
    not a number, StoreError if the folder exists or the disk is full.
    """
    weights = _checked_state(state, shape, tokenizer, layout)
    own = expected(shape).keys()
    if dtype is not None:
        weights = {
            name: _cast(tensor, dtype) if name in own and tensor.dtype.is_floating_point else tensor
            for name, tensor in weights.items()
        }
    kept = [tensor.dtype for name, tensor in weights.items() if name in own and tensor.dtype.is_floating_point]
    stored = {str(one).removeprefix("torch.") for one in kept}
    if generation is None:
        generation = _generation_of(tokenizer, template)
    config = Config(
        shape,
        stored.pop() if len(stored) == 1 else None,
        generation.bos,
        generation.eos,
        generation.pad,
        layout=layout,
    )
    small = {
        CONFIG: json_bytes(config_to(config)),
        GENERATION: json_bytes(dict(generation_to(generation))),
        **_tokenizer_files(tokenizer, template),
        PROVENANCE: _provenance(provenance or {}, template, tokenizer),
        **(extra or {}),
    }
    shards = _split(weights, max_shard_bytes)
    if len(shards) > 1:
        small[INDEX] = _index(shards)

    def fill(draft: Draft) -> None:
        for name, data in small.items():
            draft.write(name, data)
        for name, tensors in shards.items():
            finite = {key: _finite(key, tensor) for key, tensor in tensors.items()}
            draft.write(name, serialise(finite, {"format": "pt"}))

    needed = sum(map(len, small.values())) + sum(tensor.bytes + 256 for tensor in weights.values())
    return commit(path, fill, needed=needed, files=files)


def _checked_state(
    state: Mapping[str, torch.Tensor | Deferred],
    shape: LlamaShape,
    tokenizer: Tokenizer | None,
    layout: Layout | None,
) -> dict[str, Deferred]:
    """The expected tensors, in the model's own order."""
    problems = ProblemList()
    given = {name: deferred(tensor) for name, tensor in state.items()}
    wanted: dict[str, Piece] = {}
    for parts in standing(layout, expected(shape), given).values():
        wanted |= parts
    if shape.tied and HEAD in given and EMBEDDING in given:
        if not _equal(given[HEAD], given[EMBEDDING]):
            problems.add(HEAD, "differs from the embedding, to which the shape ties it", "untie the shape")
        del given[HEAD]
    for name in wanted.keys() - given.keys():
        problems.add(name, "is missing", "every weight of the shape must be there")
    for name in given.keys() - wanted.keys():
        problems.add(name, "is no weight of this shape", "leave it out; adapters are saved with checkpoints.adapter")
    for name in wanted.keys() & given.keys():
        size, dtypes = wanted[name].shape, [TORCH[one] for one in wanted[name].dtypes]
        if given[name].shape != size and (size is not None or len(given[name].shape) != 1):
            problems.add(name, f"has shape {list(given[name].shape)}, not {list(size or ())}", "see the shape")
        elif str(given[name].dtype).removeprefix("torch.") not in dtypes:
            problems.add(name, f"is {given[name].dtype}", f"use {', '.join(dtypes)}")
    if tokenizer is not None and tokenizer.size > shape.vocab:
        problems.add("tokenizer", f"has {tokenizer.size} ids, the model {shape.vocab} rows", "enlarge the embedding")
    problems.problems.sort(key=lambda problem: problem.where)
    problems.raise_usage()
    return {name: given[name] for name in wanted}


def _equal(one: Deferred, other: Deferred) -> bool:
    import torch

    return one.shape == other.shape and one.dtype == other.dtype and bool(torch.equal(one.read(), other.read()))


def _cast(tensor: Deferred, dtype: torch.dtype) -> Deferred:
    return Deferred(dtype, tensor.shape, lambda: tensor.read().to(dtype))


def _finite(name: str, tensor: Deferred) -> Deferred:
    def read() -> torch.Tensor:
        made = tensor.read()
        if made.is_floating_point() and not bool(made.isfinite().all()):
            raise NonFinite(f"{name}: holds infinite values or values that are no numbers; nothing was saved")
        return made

    return Deferred(tensor.dtype, tensor.shape, read)


def extras(certificate: Mapping[str, Any] | None, chat_template: str | None) -> dict[str, bytes]:
    """What goes with a model beside what `save` writes, as its `extra`: its certificate, a foreign chat template."""
    found = {} if certificate is None else {CERTIFICATE: json_bytes(dict(certificate))}
    return found | ({} if chat_template is None else {CHAT_TEMPLATE: chat_template.encode("utf-8")})


def _generation_of(tokenizer: Tokenizer | None, template: Template | None) -> Generation:
    """The tokenizer's ids; with a template, the ids that end its replies."""
    if tokenizer is None:
        return Generation()
    ends: tuple[int, ...] = () if tokenizer.eos is None else (tokenizer.eos,)
    if template is not None:
        from camelid.dialogue.template import stop_ids

        ends = stop_ids(template, tokenizer)
    return Generation(tokenizer.bos, ends, tokenizer.pad)


def _tokenizer_files(tokenizer: Tokenizer | None, template: Template | None) -> dict[str, bytes]:
    files = dict(tokenizer.files()) if tokenizer is not None else {}
    if tokenizer is not None and template is not None:
        from camelid.dialogue.jinja import jinja

        written = jinja(template, tokenizer)
        files[CHAT_TEMPLATE] = written.encode("utf-8")
        told = json.loads(files.get("tokenizer_config.json", b"{}"))
        files["tokenizer_config.json"] = json_bytes({**told, "chat_template": written})  # for readers of either place
    return files


def _provenance(told: Mapping[str, Any], template: Template | None, tokenizer: Tokenizer | None) -> bytes:
    return json_bytes(
        {
            "format": FORMAT,
            "code": camelid.__version__,
            "provenance": dict(told),
            "template": None if template is None else to_data(template),
            "tokenizer": None if tokenizer is None else tokenizer.digest(),
        }
    )


def _split(weights: Mapping[str, Deferred], limit: int) -> dict[str, dict[str, Deferred]]:
    """The weights by file: in order, a new file where the next tensor would pass the limit."""
    groups: list[dict[str, Deferred]] = [{}]
    filled = 0
    for name, tensor in weights.items():
        if groups[-1] and filled + tensor.bytes > limit:
            groups.append({})
            filled = 0
        groups[-1][name] = tensor
        filled += tensor.bytes
    if len(groups) == 1:
        return {WEIGHTS: groups[0]}
    return {f"model-{i:05d}-of-{len(groups):05d}.safetensors": group for i, group in enumerate(groups, 1)}


def _index(shards: Mapping[str, Mapping[str, Deferred]]) -> bytes:
    total = sum(tensor.bytes for group in shards.values() for tensor in group.values())
    placed = {name: file for file, group in shards.items() for name in group}
    return json_bytes({"metadata": {"total_size": total}, "weight_map": placed})


# --- reading --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """A model whose every claim was checked. Tensors and tokenizer are read when asked for."""

    path: Path
    config: Config
    generation: Generation
    headers: tuple[Header, ...]
    told: Mapping[str, Any]  # camelid.json; empty for foreign folders
    ignored: tuple[str, ...]  # tensors that follow from the shape or are tied, and were passed over
    manifest: Manifest | None

    @property
    def shape(self) -> LlamaShape:
        return self.config.shape

    @property
    def quantised(self) -> bool:
        """Whether any weight is stored in less than a float of its own; such weights are decoded when read."""
        return False

    @property
    def forms(self) -> Mapping[str, int]:
        """How many weights are stored in each form, the commonest first."""
        kinds = Counter(TORCH[place.dtype] for header in self.headers for place in header.places.values())
        return dict(kinds.most_common())

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Where the model came from; empty for foreign folders."""
        provenance: Mapping[str, Any] = self.told.get("provenance", {})
        return provenance

    @property
    def dtype(self) -> str:
        """The name, as torch has it, of the dtype in which the weights are stored; of the widest, if of several."""
        widest = max((place.dtype for header in self.headers for place in header.places.values()), key=_width)
        return TORCH[widest]

    @property
    def stored_as(self) -> str:
        """How the matrices are stored, in the words of certificates: "bfloat16", the narrowest dtype if of several; or the
        forms of quantised ones, "q4_0, f32"."""
        if self.quantised:
            return ", ".join(self.forms)
        return TORCH[min((place.dtype for header in self.headers for place in header.places.values()), key=_width)]

    @cached_property
    def certificate(self) -> Mapping[str, Any] | None:
        """What the model said when it was trained (see generate/certificate.py), as JSON; None where nobody noted it."""
        if not _has(self.path, self.manifest, CERTIFICATE):
            return None
        told = read_json(self.path / CERTIFICATE, max_bytes=MAX_CERTIFICATE_BYTES, max_depth=8)
        if not isinstance(told, dict):
            raise BadFile(self.path / CERTIFICATE, "", "is no table", "take the original file")
        return told

    @property
    def has_tokenizer(self) -> bool:
        """Whether the folder holds a tokenizer."""
        return any((self.path / name).is_file() for name in ("tokenizer.model", "tokenizer.json"))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The folder's tokenizer. Raises BadFile if there is none, or none that fits."""
        from camelid import tokenizers

        tokenizer = tokenizers.load(self.path)
        if tokenizer.size > self.shape.vocab:
            found = f"its tokenizer has {tokenizer.size} ids, its embedding {self.shape.vocab} rows"
            raise BadFile(self.path, "", found, "the files are of different models: get all files of one, whole")
        return tokenizer

    @cached_property
    def template(self) -> Template | None:
        """The template that travels with the model; None for a base model and for foreign folders."""
        if self.told.get("template") is None:
            return None
        from camelid.dialogue.template import Template

        return from_data(Template, self.told["template"], f"{self.path / PROVENANCE}: template")

    @cached_property
    def chat_template(self) -> str | None:
        """The text, in Jinja, by which other programs write conversations; it is never run here. None where there is none."""
        if _has(self.path, self.manifest, CHAT_TEMPLATE):
            try:
                return read_bytes(self.path / CHAT_TEMPLATE, max_bytes=MAX_CHAT_TEMPLATE_BYTES).decode("utf-8")
            except UnicodeDecodeError as error:
                raise BadFile(
                    self.path / CHAT_TEMPLATE, f"byte {error.start}", "is not UTF-8", "get it again"
                ) from None
        if not _has(self.path, self.manifest, TOKENIZER_CONFIG):
            return None
        told = read_json(self.path / TOKENIZER_CONFIG)
        text = told.get("chat_template") if isinstance(told, dict) else None
        if isinstance(text, list):  # several by name, as transformers allows
            named = {str(one.get("name")): one.get("template") for one in text if isinstance(one, dict)}
            text = named.get("default")
        return text if isinstance(text, str) else None

    @cached_property
    def recognised(self) -> Recognised | None:
        """In which template a foreign model talks by its chat template; None for ours, and where there is none."""
        if self.template is not None or self.chat_template is None:
            return None
        from camelid.dialogue.foreign import recognised

        return recognised(self.chat_template, self.tokenizer)

    @cached_property
    def digest(self) -> str:
        """SHA-256 by which the model is known: over the names and contents of config.json and the weight files."""
        names = sorted({CONFIG, *(header.path.name for header in self.headers)})
        if self.manifest is not None:
            sums = {name: self.manifest.files[name].sha256 for name in names}
        else:
            sums = {name: _file_digest(self.path / name) for name in names}
        return hashlib.sha256(json_bytes(sums)).hexdigest()

    def tensors(self) -> Mapping[str, torch.Tensor]:
        """The weights under Hugging Face's names, each a view of its mapped file, in the model's order."""
        return _Tensors(self)


class _Tensors(Mapping[str, "torch.Tensor"]):
    def __init__(self, checkpoint: Checkpoint) -> None:
        self.names = expected(checkpoint.shape)
        self.places = {name: header for header in checkpoint.headers for name in header.places}
        self.open: dict[Path, TensorFile] = {}

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self.names:
            raise KeyError(name)
        header = self.places[name]
        if header.path not in self.open:
            self.open[header.path] = TensorFile(header)
        return self.open[header.path][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def _width(dtype: str) -> int:
    return ["F16", "BF16", "F32", "F64"].index(dtype)


def _file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load(path: Path, *, check: Literal["contents", "lengths"] = "contents") -> Checkpoint:
    """The model in a folder, ours or Hugging Face's, or in a GGUF file, once everything it says was found true.

    check   for folders of ours: "contents" reads every byte again and compares its digest before any tensor can be
            used; "lengths" only that the files are there and as long as they were

    Raises BadFile naming everything that is wrong.
    """
    path = Path(path)
    if is_gguf(path):
        from camelid.checkpoints.gguf import load_gguf

        return load_gguf(path)
    manifest = _open_folder(path, check)
    config = read_config(path / CONFIG)
    told = _read_told(path) if manifest is not None else {}
    generation = Generation(config.bos, config.eos, config.pad)
    if _has(path, manifest, GENERATION):
        generation = read_generation(path / GENERATION)
    headers = _read_headers(path, manifest)
    ignored = _check_tensors(path, config.shape, headers, config.layout)
    if config.layout is not None:
        from camelid.checkpoints.packed import PackedCheckpoint

        found = PackedCheckpoint(path, config, generation, headers, told, ignored, manifest)
        found.check_biases()
        return found
    return Checkpoint(path, config, generation, headers, told, ignored, manifest)


def _open_folder(path: Path, check: Literal["contents", "lengths"]) -> Manifest | None:
    if not path.is_dir():
        raise BadFile(path, "", "is no folder" if path.exists() else "is missing", "name the folder with config.json")
    if (path / MANIFEST).is_file():
        manifest = verify(path, contents=check == "contents")
        if CONFIG not in manifest.files or PROVENANCE not in manifest.files:
            raise BadFile(path / MANIFEST, "", "is that of something else than a model", _what_instead(path))
        for added in sorted(path.iterdir()):
            if added.suffix in READ_SUFFIXES and added.name not in {MANIFEST, *manifest.files}:
                raise BadFile(added, "", "was put into a finished folder: the manifest does not know it", "remove it")
        return manifest
    if (path / PROVENANCE).exists():
        raise BadFile(path / MANIFEST, "", "is missing beside camelid.json", "the folder is incomplete: copy it again")
    if not (path / CONFIG).exists():
        raise BadFile(path / CONFIG, "", "is missing", _what_instead(path))
    return None


def _what_instead(path: Path) -> str:
    if (path / "params.json").exists():
        return f"this is Meta's format: camelid convert {path} NEW_FOLDER --to hf"
    if (path / "adapter_config.json").exists():
        return f"this is an adapter: camelid merge BASE NEW_FOLDER --adapter {path}"
    return "name the folder that holds the model"


def _has(path: Path, manifest: Manifest | None, name: str) -> bool:
    return name in manifest.files if manifest is not None else (path / name).exists()


def _read_told(path: Path) -> Mapping[str, Any]:
    told = read_json(path / PROVENANCE)
    if not isinstance(told, dict) or told.get("format") != FORMAT or not isinstance(told.get("provenance"), dict):
        raise BadFile(path / PROVENANCE, "", f"is not in the format {FORMAT!r}", "read it with what wrote it")
    return told


def _read_headers(path: Path, manifest: Manifest | None) -> tuple[Header, ...]:
    if _has(path, manifest, WEIGHTS):
        return (read_header(path / WEIGHTS),)
    if not _has(path, manifest, INDEX):
        pickles = sorted(p.name for p in path.glob("*.bin"))
        remedy = f"{pickles[0]} may hold code, which is never run: get safetensors" if pickles else "copy it again"
        raise BadFile(path / WEIGHTS, "", "is missing, and so is its index", remedy)
    placed = read_index(path / INDEX)
    headers = {}
    for name in sorted(set(placed.values())):
        if manifest is not None and name not in manifest.files:
            raise BadFile(path / INDEX, "", f"names {name!r}, which the manifest does not", "copy the folder again")
        headers[name] = read_header(path / name)
    held = {(tensor, name) for name, header in headers.items() for tensor in header.places}
    if held != set(placed.items()):
        tensor, name = sorted(held ^ set(placed.items()))[0]
        how = "holds" if (tensor, name) in held else "lacks"
        found = f"does not fit its files: {name} {how} {tensor[:80]!r}"
        raise BadFile(path / INDEX, "", found, "the files are of different models, or one is stale: copy them again")
    return tuple(headers.values())


def read_index(path: Path) -> dict[str, str]:
    """Which file holds which tensor. File names in it are names, never paths. Raises BadFile."""
    index = read_json(path, max_bytes=MAX_INDEX_BYTES, max_depth=8)
    placed = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(placed, dict) or not placed:
        raise BadFile(path, "weight_map", "is missing or no table", "copy or download it again")
    for tensor, name in placed.items():
        if not isinstance(name, str) or not NAME.fullmatch(name) or not name.endswith(".safetensors"):
            found = f"{str(name)[:80]!r} is no plain name of a safetensors file"
            raise BadFile(path, f"weight_map, {tensor[:80]!r}", found, "nothing was opened; get a sound folder")
    return placed


def _check_tensors(
    path: Path, shape: LlamaShape, headers: tuple[Header, ...], layout: Layout | None
) -> tuple[str, ...]:
    """Compare what the files hold with what the shape needs; the names that may be passed over."""
    held = {name: place for header in headers for name, place in header.places.items()}
    if 9 * shape.layers > len(held):  # so that a config cannot ask for work out of proportion to the files
        found = f"{len(held)} tensors, too few for {shape.layers} layers"
        raise BadFile(path, "", found, MIXED)
    wanted: dict[str, Piece] = {}
    for name, parts in standing(layout, expected(shape), held).items():
        wanted |= parts
        if layout is not None and name not in parts:
            wanted |= {
                bias: piece for bias, piece in biases(layout, name, expected(shape)[name]).items() if bias in held
            }
    wrong = [f"{name} is missing" for name in wanted if name not in held]
    ignored = []
    for name, place in held.items():
        if name in wanted:
            size, dtypes = wanted[name].shape, wanted[name].dtypes
            if place.shape != size and (size is not None or len(place.shape) != 1):
                wrong.append(f"{name} is {list(place.shape)} where config.json needs {list(size or ())}")
            elif place.dtype not in dtypes:
                needs = "no floating-point dtype" if set(dtypes) == FLOATS else f"not {' or '.join(dtypes)}"
                wrong.append(f"{name} is of {place.dtype}, {needs}")
        elif DERIVED.fullmatch(name) or (name == HEAD and shape.tied):
            ignored.append(name)
        else:
            wrong.append(f"{name[:80]!r} is no weight of such a model")
    if not wrong and HEAD in ignored:
        wrong += _check_tied(headers)
    if wrong:
        more = f"; and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise BadFile(path, "", "; ".join(wrong[:8]) + more, MIXED)
    return tuple(sorted(ignored))


def _check_tied(headers: tuple[Header, ...]) -> list[str]:
    import torch

    files = {name: header for header in headers for name in header.places}
    head, embedding = (TensorFile(files[name])[name] for name in (HEAD, EMBEDDING))
    same = head.dtype == embedding.dtype and head.shape == embedding.shape and torch.equal(head, embedding)
    return [] if same else [f"{HEAD} differs from {EMBEDDING}, to which config.json ties it"]


def load_model(
    path: Path,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    *,
    check: Literal["contents", "lengths"] = "contents",
) -> Llama:
    """The model itself, its weights copied to `device` in `dtype` (as stored by default). Raises BadFile."""
    return build(load(path, check=check), dtype, device)


def build(checkpoint: Checkpoint, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> Llama:
    """The model of a checkpoint that was loaded already."""
    import torch

    from camelid.models.llama import Llama

    wanted = dtype or getattr(torch, checkpoint.dtype)
    model = Llama(checkpoint.shape, dtype=wanted, device="meta")
    state = {name: tensor.to(device=device, dtype=wanted, copy=True) for name, tensor in checkpoint.tensors().items()}
    model.load_state_dict(state, strict=True, assign=True)
    return model
