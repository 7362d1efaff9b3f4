"""The decoder against transformers, against NumPy, and against itself along every other path."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from camelid.errors import CamelidError, UsageError
from camelid.models.llama import Cache, Llama, initialise
from camelid.models.shape import LlamaShape, RopeScaling
from camelid.nn.scaling import ntk_theta
from camelid.randomness import numpy_generator
from tests.conftest import size
from tests.models.shapes import random_ids, random_model, random_shape
from tests.reference import llama_numpy

PARITY = size(210)  # random shapes that must agree with transformers
REFERENCE = size(120)  # random shapes that must agree with the NumPy reference
PACKS = size(60)  # random packs of documents
SCHEDULES = size(60)  # random ways of filling and rolling back a cache


def theirs(shape):
    """transformers' Llama of the same shape."""
    rope = {"rope_type": "default", "rope_theta": shape.theta}
    scaling = shape.scaling
    if scaling is not None and scaling.kind == "ntk":  # transformers has it only as another base
        rope["rope_theta"] = ntk_theta(shape.theta, shape.head_width, scaling.factor)
    elif scaling is not None:
        rope |= {"rope_type": scaling.kind, "factor": scaling.factor}
        if scaling.kind in ("yarn", "llama3"):
            rope["original_max_position_embeddings"] = scaling.original
        if scaling.kind == "yarn":
            rope |= {"beta_fast": scaling.fast, "beta_slow": scaling.slow}
            rope |= {} if scaling.attention is None else {"attention_factor": scaling.attention}
        if scaling.kind == "llama3":
            rope |= {"low_freq_factor": scaling.low, "high_freq_factor": scaling.high}
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocab,
            hidden_size=shape.width,
            intermediate_size=shape.hidden,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            head_dim=shape.head_width,
            max_position_embeddings=shape.context,
            rms_norm_eps=shape.eps,
            tie_word_embeddings=shape.tied,
            rope_parameters=rope,
            attn_implementation="eager",
        )
    )


