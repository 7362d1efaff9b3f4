"""Several processes on one step: the same bits as one, and nothing left behind, however it ends."""

import gc
import os
import random
import select
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from camelid import durable
from camelid.errors import BadData, NonFinite, Problem, UsageError
from camelid.models.adapt import add_lora, set_randomness
from camelid.models.shape import LoRA
from camelid.train.interrupt import Interrupted
from camelid.train.loss import NextToken
from camelid.train.optim import Optimizer
from camelid.train.state import PREFIX
from camelid.train.workers import UpdateFailed, WorkerFailed
from tests.conftest import size
from tests.train import tiny

LORA = LoRA(rank=2, alpha=4, dropout=0.3, targets=("q_proj", "down_proj"), trained=("lm_head",))


def conduct(workers, *, shares=1, **words):
    found = tiny.conduct(**words)
    return replace(found, machine=replace(found.machine, workers=workers, shares=shares))


@dataclass
class Ragged(tiny.Steps):
    """Steps of one to `micros` micro-batches, some of which hold nothing learned, and some nothing that a model uses."""

    micros: int = 7

    def at(self, step):
        draw = np.random.default_rng([self.seed, step])
        batches = [
            tiny.joined(tiny.documents(draw, 2, share=float(draw.choice([0.0, 0.6]))))
            for _ in range(draw.integers(self.micros))
        ]
        return [*batches, tiny.joined([tiny.document(draw, 9, share=1.0)])]


class Sparse(NextToken):
    """Leaves the final norm out of every micro-batch of even length, so that its gradient is None there."""

    def __call__(self, model, batch):
        norm = model.model.norm.weight
        if batch.tokens % 2:
            return super().__call__(model, batch)
        norm.requires_grad_(False)
        try:
            return super().__call__(model, batch)
        finally:
            norm.requires_grad_(True)


class Spoilt(Sparse):
    """Not a number in one micro-batch of step 3."""

    now = (0, 0)

    def __call__(self, model, batch):
        return super().__call__(model, batch) * (torch.nan if self.now[0] == 2 else 1.0)


def plain(**words):
    made = tiny.model(**words)
    return made, {}


def tied():
    return plain(shape=replace(tiny.SHAPE, tied=True))


def partly_frozen():
    made = tiny.model()
    made.model.layers[0].requires_grad_(False)
    return made, {}


def adapted():
    made = add_lora(tiny.model(), LORA, seed=0)
    return made, {"draw": lambda step, micro: set_randomness(made, 0, step, micro)}


def spoilt():
    loss = Spoilt()
    return tiny.model(), {"loss": loss, "draw": lambda step, micro: setattr(loss, "now", (step, micro))}


KINDS = {
    "plain": (plain, {}),
    "float64": (lambda: plain(dtype=torch.float64), {}),
    "tied": (tied, {}),
    "frozen": (partly_frozen, {}),
    "lora": (adapted, {}),
    "bfloat16": (plain, {"dtype": torch.bfloat16}),
    "bfloat16 tied": (tied, {"dtype": torch.bfloat16}),
    "skipped": (spoilt, {}),
}


def ended(path, kind, workers, seed=0, **words):
    """Digest of weights and moments, journal, and weights as the model holds them, at the end of a run."""
    make, settings = KINDS[kind]
    made, own = make()
    made = made.to(settings.get("dtype", made.dtype)) if kind == "lora" else made
    optimizer = tiny.optimizer(made, **settings)
    own = {"loss": Sparse()} | own | words
    own["conduct"] = own.get("conduct") or conduct(workers, skip=1)
    tiny.run(path, made, optimizer, Ragged(seed=seed), **own)
    held = b"".join(weight.detach().view(torch.uint8).numpy().tobytes() for weight in made.state_dict().values())
    return optimizer.digest(), (path / "journal.jsonl").read_bytes(), held


