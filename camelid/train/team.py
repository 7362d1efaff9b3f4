"""One step on several ranks that each hold the whole model: their gradients, added as one process would add them.

A step's micro-batches that count go round: rank 0, 1 .. W-1, 0, 1 ... Each rank owns one of W equal pieces of the flat
gradient. In "ordered" sums, after each round, every rank sends each owner its piece, and the owner adds what came:

    rank 0  computes micro-batch 0, 3 ...        owns piece 0:   m0 + m1 + m2, + m3 + m4 ...    in this order
    rank 1  computes micro-batch 1, 4 ...        owns piece 1:   m0 + m1 + m2, + m3 + m4 ...

and at the end all pieces go to all. The sum is taken in the order of micro-batches, so weights, moments and journal have
the bits of one process, however many ranks there are: their number is no part of what a run is. It costs a piece sent
per micro-batch. In "fast" sums each rank adds up its own micro-batches, and one all-reduce adds the ranks, in an order
of its own: that costs least and differs in the last bits.

Before a step is applied all ranks compare what they would apply; see `Ranks.agreed`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed

from camelid.errors import Problem, ProblemList, UsageError
from camelid.machine import Machine
from camelid.ranks import Ranks
from camelid.train.optim import Optimizer

if TYPE_CHECKING:
    from camelid.data.batch import Batch

Backward = Callable[[int, int, "Batch", float], Tensor]  # step, micro-batch, its data, count of the step: its loss sum
Plan = Callable[[int], tuple[Sequence["Batch"], Sequence[int]]]  # a step's micro-batches and their counts
BORDER = 64  # bytes: where every weight's gradient begins, as PyTorch's own allocator would lay it
DOING = "adding gradients"


def check(machine: Machine, ranks: Ranks) -> None:
    """Raises UsageError where a machine's ranks are not those that were started, or cannot be had together."""
    problems = ProblemList()
    for name in ("data", "shard", "tensor"):
        if getattr(machine, name) < 1:
            problems.add(name, f"{getattr(machine, name)}", "use 1 or more")
    problems.raise_usage()
    if machine.ranks != ranks.world:
        found = f"data {machine.data} x shard {machine.shard} x tensor {machine.tensor} in {ranks.world} processes"
        problems.add("ranks", found, f"start so many: torchrun --nproc-per-node {machine.ranks} -m camelid ...")
    if machine.ranks > 1 and machine.workers > 1:
        problems.add("workers", f"{machine.workers} in each of {machine.ranks} ranks", "use 1: ranks share each step")
    problems.raise_usage()


