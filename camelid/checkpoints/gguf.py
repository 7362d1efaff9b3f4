"""A model as one GGUF file: Llama's keys, tensors in GGUF's names and order of rows, tokenizer, chat template.

Matrices are stored in one form (float32, float16, bfloat16, Q8_0, Q6_K, Q4_0) or in the mix Q4_K_M; norms always in
float32, as llama.cpp wants them. In Q4_0 the matrix that gives the logits stays in Q8_0. What the format has no words
for (the template as data, provenance, the exact shape, the dtype of widened norms) stands in the key `camelid.model`;
other readers pass it over.

Foreign files are read under the same checks: every key of the architecture must be understood, because one that is not
may change what the model computes. Quantised weights are decoded to float32 when asked for; `Quantised.stored` gives
their bytes as they are.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from camelid.checkpoints.directory import Checkpoint
from camelid.checkpoints.gguf_file import Blocks, Encoded, Header, Place, Value, read_header, serialise
from camelid.checkpoints.gguf_shape import shape_keys, shape_of, viewed, wavelength_factors
from camelid.checkpoints.gguf_vocabulary import MODEL as TOKENIZER
from camelid.checkpoints.gguf_vocabulary import PREFIX, TOKENS, keys_of, tokenizer_of
from camelid.checkpoints.huggingface import Config, Generation, generation_from, generation_to
from camelid.checkpoints.names import (
    EMBEDDING,
    GGUF_FREQUENCIES,
    HEAD,
    Pair,
    heads_of,
    pairs,
    to_halves,
    to_neighbours,
)
from camelid.checkpoints.safetensors_io import Deferred, deferred
from camelid.durable import FILES, Files, json_bytes, parse_json, replace_file
from camelid.errors import BadFile, NonFinite, ProblemList, Problems, StoreError
from camelid.frozen import from_data, to_data
from camelid.models.shape import LlamaShape
from camelid.quantize.blocks import DTYPES, decode, encode
from camelid.quantize.forms import FORMS, MIXES, WRITTEN, Form, mixed

if TYPE_CHECKING:
    from camelid.dialogue.template import Template
    from camelid.tokenizers.protocol import Tokenizer

OWN = "camelid.model"
OWN_FORMAT = "camelid gguf 1"
CHAT_TEMPLATE = PREFIX.removesuffix("ggml.") + "chat_template"
ARCHITECTURE = "general.architecture"
FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "q4_k": 15, "q6_k": 18, "bf16": 32}  # llama.h: llama_ftype
MAX_OWN_BYTES = 16 << 20

# --- writing --------------------------------------------------------------------------------------------------------


def save_gguf(
    path: Path,
    state: Mapping[str, torch.Tensor | Deferred],
    *,
    shape: LlamaShape,
    form: str | None = None,
    tokenizer: Tokenizer | None = None,
    template: Template | None = None,
    chat_template: str | None = None,
    generation: Generation | None = None,
    told: Mapping[str, Any] | None = None,
    source: str | None = None,
    certificate: Mapping[str, Any] | None = None,
    files: Files = FILES,
) -> Path:
    """`path`, now a GGUF file, or no file at all. One tensor is in memory at a time.

    state       the weights under Hugging Face's names; those of a tied head may be there or not
    form        of the matrices: f32, f16, bf16, q8_0, q6_k, q4_0 or q4_k_m; each in its own dtype by default
    chat_template  of a foreign model, kept as it stands; with a template it is written from that
    told        what camelid.json says of the model, `source`, its digest, and its certificate; kept in the file

    Raises UsageError naming everything that the form or the format cannot hold, NonFinite for values that are infinite,
    not a number, or beyond the form's range, StoreError if the file exists or the disk is full.
    """
    path = Path(path)
    if path.exists():
        raise StoreError(f"{path}: exists already; choose another name, or remove it first")
    wanted = _wanted(shape)
    given = {name: deferred(tensor) for name, tensor in state.items() if not (shape.tied and name == HEAD)}
    forms = forms_of(given, shape, form)
    tensors = {pair.gguf: _encoded(pair, given[pair.ours], shape, forms[pair.ours]) for pair in wanted}
    factors = wavelength_factors(shape)
    if factors is not None:
        tensors[GGUF_FREQUENCIES] = Encoded(FORMS["f32"], tuple(factors.shape), lambda: factors.view(torch.uint8))
    own = {
        "format": OWN_FORMAT,
        "shape": to_data(shape),
        "told": {"template": None if template is None else to_data(template), **(told or {})},
        "generation": dict(generation_to(generation or Generation())),
        "widened": _widened(wanted, given, form),
        "from": source,
        **({"certificate": dict(certificate)} if certificate is not None else {}),
    }
    keys: dict[str, Value | bytes] = {
        ARCHITECTURE: "llama",
        "general.type": "model",
        "general.file_type": _file_type(forms),
        "general.quantization_version": 2,  # ggml.h: GGML_QNT_VERSION
        **shape_keys(shape),
        **({TOKENIZER: "none"} if tokenizer is None else keys_of(tokenizer, shape.vocab)),
        OWN: json_bytes(own).decode("utf-8"),
    }
    if tokenizer is not None and template is not None:
        from camelid.dialogue.jinja import jinja

        chat_template = jinja(template, tokenizer)
    if chat_template is not None:
        keys[CHAT_TEMPLATE] = chat_template
    return replace_file(path, serialise(keys, tensors), files=files)


def forms_of(given: Mapping[str, Deferred], shape: LlamaShape, form: str | None) -> dict[str, Form]:
    """The form in which `save_gguf` stores each tensor, by Hugging Face's name.

    Raises UsageError naming all that cannot be stored.
    """
    wanted = _wanted(shape)
    problems = ProblemList()
    if form is not None and form not in WRITTEN:
        problems.add("type", f"found {form!r}", f"choose from {', '.join(WRITTEN)}")
        problems.raise_usage()
    floats = {dtype: FORMS[name] for name, dtype in DTYPES.items()}
    forms: dict[str, Form] = {}
    narrow: list[Pair] = []
    for pair in wanted:
        if pair.ours not in given or given[pair.ours].shape != pair.shape:
            problems.add(pair.ours, "is missing or misshapen", "every weight of the shape must be there")
            continue
        dtype = given[pair.ours].dtype
        if len(pair.shape) == 1:
            chosen: Form | None = FORMS["f32"]
        elif form in MIXES:
            chosen = mixed(form, *_role(pair, shape), shape.layers)
        else:
            chosen = FORMS[form] if form else floats.get(dtype)
        if form == "q4_0" and pair.ours == (EMBEDDING if shape.tied else HEAD):
            chosen = FORMS["q8_0"]
        if chosen is None or (form is None and dtype not in floats):
            problems.add(pair.ours, f"is of {dtype}, which GGUF's readers do not take", "name a type: f32")
            continue
        if pair.shape[-1] % chosen.weights:
            narrow.append(pair)
        forms[pair.ours] = chosen
    if narrow:
        sizes = ", ".join(str(size) for size in sorted({pair.shape[-1] for pair in narrow}))
        unit = max(forms[pair.ours].weights for pair in narrow)
        found = f"rows of {sizes} weights ({len(narrow)} tensors) are no whole number of blocks of {unit}"
        smaller = "q8_0 or q4_0, if 32 divides them; or " if unit > 32 else ""
        problems.add(f"type {form}", found, f"use {smaller}f16, bf16 or f32")
    problems.raise_usage()
    return forms


def _role(pair: Pair, shape: LlamaShape) -> tuple[str, int]:
    """What a matrix is, for a mix, and in which layer it stands: ("v_proj", 3), ("head", 0)."""
    if pair.ours == (EMBEDDING if shape.tied else HEAD):
        return "head", 0
    names = pair.ours.split(".")
    return names[-2], int(names[2]) if names[1] == "layers" else 0


def _widened(wanted: list[Pair], given: Mapping[str, Deferred], form: str | None) -> dict[str, str]:
    """The dtype of each norm that is stored wider than the model has it."""
    dtypes = {name: dtype for name, dtype in DTYPES.items() if name != "f32" and form in (None, name)}
    norms = [pair.ours for pair in wanted if len(pair.shape) == 1 and given[pair.ours].dtype in dtypes.values()]
    return {name: str(given[name].dtype).removeprefix("torch.") for name in norms}


def _file_type(forms: Mapping[str, Form]) -> int:
    counted = Counter(form.name for form in forms.values())
    del counted["f32"]
    return FILE_TYPES[counted.most_common(1)[0][0]] if counted else 0


def _encoded(pair: Pair, tensor: Deferred, shape: LlamaShape, form: Form) -> Encoded:
    heads = heads_of(pair, shape)

    def read() -> torch.Tensor:
        made = tensor.read()
        try:
            return encode(form.name, to_neighbours(made, heads) if heads else made)
        except NonFinite as error:
            raise NonFinite(f"{pair.ours}: {error}") from error

    return Encoded(form, pair.shape, read)


# --- reading --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stored:
    """A tensor as its file holds it: rows in Hugging Face's order, each its blocks end to end. `data` is uint8."""

    form: Form
    shape: tuple[int, ...]
    data: torch.Tensor


