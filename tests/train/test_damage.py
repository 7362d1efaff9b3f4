"""Goal R5 on the commits of a run: whatever happens to their bytes, a good one is gone on with, and the rest told."""

import random
import shutil

import pytest

from camelid import durable
from camelid.errors import CamelidError
from camelid.train.state import PREFIX
from tests.conftest import size
from tests.train import tiny

KINDS = ("bit", "cut", "zeros", "swapped", "missing", "stale", "another run's", "longer")


class Stop(Exception):
    pass


def stopped(path, seed=0):
    """A run that ended after five steps in memory: commits of steps 2 and 4."""

    def die(step, *_):
        if step == 5:
            raise Stop

    made = tiny.model()
    with pytest.raises(Stop):
        words = tiny.conduct(steps=2, progress=die)
        tiny.run(path, made, tiny.optimizer(made), tiny.Steps(seed=seed), seed=seed, conduct=words)


def hurt(kind, newest, older, other, draw):
    """Does one thing to the newest commit."""
    path = newest / draw.choice(["state.safetensors", "state.json", "manifest.json"])
    data = bytearray(path.read_bytes())
    at = draw.randrange(len(data))
    if kind == "bit":
        data[at] ^= 1 << draw.randrange(8)
    elif kind == "cut":
        del data[at:]
    elif kind == "zeros":
        page = slice(at // 512 * 512, min(at // 512 * 512 + 512, len(data)))
        data[page] = bytes(byte ^ 255 for byte in data[page]) if not any(data[page]) else bytes(len(data[page]))
    elif kind == "swapped":
        path = newest / "state.safetensors"
        data = bytearray((newest / "state.json").read_bytes())
    elif kind == "stale":
        path = newest / draw.choice(["state.safetensors", "state.json"])
        data = bytearray((older / path.name).read_bytes())
    elif kind == "another run's":
        path = newest / draw.choice(["state.safetensors", "state.json"])
        data = bytearray((other / path.name).read_bytes())
    elif kind == "longer":
        data += b"\0"
    path.unlink()
    if kind != "missing":
        path.write_bytes(data)


def test_any_damage_is_found_before_a_tensor_is_used_and_the_newest_good_commit_is_gone_on_with(tmp_path):
    stopped(tmp_path / "run")
    stopped(tmp_path / "other", seed=1)
    older, newest = durable.commits(tmp_path / "run" / "commits", PREFIX)
    other = durable.commits(tmp_path / "other" / "commits", PREFIX)[-1]
    for case in range(size(100)):
        draw, told = random.Random(case), []
        copy = tmp_path / "copy"
        shutil.copytree(tmp_path / "run" / "commits", copy)
        hurt(KINDS[case % len(KINDS)], copy / newest.name, older, other, draw)
        found = durable.newest(copy, PREFIX, damaged=told.append)
        assert found is not None and found.name == older.name, (case, KINDS[case % len(KINDS)])
        assert len(told) == 1 and isinstance(told[0], CamelidError) and newest.name in str(told[0])
        shutil.rmtree(copy)


def test_good_commits_raise_no_alarm(tmp_path):
    stopped(tmp_path / "run")
    commits, told = tmp_path / "run" / "commits", []
    newest = durable.commits(commits, PREFIX)[-1]
    assert all(durable.newest(commits, PREFIX, damaged=told.append) == newest for _ in range(size(100)))
    assert told == []
