from __future__ import annotations

import random
import time
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camelid.data.batch import Batch, PretrainingBatches, SequenceBatches, lay, split
from camelid.data.corpus import Corpus, collect
from camelid.data.mixture import Mixture
from camelid.errors import UsageError
from tests.conftest import size
from tests.data.stand_ins import corpora, corpus, numbered

CASES = size(120)


def cut(batch: Batch) -> list[tuple[list[int], list[int], list[bool]]]:
    """The segments of a batch, each as (ids, targets, learned)."""
    assert all(part.shape == (1, batch.tokens) for part in (batch.ids, batch.targets, batch.learned, batch.segments))
    assert (batch.ids.dtype, batch.targets.dtype) == (np.int64, np.int64)
    assert (batch.learned.dtype, batch.segments.dtype) == (np.bool_, np.int32)
    number = batch.segments[0]
    assert number[0] == 0 and set(np.diff(number)) <= {0, 1}, "segments are numbered 0, 1, 2 ... in order"
    found = []
    for segment in range(number[-1] + 1):
        here = number == segment
        assert batch.positions[0][here].tolist() == list(range(here.sum()))
        found.append((batch.ids[0][here].tolist(), batch.targets[0][here].tolist(), batch.learned[0][here].tolist()))
    return found


def test_the_drawing_at_the_head_of_the_file_is_what_comes_out() -> None:
    ids = [1, 70, 71, 2], [1, 80, 81, 2]
    batch = lay([(np.array(one, np.uint16), None) for one in ids])
    assert batch.ids.tolist() == [[1, 70, 71, 2, 1, 80, 81, 2]]
    assert batch.targets.tolist() == [[70, 71, 2, 0, 80, 81, 2, 0]]
    assert batch.learned.tolist() == [[True, True, True, False, True, True, True, False]]
    assert batch.segments.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 0, 1, 2, 3]]


def test_a_mark_on_an_id_shows_where_that_id_is_the_target() -> None:
    marks = np.array([1, 0, 0, 1, 1], np.uint8)
    batch = lay([(np.array([1, 5, 6, 7, 2], np.uint16), marks)])
    assert batch.learned.tolist() == [[False, False, True, True, False]]
    assert batch.supervised == 2


def test_documents_without_ids_leave_no_trace() -> None:
    empty, full = np.zeros(0, np.uint16), np.array([1, 2], np.uint16)
    batch = lay([(empty, None), (full, None), (empty, None), (full, None)])
    assert cut(batch) == [([1, 2], [2, 0], [True, False])] * 2


# --- pre-training ---------------------------------------------------------------------------------------------------


@settings(max_examples=CASES, deadline=None)
@given(
    corpora(),
    st.integers(1, 3),
    st.integers(1, 7),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from(["drop", "keep"]),
)
def test_rows_hold_the_whole_stream_and_each_id_is_the_target_of_the_one_before(
    data: Corpus, epochs: int, length: int, rows: int, micro_rows: int, last: str
) -> None:
    mixture = Mixture.by_epochs({"web": data}, epochs, seed=4)
    if mixture.tokens < length * rows and last == "drop":
        return
    batches = PretrainingBatches(
        mixture, length=length, tokens_per_step=length * rows, micro_tokens=length * micro_rows, last=last
    )
    stream = [data.sequence(p.document).tolist() for p in mixture.pieces(0, mixture.tokens)]
    flat = [id for document in stream for id in document]
    following = [id for document in stream for id in [*document[1:], None]]
    seen = 0
    for step in range(batches.steps):
        whole = batches.at(step)
        assert whole.tokens == sum(batch.tokens for batch in whole)
        assert whole.supervised == sum(batch.supervised for batch in whole)
        for batch in whole:
            assert batch.tokens <= length * micro_rows
            for ids, targets, learned in cut(batch):
                here = slice(seen, seen + len(ids))
                assert ids == flat[here]
                assert [target if mark else None for target, mark in zip(targets, learned, strict=True)] == following[
                    here
                ]
                assert seen // length == (seen + len(ids) - 1) // length, "a segment lies within one row"
                seen += len(ids)
    assert seen + batches.left_over == len(flat)
    assert batches.left_over < length * rows