@dataclass(frozen=True)
class GgufCheckpoint(Checkpoint):
    """A model in one GGUF file, every claim of which was checked. Used like any other checkpoint."""

    header: Header
    narrowed: Mapping[str, str]  # dtypes of norms that were widened to be stored
    noted: Mapping[str, Any] | None = None  # the certificate

    @property
    def certificate(self) -> Mapping[str, Any] | None:
        return self.noted

    @property
    def dtype(self) -> str:
        """float32 where weights are quantised, for they are decoded to it; else the widest stored dtype."""
        return "float32" if self.quantised else self._dtypes[-1]

    @property
    def stored_as(self) -> str:
        return ", ".join(self.forms) if self.quantised else self._dtypes[0]

    @property
    def _dtypes(self) -> list[str]:
        """Those of the weights, the narrowest first."""
        dtypes = {tensor.dtype for tensor in self._deferred.values()}
        ordered = sorted(dtypes, key=lambda dtype: (dtype.itemsize, dtype == torch.float16))
        return [str(dtype).removeprefix("torch.") for dtype in ordered]

    @property
    def forms(self) -> Mapping[str, int]:
        """How many tensors are stored in each form, the commonest first."""
        return dict(Counter(place.form.name for place in self.header.places.values()).most_common())

    @property
    def quantised(self) -> bool:
        """Whether any weight is stored in less than a float of its own."""
        return not all(FORMS[name].is_float for name in self.forms)

    @property
    def has_tokenizer(self) -> bool:
        """Whether the file describes a tokenizer."""
        return self.header.metadata.get(TOKENIZER) not in (None, "none")

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The file's tokenizer. Raises BadFile if it has none, or one that is not Llama's."""
        if not self.has_tokenizer:
            raise BadFile(self.path, TOKENIZER, "the file holds no tokenizer", "convert it with its tokenizer")
        return tokenizer_of(self.header.metadata, self.path)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file."""
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @property
    def chat_template(self) -> str | None:
        text = self.header.metadata.get(CHAT_TEMPLATE)
        return text if isinstance(text, str) else None

    def tensors(self) -> Mapping[str, torch.Tensor]:
        """The weights under Hugging Face's names, in its order of rows; quantised ones decoded to float32."""
        return _Tensors(self._deferred)

    def form(self, name: str) -> Form:
        """In which form a tensor is stored, by Hugging Face's name."""
        return self.header.places[self._pairs[name].gguf].form

    def stored(self, name: str) -> Stored:
        """One tensor, by Hugging Face's name, without decoding it."""
        found, heads = self.in_file(name)
        return replace(found, data=to_halves(found.data, heads)) if heads else found

    def in_file(self, name: str) -> tuple[Stored, int]:
        """The same with its rows where the file has them, a view of the mapped file: where heads are said (0 if not), each
        has its rotary pairs side by side instead of in halves."""
        pair = self._pairs[name]
        place = self.header.places[pair.gguf]
        return Stored(place.form, place.shape, self._blocks[pair.gguf]), heads_of(pair, self.shape)

    @cached_property
    def _blocks(self) -> Blocks:
        return Blocks(self.header)

    @cached_property
    def _pairs(self) -> Mapping[str, Pair]:
        return {pair.ours: pair for pair in _wanted(self.shape)}

    @cached_property
    def _deferred(self) -> Mapping[str, Deferred]:
        return {name: self._decoded(name, pair) for name, pair in self._pairs.items()}

    def _decoded(self, name: str, pair: Pair) -> Deferred:
        form = self.header.places[pair.gguf].form.name
        dtype = (
            getattr(torch, self.narrowed.get(name, "")) if name in self.narrowed else DTYPES.get(form, torch.float32)
        )

        def read() -> torch.Tensor:
            stored = self.stored(name)
            if form in DTYPES:
                whole = viewed(stored.data, DTYPES[form])
                if dtype == whole.dtype:
                    return whole
                narrow = whole.to(dtype)
                if not torch.equal(narrow.to(whole.dtype), whole):
                    raise BadFile(self.path, pair.gguf, f"holds more than the {dtype} it is said to come from")
                return narrow
            return decode(form, stored.data)

        return Deferred(dtype, pair.shape, read)


