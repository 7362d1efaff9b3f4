"""Tokens per second of one full training step of a desk-size LLaMA on documents laid end to end.

    python benchmarks/step_tiny.py --threads 4 2
    python benchmarks/step_tiny.py --threads 4 --profile

A step is forward, the trainer's cross-entropy, backward, clipping and fused AdamW. Prints the median and the best of
the repetitions, the floating-point rate by the count of models/count.py (padding is not counted as work), and processor
time per step, which says what the step costs where others share the machine.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor

from camelid.models.count import training_flops
from camelid.models.llama import Llama, initialise
from camelid.models.shape import LlamaShape
from camelid.randomness import numpy_generator
from camelid.train.loss import cross_entropy

TINY = LlamaShape(layers=4, width=128, heads=4, kv_heads=4, head_width=32, hidden=352, vocab=1024, context=256)


def batch(documents: int, mean: int) -> tuple[Tensor, Tensor, Tensor]:
    """ids, segments and targets [1, N] of documents whose lengths lie between half and three halves of the mean."""
    draw = numpy_generator("step_tiny")
    lengths = torch.from_numpy(draw.integers(mean // 2, mean * 3 // 2, documents))
    segments = torch.repeat_interleave(torch.arange(documents), lengths)[None]
    ids = torch.from_numpy(draw.integers(0, TINY.vocab, segments.shape))
    return ids, segments, ids.roll(-1, 1)


def step(model: Llama, optimizer: torch.optim.Optimizer, ids: Tensor, segments: Tensor, targets: Tensor) -> float:
    hidden = model.hidden(ids, segments=segments)
    loss = cross_entropy(hidden[0], model.head_weight(), targets[0]) / targets.numel()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


def measure(threads: int, documents: int, mean: int, steps: int, profile: bool) -> None:
    torch.set_num_threads(threads)
    model = Llama(TINY)
    initialise(model, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    ids, segments, targets = batch(documents, mean)
    for _ in range(3):
        step(model, optimizer, ids, segments, targets)
    times, spent = [], []
    for _ in range(steps):
        start, busy = time.perf_counter(), time.process_time()
        step(model, optimizer, ids, segments, targets)
        times.append(time.perf_counter() - start)
        spent.append(time.process_time() - busy)
    tokens = ids.numel()
    lengths = torch.bincount(segments[0]).double()
    seen = float((lengths * (lengths + 1) / 2).sum() / lengths.sum())
    work = training_flops(TINY, seen=seen) * tokens / 1e9
    median, best = statistics.median(times), min(times)
    layout = model.layout(segments)
    print(
        f"{threads} threads: {tokens} tokens ({layout.places} places in {len(layout.groups)} groups), "
        f"median {tokens / median:,.0f} tokens/s ({work / median:.0f} GFLOP/s), "
        f"best {tokens / best:,.0f} ({work / best:.0f}), processor time {min(spent) * 1e3:.0f} ms"
    )
    if profile:
        with torch.profiler.profile() as trace:
            step(model, optimizer, ids, segments, targets)
        print(trace.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=45))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[4, 2])
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--mean", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    print(f"torch {torch.__version__}, {TINY.parameters():,} parameters")
    for threads in given.threads:
        measure(threads, given.documents, given.mean, given.steps, given.profile)


if __name__ == "__main__":
    main()
