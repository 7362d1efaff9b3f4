"""Losses that leap: the same bits in any two runs, however interrupted or shared; a budget, then a halt that reports."""

import json
import os
import random
import signal
from dataclasses import replace

import pytest

from camelid import durable
from camelid.errors import NonFinite, UsageError
from camelid.ranks import ALONE
from camelid.train import loop
from camelid.train.interrupt import Interrupted
from camelid.train.loss import NextToken
from camelid.train.spikes import Spiked, Spikes
from camelid.train.state import PREFIX, steps_of
from tests import faults, group
from tests.conftest import size
from tests.train import tiny

STEPS = tiny.Steps(steps=40, micros=3)
MEETING = Spikes(budget=3, factor=2.0, window=8, every=5)


class Poisoned(NextToken):
    """A loss ten times too large at some steps, and no number at one."""

    def __init__(self, steps, spoilt=None):
        self.steps, self.spoilt, self.now = steps, spoilt, 0

    def __call__(self, model, batch):
        if self.now == self.spoilt:
            return super().__call__(model, batch) * float("nan")
        return super().__call__(model, batch) * (10.0 if self.now in self.steps else 1.0)

    def draw(self, step, micro):
        self.now = step


def conduct(ranks=ALONE, spikes=MEETING, **words):
    found = tiny.conduct(**words)
    return replace(found, machine=replace(found.machine, data=ranks.world), ranks=ranks, spikes=spikes)


def ran(path, poisoned, spoilt=None, **words):
    made, loss = tiny.model(), Poisoned(poisoned, spoilt)
    optimizer = tiny.optimizer(made, lr=1e-3)
    chosen = conduct(**words)
    done = tiny.run(path, made, optimizer, STEPS, loss=loss, draw=loss.draw, conduct=chosen)
    state = json.loads((durable.newest(path / "commits", PREFIX) / "state.json").read_text())
    counted = state["counters"]["spikes"]
    return [optimizer.digest(), (path / "journal.jsonl").read_text(), done.skipped, optimizer.updates, counted]


def leapt(path):
    """The steps that leapt, as the journal tells them."""
    return [line["step"] - 1 for line in steps_of(path) if "leapt to" in line.get("refused", "")]


