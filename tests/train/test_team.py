"""Several ranks on one step: the bits of one process in ordered sums, 1e-6 in fast ones, and one clear end for all."""

import os
import random
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from camelid import durable
from camelid.errors import UsageError
from camelid.ranks import ALONE
from camelid.train.interrupt import Interrupted
from camelid.train.loss import NextToken
from camelid.train.state import PREFIX, steps_of
from tests import group
from tests.conftest import size
from tests.train import tiny
from tests.train.test_loop import Injured, gradient, placed
from tests.train.test_workers import KINDS, Ragged, Sparse


def conduct(ranks, *, sums="ordered", **words):
    found = tiny.conduct(**words)
    return replace(found, machine=replace(found.machine, data=ranks.world, sums=sums), ranks=ranks)


def trained(ranks, path, kind="plain", batches=None, **words):
    """Digest of weights and moments, and the journal, at the end of a run."""
    make, chosen = KINDS[kind]
    made, own = make()
    made = made.to(chosen.get("dtype", made.dtype)) if kind == "lora" else made
    optimizer = tiny.optimizer(made, **chosen)
    own = {"loss": Sparse()} | own
    tiny.run(path, made, optimizer, batches or Ragged(), conduct=conduct(ranks, skip=1, **words), **own)
    held = b"".join(weight.detach().view(torch.uint8).numpy().tobytes() for weight in made.state_dict().values())
    return [optimizer.digest(), (path / "journal.jsonl").read_text(), held.hex()]


@pytest.mark.parametrize("kind", KINDS)
def test_however_many_ranks_share_a_step_weights_moments_and_journal_have_the_bits_of_one_process(kind, tmp_path):
    alone = trained(ALONE, tmp_path / "1", kind)
    for world in (2, 3) if kind != "plain" else (2, 3, 4):
        found = group.values(
            group.together(world, lambda ranks, world=world: trained(ranks, tmp_path / f"{world}", kind))
        )
        assert found == [alone] * world, world


