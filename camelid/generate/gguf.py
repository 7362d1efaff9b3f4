"""A quantised GGUF file through the native kernels as it is: its blocks are laid out anew, never decoded or rounded.

Large ones are begun with where they are in the mapped file, and laid out while the model answers; no bit changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from camelid.checkpoints.directory import Checkpoint
from camelid.checkpoints.names import EMBEDDING, HEAD, expected
from camelid.native.library import library
from camelid.native.llama import LATER, NativeLlama
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
    total = sum(size_of(sizes[name][0], sizes[name][1], kind) for name, kind in kinds.items())
    room = Room(found, total) if total < LATER else None
    matrices: dict[str, Matrix] = {}
    for name, kind in kinds.items():
        if kind == "q8_0" or kind == "q4_0":
            stored, heads = checkpoint.in_file(name)
            turned = sizes[name][0] // heads if heads else 0
            if room is None:
                matrices[name] = Matrix.stored(stored.data, sizes[name][1], kind, turned=turned)
            else:
                matrices[name] = Matrix.of_blocks(found, stored.data, sizes[name][1], kind, room, turned=turned)
        elif room is None:
            matrices[name] = Matrix.floats(tensors[name].float())
        else:
            matrices[name] = Matrix.copied(found, tensors[name].float(), "float32", room)
    norms = {name: tensors[name] for name in tensors if name not in kinds}
    model = NativeLlama(checkpoint.shape, matrices, norms)
    return model if room else model.move_later()


def _kinds(checkpoint: GgufCheckpoint) -> dict[str, Kind]:
    """How the kernels are to hold each matrix; what they cannot read as it is, as float32."""
    kinds: dict[str, Kind] = {}
    for name, size in expected(checkpoint.shape).items():
        if len(size) == 2:
            form = checkpoint.form(name).name
            kinds[name] = "q8_0" if form == "q8_0" else "q4_0" if form == "q4_0" else "float32"
    return kinds
