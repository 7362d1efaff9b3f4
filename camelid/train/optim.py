"""AdamW in two phases: the gradient is gathered and measured, and applied only when the loop has found it sound."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw  # the function: the class would import the compiler, a second and more

from camelid.checkpoints.safetensors_io import content
from camelid.errors import BadFile, Problem, UsageError
from camelid.train.pages import Pages
from camelid.train.settings import AdamW

HALVES = (torch.bfloat16, torch.float16)
VECTOR = 16  # numbers: the widest vectors of PyTorch's kernels on a CPU, in float32
LARGEST = 1e18  # ours: a gradient norm beyond this overflows its square in float32, so it is as bad as infinite


class Optimizer:
    """Weights that learn, their moments, and their gradient, by name.

    Where the model's weights are float32 or float64 they are the weights that are updated. Where they are bfloat16, a
    float32 copy of each is kept and updated, gradients of micro-batches are summed in float32, and the model receives
    the rounded copy after each update; moments are float32. All arithmetic is that of PyTorch's fused AdamW.

    Which moments there are and how a weight is updated is a subclass's to say (eight_bit.py, galore.py).

        collect()           after each micro-batch's backward
        norm()              the global gradient norm, nothing changed yet
        apply(rate, norm)   clip, update, forget the gradient       or       refuse(): forget the gradient
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        settings: AdamW,
        *,
        clip: float | None = 1.0,
        dtype: torch.dtype | None = None,
        pages: Pages | None = None,
    ) -> None:
        """
        clip   largest global gradient norm; a larger gradient is scaled down to it
        dtype  what the model computes in: the weights are rounded to it here, after their exact copies were taken
        pages  where moments lie instead of beside the weights
        """
        self.parameters = {name: weight for name, weight in parameters.items() if weight.requires_grad}
        if not self.parameters:
            raise UsageError([Problem("trained weights", "none", "name at least one weight that learns")])
        self.settings, self.clip, self.updates = settings, clip, 0
        self.masters = {name: _master(weight, dtype) for name, weight in self.parameters.items()}
        self._copies = [(p, self.masters[name]) for name, p in self.parameters.items() if self.masters[name] is not p]
        for weight, master in self._copies:
            weight.data = master.detach().to(dtype or weight.dtype)
        self._groups = [
            _Group([name for name, master in self.masters.items() if _kind(name, master) == (matrix, up)],
                   settings.decay if matrix else 0.0, settings.ratio if up else 1.0)
            for matrix, up in ((True, False), (True, True), (False, False))
        ]  # fmt: skip
        self.pages = pages
        self._moments = {name: self._begun(name, master) for name, master in self.masters.items()}
        self._turns = {name: torch.zeros((), device=master.device) for name, master in self.masters.items()}

    def _begun(self, name: str, master: Tensor) -> dict[str, Tensor]:
        """The moments of a weight before the first update, by the word that `state` has for each."""
        return {kind: self._zeros(master, master.shape, master.dtype) for kind in ("mean", "square")}

    def _zeros(self, beside: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        if self.pages is not None:
            return self.pages.zeros(shape, dtype)
        return torch.zeros(tuple(shape), dtype=dtype, device=beside.device)

    def collect(self) -> None:
        """Adds what the last backward left to the step's gradient."""
        for weight, master in self._copies:
            if weight.grad is None:
                continue
            if master.grad is None:
                master.grad = weight.grad.to(master.dtype)
            else:
                master.grad.add_(weight.grad)
            weight.grad = None

    def receive(self, gradients: Mapping[str, Tensor]) -> None:
        """Takes the step's gradient as it was collected elsewhere, by name, for as long as the step lasts; no copies."""
        for name, master in self.masters.items():
            master.grad = gradients.get(name)

    @property
    def divisible(self) -> bool:
        """Whether processes that share memory may each update some of the weights: all that an update reads and writes
        can be moved there."""
        return type(self) is Optimizer and self.pages is None and not self._copies

    def movable(self) -> dict[str, Tensor]:
        """What `move` moves: the weights that the model computes with, by name; where the optimizer is divisible also
        their moments and turns, as "mean.NAME", "square.NAME", "turn.NAME"."""
        moved = {name: weight.data for name, weight in self.parameters.items()}
        if self.divisible:
            for name, moments in self._moments.items():
                moved |= {f"{kind}.{name}": moment for kind, moment in moments.items()}
                moved[f"turn.{name}"] = self._turns[name]
        return moved

    def move(self, places: Mapping[str, Tensor]) -> None:
        """Lays all that is `movable` into other memory, by name; its values stay."""
        for name, weight in self.parameters.items():
            weight.data = places[name].copy_(weight.data)
            if self.divisible:
                self._moments[name] = {
                    kind: places[f"{kind}.{name}"].copy_(moment) for kind, moment in self._moments[name].items()
                }
                self._turns[name] = places[f"turn.{name}"].copy_(self._turns[name])

    def norm(self) -> Tensor:
        """The Euclidean norm of the whole gradient, a scalar; a weight without a gradient counts as zero."""
        return torch.nn.utils.get_total_norm(list(self.gradients().values()))

    def gradients(self) -> dict[str, Tensor]:
        """The step's gradient by name, zeros where there is none."""
        for master in self.masters.values():
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        return {name: master.grad for name, master in self.masters.items() if master.grad is not None}

    def apply(self, rate: float, norm: float) -> None:
        """One update at the learning rate `rate`, the gradient of this `norm` clipped; the gradient is forgotten."""
        self.update(rate, norm, self.masters)
        self.updates += 1
        self.refuse()
        self._publish()

    def update(self, rate: float, norm: float, names: Collection[str]) -> None:
        """These weights' part of it; no update is counted, and the model's rounded copies and the gradient stay."""
        divisor = norm / self.clip if self.clip is not None and norm > self.clip else 1.0
        device = next(iter(self.masters.values())).device
        clipping = None if divisor == 1.0 else torch.tensor(divisor, dtype=torch.float32, device=device)
        for name in names:
            if self.masters[name].grad is None:
                self.masters[name].grad = torch.zeros_like(self.masters[name])
        with torch.no_grad():
            for group in self._groups:
                if own := [name for name in group.names if name in names]:
                    self._update(replace(group, names=own), rate * group.factor, clipping)

    def _update(self, group: _Group, rate: float, clipping: Tensor | None) -> None:
        """Updates the weights of a group at this rate; their gradient is to be divided by `clipping`."""
        if self.pages is None:
            self._fused(group.names, group.decay, rate, clipping)
            return
        for name in group.names:  # one by one: pages come in, and go
            self._fused([name], group.decay, rate, clipping)

    def _fused(self, names: list[str], decay: float, rate: float, clipping: Tensor | None) -> None:
        masters = [self.masters[name] for name in names]
        means = [self._moments[name]["mean"].to(self.masters[name].device) for name in names]
        squares = [self._moments[name]["square"].to(self.masters[name].device) for name in names]
        whole = [_whole_vectors(part) for part in (masters, means, squares)]
        adamw(
            whole[0],
            _whole_vectors([master.grad for master in masters if master.grad is not None]),
            whole[1],
            whole[2],
            [],
            [self._turns[name] for name in names],
            fused=True,
            grad_scale=clipping,  # the kernel divides by it as it reads: clipping costs no pass of its own
            found_inf=None if clipping is None else torch.zeros_like(clipping),
            amsgrad=False,
            beta1=self.settings.betas[0],
            beta2=self.settings.betas[1],
            lr=rate,
            weight_decay=decay,
            eps=self.settings.eps,
            maximize=False,
        )
        for own, filled in zip((masters, means, squares), whole, strict=True):
            for one, other in zip(own, filled, strict=True):
                if one is not other:
                    one.copy_(other[: one.numel()].view(one.shape))
        for name, mean, square in zip(names, means, squares, strict=True):
            if mean.device != self._moments[name]["mean"].device:
                self._moments[name]["mean"].copy_(mean)
                self._moments[name]["square"].copy_(square)

    def refuse(self) -> None:
        """Forgets the gradient; weights and moments stay as they are."""
        for name, master in self.masters.items():
            master.grad = None
            self.parameters[name].grad = None

    def _publish(self) -> None:
        with torch.no_grad():
            for weight, master in self._copies:
                weight.copy_(master)

    def state(self) -> dict[str, Tensor]:
        """Exact weights and moments, named "weight.NAME", "mean.NAME", "square.NAME" and so on; no copies are made."""
        named: dict[str, Tensor] = {}
        for name, master in self.masters.items():
            named[f"weight.{name}"] = master.detach()
            named |= {f"{kind}.{name}": moment for kind, moment in self._moments[name].items()}
        return named

    def load(self, state: Mapping[str, Tensor], updates: int, *, where: str = "checkpoint") -> None:
        """Takes back what `state` gave after so many updates. Raises BadFile if names, shapes or dtypes differ."""
        own = self.state()
        for name in sorted(own.keys() | state.keys()):
            mine, theirs = _described(own.get(name)), _described(state.get(name))
            if mine != theirs:
                found = f"{theirs}, where this run has {mine}"
                raise BadFile(where, name, found, "resume with the settings it began with")
        for name, tensor in own.items():
            tensor.copy_(state[name])
        self.updates = updates
        for turn in self._turns.values():
            turn.fill_(updates)
        self._publish()

    def bytes(self) -> int:
        """How many bytes `state` holds."""
        return sum(tensor.nbytes for tensor in self.state().values())

    def non_finite(self) -> str:
        """The name of a weight or moment that holds a NaN or infinity; "" if there is none."""
        return next((name for name, tensor in self.state().items() if not bool(torch.isfinite(tensor).all())), "")

    def checksum(self) -> int:
        """A number that one flipped bit of `state` changes, below 2**53: what replicas compare; one quick pass."""
        total = torch.stack([_whole(tensor).sum() for tensor in self.state().values()]).sum()
        return (int(total) + self.updates) % 2**53

    def digest(self) -> str:
        """SHA-256 over names, dtypes, shapes and bits of `state`, and the number of updates."""
        sha = hashlib.sha256(str(self.updates).encode())
        for name, tensor in sorted(self.state().items()):
            sha.update(f"{name} {_described(tensor)}\n".encode())
            sha.update(content(tensor))
        return sha.hexdigest()


@dataclass(frozen=True)
class _Group:
    names: list[str]
    decay: float
    factor: float = 1.0  # on the rate


def _kind(name: str, master: Tensor) -> tuple[bool, bool]:
    """Whether a weight is a matrix, and whether it is the B of an adapter."""
    return master.ndim >= 2, master.ndim >= 2 and name.endswith("lora_B.weight")


def _master(weight: nn.Parameter, dtype: torch.dtype | None) -> Tensor:
    """The tensor that is updated: the weight itself, or a float32 copy where the model computes in less."""
    if (dtype or weight.dtype) not in HALVES:
        weight.data = weight.data.to(dtype or weight.dtype)
        return weight
    return weight.detach().to(torch.float32, copy=True).requires_grad_()


def _whole_vectors(tensors: list[Tensor]) -> list[Tensor]:
    """The same tensors; copies, flat and filled up with zeros, of those on a CPU that are no whole number of vectors: the
    kernel rounds what is left over otherwise, and a piece of a weight must have the bits that it has in the whole."""
    return [
        nn.functional.pad(each.detach().reshape(-1), (0, -each.numel() % VECTOR))
        if each.is_cpu and each.numel() % VECTOR
        else each
        for each in tensors
    ]


def _whole(tensor: Tensor) -> Tensor:
    """The bits of a tensor as whole numbers of 32 bits at most: sums of them, modulo 2**53, lose none."""
    flat = tensor.detach().reshape(-1)
    return flat.view({1: torch.int8, 2: torch.int16}.get(flat.element_size(), torch.int32))


def _described(tensor: Tensor | None) -> str:
    return "nothing" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
