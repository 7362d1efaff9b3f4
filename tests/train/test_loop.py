"""The loop: what it computes, what it refuses, what it writes, and that it goes on as if nothing had happened."""

import errno
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from camelid import durable
from camelid.errors import BadData, BadFile, NonFinite, StoreError, UsageError
from camelid.machine import Machine
from camelid.train.loop import Cadence, Conduct
from camelid.train.loss import NextToken
from camelid.train.state import PREFIX, steps_of
from tests.conftest import size
from tests.train import tiny

SAVED = "commits"


def finished(path, **words):
    """Digest and journal of an uninterrupted run."""
    made = tiny.model()
    optimizer = tiny.optimizer(made)
    tiny.run(path, made, optimizer, **words)
    return optimizer.digest(), (path / "journal.jsonl").read_bytes()


# --- what is computed -----------------------------------------------------------------------------------------------


def gradient(parts):
    """The gradient of one step over these micro-batches, in float64, as the loop makes it."""
    made = tiny.model(dtype=torch.float64)
    optimizer = tiny.optimizer(made)
    loss, counts = NextToken(), [NextToken().count(part) for part in parts]
    for part, count in zip(parts, counts, strict=True):
        if count:
            (loss(made, part) / sum(counts)).backward()
            optimizer.collect()
    optimizer.norm()
    return torch.cat([master.grad.reshape(-1) for master in optimizer.masters.values()])


def test_however_a_batch_is_cut_into_micro_batches_its_gradient_is_the_same_to_1e_12():
    worst = 0.0
    for case in range(size(100)):
        generator = np.random.default_rng(case)
        documents = tiny.documents(
            generator, int(generator.integers(2, 9)), share=float(generator.choice([0.1, 0.6, 1]))
        )
        documents += [tiny.document(generator, 5, share=0.0), tiny.document(generator, 6, share=1.0)]
        generator.shuffle(documents)
        cuts = np.flatnonzero(generator.random(len(documents) - 1) < 0.5) + 1
        parts = [tiny.joined(part) for part in np.split(np.array(documents, dtype=object), cuts)]
        whole, split = gradient([tiny.joined(documents)]), gradient(parts)
        worst = max(worst, float((whole - split).norm() / whole.norm()))
    assert worst <= 1e-12


def test_two_machines_that_cut_micro_batches_differently_see_the_same_losses(tmp_path):
    class Cut(tiny.Steps):
        def at(self, step):
            generator = np.random.default_rng(step)
            documents = tiny.documents(generator, 8)
            return [tiny.joined(documents[at : at + self.micros]) for at in range(0, 8, self.micros)]

    losses = []
    for micros in (8, 3, 1):
        made = tiny.model()
        words = {"conduct": tiny.conduct(micro_tokens=micros)}
        run = tiny.run(
            tmp_path / str(micros), made, tiny.optimizer(made, lr=1e-3), Cut(steps=8, micros=micros), **words
        )
        losses.append([line["loss"] for line in steps_of(run.directory)])
    assert losses[0][-1] < losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert losses[2] == pytest.approx(losses[0], rel=1e-6)


def test_equal_seeds_give_equal_bits_and_other_data_or_weights_give_others(tmp_path):
    runs = [finished(tmp_path / f"a{turn}") for turn in range(3)]
    assert runs[0] == runs[1] == runs[2]
    assert finished(tmp_path / "b", batches=tiny.Steps(seed=1))[0] != runs[0][0]


def test_when_commits_are_made_changes_nothing(tmp_path):
    cadences = [Cadence(seconds=None), Cadence(steps=1, keep=1), Cadence(seconds=0.0), Cadence(steps=4)]
    found = {finished(tmp_path / str(n), conduct=tiny.conduct(cadence=each)) for n, each in enumerate(cadences)}
    assert len(found) == 1
    kept = [len(durable.commits(tmp_path / str(n) / SAVED, PREFIX)) for n in range(4)]
    assert kept == [1, 1, 2, 2]


