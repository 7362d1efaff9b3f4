"""Models divided among ranks: the run of one process, from any division to any other, and an ordinary folder at the end."""

import json
import os
import signal
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed.fsdp  # here, so that forked ranks need not import it

from camelid import durable
from camelid.checkpoints.safetensors_io import open_tensors
from camelid.errors import BadFile, ProblemList
from camelid.machine import Machine
from camelid.models.adapt import add_lora, lean, set_randomness
from camelid.models.shape import LlamaShape, LoRA
from camelid.nn.frozen import FrozenLinear
from camelid.ranks import ALONE
from camelid.train.interrupt import Interrupted
from camelid.train.loss import Distilled, NextToken
from camelid.train.optim import Optimizer
from camelid.train.parallel import check, place
from camelid.train.pieces import Pieces
from camelid.train.settings import AdamW, AdamW8bit
from camelid.train.state import PREFIX, steps_of
from tests import group
from tests.train import tiny
from tests.train.test_workers import Ragged

SHAPE = LlamaShape(layers=2, width=16, heads=4, kv_heads=2, head_width=8, hidden=24, vocab=37, context=32)
STEPS = Ragged(steps=6, micros=6)


def machine(data=1, shard=1, tensor=1, sums="ordered", dtype="float32"):
    return Machine(threads=1, data=data, shard=shard, tensor=tensor, sums=sums, dtype=dtype)


def trained(ranks, path, asked, *, tied=False, taught=False, batches=STEPS, dtype=torch.float32, **words):
    """The losses of a run, and its weights at the end as rank 0 puts them together."""
    loss = Distilled(tiny.model(1, shape=SHAPE, dtype=dtype).requires_grad_(False)) if taught else NextToken()
    made = tiny.model(shape=replace(SHAPE, tied=tied), dtype=dtype)
    placement = place(made, asked, ranks, getattr(torch, asked.dtype) if asked.dtype != "float32" else dtype)
    held = dict(made.named_parameters()) if placement is None else placement.locals()
    settings = AdamW(lr=1e-2 if dtype == torch.float32 else 1e-3, betas=(0.9, 0.95), decay=0.1)
    half = torch.bfloat16 if asked.dtype == "bfloat16" and asked.shard == 1 else None
    optimizer = Optimizer(held, settings, clip=1.0, dtype=half)
    if half:
        made.to(half)  # norms and all; no weight is frozen here
    found = tiny.conduct(**words)
    own = replace(found, machine=asked, ranks=ranks)
    tiny.run(path, made, optimizer, batches, conduct=own, placement=placement, loss=loss)
    state = made.state_dict() if placement is None else placement.state(getattr(torch, asked.dtype))
    losses = [line["loss"] for line in steps_of(path)]
    if not ranks.leads:
        return losses, None
    return losses, {name: weight.double().tolist() for name, weight in sorted(state.items())}


def together(asked, path, **words):
    found = group.values(group.together(asked.ranks, lambda ranks: trained(ranks, path, asked, **words)))
    assert all(losses == found[0][0] for losses, _ in found)
    return tuple(found[0])


def difference(one, other):
    return max(
        float(np.linalg.norm(np.subtract(one[name], other[name])) / np.linalg.norm(other[name])) for name in other
    )


@pytest.mark.parametrize("tied", [False, True])
def test_shards_in_ordered_sums_have_the_bits_of_one_process(tied, tmp_path):
    alone = trained(ALONE, tmp_path / "1", machine(), tied=tied)
    for count in (2, 3) if not tied else (2,):
        assert together(machine(shard=count), tmp_path / f"{count}", tied=tied) == alone, count


def test_shards_learn_from_a_teacher_with_the_bits_of_one_process(tmp_path):
    alone = trained(ALONE, tmp_path / "1", machine(), taught=True)
    assert together(machine(shard=2), tmp_path / "2", taught=True) == alone
    assert alone[0] != trained(ALONE, tmp_path / "3", machine())[0]


class Wrong(NextToken):
    """A loss that fails in step 3 of rank 1, forwards or backwards, by an error of its own."""

    def __init__(self, rank, backwards):
        self.rank, self.backwards, self.now = rank, backwards, 0

    def __call__(self, model, batch):
        loss = super().__call__(model, batch)
        if self.now != 2 or self.rank != 1:
            return loss
        if self.backwards:
            loss.register_hook(lambda slope: torch.ones(2, 3) @ slope.new_ones(2, 3))
            return loss
        return loss + (torch.ones(2, 3) @ torch.ones(2, 3)).sum()


