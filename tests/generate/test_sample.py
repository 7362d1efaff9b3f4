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
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from camelid.errors import CamelidError, UsageError
from camelid.generate.sample import Sampler, draw, log_probabilities, log_probability, uniform
from camelid.generate.settings import Settings
from camelid.randomness import torch_generator
from tests.conftest import size


def logits_of(*words: int | str, rows: int = 1, vocab: int = 50) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch_generator(*words)) * 3


def sampler(*each: Settings, prompt: list[int] | None = None, vocab: int = 50) -> Sampler:
    return Sampler(each, [prompt or [0]] * len(each), vocab, "cpu")


@given(
    st.integers(0, 2**32), st.floats(0.1, 3), st.integers(0, 60), st.floats(0.01, 1), st.floats(0, 1), st.floats(0.5, 2)
)
@settings(max_examples=size(200), deadline=None)
def test_probabilities_after_all_filters_are_those_of_transformers(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float, penalty: float
) -> None:
    logits = logits_of("filters", seed).double()
    prompt = [1, 4, 4, 9]
    steps = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(penalty), TemperatureLogitsWarper(temperature)])
    if top_k:
        steps.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        steps.append(TopPLogitsWarper(top_p))
    steps.append(MinPLogitsWarper(min_p))
    theirs = torch.softmax(steps(torch.tensor([prompt]), logits), dim=-1)
    own = Settings(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=penalty)
    ours = sampler(own, prompt=prompt)
    found = ours._probabilities(ours._penalised(logits))
    torch.testing.assert_close(found / found.sum(), theirs, rtol=1e-9, atol=1e-12)


def test_presence_and_frequency_count_the_answer_and_not_the_prompt() -> None:
    ours = sampler(Settings(presence=0.5, frequency=0.25), prompt=[7])
    for id in (3, 3, 5):
        ours.note(torch.tensor([id]))
    scores = ours._penalised(torch.zeros(1, 50, dtype=torch.float64))[0]
    assert (scores[3], scores[5], scores[7], scores[0]) == (-1.0, -0.75, 0.0, 0.0)


def test_greedy_takes_the_lowest_id_among_equals() -> None:
    logits = torch.zeros(2, 50)
    logits[0, [20, 30]] = 5
    logits[1, [49, 7, 8]] = 5
    assert sampler(Settings(), Settings()).pick(logits, [0, 0]).tolist() == [20, 7]
    mixed = sampler(Settings(), Settings(temperature=1.0, top_k=1))
    assert mixed.pick(logits, [0, 0]).tolist() == [20, 7]


def test_ties_at_the_border_of_top_k_go_to_the_lower_ids() -> None:
    ours = sampler(Settings(temperature=1.0, top_k=3))
    kept = ours._probabilities(torch.zeros(1, 50, dtype=torch.float64))[0]
    assert kept.nonzero().flatten().tolist() == [0, 1, 2]


def test_drawing_inverts_the_cumulative_distribution() -> None:
    probabilities = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]], dtype=torch.float64)
    falls = {0.0: 1, 0.2499: 1, 0.25: 3, 0.7499: 3, 0.75: 4, 1 - 2**-52: 4}
    for number, id in falls.items():
        assert draw(probabilities, torch.tensor([number], dtype=torch.float64)).item() == id


@given(
    st.lists(st.floats(0, 1e300, allow_subnormal=False), min_size=1, max_size=30).filter(any), st.integers(0, 2**52 - 1)
)
def test_what_has_no_probability_is_never_drawn(masses: list[float], number: int) -> None:
    row = torch.tensor([masses], dtype=torch.float64)
    assert masses[int(draw(row, torch.tensor([number / 2**52], dtype=torch.float64)))] > 0


def test_frequencies_of_draws_are_the_probabilities() -> None:
    draws = size(20_000)
    logits = logits_of("frequencies", vocab=8)
    own = [Settings(temperature=0.7, seed=seed) for seed in range(draws)]
    ids = sampler(*own, vocab=8).pick(logits.expand(draws, -1), [11] * draws)
    expected = torch.softmax(logits[0].double() / 0.7, dim=-1).numpy()
    counts = np.bincount(ids.numpy(), minlength=8)
    deviations = (counts - draws * expected) / np.sqrt(draws * expected * (1 - expected) + 1e-9)
    assert np.abs(deviations).max() < 5


def test_uniform_numbers_depend_on_seed_and_position_and_fill_the_interval() -> None:
    numbers = [uniform(seed, position) for seed in range(40) for position in range(50)]
    assert len(set(numbers)) == 2000
    assert all(0 <= number < 1 for number in numbers)
    assert sum(numbers) / 2000 == pytest.approx(0.5, abs=4 / math.sqrt(12 * 2000))
    assert uniform(3, 4) == uniform(3, 4) != uniform(4, 3)


@given(st.integers(0, 2**32), st.integers(1, 12))
@settings(max_examples=size(100), deadline=None)
def test_a_row_gets_the_same_id_alone_and_in_any_company(seed: int, rows: int) -> None:
    generator = torch_generator("company", seed)
    logits = torch.randn(rows, 50, generator=generator)
    choices = torch.rand(rows, 4, generator=generator).tolist()
    each = [
        Settings(
            temperature=2 * round(a), top_k=int(20 * b), top_p=0.5 + c / 2, repetition_penalty=1 + round(d), seed=row
        )
        for row, (a, b, c, d) in enumerate(choices)
    ]
    places = list(range(rows))
    together = sampler(*each).pick(logits, places).tolist()
    alone = [sampler(own).pick(logits[row : row + 1], [row]).item() for row, own in enumerate(each)]
    assert together == alone
    half = sampler(*each)
    half.keep(places[::2])
    assert half.pick(logits[::2], places[::2]).tolist() == alone[::2]


def test_extreme_temperatures_do_not_overflow() -> None:
    logits = logits_of("extreme") * 1e4
    assert sampler(Settings(temperature=1e-300)).pick(logits, [0]).item() == logits.argmax()
    assert 0 <= sampler(Settings(temperature=1e300)).pick(logits, [0]).item() < 50


def test_log_probabilities_are_natural_logs_of_the_raw_distribution_in_float32() -> None:
    logits = logits_of("logs", rows=3)
    expected = torch.log(torch.softmax(logits.double(), dim=-1)).float()
    torch.testing.assert_close(log_probabilities(logits), expected, rtol=1e-5, atol=1e-6)
    ids = torch.tensor([4, 0, 49])
    torch.testing.assert_close(log_probability(logits, ids), expected[[0, 1, 2], ids], rtol=1e-5, atol=1e-6)
    assert log_probability(logits.bfloat16(), ids).dtype == torch.float32


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_not_finite_are_refused_with_their_position(bad: float) -> None:
    logits = logits_of("bad", rows=2)
    logits[1, 3] = bad
    with pytest.raises(CamelidError, match=r"position 9.*not finite.*float32"):
        sampler(Settings(), Settings()).pick(logits, [8, 9])


def test_all_wrong_settings_are_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        Settings(
            max_tokens=-1, temperature=math.nan, top_k=-2, top_p=0, min_p=2, repetition_penalty=0, stop_texts=("",)
        )
    named = [problem.where for problem in caught.value.problems]
    assert named == ["max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "stop_texts"]
