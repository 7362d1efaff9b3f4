"""Which library multiplies, and that it does so in float32."""

import os

import pytest
import torch

from camelid.errors import UsageError
from camelid.machine import Machine, divided
from camelid.train import products
from camelid.train.loop import bits
from tests.train import tiny

onednn = pytest.mark.skipif(not products._exact(), reason="oneDNN does not take float32 products on this processor")


@pytest.fixture(params=["mkl", pytest.param("onednn", marks=onednn)])
def library(request, monkeypatch):
    monkeypatch.setenv(products.WISH, request.param)
    return products.library(Machine())


def test_a_wish_is_followed_and_a_wrong_one_refused(library, monkeypatch):
    assert library == {"mkl": "MKL", "onednn": "oneDNN"}[os.environ[products.WISH]]
    monkeypatch.setenv(products.WISH, "openblas")
    with pytest.raises(UsageError, match='use "mkl" or "onednn"'):
        products.library(Machine())


def test_only_float32_on_a_cpu_has_the_choice():
    assert products.library(Machine(dtype="bfloat16")) is None
    assert products.library(Machine(device="cuda")) is None


@onednn
def test_threads_and_wide_models_on_amd_processors_get_onednn_small_ones_on_one_thread_and_others_mkl(monkeypatch):
    monkeypatch.delenv(products.WISH, raising=False)
    for vendor, expected in {"AuthenticAMD": "oneDNN", "GenuineIntel": "MKL", "": "MKL"}.items():
        monkeypatch.setattr(products, "processor_vendor", lambda vendor=vendor: vendor)
        assert products.library(Machine(threads=4)) == expected
        assert products.library(divided(Machine(threads=4), 15_000_000)) == expected
        assert products.library(divided(Machine(threads=1), 15_000_000)) == expected
        assert products.library(divided(Machine(threads=4), 1_000_000)) == "MKL"


def test_products_that_round_to_bfloat16_are_found_out(monkeypatch):
    monkeypatch.setattr(products, "_error", lambda rows: 3e-3)
    monkeypatch.setenv(products.WISH, "onednn")
    products._exact.cache_clear()
    try:
        assert products.library(Machine()) == "MKL"
    finally:
        products._exact.cache_clear()


def test_products_are_float32_while_a_run_lasts_and_everything_is_put_back(library):
    left, right = torch.randn(96, 200, dtype=torch.float64), torch.randn(200, 64, dtype=torch.float64)
    before = torch.backends.mkldnn.matmul.fp32_precision, dict(os.environ)
    with products.multiplying(Machine()):
        found = left.float() @ right.float()
    torch.testing.assert_close(found.double(), left @ right, rtol=0, atol=1e-4)
    assert (torch.backends.mkldnn.matmul.fp32_precision, dict(os.environ)) == before


def test_both_libraries_see_the_same_losses_and_the_journal_names_theirs(tmp_path, monkeypatch, library):
    made = tiny.model()
    trained = tiny.run(tmp_path / "run", made, tiny.optimizer(made))
    monkeypatch.setenv(products.WISH, "mkl")
    again = tiny.model()
    other = tiny.run(tmp_path / "other", again, tiny.optimizer(again))
    assert trained.loss == pytest.approx(other.loss, rel=1e-5)
    monkeypatch.undo()
    assert f'"products":"{library}"' in trained.journal.read_text()
    assert "products" in bits(Machine())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_rate_is_measured_that_a_product_of_that_size_can_have(dtype):
    assert 1e8 < products.rate(Machine(dtype=dtype)) < 1e15
