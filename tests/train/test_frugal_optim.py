"""Moments in eight bits, paged, or projected: against bitsandbytes, against the definition, and by what they hold."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from camelid.errors import ProblemList, StoreError
from camelid.quantize import dynamic
from camelid.train.optim import Optimizer
from camelid.train.optimizers import optimizer_of
from camelid.train.pages import Pages
from camelid.train.settings import AdamW, AdamW8bit, GaLore
from tests.conftest import size

WORDS = {"lr": 1e-2, "betas": (0.8, 0.95), "eps": 1e-8, "decay": 0.1}
MAP = "model.layers.0.mlp.up_proj.weight"


def weights(shapes, dtype=torch.float32):
    draw = torch.Generator().manual_seed(3)
    return {name: torch.nn.Parameter(torch.randn(shape, generator=draw).to(dtype)) for name, shape in shapes.items()}


def gradients(shapes, turn, dtype=torch.float32):
    draw = torch.Generator().manual_seed(100 + turn)
    return {
        name: torch.randn(shape, generator=draw).to(dtype) * 10.0 ** (turn % 3 - 1) for name, shape in shapes.items()
    }


def step(optimizer, given, rate=1e-2):
    for name, gradient in given.items():
        optimizer.parameters[name].grad = gradient.clone()
    optimizer.collect()
    optimizer.apply(rate, float(optimizer.norm()))


SHAPES = {MAP: (96, 80), "model.norm.weight": (96,), "model.embed_tokens.weight": (64, 96), "odd": (71, 73)}


# --- levels and blocks ----------------------------------------------------------------------------------------------


def test_the_levels_are_those_of_bitsandbytes_signed_and_not():
    functional = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")
    assert torch.equal(dynamic.SIGNED, functional.create_dynamic_map(signed=True))
    assert torch.equal(dynamic.UNSIGNED, functional.create_dynamic_map(signed=False))


@pytest.mark.parametrize("count", [1, 255, 256, 257, 1000])
@pytest.mark.parametrize("signed", [True, False])
def test_codes_are_the_nearest_levels_whatever_the_length(count, signed):
    levels = dynamic.SIGNED if signed else dynamic.UNSIGNED
    x = torch.randn(count, generator=torch.Generator().manual_seed(count)) * 1e-3
    x = x if signed else x.square()
    codes, scales = dynamic.encode(x, levels, 256)
    assert len(codes) == count and len(scales) == -(-count // 256)
    back = dynamic.decode(codes, scales, levels, 256)
    spread = scales.repeat_interleave(256)[:count, None]
    best = (levels * spread - x[:, None]).abs().amin(1)
    assert bool(((back - x).abs() <= best * (1 + 1e-4) + 1e-12).all())
    assert torch.equal(dynamic.encode(back, levels, 256)[0], codes)
    nothing = dynamic.encode(torch.zeros(count), levels, 256)
    assert not dynamic.decode(*nothing, levels, 256).any()


# --- eight bits -----------------------------------------------------------------------------------------------------


def chosen_by_bitsandbytes(values, levels, block=256):
    """The codes of bitsandbytes' CPU kernel: a share is rounded to a table of 65,536 places from -1 to 1, then to the
    nearest level; what is smaller than half a place, zero too, becomes 1.5e-5 of the block's largest."""
    padded = torch.nn.functional.pad(values, (0, -len(values) % block)).view(-1, block)
    share = (padded * dynamic.inverse(padded.abs().amax(1))[:, None]).view(-1)[: len(values)]
    place = ((share + 1) * 0.5 * 65535 + 0.5).int()
    return dynamic.nearest(place.double() / 65535 * 2 - 1, levels.double())


@pytest.mark.parametrize("signed", [True, False])
def test_where_codes_differ_from_bitsandbytes_it_is_the_table_that_its_cpu_kernel_looks_into(signed):
    functional = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")
    levels = dynamic.SIGNED if signed else dynamic.UNSIGNED
    x = torch.randn(size(50_000), generator=torch.Generator().manual_seed(5)) * 1e-3
    x = x if signed else x.square()
    theirs, _ = functional.quantize_blockwise(x, code=levels, blocksize=256)
    mine, _ = dynamic.encode(x, levels, 256)
    explained = chosen_by_bitsandbytes(x, levels)
    assert int((explained != theirs).sum()) <= len(x) // 1000  # near half way between two levels
    assert 0 < int((mine != theirs).sum()) < 0.05 * len(x)