class _Tensors(Mapping[str, torch.Tensor]):
    def __init__(self, waiting: Mapping[str, Deferred]) -> None:
        self.waiting = waiting

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.waiting[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self.waiting)

    def __len__(self) -> int:
        return len(self.waiting)


def _wanted(shape: LlamaShape) -> list[Pair]:
    return [pair for pair in pairs(shape) if not (shape.tied and pair.ours == HEAD)]


def load_gguf(path: Path) -> GgufCheckpoint:
    """The model in a GGUF file, once everything it says was found true. Raises BadFile naming everything that is wrong.

    A file carries no checksum, so damage within a tensor cannot be seen; damage to anything else is.
    """
    path = Path(path)
    header = read_header(path)
    keys = header.metadata
    _check_kind(path, keys)
    own = _read_own(path, keys.get(OWN))
    shape = shape_of(header, None if own is None else _told_shape(path, own), OWN)
    _check_tensors(path, header, shape)
    generation = Generation() if own is None else generation_from(own["generation"], path)
    if own is None:
        generation = _generation(keys, shape.vocab)
    narrowed = _narrowed(path, header, shape, own)
    config = Config(shape, None, generation.bos, generation.eos, generation.pad)
    told = {} if own is None else own["told"]
    ignored = (GGUF_FREQUENCIES,) if GGUF_FREQUENCIES in header.places else ()
    noted = None if own is None else own.get("certificate")
    if noted is not None and not isinstance(noted, dict):
        raise BadFile(path, OWN, "certificate is no table", "take the original file")
    return GgufCheckpoint(path, config, generation, (), told, ignored, None, header, narrowed, noted)


