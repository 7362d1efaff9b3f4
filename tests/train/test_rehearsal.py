"""The largest micro-batch is tried before the first step; nothing of it stays."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed.fsdp  # here, so that forked ranks need not import it

from camelid.data.batch import SCANNED, PretrainingBatches, SequenceBatches
from camelid.data.corpus import Corpus
from camelid.data.mixture import Mixture
from camelid.machine import Machine
from camelid.train.loss import NextToken
from camelid.train.optim import Optimizer
from camelid.train.parallel import place
from camelid.train.rehearsal import DoesNotFit
from camelid.train.settings import AdamW
from tests import group
from tests.conftest import size
from tests.train import tiny
from tests.train.test_parallel import SHAPE


def corpus(lengths, seed=0):
    draw = np.random.default_rng(seed)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Corpus(draw.integers(0, tiny.SHAPE.vocab, int(starts[-1])).astype(np.uint16), starts, None, f"r{seed}")


class Watching(NextToken):
    """Notes every micro-batch that is worked on."""

    def __init__(self):
        self.seen = []

    def __call__(self, model, batch):
        self.seen.append(batch.tokens)
        return super().__call__(model, batch)


def batches(seed):
    draw = np.random.default_rng(seed)
    found = corpus(draw.integers(1, 30, 41), seed)
    if seed % 2:
        return SequenceBatches(found, per_step=7, epochs=1.5, micro_tokens=60, seed=seed, shares=1 + seed % 3)
    mixture = Mixture.by_proportion({"a": found}, {"a": 1.0}, 480, seed=seed)
    return PretrainingBatches(mixture, length=16, tokens_per_step=80, micro_tokens=32, shares=1 + seed % 3)


def test_the_first_micro_batch_is_as_large_as_any_that_follows_and_changes_no_bit(tmp_path, monkeypatch):
    for seed in range(size(6)):
        found = []
        for rehearse in (False, True):
            made, loss = tiny.model(), Watching()
            optimizer = tiny.optimizer(made)
            words = {"loss": loss, "conduct": replace(tiny.conduct(), rehearse=rehearse)}
            tiny.run(tmp_path / f"{seed}-{rehearse}", made, optimizer, batches(seed), **words)
            found.append((optimizer.digest(), (tmp_path / f"{seed}-{rehearse}" / "journal.jsonl").read_bytes()))
        assert found[0] == found[1]
        first, *rest = loss.seen
        assert first == max(rest), seed
    monkeypatch.setattr("camelid.data.batch.SCANNED", 0)
    assert SCANNED and batches(1).largest().tokens == 60 >= max(
        part.tokens for s in range(9) for part in batches(1).at(s)
    )


class Hungry(NextToken):
    """A loss whose larger micro-batches do not fit, on a CPU or as a GPU tells it."""

    def __init__(self, kind="cpu"):
        self.kind = kind

    def __call__(self, model, batch):
        if batch.tokens >= 32:
            if self.kind == "cuda":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
            torch.empty(1 << 60, dtype=torch.uint8)
        return super().__call__(model, batch)


def test_what_does_not_fit_is_told_before_the_first_step(tmp_path):
    made = tiny.model()
    optimizer = tiny.optimizer(made)
    before = optimizer.digest()
    with pytest.raises(DoesNotFit, match=r"largest micro-batch, 32 tokens, does not fit.*--micro-tokens 16"):
        words = {"loss": Hungry(), "conduct": replace(tiny.conduct(), rehearse=True)}
        tiny.run(tmp_path, made, optimizer, batches(0), **words)
    assert optimizer.digest() == before and not list((tmp_path / "commits").glob("step-*"))


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize("division", ["data", "shard", "tensor"])
def test_what_does_not_fit_is_told_by_every_rank(division, kind, tmp_path):
    asked = Machine(threads=1, **{division: 2})

    def work(ranks):
        made = tiny.model(shape=SHAPE)
        placement = place(made, asked, ranks, torch.float32)
        optimizer = Optimizer(
            dict(made.named_parameters()) if placement is None else placement.locals(), AdamW(lr=1e-2)
        )
        own = replace(tiny.conduct(), machine=asked, ranks=ranks, rehearse=True)
        tiny.run(tmp_path, made, optimizer, batches(0), loss=Hungry(kind), conduct=own, placement=placement)

    for each in group.together(2, work):
        assert each.error.startswith("DoesNotFit: the largest micro-batch, 32 tokens, does not fit"), each