@dataclass(frozen=True)
class Flat:
    """Where the gradient of each weight lies in one flat tensor, cut into equal pieces for its owners."""

    spans: Mapping[str, tuple[int, int]]
    shapes: Mapping[str, torch.Size]
    dtype: torch.dtype
    piece: int  # elements
    count: int  # pieces

    @staticmethod
    def of(masters: Mapping[str, Tensor], count: int) -> Flat:
        """Raises UsageError where weights of several precisions learn: nothing in the family does so."""
        dtypes = {master.dtype for master in masters.values()}
        if len(dtypes) > 1:
            found = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
            raise UsageError([Problem("trained weights", found, "let them have one precision where ranks add up")])
        (dtype,) = dtypes
        border, at, spans = BORDER // dtype.itemsize, 0, {}
        for name, master in masters.items():
            spans[name] = (at, at + master.numel())
            at = _up(at + master.numel(), border)
        return Flat(spans, {name: m.shape for name, m in masters.items()}, dtype, _up(-(-at // count), border), count)

    def empty(self, device: torch.device, pieces: int) -> Tensor:
        return torch.zeros(pieces * self.piece, dtype=self.dtype, device=device)

    def view(self, flat: Tensor, name: str) -> Tensor:
        begin, end = self.spans[name]
        return flat[begin:end].view(self.shapes[name])

    def within(self, name: str, piece: int) -> slice | None:
        """Which elements of a piece belong to a weight; None where none do."""
        begin, end = (max(0, min(at - piece * self.piece, self.piece)) for at in self.spans[name])
        return slice(begin, end) if begin < end else None


def _up(count: int, border: int) -> int:
    return -(-count // border) * border


class Replicas:
    """This rank's part of each step. `gradient` leaves the step's whole gradient in the optimizer, on every rank."""

    def __init__(self, machine: Machine, ranks: Ranks, optimizer: Optimizer, plan: Plan, backward: Backward) -> None:
        self.ranks, self.optimizer, self.plan, self.backward = ranks, optimizer, plan, backward
        self.ordered = machine.sums == "ordered"
        self.names = list(optimizer.masters)
        self.flat = Flat.of(optimizer.masters, ranks.world)
        device = next(iter(optimizer.masters.values())).device
        self.whole = self.flat.empty(device, ranks.world)
        self.came = self.flat.empty(device, ranks.world if self.ordered else 0)
        self.total = self.flat.empty(device, 1 if self.ordered else 0)

    def gradient(self, step: int, counts: Sequence[int]) -> list[Tensor]:
        """The loss sums of the step's micro-batches that count; its gradient lies in the optimizer afterwards."""
        micros, _ = self.plan(step)
        busy = [micro for micro, count in enumerate(counts) if count]
        work = self._ordered if self.ordered else self._fast
        sums, held = work(step, busy, micros, sum(counts))
        self.optimizer.receive({name: self.flat.view(self.whole, name) for name in held})
        return sums

    def norm(self) -> Tensor:
        """The norm of the whole gradient, which every rank holds."""
        return self.optimizer.norm()

    # --- ordered ------------------------------------------------------------------------------------------------------

    def _ordered(
        self, step: int, busy: Sequence[int], micros: Sequence[Batch], total: int
    ) -> tuple[list[Tensor], list[str]]:
        world, rank = self.ranks.world, self.ranks.rank
        sums: list[Tensor] = []
        begun: set[str] = set()
        for first in range(0, len(busy), world):
            turn, own = busy[first : first + world], torch.zeros((), dtype=torch.float64)
            present = [False] * len(self.names)
            if rank < len(turn):
                own = self.backward(step, turn[rank], micros[turn[rank]], total)
                present = self._lay()
            told = self.ranks.numbers([float(own), *map(float, present)], DOING)
            with self.ranks.speaking(DOING):
                distributed.all_to_all_single(self.came, self.whole)
            sums += [torch.tensor(row[0], dtype=torch.float64) for row in told[: len(turn)]]
            self._add([[bool(flag) for flag in row[1:]] for row in told[: len(turn)]], begun)
        with self.ranks.speaking(DOING):
            distributed.all_gather(list(torch.split(self.whole, self.flat.piece)), self.total)
        return sums, [name for name in self.names if name in begun]

    def _lay(self) -> list[bool]:
        """Takes what a backward pass left to the flat gradient; which weights have any."""
        present = []
        for name in self.names:
            weight = self.optimizer.parameters[name]
            present.append(weight.grad is not None)
            if weight.grad is not None:
                self.flat.view(self.whole, name).copy_(weight.grad)
                weight.grad = None
        return present

    def _add(self, present: Sequence[Sequence[bool]], begun: set[str]) -> None:
        """Adds the pieces that came to the total, in the order of their micro-batches; a weight's first is copied."""
        pieces = self.came.view(self.ranks.world, self.flat.piece)
        for piece, flags in zip(pieces, present, strict=False):
            if all(flags) and len(begun) in (0, len(self.names)):
                (self.total.add_ if begun else self.total.copy_)(piece)
            else:
                for name, there in zip(self.names, flags, strict=True):
                    if there and (own := self.flat.within(name, self.ranks.rank)) is not None:
                        part = self.total[own]
                        (part.add_ if name in begun else part.copy_)(piece[own])
            begun.update(name for name, there in zip(self.names, flags, strict=True) if there)

    # --- fast ---------------------------------------------------------------------------------------------------------

    def _fast(
        self, step: int, busy: Sequence[int], micros: Sequence[Batch], total: int
    ) -> tuple[list[Tensor], list[str]]:
        world, rank = self.ranks.world, self.ranks.rank
        own = []
        for micro in busy[rank::world]:
            own.append(self.backward(step, micro, micros[micro], total))
            self.optimizer.collect()
        self.whole.zero_()
        for name, master in self.optimizer.masters.items():
            if master.grad is not None:
                self.flat.view(self.whole, name).copy_(master.grad)
        self.optimizer.refuse()
        rounds = -(-len(busy) // world)
        told = self.ranks.numbers([*map(float, own), *[0.0] * (rounds - len(own))], DOING)
        with self.ranks.speaking(DOING):
            distributed.all_reduce(self.whole)
        sums = [torch.tensor(told[turn % world][turn // world], dtype=torch.float64) for turn in range(len(busy))]
        return sums, self.names
