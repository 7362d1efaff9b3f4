"""Rows for new tokens."""

import pytest
import torch

from camelid.errors import UsageError
from camelid.models.llama import Llama
from camelid.train.vocabulary import with_rows
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
