"""Many requests at once through the engine: against one after the other, and against transformers' batched generate.

    python benchmarks/engine.py [--rounds 3] [--threads 4] [--save FILE] [SHAPE/WEIGHTS...]

Every round takes all ways in turn, on random weights. `at once`: equal prompts lengths and answer lengths. `mixed`: 24
requests with prompts of 10 to 200 ids and answers of 8 to 64, which come one after the other while the first are being
answered; transformers gets them as one left-padded batch that runs until its longest answer ends, and only what was
asked for counts. Printed: useful tokens per second, medians, and the spread over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch

from camelid.generate.engine import Engine
from camelid.generate.settings import Settings
from camelid.models.llama import Llama, initialise
from camelid.models.shape import LlamaShape
from camelid.native.llama import NativeLlama

SHAPES = {
    "tiny": LlamaShape(4, 128, 4, 4, 32, 352, 1024, 512),
    "110M": LlamaShape(12, 768, 12, 12, 64, 2048, 32000, 512),
}
PROMPT, ANSWER = 32, 32
Job = tuple[list[int], int]


def jobs_at_once(vocab: int, count: int) -> list[Job]:
    chance = random.Random(count)
    return [([chance.randrange(vocab) for _ in range(PROMPT)], ANSWER) for _ in range(count)]


def jobs_mixed(vocab: int) -> list[Job]:
    chance = random.Random(1)
    return [
        ([chance.randrange(vocab) for _ in range(chance.randint(10, 200))], chance.randint(8, 64)) for _ in range(24)
    ]


def engine(model: NativeLlama, jobs: list[Job], rows: int, *, arriving: bool = False) -> None:
    """All jobs through one engine; `arriving`: two come with every step."""
    made, waiting = Engine(model, rows=rows), list(reversed(jobs))
    while waiting or not made.idle:
        for _ in range(2 if arriving else len(waiting)):
            if waiting:
                prompt, count = waiting.pop()
                made.submit(prompt, Settings(max_tokens=count), streams=False)
        made.step()


def theirs(model: object, jobs: list[Job]) -> None:
    """One left-padded batch until the longest answer ends."""
    longest = max(len(prompt) for prompt, _ in jobs)
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt, _ in jobs])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt, _ in jobs])
    most = max(count for _, count in jobs)
    model.generate(ids, attention_mask=mask, max_new_tokens=most, min_new_tokens=most, do_sample=False)  # type: ignore[attr-defined]


def transformers_of(model: Llama) -> object | None:
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError:
        print("transformers is absent: only our own ways are measured")
        return None
    shape = model.shape
    config = LlamaConfig(
        vocab_size=shape.vocab, hidden_size=shape.width, intermediate_size=shape.hidden, head_dim=shape.head_width,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.context, rms_norm_eps=shape.eps, bos_token_id=None, eos_token_id=None,
        pad_token_id=0,
    )  # fmt: skip
    other = LlamaForCausalLM(config).eval()
    other.load_state_dict(model.state_dict())
    return other


def measured(name: str, rounds: int) -> dict[str, list[float]]:
    """Useful tokens per second of every way, round by round."""
    shape_name, weights = name.split("/")
    model = Llama(SHAPES[shape_name])
    initialise(model, 0)
    model = model.eval().requires_grad_(False)
    native = NativeLlama.of(model, weights)  # type: ignore[arg-type]
    other = transformers_of(model) if weights == "float32" else None
    vocab = model.shape.vocab
    eight, many, mixed = jobs_at_once(vocab, 8), jobs_at_once(vocab, 32), jobs_mixed(vocab)
    ways: dict[str, tuple[list[Job], Callable[[list[Job]], None]]] = {
        "8, one by one": (eight, lambda jobs: engine(native, jobs, 1)),
        "8 at once": (eight, lambda jobs: engine(native, jobs, 8)),
        "32 at once": (many, lambda jobs: engine(native, jobs, 32)),
        "mixed, one by one": (mixed, lambda jobs: engine(native, jobs, 1)),
        "mixed, arriving": (mixed, lambda jobs: engine(native, jobs, 32, arriving=True)),
    }
    if other is not None:
        ways |= {
            "8 at once, transformers": (eight, lambda jobs: theirs(other, jobs)),
            "32 at once, transformers": (many, lambda jobs: theirs(other, jobs)),
            "mixed, transformers": (mixed, lambda jobs: theirs(other, jobs)),
        }
    engine(native, eight[:2], 2)  # numbers of threads are tried, pages of weights touched
    if other is not None:
        theirs(other, [(prompt, 2) for prompt, _ in eight[:2]])
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, (jobs, run) in ways.items():
            start = time.perf_counter()
            run(jobs)
            found[way].append(sum(count for _, count in jobs) / (time.perf_counter() - start))
    return found


RATIOS = (
    ("8 at once", "8, one by one"),
    ("mixed, arriving", "mixed, one by one"),
    ("8 at once", "8 at once, transformers"),
    ("32 at once", "32 at once, transformers"),
    ("mixed, arriving", "mixed, transformers"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("names", nargs="*", default=["tiny/float32", "110M/float32", "110M/q8_0"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--save", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    kept: dict[str, object] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "processor": platform.processor() or platform.machine(),
        "threads": asked.threads, "load": os.getloadavg()[0], "rounds": asked.rounds, "tokens per second": {},
    }  # fmt: skip
    for name in asked.names:
        found = measured(name, asked.rounds)
        kept["tokens per second"][name] = {way: [round(each, 1) for each in speeds] for way, speeds in found.items()}  # type: ignore[index]
        print(f"\n{name}, {asked.threads} threads, {asked.rounds} rounds: tokens per second")
        for way, speeds in found.items():
            print(f"  {way:<28}{median(speeds):>9,.0f}   ({min(speeds):,.0f} to {max(speeds):,.0f})")
        for one, against in RATIOS:
            if against in found:
                each = [a / b for a, b in zip(found[one], found[against], strict=True)]
                print(f"  {one} / {against}: {median(each):.2f}   ({min(each):.2f} to {max(each):.2f})")
        if asked.save:
            asked.save.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
