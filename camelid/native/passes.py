"""A training step's passes by the kernels (train.h), for one thread: what nn/passes.py asks for."""

from __future__ import annotations

import ctypes
from ctypes import Structure, byref, c_int64

import torch
from torch import Tensor

from camelid.native.library import library
from camelid.nn.passes import Heads

LANES, DEEP, WIDE = 16, 128, 48  # of train.h: numbers in a vector; what of a matrix is worked on together


class TextsStruct(Structure):
    _fields_ = tuple((name, c_int64) for name in ("texts", "length", "heads", "kv_heads", "width"))


class NativePasses:
    """The kernels as `nn.passes.Passes`; scratch is kept from call to call.

    products  whether products go through them too, instead of PyTorch's library: only in AVX-512, where they are faster
              for matrices of some hundred columns, and only with as many columns as fill vectors
    """

    def __init__(self, kernels: ctypes.CDLL, *, products: bool = False) -> None:
        self.kernels = kernels
        lanes = kernels.camelid_lanes().decode()
        self.products = products and lanes.startswith("AVX-512")
        self.name = f"native ({lanes}{', products too' if self.products else ''})"
        self._scratch = torch.empty(0)

    @staticmethod
    def here(*, products: bool = False) -> NativePasses | None:
        """Those of this machine; None where there are no kernels (native/library.py: state() says why)."""
        found = library()
        return None if found is None else NativePasses(found, products=products)

    def product(self, a: Tensor, b: Tensor, out: Tensor | None = None, *, adds: bool = False) -> Tensor:
        rows, depth, cols = *a.shape, b.shape[1]
        made = a.new_empty(rows, cols) if out is None else out
        if not self.products or cols % LANES or made.stride(1) != 1:
            return torch.addmm(made, a, b, out=made) if adds else torch.mm(a, b, out=made)
        self.kernels.camelid_product(
            a.data_ptr(), *a.stride(), b.data_ptr(), *b.stride(), made.data_ptr(), made.stride(0),
            rows, depth, cols, adds, self._room(DEEP * WIDE),
        )  # fmt: skip
        return made

    def norm(self, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        width = x.shape[-1]
        rows = x.numel() // width
        y, scale = torch.empty_like(x), x.new_empty(rows)
        self.kernels.camelid_norm_forward(
            x.data_ptr(), weight.data_ptr(), rows, width, eps, y.data_ptr(), scale.data_ptr()
        )
        return y, scale

    def norm_again(self, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        y = torch.empty_like(x)
        self.kernels.camelid_norm_again(
            x.data_ptr(), weight.data_ptr(), scale.data_ptr(), len(scale), x.shape[-1], y.data_ptr()
        )
        return y

    def norm_backward(
        self, grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor, plus: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        width = x.shape[-1]
        to_x, to_weight = torch.empty_like(x), torch.empty_like(weight)
        self.kernels.camelid_norm_backward(
            grad.data_ptr(), x.data_ptr(), weight.data_ptr(), scale.data_ptr(), 0 if plus is None else plus.data_ptr(),
            len(scale), width, to_x.data_ptr(), to_weight.data_ptr(), self._room(2 * width),
        )  # fmt: skip
        return to_x, to_weight

    def gate(self, both: Tensor) -> Tensor:
        rows, hidden = both.shape[0], both.shape[1] // 2
        inner = both.new_empty(rows, hidden)
        self.kernels.camelid_gate_forward(both.data_ptr(), rows, hidden, inner.data_ptr())
        return inner

    def gate_backward(self, grad: Tensor, both: Tensor) -> tuple[Tensor, Tensor]:
        to_both, inner = torch.empty_like(both), torch.empty_like(grad)
        self.kernels.camelid_gate_backward(
            grad.data_ptr(), both.data_ptr(), *grad.shape, to_both.data_ptr(), inner.data_ptr()
        )
        return to_both, inner

    def attend(self, joint: Tensor, rotations: Tensor, heads: Heads) -> tuple[Tensor, Tensor]:
        places = len(joint)
        out = joint.new_empty(places, heads.queries * heads.width)
        kept = joint.new_empty(places, heads.queries * 2)
        for texts, angles, at in self._texts(rotations, heads):
            room = self._room(self.kernels.camelid_attention_room(byref(texts)))
            self.kernels.camelid_attention_forward(
                byref(texts), _row(joint, at), *angles, _row(out, at), _row(kept, at), room
            )
        return out, kept

    def attend_backward(
        self, grad: Tensor, joint: Tensor, rotations: Tensor, heads: Heads, out: Tensor, kept: Tensor
    ) -> Tensor:
        to_joint = torch.empty_like(joint)
        for texts, angles, at in self._texts(rotations, heads):
            room = self._room(self.kernels.camelid_attention_room(byref(texts)))
            given = (_row(part, at) for part in (out, kept, grad, to_joint))
            self.kernels.camelid_attention_backward(byref(texts), _row(joint, at), *angles, *given, room)
        return to_joint

    def slopes(self, logits: Tensor, targets: Tensor) -> Tensor:
        rows, vocab = logits.shape
        losses = logits.new_empty(rows)
        done = self.kernels.camelid_loss(logits.data_ptr(), targets.data_ptr(), rows, vocab, losses.data_ptr())
        if done != rows:
            raise IndexError(f"target {int(targets[done])} of a vocabulary of {vocab}")
        return losses

    def _texts(self, rotations: Tensor, heads: Heads) -> list[tuple[TextsStruct, tuple[int, int], int]]:
        """Each group of texts of one length, where its cosines and sines begin, and its first place."""
        found, at = [], 0
        cosines, sines = rotations
        for texts, length in heads.texts:
            told = TextsStruct(texts, length, heads.queries, heads.keys, heads.width)
            found.append((told, (_row(cosines, at), _row(sines, at)), at))
            at += texts * length
        return found

    def _room(self, count: int) -> int:
        if self._scratch.numel() < count:
            self._scratch = torch.empty(count)
        return self._scratch.data_ptr()


def _row(x: Tensor, row: int) -> int:
    """Where a row of x begins."""
    return x.data_ptr() + row * x.stride(0) * x.element_size()