def _check_kind(path: Path, keys: Mapping[str, Value]) -> None:
    kind = keys.get(ARCHITECTURE)
    if kind != "llama":
        raise BadFile(path, ARCHITECTURE, f"{str(kind)[:40]!r} is not 'llama'", "only Llama models can be read")
    if keys.get("split.count", 1) not in (0, 1):
        raise BadFile(path, "split.count", f"one of {keys['split.count']} pieces", "join them with llama-gguf-split")
    kinds = keys.get("general.type", "model")
    if kinds != "model":
        raise BadFile(path, "general.type", f"{str(kinds)[:40]!r} is no whole model", "name the model's own file")


def _read_own(path: Path, text: object) -> dict[str, Any] | None:
    """What camelid wrote beside GGUF's own keys; None for foreign files."""
    if text is None:
        return None
    if not isinstance(text, str) or len(text) > MAX_OWN_BYTES:
        raise BadFile(path, OWN, "is no text of a sensible length", "take the original file")
    own = parse_json(text.encode("utf-8"), path, OWN)
    wanted = {"shape": dict, "told": dict, "generation": dict, "widened": dict}
    sound = isinstance(own, dict) and own.get("format") == OWN_FORMAT
    if not sound or not all(isinstance(own.get(key), kind) for key, kind in wanted.items()):
        raise BadFile(path, OWN, f"is not in the format {OWN_FORMAT!r}", "read it with what wrote it")
    if not isinstance(own["told"].get("provenance", {}), dict):
        raise BadFile(path, OWN, "told.provenance is no table", "read it with what wrote it")
    return dict(own)