@settings(max_examples=CASES, deadline=None)
@given(corpora(), st.integers(1, 6))
def test_segments_joined_again_are_exactly_the_documents(data: Corpus, length: int) -> None:
    mixture = Mixture.by_epochs({"web": data}, 1, seed=8)
    batches = PretrainingBatches(mixture, length=length, tokens_per_step=length, micro_tokens=length, last="keep")
    documents: list[list[int]] = []
    open_end = False
    for step in range(batches.steps):
        for ids, _, learned in cut(batches.at(step)[0]):
            if open_end:
                documents[-1] += ids
            else:
                documents.append(ids)
            open_end = learned[-1]  # the last token has a target: the document goes on in the next row
    whole = [data.sequence(index).tolist() for index in range(len(data)) if data.sequence(index).size]
    assert sorted(documents) == sorted(whole)


def test_marks_of_a_corpus_hold_in_rows_too() -> None:
    marked = corpus([[1, 2, 3, 4, 5], [6, 7, 8]], marks=[[0, 0, 1, 1, 0], [1, 1, 0]])
    mixture = Mixture.by_epochs({"tuned": marked}, 1, seed=0)
    batches = PretrainingBatches(mixture, length=2, tokens_per_step=4, micro_tokens=2)
    learned = {
        (int(i), int(t))
        for step in range(batches.steps)
        for batch in batches.at(step)
        for i, t, mark in zip(batch.ids[0], batch.targets[0], batch.learned[0], strict=True)
        if mark
    }
    assert learned == {(2, 3), (3, 4), (6, 7)}
    assert sum(batches.at(step).supervised for step in range(batches.steps)) == 3 == marked.supervised


def test_how_a_step_is_split_into_micro_batches_changes_nothing_in_it() -> None:
    mixture = Mixture.by_proportion({"a": numbered([3, 9, 4]), "b": numbered([7, 2])}, {"a": 2, "b": 1}, 480, seed=1)
    results = []
    for micro_tokens in (8, 16, 24, 48, 1_000):
        batches = PretrainingBatches(mixture, length=8, tokens_per_step=48, micro_tokens=micro_tokens)
        step = batches.at(7)
        results.append([segment for batch in step for segment in cut(batch)])
        assert step[0].tokens == min(micro_tokens, 48)
    assert all(result == results[0] for result in results)