def test_the_journal_tells_each_step_once_and_the_caller_sees_what_it_tells(tmp_path):
    made, seen = tiny.model(), []
    words = {"conduct": tiny.conduct(progress=lambda *told: seen.append(told))}
    run = tiny.run(tmp_path, made, tiny.optimizer(made), **words)
    head, *lines = [json.loads(line) for line in run.journal.read_text().splitlines()]
    assert head["identity"] == {"data": "tiny", "seed": 0, "steps": 6}
    assert [line["step"] for line in lines] == list(range(1, 7))
    steps = [tiny.Steps().at(step) for step in range(6)]
    assert [line["supervised"] for line in lines] == [sum(int(b.learned.sum()) for b in step) for step in steps]
    assert [line["tokens"] for line in lines] == [sum(b.tokens for b in step) for step in steps]
    assert lines[-1]["seen"] == run.tokens == sum(line["tokens"] for line in lines)
    assert run.supervised == sum(line["supervised"] for line in lines) and run.loss == lines[-1]["loss"]
    assert [(step, steps, loss) for step, steps, loss, _ in seen] == [(n["step"], 6, n["loss"]) for n in lines]
    assert all(speed > 0 for *_, speed in seen)
    timings = [json.loads(line) for line in (tmp_path / "timings.jsonl").read_text().splitlines()]
    assert [line["step"] for line in timings] == list(range(1, 7))


def test_every_micro_batch_is_told_to_the_model_before_it_is_drawn_and_draws_depend_on_nothing_else(tmp_path):
    told = []

    class Drawing(NextToken):
        def __call__(self, model, batch):
            told.append(float(torch.rand(())))
            return super().__call__(model, batch)

    made, state = tiny.model(), torch.random.get_rng_state()
    tiny.run(tmp_path / "a", made, tiny.optimizer(made), loss=Drawing(), draw=lambda *place: told.append(place))
    assert told[::2] == [(step, micro) for step in range(6) for micro in range(2)]
    assert len(set(told[1::2])) == 12
    assert torch.equal(torch.random.get_rng_state(), state)
    before, made = list(told), tiny.model()
    torch.rand(17)
    tiny.run(tmp_path / "b", made, tiny.optimizer(made), loss=Drawing(), draw=lambda *place: told.append(place))
    assert told[len(before) :] == before


# --- what is refused ------------------------------------------------------------------------------------------------

BAD = (float("nan"), float("inf"), -float("inf"))


