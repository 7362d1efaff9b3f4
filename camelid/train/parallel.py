"""A finished model, divided among ranks: weights by rows over `shard`, matrices over `tensor`; and put together again.

    rank = (data index * shard + shard index) * tensor + tensor index

shard     each rank keeps some rows of every weight, of its gradient and its moments; whole weights exist only while a
          layer works (FSDP2: torch.distributed.fsdp.fully_shard)
tensor    queries, keys, values, gate and up by rows, output and down by columns; what enters a block is copied to all
          ranks of the group, what leaves it is summed over them (Shoeybi et al. 2019, section 3)

The model never hears of either: hooks are put on it. What a rank holds of a weight is a box within it, so a state can be
written in boxes and read by any other division (`Piece`).

Bits. Shards in ordered sums give those of one process: gradients are added in the order of micro-batches, and the norm
is taken of whole gradients, gathered one at a time. Shards in fast sums, replicas of shards, and tensor parallelism,
which cuts the sums inside a matrix product, differ in the last bits.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn

from camelid.errors import ProblemList
from camelid.machine import Machine
from camelid.models.llama import Llama
from camelid.models.shape import LlamaShape
from camelid.nn.frozen import FrozenLinear
from camelid.ranks import Ranks
from camelid.train.optim import Optimizer
from camelid.train.settings import AdamW
from camelid.train.team import DOING, Backward, Plan

if TYPE_CHECKING:
    from camelid.data.batch import Batch

ROWS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")  # cut by outputs
COLUMNS = ("o_proj", "down_proj")  # cut by inputs


@dataclass(frozen=True)
class Piece:
    """What a rank holds of a tensor: the box of this shape that begins here within the whole."""

    whole: tuple[int, ...]
    begin: tuple[int, ...]
    shape: tuple[int, ...]

    @staticmethod
    def all_of(tensor: Tensor) -> Piece:
        return Piece(tuple(tensor.shape), (0,) * tensor.dim(), tuple(tensor.shape))

    def cut(self, axis: int, begin: int, size: int) -> Piece:
        """The part of this piece that begins so far into it along one axis."""
        begins, sizes = list(self.begin), list(self.shape)
        begins[axis] += begin
        sizes[axis] = size
        return replace(self, begin=tuple(begins), shape=tuple(sizes))


@dataclass(frozen=True)
class Seat:
    """Where a rank sits: among the replicas and shards that divide micro-batches, and in its groups."""

    ranks: Ranks
    machine: Machine
    mesh: Any = field(repr=False)

    @property
    def turn(self) -> int:
        """Which of the `machine.replicas` that divide a step's micro-batches this rank is."""
        return self.ranks.rank // self.machine.tensor

    def group(self, name: str) -> Any:
        return self.mesh.get_group(name)

    def index(self, name: str) -> int:
        return int(self.mesh.get_local_rank(name))

    def rows(self, told: Sequence[list[float]]) -> list[list[float]]:
        """Of everybody's numbers, one row for each turn."""
        return list(told[:: self.machine.tensor])


