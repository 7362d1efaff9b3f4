"""Rows for new tokens."""

import copy

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


@pytest.mark.parametrize("rows", [34, 37, 45, 60])
def test_ids_that_fall_into_padding_are_begun_as_those_beyond_it(rows):
    """A model of 37 rows whose tokenizer had 30 ids: what lies in the other seven was never trained."""
    made = tiny.model()
    with torch.no_grad():
        made.model.embed_tokens.weight[30:] = 99
    before = made.model.embed_tokens.weight.detach().clone()
    mean = with_rows(copy.deepcopy(made), rows, known=30).model.embed_tokens.weight
    assert torch.equal(mean[:30], before[:30]) and len(mean) == max(37, rows)
    torch.testing.assert_close(mean[30:rows], before[:30].mean(0).expand(rows - 30, -1))
    assert torch.equal(mean[rows:], before[rows:]), "padding that no id has come to stays"
    pieces = {id: [id % 5, 7] for id in range(30, rows)}
    grown = with_rows(copy.deepcopy(made), rows, known=30, new="pieces", pieces=pieces)
    for weight, old in (
        (grown.model.embed_tokens.weight, before),
        (grown.head_weight(), made.head_weight().detach()),
    ):
        for id in range(30, rows):
            torch.testing.assert_close(weight[id], (old[id % 5] + old[7]) / 2)
    assert grown.shape.vocab == grown.model.embed_tokens.num_embeddings == max(37, rows)
    drawn = with_rows(copy.deepcopy(made), rows, known=30, new="random").model.embed_tokens.weight[30:rows]
    assert float(drawn.detach().abs().max()) < 0.2
    assert with_rows(made, 30, known=30) is made


def test_a_new_piece_was_written_with_these_old_ones():
    old = sentencepiece.train(["the camel and the camel\n" * 9], vocab=275)
    new = with_pieces(old, sentencepiece.train(["камень на камень\n" * 9], vocab=280))
    found = old_pieces(old, new)
    assert found.keys() == set(range(old.size, new.size))
    assert all(old.decode(ids, starts=False) == new.decode([id], starts=False) for id, ids in found.items())
