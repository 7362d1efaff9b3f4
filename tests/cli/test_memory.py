"""What would not fit is refused before anything is loaded, with changes that make it fit; and not refused without cause."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from camelid.checkpoints import directory
from camelid.checkpoints.gguf import save_gguf
from camelid.cli import memory
from camelid.errors import UsageError
from camelid.generate.engine import CACHE_BYTES
from camelid.machine import GIB, available, detect
from camelid.models.llama import paged_cache
from camelid.models.shape import SIZES
from camelid.native.llama import NativeLlama
from tests.checkpoints.models import SHAPE, weights

CPU = detect("cpu")


@pytest.fixture
def checkpoint(tmp_path):
    return directory.load(directory.save(tmp_path / "hf", weights(SHAPE), shape=SHAPE))


def as_large(checkpoint, size):
    """The folder as if its config said another shape: no tensor is read before the refusal."""
    return replace(checkpoint, config=replace(checkpoint.config, shape=SIZES[size]))


def test_a_model_that_does_not_fit_is_refused_with_what_would(checkpoint, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device="cpu": 16 * GIB)
    with pytest.raises(UsageError) as told:
        memory.check_loading(as_large(checkpoint, "llama-2-7B"), CPU, tokens=4096)
    said = str(told.value)
    assert "weights 25.1, cache 4.0" in said and "16.0 GiB free" in said and "--anyway" in said
    offered = re.findall(r"--weights (\w+)", said)
    assert offered == ["q8_0", "q4_0"], "bfloat16 with its cache would not fit either"
    for kind in offered:
        memory.check_loading(as_large(checkpoint, "llama-2-7B"), CPU, tokens=4096, weights=kind)
    memory.check_loading(as_large(checkpoint, "llama-2-7B"), CPU, tokens=4096, anyway=True)


def test_float16_is_foreseen_as_the_float32_that_it_becomes(tmp_path, monkeypatch):
    half = directory.save(tmp_path / "half", weights(SHAPE, dtype=torch.float16), shape=SHAPE)
    big = as_large(directory.load(half), "llama-2-7B")
    monkeypatch.setattr(memory, "available", lambda device="cpu": 18 * GIB)
    with pytest.raises(
        UsageError, match=r"weights 25\.1.*--weights bf16 \(1.*--engine pytorch \(1.* in float16 as stored"
    ) as told:
        memory.check_loading(big, CPU, tokens=1024)
    assert "q8_0" in str(told.value)
    for other in ({"weights": "bf16"}, {"engine": "pytorch"}, {"dtype": "float16"}):
        memory.check_loading(big, CPU, tokens=1024, **other)


def test_a_long_answer_alone_is_told_to_be_shorter(checkpoint, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device="cpu": 10 * GIB)
    big = as_large(checkpoint, "llama-3.2-1B")
    memory.check_loading(big, CPU, tokens=512)
    with pytest.raises(UsageError, match=r"--cache int8 \(7.0 GiB\); fewer --max-tokens"):
        memory.check_loading(big, CPU, tokens=120_000)
    memory.check_loading(big, CPU, tokens=120_000, cache="int8")


def test_many_texts_together_need_a_cache_that_waits_and_no_more(checkpoint, monkeypatch):
    big = as_large(checkpoint, "llama-3.2-1B")
    needs_of: list[float] = []
    monkeypatch.setattr(memory, "check_room", lambda work, needs, *_, **__: needs_of.append(needs["cache"]))
    for rows, tokens in ((1, 512), (4, 512), (64, 512), (64, 120_000), (1, 120_000)):
        memory.check_loading(big, CPU, tokens=tokens, rows=rows)
    one, four, many, long, alone = needs_of
    assert four == 4 * one and many == memory.CACHE == CACHE_BYTES and long == alone > many


def test_every_other_command_says_so_too(checkpoint, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device="cpu": 40 * GIB)
    big = as_large(checkpoint, "llama-2-7B")
    asked = {"form": "gptq", "saved": True, "seen": 65_536, "anyway": False}
    with pytest.raises(UsageError, match="leave out --text"):
        memory.check_quantizing(big, CPU, measured=True, **asked)
    memory.check_quantizing(big, CPU, measured=False, **asked)
    monkeypatch.setattr(memory, "available", lambda device="cpu": GIB)
    with pytest.raises(UsageError, match="memory for convert"):
        memory.check_converting(big, CPU, anyway=False)
    with pytest.raises(UsageError, match="memory for quantize"):
        memory.check_quantizing(big, CPU, measured=False, **asked)


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_what_is_counted_of_a_cache_is_what_it_takes(kind):
    for shape in (SHAPE, replace(SHAPE, head_width=48), SIZES["llama-3.2-1B"]):
        cache = paged_cache(shape, 0, torch.float32, kind=kind)
        assert memory.cache_bytes(shape, cache.page, kind) == cache.page_bytes


@pytest.mark.parametrize("kind", ["float32", "bf16", "q8_0", "q4_0"])
def test_what_is_counted_is_what_the_kernels_hold(kind):
    shape = replace(SHAPE, width=128, hidden=256, heads=8, head_width=16, vocab=512)
    try:
        model = NativeLlama.load(shape, weights(shape), kind)
    except Exception as error:  # no compiler here
        pytest.skip(str(error))
    held = model.bytes + model._held.matrices["model.embed_tokens.weight"].bytes
    assert held == pytest.approx(memory.matrix_bytes(shape, kind), rel=0.02)


def test_a_quantised_file_counts_as_it_is_and_decoded_as_it_becomes(tmp_path):
    shape = replace(SHAPE, width=64, head_width=16, hidden=96)
    found = directory.load(save_gguf(tmp_path / "m.gguf", weights(shape), shape=shape, form="q4_0"))
    stored = memory.held_bytes(found, dtype=None, weights=None, engine=None)
    decoded = memory.held_bytes(found, dtype=None, weights=None, engine="pytorch")
    assert stored == found.path.stat().st_size and decoded == 4 * shape.parameters()


def test_this_machine_tells_how_much_is_free():
    free = available()
    assert free == 0 or 0 < free <= CPU.memory_bytes
    block = torch.ones(64 << 20, dtype=torch.uint8)
    assert free == 0 or (available() < free + (1 << 30) and len(block))
