"""Weights as the kernels read them: floats where PyTorch holds them, or quantised into panels on huge pages."""

from __future__ import annotations

import ctypes
import weakref
from typing import Literal

import torch
from torch import Tensor

from camelid.errors import CamelidError, Problem, UsageError
from camelid.native.library import BFLOAT16, FLOAT32, GROUP, PANEL, Q4_0, Q8_0, MatrixStruct

Kind = Literal["float32", "bf16", "q8_0", "q4_0"]
KINDS: dict[Kind, int] = {"float32": FLOAT32, "bf16": BFLOAT16, "q8_0": Q8_0, "q4_0": Q4_0}
BLOCK = {Q8_0: 34, Q4_0: 18}  # bytes of 32 weights in GGUF's Q8_0 and Q4_0
ALIGNED = 64


class Room:
    """Zeroed bytes on huge pages, handed out piece by piece and given back when nobody holds any of them."""

    def __init__(self, library: ctypes.CDLL, size: int) -> None:
        found = library.camelid_room(max(size, 1))
        if not found:
            raise CamelidError(f"weights: no memory for {size} bytes; close other programs or use smaller weights")
        self._next: int = found
        self._end = found + size
        weakref.finalize(self, library.camelid_leave, found, max(size, 1))

    def take(self, size: int) -> int:
        """The address of the next `size` bytes."""
        address = self._next
        self._next += aligned(size)
        assert self._next <= self._end, "a room is made for what goes into it"
        return address


class Matrix:
    """A matrix [rows, cols] for `camelid_linear`; `struct` points into `held`, which lives as long."""

    def __init__(
        self, kind: Kind, rows: int, cols: int, data: int, scales: int | None, held: object, *, turned: int = 0
    ) -> None:
        self.kind, self.rows, self.cols, self.held = kind, rows, cols, held
        self.struct = MatrixStruct(KINDS[kind], rows, cols, data, scales, turned)

    @property
    def bytes(self) -> int:
        """Bytes that one product reads."""
        if self.kind in ("float32", "bf16"):
            return self.rows * self.cols * (4 if self.kind == "float32" else 2)
        return groups(self.cols) * BLOCK[KINDS[self.kind]] * self.rows

    @property
    def room(self) -> int:
        """Bytes that it takes of a room."""
        return size_of(self.rows, self.cols, self.kind)

    def row(self, library: ctypes.CDLL, index: int) -> Tensor:
        """One row as float32, [cols]."""
        found = torch.empty(self.cols)
        library.camelid_embed(self.struct, index, found.data_ptr())
        return found

    @staticmethod
    def floats(weight: Tensor) -> Matrix:
        """The tensor's own memory, float32 or bfloat16 [rows, cols]; copied only where its rows do not lie in order."""
        weight = weight.detach().contiguous()
        kind: Kind = "float32" if weight.dtype == torch.float32 else "bf16"
        return Matrix(kind, weight.shape[0], weight.shape[1], weight.data_ptr(), None, weight)

    @staticmethod
    def copied(library: ctypes.CDLL, weight: Tensor, kind: Literal["float32", "bf16"], room: Room) -> Matrix:
        """The weights as `kind` in a room of huge pages, from which products read up to a quarter faster."""
        dtype = torch.float32 if kind == "float32" else torch.bfloat16
        size = weight.numel() * dtype.itemsize
        address = room.take(size)
        held = torch.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype=dtype).view(weight.shape)
        if weight.dtype == dtype and weight.is_contiguous():
            library.camelid_copy(address, weight.data_ptr(), size, torch.get_num_threads())
        else:
            held.copy_(weight.detach())
        return Matrix(kind, weight.shape[0], weight.shape[1], address, None, (room, held))

    @staticmethod
    def quantised(
        library: ctypes.CDLL, weight: Tensor, kind: Kind, room: Room | None = None, name: str = "weights"
    ) -> Matrix:
        """`weight` [rows, cols] rounded to blocks of 32 as GGUF's reference does, in panels.

        Raises UsageError for weights that are not finite or too large for a half-float scale.
        """
        rows, cols = weight.shape
        panels = Panels(library, rows, cols, kind, room)
        if weight.dtype not in (torch.float32, torch.bfloat16):
            weight = weight.to(torch.float32)
        wrong = panels.round(Matrix.floats(weight))
        if wrong >= 0:
            found = f"row {wrong // cols}, column {wrong % cols} is {weight.flatten()[wrong].item()}"
            raise UsageError([Problem(name, f"{found}, which {kind} cannot hold", "use float32 or bf16 weights")])
        return panels.matrix()

    @staticmethod
    def stored(blocks: Tensor, cols: int, kind: Kind, *, turned: int = 0) -> Matrix:
        """GGUF's own bytes [rows, bytes of a row], uint8, where they are: products lay out what they need, slower than
        from panels and with the same bits. `turned` is the width of heads whose rows stand as rotary pairs side by side.
        """
        rows, size = blocks.shape
        if size != groups(cols) * BLOCK[KINDS[kind]] or blocks.dtype != torch.uint8:
            found = f"{size} bytes a row for {cols} columns of {kind}, which take {groups(cols) * BLOCK[KINDS[kind]]}"
            raise UsageError([Problem("blocks", found, "give the rows of one matrix, whole")])
        blocks = blocks.contiguous()
        return Matrix(kind, rows, cols, blocks.data_ptr(), None, blocks, turned=turned)

    @staticmethod
    def of_blocks(
        library: ctypes.CDLL, blocks: Tensor, cols: int, kind: Kind, room: Room | None = None, *, turned: int = 0
    ) -> Matrix:
        """The same in panels."""
        panels = Panels(library, blocks.shape[0], cols, kind, room)
        panels.lay(Matrix.stored(blocks, cols, kind, turned=turned))
        return panels.matrix()

    def moved(self, library: ctypes.CDLL, room: Room) -> tuple[int, int | None]:
        """A copy in a room of huge pages, stored blocks as panels, made beside calls that compute: where its numbers and
        their scales lie. `struct` and `held` stay."""
        if self.kind == "q8_0" or self.kind == "q4_0":
            panels = Panels(library, self.rows, self.cols, self.kind, room)
            panels.lay(self, threads=1)
            made = panels.matrix().struct
            return made.data, made.scales
        address = room.take(self.room)
        library.camelid_copy(address, self.struct.data, self.bytes, 1)
        return address, None


