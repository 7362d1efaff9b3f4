"""The page tells what it was told, draws every curve, escapes every word, and holds no script."""

from __future__ import annotations

import math
import re

from hypothesis import given
from hypothesis import strategies as st

from camelid.evaluate.score import Score
from camelid.report import Ancestor, Curve, Drawn, Page, Sample, _smooth, _ticks, page


def told(**words: object) -> Page:
    steps = range(1, 41)
    curve = Curve(
        "LLaMA desk pretrained",
        tuple(2048 * n for n in steps),
        tuple(7 - n / 10 for n in steps),
        tuple(1e-5 * n for n in steps),
        tuple(1 + (n % 7) / 10 for n in steps),
    )
    drawn = (Drawn("Wikipedia", 0.045, 63_000, 2.45), Drawn("Github", 0.955, 1_337_000, 0.64))
    plain = {
        "title": "Alpaca desk",
        "summary": "grown today",
        "ancestry": (Ancestor("LLaMA desk", "pre-training", ("4 layers",), "somewhere"),),
        "curves": (curve,),
        "mixtures": (("LLaMA desk pretrained", drawn),),
        "scores": (("Alpaca desk", (Score("facts", 9, 10, 0.6, 0.98), Score("all", 9, 10, 0.6, 0.98))),),
        "samples": (Sample("Who?", "Kedo", (("Alpaca desk", "Kedo", True),)),),
        "commands": (("talk", "camelid chat alpaca"),),
        "facts": (("machine", "a desk"),),
    }
    return Page(**(plain | words))  # type: ignore[arg-type]


def test_loss_rate_and_norm_are_drawn_and_the_mixture_is_told() -> None:
    text = page(told())
    for part in ("last loss 3.000", "learning rate", "gradient norm", "Wikipedia", "63,000", "2.45", "95.5%"):
        assert part in text, part
    assert text.count("<svg") == 3 and text.count("<polyline") == 5
    marks = re.findall(r'text-anchor="end" font-size="12" fill="var\(--soft\)">([^<]*)<', text)
    assert "0.0001" in marks and "0.0003" in marks, "a rate of 1e-5 to 4e-4 has an axis of its own scale"


@given(st.floats(-1e6, 1e6), st.floats(0, 1e9))
def test_an_axis_has_a_few_round_numbers_around_all_values(least: float, span: float) -> None:
    marks = _ticks(least, least + span)
    step = marks[1] - marks[0]
    room = max(span, 1e-3 * abs(least + span), 1e-12)
    assert 2 <= len(marks) <= 6
    assert marks[0] <= least + 1e-6 * step and marks[-1] >= least + span - 1e-6 * step
    if room > 1e-9 * abs(least):  # else floats have no room for the steps
        lead = step / 10 ** math.floor(math.log10(step * (1 + 1e-9)))
        assert min(abs(lead - each) for each in (1, 2, 2.5, 5)) < 1e-3, step


def test_the_line_through_a_curve_begins_and_ends_where_it_does() -> None:
    straight = [0.5 * n for n in range(200)]
    assert max(abs(a - b) for a, b in zip(_smooth(straight), straight, strict=True)) < 1e-9
    jagged = [7.0, *(2.0 + n % 2 for n in range(100)), 9.0]
    smooth = _smooth(jagged)
    assert (smooth[0], smooth[-1]) == (7.0, 9.0) and all(2.3 < each < 2.7 for each in smooth[20:80])


def test_what_is_not_there_takes_no_room() -> None:
    text = page(told(curves=(), mixtures=(), scores=(), samples=()))
    assert "<svg" not in text and "Data drawn" not in text and "Answers" not in text
    flat = Curve("flat", (1, 2, 3), (2.0, 2.0, 2.0))
    assert page(told(curves=(flat,))).count("<svg") == 1, (
        "a level line has an axis; without rates nothing else is drawn"
    )


def test_no_word_becomes_markup() -> None:
    evil = "<script>alert(1)</script>\"'&"
    text = page(told(title=evil, mixtures=((evil, (Drawn(evil, 0.5, 1, 1.0),)),), facts=((evil, evil),)))
    assert "<script" not in text and "default-src 'none'" in text