def test_two_hundred_steps_have_the_same_bits_on_1_2_and_4_ranks_and_when_their_number_changes_at_each_resume(tmp_path):
    batches = Ragged(steps=size(200), micros=4)
    alone = trained(ALONE, tmp_path / "alone", batches=batches)
    for world in (2, 4) if size(2) > 2 else (4,):  # two ranks come below, for a quarter of the run
        work = lambda ranks, world=world: trained(ranks, tmp_path / f"{world}", batches=batches)
        assert group.values(group.together(world, work)) == [alone] * world
    changing, stops = tmp_path / "1-4-2-1", [batches.steps // 4, batches.steps // 2, 3 * batches.steps // 4, -1]

    def until(ranks, stop):
        def ask(step, *_):
            if step == stop:
                os.kill(os.getpid(), signal.SIGTERM)

        try:
            return trained(ranks, changing, batches=batches, progress=ask, steps=13)
        except Interrupted as error:
            assert error.step == stop and error.exit_code == 143
            return stop

    for world, stop in zip((1, 4, 2, 1), stops, strict=True):
        found = group.values(group.together(world, lambda ranks, stop=stop: until(ranks, stop)))
        assert found == ([stop] if stop > 0 else [alone]) * world


def test_fast_sums_differ_in_the_last_bits_only(tmp_path):
    batches = Ragged(steps=size(20), micros=5)

    def losses(ranks, sums, path):
        made = tiny.model(dtype=torch.float64)
        tiny.run(path, made, tiny.optimizer(made, lr=1e-3), batches, conduct=conduct(ranks, sums=sums))
        weights = torch.cat([weight.detach().reshape(-1) for weight in made.parameters()])
        return [line["loss"] for line in steps_of(path)], weights.tolist()

    expected, weights = losses(ALONE, "ordered", tmp_path / "1")
    for world in (2, 4):
        found = group.values(group.together(world, lambda ranks, w=world: losses(ranks, "fast", tmp_path / f"{w}")))
        assert all(each == found[0] for each in found)
        np.testing.assert_allclose(found[0][0], expected, rtol=1e-6)
        assert np.linalg.norm(np.subtract(found[0][1], weights)) <= 1e-6 * np.linalg.norm(weights)


@settings(max_examples=size(60), deadline=None, derandomize=True)
@given(st.data())
def test_however_a_batch_is_split_into_micro_batches_and_ranks_its_gradient_is_the_same_to_1e_12(data):
    """Empty and wholly masked micro-batches included; each rank adds its own, then the ranks are added in any order."""
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    lengths = data.draw(st.lists(st.integers(1, 13), min_size=1, max_size=8))
    shares = data.draw(st.lists(st.sampled_from([0.0, 0.1, 0.6, 1.0]), min_size=len(lengths), max_size=len(lengths)))
    documents = [tiny.document(draw, n, share=share) for n, share in zip(lengths, shares, strict=True)]
    documents.append(tiny.document(draw, 6, share=1.0))
    ranks = data.draw(st.integers(1, 4))
    homes = data.draw(st.lists(st.integers(0, 5), min_size=len(documents), max_size=len(documents)))
    micros = [[d for d, home in zip(documents, homes, strict=True) if home == micro] for micro in range(6)]
    nothing = replace(
        documents[0], **{name: getattr(documents[0], name)[:, :0] for name in ("ids", "targets", "learned", "segments")}
    )
    micros = [tiny.joined(micro) if micro else nothing for micro in micros]
    whole, total = gradient([tiny.joined(documents)]), NextToken().count(tiny.joined(documents))
    parts = []
    for rank in range(ranks):
        own = micros[rank::ranks]
        count = sum(map(NextToken().count, own))
        if count:
            parts.append(gradient(own) * (count / total))
    order = data.draw(st.permutations(range(len(parts))))
    split = sum((parts[place] for place in order), torch.zeros_like(whole))
    assert float((whole - split).norm()) <= 1e-12 * float(whole.norm())


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_what_is_not_finite_on_one_rank_is_refused_by_all_in_the_same_step_and_changes_no_bit(tmp_path):
    class All(tiny.Steps):
        def at(self, step):  # every target learned, so that every activation counts
            generator = np.random.default_rng(step)
            return [tiny.joined([tiny.document(generator, 9, share=1.0)] * 2) for _ in range(4)]

    expected = {0: tiny.optimizer(tiny.model()).digest()}
    made = tiny.model()
    optimizer = tiny.optimizer(made)
    told = lambda step, *_: expected.setdefault(step, optimizer.digest())
    tiny.run(tmp_path / "whole", made, optimizer, All(), conduct=tiny.conduct(progress=told))
    for case in range(size(6)):
        draw = random.Random(case)
        where = ("embedding", "activation", "loss", "gradient", "late gradient")[case % 5]
        step, micro, value = draw.randrange(6), draw.randrange(4), draw.choice([np.nan, np.inf, -np.inf])
        path, sums = tmp_path / f"{case}", draw.choice(["ordered", "fast"]) if step == 0 else "ordered"

        def injured(ranks, where=where, value=value, step=step, micro=micro, path=path, sums=sums):
            made, loss = tiny.model(), Injured(where, value, step, micro)
            optimizer = tiny.optimizer(made)
            try:
                tiny.run(path, made, optimizer, All(), loss=loss, draw=placed(loss), conduct=conduct(ranks, sums=sums))
            except Exception as error:
                return [type(error).__name__, str(error).split(":")[0], optimizer.digest()]

        world = draw.choice([2, 3, 4])
        found = group.values(group.together(world, injured))
        assert found == [["NonFinite", f"step {step + 1} of 6", expected[step]]] * world, (where, value, step, micro)
        newest = durable.newest(path / "commits", PREFIX)
        assert newest is None if step == 0 else newest.name == f"{PREFIX}{step:08d}"


def test_ranks_that_hold_other_numbers_stop_before_the_step_is_applied_or_committed(tmp_path):
    def differing(ranks, where):
        made = tiny.model()
        optimizer = tiny.optimizer(made)
        norm = optimizer.norm

        def flip(step, *_):
            if where == "a weight" and step == 4 and ranks.rank == 1:
                with torch.no_grad():
                    made.lm_head.weight.view(torch.int32)[0, 0] ^= 1

        if where == "the norm":
            optimizer.norm = lambda: norm() * (1 + 1e-6 * (ranks.rank == 1 and optimizer.updates == 3))
        try:
            words = conduct(ranks, progress=flip, steps=2)
            tiny.run(tmp_path / where, made, optimizer, tiny.Steps(micros=4), conduct=words)
        except Exception as error:
            return [type(error).__name__, str(error).partition(": rank")[0], optimizer.updates]

    for where, told in (
        ("the norm", ["RanksDisagree", "step 4, norm and loss", 3]),
        ("a weight", ["RanksDisagree", "step 4, weights and moments", 4]),
    ):
        assert group.values(group.together(2, lambda ranks, where=where: differing(ranks, where))) == [told] * 2
        assert durable.newest(tmp_path / where / "commits", PREFIX).name == f"{PREFIX}{2:08d}"


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_when_one_rank_is_killed_the_others_stop_in_time_and_say_so_and_the_run_goes_on_to_the_same_bits(
    victim, tmp_path
):
    batches, path = tiny.Steps(steps=6, micros=4), tmp_path / "run"
    alone = trained(ALONE, tmp_path / "whole", batches=batches)

    def stricken(ranks):
        def kill(step, *_):
            if step == 4 and ranks.rank == victim:
                os.kill(os.getpid(), signal.SIGKILL)

        trained(ranks, path, batches=batches, progress=kill, steps=3)

    ended = group.together(3, stricken)
    for rank, each in enumerate(ended):
        if rank == victim:
            assert each.code == -signal.SIGKILL
        else:
            assert each.code == 1 and each.error.startswith(f"RankFailed: rank {rank} of 3: another process"), each
        assert each.seconds < group.SILENCE / 2  # a lost rank is noticed, not waited for
    assert durable.newest(path / "commits", PREFIX).name in (f"{PREFIX}{3:08d}", f"{PREFIX}{4:08d}")
    assert group.values(group.together(2, lambda ranks: trained(ranks, path, batches=batches))) == [alone] * 2


def test_a_signal_to_one_rank_or_to_all_commits_and_ends_all_with_the_same_code(tmp_path):
    batches = tiny.Steps(steps=40, micros=4)
    alone = trained(ALONE, tmp_path / "whole", batches=batches)
    for case, number in enumerate((signal.SIGTERM, signal.SIGINT)):
        path = tmp_path / f"{case}"

        def asked(ranks, path=path, number=number, case=case):
            def ask(step, *_):
                if step == 5 and (case or ranks.rank == 1):
                    os.kill(os.getpid(), number)

            trained(ranks, path, batches=batches, progress=ask)

        ended = group.together(3, asked)
        assert {each.code for each in ended} == {128 + number}, ended
        assert durable.newest(path / "commits", PREFIX).name == f"{PREFIX}{5:08d}"
        assert (
            group.values(group.together(2, lambda ranks, path=path: trained(ranks, path, batches=batches)))
            == [alone] * 2
        )


def test_a_full_disk_at_rank_0_is_told_by_all(tmp_path):
    from tests.train.test_loop import FullDisk

    def full(ranks):
        made = tiny.model()
        tiny.run(tmp_path / "run", made, tiny.optimizer(made), conduct=conduct(ranks, steps=2, files=FullDisk(30_000)))

    ended = group.together(2, full)
    assert ended[0].error.startswith("StoreError") and "bytes are needed" in ended[0].error
    assert ended[1].error.startswith("RankFailed: rank 0 failed, committing step 2: StoreError"), ended[1]


def test_ranks_that_were_not_started_are_refused_before_any_work(tmp_path):
    made = tiny.model()
    words = tiny.conduct()
    words = replace(words, machine=replace(words.machine, data=2, shard=2, workers=2))
    with pytest.raises(
        UsageError, match=r"(?s)data 2 x shard 2 x tensor 1 in 1 processes; .*torchrun --nproc-per-node 4.*workers: 2"
    ):
        tiny.run(tmp_path / "run", made, tiny.optimizer(made), conduct=words)
    assert not (tmp_path / "run").exists()
