from __future__ import annotations

import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camelid.data.corpus import Corpus
from camelid.data.mixture import Mixture, Piece
from camelid.errors import UsageError
from camelid.randomness import key, order
from tests.conftest import size
from tests.data.stand_ins import corpora, numbered


def spelled(mixture: Mixture, pieces: list[Piece]) -> list[tuple[str, int]]:
    """Every token that the pieces cover, as (source, id)."""
    return [(p.source, int(t)) for p in pieces for t in mixture.corpora[p.source].sequence(p.document)[p.begin : p.end]]


def slowly(sources: dict[str, Corpus], weights: dict[str, float], tokens: int, seed: int) -> list[tuple[str, int]]:
    """The mixed stream by always taking the next document of the source whose (tokens given / weight) is least."""
    stream: list[tuple[str, int]] = []
    state = {name: [0, 0, 0] for name in weights}  # tokens given, epoch, turn within it
    while len(stream) < tokens:
        name = min(weights, key=lambda name: state[name][0] / weights[name])
        given_so_far, epoch, turn = state[name]
        corpus = sources[name]
        shuffle = order(key(seed, "mixture", name, corpus.digest, epoch), len(corpus))
        sequence = corpus.sequence(shuffle[turn])
        stream += [(name, int(id)) for id in sequence]
        state[name] = [given_so_far + len(sequence), *((epoch, turn + 1) if turn + 1 < len(corpus) else (epoch + 1, 0))]
    return stream[:tokens]


NAMES = ("web", "books", "code")
WEIGHTS = st.sampled_from([1.0, 2.0, 4.0, 0.5, 8.0])  # powers of two: the slow reference divides exactly


@settings(max_examples=size(150), deadline=None)
@given(st.lists(st.tuples(corpora(), WEIGHTS), min_size=1, max_size=3), st.integers(0, 99), st.data())
def test_any_place_holds_what_a_walk_from_the_start_finds_there(
    parts: list[tuple[Corpus, float]], seed: int, data: st.DataObject
) -> None:
    sources = {name: corpus for name, (corpus, _) in zip(NAMES, parts, strict=False)}
    weights = {name: weight for name, (_, weight) in zip(NAMES, parts, strict=False)}
    mixture = Mixture.by_proportion(sources, weights, 200, seed=seed)
    walked = slowly(sources, weights, 200, seed)
    assert spelled(mixture, list(mixture.pieces(0, 200))) == walked
    start = data.draw(st.integers(0, 199))
    stop = data.draw(st.integers(start, 200))
    assert spelled(mixture, list(mixture.pieces(start, stop))) == walked[start:stop]
    item = mixture.item(start)
    assert walked[start] in spelled(mixture, [item])
    assert item.end == len(sources[item.source].sequence(item.document))
    assert mixture.given(stop) == {name: sum(1 for n, _ in walked[:stop] if n == name) for name in sources}


@settings(max_examples=size(60), deadline=None)
@given(st.lists(st.tuples(corpora(shortest=0), st.sampled_from([0.67, 0.15, 0.045, 0.02])), min_size=2, max_size=3))
def test_every_prefix_holds_the_proportions_to_within_one_document_of_each_source(
    parts: list[tuple[Corpus, float]],
) -> None:
    sources = {name: corpus for name, (corpus, _) in zip(NAMES, parts, strict=False)}
    total = sum(weight for _, weight in parts)
    share = {name: weight / total for name, (_, weight) in zip(NAMES, parts, strict=False)}
    mixture = Mixture.by_proportion(sources, share, 10_000, seed=5)
    longest = {name: int(corpus.lengths.max()) for name, corpus in sources.items()}
    for position in [1, 7, 100, 999, 5_000, 10_000]:
        got = mixture.given(position)
        assert sum(got.values()) == position
        for name in sources:
            others = sum(longest[other] for other in sources if other != name)
            assert -share[name] * others - 1e-6 <= got[name] - share[name] * position <= longest[name] + 1e-6


@settings(max_examples=size(80), deadline=None)
@given(st.lists(st.tuples(corpora(), st.integers(1, 3)), min_size=1, max_size=3), st.integers(0, 99))
def test_whole_epochs_give_every_token_exactly_that_often(parts: list[tuple[Corpus, int]], seed: int) -> None:
    sources = {name: corpus for name, (corpus, _) in zip(NAMES, parts, strict=False)}
    epochs = {name: count for name, (_, count) in zip(NAMES, parts, strict=False)}
    mixture = Mixture.by_epochs(sources, epochs, seed=seed)
    found = spelled(mixture, list(mixture.pieces(0, mixture.tokens)))
    expected = [(name, id) for name, corpus in sources.items() for id in corpus.ids.tolist() * epochs[name]]
    assert sorted(found) == sorted(expected)
    for name, corpus in sources.items():  # and each epoch is whole before the next begins
        own = [id for source, id in found if source == name]
        for epoch in range(epochs[name]):
            assert sorted(own[epoch * corpus.tokens : (epoch + 1) * corpus.tokens]) == corpus.ids.tolist()


