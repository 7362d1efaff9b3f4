"""Adapters in PEFT's format: adapter_config.json and adapter_model.safetensors, plus camelid.json naming the base.

An adapter belongs to the weights it was trained beside. Those written here say which (by the base's digest), and are
refused beside others; PEFT's own say nothing about it, which `Adapter.base` shows as None.

Where a vocabulary grew, embedding and head were trained whole and are in the folder with all their rows, the tokenizer
beside them. PEFT wants the base to have as many rows before: `base.resize_token_embeddings(rows)`, whatever they hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import camelid
from camelid.checkpoints.directory import PROVENANCE, Checkpoint
from camelid.checkpoints.huggingface import HARMLESS, REFUSED
from camelid.checkpoints.safetensors_io import Deferred, Header, TensorFile, read_header, serialise
from camelid.checkpoints.table import Table, short
from camelid.durable import FILES, MANIFEST, Draft, Files, Manifest, commit, json_bytes, read_json, verify
from camelid.errors import BadFile, NonFinite, ProblemList, UsageError
from camelid.frozen import from_data, to_data
from camelid.models.shape import LINEARS, LlamaShape, LoRA, Whole

if TYPE_CHECKING:
    import torch

    from camelid.dialogue.template import Template
    from camelid.models.llama import Llama
    from camelid.tokenizers.protocol import Tokenizer

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
FORMAT = "camelid adapter 1"
PREFIX = "base_model.model."  # what PEFT puts before every name it saves
ENDS = {"embed_tokens": "model.embed_tokens", "lm_head": "lm_head"}
TIED = "embedding and head are one matrix here, and in PEFT's format the head would stay the base's"

# What PEFT's other keys must be for the adapter to be the plain one that can be read; null, false and {} always may be.
PLAIN: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", None),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian"),  # others change the base as well
}
PASSED = {
    "base_model_name_or_path",
    "revision",
    "peft_version",
    "inference_mode",
    "megatron_core",
    "qalora_group_size",
    "lora_dropout",
    "lora_alpha",
    "r",
    "target_modules",
    "modules_to_save",
    "use_rslora",
    "use_dora",
}


@dataclass(frozen=True)
class Adapter:
    """An adapter whose every claim was checked against the shape of its base."""

    path: Path
    lora: LoRA
    base: str | None  # digest of the weights it was trained beside; None where the folder does not say
    told: Mapping[str, Any]  # camelid.json; empty for foreign adapters
    file: TensorFile
    rows: int  # of embedding and head beside it: the base's own, or more
    base_rows: int

    @property
    def provenance(self) -> Mapping[str, Any]:
        provenance: Mapping[str, Any] = self.told.get("provenance", {})
        return provenance

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer that it was tuned with, where that is another than its base's."""
        if self.rows == self.base_rows and "tokenizer" not in self.told:
            return None
        from camelid import tokenizers

        return tokenizers.load(self.path)

    @property
    def template(self) -> Template | None:
        """The template that it was tuned in; None where the folder does not say."""
        if self.told.get("template") is None:
            return None
        from camelid.dialogue.template import Template

        return from_data(Template, self.told["template"], f"{self.path / PROVENANCE}: template")

    def tensors(self) -> Mapping[str, torch.Tensor]:
        """The adapter's tensors under PEFT's names, lazily."""
        return self.file


def expected(shape: LlamaShape, lora: LoRA) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of such an adapter: A [R, in], B [out, R], DoRA's m [out], ends trained whole [V, D]."""
    wanted: dict[str, tuple[int, ...]] = {}
    linears = {str(name): size for name, size in shape.linears().items()}
    for layer in range(shape.layers):
        for name in LINEARS:
            if name in lora.targets:
                block = "self_attn" if name in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
                outputs, inputs = linears[name]
                at = f"{PREFIX}model.layers.{layer}.{block}.{name}"
                wanted[f"{at}.lora_A.weight"] = (lora.rank, inputs)
                wanted[f"{at}.lora_B.weight"] = (outputs, lora.rank)
                if lora.kind == "dora":
                    wanted[f"{at}.lora_magnitude_vector"] = (outputs,)
    for word in lora.trained:
        wanted[f"{PREFIX}{ENDS[word]}.weight"] = (shape.vocab, shape.width)
    return wanted


# --- writing --------------------------------------------------------------------------------------------------------


