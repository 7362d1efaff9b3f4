import copy
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

from camelid.errors import UsageError
from camelid.models.adapt import (
    adapter_of,
    adapter_state,
    add_lora,
    computing_with,
    fold,
    lean,
    load_adapter_state,
    merge,
    merged,
    portable,
    set_randomness,
    unmerge,
    without_adapter,
)
from camelid.models.shape import LINEARS, LlamaShape, LoRA
from camelid.nn.frozen import FrozenLinear
from camelid.nn.lora import LoRALinear
from camelid.randomness import numpy_generator
from tests.conftest import size
from tests.models.shapes import random_ids, random_model, random_shape
from tests.models.test_llama import theirs

SHAPE = LlamaShape(layers=2, width=24, heads=4, kv_heads=2, head_width=6, hidden=20, vocab=30, context=32)


def stirred(model, case=0):
    """An adapter that has been trained, as far as anybody can tell."""
    generator = torch.Generator().manual_seed(case)
    with torch.no_grad():
        for tensor in adapter_state(model).values():
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * 0.2)
    return model


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft to transformers
@pytest.mark.parametrize("case", range(size(16)))
def test_logits_gradients_and_names_are_those_of_peft(case):
    shape = random_shape(6000 + case, kinds=(None,))
    draw = numpy_generator("peft", case)
    targets = tuple(str(name) for name in draw.permutation(LINEARS)[: 1 + case % 7])
    trained = () if case % 2 or shape.tied else ("embed_tokens", "lm_head")
    kind = ("lora", "dora")[case % 4 == 1]
    lora = LoRA(1 + case % 5, 6, targets=targets, scale=("rank", "root")[case % 3 == 0], trained=trained, kind=kind)
    model, other = random_model(shape, case, torch.float32), theirs(shape)
    state = dict(model.state_dict())
    if shape.tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    other.load_state_dict(state)
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=list(targets),
        use_rslora=lora.scale == "root",
        modules_to_save=list(trained) or None,
        use_dora=kind == "dora",
    )
    other = get_peft_model(other, settings)
    stirred(add_lora(model, lora), case)
    mine = adapter_state(model)
    assert mine.keys() == get_peft_model_state_dict(other).keys()
    set_peft_model_state_dict(other, {name: tensor.detach() for name, tensor in mine.items()})
    ids = random_ids(shape, (2, 12), "peft", case)
    logits, his = model(ids), other(ids).logits
    torch.testing.assert_close(logits, his, atol=1e-5, rtol=1e-5)
    weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(case))
    (logits * weight).mean().backward()
    (his * weight).mean().backward()
    gradients = {}
    for name, parameter in other.named_parameters():
        if parameter.requires_grad:
            gradients[name.replace(".default", "").replace(".modules_to_save", "")] = parameter.grad
    gradients = {name.replace("magnitude_vector.weight", "magnitude_vector"): g for name, g in gradients.items()}
    assert gradients.keys() == mine.keys()
    for name, parameter in mine.items():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-5, rtol=1e-5, msg=name)
    assert all(parameter.grad is None for parameter in model.parameters() if not parameter.requires_grad)


def test_switched_off_unmerged_and_untrained_adapters_leave_the_base_bit_for_bit():
    model = random_model(SHAPE, dtype=torch.float32)
    ids = random_ids(SHAPE, (2, 9), "off")
    base, weights = model(ids), copy.deepcopy(model.state_dict())
    joined_apart = {"atol": 1e-6, "rtol": 1e-6}  # an adapted layer multiplies its maps one by one
    add_lora(model, LoRA(3, 6, targets=LINEARS, trained=("embed_tokens", "lm_head")))
    untrained = model(ids)
    torch.testing.assert_close(untrained, base, **joined_apart)
    stirred(model)
    changed = model(ids)
    assert not torch.allclose(changed, base, atol=1e-2)
    with without_adapter(model):
        assert torch.equal(model(ids), untrained)
    assert torch.equal(model(ids), changed)
    merge(model)
    merged = model(ids)
    torch.testing.assert_close(merged, changed, atol=1e-4, rtol=1e-4)
    with without_adapter(model):
        assert torch.equal(model(ids), untrained)
    assert torch.equal(model(ids), merged)
    unmerge(model)
    assert torch.equal(model(ids), changed)
    now = model.state_dict()
    assert all(torch.equal(now[name], tensor) for name, tensor in weights.items())


def test_folding_gives_a_plain_model_with_the_same_logits():
    for tied in (False, True):
        shape = LlamaShape(**{**vars(SHAPE), "tied": tied})
        model = random_model(shape)
        names = list(model.state_dict())
        trained = ("embed_tokens",) if tied else ("embed_tokens", "lm_head")
        stirred(add_lora(model, LoRA(3, 6, targets=LINEARS, trained=trained)))
        ids = random_ids(shape, (2, 9), "fold")
        adapted = model(ids)
        if tied:
            merge(model)
        fold(model)
        assert list(model.state_dict()) == names and adapter_of(model) is None
        assert all(parameter.requires_grad for parameter in model.parameters())
        torch.testing.assert_close(model(ids), adapted, atol=1e-10, rtol=1e-10)