@dataclass(frozen=True)
class Placement:
    """A model divided among ranks, and what this rank holds of each trained weight."""

    model: Llama
    seat: Seat
    pieces: Mapping[str, Piece]

    def locals(self) -> dict[str, nn.Parameter]:
        """What this rank holds, by name, in the memory that the model works with."""
        if self.seat.machine.shard == 1:
            return dict(self.model.named_parameters())
        return {
            name: nn.Parameter(_local(weight.detach()), requires_grad=weight.requires_grad)
            for name, weight in self.model.named_parameters()
        }

    def writes(self, name: str) -> bool:
        """Whether this rank is the first of those that hold the same piece."""
        first = self.seat.index("data") == 0 and (self._is_cut(name) or self.seat.index("tensor") == 0)
        return first and 0 not in self.pieces[name].shape

    def _is_cut(self, name: str) -> bool:
        """Whether tensor parallelism divides this weight."""
        return self.seat.machine.tensor > 1 and name.split(".")[-2] in (*ROWS, *COLUMNS)

    def holders(self, name: str) -> int:
        """How many ranks hold this very piece."""
        machine = self.seat.machine
        return machine.data * (1 if self._is_cut(name) else machine.tensor)

    def whole(self, name: str, part: Tensor) -> Tensor:
        """The whole tensor that ranks hold in pieces like those of weight `name`, on every rank."""
        machine = self.seat.machine
        if machine.shard > 1:
            part = self._joined(part, "shard", 0)
        if self._is_cut(name):
            part = self._joined(part, "tensor", 1 if name.split(".")[-2] in COLUMNS else 0)
        return part

    def _joined(self, part: Tensor, group: str, axis: int) -> Tensor:
        """The parts of a group side by side along an axis; they may differ in size there."""
        seats, own = self.seat.group(group), torch.tensor([part.shape[axis]], device=part.device)
        sizes = [torch.empty_like(own) for _ in range(seats.size())]
        with self.seat.ranks.speaking("putting pieces together"):
            distributed.all_gather(sizes, own, group=seats)
            counts = [int(size) for size in sizes]
            shape = list(part.shape)
            shape[axis] = max(counts)
            padded = part.new_zeros(shape)
            padded.narrow(axis, 0, part.shape[axis]).copy_(part)
            everything = [torch.empty_like(padded) for _ in counts]
            distributed.all_gather(everything, padded, group=seats)
        return torch.cat([each.narrow(axis, 0, n) for each, n in zip(everything, counts, strict=True)], dim=axis)

    def state(self, dtype: torch.dtype | None, *, learned: bool = False) -> dict[str, Tensor]:
        """The whole model's weights, or those alone that learned, on the CPU of rank 0, as one process would have them;
        {} elsewhere."""
        found: dict[str, Tensor] = {}
        for name, weight in self.model.named_parameters():
            if learned and not weight.requires_grad:
                continue
            whole = self.whole(name, _local(weight.detach()))
            if self.seat.ranks.leads:
                found[name] = whole.to("cpu", dtype or whole.dtype)
        return found


def place(model: Llama, machine: Machine, ranks: Ranks, dtype: torch.dtype) -> Placement | None:
    """Divides `model` in place as the machine says; None where nothing of it is to be divided.

    Where the machine computes in bfloat16 the shards stay float32, exact, and are rounded as they are gathered.
    Raises UsageError where heads or widths do not divide.
    """
    if machine.shard == machine.tensor == 1:
        return None
    problems = ProblemList()
    check(model.shape, machine, problems, adapted=model.adapter is not None)
    problems.raise_usage()
    with ranks.speaking("forming groups"):
        from torch.distributed.device_mesh import init_device_mesh

        kind = torch.device(machine.device).type
        names = ("data", "shard", "tensor")
        mesh = init_device_mesh(kind, (machine.data, machine.shard, machine.tensor), mesh_dim_names=names)
    seat = Seat(ranks, machine, mesh)
    pieces = {name: Piece.all_of(weight) for name, weight in model.named_parameters() if weight.requires_grad}
    if machine.tensor > 1:
        _divide(model, seat, pieces)
    if machine.shard > 1:
        with ranks.speaking("dividing the model"):
            _shard(model, seat, pieces, dtype)
    return Placement(model, seat, pieces)


def check(
    shape: LlamaShape,
    machine: Machine,
    problems: ProblemList,
    *,
    adapted: bool = False,
    optim: AdamW | None = None,
    where: str = "",
) -> None:
    """Adds everything that does not divide or go together among the machine's ranks; settings of the optimizer under
    names that begin with `where`."""
    if optim is not None and optim.paged and machine.ranks > 1:
        problems.add(f"{where}optim.paged", f"on {machine.ranks} ranks, which would share one file", "leave it out")
    if machine.shard == 1 and machine.tensor == 1:
        return
    count = machine.tensor
    for what, found in (("heads", shape.heads), ("kv_heads", shape.kv_heads), ("hidden", shape.hidden)):
        if found % count:
            problems.add("--tensor", f"{count} do not divide {found} {what}", "use a divisor of it")
    if machine.data > 1 and machine.shard > 1 and machine.sums == "ordered":
        problems.add("--sums", "ordered, with replicas of shards", "use --sums fast, or shards alone")
    if adapted and machine.tensor > 1:
        problems.add("--tensor", "with an adapter, whose matrices it does not cut", "use --shard, or replicas alone")
    if optim is not None and type(optim) is not AdamW:
        among = f"{type(optim).__name__} among shards of a model"
        problems.add(f"{where}optim", among, "use AdamW, or replicas alone")


