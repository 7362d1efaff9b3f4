"""The page tells what it was told, draws every curve, escapes every word, and holds no script."""

from __future__ import annotations

import re

from camelid.report import Ancestor, Curve, Drawn, Page, Sample, Score, page


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
    assert text.count("<svg") == 3 and text.count("<polyline") == 6
    marks = re.findall(r'text-anchor="end" font-size="12" fill="var\(--soft\)">([^<]*)<', text)
    assert "0.0001" in marks and "0.0003" in marks, "a rate of 1e-5 to 4e-4 has an axis of its own scale"


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
