from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from camelid.errors import UsageError
from camelid.evaluate import likelihood
from camelid.evaluate.likelihood import Likelihood, continuations, scored, texts, total
from tests.generate.stand_ins import small

TEXTS = ["Mila lives in the town of Arl.", "x", "Who? " * 30, "é€𝄞 and more", "\n\n"]


def test_texts_together_have_the_likelihood_of_each_alone_by_a_full_forward() -> None:
    loaded = small(spread=3)
    for text, found in zip(TEXTS, texts(loaded, TEXTS), strict=True):
        ids = torch.tensor([[1, *loaded.tokenizer.encode(text)]])
        logs = torch.log_softmax(loaded.model(ids)[0].detach(), dim=-1)
        expected = logs[:-1].gather(1, ids[0, 1:, None]).sum().item()
        assert found.logprob == pytest.approx(expected, rel=1e-12)
        assert (found.tokens, found.bytes) == (ids.shape[1] - 1, len(text.encode()))
        assert found.bits_per_byte == pytest.approx(-expected / math.log(2) / len(text.encode()), rel=1e-12)


@given(st.integers(1, 40), st.integers(1, 9), st.data())
def test_windows_count_every_id_once_with_as_much_before_it_as_promised(
    count: int, step: int, data: st.DataObject
) -> None:
    context = data.draw(st.integers(step + 1, 12))
    seen = []
    for ids, first in likelihood.windows(range(count), context, step):
        assert len(ids) <= context and 1 <= first <= len(ids)
        assert all(place - ids[0] >= min(place, context - step) for place in ids[first:])
        seen += ids[first:]
    assert seen == list(range(1, count))


def test_a_text_longer_than_the_context_is_scored_through_overlapping_windows() -> None:
    long, short = small(context=256, spread=3), small(context=16, spread=3)
    text = "Oren lives in the town of Besk. " * 5
    whole, parts = texts(long, [text])[0], texts(short, [text])[0]
    assert (whole.tokens, whole.bytes) == (parts.tokens, parts.bytes)
    ids = [1, *short.tokenizer.encode(text)]
    expected = 0.0
    windows = [(0, 16, 1), *((end - 16, end, end - 8) for end in range(24, len(ids) + 1, 8))]
    if windows[-1][1] < len(ids):
        windows.append((len(ids) - 16, len(ids), windows[-1][1]))
    for start, end, first in windows:
        logs = torch.log_softmax(short.model(torch.tensor([ids[start:end]]))[0].detach(), dim=-1)
        expected += sum(logs[place - start - 1, ids[place]].item() for place in range(max(1, first), end))
    assert parts.logprob == pytest.approx(expected, rel=1e-12)


def test_continuations_and_texts_agree_by_the_chain_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, chance = small(spread=3), random.Random(0)
    ids = [chance.randrange(loaded.shape.vocab) for _ in range(50)]
    pairs = [(ids[:cut], ids[cut:]) for cut in range(1, 50)]
    (whole,) = scored(loaded.model, [(ids, 1)])
    for (prompt, _), found in zip(pairs, continuations(loaded.model, pairs), strict=True):
        assert found == pytest.approx(whole[len(prompt) - 1 :], abs=1e-12)
    monkeypatch.setattr(likelihood, "LOGITS_AT_ONCE", 7 * loaded.shape.vocab)
    monkeypatch.setattr(likelihood, "IDS_AT_ONCE", 120)
    assert continuations(loaded.model, pairs)[3] == pytest.approx(whole[3:], abs=1e-12)


def test_a_corpus_is_summed_and_divided_once() -> None:
    joined = total([Likelihood(-10.0, 5, 20), Likelihood(-2.0, 4, 2)])
    assert joined == Likelihood(-12.0, 9, 22) and joined.per_token == -12 / 9
    with pytest.raises(UsageError, match="texts: none"):
        total([])


def test_what_has_no_likelihood_is_named_before_anything_is_read() -> None:
    loaded = small()
    with pytest.raises(UsageError) as caught:
        texts(loaded, ["a", "", "b", ""], overlap=1.0)
    assert [problem.where for problem in caught.value.problems] == ["overlap", "text 1", "text 3"]
    with pytest.raises(UsageError, match=r"pair 0: has an empty side[\s\S]*pair 1: 200 \+ 57 ids exceed .* 256"):
        continuations(loaded.model, [([1], []), ([1] * 200, [2] * 57)])