@pytest.mark.parametrize("kind", KINDS)
def test_however_many_workers_share_a_step_weights_moments_and_journal_have_the_same_bits(kind, tmp_path):
    for seed in range(size(1)):
        alone = ended(tmp_path / f"{seed}-1", kind, 1, seed)
        for workers in (2, 3, 4):
            assert ended(tmp_path / f"{seed}-{workers}", kind, workers, seed) == alone, (seed, workers)
        slots = conduct(2, shares=5, skip=1)
        assert ended(tmp_path / f"{seed}-5", kind, 2, seed, conduct=slots)[::2] == alone[::2]


def test_a_run_goes_on_with_any_number_of_workers_and_ends_in_the_same_bits(tmp_path):
    kinds = list(KINDS)
    for case in range(size(8)):
        draw, kind = random.Random(case), kinds[case % len(kinds)]
        whole, path, notes = ended(tmp_path / f"{case}-whole", kind, 1, case), tmp_path / str(case), []
        stops, found = sorted(draw.sample(range(1, 6), 3)), None
        for stop in [*stops, 99]:

            def asked(step, *_, stop=stop):
                if step == stop:
                    os.kill(os.getpid(), signal.SIGTERM)

            settings = conduct(draw.randint(1, 4), skip=1, progress=asked, note=notes.append)
            try:
                found = ended(path, kind, 0, case, conduct=settings)
            except Interrupted as error:
                assert error.step == stop
        assert found == whole and notes == [], (case, kind)


# --- what goes wrong ------------------------------------------------------------------------------------------------


class Failing(NextToken):
    """Does something at one step, in a worker and not in the parent."""

    def __init__(self, deed, step=2):
        self.deed, self.step, self.now, self.parent = deed, step, 0, os.getpid()

    def __call__(self, model, batch):
        if self.now == self.step and os.getpid() != self.parent:
            self.deed()
        return super().__call__(model, batch)

    def draw(self, step, micro):
        self.now = step


def no_children():
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    return True


def kill_myself():
    os.kill(os.getpid(), signal.SIGKILL)


def raise_value_error():
    raise ValueError("a batch it does not like")


def raise_bad_data():
    raise BadData([Problem("row 7", "is odd", "mend it"), Problem("row 8", "is even", "leave it out")])


@pytest.mark.parametrize(
    ("deed", "told"),
    [
        (kill_myself, r"step 3: worker 1 \(process \d+\) ended, killed by SIGKILL; .* after step 2"),
        (lambda: os._exit(9), r"worker 1 \(process \d+\) ended, exit code 9"),
        (raise_value_error, r"step 3, worker 1: micro-batch 2: ValueError: a batch it does not like"),
        (raise_bad_data, r"step 3, worker 1: micro-batch 2: BadData: (?s:.*)row 7: is odd; mend it\n.*row 8: is even"),
    ],
)
def test_a_worker_that_dies_or_fails_ends_the_run_with_one_clear_error_and_loses_nothing(deed, told, tmp_path):
    batches = tiny.Steps(micros=4)
    made = tiny.model()
    whole = tiny.optimizer(made)
    tiny.run(tmp_path / "whole", made, whole, batches)
    made, loss = tiny.model(), Failing(deed)
    with pytest.raises(WorkerFailed, match=told):
        tiny.run(tmp_path / "a", made, tiny.optimizer(made), batches, loss=loss, draw=loss.draw, conduct=conduct(3))
    assert no_children()
    assert durable.newest(tmp_path / "a" / "commits", PREFIX).name == f"{PREFIX}{2:08d}"
    made = tiny.model()
    again = tiny.optimizer(made)
    tiny.run(tmp_path / "a", made, again, batches, conduct=conduct(2))
    assert again.digest() == whole.digest()