class Injured(NextToken):
    """A loss that goes wrong at one step and micro-batch: in a weight's use, an activation, the sum, or a gradient."""

    def __init__(self, where, value, step, micro):
        self.where, self.value, self.place, self.now = where, value, (step, micro), None

    def __call__(self, model, batch):
        if self.now != self.place:
            return super().__call__(model, batch)
        if self.where == "loss":
            return super().__call__(model, batch) * self.value
        hooks = {
            "embedding": lambda: model.model.embed_tokens.register_forward_hook(self.spoil),
            "activation": lambda: model.model.layers[1].mlp.register_forward_hook(self.spoil),
            "gradient": lambda: model.model.layers[0].self_attn.o_proj.weight.register_hook(self.spoil_gradient),
            "late gradient": lambda: model.model.norm.weight.register_hook(self.spoil_gradient),
        }
        hook = hooks[self.where]()
        loss = super().__call__(model, batch)
        if "gradient" not in self.where:
            hook.remove()
        else:
            self.after = hook
        return loss

    def spoil(self, module, arguments, output):
        output = output.clone()
        output.view(-1)[output.numel() // 2] = self.value
        return output

    def spoil_gradient(self, gradient):
        self.after.remove()
        gradient = gradient.clone()
        gradient.view(-1)[-1] = self.value
        return gradient


PLACES = ("embedding", "activation", "loss", "gradient", "late gradient")


def test_a_value_that_is_not_finite_is_found_in_its_own_step_and_changes_no_bit(tmp_path):
    class All(tiny.Steps):
        def at(self, step):  # every target learned, so that every activation counts
            generator = np.random.default_rng(step)
            return [tiny.joined([tiny.document(generator, 9, share=1.0)] * 2) for _ in range(2)]

    expected = {}
    for steps in range(4):
        made = tiny.model()
        optimizer = tiny.optimizer(made)
        schedule_of_six = All(steps=6)
        if steps:
            with pytest.raises(NonFinite):
                stop = Injured("loss", float("nan"), steps, 0)
                tiny.run(tmp_path / f"to{steps}", made, optimizer, schedule_of_six, loss=stop, draw=placed(stop))
        expected[steps] = optimizer.digest()
    assert len(set(expected.values())) == 4
    for case in range(size(30)):
        generator = np.random.default_rng(case)
        where, value = PLACES[case % 5], BAD[case // 5 % 3]
        step, micro = int(generator.integers(4)), int(generator.integers(2))
        made = tiny.model()
        optimizer = tiny.optimizer(made)
        loss, path = Injured(where, value, step, micro), tmp_path / f"case{case}"
        with pytest.raises(NonFinite, match=f"step {step + 1} of 6"):
            tiny.run(path, made, optimizer, All(steps=6), loss=loss, draw=placed(loss))
        assert optimizer.digest() == expected[step], (where, value, step, micro)
        assert not optimizer.non_finite()
        assert len(list(steps_of(path))) == step
        newest = durable.newest(path / SAVED, PREFIX)
        assert newest is None if step == 0 else newest.name == f"{PREFIX}{step:08d}"


def placed(loss):
    """Tells an injured loss where the loop is."""

    def draw(step, micro):
        loss.now = (step, micro)

    return draw


def test_an_overflow_is_refused_even_where_every_number_is_still_finite(tmp_path):
    made = tiny.model()
    optimizer = tiny.optimizer(made, clip=None)
    loss = Injured("late gradient", 1e19, 2, 0)
    with pytest.raises(NonFinite, match="gradient norm"):
        tiny.run(tmp_path, made, optimizer, loss=loss, draw=placed(loss))


def test_as_many_refused_steps_as_allowed_are_passed_over_and_told_then_the_run_stops(tmp_path):
    class Twice(NextToken):
        now = None

        def __call__(self, model, batch):
            return super().__call__(model, batch) * (math.nan if self.now[0] in (1, 3) else 1)

    loss = Twice()
    with pytest.raises(NonFinite, match=r"step 4 of 6: the loss is nan in micro-batch 1 of 2.*skip=2"):
        made = tiny.model()
        tiny.run(tmp_path, made, tiny.optimizer(made), loss=loss, draw=placed(loss), conduct=tiny.conduct(skip=1))
    made = tiny.model()
    optimizer = tiny.optimizer(made)
    run = tiny.run(tmp_path, made, optimizer, loss=loss, draw=placed(loss), conduct=tiny.conduct(skip=2))
    assert (run.steps, run.skipped, optimizer.updates) == (6, 2, 4)
    lines = list(steps_of(tmp_path))
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["loss"] is None for line in lines] == ["refused" in line for line in lines]
    assert [line["step"] for line in lines if "refused" in line] == [2, 4]
    whole = tmp_path / "whole"
    made = tiny.model()
    again = tiny.optimizer(made)
    tiny.run(whole, made, again, loss=loss, draw=placed(loss), conduct=tiny.conduct(skip=2))
    assert again.digest() == optimizer.digest()
    assert (whole / "journal.jsonl").read_bytes() == (tmp_path / "journal.jsonl").read_bytes()


def test_a_weight_that_is_not_finite_is_never_committed(tmp_path):
    made = tiny.model()
    optimizer = tiny.optimizer(made, lr=1e38)
    with pytest.raises(NonFinite):
        tiny.run(tmp_path, made, optimizer, conduct=tiny.conduct(steps=1))
    for commit in durable.commits(tmp_path / SAVED, PREFIX):
        state = durable.verify(commit)
        assert state and commit.name != f"{PREFIX}00000006"
    fresh = tiny.optimizer(tiny.model(), lr=1e38)
    if (newest := durable.newest(tmp_path / SAVED, PREFIX)) is not None:
        from camelid.checkpoints.safetensors_io import open_tensors

        assert all(bool(torch.isfinite(tensor).all()) for tensor in open_tensors(newest / "state.safetensors").values())
    assert not fresh.non_finite()


def test_a_step_without_anything_to_learn_is_refused_by_number_and_an_empty_micro_batch_is_not(tmp_path):
    class Sparse(tiny.Steps):
        def at(self, step):
            generator = np.random.default_rng(step)
            full, empty = tiny.document(generator, 9, share=1.0), tiny.document(generator, 9, share=0.0)
            return [empty, full, empty] if step < 2 else [empty, empty]

    made = tiny.model()
    with pytest.raises(BadData, match="step 3 of 6: no learned token in 2 batches"):
        tiny.run(tmp_path, made, tiny.optimizer(made), Sparse())
    assert len(list(steps_of(tmp_path))) == 2


# --- going on -------------------------------------------------------------------------------------------------------


class Stop(Exception):
    pass


def interrupted(path, after, **words):
    """A run that dies after some steps, in memory."""

    def die(step, *told):
        if step == after:
            raise Stop

    made = tiny.model()
    with pytest.raises(Stop):
        tiny.run(path, made, tiny.optimizer(made), conduct=tiny.conduct(steps=2, progress=die), **words)


def test_a_run_that_died_after_any_step_ends_in_the_bits_of_one_that_did_not(tmp_path):
    whole = finished(tmp_path / "whole")
    for after in range(1, 6):
        path = tmp_path / str(after)
        interrupted(path, after)
        assert finished(path, conduct=tiny.conduct(steps=2)) == whole
    again = finished(tmp_path / "whole")  # nothing is left to do
    assert again == whole


def test_damaged_commits_are_passed_over_aloud_set_aside_and_made_again(tmp_path):
    whole, told = finished(tmp_path / "whole"), []
    path = tmp_path / "hurt"
    interrupted(path, 5)
    newest = durable.commits(path / SAVED, PREFIX)[-1]
    data = bytearray((newest / "state.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    (newest / "state.safetensors").write_bytes(data)
    assert finished(path, conduct=tiny.conduct(steps=2, note=told.append)) == whole
    assert len(told) == 1 and newest.name in told[0] and "state.safetensors" in told[0]
    assert [p.name.startswith(f"damaged-{newest.name}") for p in (path / SAVED).glob("damaged-*")] == [True]


def test_a_run_of_which_no_commit_is_whole_is_not_begun_anew_in_silence(tmp_path):
    interrupted(tmp_path, 3)
    for commit in durable.commits(tmp_path / SAVED, PREFIX):
        (commit / "state.json").write_bytes(b"{}")
    with pytest.raises(BadFile, match="no commit of this run is whole; remove the run"):
        finished(tmp_path)


def test_a_journal_that_lost_or_changed_what_a_commit_counts_on_is_refused(tmp_path):
    for name, hurt in (
        ("short", lambda text: text[:100]),
        ("changed", lambda text: text.replace(b'"step":1', b'"step":7')),
    ):
        path = tmp_path / name
        interrupted(path, 3)
        journal = path / "journal.jsonl"
        journal.write_bytes(hurt(journal.read_bytes()))
        with pytest.raises(BadFile, match=r"journal\.jsonl.*counts on"):
            finished(path)


def test_another_run_is_not_continued_by_mistake_and_every_difference_is_named(tmp_path):
    interrupted(tmp_path, 3, identity={"lr": 0.1, "shape": "a"})
    with pytest.raises(UsageError) as told:
        finished(tmp_path, identity={"lr": 0.2, "shape": "a"}, batches=tiny.Steps(digest="other"))
    assert [p.where.split(": ")[1] for p in told.value.problems] == ["data", "lr"]
    assert "begun with 0.1, asked to go on with 0.2" in str(told.value)


def test_other_machine_settings_go_on_aloud_and_the_journal_says_where(tmp_path):
    interrupted(tmp_path, 3)
    told = []
    changed = Conduct(machine=Machine(threads=1, micro_tokens=64), note=told.append)
    made = tiny.model()
    run = tiny.run(tmp_path, made, tiny.optimizer(made), conduct=changed)
    assert len(told) == 1 and "micro_tokens 8192 -> 64" in told[0]
    lines = [json.loads(line) for line in run.journal.read_text().splitlines()]
    assert [line.get("step", line.get("resumed")) for line in lines] == [None, 1, 2, 2, 3, 4, 5, 6]
    assert lines[3]["machine"]["micro_tokens"] == 64
    finished(tmp_path, conduct=replace(changed, machine=Machine(threads=1, micro_tokens=32)))
    assert len(told) == 1 and len(run.journal.read_text().splitlines()) == 8  # a finished run is not touched


def test_two_runs_cannot_share_a_directory(tmp_path):
    made = tiny.model()

    def second(*told):
        with pytest.raises(StoreError, match="in use by process"):
            finished(tmp_path / "run")
        raise Stop

    with pytest.raises(Stop):
        tiny.run(tmp_path / "run", made, tiny.optimizer(made), conduct=tiny.conduct(progress=second))


class FullDisk(durable.Files):
    """A disk that has room for so many bytes more."""

    def __init__(self, room):
        self.room = room

    def push(self, descriptor, data):
        if self.room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = super().push(descriptor, data[: self.room])
        self.room -= taken
        return taken


def test_a_full_disk_at_any_moment_loses_no_commit_and_the_run_goes_on_where_it_stood(tmp_path):
    whole = finished(tmp_path / "whole")
    commit_bytes = sum(f.stat().st_size for f in next((tmp_path / "whole" / SAVED).iterdir()).iterdir())
    generator = np.random.default_rng(0)
    reached = set()
    for case in range(size(25)):
        path = tmp_path / str(case)
        files = FullDisk(int(generator.integers(1, int(2.99 * commit_bytes))))
        made = tiny.model()
        with pytest.raises(StoreError, match="bytes are needed"):
            tiny.run(path, made, tiny.optimizer(made), conduct=tiny.conduct(steps=2, files=files))
        found = durable.newest(path / SAVED, PREFIX)
        reached.add(found.name if found else None)
        assert not list((path / SAVED).glob(".*.draft")) if found else True
        assert finished(path, conduct=tiny.conduct(steps=2)) == whole
    assert len(reached) > 2