@pytest.mark.parametrize("asked", [machine(shard=2), machine(tensor=2)], ids=["shard", "tensor"])
@pytest.mark.parametrize("backwards", [False, True])
def test_an_error_of_ones_own_is_told_as_it_is_and_a_lost_process_as_lost(asked, backwards, tmp_path):
    def work(ranks):
        made, loss = tiny.model(shape=SHAPE), Wrong(ranks.rank, backwards)
        placement = place(made, asked, ranks, torch.float32)
        optimizer = Optimizer(placement.locals(), AdamW(lr=1e-2))
        own = replace(tiny.conduct(), machine=asked, ranks=ranks)
        draw = lambda step, micro: setattr(loss, "now", step)
        tiny.run(tmp_path, made, optimizer, STEPS, loss=loss, draw=draw, conduct=own, placement=placement)

    first, second = group.together(2, work)
    assert first.error.startswith("RankFailed: rank 0 of 2: another process of the run is gone"), first
    assert "mat1 and mat2 shapes cannot be multiplied" in second.error and "RankFailed" not in second.error, second


@pytest.mark.parametrize(
    "asked",
    [
        machine(shard=2, sums="fast"),
        machine(tensor=2),
        machine(data=2, tensor=2),
        machine(shard=2, tensor=2, sums="fast"),
        machine(data=2, shard=2, sums="fast"),
    ],
    ids=lambda asked: f"data {asked.data} shard {asked.shard} tensor {asked.tensor}",
)
def test_other_divisions_differ_in_the_last_bits_only(asked, tmp_path):
    alone = trained(ALONE, tmp_path / "1", machine(), dtype=torch.float64)
    losses, weights = together(asked, tmp_path / "2", dtype=torch.float64)
    np.testing.assert_allclose(losses, alone[0], rtol=1e-6)
    assert difference(weights, alone[1]) <= 1e-6


WIDER = replace(SHAPE, width=64, head_width=16, hidden=128)  # blocks of NF4 fill its rows
EVERY = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def adapted(ranks, path, asked, lora, base):
    """The same for low-rank adapters beside a base in this form; what learned."""
    whole = tiny.model(shape=WIDER)
    if base in ("int8", "nf4"):
        made = lean(WIDER, dict(whole.state_dict()), lora, bits=base, seed=3, dtype=torch.float32)
    else:
        made = add_lora(whole.to(getattr(torch, base)), lora, seed=3)
    placement = place(made, asked, ranks, getattr(torch, base, torch.float32))
    held = dict(made.named_parameters()) if placement is None else placement.locals()
    optimizer = Optimizer(held, AdamW(lr=1e-2, betas=(0.9, 0.95), decay=0.1), clip=1.0)
    own = replace(tiny.conduct(), machine=asked, ranks=ranks)
    draw = partial(set_randomness, made, 5)
    tiny.run(path, made, optimizer, Ragged(steps=3, micros=6), conduct=own, placement=placement, draw=draw)
    learned = {name: weight.detach() for name, weight in made.named_parameters() if weight.requires_grad}
    state = learned if placement is None else placement.state(None, learned=True)
    losses = [line["loss"] for line in steps_of(path)]
    return losses, {name: weight.double().tolist() for name, weight in sorted(state.items())} if ranks.leads else None


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ("bfloat16", {"dropout": 0.1}),
        ("nf4", {"kind": "dora"}),
        ("int8", {"trained": ("embed_tokens", "lm_head")}),
        ("float32", {"start": "pissa", "scale": "root"}),
    ],
)
def test_sharded_adapters_and_their_sharded_base_have_the_bits_of_one_process(base, words, tmp_path):
    lora, dtype = LoRA(rank=2, alpha=4, targets=EVERY, **words), base if base == "bfloat16" else "float32"
    alone = adapted(ALONE, tmp_path / "1", machine(dtype=dtype), lora, base)
    for asked in (machine(shard=2, dtype=dtype), machine(data=2, shard=2, sums="fast", dtype=dtype)):
        path = tmp_path / f"{asked.ranks}"
        losses, state = group.values(
            group.together(asked.ranks, lambda ranks, asked=asked, path=path: adapted(ranks, path, asked, lora, base))
        )[0]
        if asked.sums == "ordered":
            assert (losses, state) == alone
        else:
            np.testing.assert_allclose(losses, alone[0], rtol=1e-4)


