"""A quantised GGUF file through the native kernels as it is: its blocks are laid out anew, never decoded or rounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from camelid.checkpoints.directory import Checkpoint
from camelid.checkpoints.names import EMBEDDING, HEAD, expected
from camelid.native.library import library
from camelid.native.llama import NativeLlama
from camelid.native.matrix import Kind, Matrix, Room, size_of

if TYPE_CHECKING:
    from camelid.checkpoints.gguf import GgufCheckpoint


def as_stored(checkpoint: Checkpoint) -> NativeLlama | None:
    """The model over the file's own blocks; None where it has none that the kernels read, or there are no kernels.

    All matrices of the layers must be of one form, Q8_0 or Q4_0. Embedding and head, if in another, are decoded to
    float32, which changes no value.
    """
    from camelid.checkpoints.gguf import GgufCheckpoint

    found = library()
    if not isinstance(checkpoint, GgufCheckpoint) or found is None:
        return None
    kinds = _kinds(checkpoint)
    layers = {kind for name, kind in kinds.items() if name not in (EMBEDDING, HEAD)}
    if layers not in ({"q8_0"}, {"q4_0"}):
        return None
    tensors, sizes = checkpoint.tensors(), expected(checkpoint.shape)
    room = Room(found, sum(size_of(sizes[name][0], sizes[name][1], kind) for name, kind in kinds.items()))
    matrices: dict[str, Matrix] = {}
    for name, kind in kinds.items():
        if kind == "q8_0" or kind == "q4_0":
            matrices[name] = Matrix.of_blocks(found, checkpoint.stored(name).data, sizes[name][1], kind, room)
        else:
            matrices[name] = Matrix.copied(found, tensors[name].float(), "float32", room)
    norms = {name: tensors[name] for name in tensors if name not in kinds}
    return NativeLlama(checkpoint.shape, matrices, norms)


def _kinds(checkpoint: GgufCheckpoint) -> dict[str, Kind]:
    """How the kernels are to hold each matrix; what they cannot read as it is, as float32."""
    kinds: dict[str, Kind] = {}
    for name, size in expected(checkpoint.shape).items():
        if len(size) == 2:
            form = checkpoint.form(name).name
            kinds[name] = "q8_0" if form == "q8_0" else "q4_0" if form == "q4_0" else "float32"
    return kinds
