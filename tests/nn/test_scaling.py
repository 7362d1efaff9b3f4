import math

import pytest

from camelid.errors import ProblemList, UsageError
from camelid.nn.scaling import RopeScaling, frequencies

LLAMA_3_1 = RopeScaling("llama3", 8.0, original=8192)


def test_llama_3_1_keeps_short_waves_slows_long_ones_and_blends_between():
    plain = frequencies(5e5, 128, None, context=131072).radians
    slowed = frequencies(5e5, 128, LLAMA_3_1, context=131072).radians
    for before, after in zip(plain, slowed, strict=True):
        wave = 2 * math.pi / before
        if wave < 2048:  # facts: 8192 / 4
            assert after == before
        elif wave > 8192:
            assert after == pytest.approx(before / 8, rel=1e-15)
        else:
            assert before / 8 < after < before
    assert list(slowed) == sorted(slowed, reverse=True)


def test_ntk_leaves_the_fastest_pair_and_stretches_the_slowest_by_the_factor():
    plain = frequencies(1e4, 64, None, context=2048).radians
    ntk = frequencies(1e4, 64, RopeScaling("ntk", 4.0), context=2048).radians
    assert ntk[0] == plain[0] == 1
    assert ntk[-1] == pytest.approx(plain[-1] / 4, rel=1e-12)


def test_yarn_scales_cosine_and_sine_by_a_tenth_of_the_logarithm():
    assert frequencies(1e4, 64, RopeScaling("yarn", 16.0, original=4096), context=65536).attention == pytest.approx(
        0.1 * math.log(16) + 1
    )


def test_everything_wrong_with_a_scaling_is_said_at_once():
    def said(scaling):
        problems = ProblemList()
        scaling.problems(problems, "shape.scaling")
        with pytest.raises(UsageError) as caught:
            problems.raise_usage()
        return str(caught.value)

    assert "did you mean 'linear'?" in said(RopeScaling("linaer", 2.0))
    text = said(RopeScaling("llama3", 0.5, low=4.0, high=1.0, fast=16.0))
    for part in ("scaling.factor: 0.5", "scaling.original: missing", "0 < low < high", "scaling.fast: llama3 does not"):
        assert part in text
    text = said(RopeScaling("yarn", math.inf, original=0, slow=40.0, attention=-1.0))
    for part in ("scaling.factor: inf", "scaling.original: 0", "0 < slow < fast", "scaling.attention: -1.0"):
        assert part in text
    assert "linear does not read it" in said(RopeScaling("linear", 2.0, original=100))
