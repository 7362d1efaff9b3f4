"""Tokens per second of greedy decoding at desk size, ours and transformers' `generate` by turns on the same weights.

    python benchmarks/decode_tiny.py --threads 1 --turns 7

One prompt alone, then many of unequal length together (ours: groups of similar length, padded at the end while they are
read; theirs: one batch, padded at the start). Both write the same number of tokens for every prompt; the last column is
the share of prompts to which both gave the same ids. Medians over the turns, with the slowest and the fastest.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from camelid.generate.decode import complete_all
from camelid.generate.settings import Settings
from camelid.machine import describe
from camelid.models.llama import Llama, initialise
from camelid.models.shape import LlamaShape
from camelid.randomness import numpy_generator

TINY = LlamaShape(layers=4, width=128, heads=4, kv_heads=4, head_width=32, hidden=352, vocab=1024, context=256)
Ids = list[list[int]]


def prompts(count: int, shortest: int, longest: int) -> Ids:
    draw = numpy_generator("decode_tiny", count)
    lengths = draw.integers(shortest, longest + 1, count)
    return [draw.integers(1, TINY.vocab, length).tolist() for length in lengths]


def theirs(model: Llama) -> LlamaForCausalLM:
    """Transformers' model with the same weights."""
    config = LlamaConfig(
        vocab_size=TINY.vocab,
        hidden_size=TINY.width,
        intermediate_size=TINY.hidden,
        num_hidden_layers=TINY.layers,
        num_attention_heads=TINY.heads,
        num_key_value_heads=TINY.kv_heads,
        max_position_embeddings=TINY.context,
        rms_norm_eps=TINY.eps,
        rope_theta=TINY.theta,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    other = LlamaForCausalLM(config).eval()
    other.load_state_dict(model.state_dict())
    return other


def answers_of_theirs(model: LlamaForCausalLM, given: Ids, tokens: int) -> Ids:
    width = max(map(len, given))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in given])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in given])
    with torch.inference_mode():
        answer = model.generate(ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False)
    found: Ids = answer[:, width:].tolist()
    return found


def answers_of_ours(model: Llama, given: Ids, tokens: int) -> Ids:
    return [list(done.token_ids) for done in complete_all(model, given, Settings(max_tokens=tokens))]


def by_turns(sides: dict[str, Callable[[], Ids]], turns: int) -> tuple[dict[str, list[float]], dict[str, Ids]]:
    """Seconds of each side at each turn, and what it answered; the order changes from turn to turn."""
    answers = {name: run() for name, run in sides.items()}  # warm
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(turns):
        for name in list(sides)[:: 1 if turn % 2 else -1]:
            start = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds, answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=7)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model = Llama(TINY)
    initialise(model, 0)
    with torch.no_grad():
        model.head_weight().mul_(10)  # so that few ids are nearly as likely as the likeliest
    other = theirs(model)
    print(f"{describe()}; {asked.threads} threads, {asked.turns} turns; {TINY.parameters():,} parameters, float32")
    print(f"{'':28}{'side':14}{'tokens/s':>10}{'slowest':>10}{'fastest':>10}{'same ids':>10}")
    cases = {
        "1 prompt of 64, 128 tokens": (prompts(1, 64, 64), 128),
        "256 prompts, 40 tokens each": (prompts(256, 50, 110), 40),
    }
    for case, (given, tokens) in cases.items():
        sides = {
            "camelid": lambda given=given, tokens=tokens: answers_of_ours(model, given, tokens),
            "transformers": lambda given=given, tokens=tokens: answers_of_theirs(other, given, tokens),
        }
        seconds, answers = by_turns(sides, asked.turns)
        same = sum(a == b for a, b in zip(*answers.values(), strict=True)) / len(given)
        for name, times in seconds.items():
            rates = [len(given) * tokens / time for time in (statistics.median(times), max(times), min(times))]
            print(f"{case:28}{name:14}" + "".join(f"{rate:10,.0f}" for rate in rates) + f"{same:10.1%}")


if __name__ == "__main__":
    main()
