import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

from camelid.errors import UsageError
from camelid.models.adapt import (
    adapter_of,
    adapter_state,
    add_lora,
    fold,
    load_adapter_state,
    merge,
    set_randomness,
    unmerge,
    without_adapter,
)
from camelid.models.shape import LINEARS, LlamaShape, LoRA
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
    lora = LoRA(1 + case % 5, 6, targets=targets, scale=("rank", "root")[case % 3 == 0], trained=trained)
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
    for step in (merge, unmerge, fold, adapter_state):
        with pytest.raises(UsageError, match="the model has none"):
            step(model)
    with pytest.raises(UsageError, match="name embed_tokens instead"):
        add_lora(model, LoRA(2, 4, trained=("lm_head",)))
    add_lora(model, LoRA(2, 4))
    with pytest.raises(UsageError, match="has one already"):
        add_lora(model, LoRA(2, 4))
