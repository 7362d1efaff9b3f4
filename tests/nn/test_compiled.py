"""Compiled passes say what the eager ones say, forwards and backwards, and a whole model with them too."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from camelid.cli.asked import Asked
from camelid.data.batch import lay
from camelid.errors import UsageError
from camelid.machine import Machine, divided, no_compiler
from camelid.models.adapt import add_lora
from camelid.models.llama import Cache, Llama, initialise
from camelid.models.shape import LINEARS, LlamaShape, LoRA
from camelid.nn import compiled
from camelid.train.loop import bits
from camelid.train.loss import NextToken

pytestmark = [
    pytest.mark.skipif(bool(no_compiler("cpu")), reason="PyTorch's compiler needs a C++ compiler"),
    pytest.mark.filterwarnings(
        "ignore:The .grad attribute of a Tensor that is not a leaf"
    ),  # PyTorch's compiler looks there
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of PyTorch's compiler, about PyTorch
]
SHAPE = LlamaShape(layers=2, width=32, heads=4, kv_heads=2, head_width=8, hidden=48, vocab=61, context=64)


def model_of(dtype: torch.dtype, lora: LoRA | None) -> Llama:
    model = Llama(SHAPE)
    initialise(model, 3)
    return add_lora(model.to(dtype), lora, seed=1) if lora else model.to(dtype)


def said(model: Llama, lengths: tuple[int, ...], fused: bool) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of a batch of documents of these lengths."""
    draw = np.random.default_rng(0)
    batch = lay([(draw.integers(0, SHAPE.vocab, length), None) for length in lengths])
    with compiled.passes() if fused else nullcontext():
        loss = NextToken()(model, batch)
        loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    for weight in model.parameters():
        weight.grad = None
    return float(loss.detach()), gradients


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but the compiler's last step: the passes and their gradients are traced and cut, then run by PyTorch."""
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("lora", [None, LoRA(rank=2, alpha=4, targets=LINEARS)])
def test_losses_and_gradients_are_the_eager_ones_up_to_rounding(lora: LoRA | None) -> None:
    for dtype, close in ((torch.float64, 1e-12), (torch.bfloat16, 3e-2)):
        model = model_of(dtype, lora)
        for lengths in ((9, 17, 17), (5,)):
            wanted, gradients = said(model, lengths, fused=False)
            found, made = said(model, lengths, fused=True)
            assert found == pytest.approx(wanted, rel=close) and made.keys() == gradients.keys()
            again, same = said(model, lengths, fused=True)
            assert again == found and all(torch.equal(same[name], made[name]) for name in made)
            for name, gradient in gradients.items():
                error = (made[name] - gradient).norm() / gradient.norm().clamp_min(1e-30)
                assert error < close, (name, dtype, lengths, float(error))


@pytest.mark.long
def test_what_the_compiler_made_says_the_same_as_eager_passes() -> None:
    model = model_of(torch.float32, None)
    wanted, gradients = said(model, (9, 17, 17), fused=False)
    found, made = said(model, (9, 17, 17), fused=True)
    assert found == pytest.approx(wanted, rel=1e-6)
    for name, gradient in gradients.items():
        assert float((made[name] - gradient).norm() / gradient.norm()) < 1e-5, name


@pytest.mark.usefixtures("traced")
def test_decoding_with_a_cache_gives_the_same_logits() -> None:
    model = model_of(torch.float32, None)
    ids = torch.from_numpy(np.random.default_rng(1).integers(0, SHAPE.vocab, (2, 12)))
    with torch.inference_mode():
        wanted = model(ids)
        with compiled.passes():
            cache = Cache(SHAPE, 2, 12)
            parts = [model(ids[:, start:end], cache=cache) for start, end in ((0, 7), (7, 8), (8, 12))]
    torch.testing.assert_close(torch.cat(parts, dim=1), wanted, atol=1e-5, rtol=1e-5)


def test_a_compiled_run_says_so_has_its_own_bits_and_asks_for_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(threads=4, compile=True)
    assert divided(machine, 1000).workers == 1 and divided(replace(machine, compile=False), 1000).workers == 4
    assert bits(machine) == {**bits(replace(machine, compile=False)), "compiled": True}
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    asked = Asked()
    asked.machine("cpu", None, None, compiled=True)
    with pytest.raises(UsageError, match=r"--compile: there is no C\+\+ compiler here"):
        asked.settle()
