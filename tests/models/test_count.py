import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from camelid.models import llama
from camelid.models.adapt import add_lora, set_randomness
from camelid.models.count import (
    JOINED,
    activation_bytes,
    cache_bytes,
    forward_flops,
    matmul_parameters,
    parameters,
    trainable,
    training_flops,
    weight_bytes,
)
from camelid.models.llama import Cache, Llama
from camelid.models.shape import LINEARS, SIZES, LlamaShape, LoRA
from camelid.native.passes import NativePasses
from camelid.nn.again import again
from camelid.nn.passes import passing_through
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


def test_weights_are_counted_in_bits():
    shape = SIZES["llama-7B"]
    n, linear = shape.parameters(), shape.parameters() - 2 * 131_072_000 - 266_240
    assert weight_bytes(shape) == 4 * n and weight_bytes(shape, "bfloat16") == 2 * n
    assert weight_bytes(shape, "int8") == linear + 2 * (n - linear)
    assert weight_bytes(shape, "nf4", other="float32") == linear * 9 // 16 + 4 * (n - linear)
    assert 4.126 < 8 * (weight_bytes(shape, "nf4-double") - 2 * (n - linear)) / linear < 4.128
    assert trainable(shape, LoRA(8, 16)) == 4_194_304  # alpaca-lora's own count for q and v at rank 8


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cache_bytes_are_those_of_the_cache(dtype):
    cache = Cache(SHAPE, 3, 40, getattr(torch, dtype))
    assert cache.bytes == cache_bytes(SHAPE, batch=3, length=40, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [64, 768])  # maps multiplied side by side, and each alone
@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize("lora", ADAPTERS)
def test_what_a_layer_keeps_is_what_autograd_keeps(lora, kv_heads, width, dtype):
    """The difference between three layers and two, so that what the ends keep falls out: equal to the byte."""
    kept, said = [], []
    for layers in (2, 3):
        hidden = width * 5 // 2
        shape = LlamaShape(layers, width, 4, kv_heads, width // 4, hidden, vocab=50, context=64)
        kept.append(kept_by_autograd(shape, lora, dtype, recompute=False))
        name = str(dtype).removeprefix("torch.")
        said.append(activation_bytes(shape, tokens=128, lora=lora, dtype=name))
    assert kept[1] - kept[0] == said[1] - said[0]


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_what_a_layer_that_is_one_operation_keeps_is_what_autograd_keeps(kv_heads):
    if (passes := NativePasses.here()) is None:
        pytest.skip("no kernels of our own here")
    kept, said = [], []
    for layers in (2, 3):
        shape = LlamaShape(layers, 64, 4, kv_heads, 16, 160, vocab=50, context=64)
        with passing_through(passes):
            kept.append(kept_by_autograd(shape, None, torch.float32, recompute=False))
        said.append(activation_bytes(shape, tokens=128, whole=True))
    assert kept[1] - kept[0] == said[1] - said[0] < activation_bytes(shape, tokens=128) // 3


@pytest.mark.parametrize("lora", ADAPTERS)
@pytest.mark.parametrize("recompute", [False, True])
def test_activations_are_near_what_autograd_keeps(lora, recompute):
    shape = LlamaShape(layers=8, width=64, heads=4, kv_heads=2, head_width=16, hidden=160, vocab=50, context=64)
    found = kept_by_autograd(shape, lora, torch.float32, recompute)
    expected = activation_bytes(shape, tokens=128, lora=lora, recompute=recompute)
    expected -= 3 * 128 * shape.width * 4  # the loss's own: states, those learned, and their gradient
    if recompute:  # what one layer keeps exists only while its backward pass runs
        expected -= activation_bytes(shape, tokens=128, lora=lora) // shape.layers
    assert found == pytest.approx(expected, rel=0.1 if recompute else 0.03)


def kept_by_autograd(shape, lora, dtype, recompute):
    """Bytes that the graph of a forward pass over [2, 64] holds, each storage once, weights left out."""
    model = random_model(shape, dtype=dtype)
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

    def given(function, *parts):
        for part in parts:
            if isinstance(part, torch.Tensor):
                keep(part)
        return again(function, *parts)

    ids = random_ids(shape, (2, 64), "memory")
    with pytest.MonkeyPatch.context() as patch, saved_tensors_hooks(keep, lambda tensor: tensor):
        patch.setattr(llama, "again", given)  # keeps what it is given, and out of autograd's sight
        hidden = model.hidden(ids, recompute=recompute)
    assert hidden.shape == (2, 64, shape.width)
    return sum(size for _, size in kept.values())


def test_maps_are_joined_up_to_the_size_that_the_layers_join():
    from camelid.nn.linear import SMALL

    assert JOINED == SMALL