def test_spikes_roll_back_and_pass_over_with_the_same_bits_in_every_run_however_interrupted_or_shared(tmp_path):
    for case in range(size(3)):
        draw = random.Random(case)
        pair = 5 * draw.randrange(2, 8) + 1  # two in one window
        poisoned = sorted([pair, pair + 2, draw.choice([step for step in range(9, 40) if abs(step - pair) > 3])])
        whole = ran(tmp_path / f"{case}-a", poisoned)
        assert ran(tmp_path / f"{case}-b", poisoned, steps=draw.randint(1, 7)) == whole
        lines = list(steps_of(tmp_path / f"{case}-a"))
        assert [line["step"] for line in lines] == list(range(1, 41))
        gone = {line["step"] - 1 for line in lines if "refused" in line}
        assert set(poisoned) <= gone and whole[2] == len(gone) and whole[3] == 40 - len(gone)
        assert leapt(tmp_path / f"{case}-a") == poisoned and whole[4] == 3
        for step in poisoned:
            assert set(range(step // 5 * 5, step)) <= gone  # back to the mark
        path, stops = tmp_path / f"{case}-c", sorted(draw.sample(range(1, 40), 4))
        for stop in [*stops, 99]:

            def ask(step, *_, stop=stop):
                if step >= stop:
                    os.kill(os.getpid(), signal.SIGTERM)

            try:
                found = ran(path, poisoned, progress=ask)
            except Interrupted:
                continue
        assert found == whole
        if case < 1:

            def work(ranks, path=tmp_path / "d", poisoned=poisoned):
                if not ranks.leads:  # what rank 0 writes may not have reached it yet
                    loop.steps_of = lambda path: [{"loss": 1e-3}] * 99
                return ran(path, poisoned, ranks=ranks)

            assert group.values(group.together(2, work)) == [whole] * 2


def test_after_as_many_spikes_as_allowed_the_run_halts_committed_and_says_where(tmp_path):
    with pytest.raises(
        Spiked, match=r"step 31 of 40: the loss leapt to .* no spike more was to be passed over"
    ) as told:
        ran(tmp_path, (12, 14, 20, 30, 33))
    assert told.value.exit_code == 1
    assert durable.newest(tmp_path / "commits", PREFIX).name == f"{PREFIX}{30:08d}"
    assert leapt(tmp_path) == [12, 14, 20]
    with pytest.raises(Spiked, match="step 31 of 40"):  # resuming changes nothing: no cycle
        ran(tmp_path, (12, 14, 20, 30, 33))
    ran(tmp_path, (12, 14, 20, 30, 33), spikes=replace(MEETING, budget=5))
    assert leapt(tmp_path) == [12, 14, 20, 30, 33]


def test_spikes_of_one_window_count_against_the_budget_each(tmp_path):
    within = replace(MEETING, budget=2, every=20)
    for stop in (
        99,
        24,
        27,
    ):  # halting whole, or killed after the first spike, or after the second, with no commit since

        def die(step, *_, stop=stop):
            if step == stop:
                raise KeyboardInterrupt

        path = tmp_path / str(stop)
        if stop < 99:
            with pytest.raises(KeyboardInterrupt):
                ran(path, (22, 25, 28, 31, 34), spikes=within, progress=die)
        with pytest.raises(Spiked, match="step 29 of 40"):
            ran(path, (22, 25, 28, 31, 34), spikes=within, steps=stop % 3 + 1)
        assert leapt(path) == [22, 25]
        assert (path / "journal.jsonl").read_bytes() == (tmp_path / "99" / "journal.jsonl").read_bytes()


def test_what_is_not_finite_after_a_spike_is_passed_over_by_what_its_message_says(tmp_path):
    with pytest.raises(NonFinite, match=r"step 31 of 40.* resume with skip=4 to pass over it"):
        ran(tmp_path, (12,), spoilt=30)
    assert ran(tmp_path, (12,), spoilt=30, skip=4)[2] == 4


def test_a_run_without_spikes_has_the_bits_of_one_that_does_not_look_for_any(tmp_path):
    assert ran(tmp_path / "a", ())[:2] == ran(tmp_path / "b", (), spikes=None)[:2]


def test_settings_that_make_no_sense_and_runs_begun_without_marks_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"(?s)budget: -1.*factor: 1.*window: 2 losses.*every: 0"):
        ran(tmp_path / "a", (), spikes=Spikes(budget=-1, factor=1, window=2, every=0))

    def ask(step, *_):
        if step == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        ran(tmp_path / "b", (), spikes=None, progress=ask)
    with pytest.raises(UsageError, match="no commit of step 5 to go back to"):
        ran(tmp_path / "b", ())


def held(path):
    return [int(each.name.removeprefix(PREFIX)) for each in durable.commits(path / "commits", PREFIX)]


def test_the_disk_holds_the_newest_commits_and_their_marks_and_no_more(tmp_path):
    most = []
    marked = replace(MEETING, every=20)
    count = lambda *_: most.append(held(tmp_path))
    ran(tmp_path, (28, 35), spikes=marked, steps=1, progress=count)
    assert max(map(len, most)) == 3 and [18, 19] in [each[-2:] for each in most]
    assert [0, 19, 20] in most and [20, 21] in most and [20, 26, 27] in most  # 20 needs no other; 19 needs its mark
    assert held(tmp_path) == [20, 39, 40]
    assert sorted(each.name for each in (tmp_path / "commits").iterdir()) == [f"step-{n:08d}" for n in (20, 39, 40)]


def test_a_damaged_commit_beyond_the_mark_is_set_aside_and_not_deleted(tmp_path):
    def damage(step, *_):
        if step == 25:
            (tmp_path / "commits" / f"{PREFIX}00000024" / "state.json").write_text("{}")

    words = []
    ran(tmp_path, (25,), spikes=replace(MEETING, every=20), steps=1, progress=damage, note=words.append)
    (aside,) = (tmp_path / "commits").glob("damaged-*")
    assert aside.name.startswith(f"damaged-{PREFIX}00000024") and "set aside" in words[0]


def test_killed_at_any_step_of_going_back_the_run_ends_in_the_same_bits(tmp_path):
    words = {"spikes": replace(MEETING, every=20), "steps": 2}
    disk = faults.Recording()
    whole = ran(tmp_path / "whole", (22, 25), files=disk, **words)
    cuts = [at for at, (kind, *_) in enumerate(disk.steps) if kind == "truncate"]
    assert len(cuts) == 2
    for at in random.Random(0).sample(range(cuts[1] - 18, cuts[1] + 6), size(3)):
        path = tmp_path / str(at)
        with pytest.raises(faults.Killed):
            ran(path, (22, 25), files=faults.Stopping(at, torn=at), **words)
        assert ran(path, (22, 25), **words) == whole, at
