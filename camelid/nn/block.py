"""A whole layer of the decoder as one operation: for small models, whose operations are over before the next is asked for.

    h = x + o(attention(q(n), k(n), v(n)))   with n = norm(x)
    y = h + down(silu(gate(m)) * up(m))      with m = norm(h)

Its definition is the layer in PyTorch, operation by operation. What lies between the products goes through
`nn.passes`; n, m and the gate's output are made again for the gradient instead of kept, for they are a pass each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from camelid.nn.once import once
from camelid.nn.passes import Heads, Passes


def block(
    x: Tensor, weights: tuple[Tensor, ...], eps: tuple[float, float], rotations: Tensor, heads: Heads, passes: Passes
) -> Tensor:
    """[P, D] -> [P, D]. `weights` are those of query, key, value, out, gate, up, down, of the first norm and of the second."""
    out: Tensor = _Block.apply(x, rotations, heads, passes, eps, *weights)  # type: ignore[no-untyped-call]
    return out


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, rotations: Tensor, heads: Heads, passes: Passes, eps: tuple[float, float], *weights: Tensor
    ) -> Tensor:
        query, key, value, out, gate, up, down, before, after = weights
        normed, first = passes.norm(x, before, eps[0])
        joint = _mapped(normed, (query, key, value), passes)
        seen, kept = passes.attend(joint, rotations, heads)
        middle = passes.product(seen, out.T, x.clone(), adds=True)
        normed, second = passes.norm(middle, after, eps[1])
        both = _mapped(normed, (gate, up), passes)
        ctx.save_for_backward(x, rotations, first, joint, seen, kept, middle, second, both, *weights)
        ctx.heads, ctx.passes = heads, passes
        return passes.product(passes.gate(both), down.T, middle.clone(), adds=True)

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, rotations, first, joint, seen, kept, middle, second, both, *weights = ctx.saved_tensors
        query, key, value, out, gate, up, down, before, after = weights
        passes: Passes = ctx.passes
        grad = grads[0].contiguous()
        to_both, inner = passes.gate_backward(passes.product(grad, down), both)
        to_down = passes.product(grad.T, inner)
        to_wide = _slopes(to_both, passes.norm_again(middle, after, second), (gate, up), passes)
        to_middle, to_after = passes.norm_backward(_back(to_both, (gate, up), passes), middle, after, second, grad)
        to_joint = passes.attend_backward(passes.product(to_middle, out), joint, rotations, ctx.heads, seen, kept)
        to_out = passes.product(to_middle.T, seen)
        to_narrow = _slopes(to_joint, passes.norm_again(x, before, first), (query, key, value), passes)
        to_x, to_before = passes.norm_backward(
            _back(to_joint, (query, key, value), passes), x, before, first, to_middle
        )
        made = (to_x, None, None, None, None, *to_narrow, to_out, *to_wide, to_down, to_before, to_after)
        return tuple(part if wanted else None for part, wanted in zip(made, ctx.needs_input_grad, strict=True))


def _mapped(x: Tensor, weights: Sequence[Tensor], passes: Passes) -> Tensor:
    """The maps of x side by side, each product written where it belongs."""
    made, at = x.new_empty(len(x), sum(map(len, weights))), 0
    for weight in weights:
        passes.product(x, weight.T, made[:, at : at + len(weight)])
        at += len(weight)
    return made


def _back(grad: Tensor, weights: Sequence[Tensor], passes: Passes) -> Tensor:
    """The gradient at what the maps had in common."""
    parts = torch.split_with_sizes(grad, [len(weight) for weight in weights], 1)
    total = passes.product(parts[0], weights[0])
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        passes.product(part, weight, total, adds=True)
    return total


def _slopes(grad: Tensor, x: Tensor, weights: Sequence[Tensor], passes: Passes) -> tuple[Tensor, ...]:
    """The gradients of the maps' weights."""
    return torch.split_with_sizes(passes.product(grad.T, x), [len(weight) for weight in weights])