def test_codes_of_a_divided_base_lie_in_parts(tmp_path):
    def held(ranks):
        made = lean(
            WIDER, dict(tiny.model(shape=WIDER).state_dict()), LoRA(rank=2, alpha=4), bits="nf4", dtype=torch.float32
        )
        before = sum(module.bytes for module in made.modules() if isinstance(module, FrozenLinear))
        place(made, machine(shard=2), ranks, torch.float32)
        codes = [weight for weight in made.parameters() if weight.dtype == torch.uint8]
        return before, sum(weight.to_local().numel() for weight in codes)

    for before, after in group.values(group.together(2, held)):
        assert after < 0.55 * before


def test_shards_that_compute_in_bfloat16_keep_exact_weights(tmp_path):
    """One process keeps float32 copies, FSDP float32 shards: the same rounding, the same run."""
    alone = trained(ALONE, tmp_path / "1", machine(dtype="bfloat16"))
    found = together(machine(shard=2, dtype="bfloat16"), tmp_path / "2")
    np.testing.assert_allclose(found[0], alone[0], rtol=2e-2)
    exact = open_tensors(durable.newest(tmp_path / "2" / "commits", PREFIX) / "state-00000.safetensors")
    assert all(tensor.dtype == torch.float32 for tensor in exact.values())


def until(ranks, path, asked, stop, **words):
    """A run that is asked to stop after a step, and what it came to."""

    def ask(step, *_):
        if step == stop and ranks.leads:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        return trained(ranks, path, asked, progress=ask, **words)
    except Interrupted as error:
        return error.step


def test_a_run_goes_on_under_any_division_and_ends_in_the_same_bits_where_sums_are_ordered(tmp_path):
    path, alone = tmp_path / "changing", trained(ALONE, tmp_path / "1", machine())
    for asked, stop in ((machine(shard=3), 2), (machine(data=2), 3), (machine(), 4), (machine(shard=2), None)):
        work = lambda ranks, asked=asked, stop=stop: until(ranks, path, asked, stop)
        found = group.values(group.together(asked.ranks, work))
        assert set(map(str, found)) == {str(stop)} if stop else found[0] == list(alone)
    files = {file.name for commit in durable.commits(path / "commits", PREFIX) for file in commit.iterdir()}
    assert files >= {"state.safetensors", "state-00000.safetensors", "state-00001.safetensors"}


def test_a_run_goes_on_under_divisions_of_every_kind(tmp_path):
    path, alone = tmp_path / "changing", trained(ALONE, tmp_path / "1", machine(), dtype=torch.float64)
    kinds = [machine(tensor=2), machine(shard=2, tensor=2, sums="fast"), machine(data=3), machine(data=2, tensor=2)]
    for turn, asked in enumerate([*kinds, machine()]):
        stop = turn + 1 if turn < 4 else None
        work = lambda ranks, asked=asked, stop=stop: until(ranks, path, asked, stop, dtype=torch.float64)
        found = group.values(group.together(asked.ranks, work))
        assert set(map(str, found)) == {str(stop)} if stop else len(found) == 1
    np.testing.assert_allclose(found[0][0], alone[0], rtol=1e-6)
    assert difference(found[0][1], alone[1]) <= 1e-6


def test_a_damaged_or_missing_piece_is_found_and_the_run_falls_back(tmp_path):
    path, asked, alone = tmp_path / "run", machine(shard=2), trained(ALONE, tmp_path / "1", machine())
    group.values(group.together(2, lambda ranks: until(ranks, path, asked, 4, steps=2)))
    newest = durable.newest(path / "commits", PREFIX)
    assert newest.name == f"{PREFIX}{4:08d}"
    (newest / "state-00001.safetensors").unlink()
    assert tuple(group.values(group.together(2, lambda ranks: trained(ranks, path, asked)))[0]) == (alone[0], alone[1])


def test_a_piece_that_the_table_does_not_cover_or_place_is_refused_by_name(tmp_path):
    path = tmp_path / "run"
    group.values(group.together(2, lambda ranks: trained(ranks, path, machine(shard=2))))
    newest = durable.newest(path / "commits", PREFIX)
    table = json.loads((newest / "state.json").read_text())["pieces"]
    assert Pieces(newest, table)["weight.lm_head.weight"].shape == (37, 16)
    partial = {"state-00000.safetensors": table["state-00000.safetensors"]}
    with pytest.raises(BadFile, match=r"weight\.lm_head\.weight.*of 592 elements are there"):
        Pieces(newest, partial)["weight.lm_head.weight"]
    table["state-00001.safetensors"]["weight.lm_head.weight"]["begin"] = [30, 0]
    with pytest.raises(BadFile, match=r"lm_head.*is no piece of \(37, 16\)"):
        Pieces(newest, table)


