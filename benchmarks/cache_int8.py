"""Keys and values in int8 against floats: what it does to a model's opinion of a text, and to time and memory at length.

    python benchmarks/cache_int8.py --model FOLDER --text FILE --out FILE.json       perplexity and KL, texts of the file
    python benchmarks/cache_int8.py --shapes 110M:q8_0 1.1B:q8_0 --lengths 256 2048 4096 --out FILE.json

Quality: both caches read the same windows through the kernels, in chunks; KL (natural log, float to int8) and perplexity
are over every id that follows another. Speed: one sequence of random weights; what stands before is written into the
cache without being computed (random numbers: time does not depend on them), then both caches go by turns, some steps
each, and read a last chunk of 256 ids. Medians, with the least and largest turn; bytes are of all keys and values.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.infer_cpu import SHAPES, Weights
from camelid.machine import cores, describe
from camelid.models.llama import paged_cache
from camelid.models.shape import LlamaShape
from camelid.native.llama import NativeLlama
from camelid.nn.paged import CACHES, PAGE, CacheKind, PagedCache, PagedTokens

CHUNK, STEPS = 256, 12


def room(model: NativeLlama, tokens: int, kind: CacheKind) -> PagedCache:
    return paged_cache(model.shape, -(-tokens // PAGE), torch.float32, kind=kind)


def read(model: NativeLlama, cache: PagedCache, ids: np.ndarray, start: int, *, all_logits: bool) -> torch.Tensor:
    """Logits of all the ids, or of the last, which stand from `start` on."""
    count = len(ids)
    table = np.arange(cache.pages, dtype=np.int32)[None]
    new = PagedTokens(cache, np.zeros(count, np.int32), np.arange(start, start + count, dtype=np.int32), table)
    want = np.arange(0 if all_logits else count - 1, count, dtype=np.int32)
    return model.read(ids, new, want)[1]


def quality(model: NativeLlama, windows: Iterable[np.ndarray]) -> dict[str, Any]:
    """Perplexity of both, KL and its largest, the share of equal likeliest ids; by the place in the window too."""
    lost: dict[CacheKind, float] = dict.fromkeys(CACHES, 0.0)
    kl: list[float] = []
    same = count = 0
    for window in windows:
        logs = {}
        for kind in CACHES:
            cache = room(model, len(window), kind)
            parts = [
                read(model, cache, window[at : at + CHUNK], at, all_logits=True) for at in range(0, len(window), CHUNK)
            ]
            logs[kind] = torch.log_softmax(torch.cat(parts)[:-1].double(), -1)
            lost[kind] -= float(logs[kind].gather(-1, torch.from_numpy(window)[1:, None]).sum())
        kl += (logs["float"].exp() * (logs["float"] - logs["int8"])).sum(-1).tolist()
        same += int((logs["float"].argmax(-1) == logs["int8"].argmax(-1)).sum())
        count += len(window) - 1
    return {
        "ids": count, "perplexity": {kind: float(np.exp(lost[kind] / count)) for kind in CACHES},
        "kl": statistics.mean(kl), "kl_largest": max(kl), "same_first": same / count,
    }  # fmt: skip


def speed(model: NativeLlama, length: int, turns: int) -> dict[str, Any]:
    """Milliseconds of a step after `length` ids, and of a chunk of 256 more."""
    draw = torch.Generator().manual_seed(0)
    ids = np.random.default_rng(0).integers(0, model.shape.vocab, CHUNK)
    caches = {kind: room(model, length + CHUNK + STEPS, kind) for kind in CACHES}
    for cache in caches.values():
        pages, within = torch.arange(cache.pages).repeat_interleave(PAGE), torch.arange(PAGE).repeat(cache.pages)
        for layer in range(model.shape.layers):
            k, v = torch.randn(2, len(pages), model.shape.kv_heads, model.shape.head_width, generator=draw)
            cache.write(layer, pages, within, k, v)
    found: dict[str, dict[CacheKind, list[float]]] = {"step": {}, "chunk": {}}
    for turn in range(turns + 1):
        for kind in list(CACHES)[:: 1 if turn % 2 else -1]:
            start = time.perf_counter()
            for step in range(STEPS):
                read(model, caches[kind], ids[:1], length + step, all_logits=False)
            middle = time.perf_counter()
            read(model, caches[kind], ids, length, all_logits=False)
            if turn:  # the first warms up
                found["step"].setdefault(kind, []).append((middle - start) / STEPS)
                found["chunk"].setdefault(kind, []).append(time.perf_counter() - middle)
    told: dict[str, Any] = {"length": length}
    told["bytes"] = {kind: length * cache.page_bytes // PAGE for kind, cache in caches.items()}
    for name, times in found.items():
        ratios = sorted(a / b for a, b in zip(times["float"], times["int8"], strict=True))
        told[name] = {
            **{f"{kind}_ms": round(1000 * statistics.median(own), 3) for kind, own in times.items()},
            "times": [round(value, 2) for value in (statistics.median(ratios), ratios[0], ratios[-1])],
        }
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", default=[], metavar="SHAPE:KIND")
    parser.add_argument("--lengths", nargs="*", type=int, default=[256, 2048, 4096])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--model", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--windows", type=int, default=40)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    rows: list[dict[str, Any]] = []
    if asked.model:
        from camelid.generate.loaded import load

        loaded = load(asked.model)
        assert isinstance(loaded.model, NativeLlama), loaded.engine
        ids = np.array(loaded.tokenizer.encode(asked.text.read_text()), np.int64)
        size = loaded.shape.context
        windows = [ids[at : at + size] for at in range(0, len(ids) - size + 1, size)][: asked.windows]
        row = {"model": asked.model.name.rsplit("-", 1)[0], "parameters": loaded.shape.parameters(), "window": size}
        rows.append({**row, "head_width": loaded.shape.head_width, **quality(loaded.model, windows)})
        print(json.dumps(rows[-1]), flush=True)
    for word in asked.shapes:
        name, kind = word.split(":")
        shape: LlamaShape = SHAPES[name]
        model = NativeLlama.load(shape, Weights(shape), kind)  # type: ignore[arg-type]
        for length in asked.lengths:
            rows.append({"shape": name, "weights": kind, "threads": asked.threads, **speed(model, length, asked.turns)})
            print(json.dumps(rows[-1]), flush=True)
        del model
    if asked.out:
        before = json.loads(asked.out.read_text())["rows"] if asked.out.exists() else []
        told = {"machine": describe(), "date": time.strftime("%Y-%m-%d"), "rows": [*before, *rows]}
        asked.out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
