from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from camelid.errors import CamelidError, UsageError
from camelid.generate.sample import Sampler, draw, largest, log_probabilities, log_probability, uniform
from camelid.generate.settings import Constraint, Settings
from camelid.randomness import torch_generator
from tests.conftest import size


def logits_of(*words: int | str, rows: int = 1, vocab: int = 50) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch_generator(*words)) * 3


def sampler(own: Settings, prompt: list[int] | None = None, vocab: int = 50) -> Sampler:
    return Sampler(own, prompt or [0], vocab)


SHARES = st.floats(0.05, 0.999) | st.just(
    1.0
)  # nearer to 1 than sums of 50 numbers are exact, sums decide by their order


@given(
    st.integers(0, 2**32), st.floats(0.1, 3), st.integers(0, 60), SHARES, st.floats(0, 1), st.floats(0.5, 2),
    SHARES, st.dictionaries(st.integers(0, 49), st.integers(-72, 72).map(lambda n: n / 8), max_size=4),
)  # fmt: skip
@settings(max_examples=size(300), deadline=None)
def test_probabilities_after_all_filters_are_those_of_transformers(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float, penalty: float, typical: float, bias: dict
) -> None:
    logits = logits_of("filters", seed).double()
    prompt, said = [1, 4, 4, 9], [7, 9]
    steps = LogitsProcessorList()
    if bias:
        steps.append(SequenceBiasLogitsProcessor([[[id], value] for id, value in bias.items()]))
    steps += [RepetitionPenaltyLogitsProcessor(penalty), TemperatureLogitsWarper(temperature)]
    if top_k:
        steps.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        steps.append(TopPLogitsWarper(top_p))
    steps.append(MinPLogitsWarper(min_p))
    if typical < 1:
        steps.append(TypicalLogitsWarper(typical))
    theirs = torch.softmax(steps(torch.tensor([prompt + said]), logits), dim=-1)[0]
    own = Settings(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, typical_p=typical, repetition_penalty=penalty,
        logit_bias=tuple(bias.items()),
    )  # fmt: skip
    ours = sampler(own, prompt)
    for id in said:
        ours.take(id)
    found = torch.from_numpy(ours.probabilities(logits[0]))
    assert (found > 0).tolist() == (theirs > 0).tolist()
    torch.testing.assert_close(found, theirs, rtol=1e-9, atol=1e-12)


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=12), st.lists(st.integers(0, 9), max_size=30), st.integers(0, 9)
)
@settings(max_examples=size(200), deadline=None)
def test_penalties_count_what_was_said_and_forget_what_was_undone(
    prompt: list[int], answer: list[int], undone: int
) -> None:
    """Against the plain definition: presence and frequency count the answer alone, repetition the prompt as well."""
    own = Settings(repetition_penalty=1.5, presence_penalty=0.5, frequency_penalty=0.25, temperature=1.0)
    ours, logits = sampler(own, prompt, 10), logits_of("said", vocab=10)[0].double()
    for id in answer:
        ours.take(id)
    ours.undo(min(undone, len(answer)))
    rest = answer[: len(answer) - min(undone, len(answer))]
    expected = logits.clone()
    for id in {*prompt, *rest}:
        expected[id] = logits[id] * 1.5 if logits[id] < 0 else logits[id] / 1.5
        expected[id] -= 0.5 * (id in rest) + 0.25 * rest.count(id)
    assert ours.position == len(prompt) + len(rest)
    torch.testing.assert_close(torch.from_numpy(ours.probabilities(logits)), expected.softmax(-1), rtol=1e-12, atol=0)


def test_greedy_takes_the_lowest_id_among_equals() -> None:
    logits = torch.zeros(50)
    logits[[20, 30]] = 5
    for own in (Settings(), Settings(temperature=1.0, top_k=1), Settings(temperature=1.0, top_p=1e-9)):
        assert sampler(own).draw(logits).id == 20


def test_ties_at_the_border_of_a_filter_go_to_the_lower_ids() -> None:
    for own in (Settings(temperature=1.0, top_k=3), Settings(temperature=1.0, top_p=0.05)):
        assert sampler(own).probabilities(torch.zeros(50)).nonzero()[0].tolist() == [0, 1, 2]
    assert largest(np.array([1.0, 2, 2, 3, 2]), 3).tolist() == [1, 2, 3]


@given(st.integers(0, 2**32), st.floats(0.01, 0.999), st.floats(0.1, 9), st.sampled_from(["top_p", "typical_p"]))
@settings(max_examples=size(60), deadline=None)
def test_filters_keep_in_a_large_vocabulary_what_they_keep_by_the_plain_definition(
    seed: int, mass: float, temperature: float, filter: str
) -> None:
    """Many ids, of which a filter looks at few first; many equal ones."""
    logits = torch.randn(9000, generator=torch_generator("large", seed)).double().mul(4).round(decimals=1)
    probabilities = torch.softmax(logits / temperature, -1)
    surprise = -torch.log(probabilities)
    rank = -probabilities if filter == "top_p" else (surprise - (probabilities * surprise).sum()).abs()
    order = rank.argsort(stable=True)
    reached = probabilities[order].cumsum(0)
    if filter == "top_p":
        expected = set(order[(reached - probabilities[order] < mass)].tolist())
    else:
        last = min(int((reached < mass).sum()), 8999)
        expected = set((rank <= rank[order[last]]).nonzero().flatten().tolist())
    found = set(
        sampler(Settings(temperature=temperature, **{filter: mass}), vocab=9000).probabilities(logits).nonzero()[0]
    )
    assert len(found ^ expected) <= 1, "rounding at the border may move one id"