def test_dropout_follows_seed_step_and_micro_batch_and_survives_recomputation():
    model = stirred(add_lora(random_model(SHAPE, dtype=torch.float32), LoRA(3, 6, dropout=0.3, targets=LINEARS)))
    ids = random_ids(SHAPE, (2, 9), "dropout")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def gradients(*words, recompute=False):
        set_randomness(model, *words)
        return torch.autograd.grad(model(ids, recompute=recompute).square().mean(), trained)

    first = gradients(5, 7, 1)
    for same in (gradients(5, 7, 1), gradients(5, 7, 1, recompute=True)):
        assert all(torch.equal(one, other) for one, other in zip(first, same, strict=True))
    for words in ((6, 7, 1), (5, 8, 1), (5, 7, 2)):
        assert not any(torch.equal(one, other) for one, other in zip(first, gradients(*words), strict=True))


def test_adapters_travel_by_state():
    one = stirred(add_lora(random_model(SHAPE), LoRA(3, 6)))
    other = add_lora(random_model(SHAPE), LoRA(3, 6), seed=9)
    load_adapter_state(other, adapter_state(one))
    ids = random_ids(SHAPE, (1, 5), "travel")
    assert torch.equal(one(ids), other(ids))


def test_every_tensor_that_does_not_fit_is_named_and_nothing_is_copied():
    model = stirred(add_lora(random_model(SHAPE), LoRA(3, 6)))
    state = {name: tensor.clone() for name, tensor in adapter_state(model).items()}
    names = sorted(state)
    state["extra"] = state.pop(names[0])
    state[names[1]] = state[names[1]][:1]
    for name in names[2:]:
        state[name] = state[name] + 1
    before = {name: tensor.clone() for name, tensor in adapter_state(model).items()}
    with pytest.raises(UsageError) as caught:
        load_adapter_state(model, state)
    text = str(caught.value)
    for part in (f"{names[0]}: missing", f"{names[1]}: shape [1, ", "extra: not part of the adapter"):
        assert part in text
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter_state(model).items())


def test_surgery_that_makes_no_sense_is_refused():
    model = random_model(LlamaShape(**{**vars(SHAPE), "tied": True}))
    for step in (merge, merged, unmerge, fold, adapter_state, portable):
        with pytest.raises(UsageError, match="the model has none"):
            step(model)
    with pytest.raises(UsageError, match="name embed_tokens instead"):
        add_lora(model, LoRA(2, 4, trained=("lm_head",)))
    add_lora(model, LoRA(2, 4))
    with pytest.raises(UsageError, match="has one already"):
        add_lora(model, LoRA(2, 4))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_pissa_begins_where_peft_begins():
    shape = replace(SHAPE, width=32, hidden=40, heads=4, head_width=8)
    model, other = random_model(shape, 3, torch.float32), theirs(shape)
    other.load_state_dict(model.state_dict())
    settings = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"], init_lora_weights="pissa")
    other = get_peft_model(other, settings)
    add_lora(model, LoRA(4, 8, targets=("q_proj", "up_proj"), start="pissa"))
    mine, his = adapter_state(model), get_peft_model_state_dict(other)
    for name in (name for name in mine if "lora_A" in name):
        up = name.replace("lora_A", "lora_B")  # signs of singular vectors are free, their products are not
        torch.testing.assert_close(mine[up] @ mine[name], his[up] @ his[name], atol=1e-5, rtol=1e-4)
    frozen = other.base_model.model.model.layers[0].self_attn.q_proj.base_layer.weight
    torch.testing.assert_close(model.model.layers[0].self_attn.q_proj.weight, frozen, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [None, "nf4"])
def test_without_its_adapter_pissa_is_the_base_as_far_as_what_was_left_of_it_was_kept(bits, dtype):
    lora = LoRA(3, 6, targets=("q_proj",), start="pissa")
    base = random_model(WIDE, 4, dtype)
    exact = {name: tensor.float().clone() for name, tensor in base.state_dict().items()}
    model = stirred(
        add_lora(base, lora) if bits is None else lean(WIDE, base.state_dict(), lora, bits=bits, dtype=dtype)
    )
    part, x = model.model.layers[0].self_attn.q_proj, torch.randn(5, WIDE.width)
    whole, (a, b) = exact["model.layers.0.self_attn.q_proj.weight"], part.origin
    left = part.plain().float() - (whole - part.factor * b @ a)  # what keeping it moved
    with without_adapter(model):
        found = part(x.to(dtype)).float()
    bound = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(found, x @ (whole + left).T, atol=bound, rtol=bound)
    furthest = float((x @ left.T).abs().max())
    assert furthest < 1e-5 if (bits, dtype) == (None, torch.float32) else furthest > 1e-4