def test_every_update_is_that_of_bitsandbytes_from_the_same_state_bit_for_bit():
    library = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    shapes = {"w": (96, 80), "odd": (71, 73)}
    ours = optimizer_of(weights(shapes), AdamW8bit(**WORDS), clip=None, folder=Path())
    theirs = weights(shapes)
    settings = {"lr": 1e-2, "betas": (0.8, 0.95), "eps": 1e-8, "weight_decay": 0.1, "min_8bit_size": 4096}
    other = library.optim.AdamW8bit(theirs.values(), **settings)
    off = total = 0
    for turn in range(8):
        given = gradients(shapes, turn)
        for name, weight in theirs.items():
            weight.grad = given[name].clone()
            if turn:  # go on from our codes: theirs differ where their kernel takes another level
                for kind, slot in (("mean", "1"), ("square", "2")):
                    other.state[weight][f"state{slot}"].copy_(ours.state()[f"{kind}.{name}"])
                    other.state[weight][f"absmax{slot}"].copy_(ours.state()[f"{kind}_scale.{name}"])
        other.step()
        step(ours, given)
        for name, weight in theirs.items():
            assert torch.equal(ours.parameters[name], weight), (turn, name)
            state = ours.state()
            for kind, slot in (("mean", "1"), ("square", "2")):
                assert torch.equal(state[f"{kind}_scale.{name}"], other.state[weight][f"absmax{slot}"])
                off += int((state[f"{kind}.{name}"] != other.state[weight][f"state{slot}"]).sum())
                total += weight.numel()
    assert off < 0.05 * total  # why: the test above


