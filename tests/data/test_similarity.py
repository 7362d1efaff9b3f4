"""Likeness by cosine: against brute force, on planted copies and leaks, and on real instructions."""

from __future__ import annotations

import json

import numpy as np
import pytest

from camelid.data.similarity import alike, hashed, leaked
from camelid.errors import UsageError
from camelid.randomness import numpy_generator

WORDS = ["river", "camel", "merchant", "seven", "harvest", "lamp", "stone", "bread", "letter", "winter", "garden"]


def sentences(count, seed=0):
    draw = numpy_generator("similarity", seed)
    return [" ".join(draw.choice(WORDS, 9)) + f" {number}?" for number in range(count)]


def test_the_sieve_is_the_greedy_scan_written_out():
    draw = numpy_generator("vectors")
    centres = draw.normal(size=(40, 16))
    vectors = (centres[draw.integers(0, 40, 700)] + 0.45 * draw.normal(size=(700, 16))).astype(np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    kept, removed = [], []
    for number in range(len(unit)):
        cosines = unit[kept] @ unit[number] if kept else np.zeros(0)
        (removed if cosines.size and cosines.max() > 0.8 else kept).append(number)
    found = alike(vectors, 0.8)
    assert list(found.kept) == kept and [each.text for each in found.removed] == removed
    assert 50 < len(kept) < 650
    for each in found.removed:
        assert each.of in kept and each.of < each.text
        assert each.similarity == pytest.approx(float(unit[each.of] @ unit[each.text]), abs=1e-5)
    again = alike(vectors[list(found.kept)], 0.8)
    assert not again.removed and len(again.kept) == len(kept)


def test_what_is_spelled_otherwise_goes_and_what_asks_for_another_thing_stays():
    texts = sentences(300)
    copies = [f"  {text.upper()} " for text in texts[::3]]
    found = alike(hashed([*texts, *copies]), 0.8)
    assert {each.text for each in found.removed} == set(range(300, 300 + len(copies)))
    assert alike(hashed(["", "", "a"]), 0.8).kept == (0, 1, 2), "a text of nothing is like no other"


def test_planted_leaks_are_found_and_nothing_else():
    train, held_out = sentences(400, 1), sentences(60, 2)
    planted = {17: held_out[3], 200: held_out[40].upper(), 399: f"  {held_out[59]}  "}
    train = [planted.get(number, text) for number, text in enumerate(train)]
    vectors = hashed([*train, *held_out])
    found = leaked(vectors[:400], vectors[400:], 0.8)
    assert {each.text: each.of for each in found} == {17: 3, 200: 40, 399: 59}
    assert leaked(vectors[:400], vectors[:0], 0.8) == ()


def test_real_instructions_lose_what_was_copied_into_them_and_no_more(shared):
    rows = json.loads((shared / "instruct" / "alpaca_random_9k.json").read_text("utf-8"))[:1500]
    texts = [f"{row['instruction']}\n{row['input']}" for row in rows]
    long = [number for number, text in enumerate(texts) if len(text) > 200]
    copies = [f"Please: {texts[number].replace(',', ';')}" for number in long]
    found = alike(hashed([*texts, *copies]), 0.8)
    assert len(found.kept) + len(found.removed) == len(texts) + len(copies) and len(copies) > 40
    assert {each.text: each.of for each in found.removed} == {1500 + place: number for place, number in enumerate(long)}


def test_a_bound_that_is_no_cosine_is_refused():
    for bound in (0.0, 1.2, -0.5):
        with pytest.raises(UsageError, match="use a cosine above 0, at most 1"):
            alike(np.ones((2, 2), np.float32), bound)
