"""Noise on the embeddings while a model is tuned (NEFTune, Jain et al. 2023): put on a finished model, as dropout is.

    x + U(-1, 1) alpha / sqrt(L D)        L the length of the document that the token stands in, D the width

Nothing is added to the weights, and outside training mode nothing happens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from camelid.errors import CamelidError, Problem, UsageError
from camelid.models.llama import Llama
from camelid.nn.attention import Layout
from camelid.nn.lora import Draws
from camelid.randomness import torch_generator


def add_noise(model: Llama, alpha: float) -> Llama:
    """Puts the noise on `model` in place; returns `model`. Its draws are keyed: call `adapt.set_randomness` first.

    Raises UsageError for an alpha that is no size.
    """
    if not (math.isfinite(alpha) and alpha >= 0):
        raise UsageError([Problem("noise", f"{alpha} is no size", "use 0 for none; the paper tries 5, 10 and 15")])
    if alpha:
        model.draws = model.draws or Draws()
        model.noise = Noise(alpha, model.draws)
    return model


class Noise:
    """Adds it to the embeddings of a batch as laid out."""

    def __init__(self, alpha: float, draws: Draws) -> None:
        self.alpha, self.draws = alpha, draws

    def __call__(self, x: Tensor, layout: Layout) -> Tensor:
        """[P, D] -> [P, D]; a pure function of the words that `draws` holds and of the layout."""
        if self.draws.words is None:
            raise CamelidError(
                "embeddings: noise has nothing to draw from; call set_randomness(model, seed, step, micro) first"
            )
        generator = torch_generator("neftune", *self.draws.words, device=str(x.device))
        drawn = torch.empty(x.shape, dtype=torch.float32, device=x.device).uniform_(-1, 1, generator=generator)
        lengths = torch.from_numpy(layout.lengths).to(device=x.device, dtype=torch.float32)
        return x + (drawn * (self.alpha / (lengths * x.shape[1]).sqrt())[:, None]).to(x.dtype)
