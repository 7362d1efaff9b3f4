"""Room for moments in a file that the system maps: it may write pages out and drop them where memory is short, and reads
them again when they are touched. No swap space is needed; what is needed is room on the disk.

The file has no name, so that nothing is left behind however a run ends; commits hold copies of what lies in it.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from camelid.errors import StoreError


class Pages:
    """Tensors in a nameless file of `folder`; they keep it while they live."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bytes = folder, 0
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            self._file = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._file)

    def zeros(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor of zeros. Raises StoreError where the disk has no room for it: not later, when a page is written."""
        count = math.prod(shape)
        if not count:
            return torch.zeros(tuple(shape), dtype=dtype)
        length = -(-count * dtype.itemsize // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        start, self.bytes = self.bytes, self.bytes + length
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._file, start, length)
            else:
                os.truncate(self._file, self.bytes)
        except OSError as error:
            found = f"no room for {self.bytes:,} bytes of paged moments ({error.strerror})"
            raise StoreError(f"{self.folder}: {found}; make room, or set optim.paged=false") from error
        memory = mmap.mmap(self._file, length, offset=start)
        return torch.frombuffer(memory, dtype=dtype, count=count).view(tuple(shape))