@settings(max_examples=CASES, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 9))
def test_shares_of_a_step_are_equal_to_a_row_and_as_many_as_asked_for(rows: int, most: int, shares: int) -> None:
    mixture = Mixture.by_proportion(
        {"a": numbered([3, 9, 4]), "b": numbered([7, 2])}, {"a": 2, "b": 1}, 8 * rows, seed=1
    )
    words = {"length": 4, "tokens_per_step": 4 * rows, "micro_tokens": 4 * most}
    whole, cuts = PretrainingBatches(mixture, **words), PretrainingBatches(mixture, **words, shares=shares)
    assert (whole.digest, whole.steps) == (cuts.digest, cuts.steps)
    for one, other in ((whole.at(step), cuts.at(step)) for step in range(cuts.steps)):
        assert [segment for batch in one for segment in cut(batch)] == [seg for batch in other for seg in cut(batch)]
        assert len(other) >= len(one) and (len(other) % shares == 0 or len(other) == rows)
        assert len(other) - shares < len(one) or shares == 1
        held = {batch.tokens // 4 for batch in other}
        assert max(held) <= most and (max(held) - min(held) <= 1 or shares == 1)


def test_settings_that_do_not_fit_are_named_at_once() -> None:
    mixture = Mixture.by_epochs({"web": numbered([50])}, 1, seed=0)
    with pytest.raises(UsageError) as error:
        PretrainingBatches(mixture, length=8, tokens_per_step=20, micro_tokens=4)
    assert "20 tokens a step are not whole rows of 8; use 16 or 24" in str(error.value)
    assert "micro_tokens: 4 tokens hold no row of 8; give at least 8" in str(error.value)
    with pytest.raises(UsageError, match="50 tokens do not fill one step of 64"):
        PretrainingBatches(mixture, length=8, tokens_per_step=64, micro_tokens=8)
    with pytest.raises(IndexError):
        PretrainingBatches(mixture, length=8, tokens_per_step=16, micro_tokens=8).at(3)


# --- whole sequences ------------------------------------------------------------------------------------------------


@settings(max_examples=CASES, deadline=None)
@given(corpora(sequences=30, shortest=2), st.integers(1, 12), st.integers(1, 3), st.integers(9, 40), st.integers(0, 99))
def test_an_epoch_holds_every_sequence_exactly_once_however_it_is_split(
    data: Corpus, per_step: int, epochs: int, micro_tokens: int, seed: int
) -> None:
    batches = SequenceBatches(
        data, per_step=per_step, epochs=epochs, micro_tokens=micro_tokens, seed=seed, shares=seed % 5 + 1
    )
    wide = SequenceBatches(data, per_step=per_step, epochs=epochs, micro_tokens=10**6, seed=seed)
    assert batches.steps == epochs * -(-len(data) // per_step)
    everything = sorted(data.sequence(index).tolist() for index in range(len(data)))
    for epoch in range(epochs):
        found: list[list[int]] = []
        for step in range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch):
            whole = batches.at(step)
            segments = [segment for batch in whole for segment in cut(batch)]
            assert all(batch.tokens <= micro_tokens for batch in whole)
            assert sorted(segments) == sorted(segment for batch in wide.at(step) for segment in cut(batch))
            assert whole.sequences == len(segments) == len(batches.chosen(step))
            assert whole.supervised == sum(sum(learned) for _, _, learned in segments)
            assert whole.tokens == sum(len(ids) for ids, _, _ in segments)
            found += [ids for ids, _, _ in segments]
        assert sorted(found) == everything


def test_every_epoch_is_shuffled_anew() -> None:
    batches = SequenceBatches(numbered([3] * 64), per_step=64, epochs=5, micro_tokens=100, seed=1)
    orders = [batches.chosen(epoch) for epoch in range(5)]
    assert all(one != other for one, other in combinations([list(range(64)), *orders], 2))


def test_the_order_depends_on_seed_and_data_and_on_nothing_else() -> None:
    def drawn(data: Corpus, seed: int, micro_tokens: int = 100) -> list[int]:
        return SequenceBatches(data, per_step=64, epochs=1, micro_tokens=micro_tokens, seed=seed).chosen(0)

    data, other = numbered([3] * 64), numbered([3] * 63 + [4])
    assert drawn(data, 1) == drawn(numbered([3] * 64), 1, micro_tokens=10)
    assert drawn(data, 1) != drawn(data, 2)
    assert drawn(data, 1) != drawn(other, 1)
    first = SequenceBatches(data, per_step=64, epochs=1, micro_tokens=100, seed=1)
    for changed in (
        SequenceBatches(other, per_step=64, epochs=1, micro_tokens=100, seed=1),
        SequenceBatches(data, per_step=32, epochs=1, micro_tokens=100, seed=1),
        SequenceBatches(data, per_step=64, epochs=2, micro_tokens=100, seed=1),
        SequenceBatches(data, per_step=64, epochs=1, micro_tokens=100, seed=2),
    ):
        assert changed.digest != first.digest
    assert SequenceBatches(data, per_step=64, epochs=1, micro_tokens=50, seed=1).digest == first.digest


def test_random_cursors_land_on_the_sample_that_a_walk_would_reach() -> None:
    """Goal R11: any (seed, length of an epoch, batch, cursor), and any number of processes that share a step."""
    rng = random.Random(11)
    for _ in range(size(400)):
        n, per_step, epochs = rng.randint(1, 60), rng.randint(1, 16), rng.randint(1, 4)
        batches = SequenceBatches(
            numbered([2] * n), per_step=per_step, epochs=epochs, micro_tokens=8, seed=rng.getrandbits(40)
        )
        walked = [batches.chosen(step) for step in range(batches.steps)]
        epoch = rng.randrange(epochs)
        own = walked[epoch * batches.steps_per_epoch : (epoch + 1) * batches.steps_per_epoch]
        assert sorted(index for step in own for index in step) == list(range(n))
        cursor, world = rng.randrange(batches.steps), rng.randint(1, 5)
        resumed = SequenceBatches(
            batches.corpus, per_step=per_step, epochs=epochs, micro_tokens=8, seed=batches.seed
        ).at(cursor)
        shared = [ids for rank in range(world) for batch in list(resumed)[rank::world] for ids, _, _ in cut(batch)]
        assert sorted(ids[0] // 2 for ids in shared) == sorted(walked[cursor])


def test_sample_one_thousand_million_is_found_as_fast_as_the_first() -> None:
    data = numbered([20] * 10_000)
    batches = SequenceBatches(data, per_step=128, epochs=10**6, micro_tokens=4_096, seed=0)

    def seconds(step: int) -> float:
        fresh = SequenceBatches(data, per_step=128, epochs=10**6, micro_tokens=4_096, seed=0)
        begun = time.perf_counter()
        fresh.at(step)
        return time.perf_counter() - begun

    assert batches.steps * 128 > 10**9
    assert min(seconds(10**9 // 128 + i) for i in range(5)) < 0.02


@settings(max_examples=CASES, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=9), st.integers(12, 30))
def test_no_other_split_of_neighbours_has_fewer_groups_or_a_less_full_fullest_group(
    lengths: list[int], most: int
) -> None:
    def fullest(borders: list[int]) -> int:
        ends = [0, *borders, len(lengths)]
        return max(sum(lengths[a:b]) for a, b in pairwise(ends))

    groups = split(lengths, most)
    assert sum(groups) == len(lengths) and all(groups)
    ours = [sum(groups[: i + 1]) for i in range(len(groups) - 1)]
    every = [
        [place for place in range(1, len(lengths)) if mask >> place & 1] for mask in range(0, 2 ** len(lengths), 2)
    ]
    possible = [borders for borders in every if fullest(borders) <= most]
    fewest = min(len(borders) for borders in possible)
    assert len(ours) == fewest
    assert fullest(ours) == min(fullest(borders) for borders in possible if len(borders) == fewest)
    for shares in (2, 3, 4):
        groups = split(lengths, most, shares)
        ours = [sum(groups[: i + 1]) for i in range(len(groups) - 1)]
        allowed = min(-(-(fewest + 1) // shares) * shares, len(lengths))
        assert sum(groups) == len(lengths) and all(groups) and len(groups) <= allowed
        assert fullest(ours) == min(fullest(borders) for borders in possible if len(borders) < allowed)


def test_settings_of_sequences_that_do_not_fit_are_named_at_once() -> None:
    with pytest.raises(UsageError) as error:
        SequenceBatches(numbered([600, 3]), per_step=0, epochs=0, micro_tokens=512, seed=0)
    for part in ("batch: 0 sequences a step", "train: 0 epochs", "512 tokens do not hold the longest sequence, 600"):
        assert part in str(error.value)
    with pytest.raises(UsageError, match="data: 1 of 2 sequences hold no token"):
        SequenceBatches(numbered([0, 3]), per_step=1, epochs=1, micro_tokens=512, seed=0)
    with pytest.raises(UsageError, match="data: no sequences"):
        SequenceBatches(collect([], 10), per_step=1, epochs=1, micro_tokens=512, seed=0)


def test_part_of_an_epoch_is_rounded_up_to_whole_steps() -> None:
    assert SequenceBatches(numbered([2] * 10), per_step=4, epochs=1.5, micro_tokens=8, seed=0).steps == 5


@pytest.mark.parametrize(("epochs", "steps"), [(1.1, 110), (2.2, 220), (0.07, 7), (1.101, 111), (3, 300), (1e-9, 1)])
def test_a_fraction_of_an_epoch_is_what_was_written(epochs, steps):
    batches = SequenceBatches(numbered([3] * 200), per_step=2, epochs=epochs, micro_tokens=99, seed=0)
    assert batches.steps == steps
