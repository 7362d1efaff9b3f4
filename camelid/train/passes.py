"""Who computes what lies between a training step's matrix products (nn/passes.py): our kernels where one thread trains
in float32 on a CPU and a compiler was there to make them, else PyTorch (compiled, where the machine says so). Products of
models that are not wide go through them too, in AVX-512, unless CAMELID_PRODUCTS names a library for them.

It changes last bits, as another library of products would: a run's journal names it. CAMELID_NATIVE=off leaves all to
PyTorch, and `camelid doctor` says what there is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from camelid.machine import Machine
from camelid.native.library import trains
from camelid.native.passes import NativePasses
from camelid.nn.passes import Passes, passing_through
from camelid.train.products import WISH


def passes(machine: Machine) -> Passes | None:
    """Whoever computes a run's passes on this machine; None where PyTorch does."""
    if not trains(machine):
        return None
    return NativePasses.here(products=not machine.wide and not os.environ.get(WISH))


def name_of(machine: Machine) -> str | None:
    """Who computes them, by name; None where that is not the question, for another than a CPU computes."""
    found = passes(machine)
    return found.name if found is not None else "PyTorch" if machine.device == "cpu" else None


@contextmanager
def passing(machine: Machine) -> Iterator[None]:
    """As long as it lasts, passes are computed by `passes(machine)`."""
    with passing_through(passes(machine)):
        yield
