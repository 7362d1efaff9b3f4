"""A member and its ancestors made by several ranks: one store, and the folders that one process makes."""

import hashlib
import os
import subprocess
import sys
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
    files = sorted([*path.glob("stages/*/model.safetensors"), *path.glob("runs/*/adapter/adapter_model.safetensors")])
    sums = {f"{f.parent}".removeprefix(f"{path}"): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    return sums, [each.fresh for each in made]


@pytest.mark.parametrize("words", [{"data": 2}, {"shard": 2}], ids=["replicas", "shards"])
def test_ranks_grow_a_member_and_its_base_with_the_bits_of_one_process(words, tmp_path):
    alone, fresh = grown(ALONE, tmp_path / "alone", "alpaca")
    assert fresh == [True] * 3 and len(alone) == 2
    work = lambda ranks: grown(ranks, tmp_path / "ranks", "alpaca", **words)
    assert group.values(group.together(2, work)) == [[alone, fresh]] * 2
    assert group.values(group.together(2, work)) == [[alone, [False] * 3]] * 2


@pytest.mark.parametrize("member", ["platypus", "chinese-llama2"])
def test_shards_grow_adapters_and_merge_them_with_the_bits_of_one_process(member, tmp_path):
    """Beside a base in int8, whose codes are divided too, and in plain reading with rows that are trained whole."""
    stages = MEMBERS[member].make("tiny").stages
    assert any(getattr(stage, "adapter", None) for stage in stages)
    alone, _ = grown(ALONE, tmp_path / "alone", member)
    work = lambda ranks: grown(ranks, tmp_path / "ranks", member, shard=2)[0]
    assert group.values(group.together(2, work)) == [alone] * 2


def test_what_rank_0_finds_wrong_ends_all(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "stages").write_text("in the way")
    ended = group.together(2, lambda ranks: grown(ranks, tmp_path / "store", "alpaca", data=2))
    assert ended[0].code and ended[1].code == 1 and "RankFailed: rank 0 failed, taking pieces-" in ended[1].error, ended


ENDING = """
import os
from pathlib import Path
from camelid.ranks import joined
from tests.train.test_parallel import machine, trained

def threads():
    return [f.read_text().strip() for f in Path("/proc/self/task").glob("*/comm")].count("pt_gloo_runloop"[:15])

with joined() as ranks:
    trained(ranks, Path(os.environ["RUN"]), machine(shard=2))
    assert threads()
print(threads())
"""


def test_a_groups_threads_end_with_it_though_a_divided_model_held_it(tmp_path):
    """One that still lets go of a tensor while Python ends aborts the process: one run in twenty did."""
    common = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(group.free_port()),
        "RUN": str(tmp_path),
    }
    ranks = [{"RANK": rank, "LOCAL_RANK": rank, **common} for rank in "01"]
    started = [
        subprocess.Popen([sys.executable, "-c", ENDING], env={**os.environ, **own}, stdout=subprocess.PIPE, text=True)
        for own in ranks
    ]
    assert [(each.communicate()[0], each.returncode) for each in started] == [("0\n", 0)] * 2
