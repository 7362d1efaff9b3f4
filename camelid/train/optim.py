"""AdamW in two phases: the gradient is gathered and measured, and applied only when the loop has found it sound."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from camelid.checkpoints.safetensors_io import content
from camelid.errors import BadFile, Problem, UsageError
from camelid.train.settings import AdamW

HALVES = (torch.bfloat16, torch.float16)
LARGEST = 1e18  # ours: a gradient norm beyond this overflows its square in float32, so it is as bad as infinite


class Optimizer:
    """Weights that learn, their moments, and their gradient, by name.

    Where the model's weights are float32 or float64 they are the weights that are updated. Where they are bfloat16, a
    float32 copy of each is kept and updated, gradients of micro-batches are summed in float32, and the model receives
    the rounded copy after each update; moments are float32. All arithmetic is that of PyTorch's fused AdamW.

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
    ) -> None:
        """
        clip   largest global gradient norm; a larger gradient is scaled down to it
        dtype  what the model computes in: the weights are rounded to it here, after their exact copies were taken
        """
        self.parameters = {name: weight for name, weight in parameters.items() if weight.requires_grad}
        if not self.parameters:
            raise UsageError([Problem("trained weights", "none", "name at least one weight that learns")])
        self.settings, self.clip, self.updates = settings, clip, 0
        self.masters = {name: _master(weight, dtype) for name, weight in self.parameters.items()}
        self._copies = [(p, self.masters[name]) for name, p in self.parameters.items() if self.masters[name] is not p]
        for weight, master in self._copies:
            weight.data = master.detach().to(dtype or weight.dtype)
        self._adam = torch.optim.AdamW(
            [
                {"params": [m for m in self.masters.values() if m.ndim >= 2], "weight_decay": settings.decay},
                {"params": [m for m in self.masters.values() if m.ndim < 2], "weight_decay": 0.0},
            ],
            lr=settings.lr,
            betas=settings.betas,
            eps=settings.eps,
            fused=True,
        )
        for master in self.masters.values():
            step = torch.zeros((), dtype=torch.float32, device=master.device)
            moments = {"exp_avg": torch.zeros_like(master), "exp_avg_sq": torch.zeros_like(master)}
            self._adam.state[master] = {"step": step, **{k: m.detach() for k, m in moments.items()}}

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

    def norm(self) -> Tensor:
        """The Euclidean norm of the whole gradient, a scalar; a weight without a gradient counts as zero."""
        for master in self.masters.values():
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        return torch.nn.utils.get_total_norm([m.grad for m in self.masters.values() if m.grad is not None])

    def apply(self, rate: float, norm: float) -> None:
        """One update at the learning rate `rate`, the gradient of this `norm` clipped; the gradient is forgotten."""
        for group in self._adam.param_groups:
            group["lr"] = rate
        divisor = norm / self.clip if self.clip is not None and norm > self.clip else 1.0
        device = next(iter(self.masters.values())).device
        # the fused kernel divides by grad_scale as it reads: clipping costs no pass of its own
        self._adam.grad_scale = None if divisor == 1.0 else torch.tensor(divisor, device=device)  # type: ignore[attr-defined]
        self._adam.found_inf = None if divisor == 1.0 else torch.zeros((), device=device)  # type: ignore[attr-defined]
        self._adam.step()
        self.updates += 1
        self.refuse()
        self._publish()

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
        """Exact weights and both moments, named "weight.NAME", "mean.NAME" and "square.NAME"; no copies are made."""
        named: dict[str, Tensor] = {}
        for name, master in self.masters.items():
            moments = self._adam.state[master]
            named[f"weight.{name}"] = master.detach()
            named[f"mean.{name}"], named[f"square.{name}"] = moments["exp_avg"], moments["exp_avg_sq"]
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
        for master in self.masters.values():
            self._adam.state[master]["step"].fill_(updates)
        self._publish()

    def bytes(self) -> int:
        """How many bytes `state` holds."""
        return sum(tensor.nbytes for tensor in self.state().values())

    def non_finite(self) -> str:
        """The name of a weight or moment that holds a NaN or infinity; "" if there is none."""
        return next((name for name, tensor in self.state().items() if not bool(torch.isfinite(tensor).all())), "")

    def digest(self) -> str:
        """SHA-256 over names, dtypes, shapes and bits of `state`, and the number of updates."""
        sha = hashlib.sha256(str(self.updates).encode())
        for name, tensor in sorted(self.state().items()):
            sha.update(f"{name} {_described(tensor)}\n".encode())
            sha.update(content(tensor))
        return sha.hexdigest()


def _master(weight: nn.Parameter, dtype: torch.dtype | None) -> Tensor:
    """The tensor that is updated: the weight itself, or a float32 copy where the model computes in less."""
    if (dtype or weight.dtype) not in HALVES:
        weight.data = weight.data.to(dtype or weight.dtype)
        return weight
    return weight.detach().to(torch.float32, copy=True).requires_grad_()


def _described(tensor: Tensor | None) -> str:
    return "nothing" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