class Full(durable.Files):
    """A disk that is full for the second rank's pieces."""

    def append(self, path, data):
        if path.name == "state-00001.safetensors":
            raise OSError(28, "No space left on device")
        super().append(path, data)


def test_a_disk_full_at_one_rank_fails_the_commit_of_all_and_leaves_the_one_before(tmp_path):
    path, asked, alone = tmp_path / "run", machine(shard=2), trained(ALONE, tmp_path / "1", machine())
    group.values(group.together(2, lambda ranks: until(ranks, path, asked, 2, steps=2)))
    ended = group.together(2, lambda ranks: trained(ranks, path, asked, steps=2, files=Full()))
    assert ended[0].error.startswith("StoreError: rank 1: ") and "bytes are needed" in ended[0].error, ended
    assert ended[1].error.startswith("RankFailed: rank 0 failed, committing step 4: StoreError: rank 1"), ended
    assert not list((path / "commits").glob(".*.draft"))
    assert group.values(group.together(2, lambda ranks: trained(ranks, path, asked)))[0] == list(alone)


def test_when_a_rank_of_a_divided_model_is_killed_the_others_stop_in_time_and_the_run_goes_on(tmp_path):
    path, asked, alone = tmp_path / "run", machine(shard=2), trained(ALONE, tmp_path / "1", machine())

    def stricken(ranks):
        def kill(step, *_):
            if step == 3 and ranks.rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)

        trained(ranks, path, asked, progress=kill, steps=2)

    first, second = group.together(2, stricken)
    assert (
        second.code == -signal.SIGKILL
        and first.error.startswith("RankFailed: rank 0 of 2")
        and first.seconds < group.SILENCE / 2
    )
    assert durable.newest(path / "commits", PREFIX).name == f"{PREFIX}{2:08d}"
    assert group.values(group.together(2, lambda ranks: trained(ranks, path, asked)))[0] == list(alone)


class Spoilt(NextToken):
    def __init__(self, rank):
        self.rank, self.now = rank, 0

    def __call__(self, model, batch):
        return super().__call__(model, batch) * (float("nan") if self.now == 3 and self.rank == 1 else 1.0)


@pytest.mark.parametrize("asked", [machine(shard=2), machine(tensor=2)], ids=["shard", "tensor"])
def test_what_is_not_finite_on_one_rank_is_refused_by_all_and_no_piece_changes(asked, tmp_path):
    def spoilt(ranks):
        made, loss = tiny.model(shape=SHAPE), Spoilt(ranks.rank)
        placement = place(made, asked, ranks, torch.float32)
        optimizer = Optimizer(placement.locals(), AdamW(lr=1e-2))
        digests = [optimizer.digest()]
        own = replace(tiny.conduct(progress=lambda *_: digests.append(optimizer.digest())), machine=asked, ranks=ranks)
        try:
            batches = tiny.Steps(micros=4)
            draw = lambda step, micro: setattr(loss, "now", step)
            tiny.run(tmp_path, made, optimizer, batches, loss=loss, draw=draw, conduct=own, placement=placement)
        except Exception as error:
            return type(error).__name__, str(error).split(":")[0], optimizer.digest() == digests[3]

    told = "NonFinite" if asked.shard > 1 else None
    for kind, where, same in group.values(group.together(2, spoilt)):
        assert kind in ((told,) if told else ("NonFinite", "RanksDisagree")) and where.startswith("step 4") and same


def test_what_does_not_divide_or_go_together_is_refused_all_at_once():
    problems, paged = ProblemList(), AdamW8bit(lr=1e-3, paged=True)
    check(SHAPE, machine(data=2, shard=2, tensor=5), problems, adapted=True, optim=paged, where="tuned.")
    text = "\n".join(map(str, problems.problems))
    for words in (
        "5 do not divide 4 heads",
        "2 kv_heads",
        "24 hidden",
        "ordered, with replicas of shards",
        "an adapter",
        "tuned.optim: AdamW8bit among shards",
        "tuned.optim.paged: on 20 ranks",
    ):
        assert words in text
