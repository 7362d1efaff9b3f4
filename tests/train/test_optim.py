"""The optimizer against AdamW written out, and its two phases."""

import math
from itertools import pairwise

import pytest
import torch

from camelid.errors import BadFile, UsageError
from camelid.train.optim import Optimizer
from camelid.train.settings import AdamW
from tests.train import tiny

SETTINGS = AdamW(lr=1e-2, betas=(0.8, 0.95), eps=1e-6, decay=0.3)


def parameters(dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    shapes = {"matrix": (4, 3), "embedding": (7, 3), "norm": (3,)}
    drawn = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    return {name: torch.nn.Parameter(tensor.to(dtype)) for name, tensor in drawn.items()}


def step(optimizer, gradients, rate=1e-2):
    for name, gradient in gradients.items():
        # a copy: clipping writes into the gradient it is given
        optimizer.parameters[name].grad = gradient.to(optimizer.parameters[name].dtype, copy=True)
    optimizer.collect()
    optimizer.apply(rate, float(optimizer.norm()))


@pytest.mark.parametrize("clip", [None, 1.0, 1e9])
def test_updates_are_adamw_as_published_with_decay_on_matrices_only_and_the_whole_gradient_clipped(clip):
    generator = torch.Generator().manual_seed(0)
    ours = parameters()
    optimizer = Optimizer(ours, SETTINGS, clip=clip)
    plain = {name: weight.detach().clone() for name, weight in ours.items()}
    mean = {name: torch.zeros_like(weight) for name, weight in plain.items()}
    square = {name: torch.zeros_like(weight) for name, weight in plain.items()}
    for turn in range(1, 8):
        given = {name: torch.randn(w.shape, generator=generator, dtype=torch.float64) for name, w in plain.items()}
        norm = math.sqrt(sum(float((g * g).sum()) for g in given.values()))
        step(optimizer, {name: g.clone() for name, g in given.items()}, rate=1e-2 / turn)
        for name, weight in plain.items():
            factor = min(1.0, clip / norm) if clip else 1.0
            gradient = given[name] * factor
            mean[name] = 0.8 * mean[name] + 0.2 * gradient
            square[name] = 0.95 * square[name] + 0.05 * gradient**2
            weight *= 1 - 1e-2 / turn * (0.3 if weight.ndim == 2 else 0.0)
            root = (square[name] / (1 - 0.95**turn)).sqrt() + 1e-6
            weight -= 1e-2 / turn * (mean[name] / (1 - 0.8**turn)) / root
    tolerance = 1e-12 if clip != 1.0 else 1e-7  # the fused kernel takes the clipping factor in float32
    for name, weight in ours.items():
        torch.testing.assert_close(weight.detach(), plain[name], rtol=tolerance, atol=tolerance)


def test_beside_a_bfloat16_model_the_exact_weights_learn_as_in_float32_and_the_model_gets_their_rounding():
    ours, exact = parameters(torch.float32), parameters(torch.float32)
    half, full = Optimizer(ours, SETTINGS, dtype=torch.bfloat16), Optimizer(exact, SETTINGS)
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        given = {name: torch.randn(w.shape, generator=generator).bfloat16() for name, w in exact.items()}
        step(half, given, rate=1e-4)
        step(full, given, rate=1e-4)
    for name, weight in ours.items():
        assert weight.dtype == torch.bfloat16 and half.masters[name].dtype == torch.float32
        assert torch.equal(half.masters[name], exact[name])
        assert torch.equal(weight, exact[name].bfloat16())


def test_gradients_of_bfloat16_micro_batches_are_summed_in_float32():
    weight = torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.bfloat16))
    optimizer = Optimizer({"w": weight}, SETTINGS)
    for value in (256.0, 1.0, 1.0, 1.0):  # in bfloat16 256 + 1 is 256
        weight.grad = torch.full((2, 2), value, dtype=torch.bfloat16)
        optimizer.collect()
    assert float(optimizer.norm()) == pytest.approx(2 * 259.0)


