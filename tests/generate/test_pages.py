from __future__ import annotations

import random

import pytest

from camelid.generate.pages import Lease, Pages
from tests.conftest import size


@pytest.mark.parametrize("seed", range(size(60)))
def test_pages_add_up_and_hold_what_they_are_found_by(seed: int) -> None:
    """Against a plain list of what stands in which page: every page of a lease holds that lease's own tokens, whoever
    came, left, or was pushed out; and no page passes between owners."""
    chance = random.Random(seed)
    size_, limit = chance.choice([1, 2, 4]), chance.randint(4, 20)
    pages, content = Pages(limit, size_), {}
    live: list[tuple[Lease, list[int], str, list[int]]] = []  # lease, its text, owner, tokens held
    reused = 0
    for _ in range(300):
        if len(live) < 4 and chance.random() < 0.4:
            text, owner = [chance.randrange(2) for _ in range(chance.randint(1, 14))], chance.choice("ab")
            lease = pages.lease(owner, text, share=chance.random() < 0.9)
            if lease is not None:
                assert lease.held <= len(text) - 1 and lease.held % size_ == 0
                reused += lease.held
                live.append((lease, text, owner, text[: lease.held]))
        elif live:
            lease, text, owner, held = live[chance.randrange(len(live))]
            if chance.random() < 0.2:
                lease.close(keep=chance.random() < 0.8)
                lease.close()
                live = [own for own in live if own[0] is not lease]
            else:
                if len(held) == len(text):
                    text.append(chance.randrange(2))
                count = chance.randint(1, len(text) - len(held))
                if lease.reach(len(held) + count):
                    for place in range(len(held), len(held) + count):
                        content[lease.numbers[place // size_], place % size_] = (owner, tuple(text[: place + 1]))
                        held.append(text[place])
                    lease.filled(text, len(held))
                elif len(live) > 1:
                    lease.close()
                    live = [own for own in live if own[0] is not lease]
        for lease, text, owner, held in live:
            for place in range(len(held)):
                assert content[lease.numbers[place // size_], place % size_] == (owner, tuple(text[: place + 1]))
        count_ = pages.count()
        assert (
            count_.adds_up and count_.made <= limit and count_.used == len({n for own in live for n in own[0].numbers})
        )
    for lease, *_ in live:
        lease.close()
    assert pages.count().used == 0 and pages.owners <= 2
    assert reused or limit < 8


def test_a_page_being_read_is_waited_for_and_the_wait_ends_with_its_reader() -> None:
    pages = Pages(10, 2)
    reader = pages.lease("a", [1, 2, 3, 4, 5])
    assert reader is not None
    assert pages.lease("a", [1, 2, 9, 9, 9]) is None and pages.lease("b", [1, 2, 9]) is not None
    assert reader.reach(2)
    reader.filled([1, 2, 3, 4, 5], 2)
    follower = pages.lease("a", [1, 2, 9, 9, 9])
    assert follower is not None and follower.held == 2 and pages.lease("a", [1, 2, 3, 4, 9]) is None
    reader.close()
    again = pages.lease("a", [1, 2, 3, 4, 9])
    assert again is not None and again.held == 2


def test_the_longest_unused_goes_first_and_an_owner_with_nothing_left_is_forgotten() -> None:
    pages = Pages(3, 1)
    for owner in "abc":
        lease = pages.lease(owner, [1, 2])
        assert lease is not None and lease.reach(1)
        lease.filled([1, 2], 1)
        lease.close()
    touched = pages.lease("a", [1, 2])
    assert touched is not None and touched.held == 1
    touched.close()
    assert pages.owners == 3 and pages.left == 3
    taken = [pages.take(), pages.take()]
    assert sorted(page for page in taken if page is not None) == [1, 2] and pages.owners == 1
    found = pages.lease("a", [1, 2])
    assert found is not None and found.held == 1 and pages.take() is None
