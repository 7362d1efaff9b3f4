import pytest
import torch
from torch import nn

from camelid.errors import CamelidError, UsageError
from camelid.nn.lora import Draws, LoRALinear


def adapted(dropout=0.0, dtype=torch.float32, wide=48, rank=4, magnitude=False):
    torch.manual_seed(0)
    base = nn.Linear(wide, 40, bias=False, dtype=dtype)
    layer = LoRALinear(base, "q", rank, 2.0, dropout, Draws(), magnitude=magnitude)
    layer.draw(1)
    return layer


def stirred(layer):
    """As training leaves it."""
    for parameter in layer.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.3)
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


@pytest.mark.parametrize("bits", [None, "int8", "nf4"])
def test_dora_begins_as_the_base_bit_for_bit_and_its_rows_are_as_long_as_m_says(bits):
    layer = adapted(magnitude=True)
    if bits:
        layer.quantise(bits)
    x = torch.randn(6, 48)
    assert torch.equal(layer(x), nn.functional.linear(x, layer.plain()))
    torch.testing.assert_close(layer.lora_magnitude_vector.detach(), layer.plain().norm(dim=1))
    stirred(layer)
    whole = layer.plain() + 2.0 * layer.b @ layer.a
    torch.testing.assert_close(layer.lengths(), whole.norm(dim=1))
    definition = layer.lora_magnitude_vector[:, None] * whole / whole.norm(dim=1, keepdim=True)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, definition), rtol=1e-5, atol=1e-5)
    layer.merge()
    torch.testing.assert_close(layer(x), nn.functional.linear(x, definition), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bits", [None, "nf4"])
def test_dora_beside_a_row_of_zeros_is_finite_and_learns_it(bits):
    torch.manual_seed(0)
    base = nn.Linear(48, 40, bias=False)
    with torch.no_grad():
        base.weight[2] = 0
    layer = LoRALinear(base, "q", 4, 2.0, 0.0, Draws(), magnitude=True)
    layer.draw(1)
    if bits:
        layer.quantise(bits)
    x, wanted = torch.randn(16, 48), torch.randn(16, 40)
    assert torch.equal(layer(x), nn.functional.linear(x, layer.plain()))
    learning = torch.optim.Adam([layer.a, layer.b, layer.lora_magnitude_vector], lr=0.02)
    losses = []
    for _ in range(30):
        learning.zero_grad()
        loss = (layer(x) - wanted)[:, 2].square().sum()
        losses.append(float(loss.detach()))
        loss.backward()
        assert all(bool(part.grad.isfinite().all()) for part in (layer.a, layer.b, layer.lora_magnitude_vector))
        learning.step()
    assert losses[-1] < 0.8 * losses[0] and bool(layer.sum().isfinite().all())
    assert bool(layer.sum(torch.zeros(40, 48)).isfinite().all())
    torch.testing.assert_close(nn.functional.linear(x, layer.sum()), layer(x), rtol=1e-4, atol=1e-4)


def test_no_gradient_of_dora_goes_through_the_norm():
    layer = stirred(adapted(dtype=torch.float64, magnitude=True))
    x = torch.randn(6, 48, dtype=torch.float64)
    m, a, b = (part.detach().clone().requires_grad_() for part in (layer.lora_magnitude_vector, layer.a, layer.b))
    whole = layer.weight + 2.0 * b @ a
    (x @ (m[:, None] * whole / whole.norm(dim=1, keepdim=True).detach()).T).square().sum().backward()
    layer(x).square().sum().backward()
    for mine, theirs in ((layer.lora_magnitude_vector, m), (layer.a, a), (layer.b, b)):
        torch.testing.assert_close(mine.grad, theirs.grad)


@pytest.mark.parametrize("magnitude", [False, True])
@pytest.mark.parametrize("bits", [None, "nf4"])
def test_gradients_of_adapters_pass_gradcheck(magnitude, bits):
    layer = stirred(adapted(dtype=torch.float64, magnitude=magnitude, wide=16, rank=2))
    if bits:
        layer.quantise(bits)
    if magnitude:
        lengths = layer.lengths()
        layer.lengths = lambda: lengths  # detached: what the method defines is no derivative of the whole
    x = torch.randn(3, 16, dtype=torch.float64, requires_grad=True)
    names = [name for name, parameter in layer.named_parameters() if parameter.requires_grad]

    def call(x, *parts):
        return torch.func.functional_call(layer, dict(zip(names, parts, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *(layer.get_parameter(name) for name in names)))


def test_pissa_begins_as_the_base_and_holds_its_largest_directions():
    layer = adapted(rank=6)
    base, x = layer.weight.clone(), torch.randn(5, 48)
    layer.take_principal()
    torch.testing.assert_close(layer(x), nn.functional.linear(x, base), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(layer.sum(), base, rtol=1e-6, atol=1e-6)
    values = torch.linalg.svdvals(base)
    torch.testing.assert_close(torch.linalg.svdvals(2.0 * layer.b @ layer.a)[:6], values[:6])
    torch.testing.assert_close(torch.linalg.svdvals(layer.weight)[:34], values[6:], rtol=1e-4, atol=1e-5)
    stirred(layer).active = False
    torch.testing.assert_close(layer(x), nn.functional.linear(x, base), rtol=1e-6, atol=1e-6)
    with pytest.raises(UsageError, match="50 directions of q, which has 40"):
        adapted(rank=50).take_principal()


@pytest.mark.parametrize("bits", ["int8", "nf4"])
def test_merging_returns_to_the_codes_that_the_adapter_was_trained_on(bits):
    layer = adapted()
    layer.quantise(bits)
    stirred(layer)
    x, codes = torch.randn(5, 48), layer.frozen.stored.codes.clone()
    apart, dense = layer(x), layer.plain()
    for _ in range(20):
        layer.merge()
        torch.testing.assert_close(layer(x), apart, rtol=1e-5, atol=1e-5)
        assert torch.equal(layer.instead, dense + 2.0 * (layer.b @ layer.a))
        layer.unmerge()
        assert layer.instead is None and torch.equal(layer(x), apart)
    assert torch.equal(layer.frozen.stored.codes, codes)