def save(
    path: Path,
    state: Mapping[str, torch.Tensor],
    *,
    lora: LoRA,
    shape: LlamaShape,
    base: str,
    base_name: str = "",
    base_rows: int | None = None,
    base_tokenizer: str | None = None,
    tokenizer: Tokenizer | None = None,
    template: Template | None = None,
    provenance: Mapping[str, Any] | None = None,
    files: Files = FILES,
) -> Path:
    """`path`, now an adapter folder that PEFT loads, or no folder at all.

    state      what `models.adapt.portable` gives beside `lora`: PEFT's names
    shape      of the model that it was trained in
    base       `Checkpoint.digest` of the weights that it was trained beside
    base_name  a folder or name by which people find them
    base_rows  rows of their vocabulary, where the model had more: then embedding and head must be among what was
               trained whole, and `tokenizer` is that of all rows
    base_tokenizer  digest of the tokenizer beside those weights: another `tokenizer` goes into the folder, as one does
               that fills padding of the base's rows
    template   in which it was tuned

    Raises UsageError naming every missing, superfluous and misshapen tensor, NonFinite, StoreError.
    """
    problems = ProblemList()
    if lora.start != "zero":
        problems.add("adapter.start", f"{lora.start!r} changed the base as well", "save what portable(model) gives")
    grew = base_rows is not None and base_rows != shape.vocab
    if shape.tied and lora.trained:
        problems.add("adapter.trained", TIED, "save the merged model")
    elif grew and not set(ENDS) <= set(lora.trained):
        found = f"{shape.vocab} rows beside a base of {base_rows}, which are not in it"
        problems.add("adapter.trained", found, f"train {' and '.join(ENDS)} whole")
    wanted = expected(shape, lora)
    for name in sorted(wanted.keys() ^ state.keys()):
        problems.add(name, "is missing" if name in wanted else "belongs to no such adapter", "see its settings")
    for name in sorted(wanted.keys() & state.keys()):
        if tuple(state[name].shape) != wanted[name]:
            problems.add(name, f"has shape {list(state[name].shape)}, not {list(wanted[name])}", "see rank and shape")
    problems.raise_usage()
    for name, tensor in state.items():
        if not bool(tensor.isfinite().all()):
            raise NonFinite(f"{name}: holds infinite values or values that are no numbers; nothing was saved")
    told: dict[str, Any] = {
        "format": FORMAT,
        "code": camelid.__version__,
        "base": base,
        "provenance": dict(provenance or {}),
    }
    if grew:
        told |= {"rows": shape.vocab, "base rows": base_rows}
    if template is not None:
        told["template"] = to_data(template)
    other = tokenizer is not None and base_tokenizer is not None and tokenizer.digest() != base_tokenizer
    texts = tokenizer.files() if tokenizer is not None and (grew or other) else {}
    if texts and tokenizer is not None:
        told["tokenizer"] = tokenizer.digest()
    ordered: dict[str, torch.Tensor | Deferred] = {name: state[name] for name in wanted}

    def fill(draft: Draft) -> None:
        draft.write(CONFIG, json_bytes(_config_to(lora, base_name)))
        draft.write(PROVENANCE, json_bytes(told))
        draft.write(WEIGHTS, serialise(ordered, {"format": "pt"}))
        for name, data in texts.items():
            draft.write(name, data)

    needed = sum(tensor.numel() * tensor.element_size() + 256 for tensor in state.values())
    return commit(path, fill, needed=needed, files=files)


def _config_to(lora: LoRA, base_name: str) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name or None,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if float(lora.alpha).is_integer() else lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": list(lora.targets),
        "modules_to_save": list(lora.trained) or None,
        "use_rslora": lora.scale == "root",
        "use_dora": lora.kind == "dora",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
    }


# --- reading --------------------------------------------------------------------------------------------------------


def load(path: Path, base: Checkpoint, *, check: Literal["contents", "lengths"] = "contents") -> Adapter:
    """The adapter in a folder, ours or PEFT's, for this base.

    Raises BadFile naming everything that is wrong: keys that would change the mathematics, tensors that are missing,
    too many or misshapen, another base than the one it was trained beside.
    """
    path = Path(path)
    manifest = _open_folder(path, check)
    lora = read_config(path / CONFIG)
    told: Any = {}
    if manifest is not None:
        told = read_json(path / PROVENANCE)
        if not isinstance(told, dict) or told.get("format") != FORMAT or not isinstance(told.get("base"), str):
            raise BadFile(path / PROVENANCE, "", f"is not in the format {FORMAT!r}", "read it with what wrote it")
        if told["base"] != base.digest:
            found = f"was trained beside weights {told['base'][:16]}, these are {base.digest[:16]}"
            raise BadFile(path, "", found, f"load it with its own base, not {base.path}")
    header = read_header(path / WEIGHTS)
    rows = _rows(header, base.shape, lora)
    wanted = expected(replace(base.shape, vocab=rows), lora)
    wrong = [f"{name} is missing" for name in wanted if name not in header.places]
    wrong += [f"modules_to_save: {TIED}"] * bool(base.shape.tied and lora.trained)
    for name, place in header.places.items():
        if name not in wanted:
            wrong.append(f"{name[:80]!r} belongs to no such adapter")
        elif place.shape != wanted[name]:
            wrong.append(f"{name} is {list(place.shape)} where the base needs {list(wanted[name])}")
        elif place.dtype not in ("F64", "F32", "F16", "BF16"):
            wrong.append(f"{name} is of {place.dtype}, no floating-point dtype")
    if wrong:
        more = f"; and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise BadFile(
            path, "", "; ".join(wrong[:8]) + more, "it belongs to another base, or its settings are not these"
        )
    return Adapter(path, lora, told.get("base"), told, TensorFile(header), rows, base.shape.vocab)


