"""Rows for new tokens."""

import pytest
import torch

from camelid.errors import UsageError
from camelid.models.llama import Llama
from camelid.tokenizers import sentencepiece
from camelid.tokenizers.extend import with_pieces
from camelid.train.vocabulary import old_pieces, with_rows
from tests.train import tiny


@pytest.mark.parametrize("tied", [False, True])
def test_new_rows_are_the_mean_of_the_old_and_the_old_tokens_score_as_before(tied):
    from dataclasses import replace

    made = tiny.model(shape=replace(tiny.SHAPE, tied=tied))
    ids = torch.arange(12)[None]
    with torch.no_grad():
        before, head = made(ids), made.head_weight().clone()
        grown = with_rows(made, tiny.SHAPE.vocab + 2)
        after = grown(ids)
    assert isinstance(grown, Llama) and grown.shape.vocab == tiny.SHAPE.vocab + 2
    torch.testing.assert_close(after[..., :-2], before)
    for weight in (grown.model.embed_tokens.weight, grown.head_weight()):
        assert (
            weight.requires_grad
            and torch.equal(weight[-1], weight[:-2].mean(0))
            and torch.equal(weight[-2], weight[-1])
        )
    assert torch.equal(grown.head_weight()[:-2], head)
    assert with_rows(grown, tiny.SHAPE.vocab + 2) is grown
    with pytest.raises(UsageError, match="never taken away"):
        with_rows(grown, 3)


def test_new_rows_begin_as_asked():
    vocab = tiny.SHAPE.vocab
    before = tiny.model().model.embed_tokens.weight.detach()
    pieces = {vocab: [3, 5], vocab + 1: []}
    grown = with_rows(tiny.model(), vocab + 2, new="pieces", pieces=pieces).model.embed_tokens.weight
    torch.testing.assert_close(grown[vocab], (before[3] + before[5]) / 2)
    torch.testing.assert_close(grown[vocab + 1], before.mean(0))
    drawn = [with_rows(tiny.model(), vocab + 500, new="random", seed=seed) for seed in (0, 0, 1)]
    one, same, other = (model.model.embed_tokens.weight[vocab:] for model in drawn)
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert abs(float(one.detach().std()) - 0.02) < 0.002 and not torch.equal(one, drawn[0].head_weight()[vocab:])


def test_a_new_piece_was_written_with_these_old_ones():
    old = sentencepiece.train(["the camel and the camel\n" * 9], vocab=275)
    new = with_pieces(old, sentencepiece.train(["камень на камень\n" * 9], vocab=280))
    found = old_pieces(old, new)
    assert found.keys() == set(range(old.size, new.size))
    assert all(old.decode(ids, starts=False) == new.decode([id], starts=False) for id, ids in found.items())