def test_measuring_and_refusing_change_no_bit_of_the_state():
    made = tiny.model()
    optimizer = tiny.optimizer(made)
    step(optimizer, {name: torch.ones_like(w) for name, w in optimizer.parameters.items()})
    before, weights = optimizer.digest(), {name: w.detach().clone() for name, w in made.named_parameters()}
    made.model.norm.weight.grad = torch.full_like(made.model.norm.weight, float("nan"))
    optimizer.collect()
    assert math.isnan(float(optimizer.norm()))
    optimizer.refuse()
    assert optimizer.digest() == before
    assert all(torch.equal(weight, weights[name]) for name, weight in made.named_parameters())
    assert all(weight.grad is None for weight in made.parameters())
    assert float(optimizer.norm()) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loaded_state_goes_on_bit_for_bit(dtype):
    first, second = (Optimizer(parameters(torch.float32), SETTINGS, dtype=dtype) for _ in range(2))
    given = [{name: torch.randn(w.shape) for name, w in first.parameters.items()} for _ in range(4)]
    for gradients in given[:2]:
        step(first, gradients)
    saved = {name: tensor.clone() for name, tensor in first.state().items()}
    for gradients in given[2:]:
        step(first, gradients)
    second.load(saved, 2)
    for gradients in given[2:]:
        step(second, gradients)
    assert second.digest() == first.digest()
    for name, weight in first.parameters.items():
        assert torch.equal(weight, second.parameters[name])


def test_a_state_of_another_shape_is_refused_by_name_before_anything_changes():
    optimizer = Optimizer(parameters(), SETTINGS)
    before, state = optimizer.digest(), {name: tensor + 1 for name, tensor in optimizer.state().items()}
    for change in ({"mean.norm": torch.zeros(4)}, {"mean.other": torch.zeros(1)}):
        with pytest.raises(BadFile, match="mean"):
            optimizer.load(state | change, 1)
    missing = {name: tensor for name, tensor in state.items() if name != "square.matrix"}
    with pytest.raises(BadFile, match=r"square\.matrix.*nothing"):
        optimizer.load(missing, 1)
    assert optimizer.digest() == before


def test_frozen_weights_are_left_out_and_a_model_without_any_other_is_refused():
    weights = parameters()
    weights["matrix"].requires_grad_(False)
    optimizer = Optimizer(weights, SETTINGS)
    assert set(optimizer.parameters) == {"embedding", "norm"}
    for weight in weights.values():
        weight.requires_grad_(False)
    with pytest.raises(UsageError, match="trained weights"):
        Optimizer(weights, SETTINGS)


@pytest.mark.parametrize("clip", [None, 0.5])
def test_a_piece_of_a_weight_is_updated_to_the_bits_that_it_has_in_the_whole(clip):
    """Wherever a weight is cut among ranks, float32: PyTorch's kernel alone rounds what does not fill a vector otherwise."""
    generator = torch.Generator().manual_seed(0)
    for count in (5, 16, 24, 37, 100):
        weight, gradient = torch.randn(2, count, generator=generator)
        borders = [0, count // 3, count // 3 + 1, count]
        pieces = {str(start): slice(start, end) for start, end in pairwise(borders)}
        whole = Optimizer({"w": torch.nn.Parameter(weight.clone())}, SETTINGS, clip=clip)
        cut = Optimizer(
            {n: torch.nn.Parameter(weight[part].clone()) for n, part in pieces.items()}, SETTINGS, clip=clip
        )
        for turn in range(3):
            norm = float((gradient * (turn + 1)).norm())
            for optimizer, given in ((whole, {"w": slice(None)}), (cut, pieces)):
                optimizer.receive({name: gradient[part] * (turn + 1) for name, part in given.items()})
                optimizer.apply(1e-2, norm)
        for kind in ("weight", "mean", "square"):
            joined = torch.cat([cut.state()[f"{kind}.{name}"] for name in pieces])
            assert torch.equal(joined, whole.state()[f"{kind}.w"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_any_flipped_bit_of_the_state_changes_the_checksum(dtype):
    weight = torch.nn.Parameter(torch.randn(4, 4, dtype=dtype))
    optimizer = Optimizer({"w": weight}, AdamW(lr=1e-3))
    whole, bits = optimizer.checksum(), torch.uint8
    for tensor in optimizer.state().values():
        flat = tensor.view(-1).view(bits)
        for byte in (0, 1, tensor.element_size() - 1, len(flat) - 1):
            for bit in range(8):
                flat[byte] ^= 1 << bit
                assert optimizer.checksum() != whole, (byte, bit)
                flat[byte] ^= 1 << bit
    assert optimizer.checksum() == whole < 2**53
