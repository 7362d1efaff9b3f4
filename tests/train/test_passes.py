"""Who computes a run's passes, and that it is told."""

import pytest
import torch

from camelid.machine import Machine
from camelid.native import build, library
from camelid.native.passes import NativePasses
from camelid.nn.passes import passes_for
from camelid.train import passes as chosen
from camelid.train import products
from camelid.train.loop import bits
from tests.train import tiny


@pytest.fixture
def kernels():
    found = NativePasses.here(products=True)
    if found is None:
        pytest.skip("no kernels are here: PyTorch computes the passes")
    return found


@pytest.fixture
def bare(monkeypatch):
    """A machine on which kernels are not to be had."""
    monkeypatch.setenv("CAMELID_NATIVE", "off")
    for each in (build.built, library.library):
        each.cache_clear()
    yield
    monkeypatch.undo()
    for each in (build.built, library.library):
        each.cache_clear()


def run(folder):
    made = tiny.model()
    return tiny.run(folder, made, tiny.optimizer(made))


def test_one_thread_in_float32_gets_the_kernels_and_all_others_pytorch(kernels, monkeypatch):
    monkeypatch.delenv(products.WISH, raising=False)
    assert chosen.name_of(Machine()) == kernels.name and kernels.name.startswith("native")
    assert chosen.name_of(Machine(wide=True)) == kernels.name.replace(", products too", "")
    monkeypatch.setenv(products.WISH, "mkl")
    assert chosen.name_of(Machine()) == kernels.name.replace(", products too", "")
    for other in (Machine(threads=2), Machine(dtype="bfloat16")):
        assert chosen.passes(other) is None and chosen.name_of(other) == "PyTorch"
    assert chosen.name_of(Machine(device="cuda")) is None


def test_without_kernels_pytorch_computes_them_and_the_journal_says_so(bare, tmp_path):
    assert chosen.passes(Machine()) is None and bits(Machine())["passes"] == "PyTorch"
    assert "training small models go through PyTorch" in library.state()
    assert '"passes":"PyTorch"' in run(tmp_path).journal.read_text()


def test_a_run_leaves_passes_to_whoever_had_them(kernels, tmp_path):
    with chosen.passing(Machine()):
        assert passes_for(torch.zeros(3)) is not None
    assert passes_for(torch.zeros(3)) is None
    assert f'"passes":"{kernels.name}"' in run(tmp_path).journal.read_text()