def test_small_weights_norms_and_embeddings_keep_exact_moments_and_states_are_a_quarter():
    whole, eighth = (optimizer_of(weights(SHAPES), kind(**WORDS), folder=Path()) for kind in (AdamW, AdamW8bit))
    state = eighth.state()
    assert state[f"mean.{MAP}"].dtype == torch.uint8 and state["square.odd"].dtype == torch.uint8
    for name in ("model.norm.weight", "model.embed_tokens.weight"):
        assert state[f"mean.{name}"].dtype == torch.float32
    large = sum(math.prod(SHAPES[name]) for name in (MAP, "odd"))
    assert whole.bytes() - eighth.bytes() == 8 * large - 2 * large - 2 * 4 * (-(-96 * 80 // 256) + -(-71 * 73 // 256))
    for turn in range(4):
        step(whole, gradients(SHAPES, turn))
        step(eighth, gradients(SHAPES, turn))
    norm = "model.norm.weight"
    torch.testing.assert_close(whole.parameters[norm], eighth.parameters[norm], rtol=0, atol=0)
    for name in (MAP, "odd"):
        moved = (whole.parameters[name] - weights(SHAPES)[name]).detach()
        apart = (whole.parameters[name] - eighth.parameters[name]).detach()
        assert 0 < float(apart.norm() / moved.norm()) < 0.05


# --- paged ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [AdamW, AdamW8bit, GaLore])
def test_paged_moments_change_no_bit_and_lie_in_a_file_without_a_name(tmp_path, kind):
    words = WORDS | ({"rank": 8, "every": 2, "scale": 1.0} if kind is GaLore else {})
    plain = optimizer_of(weights(SHAPES), kind(**words), folder=tmp_path)
    paged = optimizer_of(weights(SHAPES), kind(**words, paged=True), folder=tmp_path / "run")
    for turn in range(4):
        step(plain, gradients(SHAPES, turn))
        step(paged, gradients(SHAPES, turn))
    assert plain.digest() == paged.digest()
    assert list((tmp_path / "run").iterdir()) == []
    moments = sum(tensor.nbytes for name, tensor in paged.state().items() if not name.startswith("weight."))
    assert paged.pages is not None and moments <= paged.pages.bytes < moments + 4096 * len(paged.state())


def test_a_disk_without_room_is_told_before_any_step(tmp_path, monkeypatch):
    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreError, match=r"no room for 4,096 bytes of paged moments .*set optim.paged=false"):
        Pages(tmp_path).zeros((3,), torch.float32)


PROBE = """
import sys, torch
from pathlib import Path
from camelid.train.optimizers import optimizer_of
from camelid.train.settings import AdamW

def held():
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) * 1024

optimizers, weight = [], torch.nn.Parameter(torch.ones(4_000_000))
for paged in (True, True, False):  # the first one warms PyTorch up
    before = held()
    optimizers.append(optimizer_of({"w": weight}, AdamW(lr=1e-3, paged=paged), folder=Path(sys.argv[1])))
    weight.grad = torch.ones_like(weight)
    optimizers[-1].apply(1e-3, float(optimizers[-1].norm()))
    print(held() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc: what a process holds is not told here")
def test_paged_moments_are_no_memory_of_the_process(tmp_path):
    command = [sys.executable, "-c", PROBE, str(tmp_path)]
    returned = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # what is let go goes back to the system at once
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=returned).stdout
    _, paged, plain = map(int, told.split())
    assert plain - paged == pytest.approx(8 * 4_000_000, rel=0.2)


# --- LoRA+ ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [AdamW, AdamW8bit])
def test_b_learns_so_many_times_faster_than_a(kind):
    shapes = {"q_proj.lora_A.weight": (4, 2000), "q_proj.lora_B.weight": (2000, 4)}
    words = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-12}
    for ratio in (1.0, 16.0):
        optimizer = optimizer_of(weights(shapes), kind(**words, ratio=ratio), clip=None, folder=Path())
        step(optimizer, gradients(shapes, 0), rate=1e-3)
        moved = {name: (weight - weights(shapes)[name]).abs() for name, weight in optimizer.parameters.items()}
        torch.testing.assert_close(moved["q_proj.lora_A.weight"], torch.full((4, 2000), 1e-3), rtol=1e-2, atol=0)
        torch.testing.assert_close(
            moved["q_proj.lora_B.weight"], torch.full((2000, 4), 1e-3 * ratio), rtol=1e-2, atol=0
        )


# --- GaLore ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (30, 30)])
def test_galore_is_its_definition_written_out(shape):
    words = {"lr": 1e-2, "betas": (0.8, 0.95), "eps": 1e-6, "decay": 0.2}
    name, rank, every, scale = MAP, 6, 3, 0.5
    ours = weights({name: shape}, torch.float64)
    optimizer = optimizer_of(ours, GaLore(**words, rank=rank, every=every, scale=scale), clip=None, folder=Path())
    plain, mean, square = ours[name].detach().clone(), 0.0, 0.0
    for turn in range(8):
        given = gradients({name: shape}, turn, torch.float64)[name]
        if turn % every == 0:
            u, _, v = torch.linalg.svd(given, full_matrices=False)
            p = u[:, :rank] if shape[0] <= shape[1] else v[:rank].T
        low = p.T @ given if shape[0] <= shape[1] else given @ p
        mean, square = 0.8 * mean + 0.2 * low, 0.95 * square + 0.05 * low**2
        found = (mean / (1 - 0.8 ** (turn + 1))) / ((square / (1 - 0.95 ** (turn + 1))).sqrt() + 1e-6)
        whole = p @ found if shape[0] <= shape[1] else found @ p.T
        plain = plain * (1 - 1e-2 * 0.2) - 1e-2 * scale * whole
        step(optimizer, {name: given})
    torch.testing.assert_close(ours[name].detach(), plain, rtol=1e-9, atol=1e-9)
    projection = optimizer.state()[f"projection.{name}"]
    torch.testing.assert_close(projection.T @ projection, torch.eye(rank, dtype=torch.float64))
    assert optimizer.bytes() < Optimizer(weights({name: shape}, torch.float64), AdamW(lr=1e-2)).bytes()


def test_galore_of_full_rank_is_adamw():
    full = optimizer_of(weights(SHAPES), GaLore(**WORDS, rank=80, every=2), folder=Path())
    adamw = optimizer_of(weights(SHAPES), AdamW(**WORDS), folder=Path())
    few = optimizer_of(weights(SHAPES), GaLore(**WORDS, rank=79, every=2), folder=Path())
    for turn in range(5):
        for optimizer in (full, adamw, few):
            step(optimizer, gradients(SHAPES, turn))
    assert full.digest() == adamw.digest() != few.digest()
    for name in SHAPES:
        if name != MAP:
            assert torch.equal(few.parameters[name], adamw.parameters[name]), "ends and norms are AdamW's own"


# --- all of them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [AdamW8bit, GaLore])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loaded_state_goes_on_bit_for_bit(kind, dtype):
    words = WORDS | ({"rank": 8, "every": 3} if kind is GaLore else {})
    first, second = (optimizer_of(weights(SHAPES), kind(**words), dtype=dtype, folder=Path()) for _ in range(2))
    for turn in range(4):
        if turn == 2:
            saved = {name: tensor.clone() for name, tensor in first.state().items()}
        step(first, gradients(SHAPES, turn, dtype))
    second.load(saved, 2)
    for turn in (2, 3):
        step(second, gradients(SHAPES, turn, dtype))
    assert second.digest() == first.digest()
    assert all(torch.equal(weight, second.parameters[name]) for name, weight in first.parameters.items())


@pytest.mark.parametrize("kind", [AdamW8bit, GaLore])
def test_a_gradient_is_clipped_as_a_whole(kind):
    words = WORDS | ({"rank": 8} if kind is GaLore else {})
    one, other = (optimizer_of(weights(SHAPES), kind(**words), clip=clip, folder=Path()) for clip in (1.0, None))
    for turn in range(3):
        given = gradients(SHAPES, turn)
        norm = float(torch.nn.utils.get_total_norm(list(given.values())))
        step(one, given)
        step(other, {name: gradient / norm for name, gradient in given.items()})
    for name, weight in one.parameters.items():
        torch.testing.assert_close(weight, other.parameters[name], rtol=1e-5, atol=1e-5)


def test_settings_that_make_no_sense_are_named_together():
    problems = ProblemList()
    GaLore(lr=-1, rank=0, every=0, scale=0.0, ratio=0.0).check("optim", problems)
    AdamW8bit(lr=1, block=0).check("eight", problems)
    assert [p.where for p in problems.problems] == [
        *(f"optim.{name}" for name in ("lr", "ratio", "rank", "every", "scale")),
        "eight.block",
    ]
