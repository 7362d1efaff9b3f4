"""A model's weights put through a quantised form and back: what they then are, how many bytes they take, how far off.

q8_0 q6_k q4_k_m q4_0  every matrix, as `save_gguf` stores it
int8 nf4 gptq awq    the linear maps of the layers; embedding, head and norms stay as they are (Dettmers et al. 2023: QLoRA
                     quantises the linear layers). GPTQ and AWQ look at a calibration text; AWQ changes norms too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from camelid.checkpoints import directory, layouts
from camelid.checkpoints.calibration import Calibrated, Settings, calibrated
from camelid.checkpoints.directory import Checkpoint
from camelid.checkpoints.gguf import forms_of
from camelid.checkpoints.layouts import Layout
from camelid.checkpoints.safetensors_io import deferred
from camelid.durable import FILES, Files
from camelid.errors import CamelidError, NonFinite, Problem, UsageError
from camelid.quantize import blocks, int4, int8, nf4
from camelid.quantize.forms import IN_BLOCKS

if TYPE_CHECKING:
    from camelid.quantize.int4 import Int4
    from camelid.quantize.int8 import Int8
    from camelid.quantize.nf4 import NF4

CALIBRATED = ("gptq", "awq")
METHODS = (*IN_BLOCKS, "nf4", "int8", *CALIBRATED)


@dataclass(frozen=True)
class Coded:
    """One tensor after the journey: its weights in float32, the form it took, its bytes there, and its largest error.

    share   that error as a share of the form's bound at the same weight; never above 1 (tested, and refused here) but for
            GPTQ, which moves weights on purpose and has none
    loss    for GPTQ and AWQ: the error on the layer's output over the calibration text, and that of plain rounding
    stored  the coded weight itself, for forms that a folder holds
    """

    name: str
    form: str
    weights: torch.Tensor
    bytes: int
    error: float
    share: float
    loss: tuple[float, float] = (0.0, 0.0)
    stored: NF4 | Int8 | Int4 | None = field(default=None, repr=False)


def quantised(
    checkpoint: Checkpoint,
    to: str,
    *,
    ids: torch.Tensor | None = None,
    settings: Settings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Coded]:
    """Every tensor of the model as `to` keeps it, one in memory at a time.

    ids       for gptq and awq: the calibration text as [n, T] (see `calibration.windows`)
    progress  is told layers done and of how many, by these two

    Raises UsageError for tensors that the form cannot hold, NonFinite for values that it cannot.
    """
    if to in layouts.METHODS:
        layouts.check_fits(layout_of(to, settings), {str(k): v for k, v in checkpoint.shape.linears().items()})
    tensors = {name: deferred(tensor) for name, tensor in checkpoint.tensors().items()}
    forms = (
        {name: form.name for name, form in forms_of(tensors, checkpoint.shape, to).items()} if to in IN_BLOCKS else {}
    )
    if to in CALIBRATED:
        if ids is None:
            raise UsageError(
                [Problem("calibration", f"{to} needs a text to look at", "name one with --calibrate FILE")]
            )
        for each in calibrated(checkpoint, to, ids, settings, progress):
            yield _of_calibration(each, to, tensors[each.name].dtype)
    for name, tensor in tensors.items():
        if to in CALIBRATED and ".layers." in name:
            continue
        form = forms.get(name, "")
        if not form and name.endswith(layouts.LINEAR):
            form = to
        made = tensor.read()
        try:
            yield _coded(name, made, form)
        except NonFinite as error:
            raise NonFinite(f"{name}: {error}") from error
        except UsageError as error:
            raise CamelidError(f"{name}: {error}") from error


def layout_of(to: str, settings: Settings | None = None) -> Layout:
    """How a folder holds weights in this form: nf4, int8, gptq or awq."""
    chosen = settings or Settings()
    if to == "gptq":
        return Layout("gptq", group=chosen.group, symmetric=True, act_order=chosen.act_order)
    if to == "awq":
        return Layout("awq", group=chosen.group)
    return Layout("nf4" if to == "nf4" else "int8")


def save(
    path: Path,
    checkpoint: Checkpoint,
    coded: Iterable[Coded],
    layout: Layout,
    *,
    provenance: Mapping[str, Any] | None = None,
    files: Files = FILES,
) -> Path:
    """`path`, now a folder with the weights of `coded` (from `quantised`) and all else that the checkpoint has.

    Plain tensors keep their dtype. The coded ones of the whole model are in memory together, about four or eight bits a
    weight. Raises StoreError.
    """
    before = checkpoint.tensors()
    state: dict[str, torch.Tensor] = {}
    for each in coded:
        plain = before[each.name]
        if each.stored is None:
            state[each.name] = each.weights.to(plain.dtype) if layout.method == "awq" else plain
        else:
            dtype = str(plain.dtype).removeprefix("torch.")
            state |= layouts.pack(layout, each.name, each.stored, dtype)
    return directory.save(
        path,
        state,
        shape=checkpoint.shape,
        tokenizer=checkpoint.tokenizer if checkpoint.has_tokenizer else None,
        template=checkpoint.template,
        generation=checkpoint.generation,
        provenance={**checkpoint.provenance, **(provenance or {}), "quantised_from": checkpoint.digest},
        extra=directory.extras(  # the certificate is of the weights before they were rounded, which it says
            checkpoint.certificate, checkpoint.chat_template if checkpoint.template is None else None
        ),
        layout=layout,
        files=files,
    )


def _of_calibration(each: Calibrated, form: str, dtype: torch.dtype) -> Coded:
    if each.stored is None:
        return Coded(
            each.name, str(dtype).removeprefix("torch."), each.weights, dtype.itemsize * each.weights.numel(), 0.0, 0.0
        )
    after, losses = int4.decode(each.stored), (each.loss, each.loss_of_nearest)
    if form == "gptq":
        error = float((after - each.weights).abs().max())
        return Coded(each.name, form, after, each.stored.bytes, error, 0.0, losses, each.stored)
    bound = int4.bound(each.weights, each.stored)
    return _measured(each.name, form, each.weights, after, each.stored.bytes, bound, losses, each.stored)


def _coded(name: str, weights: torch.Tensor, form: str) -> Coded:
    if form in blocks.ENCODED:
        data = blocks.encode(form, weights)
        return _measured(name, form, weights, blocks.decode(form, data), data.numel(), blocks.bound(form, weights))
    if form == "int8":
        rows = int8.encode(weights)
        return _measured(name, form, weights, int8.decode(rows), rows.bytes, int8.bound(weights), stored=rows)
    if form == "nf4":
        levels = nf4.encode(weights)
        return _measured(name, form, weights, nf4.decode(levels), levels.bytes, nf4.bound(weights), stored=levels)
    stored = str(weights.dtype).removeprefix("torch.")
    return Coded(name, stored, weights.float(), weights.numel() * weights.element_size(), 0.0, 0.0)


def _measured(
    name: str,
    form: str,
    before: torch.Tensor,
    after: torch.Tensor,
    size: int,
    bound: torch.Tensor,
    loss: tuple[float, float] = (0.0, 0.0),
    stored: NF4 | Int8 | Int4 | None = None,
) -> Coded:
    error = (after.double() - before.double()).abs()
    share = float((error / bound).max())
    if not share <= 1:
        raise CamelidError(f"{name}: an error of {share:.3f} times the bound of {form}: this is a fault in camelid")
    return Coded(name, form, after, size, float(error.max()), share, loss, stored)


__all__ = ["CALIBRATED", "METHODS", "Coded", "layout_of", "quantised", "save"]
