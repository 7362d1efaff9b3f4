"""A state whose tensors lie in pieces, in as many files as there were ranks; read whole or in any other pieces.

    COMMIT/state-00000.safetensors ...   what each rank holds of weights and moments
    COMMIT/state.json                    "pieces": {file: {tensor: {"whole": [37, 16], "begin": [18, 0]}}}

A tensor of a file is the box of its own shape that begins at `begin` in a tensor of shape `whole`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camelid.checkpoints.safetensors_io import open_tensors
from camelid.errors import BadFile

Box = tuple[tuple[int, ...], tuple[int, ...]]  # begin, shape
Wanted = Callable[[str], Box | None]  # which box of a tensor is asked for; None for all of it


class Pieces(Mapping[str, Tensor]):
    """The tensors of a commit by name, each as the box that is wanted of it. Raises BadFile where one is not covered."""

    def __init__(self, commit: Path, table: Mapping[str, Any], wanted: Wanted = lambda name: None) -> None:
        self.commit, self.wanted = commit, wanted
        self.files = {file: open_tensors(commit / file) for file in table}
        self.known: dict[str, tuple[int, ...]] = {}  # shapes of the wholes
        self.places: dict[str, list[tuple[str, tuple[int, ...]]]] = {}  # file, begin
        for file, tensors in table.items():
            for name, told in tensors.items():
                self._add(file, name, tuple(told["whole"]), tuple(told["begin"]))

    def _add(self, file: str, name: str, whole: tuple[int, ...], begin: tuple[int, ...]) -> None:
        place = self.files[file].header.places.get(name)
        if place is None:
            raise BadFile(self.commit / file, name, "is named in state.json and is not there", _REMEDY)
        fits = len(whole) == len(begin) == len(place.shape) and all(
            b >= 0 and b + n <= w for b, n, w in zip(begin, place.shape, whole, strict=True)
        )
        if not fits or self.known.setdefault(name, whole) != whole:
            raise BadFile(self.commit / file, name, f"{place.shape} at {begin} is no piece of {whole}", _REMEDY)
        self.places.setdefault(name, []).append((file, begin))

    def __getitem__(self, name: str) -> Tensor:
        whole = self.known[name]
        begin, shape = self.wanted(name) or ((0,) * len(whole), whole)
        found: Tensor | None = None
        covered = 0
        for file, at in self.places[name]:
            part = self.files[file][name]
            if found is None:
                found = torch.empty(shape, dtype=part.dtype)
            covered += _copy(found, begin, part, at)
        assert found is not None
        if covered != found.numel():
            raise BadFile(self.commit, name, f"{covered} of {found.numel()} elements are there", _REMEDY)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.known)

    def __len__(self) -> int:
        return len(self.known)


_REMEDY = "fall back to another checkpoint, or copy it again whole"


def _copy(target: Tensor, begin: tuple[int, ...], part: Tensor, at: tuple[int, ...]) -> int:
    """Copies what a part that lies `at` and a box that begins at `begin` share; the number of elements."""
    for axis, (first, start) in enumerate(zip(begin, at, strict=True)):
        low = max(first, start)
        high = min(first + target.shape[axis], start + part.shape[axis])
        if high <= low:
            return 0
        target = target.narrow(axis, low - first, high - low)
        part = part.narrow(axis, low - start, high - low)
    target.copy_(part)
    return target.numel()
