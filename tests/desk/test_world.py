"""The ground truth: deterministic, of the size asked for, and without contradictions."""

import hashlib
import itertools
import subprocess
import sys
from collections import Counter

import pytest

from camelid import desk
from camelid.desk.world import RELATIONS
from camelid.errors import UsageError

DIGEST = """
import hashlib
import itertools
from camelid import desk
world = desk.world("tiny", seed=3)
texts = [d.text for source in desk.sources(world).values() for d in source.documents(bytes=20_000)]
splits = ("train", "held_out", "held_out_wording")
items = [str(item) for split in splits for item in desk.instructions(world, split, 100)]
print(hashlib.sha256("|".join([str(world.facts), str(sorted(world.reserved)), *texts, *items]).encode()).hexdigest())
"""


def test_same_seed_same_bytes_in_every_process_whatever_the_hash_seed():
    digests = set()
    for hash_seed in ("0", "1", "4242"):
        run = subprocess.run(
            [sys.executable, "-c", DIGEST],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": hash_seed},
        )
        digests.add(run.stdout.strip())
    world = desk.world("tiny", seed=3)
    texts = [d.text for source in desk.sources(world).values() for d in source.documents(bytes=20_000)]
    splits = ("train", "held_out", "held_out_wording")
    items = [str(item) for split in splits for item in desk.instructions(world, split, 100)]
    digests.add(
        hashlib.sha256("|".join([str(world.facts), str(sorted(world.reserved)), *texts, *items]).encode()).hexdigest()
    )
    assert len(digests) == 1


def test_another_seed_is_another_world():
    assert desk.world("tiny", seed=0) == desk.world("tiny", seed=0)
    assert desk.world("tiny", seed=0) != desk.world("tiny", seed=1)


@pytest.mark.parametrize("name", desk.SIZES)
def test_a_size_holds_as_much_as_it_says_and_all_its_names_differ(name):
    size = desk.SIZES[name]
    world = desk.world(name)
    assert (len(world.people), len(world.places), len(world.things)) == (size.people, size.places, size.things)
    assert len(world.strangers) == size.strangers
    names = [*world.kind_of, *world.regions, *world.strangers]
    assert len({found.lower() for found in names}) == size.people + size.places + size.things + 4 + size.strangers
    counts = {kind: len(RELATIONS[kind]) for kind in RELATIONS}
    assert len(world.facts) == sum(counts[kind] for kind in world.kind_of.values())
    assert len(set(world.facts)) == len(world.facts)


def test_sizes_grow():
    facts = [len(desk.world(name).facts) for name in ("tiny", "small", "medium", "large")]
    assert all(later >= 2 * earlier for earlier, later in itertools.pairwise(facts)), facts
    assert len(desk.world(1000).people) == 1000


@pytest.mark.parametrize("seed", range(5))
def test_values_are_spread_evenly_so_that_none_can_be_guessed(seed):
    world = desk.world("small", seed)
    for relation in ("home", "trade", "pet", "food"):
        counts = Counter(getattr(person, relation) for person in world.people)
        assert len(counts) == 8
        assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("seed", range(5))
def test_friends_are_mutual_and_what_is_reserved_is_closed(seed):
    world = desk.world("small", seed)
    people = {person.name: person for person in world.people}
    for person in world.people:
        assert people[person.friend].friend == person.name != person.friend
        assert (person.name in world.reserved) == (person.friend in world.reserved)
    for thing in world.things:
        assert (thing.name in world.reserved) == (thing.maker in world.reserved)
    for kind, total in (("person", 40), ("place", 8), ("thing", 12)):
        assert 0 < sum(name in world.reserved for name in world.named(kind)) <= 2 * total // 5


def test_a_false_statement_does_not_hold():
    world = desk.world("tiny")
    assert all(world.holds(fact) for fact in world.facts)
    person = world.people[0]
    wrong = next(place.name for place in world.places if place.name != person.home)
    assert not world.holds(desk.Fact(person.name, "home", wrong))


@pytest.mark.parametrize(
    ("size", "seed", "told"),
    [
        ("smal", 0, "did you mean 'small'"),
        (7, 0, "from 8"),
        (41, 0, "odd"),
        (True, 0, "is no size"),
        (None, 0, "is no size"),
        ("small", "0", "whole number"),
        (desk.Size("mine", people=40, places=1, things=12, words=99, largest=12), 0, "places"),
    ],
)
def test_a_size_or_seed_that_makes_no_world_is_refused_in_words(size, seed, told):
    with pytest.raises(UsageError, match=told):
        desk.world(size, seed)


def test_every_problem_of_a_size_is_told_at_once():
    with pytest.raises(UsageError) as caught:
        desk.world(desk.Size("mine", people=7, places=1, things=1, words=99, largest=3))
    assert len(caught.value.problems) == 6