def _rows(header: Header, shape: LlamaShape, lora: LoRA) -> int:
    """The rows of embedding and head that stand in an adapter's folder, where they are more than the base has."""
    places = [header.places.get(f"{PREFIX}{name}.weight") for name in ENDS.values()]
    rows = {place.shape[0] if place is not None and len(place.shape) == 2 else 0 for place in places}
    grew = set(ENDS) <= set(lora.trained) and len(rows) == 1
    return max(shape.vocab, *rows) if grew else shape.vocab


def _open_folder(path: Path, check: Literal["contents", "lengths"]) -> Manifest | None:
    if (path / MANIFEST).is_file():
        manifest = verify(path, contents=check == "contents")
        if not {CONFIG, WEIGHTS, PROVENANCE} <= manifest.files.keys():
            raise BadFile(path / MANIFEST, "", "is that of something else than an adapter", "name an adapter folder")
        return manifest
    if (path / PROVENANCE).exists():
        raise BadFile(path / MANIFEST, "", "is missing beside camelid.json", "the folder is incomplete: copy it again")
    if not (path / CONFIG).exists():
        raise BadFile(path / CONFIG, "", "is missing", "name the folder that holds the adapter")
    if not (path / WEIGHTS).exists() and (path / "adapter_model.bin").exists():
        raise BadFile(
            path / "adapter_model.bin", "", "may hold code, which is never run", "get adapter_model.safetensors"
        )
    return None


def read_config(path: Path) -> LoRA:
    """The adapter's settings. Raises BadFile naming every key that asks for something else than plain LoRA."""
    table = Table(path, read_json(path, max_bytes=1 << 20, max_depth=8))
    for key, value in table.content.items():
        if key in REFUSED and value is not None:
            table.complain(key, REFUSED[key])
        elif key in PLAIN:
            if not any(type(value) is type(plain) and value == plain for plain in PLAIN[key]):
                table.complain(key, f"{short(value)} cannot be used", f"only {PLAIN[key][0]!r} can")
        elif key not in PASSED and key not in HARMLESS and value not in (None, False, {}, []):
            table.complain(key, f"{short(value)} is not understood and may change what the adapter computes")
    if table.content.get("peft_type") != "LORA":
        table.complain("peft_type", "is missing or not 'LORA'")
    rank, alpha, dropout = table.count("r"), table.real("lora_alpha"), table.real("lora_dropout")
    if rank is None or alpha is None:
        table.complain("r", "is missing, or lora_alpha is", "plain LoRA needs both")
    targets = _words(table, "target_modules", LINEARS)
    trained = _words(table, "modules_to_save", get_args(Whole))
    root, magnitude = (table.content.get(key, False) for key in ("use_rslora", "use_dora"))
    for key, value in (("use_rslora", root), ("use_dora", magnitude)):
        if value not in (None, False, True):
            table.complain(key, f"{short(value)} is neither true nor false")
    table.finish()
    try:
        return LoRA(
            rank=rank or 0,
            alpha=alpha or 0.0,
            dropout=dropout or 0.0,
            targets=targets,
            scale="root" if root else "rank",
            trained=trained,
            kind="dora" if magnitude else "lora",
        )
    except UsageError as error:
        table.wrong = [str(problem) for problem in error.problems]
        table.finish()
        raise


def _words(table: Table, key: str, known: tuple[Any, ...]) -> tuple[Any, ...]:
    value = table.content.get(key)
    if value is None:
        return ()
    if value == "all-linear" and key == "target_modules":
        return known
    if not isinstance(value, list) or not all(isinstance(word, str) and word in known for word in value):
        table.complain(key, f"{short(value)} is no list out of {', '.join(known)}", "other modules cannot be adapted")
        return ()
    return tuple(word for word in known if word in value)


def put_on(model: Llama, adapter: Adapter) -> Llama:
    """The model wearing the adapter, not merged; every other weight is frozen. It gets the rows that the adapter brings."""
    from camelid.models.adapt import add_lora, add_rows, load_adapter_state

    if adapter.rows > model.shape.vocab:
        add_rows(model, adapter.rows)
    add_lora(model, adapter.lora)
    load_adapter_state(model, dict(adapter.tensors()))
    return model
