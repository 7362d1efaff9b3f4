from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from camelid.errors import CamelidError, UsageError
from camelid.generate import decode
from camelid.generate.decode import Completion, End, Token, complete, complete_all, ended, generate
from camelid.generate.sample import log_probabilities
from camelid.generate.settings import Settings
from camelid.models.llama import Cache, Llama, initialise
from camelid.models.shape import LlamaShape, RopeScaling
from camelid.native import library
from camelid.native.llama import NativeLlama
from tests.conftest import size

SHAPE = LlamaShape(2, 32, 4, 2, 8, 48, 61, 96)


def grown(seed: int = 0, shape: LlamaShape = SHAPE, dtype: torch.dtype = torch.float32, spread: float = 12) -> Llama:
    """A random model whose logits spread enough for decided answers."""
    model = Llama(shape, dtype=dtype)
    initialise(model, seed)
    with torch.no_grad():
        model.head_weight().mul_(spread)
    return model


def prompts_of(seed: int, count: int, longest: int = 40, vocab: int = 61) -> list[list[int]]:
    chance = random.Random(seed)
    return [[chance.randrange(vocab) for _ in range(chance.randint(1, longest))] for _ in range(count)]


def theirs(model: Llama) -> LlamaForCausalLM:
    shape = model.shape
    factor = None if shape.scaling is None else shape.scaling.factor
    rope = {"rope_type": "dynamic", "factor": factor, "rope_theta": shape.theta}
    scaled = {} if factor is None else {"rope_parameters": rope}
    config = LlamaConfig(
        vocab_size=shape.vocab, hidden_size=shape.width, intermediate_size=shape.hidden, head_dim=shape.head_width,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.context, rms_norm_eps=shape.eps, tie_word_embeddings=shape.tied,
        rope_theta=shape.theta, **scaled, bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    other = LlamaForCausalLM(config).to(model.dtype).eval()
    other.load_state_dict({"lm_head.weight": model.head_weight(), **model.state_dict()})
    return other


def near(one: Completion, other: Completion, tolerance: float) -> None:
    """Equal but for rounding in the log-probabilities."""
    assert one.token_ids == other.token_ids
    assert (one.text, one.finish_reason, one.prompt_ids) == (other.text, other.finish_reason, other.prompt_ids)
    assert one.logprobs == pytest.approx(other.logprobs, abs=tolerance)
    if one.prompt_logprobs is not None and other.prompt_logprobs is not None:
        assert one.prompt_logprobs[1:] == pytest.approx(other.prompt_logprobs[1:], abs=tolerance)


@pytest.mark.parametrize("seed", range(size(12)))
def test_greedy_ids_and_logprobs_are_those_of_transformers(seed: int) -> None:
    chance = random.Random(seed)
    heads, shared = chance.choice([(4, 4), (4, 2), (6, 2), (3, 1)])
    shape = LlamaShape(chance.randint(1, 3), 36, heads, shared, 8, 50, 71, 128, tied=chance.random() < 0.3)
    model = grown(seed, shape)
    prompt = prompts_of(seed, 1, 60, 71)[0]
    ours = complete(model, prompt, Settings(max_tokens=30, prompt_logprobs=True))
    given = torch.tensor([prompt])
    answer = theirs(model).generate(
        given, attention_mask=torch.ones_like(given), max_new_tokens=30, do_sample=False, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    assert list(ours.token_ids) == answer.sequences[0, len(prompt) :].tolist()
    logs = torch.log_softmax(torch.cat(answer.logits), dim=-1)
    expected = logs[torch.arange(30), torch.tensor(ours.token_ids)]
    assert ours.logprobs == pytest.approx(expected.tolist(), abs=1e-5)
    whole = torch.log_softmax(theirs(model)(given).logits[0], dim=-1)
    assert ours.prompt_logprobs is not None and ours.prompt_logprobs[0] is None
    scores = [whole[place, id].item() for place, id in enumerate(prompt[1:])]
    assert ours.prompt_logprobs[1:] == pytest.approx(scores, abs=1e-5)


def test_penalised_greedy_ids_are_those_of_transformers() -> None:
    """The prompt and what was answered so far count as said."""
    model, prompt = grown(4), prompts_of(4, 1, 20)[0]
    given = torch.tensor([prompt])
    answer = theirs(model).generate(
        given, attention_mask=torch.ones_like(given), max_new_tokens=40, do_sample=False, repetition_penalty=1.4
    )
    ours = complete(model, prompt, Settings(max_tokens=40, repetition_penalty=1.4))
    assert list(ours.token_ids) == answer[0, len(prompt) :].tolist()
    assert ours.token_ids != complete(model, prompt, Settings(max_tokens=40)).token_ids
    often = complete(model, prompt, Settings(max_tokens=40, frequency_penalty=100.0)).token_ids
    assert len(set(often)) == 40, "no id comes back while others are left"


@pytest.mark.parametrize("seed", range(size(40)))
def test_any_schedule_of_chunks_rollbacks_and_kept_rows_gives_the_logits_of_a_full_forward(seed: int) -> None:
    """Goal N3, at every-commit size: 1e-12 in float64."""
    chance = random.Random(seed)
    model = grown(seed, dtype=torch.float64, spread=1)
    texts = prompts_of(seed, 3, 50)
    with torch.inference_mode():
        full = [model(torch.tensor([text]))[0] for text in texts]
        cache, rows = Cache(SHAPE, 3, 50, torch.float64), [0, 1, 2]
        for _ in range(60):
            left = [len(texts[row]) - held for row, held in zip(rows, cache.lengths, strict=True)]
            if not any(left):
                break
            counts = [chance.randint(0, min(9, rest)) for rest in left]
            parts = [
                texts[row][held : held + count] for row, held, count in zip(rows, cache.lengths, counts, strict=True)
            ]
            if any(counts):
                before = cache.lengths
                longest = max(counts)
                table = torch.tensor([[*part, *[0] * (longest - len(part))] for part in parts])
                logits = model(table, cache=cache, counts=counts)
                for slot, (row, start, count) in enumerate(zip(rows, before, counts, strict=True)):
                    torch.testing.assert_close(
                        logits[slot, :count], full[row][start : start + count], rtol=0, atol=1e-12
                    )
            if chance.random() < 0.2:
                cache.rollback([chance.randint(held // 2, held) for held in cache.lengths])
            if chance.random() < 0.1:
                order = [chance.randrange(len(rows)) for _ in rows]
                cache.keep(order)
                rows = [rows[slot] for slot in order]


@pytest.mark.parametrize("seed", range(size(5)))
def test_an_answer_continued_later_goes_on_as_it_would_have_at_once(seed: int) -> None:
    model, prompt = grown(seed, spread=3), prompts_of(seed, 1)[0]
    own = Settings(max_tokens=20, temperature=1.0, seed=seed)
    whole = complete(model, prompt, own).token_ids
    later = complete(model, [*prompt, *whole[:8]], Settings(max_tokens=12, temperature=1.0, seed=seed)).token_ids
    assert whole == (*whole[:8], *later)
    assert complete(model, prompt, Settings(max_tokens=20, temperature=1.0, seed=seed + 1)).token_ids != whole


def test_prompt_logprobs_alone_need_no_answer() -> None:
    model, prompt = grown(), [3, 1, 4, 1, 5] + [9] * 91
    done = complete(model, prompt, Settings(max_tokens=0, prompt_logprobs=True))
    assert (done.token_ids, done.text, done.finish_reason) == ((), "", "length")
    whole = log_probabilities(model(torch.tensor([prompt])))[0]
    expected = [whole[place, id].item() for place, id in enumerate(prompt[1:])]
    assert done.prompt_logprobs is not None and done.prompt_logprobs[1:] == pytest.approx(expected, abs=1e-5)


def test_the_first_token_streams_before_the_last_is_computed() -> None:
    model, calls = grown(), []
    complete(model, [1], Settings(max_tokens=1))  # whether tiles serve is tried once
    model.model.norm.register_forward_hook(lambda *_: calls.append(1))
    events = generate(model, [1, 2, 3], Settings(max_tokens=50))
    assert not calls, "nothing is computed before it is asked for"
    assert isinstance(next(events), Token) and len(calls) == 1
    assert isinstance(next(events), Token) and len(calls) == 2
    assert isinstance(list(events)[-1], End) and len(calls) == 50


def test_a_full_context_ends_an_answer_by_length() -> None:
    done = complete(grown(), [5] * 90, Settings(max_tokens=50))
    assert (len(done.token_ids), done.finish_reason) == (6, "length")


def test_prompts_that_cannot_be_answered_are_all_named_before_any_is_read() -> None:
    model = grown()
    model.forward = model.hidden = None  # type: ignore[method-assign, assignment]
    with pytest.raises(UsageError) as caught:
        complete_all(model, [[1], [], [2] * 97, [61], [3] * 96], Settings(max_tokens=4))
    found = [str(problem) for problem in caught.value.problems]
    assert [text.split(":")[0] for text in found] == ["prompt 1", "prompt 2", "prompt 3", "prompt 4"]
    assert "97 ids leave no room in the model's context of 96" in found[1] and "id 61 outside" in found[2]
    full = [Settings(max_tokens=tokens, prompt_logprobs=True) for tokens in (0, 1)]
    with pytest.raises(UsageError, match=r"^prompt 1: 96 ids leave no room.*$"):
        complete_all(model, [[3] * 96, [3] * 96], full)
    with pytest.raises(UsageError, match=r"97 ids.*context of 96"):
        generate(model, [1] * 97)
    with pytest.raises(UsageError, match="2 settings and 1 starts for 1 prompts"):
        complete_all(model, [[1]], [Settings(), Settings()])
    with pytest.raises(UsageError, match="0 at once"):
        complete_all(model, [[1]], rows=0)


class Loud(nn.Module):
    """Drops everything in training mode."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.9, self.training)


def test_nothing_is_dropped_even_where_only_an_adapter_is_in_training_mode() -> None:
    model = grown().eval()
    expected = complete(model, [1, 2, 3], Settings(max_tokens=8))
    model.model.layers[0].mlp = nn.Sequential(model.model.layers[0].mlp, Loud())
    events = generate(model, [1, 2, 3], Settings(max_tokens=8))
    next(events)
    assert model.model.layers[0].mlp[1].training, "between tokens the model is as it was"
    near(ended(events), expected, 1e-6)
    assert model.model.layers[0].mlp[1].training


def test_autograd_is_as_it_was_between_tokens() -> None:
    events = generate(grown(), [1, 2, 3], Settings(max_tokens=3))
    next(events)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    weight = torch.ones(2, requires_grad=True)
    (weight.sum() ** 2).backward()
    assert weight.grad is not None


def test_damaged_weights_are_named_instead_of_sampled() -> None:
    model = grown()
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(CamelidError, match="position 3: the model's logits are not finite"):
        complete(model, [1, 2, 3])


def test_rotations_that_follow_the_length_follow_that_of_each_text() -> None:
    """Under dynamic NTK every text has a stretching of its own, which company must not change."""
    shape = LlamaShape(2, 32, 4, 2, 8, 48, 61, 24, scaling=RopeScaling("dynamic", 4.0))
    model = grown(2, shape, torch.float64)
    prompts, own = prompts_of(2, 12, 60), Settings(max_tokens=8)
    assert decode.reach(shape) == 96
    for one, prompt in zip(complete_all(model, prompts, own), prompts, strict=True):
        near(one, complete(model, prompt, own), 1e-12)


@pytest.mark.parametrize("count", [20, 40])
@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
def test_an_answer_under_dynamic_ntk_depends_on_the_text_so_far_and_not_on_max_tokens(
    count: int, kind: torch.dtype
) -> None:
    """Within the context nothing is stretched; beyond it, each id as far as the text has come, as transformers does it."""
    shape = LlamaShape(2, 32, 4, 2, 8, 48, 61, 32, scaling=RopeScaling("dynamic", 4.0))
    model = grown(3, shape, kind, spread=60)
    prompt = [(7 * place + 3) % 61 for place in range(count)]
    long, short = (complete(model, prompt, Settings(max_tokens=most)) for most in (80, 8))
    assert long.token_ids[: len(short.token_ids)] == short.token_ids
    assert long.logprobs[: len(short.logprobs)] == short.logprobs
    answered, own = len(long.token_ids), Settings(max_tokens=80, beams=1)
    assert answered == 80 and complete_all(model, [prompt, prompt[:9]], own)[0].token_ids == long.token_ids
    if kind == torch.float32 and library.library() is not None:
        native = NativeLlama.of(model)
        assert complete(native, prompt, own).token_ids == long.token_ids
    ids, alike = torch.tensor([prompt]), theirs(model)
    said = alike.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=80, do_sample=False, eos_token_id=None
    )
    assert tuple(said[0, count:].tolist()) == long.token_ids and len({*long.token_ids}) > 4


def test_bfloat16_decodes_with_logprobs_in_float32() -> None:
    model = grown(dtype=torch.bfloat16)
    done = complete(model, [1, 2, 3], Settings(max_tokens=5))
    exact = log_probabilities(model(torch.tensor([[1, 2, 3]])))[0, -1, done.token_ids[0]]
    assert exact.dtype == torch.float32 and done.logprobs[0] == pytest.approx(exact.item(), abs=0.02)
