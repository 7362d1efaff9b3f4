import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from camelid.errors import UsageError
from camelid.nn.attention import Layout, _groups
from tests.conftest import size

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=12)


def cost(lengths, cuts, call):
    """Padded places plus `call` per group of the sorted lengths cut there."""
    parts = [lengths[a:b] for a, b in itertools.pairwise([0, *cuts, len(lengths)])]
    return sum(len(part) * part[-1] - sum(part) + call for part in parts)


@settings(max_examples=size(150), deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(0, 40))
def test_no_other_cut_into_groups_costs_less(lengths, call):
    lengths = sorted(lengths)
    groups = _groups(np.array(lengths), call)
    assert sum(group.rows for group in groups) == len(lengths)
    spent = sum(group.places for group in groups) - sum(lengths) + call * len(groups)
    inner = range(1, len(lengths))
    ways = (cuts for n in range(len(lengths)) for cuts in itertools.combinations(inner, n))
    assert spent == min(cost(lengths, cuts, call) for cuts in ways)


@settings(max_examples=size(150), deadline=None)
@given(LENGTHS, st.integers(1, 3), st.integers(0, 60), st.integers(0, 5), st.randoms(use_true_random=False))
def test_every_token_stands_once_in_its_document_in_order(lengths, rows, call, behind, random):
    row = np.repeat(np.arange(len(lengths)), lengths)
    segments = np.stack([np.concatenate([row, np.full(behind, -1)])] * rows)
    for line in segments:  # some documents turn into padding
        line[line == random.randrange(len(lengths) + 1)] = -1
    layout = Layout.of_segments(segments, call=call)
    ids = torch.arange(segments.size).view(segments.shape)
    laid = layout.lay(ids)
    assert len(laid) == layout.places == sum(group.places for group in layout.groups)
    restored = layout.restore(laid[:, None].double())[..., 0]
    real = torch.from_numpy(segments >= 0)
    assert torch.equal(restored[real], ids[real].double())
    assert (restored[~real] == 0).all()
    names, at = torch.from_numpy(segments).reshape(-1), 0
    for group in layout.groups:
        for _ in range(group.rows):
            places = slice(at, at + group.length)
            length = int(layout.lengths[at])
            document = laid[places][:length]
            assert (layout.lengths[places] == length).all()
            assert (layout.positions[places] == np.arange(group.length)).all()
            assert torch.equal(document, document[0] + torch.arange(length))
            assert len(names[document].unique()) == 1
            assert (laid[places][length:] == document[0]).all()  # padding shows nothing of any other document
            at += group.length


def test_padding_is_bounded_by_what_calls_cost():
    draw = np.random.default_rng(0)
    lengths = draw.integers(30, 90, 128)
    segments = np.repeat(np.arange(128), lengths)[None]
    few, many = (Layout.of_segments(segments, call=call) for call in (500, 5))
    assert len(few.groups) < len(many.groups) and few.places > many.places
    assert many.places < 1.02 * lengths.sum()
    assert Layout.of_segments(segments, call=0).places == lengths.sum()


def test_equal_documents_are_worked_on_where_they_are():
    layout = Layout.of_segments(np.repeat(np.arange(6), 5).reshape(2, 15))
    assert layout.source is None and [(group.rows, group.length) for group in layout.groups] == [(6, 5)]


def test_a_batch_of_padding_alone_is_no_work():
    layout = Layout.of_segments(np.full((2, 4), -1))
    assert layout.places == 0 and layout.groups == ()
    assert torch.equal(layout.restore(torch.zeros(0, 3)), torch.zeros(2, 4, 3))


def test_a_document_torn_apart_is_refused():
    with pytest.raises(UsageError, match="row 1: document 7 comes back after another document"):
        Layout.of_segments(np.array([[7, 7, 3, 3], [7, 3, 7, 7]]))


def test_gradients_move_back_to_where_they_came_from():
    layout = Layout.of_segments(np.array([[0, 0, 0, 1, -1, 2, 2]]), call=100)
    x = torch.randn(layout.places, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layout.restore, (x,))
