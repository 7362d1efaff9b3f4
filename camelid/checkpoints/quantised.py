"""A model's weights put through a quantised form and back: what they then are, how many bytes they take, how far off.

q8_0 q4_0   every matrix, as `save_gguf` stores it
int8 nf4    the linear maps of the layers; embedding, head and norms stay as they are (Dettmers et al. 2023: QLoRA
            quantises the linear layers)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from camelid.checkpoints.directory import Checkpoint
from camelid.checkpoints.gguf import forms_of
from camelid.checkpoints.names import EMBEDDING, HEAD
from camelid.checkpoints.safetensors_io import deferred
from camelid.errors import CamelidError, NonFinite, UsageError
from camelid.quantize import blocks, int8, nf4

METHODS = ("q4_0", "q8_0", "nf4", "int8")


@dataclass(frozen=True)
class Coded:
    """One tensor after the journey: its weights in float32, the form it took, its bytes there, and its largest error.

    `share` is that error as a share of the form's bound at the same weight; never above 1 (tested, and refused here).
    """

    name: str
    form: str
    weights: torch.Tensor
    bytes: int
    error: float
    share: float


def quantised(checkpoint: Checkpoint, to: str) -> Iterator[Coded]:
    """Every tensor of the model as `to` keeps it, one in memory at a time.

    Raises UsageError for tensors that the form cannot hold, NonFinite for values that it cannot.
    """
    tensors = {name: deferred(tensor) for name, tensor in checkpoint.tensors().items()}
    forms = (
        {name: form.name for name, form in forms_of(tensors, checkpoint.shape, to).items()}
        if to in blocks.ENCODED
        else {}
    )
    for name, tensor in tensors.items():
        form = forms.get(name, "")
        if not form and len(tensor.shape) == 2 and name not in (EMBEDDING, HEAD):
            form = to
        made = tensor.read()
        try:
            yield _coded(name, made, form)
        except NonFinite as error:
            raise NonFinite(f"{name}: {error}") from error
        except UsageError as error:
            raise CamelidError(f"{name}: {error}") from error


def _coded(name: str, weights: torch.Tensor, form: str) -> Coded:
    if form in blocks.ENCODED:
        data = blocks.encode(form, weights)
        return _measured(name, form, weights, blocks.decode(form, data), data.numel(), blocks.bound(form, weights))
    if form == "int8":
        rows = int8.encode(weights)
        return _measured(name, form, weights, int8.decode(rows), rows.bytes, int8.bound(weights))
    if form == "nf4":
        levels = nf4.encode(weights)
        return _measured(name, form, weights, nf4.decode(levels), levels.bytes, nf4.bound(weights))
    stored = str(weights.dtype).removeprefix("torch.")
    return Coded(name, stored, weights.float(), weights.numel() * weights.element_size(), 0.0, 0.0)


def _measured(name: str, form: str, before: torch.Tensor, after: torch.Tensor, size: int, bound: torch.Tensor) -> Coded:
    error = (after.double() - before.double()).abs()
    share = float((error / bound).max())
    if not share <= 1:
        raise CamelidError(f"{name}: an error of {share:.3f} times the bound of {form}: this is a fault in camelid")
    return Coded(name, form, after, size, float(error.max()), share)
