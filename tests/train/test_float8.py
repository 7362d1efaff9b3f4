"""Products in eight-bit floats: what they change is rounding, and where they cannot be had it is said before any work."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from camelid.cli import main
from camelid.data.batch import lay
from camelid.errors import UsageError
from camelid.machine import Machine
from camelid.models.adapt import add_lora
from camelid.models.llama import Llama, initialise
from camelid.models.shape import LINEARS, LlamaShape, LoRA
from camelid.train import float8
from camelid.train.loss import NextToken

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
SHAPE = LlamaShape(layers=2, width=32, heads=4, kv_heads=2, head_width=8, hidden=48, vocab=61, context=64)


def drawn(shape: LlamaShape = SHAPE) -> Llama:
    model = Llama(shape)
    initialise(model, 3, deviation=0.2)
    return model


def test_layers_multiply_in_float8_and_all_else_stays() -> None:
    pytest.importorskip("torchao", reason="torchao is an extra (float8)")
    plain, model = drawn(), drawn()
    weights = dict(model.named_parameters())
    float8.through_float8(model, emulate=True)
    assert all(part is weights[name] for name, part in model.named_parameters()) and len(weights) == len(
        model.state_dict()
    )
    changed = {name for name, part in model.named_modules() if type(part).__name__ == "Float8Linear"}
    assert changed == {name for name, _ in model.named_modules() if name.rpartition(".")[2] in LINEARS}
    draw = np.random.default_rng(0)
    batch = lay(
        [(draw.integers(0, SHAPE.vocab, length), None) for length in (9, 17, 30)]
    )  # 56 tokens: no multiple of 16
    losses = [float(NextToken()(each, batch).detach()) for each in (plain, model)]
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.05)


def rounded(x: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """To eight bits and back, the largest value of the tensor at the largest of the type."""
    scale = torch.finfo(kind).max / x.abs().max()
    return (x * scale).to(kind).float() / scale


def test_a_map_and_its_gradients_are_products_of_rounded_matrices() -> None:
    pytest.importorskip("torchao", reason="torchao is an extra (float8)")
    model = float8.through_float8(drawn(), emulate=True)
    part = model.get_submodule("model.layers.0.mlp.gate_proj")
    x, slope = torch.randn(23, 32, requires_grad=True), torch.randn(23, 48)
    out = part(x)
    out.backward(slope)
    weight = part.weight
    near, far, back = rounded(x.detach(), E4M3), rounded(weight.detach(), E4M3), rounded(slope, E5M2)
    for found, wanted in ((out, near @ far.T), (x.grad, back @ far), (weight.grad, back.T @ near)):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-5)


def test_what_cannot_be_multiplied_so_is_refused() -> None:
    pytest.importorskip("torchao", reason="torchao is an extra (float8)")
    with pytest.raises(UsageError, match="beside adapters"):
        float8.through_float8(add_lora(drawn(), LoRA(rank=2, alpha=4, targets=LINEARS)), emulate=True)
    odd = drawn(replace(SHAPE, hidden=40))
    with pytest.raises(UsageError, match="a map of 32 to 40; both must be divisible by 16"):
        float8.through_float8(odd, emulate=True)


def test_a_machine_without_it_is_told_everything_before_any_work(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["grow", "alpaca", "--size", "tiny", "--device", "cpu", "--float8", "--store", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "no such products on cpu" in told and "with float32; use --dtype bfloat16" in told
    assert not any(tmp_path.iterdir())
    with pytest.raises(UsageError, match="no such products on cpu"):
        float8.wanted(Machine(float8=True))
    assert not float8.wanted(Machine())
