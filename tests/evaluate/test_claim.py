from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camelid.errors import UsageError
from camelid.evaluate.claim import Arm, card, verdict
from camelid.evaluate.interval import paired

BASE = Arm("the base", (0.05, 0.04, 0.06))
MORE = Arm("more pre-training", (0.06, 0.05, 0.05))


def test_a_clear_gain_held() -> None:
    judged = verdict(Arm("Alpaca", (0.95, 0.93, 0.96)), [BASE, MORE], margin=0.5, at_least=0.8)
    assert judged.word == "held"
    assert [each.control for each in judged.differences] == ["the base", "more pre-training"]


def test_a_loss_did_not_hold() -> None:
    judged = verdict(Arm("Alpaca", (0.02, 0.01, 0.02)), [BASE])
    assert judged.word == "did not hold"
    assert "no better than the base" in judged.why


def test_a_gain_over_one_control_only_did_not_hold() -> None:
    judged = verdict(Arm("Alpaca", (0.5, 0.5, 0.51)), [BASE, Arm("more pre-training", (0.6, 0.6, 0.61))])
    assert judged.word == "did not hold"
    assert "more pre-training" in judged.why and "the base" not in judged.why


def test_a_gain_that_the_seeds_cannot_show_did_not_hold() -> None:
    judged = verdict(Arm("Alpaca", (0.9, 0.05, 0.4)), [BASE])
    assert judged.word == "did not hold"
    assert "not shown" in judged.why


def test_a_gain_smaller_than_the_margin_did_not_hold() -> None:
    treated = Arm("Alpaca", (0.15, 0.14, 0.16))
    assert verdict(treated, [BASE], margin=0.05).word == "held"
    assert verdict(treated, [BASE], margin=0.2).word == "did not hold"


def test_a_level_that_was_promised_and_missed_did_not_hold() -> None:
    judged = verdict(Arm("Alpaca", (0.85, 0.86, 0.84)), [BASE], at_least=0.9)
    assert judged.word == "did not hold" and "0.9" in judged.why


def test_lower_can_be_better() -> None:
    bits = Arm("longer training", (1.0, 1.1, 1.05))
    plain = Arm("the base", (2.0, 2.1, 2.05))
    assert verdict(bits, [plain], better="lower", at_least=1.5).word == "held"
    assert verdict(bits, [plain], better="lower", at_least=1.0).word == "did not hold"
    assert verdict(plain, [bits], better="lower").word == "did not hold"
    assert verdict(bits, [plain], better="higher").word == "did not hold"


def test_what_cannot_be_tested_is_said_with_its_reason() -> None:
    treated = Arm("Alpaca", (0.99, 1.0, 1.0))
    assert verdict(Arm("Alpaca", (0.9,)), [Arm("the base", (0.1,))]).why.startswith("one seed")
    assert verdict(treated, [BASE], untestable="needs 7B weights").why == "needs 7B weights"
    full = verdict(treated, [Arm("the base", (0.99, 0.98, 0.99))], margin=0.05, best=1.0)
    assert full.word == "cannot be tested at this scale" and "no room" in full.why


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=6), st.floats(0, 0.5))
def test_held_and_its_opposite_never_hold_together(pairs: list[tuple[float, float]], margin: float) -> None:
    ours, theirs = (Arm(name, tuple(column)) for name, column in zip("ab", zip(*pairs, strict=True), strict=True))
    there, back = verdict(ours, [theirs], margin=margin), verdict(theirs, [ours], margin=margin)
    assert {there.word, back.word} != {"held"}
    assert (there.word == "held") == (paired(ours.results, theirs.results).low > margin)


def test_unpaired_seeds_and_missing_controls_are_refused() -> None:
    with pytest.raises(UsageError, match="controls"):
        verdict(BASE, [])
    with pytest.raises(UsageError, match="same seeds"):
        verdict(BASE, [Arm("short", (0.1,))])
    with pytest.raises(UsageError, match="margin"):
        verdict(BASE, [MORE], margin=-0.1)


def test_a_card_is_json_and_names_its_seeds() -> None:
    treated = Arm("Alpaca", (0.95, 0.93, 0.96))
    words = {"statement": "s", "published": "p", "experiment": "e", "measure": "share correct", "date": "2023-03-13"}
    made = card(
        verdict(treated, [BASE]), treated=treated, controls=[BASE], seeds=[0, 1, 2], commit="abc", machine="m", **words
    )
    data = json.loads(json.dumps(made.data(), allow_nan=False))
    assert data["verdict"] == "held" and data["treated"]["results"] == [0.95, 0.93, 0.96]
    assert data["differences"][0]["interval"]["low"] > 0
    with pytest.raises(UsageError, match="one per seed"):
        card(verdict(treated, [BASE]), treated=treated, controls=[BASE], seeds=[0, 1], commit="", machine="", **words)
