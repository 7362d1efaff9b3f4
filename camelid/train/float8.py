"""Training products in eight-bit floats, through torchao (extra: float8), on GPUs that multiply them.

Inputs and weights of a layer's linear maps are rounded to e4m3 and gradients to e5m2, each tensor scaled anew in every step
(torchao's "tensorwise" recipe), and multiplied at up to twice bfloat16's rate; sums, weights, moments, embedding and head
stay as they were. What it gains and costs was not measured here: no such GPU could be had.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import nn

from camelid.errors import ProblemList
from camelid.machine import Machine
from camelid.models.shape import LINEARS

if TYPE_CHECKING:
    from camelid.models.llama import Llama

SIDES = 16  # by which a matrix's sides must be divisible (torch._scaled_mm)
CAPABLE = (8, 9)  # the first generation of NVIDIA's GPUs with such products: Ada and Hopper


def check(machine: Machine, problems: ProblemList) -> None:
    """Adds what keeps this machine from training in float8."""
    if find_spec("torchao") is None:
        problems.add("--float8", "torchao is not installed", "pip install camelid[float8]")
    if not machine.device.startswith("cuda"):
        problems.add("--float8", f"no such products on {machine.device}", "leave it out: it is for GPUs")
    elif (found := torch.cuda.get_device_capability(machine.device)) < CAPABLE:
        told = f"{torch.cuda.get_device_name(machine.device)} has none (capability {found[0]}.{found[1]})"
        problems.add("--float8", told, "use a GPU of capability 8.9 or more, or leave it out")
    if machine.dtype != "bfloat16":
        problems.add("--float8", f"with {machine.dtype}", "use --dtype bfloat16")
    if machine.shard > 1 or machine.tensor > 1:
        problems.add("--float8", "among shards of a model", "use replicas alone")


def through_float8(model: Llama, *, compiled: bool = False, emulate: bool = False) -> Llama:
    """The same model, changed in place: the linear maps of its layers multiply in float8; their weights are the same objects.

    compiled  let PyTorch's compiler make the scaling and rounding around each product
    emulate   compute in float32 what float8 would give, anywhere: for tests

    Raises UsageError for adapted or quantised maps, and for sides that cannot be multiplied so.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    maps = {name: part for name, part in model.named_modules() if name.rpartition(".")[2] in LINEARS}
    problems = ProblemList()
    if any(type(part) is not nn.Linear for part in maps.values()):
        problems.add("--float8", "beside adapters, whose frozen maps have no float8 here", "leave it out")
    elif odd := next((part for part in maps.values() if any(side % SIDES for side in part.weight.shape)), None):
        found = f"a map of {odd.in_features} to {odd.out_features}"
        problems.add("--float8", found, f"both must be divisible by {SIDES}: leave it out")
    problems.raise_usage()
    config = Float8LinearConfig(emulate=emulate, pad_inner_dim=True)  # a batch's tokens are any number
    convert_to_float8_training(model, module_filter_fn=lambda _, name: name in maps, config=config)
    if compiled:
        for name in maps:
            model.get_submodule(name).compile()
    return model


def wanted(machine: Machine) -> bool:
    """Whether a run on this machine asks for it; raises UsageError where it cannot be had."""
    if machine.float8:
        problems = ProblemList()
        check(machine, problems)
        problems.raise_usage()
    return machine.float8