class Panels:
    """Room for a quantised matrix."""

    def __init__(self, library: ctypes.CDLL, rows: int, cols: int, kind: Kind, room: Room | None = None) -> None:
        self._library, self._rows, self._cols, self._kind = library, rows, cols, kind
        self._room = room or Room(library, size_of(rows, cols, kind))
        self._scales = self._room.take(size_of(rows, cols, kind))
        self._data = self._scales + aligned(scale_bytes(rows, cols))

    def lay(self, stored: Matrix, threads: int | None = None) -> None:
        """Fills the whole from GGUF's blocks; on one thread beside calls that compute."""
        self._library.camelid_panels(stored.struct, self._data, self._scales, threads or torch.get_num_threads())

    def round(self, weights: Matrix) -> int:
        """Fills the whole from float weights; -1, or the place of the first one that cannot be held."""
        kind, threads = KINDS[self._kind], torch.get_num_threads()
        wrong: int = self._library.camelid_pack(weights.struct, kind, None, self._data, self._scales, threads)
        return wrong

    def matrix(self) -> Matrix:
        return Matrix(self._kind, self._rows, self._cols, self._data, self._scales, self._room)


def groups(cols: int) -> int:
    """Blocks in a row; the last is filled up with zeros."""
    return -(-cols // GROUP)


def size_of(rows: int, cols: int, kind: Kind) -> int:
    """Bytes that a matrix takes of a room."""
    if kind in ("float32", "bf16"):
        return aligned(rows * cols * (4 if kind == "float32" else 2))
    panels = -(-rows // PANEL)
    quants = panels * groups(cols) * PANEL * (BLOCK[KINDS[kind]] - 2)
    return aligned(scale_bytes(rows, cols)) + aligned(quants)


def scale_bytes(rows: int, cols: int) -> int:
    """Bytes of the half-float scales of a quantised matrix."""
    return -(-rows // PANEL) * groups(cols) * PANEL * 2


def aligned(size: int) -> int:
    """The next multiple of a cache line."""
    return -(-size // ALIGNED) * ALIGNED
