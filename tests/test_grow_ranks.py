"""A member and its ancestors made by several ranks: one store, and the folders that one process makes."""

import hashlib
from dataclasses import replace

import pytest

from camelid.journal import Narrator
from camelid.machine import Machine
from camelid.ranks import ALONE
from camelid.recipes import MEMBERS
from camelid.request import Request
from camelid.run import Work
from camelid.store import Store
from tests import group

MACHINE = Machine(threads=1, shares=4)


def grown(ranks, path, member, **words):
    """SHA-256 of every weights file of the store, and whether each stage was made now."""
    narrator = Narrator(quiet=True, warns=False)
    machine = replace(MACHINE, **words)
    work = Work(Request(member, "tiny"), MEMBERS[member].make("tiny"), Store(path), machine, narrator, 60.0, ranks)
    made = [work.make(owner, stage) for owner, stage in work.stages()]
    files = sorted(path.glob("stages/*/model.safetensors"))
    return {f.parent.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}, [each.fresh for each in made]


@pytest.mark.parametrize("words", [{"data": 2}, {"shard": 2}], ids=["replicas", "shards"])
def test_ranks_grow_a_member_and_its_base_with_the_bits_of_one_process(words, tmp_path):
    alone, fresh = grown(ALONE, tmp_path / "alone", "alpaca")
    assert fresh == [True] * 3 and len(alone) == 2
    work = lambda ranks: grown(ranks, tmp_path / "ranks", "alpaca", **words)
    assert group.values(group.together(2, work)) == [[alone, fresh]] * 2
    assert group.values(group.together(2, work)) == [[alone, [False] * 3]] * 2


def test_what_rank_0_finds_wrong_ends_all(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "stages").write_text("in the way")
    ended = group.together(2, lambda ranks: grown(ranks, tmp_path / "store", "alpaca", data=2))
    assert ended[0].code and ended[1].code == 1 and "RankFailed: rank 0 failed, taking pieces-" in ended[1].error, ended