WIDE = replace(SHAPE, width=32, hidden=64, heads=4, head_width=8)


@pytest.mark.parametrize("kind", [{}, {"kind": "dora"}, {"start": "pissa"}, {"trained": ("embed_tokens", "lm_head")}])
@pytest.mark.parametrize("bits", ["int8", "nf4"])
def test_a_model_laid_down_in_few_bits_is_the_model_of_the_decoded_weights(kind, bits):
    lora = LoRA(3, 6, targets=("q_proj", "v_proj", "down_proj"), **kind)
    state = {name: tensor.clone() for name, tensor in random_model(WIDE, 4, torch.float32).state_dict().items()}
    kept = {name: tensor.clone() for name, tensor in state.items()}
    model = lean(WIDE, state, lora, bits=bits, seed=7, dtype=torch.float32)
    assert all(torch.equal(state[name], tensor) for name, tensor in kept.items())
    dense = {name.replace(".frozen", "") + ".weight": part.dense() for name, part in model.named_modules()
             if isinstance(part, FrozenLinear)}  # fmt: skip
    assert len(dense) == 7 * WIDE.layers
    plain = random_model(WIDE, 4, torch.float32)
    plain.load_state_dict(kept | dense)
    add_lora(plain, replace(lora, start="zero"), seed=7)
    load_adapter_state(plain, adapter_state(model))
    for stage in range(2):
        ids = random_ids(WIDE, (2, 9), "lean", stage)
        one, other = model(ids), plain(ids)
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)
        one.square().mean().backward()
        other.square().mean().backward()
        for (name, mine), his in zip(adapter_state(model).items(), adapter_state(plain).values(), strict=True):
            torch.testing.assert_close(mine.grad, his.grad, atol=1e-6, rtol=1e-5, msg=name)
            mine.grad = his.grad = None
        stirred(model)
        load_adapter_state(plain, adapter_state(model))
    learns = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learns == {name for name, parameter in plain.named_parameters() if parameter.requires_grad}
    torch.testing.assert_close(fold(model)(ids), fold(plain)(ids), atol=1e-5, rtol=1e-5)
    assert {name for name, _ in model.named_parameters()} == set(kept)


@pytest.mark.parametrize("kind", [{}, {"kind": "dora"}, {"start": "pissa"}, {"trained": ("embed_tokens", "lm_head")}])
def test_weights_merged_one_by_one_are_those_of_folding_and_another_base_is_tried_without_being_held(kind):
    lora = LoRA(3, 6, targets=("q_proj", "v_proj", "down_proj"), **kind)
    parent = random_model(WIDE, 4, torch.float32)
    model = stirred(lean(WIDE, parent.state_dict(), lora, bits="nf4", dtype=torch.float32))
    ids = random_ids(WIDE, (2, 9), "merged")
    worn, made = model(ids), {name: make() for name, make in merged(model).items()}
    with computing_with(model, lambda name, part: made[f"{name}.weight"]):
        together = model(ids)
    torch.testing.assert_close(together, worn, atol=1e-5, rtol=1e-5)
    assert torch.equal(model(ids), worn)

    def over_the_parent(name, part):
        weight = parent.get_parameter(f"{name}.weight").detach()
        return part.sum(weight) if isinstance(part, LoRALinear) else weight

    with computing_with(model, over_the_parent):
        elsewhere = model(ids)
    plain, state = portable(model)
    other = add_lora(copy.deepcopy(parent), plain)
    load_adapter_state(other, state)
    torch.testing.assert_close(elsewhere, other(ids), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(elsewhere, worn, atol=1e-3)
    fold(model)
    assert model.state_dict().keys() == made.keys()
    assert all(torch.equal(tensor, made[name]) for name, tensor in model.state_dict().items())


def test_bits_that_cannot_be_are_refused_with_every_matrix_named():
    with pytest.raises(UsageError) as caught:
        lean(SHAPE, {}, LoRA(2, 4), bits="nf4", dtype=torch.float32)
    assert "k_proj's 12 x 24 weights are no whole number of blocks of 64; use int8" in str(caught.value)
    assert len(caught.value.problems) == 5
    with pytest.raises(UsageError, match=r"adapter.start: 'pissa' moves what 'dora' measures"):
        LoRA(2, 4, kind="dora", start="pissa")
    with pytest.raises(UsageError, match=r"adapter.kind: 'dorra' is unknown; did you mean 'dora'"):
        LoRA(2, 4, kind="dorra")