def _local(weight: Tensor) -> Tensor:
    to_local: Callable[[], Tensor] | None = getattr(weight, "to_local", None)
    return weight if to_local is None else to_local()


# --- tensor ---------------------------------------------------------------------------------------------------------


class _Enter(torch.autograd.Function):
    """What enters a divided block: itself; its gradient is the sum of the ranks'."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].contiguous().clone()
        distributed.all_reduce(total, group=ctx.group)
        return total, None


class _Leave(torch.autograd.Function):
    """What leaves a divided block: the sum of the ranks'; its gradient passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        total = x.contiguous().clone()
        distributed.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def _divide(model: Llama, seat: Seat, pieces: dict[str, Piece]) -> None:
    """Cuts the matrices of every layer, and makes what enters and leaves its two blocks pass between the ranks."""
    count, own, group = seat.machine.tensor, seat.index("tensor"), seat.group("tensor")

    def entering(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (_Enter.apply(given[0], group), *given[1:])  # type: ignore[no-untyped-call]

    def leaving(module: nn.Module, given: Any, out: Tensor) -> Tensor:
        summed: Tensor = _Leave.apply(out, group)  # type: ignore[no-untyped-call]
        return summed

    for layer in model.model.layers:
        for block in (layer.get_submodule("self_attn"), layer.get_submodule("mlp")):
            block.register_forward_pre_hook(entering)
            block.register_forward_hook(leaving)
        attention = layer.get_submodule("self_attn")
        attention.heads, attention.kv_heads = model.shape.heads // count, model.shape.kv_heads // count  # type: ignore[assignment]
    for name, module in model.named_modules():
        kind = name.split(".")[-1]
        if kind in (*ROWS, *COLUMNS) and isinstance(module, nn.Linear):
            axis = 1 if kind in COLUMNS else 0
            size = module.weight.shape[axis] // count
            part = module.weight.detach().narrow(axis, own * size, size).clone()
            module.weight = nn.Parameter(part, requires_grad=module.weight.requires_grad)
            module.out_features, module.in_features = part.shape
            pieces[f"{name}.weight"] = pieces[f"{name}.weight"].cut(axis, own * size, size)


# --- shards ---------------------------------------------------------------------------------------------------------


def _shard(model: Llama, seat: Seat, pieces: dict[str, Piece], dtype: torch.dtype) -> None:
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    mesh = seat.mesh["data", "shard"] if seat.machine.data > 1 else seat.mesh["shard"]
    for module in model.modules():
        if isinstance(module, FrozenLinear):
            module.divide()
    exact = next(model.parameters()).dtype
    plain = (
        dtype == exact or model.adapter is not None
    )  # a frozen base lies in the machine's dtype, adapters in float32
    policy = MixedPrecisionPolicy() if plain else MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=exact)
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    register_fsdp_forward_method(model, "hidden")
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    own, count = seat.index("shard"), seat.machine.shard
    for name, before in list(pieces.items()):
        weight = model.get_parameter(name)
        per_rank = -(-before.shape[0] // count)  # as torch.chunk cuts
        pieces[name] = before.cut(0, min(own * per_rank, before.shape[0]), _local(weight).shape[0])


class Ordered:
    """Adds the gradients of one FSDP group in the order of micro-batches, and goes on where the round before ended."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.kept: Tensor | None = None

    def allocate(self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any, async_op: bool = False
    ) -> None:
        came = torch.empty_like(input_tensor)
        distributed.all_to_all_single(came, input_tensor, group=group)
        parts = list(came.view(group.size(), -1)[: self.turns.filled])
        output_tensor.copy_(parts.pop(0) if self.turns.first or self.kept is None else self.kept)
        for part in parts:
            output_tensor.add_(part)
        self.kept = output_tensor.clone()


@dataclass
class Turns:
    """Of the round that is being computed: whether it is the step's first, and how many ranks have a micro-batch."""

    first: bool = True
    filled: int = 0


class Divided:
    """This rank's part of each step, where it holds a part of the model. The optimizer holds pieces."""

    def __init__(self, placement: Placement, optimizer: Optimizer, plan: Plan, backward: Backward) -> None:
        self.placement, self.optimizer, self.plan, self.backward = placement, optimizer, plan, backward
        self.seat, self.turns = placement.seat, Turns(filled=placement.seat.machine.replicas)
        self.ranks, self.machine = self.seat.ranks, self.seat.machine
        self.ordered = self.machine.sums == "ordered" and self.machine.shard > 1
        if self.ordered:
            from torch.distributed.fsdp import FSDPModule

            for module in placement.model.modules():
                if isinstance(module, FSDPModule):
                    module.set_custom_reduce_scatter(Ordered(self.turns))  # type: ignore[arg-type]  # a structural fit

    def gradient(self, step: int, counts: Sequence[int]) -> list[Tensor]:
        """The loss sums of the step's micro-batches that count; its gradient lies in the optimizer afterwards."""
        micros, _ = self.plan(step)
        busy = [micro for micro, count in enumerate(counts) if count]
        every, own = self.machine.replicas, []
        with self.ranks.speaking(DOING), _quiet():
            for first in range(0, len(busy), every):
                own.append(self._round(step, busy[first : first + every], micros, sum(counts), first == 0))
        self._collect()
        rows = self.seat.rows(self.ranks.numbers([float(total) for total in own], DOING))
        return [torch.tensor(rows[turn % every][turn // every], dtype=torch.float64) for turn in range(len(busy))]

    def rehearse(self, batch: Batch) -> None:
        """A forward and backward pass on all ranks at once, of which nothing is kept."""
        with self.ranks.speaking("rehearsing"), _quiet():
            self.backward(0, 0, batch, math.inf)
        for weight in self.placement.model.parameters():
            weight.grad = None
        self.optimizer.refuse()

    def _round(self, step: int, turn: Sequence[int], micros: Sequence[Batch], total: int, first: bool) -> Tensor:
        """This rank's micro-batch of a round; where it has none, another's counts for nothing: shards keep in step."""
        self.turns.first, self.turns.filled = first, len(turn)
        if self.ordered:
            for weight in self.placement.model.parameters():
                weight.grad = None  # the sum so far is in what adds it
        place = self.seat.turn
        if place < len(turn):
            loss = self.backward(step, turn[place], micros[turn[place]], total)
            if self.machine.shard == 1:
                self.optimizer.collect()
            return loss
        if self.machine.shard == 1:
            return torch.zeros((), dtype=torch.float64)
        self.backward(step, turn[0], micros[turn[0]], IDLE)
        return torch.zeros((), dtype=torch.float64)

    def _collect(self) -> None:
        """Hands the pieces' gradients to the optimizer; where nothing is sharded, replicas are added here."""
        if self.machine.shard == 1:
            with self.ranks.speaking(DOING):
                for gradient in self.optimizer.gradients().values() if self.machine.data > 1 else ():
                    distributed.all_reduce(gradient, group=self.seat.group("data"))
            return
        found: dict[str, Tensor] = {}
        for name, weight in self.placement.model.named_parameters():
            if weight.grad is not None:
                found[name] = _local(weight.grad)
                weight.grad = None
        self.optimizer.receive({name: part.detach() for name, part in found.items()})

    def norm(self) -> Tensor:
        """The norm of the whole gradient: in ordered sums that of whole gradients, gathered; else of their squares."""
        gradients = self.optimizer.gradients()
        if self.ordered and self.machine.tensor == 1:
            wholes = (self.placement.whole(name, part) for name, part in gradients.items())
            norm: Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(each) for each in wholes]))
            return norm
        squares = [
            float(part.double().square().sum()) / self.placement.holders(name) for name, part in gradients.items()
        ]
        total = sum(row[0] for row in self.ranks.numbers([sum(squares)], "measuring the gradient"))
        return torch.tensor(total, dtype=torch.float64).sqrt()


IDLE = math.inf  # what a micro-batch that counts for nothing is divided by


@contextmanager
def _quiet() -> Iterator[None]:
    """Without FSDP's warning that a view came out of the model: nothing is done to it in place."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
        yield
