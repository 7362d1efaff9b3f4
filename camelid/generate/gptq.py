"""A folder in GPTQ's layout through the native kernels as it is: the same numbers as Q4_0, laid out anew.

Symmetric codes mean s (q - 8), as Q4_0's do; a group of 128 columns is four blocks of 32 that share their scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from camelid.checkpoints.directory import Checkpoint
from camelid.checkpoints.names import expected
from camelid.native.library import GROUP, library
from camelid.native.llama import NativeLlama
from camelid.native.matrix import Kind, Matrix, Room, size_of
from camelid.quantize.int4 import MIDDLE, Int4, in_order

if TYPE_CHECKING:
    from camelid.checkpoints.packed import PackedCheckpoint


def as_stored(checkpoint: Checkpoint) -> NativeLlama | None:
    """The model over the folder's own codes; None where the kernels cannot read them, or there are no kernels.

    That takes symmetric GPTQ throughout, its groups side by side and a multiple of 32 wide. Plain matrices stay in
    bfloat16, or become float32, which changes no value.
    """
    from camelid.checkpoints.packed import PackedCheckpoint

    found = library()
    if found is None or not isinstance(checkpoint, PackedCheckpoint):
        return None
    kinds = _kinds(checkpoint)
    coded = {name: _blocks(checkpoint, name) for name, kind in kinds.items() if kind == "q4_0"}
    if not coded or any(blocks is None for blocks in coded.values()):
        return None
    tensors, sizes = checkpoint.tensors(), expected(checkpoint.shape)
    room = Room(found, sum(size_of(sizes[name][0], sizes[name][1], kind) for name, kind in kinds.items()))
    matrices: dict[str, Matrix] = {}
    for name, kind in kinds.items():
        blocks = coded.pop(name, None)
        if blocks is not None:
            matrices[name] = Matrix.of_blocks(found, blocks, sizes[name][1], kind, room)
        else:
            matrices[name] = Matrix.copied(found, tensors[name].float(), "bf16" if kind == "bf16" else "float32", room)
    norms = {name: tensors[name] for name in tensors if name not in kinds}
    return NativeLlama(checkpoint.shape, matrices, norms)


def _kinds(checkpoint: PackedCheckpoint) -> dict[str, Kind]:
    """How the kernels are to hold each matrix; empty where they cannot hold one as it is."""
    kinds: dict[str, Kind] = {}
    for name, size in expected(checkpoint.shape).items():
        form = checkpoint.form(name)
        if len(size) == 2:
            kinds[name] = "q4_0" if form == "gptq" else "bf16" if form == "bfloat16" else "float32"
        if name.endswith("_proj.weight") and form != "gptq":
            return {}
    return kinds


def _blocks(checkpoint: PackedCheckpoint, name: str) -> torch.Tensor | None:
    """Rows of Q4_0 blocks, uint8, that mean what a weight in GPTQ's layout means; None where none can."""
    coded = checkpoint.coded(name)
    assert isinstance(coded, Int4)
    rows, width = coded.codes.shape
    group = checkpoint.layout.group or width
    if group % GROUP or width % GROUP or bool((coded.zeros != MIDDLE).any()):
        return None
    if not torch.equal(coded.groups, in_order(width, group)):
        return None
    scales = coded.scales[:, torch.arange(0, width, GROUP) // group].contiguous()  # one for each block
    codes = coded.codes.view(rows, -1, GROUP)
    nibbles = codes[..., : GROUP // 2] | codes[..., GROUP // 2 :] << 4
    return torch.cat([scales[..., None].view(torch.uint8).view(rows, -1, 2), nibbles], dim=-1).flatten(1)