@pytest.fixture
def either_way(case, monkeypatch):
    """Maps of one input multiply as one in every second case, one by one in the others, however few rows there are."""
    monkeypatch.setattr("camelid.nn.linear.MANY", 1 if case // 6 % 2 else 10_000)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("case", range(PARITY))
def test_logits_and_gradients_are_those_of_transformers(case):
    """Within 1e-5; in the few shapes, about one in ninety, where float32 itself is farther than that from float64 (which
    the NumPy reference holds to 1e-10), within a few times the distance of whichever of the two is nearer to it."""
    shape = random_shape(case)
    model, other = random_model(shape, case, torch.float32), theirs(shape)
    state = dict(model.state_dict())
    if shape.tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    assert other.load_state_dict(state, strict=True)
    ids = random_ids(shape, (2, 5 + case % 40), case)
    weights = torch.from_numpy(numpy_generator("loss", case).standard_normal((*ids.shape, shape.vocab))).float()
    mine, his = told(model, ids, weights), told(other, ids, weights)
    exact = None
    for name, ours in mine.items():
        room = 1e-5
        if not torch.allclose(ours, his[name], atol=room, rtol=1e-5):
            exact = exact or told(model.double(), ids, weights.double())
            room += 4 * min(
                float((each - exact[name]).abs().max()) for each in (ours, his[name])
            )  # a fault has one side
        torch.testing.assert_close(ours, his[name], atol=room, rtol=1e-5, msg=f"{name} within {room:.1e}")


def told(model, ids, weights):
    """Logits, and the gradient of every parameter, by name."""
    model.zero_grad()
    found = model(ids)
    logits = found if isinstance(found, torch.Tensor) else found.logits
    (logits * weights).mean().backward()
    return {"logits": logits.detach()} | {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("case", range(REFERENCE))
def test_logits_are_those_of_the_numpy_reference(case):
    shape = random_shape(1000 + case)
    model = random_model(shape, case)
    ids = random_ids(shape, 1 + case % 45, "reference", case)
    draw = numpy_generator("far", case)
    positions = None
    if case % 3 == 0:  # sparse positions up to the longest published context and beyond
        positions = np.sort(draw.choice(200_000, len(ids), replace=False))
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    expected = llama_numpy.logits(shape, weights, ids.numpy(), positions)
    given = None if positions is None else torch.from_numpy(positions)[None]
    with torch.no_grad():
        for segments in (None, torch.zeros(1, len(ids), dtype=torch.int32)):
            found = model(ids[None], positions=given, segments=segments)[0].numpy()
            np.testing.assert_allclose(found, expected, atol=1e-10, rtol=1e-10)


def packed(case):
    """Documents laid end to end in rows with padding between and behind them, and the same documents apart."""
    draw = numpy_generator("pack", case)
    rows, tokens = int(draw.integers(1, 4)), int(draw.integers(20, 80))
    segments = np.full((rows, tokens), -1)
    documents = []
    for row in range(rows):
        at, name = 0, int(draw.integers(0, 1000))
        while at < tokens:
            length = int(draw.integers(1, 20))
            if draw.random() < 0.85:
                segments[row, at : at + length] = name
                documents.append((row, at, min(length, tokens - at)))
                name += 1
            at += length
    return torch.from_numpy(segments), documents


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("case", range(PACKS))
def test_packed_documents_are_the_same_as_separate_ones(case):
    shape = random_shape(2000 + case)
    model = random_model(shape, case)
    segments, documents = packed(case)
    ids = random_ids(shape, tuple(segments.shape), "pack", case)
    together = model(ids, segments=segments)
    weight = torch.randn_like(together)
    names = [name for name, _ in model.named_parameters()]
    parameters = list(model.parameters())
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for row, start, length in documents:
        place = (slice(row, row + 1), slice(start, start + length))
        apart = model(ids[place])
        torch.testing.assert_close(together[place], apart, atol=1e-12, rtol=1e-12)
        for sum_, part in zip(total, torch.autograd.grad((apart * weight[place]).sum(), parameters), strict=True):
            sum_ += part
    assert (model.hidden(ids, segments=segments)[segments < 0] == 0).all()
    found = torch.autograd.grad((together * weight * (segments >= 0)[..., None]).sum(), parameters)
    for name, one, other in zip(names, found, total, strict=True):
        torch.testing.assert_close(one, other, atol=1e-11, rtol=1e-11, msg=name)


@pytest.mark.parametrize("case", range(size(12)))
def test_positions_may_be_given_to_packed_documents(case):
    shape = random_shape(2500 + case)
    model = random_model(shape, case)
    segments, documents = packed(case)
    ids = random_ids(shape, tuple(segments.shape), "given", case)
    draw = numpy_generator("given", case)
    positions = torch.from_numpy(np.sort(draw.integers(0, 5000, ids.shape), axis=1))
    with torch.no_grad():
        together = model(ids, segments=segments, positions=positions)
        for row, start, length in documents:
            place = (slice(row, row + 1), slice(start, start + length))
            apart = model(ids[place], positions=positions[place])
            torch.testing.assert_close(together[place], apart, atol=1e-12, rtol=1e-12)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", range(size(20)))
def test_a_change_in_one_document_changes_exactly_nothing_elsewhere(case, dtype):
    shape = random_shape(3000 + case)
    model = random_model(shape, case, dtype)
    segments, documents = packed(case)
    ids = random_ids(shape, tuple(segments.shape), "change", case)
    row, start, length = documents[case % len(documents)]
    changed = ids.clone()
    changed[row, start : start + length] = (changed[row, start : start + length] + 1) % shape.vocab
    elsewhere = segments >= 0
    elsewhere[row, start : start + length] = False
    weight = torch.randn(*ids.shape, shape.vocab, dtype=dtype)
    outcomes = []
    for version in (ids, changed):
        logits = model(version, segments=segments)
        # Of all that reaches the weights, only the changed document's own share may differ: leave it out of the loss.
        gradients = torch.autograd.grad((logits * weight * elsewhere[..., None]).sum(), list(model.parameters()))
        outcomes.append((logits[elsewhere], gradients))
    assert torch.equal(outcomes[0][0], outcomes[1][0])
    for one, other in zip(outcomes[0][1], outcomes[1][1], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("case", range(SCHEDULES))
def test_a_cache_filled_in_any_order_gives_the_same_logits(case):
    shape = random_shape(4000 + case)
    model = random_model(shape, case)
    draw = numpy_generator("schedule", case)
    batch, length = int(draw.integers(1, 5)), int(draw.integers(4, 40))
    ids = random_ids(shape, (batch, length), "schedule", case)
    cache = Cache(shape, batch, length, torch.float64)
    with torch.inference_mode():
        whole = model(ids)  # dynamic scaling: a cache for `length` tokens turns as a text of `length` tokens does
        while min(cache.lengths) < length:
            held = np.array(cache.lengths)
            if draw.random() < 0.2:
                cache.rollback([int(draw.integers(0, old + 1)) for old in held])
                continue
            tokens = int(draw.choice([1, 1, 2, int(draw.integers(1, 12))]))
            room = np.minimum(length - held, tokens)
            counts = room if draw.random() < 0.5 else [int(draw.integers(0, most + 1)) for most in room]
            counts = [int(count) for count in counts]
            new = random_ids(shape, (batch, tokens), "padding", case)
            for row, count in enumerate(counts):
                new[row, :count] = ids[row, held[row] : held[row] + count]
            logits = model(new, cache=cache, counts=counts)
            for row, count in enumerate(counts):
                expected = whole[row, held[row] : held[row] + count]
                torch.testing.assert_close(logits[row, :count], expected, atol=1e-12, rtol=1e-12)
            if draw.random() < 0.2:
                order = [int(row) for row in draw.permutation(batch)]
                cache.keep(order)
                ids, whole = ids[order], whole[order]


def test_a_cache_row_may_be_kept_twice_and_then_go_its_own_way():
    shape = random_shape(1)
    model = random_model(shape)
    ids = random_ids(shape, (1, 9), "fork")
    cache = Cache(shape, 1, 6, torch.float64)
    with torch.inference_mode():
        model(ids[:, :5], cache=cache)
        cache.keep([0, 0])
        cache.grow(9)
        other = (ids[:, 5:6] + 1) % shape.vocab
        model(torch.cat([ids[:, 5:6], other]), cache=cache)
        logits = model(ids[:, 6:].expand(2, -1), cache=cache)
        for row, sixth in enumerate((ids[:, 5:6], other)):
            alone = model(torch.cat([ids[:, :5], sixth, ids[:, 6:]], dim=1))
            torch.testing.assert_close(logits[row], alone[0, 6:], atol=1e-12, rtol=1e-12)


def test_a_cache_refuses_what_it_cannot_hold_and_gradients():
    shape = random_shape(2)
    model = random_model(shape)
    cache = Cache(shape, 2, 4, torch.float64)
    ids = random_ids(shape, (2, 5), "refuse")
    with torch.inference_mode():
        with pytest.raises(CamelidError, match="row 0 would hold 5 tokens, made for 4"):
            model(ids, cache=cache)
        with pytest.raises(UsageError, match="a cache knows the positions"):
            model(ids, cache=cache, positions=torch.zeros_like(ids))
        with pytest.raises(UsageError, match="2 sequences for 1 rows"):
            model(ids[:1], cache=cache)
        with pytest.raises(UsageError, match="between 0 and T"):
            model(ids, cache=cache, counts=[6, 0])
        with pytest.raises(CamelidError, match="holds 0 tokens and cannot be rolled back to 1"):
            cache.rollback(1)
    with pytest.raises(CamelidError, match=r"torch\.inference_mode"):
        model(ids[:, :2], cache=cache)
    assert cache.lengths == (0, 0)


def test_recomputed_activations_give_the_same_bits():
    shape = random_shape(3)
    model = random_model(shape, dtype=torch.float32)
    segments, _ = packed(3)
    ids = random_ids(shape, tuple(segments.shape), "recompute")
    gradients = []
    for recompute in (False, True):
        loss = model(ids, segments=segments, recompute=recompute).square().mean()
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@pytest.mark.parametrize("kind", [None, "yarn"])  # of all kinds only yarn scales what it turns
def test_a_whole_model_passes_gradcheck(kind, monkeypatch):
    monkeypatch.setattr("camelid.nn.linear.MANY", 1)  # the gradients written by hand too
    scaling = None if kind is None else RopeScaling(kind, 2.0, original=8)
    shape = LlamaShape(
        layers=2, width=6, heads=2, kv_heads=1, head_width=4, hidden=5, vocab=7, context=4, tied=True, scaling=scaling
    )
    model = random_model(shape)
    names = [name for name, _ in model.named_parameters()]
    ids, segments = random_ids(shape, (1, 9), "gradcheck"), torch.tensor([[3, 3, 3, 1, 1, -1, 5, 5, 5]])

    def logits(*weights):
        return torch.func.functional_call(model, dict(zip(names, weights, strict=True)), (ids,), {"segments": segments})

    inputs = tuple(parameter.detach().requires_grad_() for parameter in model.parameters())
    assert torch.autograd.gradcheck(logits, inputs, eps=1e-6, atol=1e-6, rtol=1e-6)


def test_maps_multiply_as_one_or_one_by_one_and_give_the_same(monkeypatch):
    shape = random_shape(5)
    model = random_model(shape)
    segments, _ = packed(5)
    ids = random_ids(shape, tuple(segments.shape), "large")
    outcomes = []
    for many in (1, 10_000):
        monkeypatch.setattr("camelid.nn.linear.MANY", many)
        logits = model(ids, segments=segments)
        outcomes.append([logits, *torch.autograd.grad(logits.square().mean(), list(model.parameters()))])
    for one, other in zip(*outcomes, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


def test_initial_weights_depend_on_seed_and_name_alone():
    shape = LlamaShape(layers=2, width=64, heads=4, kv_heads=2, head_width=16, hidden=96, vocab=512, context=32)
    one, deeper = Llama(shape), Llama(LlamaShape(**{**vars(shape), "layers": 3, "tied": True}), dtype=torch.float64)
    initialise(one, 7)
    initialise(deeper, 7)
    drawn = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    others = deeper.state_dict()
    for name in drawn.keys() & others.keys():
        assert torch.equal(drawn[name].double(), others[name])
    matrices = {name: tensor for name, tensor in drawn.items() if tensor.dim() == 2}
    assert len({tuple(tensor.flatten()[:4].tolist()) for tensor in matrices.values()}) == len(matrices)
    everything = torch.cat([tensor.flatten() for tensor in matrices.values()])
    assert abs(everything.mean()) < 5e-4 and abs(everything.std() - 0.02) < 5e-4
    assert all((tensor == 1).all() for tensor in drawn.values() if tensor.dim() == 1)
    initialise(one, 8)
    assert not any(torch.equal(tensor, matrices[name]) for name, tensor in one.state_dict().items() if name in matrices)


def test_a_model_on_meta_costs_no_memory_and_takes_any_weights():
    shape = random_shape(6)
    source, empty = random_model(shape), Llama(shape, device="meta")
    assert all(parameter.is_meta for parameter in empty.parameters())
    empty.load_state_dict(source.state_dict(), assign=True)
    ids = random_ids(shape, (1, 8), "meta")
    assert torch.equal(empty(ids), source(ids))


@pytest.mark.parametrize("case", range(6))
def test_bfloat16_and_autocast_stay_near_float32(case):
    shape = random_shape(5000 + case, kinds=(None,))
    exact = random_model(shape, case, torch.float32)
    half = Llama(shape, dtype=torch.bfloat16)
    half.load_state_dict(exact.state_dict())
    ids = random_ids(shape, (2, 16), "bf16", case)
    logits = exact(ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = exact(ids)
    mixed.float().square().mean().backward()
    assert half(ids).dtype == torch.bfloat16
    scale = logits.abs().max()
    assert (half(ids).float() - logits).abs().max() < 0.1 * scale
    assert (mixed.float() - logits).abs().max() < 0.05 * scale


def test_wrong_arguments_are_named():
    shape = random_shape(7)
    model = random_model(shape)
    ids = random_ids(shape, (1, 6), "wrong")
    with pytest.raises(UsageError, match="document 4 comes back"):
        model(ids, segments=torch.tensor([[4, 4, 2, 2, 4, 4]]))
    with pytest.raises(UsageError, match=r"\[1, 5\] for ids \[1, 6\]"):
        model(ids, segments=torch.zeros(1, 5, dtype=torch.int64))
    with pytest.raises(UsageError, match="given without a cache"):
        model(ids, counts=[3])


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_model_is_built_without_draws_and_without_what_draws_on_the_meta_device_would_import(device):
    program = (
        "import sys, torch; from camelid.models.llama import Llama; from camelid.models.shape import LlamaShape\n"
        "state = torch.random.get_rng_state()\n"
        "shape = LlamaShape(layers=1, width=8, heads=2, kv_heads=1, head_width=4, hidden=8, vocab=16, context=8)\n"
        f"model = Llama(shape, device={device!r})\n"
        "assert torch.equal(state, torch.random.get_rng_state())\n"
        "assert {'torch._dynamo', 'sympy'}.isdisjoint(sys.modules)\n"
        f"assert all(weight.device.type == {device!r} for weight in model.parameters())\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
