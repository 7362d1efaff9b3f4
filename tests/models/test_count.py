import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from camelid.models.adapt import add_lora, set_randomness
from camelid.models.count import (
    activation_bytes,
    cache_bytes,
    forward_flops,
    matmul_parameters,
    parameters,
    trainable,
    training_flops,
    training_memory,
)
from camelid.models.llama import Cache, Llama
from camelid.models.shape import LINEARS, SIZES, LlamaShape, LoRA
from tests.models.shapes import random_ids, random_model, random_shape

SHAPE = LlamaShape(layers=3, width=64, heads=4, kv_heads=2, head_width=16, hidden=96, vocab=160, context=64)
ADAPTERS = [
    None,
    LoRA(4, 8),
    LoRA(8, 16, dropout=0.1, targets=LINEARS),
    LoRA(2, 4, targets=("down_proj",), trained=("embed_tokens", "lm_head")),
]


@pytest.mark.parametrize("case", range(20))
def test_parameters_are_those_of_the_model(case):
    shape = random_shape(case)
    model = Llama(shape)
    assert shape.parameters() == parameters(shape) == sum(weights.numel() for weights in model.parameters())
    trained = ("embed_tokens",) if shape.tied else ("lm_head",)
    lora = LoRA(1 + case % 3, 4, targets=LINEARS[: 1 + case % 7], trained=trained if case % 2 else ())
    add_lora(model, lora)
    learning = sum(weights.numel() for weights in model.parameters() if weights.requires_grad)
    assert trainable(shape, lora) == learning
    assert parameters(shape, lora) == sum(weights.numel() for weights in model.parameters())


@pytest.mark.parametrize("lora", ADAPTERS)
@pytest.mark.parametrize("recompute", [False, True])
def test_flops_are_those_that_run(lora, recompute):
    """PyTorch's own counter over the plain form of attention: every token is seen T times there."""
    model = random_model(SHAPE, dtype=torch.float32)
    if lora is not None:
        add_lora(model, lora)
        set_randomness(model, 0, 0, 0)
    ids = random_ids(SHAPE, (2, 24), "flops")
    tokens, seen = ids.numel(), ids.shape[1]
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss = model(ids, recompute=recompute).square().sum()
        forward = counter.get_total_flops()
        loss.backward()
    assert forward == forward_flops(SHAPE, seen=seen, lora=lora) * tokens
    expected = training_flops(SHAPE, seen=seen, lora=lora, recompute=recompute) * tokens
    if lora is None and not recompute:
        assert counter.get_total_flops() == expected
    else:  # frozen, the first layer's input needs no gradient; recomputing stops before a layer's last product
        assert 0.85 * expected < counter.get_total_flops() <= expected


def test_a_llama_costs_six_operations_per_weight_and_token():
    shape = SIZES["llama-7B"]
    assert (
        training_flops(shape, seen=0)
        == 6 * matmul_parameters(shape)
        == 6 * (shape.parameters() - 131_072_000 - 266_240)
    )
    lora = LoRA(8, 16)
    assert training_flops(shape, seen=0, lora=lora) / training_flops(shape, seen=0) == pytest.approx(2 / 3, abs=0.002)


def test_weights_gradients_and_optimizer_are_counted_in_bytes():
    shape = SIZES["llama-7B"]
    full = training_memory(shape, tokens=512, dtype="bfloat16", master=True)
    n = shape.parameters()
    assert (full.weights, full.gradients, full.optimizer) == (2 * n, 2 * n, 12 * n)
    assert full.total == full.weights + full.gradients + full.optimizer + full.activations
    lora = LoRA(8, 16)
    small = training_memory(shape, tokens=512, dtype="bfloat16", lora=lora)
    r = trainable(shape, lora)
    assert r == 4_194_304  # alpaca-lora's own count for q and v at rank 8
    assert (small.weights, small.gradients, small.optimizer) == (2 * n + 4 * r, 4 * r, 8 * r)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cache_bytes_are_those_of_the_cache(dtype):
    cache = Cache(SHAPE, 3, 40, getattr(torch, dtype))
    assert cache.bytes == cache_bytes(SHAPE, batch=3, length=40, dtype=dtype)


@pytest.mark.parametrize("lora", ADAPTERS)
@pytest.mark.parametrize("recompute", [False, True])
def test_activations_are_near_what_autograd_keeps(lora, recompute):
    shape = LlamaShape(layers=4, width=64, heads=4, kv_heads=2, head_width=16, hidden=160, vocab=50, context=64)
    model = random_model(shape, dtype=torch.float32)
    if lora is not None:
        add_lora(model, lora)
        set_randomness(model, 0, 0, 0)
    own = {weights.untyped_storage().data_ptr() for weights in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage, storage.nbytes())
        return tensor

    ids = random_ids(shape, (8, 64), "memory")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model.hidden(ids, recompute=recompute)
    found = sum(size for _, size in kept.values())
    expected = activation_bytes(shape, tokens=ids.numel(), lora=lora, recompute=recompute, chunk=1)
    if recompute:  # what one layer keeps exists only while its backward pass runs
        expected -= activation_bytes(shape, tokens=ids.numel(), lora=lora, chunk=1) // shape.layers
    assert hidden.shape == (8, 64, 64)
    assert 0.6 * expected < found < 1.25 * expected, (found, expected)
