"""Next-token cross-entropy over the learned positions, without ever holding [N, V].

A loss gives a *sum* and a *count*: the loop divides once, by the count of the whole step, so that no way of cutting a
step into micro-batches changes what is minimised (a mean of micro-batch means does).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy
import torch
from torch import Tensor

from camelid.nn import compiled
from camelid.nn.again import again
from camelid.nn.passes import Passes, passes_for
from camelid.nn.tied import Tie

if TYPE_CHECKING:
    from camelid.data.batch import Batch
    from camelid.models.llama import Llama

ROWS, LOGITS = 256, 1 << 19  # ours, measured: rows whose logits exist at once, more where so few logits fit a cache


class Loss(Protocol):
    """What the loop needs of a loss."""

    def count(self, batch: Batch) -> int:
        """What the sum of this micro-batch counts; known from the data alone, before any forward pass."""
        ...

    def __call__(self, model: Any, batch: Batch) -> Tensor:
        """The sum over this micro-batch, a scalar that can be differentiated; asked only where the count is not 0."""
        ...


class NextToken:
    """Cross-entropy in nats of the learned targets, summed; the count is the number of learned targets."""

    def count(self, batch: Batch) -> int:
        return int(numpy.count_nonzero(batch.learned))

    def __call__(self, model: Llama, batch: Batch) -> Tensor:
        tie = Tie()
        hidden = model.hidden(
            _tensor(batch.ids, model.model.norm.weight), segments=batch.segments, tie=tie
        )  # [1, N, D]
        weight = model.head_weight()  # [V, D]; asked for here, because a divided model holds it whole only now
        places = numpy.flatnonzero(batch.learned)
        learned = hidden.flatten(0, 1).index_select(0, _tensor(places, weight))  # [M, D]
        return cross_entropy(learned, weight, _tensor(batch.targets.reshape(-1)[places], weight), tie=tie)


class Distilled:
    """Cross-entropy in nats against a teacher's distribution of each learned target, summed; the count is as NextToken's.

    Its smallest value is not 0 but the entropy of the teacher.
    """

    def __init__(self, teacher: Llama) -> None:
        self.teacher = teacher

    def count(self, batch: Batch) -> int:
        return int(numpy.count_nonzero(batch.learned))

    def __call__(self, model: Llama, batch: Batch) -> Tensor:
        ids = _tensor(batch.ids, model.model.norm.weight)
        places = _tensor(numpy.flatnonzero(batch.learned), model.model.norm.weight)
        with torch.no_grad():
            known = self.teacher.hidden(ids, segments=batch.segments).flatten(0, 1).index_select(0, places)
        learned = model.hidden(ids, segments=batch.segments).flatten(0, 1).index_select(0, places)
        weight = model.head_weight()  # [V, D]; asked for here, as NextToken does
        return distilled(learned, weight, known, self.teacher.head_weight())


def distilled(hidden: Tensor, weight: Tensor, known: Tensor, teacher: Tensor) -> Tensor:
    """The sum over rows of -sum_v p_v log q_v, in float64, of the student's distribution q and the teacher's p:
    [M, D], [V, D], [M, D'], [V, D'] -> scalar. Logits exist for a few rows at a time."""
    rows, total = max(ROWS, LOGITS // weight.shape[0]), hidden.new_zeros((), dtype=torch.float64)
    for start in range(0, len(hidden), rows):
        part = again(_soft, hidden[start : start + rows], weight, known[start : start + rows], teacher)
        total = total + part
    return total


def _soft(hidden: Tensor, weight: Tensor, known: Tensor, teacher: Tensor) -> Tensor:
    exact = torch.promote_types(hidden.dtype, torch.float32)
    wanted = torch.softmax(known @ teacher.T, dim=-1, dtype=exact)
    return -(wanted * torch.log_softmax(hidden @ weight.T, dim=-1, dtype=exact)).sum(dtype=torch.float64)


def _tensor(array: numpy.ndarray[Any, Any], like: Tensor) -> Tensor:
    return torch.from_numpy(array.astype(numpy.int64, copy=False)).to(like.device)


def cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, rows: int | None = None, tie: Tie | None = None
) -> Tensor:
    """The sum over rows of -log softmax(hidden weight^T)[target], in float64: [M, D], [V, D], [M] -> scalar.

    The softmax is taken in float32 (float64 for float64). Logits exist for `rows` positions at a time (by default a
    number that depends on V alone). Where gradients are wanted they are made in the same pass: three matrix products in
    all, no second forward; so the result can be differentiated once, and not twice. Where `weight` is the embedding that
    `hidden` came from, by `tie`, its gradient is left there.
    """
    learns = torch.is_grad_enabled()
    rows = rows or max(ROWS, LOGITS // weight.shape[0])
    wanted = (learns and hidden.requires_grad, learns and weight.requires_grad)
    met = tie if tie is not None and tie.weight is weight and all(wanted) else None
    total: Tensor = _CrossEntropy.apply(hidden, weight, targets, rows, wanted, met)  # type: ignore[no-untyped-call]
    return total


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        rows: int,
        wanted: tuple[bool, bool],
        tie: Tie | None,
    ) -> Tensor:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        passes = passes_for(hidden, weight)
        losses = torch.empty(len(hidden), dtype=exact, device=hidden.device)
        to_hidden = torch.empty_like(hidden) if wanted[0] else None
        begun = torch.empty_like if len(hidden) and exact == weight.dtype else torch.zeros_like
        to_weight = begun(weight, dtype=exact) if wanted[1] else None
        for start in range(0, len(hidden), rows):  # in a call each: logits are let go before the next are made
            here = slice(start, start + rows)
            made = None if to_hidden is None else to_hidden[here]
            losses[here] = _few(hidden[here], weight, targets[here], passes, exact, made, to_weight, start > 0)
        ctx.gradients, ctx.tie = (to_hidden, to_weight), tie
        return losses.sum(dtype=torch.float64)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        if ctx.gradients is None:
            raise RuntimeError("this loss was differentiated already: its gradients were made once and given away")
        to_hidden, to_weight = ctx.gradients
        ctx.gradients = None
        to_hidden, to_weight = _scaled(to_hidden, factor), _scaled(to_weight, factor)
        if ctx.tie is not None:
            ctx.tie.gradient, to_weight = to_weight, None
        return to_hidden, to_weight, None, None, None, None


def _few(
    part: Tensor,
    weight: Tensor,
    target: Tensor,
    passes: Passes | None,
    exact: torch.dtype,
    to_part: Tensor | None,
    to_weight: Tensor | None,
    adds: bool,
) -> Tensor:
    """The losses of a few rows; their gradients are written where they are wanted, that of the weight added if it `adds`."""
    logits = part @ weight.T if passes is None else passes.product(part, weight.T)  # [rows, V]
    if to_part is None and to_weight is None:
        return _losses(logits, target, exact)[0]
    if passes is not None:
        losses = passes.slopes(logits, target)  # which become their own slopes
        if to_part is not None:
            passes.product(logits, weight, to_part)
        if to_weight is not None:
            passes.product(logits.T, part, to_weight, adds=adds)
        return losses
    losses, slope = (compiled.slopes if compiled.on() else _slopes)(logits, target, exact)
    if to_part is not None:
        torch.mm(slope, weight, out=to_part)
    if to_weight is not None and exact == weight.dtype:
        torch.addmm(to_weight, slope.T, part, beta=int(adds), out=to_weight)  # the first is no sum
    elif to_weight is not None:
        to_weight.add_(slope.T @ part)  # products in bfloat16, their sum over chunks in float32
    return losses


def _losses(logits: Tensor, targets: Tensor, exact: torch.dtype) -> tuple[Tensor, Tensor]:
    """-log softmax(logits)[target], [M], and all the logarithms, [M, V]."""
    logs = torch.log_softmax(logits, dim=-1, dtype=exact)
    return logs.gather(1, targets[:, None]).neg_().squeeze(1), logs


def _slopes(logits: Tensor, targets: Tensor, exact: torch.dtype) -> tuple[Tensor, Tensor]:
    """The losses, and their gradient at the logits: softmax less one hot, [M, V]."""
    losses, logs = _losses(logits, targets, exact)
    slope = logs.exp_()
    slope.scatter_add_(1, targets[:, None], slope.new_full((len(targets), 1), -1))
    return losses, slope.to(logits.dtype)


def _scaled(gradient: Tensor | None, factor: Tensor) -> Tensor | None:
    return None if gradient is None else gradient.mul_(factor.to(gradient.dtype))
