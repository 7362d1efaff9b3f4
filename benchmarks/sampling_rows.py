"""What it takes to draw one id from a row of logits: ours beside transformers' logits processors, by turns, one thread.

    python benchmarks/sampling_rows.py --out FILE.json

Both get the same float32 row (random, spread as a trained model's: a few likely ids) and the same settings; transformers
works them out in float32, ours in float64. Medians over turns with the fastest and slowest; transformers is left out
where it is absent.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from camelid.generate.sample import Sampler
from camelid.generate.settings import Settings
from camelid.machine import describe

WAYS = {
    "temperature": Settings(temperature=0.8),
    "top_k 50": Settings(temperature=0.8, top_k=50),
    "top_p 0.95": Settings(temperature=0.8, top_p=0.95),
    "min_p 0.05": Settings(temperature=0.8, min_p=0.05),
    "typical_p 0.9": Settings(temperature=0.8, typical_p=0.9),
    "penalties": Settings(temperature=0.8, repetition_penalty=1.1),
    "top_logprobs 5": Settings(temperature=0.8, top_logprobs=5),
}


def theirs(own: Settings, prompt: list[int], row: torch.Tensor) -> Callable[[], object] | None:
    """transformers' way of drawing from the row; None where it is absent or has no such way."""
    try:
        from transformers.generation import logits_process as steps
    except ImportError:
        return None
    if own.top_logprobs:
        return None
    wanted = steps.LogitsProcessorList()
    if own.repetition_penalty != 1:
        wanted.append(steps.RepetitionPenaltyLogitsProcessor(own.repetition_penalty))
    wanted.append(steps.TemperatureLogitsWarper(own.temperature))
    if own.top_k:
        wanted.append(steps.TopKLogitsWarper(own.top_k))
    if own.top_p < 1:
        wanted.append(steps.TopPLogitsWarper(own.top_p))
    if own.min_p:
        wanted.append(steps.MinPLogitsWarper(own.min_p))
    if own.typical_p < 1:
        wanted.append(steps.TypicalLogitsWarper(own.typical_p))
    ids = torch.tensor([prompt])
    return lambda: torch.multinomial(torch.softmax(wanted(ids, row[None].clone()), -1), 1)


def milliseconds(work: Callable[[], object], count: int) -> float:
    """Of one call, from `count` in a row."""
    start = time.perf_counter()
    for _ in range(count):
        work()
    return 1000 * (time.perf_counter() - start) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    print(f"{'vocabulary':>10} {'settings':16} {'ours':>9} {'transformers':>12} {'ratio':>7}")
    for vocab in (1024, 32000, 128256):
        row = torch.randn(vocab, generator=torch.Generator().manual_seed(0)) * 2
        row[:: max(1, vocab // 40)] += 9
        prompt = list(range(200))
        for name, own in WAYS.items():
            sampler = Sampler(own, prompt, vocab)
            sides = {"ours": lambda sampler=sampler, row=row: sampler.draw(row), "theirs": theirs(own, prompt, row)}
            turns: dict[str, list[float]] = {side: [] for side, work in sides.items() if work}
            for turn in range(asked.turns + 1):
                for side in turns if turn % 2 else reversed(turns):
                    work = sides[side]
                    assert work is not None
                    turns[side].append(milliseconds(work, max(3, 400_000 // vocab)))
            median = {side: statistics.median(values[1:]) for side, values in turns.items()}
            other = median.get("theirs")
            found.append(
                {"vocab": vocab, "settings": name, **{f"{side}_ms": values[1:] for side, values in turns.items()}}
            )
            told = f"{other:9.3f} ms {other / median['ours']:6.2f}x" if other else f"{'-':>12} {'-':>7}"
            print(f"{vocab:10} {name:16} {median['ours']:6.3f} ms {told}", flush=True)
    if asked.out:
        data = {
            "machine": describe(),
            "date": time.strftime("%Y-%m-%d"),
            "command": "benchmarks/sampling_rows.py",
            "rows": found,
        }
        asked.out.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
