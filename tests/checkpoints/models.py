"""Small models and folders that the tests of this room share."""

from __future__ import annotations

import torch

from camelid.checkpoints.names import expected
from camelid.models.shape import LlamaShape, RopeScaling

SHAPE = LlamaShape(layers=2, width=32, heads=4, kv_heads=2, head_width=8, hidden=48, vocab=64, context=128)
WIDE = LlamaShape(layers=2, width=64, heads=16, kv_heads=8, head_width=4, hidden=96, vocab=128, context=2048)
SCALINGS = {
    "plain": None,
    "linear": RopeScaling("linear", 4.0),
    "ntk": RopeScaling("ntk", 2.0),
    "dynamic": RopeScaling("dynamic", 3.0),
    "yarn": RopeScaling("yarn", 4.0, original=32),
    "yarn, all said": RopeScaling("yarn", 4.0, original=32, fast=16.0, slow=2.0, attention=1.25),
    "llama3": RopeScaling("llama3", 8.0, original=32, low=1.0, high=4.0),
}


def weights(shape: LlamaShape, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Random weights, the same for the same seed; norms near one."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, size in expected(shape).items():
        drawn = torch.randn(size, generator=generator) * 0.2
        made[name] = (drawn + 1 if name.endswith("norm.weight") else drawn).to(dtype)
    return made


def same_bits(one, other) -> bool:
    """Whether two tables of tensors are equal in names, dtypes, shapes and every bit."""
    return set(one) == set(other) and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and torch.equal(
            one[name].contiguous().reshape(-1).view(torch.uint8), other[name].contiguous().reshape(-1).view(torch.uint8)
        )
        for name in one
    )
