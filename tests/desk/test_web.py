"""CommonCrawl: what is marked as a copy is one, what is marked as junk tells nothing, and the rest is neither."""

import pytest

from camelid import desk
from camelid.desk.web import DUPLICATES, JUNK, SPAM, undressed


@pytest.fixture(scope="module")
def pages():
    source = desk.sources(desk.world("small"))["CommonCrawl"]
    return [page for page, _ in zip(source.documents(), range(5000), strict=False)]


def shingles(text):
    words = text.split()
    return {tuple(words[place : place + 3]) for place in range(max(1, len(words) - 2))}


def test_a_near_copy_shares_its_body_with_the_page_it_is_of(pages):
    copies = [page for page in pages if page.duplicate_of is not None]
    assert abs(len(copies) / len(pages) - DUPLICATES) < 0.015
    for page in copies:
        original = pages[page.duplicate_of]
        assert original.duplicate_of is None
        assert undressed(page.text) == undressed(original.text)
        assert (page.facts, page.passing, page.sums) == (original.facts, original.passing, original.sums)


def test_pages_not_marked_as_copies_share_little_with_the_pages_before_them(pages):
    seen = [(page, shingles(undressed(page.text))) for page in pages[:1500] if page.duplicate_of is None]
    long = [(page, found) for page, found in seen if len(found) >= 12]
    alike = 0
    for place, (_, found) in enumerate(long):
        alike += any(len(found & other) / len(found | other) > 0.8 for _, other in long[max(0, place - 60) : place])
    assert alike <= len(long) / 200


def test_junk_is_marked_and_tells_nothing(pages):
    junk = [page for page in pages if page.junk]
    assert abs(len(junk) / len(pages) - JUNK) < 0.01
    assert all(not page.facts and not page.sums for page in junk)
    assert all(set(page.text.rstrip("!").split()) <= set(SPAM) for page in junk)
    assert not any(set(page.text.rstrip("!").split()) <= set(SPAM) for page in pages if not page.junk)


def test_c4_has_neither_menus_nor_junk_nor_copies():
    source = desk.sources(desk.world("small"))["C4"]
    pages = [page for page, _ in zip(source.documents(), range(2000), strict=False)]
    assert all(page.text == undressed(page.text) for page in pages)
    assert not any(page.junk or page.duplicate_of is not None for page in pages)
