"""Random small shapes that reach every branch of the decoder, and models drawn for them."""

import numpy as np
import torch

from camelid.models.llama import Llama
from camelid.models.shape import LlamaShape
from camelid.nn.scaling import KINDS, RopeScaling
from camelid.randomness import numpy_generator, torch_generator


def scaling(kind, draw):
    """Settings of this kind that change something for texts of a few dozen tokens."""
    factor = float(draw.choice([1.0, 1.7, 4.0, 32.0]))
    if kind == "yarn":
        attention = [None, 1.3][draw.integers(2)]
        fast, slow = [(32.0, 1.0), (4.0, 0.5)][draw.integers(2)]
        return RopeScaling(
            "yarn", factor, original=int(draw.integers(8, 64)), attention=attention, fast=fast, slow=slow
        )
    if kind == "llama3":
        low, high = [(1.0, 4.0), (0.5, 9.0)][draw.integers(2)]
        return RopeScaling("llama3", factor, original=int(draw.integers(8, 64)), low=low, high=high)
    return RopeScaling(kind, factor)


def random_shape(case, *, kinds=(None, *KINDS)):
    """A shape that depends on `case` alone; every sixth has each kind of scaling."""
    draw = numpy_generator("shape", case)
    kind = kinds[case % len(kinds)]
    kv_heads = int(draw.integers(1, 4))
    heads = kv_heads * int(draw.integers(1, 5))
    return LlamaShape(
        layers=int(draw.integers(1, 4)),
        width=heads * int(draw.integers(2, 9)),
        heads=heads,
        kv_heads=kv_heads,
        head_width=2 * int(draw.integers(2, 9)),
        hidden=int(draw.integers(3, 50)),
        vocab=int(draw.integers(5, 90)),
        context=int(draw.integers(8, 40)),
        theta=float(draw.choice([50.0, 1e4, 5e5, 1e6])),
        eps=float(draw.choice([1e-6, 1e-5, 1e-3])),
        tied=bool(draw.integers(2)),
        scaling=None if kind is None else scaling(kind, draw),
    )


def random_model(shape, case=0, dtype=torch.float64):
    """Weights large enough that a wrong rotation or mask shows; norms are not one."""
    model = Llama(shape, dtype=dtype)
    generator = torch_generator("weights", case)
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            spread = 0.3 if parameter.dim() == 1 else 1 / np.sqrt(parameter.shape[-1])
            parameter.copy_(drawn * spread + (1.0 if parameter.dim() == 1 else 0.0))
    return model


def random_ids(shape, size, *words):
    draw = numpy_generator("ids", *words)
    return torch.from_numpy(draw.integers(0, shape.vocab, size))