def test_part_of_an_epoch_ends_with_the_document_that_reaches_it() -> None:
    mixture = Mixture.by_epochs(
        {"web": numbered([4] * 10), "books": numbered([3] * 5)}, {"web": 0.5, "books": 1.5}, seed=1
    )
    assert mixture.given(mixture.tokens) == {"web": 20, "books": 24}


def test_a_longer_run_begins_as_the_shorter_one() -> None:
    sources = {"web": numbered([5, 3, 8]), "books": numbered([2, 9])}
    short, long = (Mixture.by_proportion(sources, {"web": 0.7, "books": 0.3}, n, seed=3) for n in (100, 1_000))
    assert list(short.pieces(0, 99)) == list(long.pieces(0, 99))


def test_a_capped_source_gives_no_more_than_its_cap_and_the_others_take_its_share() -> None:
    sources = {"web": numbered([5] * 200), "books": numbered([5] * 10), "code": numbered([5] * 100)}
    wanted = {"web": 0.5, "books": 0.3, "code": 0.2}
    mixture = Mixture.by_proportion(sources, wanted, 1_000, seed=2, most_epochs={"books": 2})
    assert mixture.given(1_000)["books"] == 100
    web, books, code = mixture.shares()
    assert (books.asked, books.granted, books.epochs) == (0.3, 0.1, 2.0)
    assert abs(web.tokens / code.tokens - 0.5 / 0.2) < 0.05
    assert abs(mixture.given(500)["books"] - 50) <= 5, "the cap is spread over the run, not met early"


def test_what_decides_the_order_decides_the_digest() -> None:
    web, books = numbered([5, 3, 8]), numbered([2, 9])
    make = Mixture.by_proportion
    digests = {
        make({"web": web, "books": books}, {"web": 1, "books": 1}, 100, seed=0).digest,
        make({"web": web, "books": books}, {"web": 1, "books": 1}, 100, seed=1).digest,
        make({"web": web, "books": books}, {"web": 2, "books": 1}, 100, seed=0).digest,
        make({"web": web, "books": books}, {"web": 1, "books": 1}, 101, seed=0).digest,
        make({"web": books, "books": web}, {"web": 1, "books": 1}, 100, seed=0).digest,
    }
    assert len(digests) == 5


def test_every_wrong_number_is_named_at_once() -> None:
    sources = {"web": numbered([5]), "books": numbered([0, 0]), "code": numbered([3])}
    with pytest.raises(UsageError) as error:
        Mixture.by_proportion(sources, {"wed": 1, "web": -1, "books": 1}, 0, seed=0)
    said = str(error.value)
    for part in ("tokens: 0", "proportion.wed: no such source; did you mean 'web'?", "proportion.web: -1",
                 "proportion.books: 1 of a source without tokens", "proportion.code: is missing"):  # fmt: skip
        assert part in said
    with pytest.raises(UsageError, match="10 asked, 8 there under most_epochs"):
        Mixture.by_proportion(
            {"web": numbered([5]), "code": numbered([3])}, {"web": 1, "code": 1}, 10, seed=0, most_epochs=1
        )
    with pytest.raises(UsageError, match="every source has 0"):
        Mixture.by_proportion({"web": numbered([5])}, {"web": 0}, 10, seed=0)
    with pytest.raises(IndexError):
        Mixture.by_epochs({"web": numbered([5])}, 1, seed=0).item(5)


def test_finding_a_place_costs_the_same_however_far_it_is() -> None:
    rng = np.random.default_rng(0)
    sources = {str(i): numbered(rng.integers(10, 50, 1_000).tolist()) for i in range(7)}
    table_1 = dict(zip(sources, (0.67, 0.15, 0.045, 0.045, 0.045, 0.025, 0.02), strict=True))
    mixture = Mixture.by_proportion(sources, table_1, 2 * 10**12, seed=0)

    def seconds(position: int) -> float:
        begun = time.perf_counter()
        mixture.item(position)
        return time.perf_counter() - begun

    assert min(seconds(10**9 + i) for i in range(5)) < 0.02
    assert min(seconds(10**12 + i) for i in range(5)) < 0.02


def test_many_elements_of_an_order_are_those_taken_one_by_one() -> None:
    rng = random.Random(1)
    for _ in range(size(300)):
        shuffle = order(rng.getrandbits(63), rng.choice([1, 2, 3, 5, 64, 100, 257]))
        everything = shuffle.take(np.arange(shuffle.n))
        assert everything.tolist() == list(shuffle)
        assert sorted(everything.tolist()) == list(range(shuffle.n))
    huge = order(7, 10**15)
    places = [rng.randrange(10**15) for _ in range(100)]
    assert huge.take(np.array(places)).tolist() == [huge[place] for place in places]
    with pytest.raises(IndexError):
        huge.take(np.array([10**15]))
