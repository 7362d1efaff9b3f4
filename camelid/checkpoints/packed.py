"""A folder whose linear maps are stored in fewer bits (see `layouts`): read like any other, decoded when asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from camelid.checkpoints import layouts
from camelid.checkpoints.directory import Checkpoint
from camelid.checkpoints.layouts import Layout, Piece
from camelid.checkpoints.names import expected
from camelid.checkpoints.safetensors_io import TORCH, Place, TensorFile
from camelid.errors import BadFile

if TYPE_CHECKING:
    from camelid.quantize.int4 import Int4
    from camelid.quantize.int8 import Int8
    from camelid.quantize.nf4 import NF4


@dataclass(frozen=True)
class PackedCheckpoint(Checkpoint):
    """A model some of whose weights are in nf4, int8, GPTQ's or AWQ's layout. `tensors()` decodes these to float32."""

    @property
    def layout(self) -> Layout:
        assert self.config.layout is not None
        return self.config.layout

    @property
    def quantised(self) -> bool:
        return any(len(parts) > 1 for parts in self._standing.values())

    @property
    def forms(self) -> Mapping[str, int]:
        """How many weights are stored in each form, the commonest first."""
        return dict(Counter(self.form(name) for name in self._standing).most_common())

    @property
    def dtype(self) -> str:
        """float32, to which coded weights are decoded."""
        return "float32"

    def form(self, name: str) -> str:
        """How a weight is stored: the layout's method, or the name of a dtype."""
        parts = self._standing[name]
        return TORCH[self._places[name].dtype] if len(parts) == 1 else self.layout.method

    def coded(self, name: str) -> NF4 | Int8 | Int4:
        """A coded weight as it is stored. Raises BadFile for tensors that contradict the layout."""
        parts = {part: self._read(part) for part in self._standing[name]}
        return layouts.unpack(
            self.layout, parts, expected(self.shape)[name], self._files[next(iter(parts))].header.path
        )

    def stored_bytes(self) -> int:
        """Bytes of all tensors of the model."""
        places = [self._places[part] for parts in self._standing.values() for part in parts]
        return sum(place.end - place.begin for place in places)

    def tensors(self) -> Mapping[str, torch.Tensor]:
        """The weights under Hugging Face's names: plain ones as they are, coded ones decoded to float32."""
        return _Decoded(self)

    def check_biases(self) -> None:
        """Raises BadFile for a bias that is not zero: AutoGPTQ writes zeros, and a Llama has none."""
        for name, parts in self._standing.items():
            for bias in layouts.biases(self.layout, name, expected(self.shape)[name]) if len(parts) > 1 else ():
                if bias in self._places and bool(self._read(bias).any()):
                    raise BadFile(self.path, bias, "is not zero: biases are no part of a Llama", layouts.PLAIN)

    @cached_property
    def _standing(self) -> Mapping[str, Mapping[str, Piece]]:
        return layouts.standing(self.layout, expected(self.shape), self._places)

    @cached_property
    def _places(self) -> Mapping[str, Place]:
        return {name: place for header in self.headers for name, place in header.places.items()}

    @cached_property
    def _files(self) -> Mapping[str, TensorFile]:
        files = {header.path: TensorFile(header) for header in self.headers}
        return {name: files[header.path] for header in self.headers for name in header.places}

    def _read(self, name: str) -> torch.Tensor:
        return self._files[name][name]


class _Decoded(Mapping[str, torch.Tensor]):
    def __init__(self, checkpoint: PackedCheckpoint) -> None:
        self.checkpoint = checkpoint

    def __getitem__(self, name: str) -> torch.Tensor:
        if len(self.checkpoint._standing[name]) == 1:
            return self.checkpoint._read(name)
        return layouts.decode(self.checkpoint.coded(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.checkpoint._standing)

    def __len__(self) -> int:
        return len(self.checkpoint._standing)