def test_top_logprobs_are_the_likeliest_of_the_models_own_distribution() -> None:
    logits = logits_of("top")[0]
    drawn = sampler(Settings(top_logprobs=5, temperature=0.3, logit_bias=((7, 50.0),))).draw(logits)
    values, ids = torch.log_softmax(logits.double(), -1).topk(5)
    assert drawn.id == 7 and [id for id, _ in drawn.top] == ids.tolist()
    assert [value for _, value in drawn.top] == pytest.approx(values.tolist(), abs=1e-12)
    assert len(sampler(Settings(top_logprobs=99)).draw(logits).top) == 50


def test_drawing_inverts_the_cumulative_distribution() -> None:
    probabilities = np.array([0.0, 0.25, 0.0, 0.5, 0.25, 0.0])
    falls = {0.0: 1, 0.2499: 1, 0.25: 3, 0.7499: 3, 0.75: 4, 1 - 2**-52: 4}
    for number, id in falls.items():
        assert draw(probabilities, number) == id


@given(
    st.lists(st.floats(0, 1e300, allow_subnormal=False), min_size=1, max_size=30).filter(any), st.integers(0, 2**52 - 1)
)
def test_what_has_no_probability_is_never_drawn(masses: list[float], number: int) -> None:
    assert masses[draw(np.array(masses), number / 2**52)] > 0


def test_frequencies_of_draws_are_the_probabilities() -> None:
    draws = size(20_000)
    logits = logits_of("frequencies", vocab=8)[0].double().numpy()
    ids = [Sampler(Settings(temperature=0.7, seed=seed), [0] * 11, 8).draw(logits).id for seed in range(draws)]
    expected = torch.softmax(torch.from_numpy(logits) / 0.7, dim=-1).numpy()
    counts = np.bincount(ids, minlength=8)
    deviations = (counts - draws * expected) / np.sqrt(draws * expected * (1 - expected) + 1e-9)
    assert np.abs(deviations).max() < 5


def test_uniform_numbers_depend_on_seed_and_position_and_fill_the_interval() -> None:
    numbers = [uniform(seed, position) for seed in range(40) for position in range(50)]
    assert len(set(numbers)) == 2000
    assert all(0 <= number < 1 for number in numbers)
    assert sum(numbers) / 2000 == pytest.approx(0.5, abs=4 / math.sqrt(12 * 2000))
    assert uniform(3, 4) == uniform(3, 4) != uniform(4, 3)


def test_extreme_temperatures_do_not_overflow() -> None:
    logits = logits_of("extreme")[0] * 1e4
    assert sampler(Settings(temperature=1e-300)).draw(logits).id == logits.argmax()
    assert 0 <= sampler(Settings(temperature=1e300)).draw(logits).id < 50


def test_log_probabilities_are_natural_logs_of_the_raw_distribution_in_float32() -> None:
    logits = logits_of("logs", rows=3)
    expected = torch.log(torch.softmax(logits.double(), dim=-1)).float()
    torch.testing.assert_close(log_probabilities(logits), expected, rtol=1e-5, atol=1e-6)
    ids = torch.tensor([4, 0, 49])
    torch.testing.assert_close(log_probability(logits, ids), expected[[0, 1, 2], ids], rtol=1e-5, atol=1e-6)
    assert log_probability(logits.bfloat16(), ids).dtype == torch.float32


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_not_finite_are_refused_with_their_position(bad: float) -> None:
    logits = logits_of("bad")[0]
    logits[3] = bad
    with pytest.raises(CamelidError, match=r"position 9.*not finite.*float32"):
        sampler(Settings(temperature=1.0), [0] * 9).draw(logits)


def test_all_wrong_settings_are_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        Settings(
            max_tokens=-1, temperature=math.nan, top_k=-2, top_p=0, min_p=2, typical_p=0, repetition_penalty=0,
            presence_penalty=math.inf, stop_texts=("",), top_logprobs=-1, n=0, logit_bias=((-1, 2.0), (3, math.nan)),
        )  # fmt: skip
    assert [problem.where for problem in caught.value.problems] == [
        "max_tokens", "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty",
        "top_logprobs", "n", "stop_texts", "logit_bias of id -1", "logit_bias of id 3",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("wished", "told"),
    [
        ({"n": 3}, "n: 3 greedy answers are all the same"),
        ({"best_of": 3}, "best_of: 3 greedy answers"),
        ({"n": 3, "best_of": 2, "temperature": 1.0}, "best_of: 2 drawn for n=3"),
        ({"beams": 2, "n": 3}, "n: 3 answers of 2 beams"),
        ({"beams": 2, "temperature": 1.0}, "beams: 2 beside temperature 1"),
        ({"beams": 2, "best_of": 2}, "best_of: 2 beside 2 beams"),
        ({"beams": 2, "repetition_penalty": 1.1}, "beams: beside a penalty"),
        ({"ignore_eos": True, "constraint": Constraint("regex", "a")}, "ignore_eos: a constrained answer"),
        ({"logit_bias": ((3, 1.0), (3, 2.0))}, "logit_bias: id 3 is given twice"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wished: dict, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Settings(**wished)
