"""The optimizer that a recipe's words ask for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from camelid.train.eight_bit import Optimizer8bit
from camelid.train.galore import GaLoreOptimizer
from camelid.train.optim import Optimizer
from camelid.train.pages import Pages
from camelid.train.settings import AdamW, AdamW8bit, GaLore

KINDS: Mapping[type[AdamW], type[Optimizer]] = {AdamW: Optimizer, AdamW8bit: Optimizer8bit, GaLore: GaLoreOptimizer}


def optimizer_of(
    parameters: Mapping[str, nn.Parameter],
    settings: AdamW,
    *,
    clip: float | None = 1.0,
    dtype: torch.dtype | None = None,
    folder: Path,
) -> Optimizer:
    """AdamW, AdamW in eight bits or GaLore over the weights that learn; paged moments lie in a file of `folder`.

    Raises UsageError where nothing learns, StoreError where the disk has no room for paged moments.
    """
    pages = Pages(folder) if settings.paged else None
    return KINDS[type(settings)](parameters, settings, clip=clip, dtype=dtype, pages=pages)