def test_a_worker_that_dies_in_an_update_leaves_no_commit_of_it_and_the_run_goes_on_from_the_last(
    tmp_path, monkeypatch
):
    batches, parent, update = tiny.Steps(micros=4), os.getpid(), Optimizer.update
    made = tiny.model()
    whole = tiny.optimizer(made)
    tiny.run(tmp_path / "whole", made, whole, batches)

    def dying(self, rate, norm, names):
        if os.getpid() != parent and self._turns[names[0]].item() == 4:  # four updates were made
            kill_myself()
        update(self, rate, norm, names)

    monkeypatch.setattr(Optimizer, "update", dying)
    made = tiny.model()
    settings = conduct(2, steps=3)
    with pytest.raises(UpdateFailed, match=r"step 5: worker 1 .* killed by SIGKILL; weights were being updated"):
        tiny.run(tmp_path / "a", made, tiny.optimizer(made), batches, conduct=settings)
    assert no_children()
    assert durable.newest(tmp_path / "a" / "commits", PREFIX).name == f"{PREFIX}{3:08d}"
    monkeypatch.undo()
    made = tiny.model()
    again = tiny.optimizer(made)
    tiny.run(tmp_path / "a", made, again, batches, conduct=settings)
    assert again.digest() == whole.digest()


def test_a_step_refused_in_a_worker_changes_no_bit(tmp_path):
    made, loss = tiny.model(), Spoilt()
    with pytest.raises(NonFinite, match="step 3 of 6: the loss is nan"):
        draw = lambda step, micro: setattr(loss, "now", (step, micro))
        tiny.run(tmp_path, made, tiny.optimizer(made), tiny.Steps(micros=4), loss=loss, draw=draw, conduct=conduct(4))
    assert durable.newest(tmp_path / "commits", PREFIX).name == f"{PREFIX}{2:08d}"
    assert no_children()


def test_when_its_parent_is_killed_a_worker_ends_at_once_and_holds_no_lock(tmp_path):
    for case in range(size(3)):
        path, (reading, writing) = tmp_path / str(case), os.pipe()
        parent = os.fork()
        if not parent:

            def told(step, *_, writing=writing):
                if step == 2:
                    os.write(writing, Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_bytes())

            made, loss = tiny.model(), Failing(signal.pause)  # both workers stay in the midst of a step
            settings = conduct(3, progress=told)
            tiny.run(
                path, made, tiny.optimizer(made), tiny.Steps(micros=4), loss=loss, draw=loss.draw, conduct=settings
            )
            os._exit(0)
        os.close(writing)
        workers = [os.pidfd_open(int(number)) for number in os.read(reading, 100).split()]
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        with durable.locked(path):
            pass
        assert len(workers) == 2
        for worker in workers:
            assert select.select([worker], [], [], 10)[0], "a worker outlived its parent"
            os.close(worker)
        os.close(reading)


def test_runs_leave_no_process_no_descriptor_and_no_mapping_and_may_follow_work_on_several_threads(tmp_path):
    def held():
        gc.collect()  # errors of other tests hold their frames in circles
        return len(os.listdir("/proc/self/fd")), Path("/proc/self/maps").read_text().count("/dev/zero")

    torch.set_num_threads(3)
    weight = torch.randn(256, 256, requires_grad=True)
    (weight @ torch.randn(256, 1024)).square().mean().backward()
    torch.set_num_threads(1)
    found, before = set(), held()
    for turn in range(4):
        made = tiny.model()
        optimizer = tiny.optimizer(made)
        tiny.run(tmp_path / str(turn), made, optimizer, tiny.Steps(micros=4), conduct=conduct(1 + turn))
        found.add(optimizer.digest())
        torch.randn(64, 64, requires_grad=True).square().sum().backward()
        assert held() == before and no_children()
    assert len(found) == 1


def test_workers_that_cannot_be_had_are_refused_before_any_work(tmp_path):
    made = tiny.model()
    words = conduct(2)
    words = replace(words, machine=replace(words.machine, threads=2, device="cuda"))
    with pytest.raises(UsageError, match=r"(?s)threads: 2 in each of 2 workers; use 1.*2 on cuda"):
        tiny.run(tmp_path / "run", made, tiny.optimizer(made), conduct=words)
    assert not (tmp_path / "run").exists()