def _told_shape(path: Path, own: dict[str, Any]) -> LlamaShape:
    try:
        return from_data(LlamaShape, own["shape"], "shape")
    except Problems as error:
        raise BadFile(path, OWN, str(error).replace("\n", "; "), "take the original file") from error


def _check_tensors(path: Path, header: Header, shape: LlamaShape) -> None:
    places: dict[str, Place] = dict(header.places)
    places.pop(GGUF_FREQUENCIES, None)
    wrong: list[str] = []
    if 9 * shape.layers > len(places):  # so that a key cannot ask for work out of proportion to the file
        raise BadFile(path, "", f"{len(places)} tensors, too few for {shape.layers} layers", "copy the file again")
    for pair in _wanted(shape):
        place = places.pop(pair.gguf, None)
        if place is None:
            wrong.append(f"{pair.gguf} is missing")
        elif place.shape != pair.shape:
            wrong.append(f"{pair.gguf} is {list(place.shape)} where the keys need {list(pair.shape)}")
        elif len(pair.shape) == 1 and place.form.name != "f32":
            wrong.append(f"{pair.gguf} is of form {place.form.name}, where a norm is f32")
    wrong += [f"{name[:80]!r} is no weight of such a model" for name in places]
    if wrong:
        more = f"; and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise BadFile(path, "", "; ".join(wrong[:8]) + more, "its keys and tensors are of different models")


def _generation(keys: Mapping[str, Value], vocab: int) -> Generation:
    """Begin, end and padding as the tokenizer's keys say; the ends of a turn and of a text both end a text."""
    ids: dict[str, int] = {}
    for role in ("bos", "eos", "eot", "eom", "padding"):
        id = keys.get(f"{PREFIX}{role}_token_id")
        if type(id) is int and 0 <= id < vocab:
            ids[role] = id
    tokens = keys.get(TOKENS)
    for role, name in (("eot", "<|eot_id|>"), ("eom", "<|eom_id|>")):  # by name, as llama.cpp finds them
        if role not in ids and isinstance(tokens, list) and name in tokens:
            ids[role] = tokens.index(name)
    ends = tuple(dict.fromkeys(ids[role] for role in ("eos", "eot", "eom") if role in ids))
    return Generation(ids.get("bos"), ends, ids.get("padding"))


def _narrowed(path: Path, header: Header, shape: LlamaShape, own: dict[str, Any] | None) -> dict[str, str]:
    """The dtype that each norm had before it was widened to float32, the only form in which GGUF has norms.

    Foreign files do not say. Where all their matrices are of one 16-bit dtype, norms that it holds exactly were surely
    of it too; the values are the same either way.
    """
    norms = [pair for pair in _wanted(shape) if len(pair.shape) == 1]
    if own is not None:
        widened: dict[str, str] = own["widened"]
        names = {pair.ours for pair in norms}
        for name, was in widened.items():
            if name not in names or was not in ("float16", "bfloat16"):
                raise BadFile(path, OWN, f"widened: {name[:80]!r} from {str(was)[:40]!r} is no such norm")
        return dict(widened)
    matrices = {header.places[pair.gguf].form.name for pair in _wanted(shape) if len(pair.shape) == 2}
    if matrices not in ({"f16"}, {"bf16"}):
        return {}
    dtype = DTYPES[matrices.pop()]
    blocks = Blocks(header)
    whole = [viewed(blocks[pair.gguf], torch.float32) for pair in norms]
    if not all(torch.equal(norm.to(dtype).float(), norm) for norm in whole):
        return {}
    return {pair.ours: str(dtype).removeprefix("torch.") for pair in norms}


__all__ = ["GgufCheckpoint", "Stored", "forms_of", "load_gguf", "save_gguf", "shape_keys"]
