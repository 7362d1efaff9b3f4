import pytest
import torch
from torch import nn

from camelid.errors import CamelidError
from camelid.nn.lora import Draws, LoRALinear


def adapted(dropout=0.0, dtype=torch.float32, wide=48, rank=4):
    torch.manual_seed(0)
    base = nn.Linear(wide, 40, bias=False, dtype=dtype)
    layer = LoRALinear(base, "q", rank, 2.0, dropout, Draws())
    layer.draw(1)
    return layer


def test_a_new_adapter_changes_nothing_and_a_is_kaiming_uniform():
    layer = adapted(wide=400, rank=64)
    x = torch.randn(3, 400)
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight))
    expected = nn.init.kaiming_uniform_(torch.empty(64, 400), a=5**0.5)
    assert layer.a.abs().max() <= 400**-0.5 and expected.abs().max() <= 400**-0.5
    assert abs(layer.a.std() - 400**-0.5 / 3**0.5) < 1e-3
    assert not layer.weight.requires_grad and layer.a.requires_grad and layer.b.requires_grad


def test_a_draw_depends_on_seed_and_name_alone():
    one, other = adapted(), adapted()
    assert torch.equal(one.a, other.a)
    other.draw(2)
    assert not torch.equal(one.a, other.a)
    other.name = "k"
    other.draw(1)
    assert not torch.equal(one.a, other.a)


def test_dropout_is_a_pure_function_of_its_words():
    layer = adapted(dropout=0.4)
    nn.init.normal_(layer.b)
    x = torch.randn(50, 48)
    with pytest.raises(CamelidError, match=r"set_randomness\(model, seed, step, micro\)"):
        layer(x)
    outs = {}
    for words in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)]:
        layer.draws.words = words
        torch.manual_seed(len(outs))  # the global state must not matter
        out = layer(x)
        assert torch.equal(outs.setdefault(words, out), out)
    assert len({tuple(out.flatten()[:5].tolist()) for out in outs.values()}) == 4
    dropped = layer._dropped(torch.ones(1000, 48))
    layer.name = "k"  # another map of the same model draws its own mask
    assert not torch.equal(layer._dropped(torch.ones(1000, 48)), dropped)
    assert dropped.unique().tolist() == [0.0, pytest.approx(1 / 0.6)]
    assert abs((dropped == 0).float().mean() - 0.4) < 0.01
    layer.eval()
    assert torch.equal(layer(x), layer(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_hundred_merges_leave_every_bit_of_the_base(dtype):
    layer = adapted(dtype=dtype)
    nn.init.normal_(layer.b)
    base, x = layer.weight.clone(), torch.randn(5, 48, dtype=dtype)
    apart = layer(x)
    for _ in range(100):
        layer.merge()
        layer.merge()  # a second time means nothing
        together = layer(x)
        layer.unmerge()
        assert torch.equal(layer.weight, base)
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0.1}[dtype]
    torch.testing.assert_close(together, apart, atol=tolerance, rtol=tolerance)


def test_an_adapter_beside_bfloat16_is_float32_and_merges_with_one_rounding():
    layer = adapted(dtype=torch.bfloat16)
    nn.init.normal_(layer.b)
    assert layer.a.dtype == torch.float32
    base = layer.weight.clone()
    layer.merge()
    exact = base.double() + 2.0 * layer.b.double() @ layer.a.double()
    ulp = (layer.weight.double().abs() * 2**-7).clamp_min(1e-30)
    assert ((layer.weight.double() - exact).abs() <= 0.51 * ulp).all()
