"""Decoding with guesses looked up in the text, against plain decoding: on text that repeats itself, and on text that does not.

    python benchmarks/speculate.py --shapes 110M --kinds float32 q8_0 --model FOLDER --out FILE.json

Both sides are the same model in one process and go by turns. What is said is the same, id for id (checked). Cases:

    loops    a model of random weights at the given shape, greedy: after some ids it goes round in a loop of its own
    random   the same model, drawing at temperature 1: nothing ever comes back
    copies   a grown model (--model), greedy, given a text of its world twice and the beginning of a third time
    stories  the grown model, drawing at temperature 1 from the beginning of a text
    + q4_0   the guesses come from the same weights in four bits instead of from the text (--drafts)

`new` is the share of ids that a loop or copy does not explain: ids that do not follow the two before them as one did
earlier. A random model is no use to anybody; its loop is what such text costs, not how often it comes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from camelid.generate import decode, speculate
from camelid.generate.decode import Model, ended
from camelid.generate.settings import Settings
from camelid.machine import cores, describe
from camelid.models.shape import LlamaShape
from camelid.native.llama import NativeLlama
from camelid.native.matrix import Kind

SHAPES = {
    "tiny": LlamaShape(6, 256, 8, 8, 32, 704, 4096, 4096),
    "110M": LlamaShape(12, 768, 12, 12, 64, 2048, 32000, 4096, tied=True),
    "1.1B": LlamaShape(22, 2048, 32, 4, 64, 5632, 32000, 4096),  # TinyLlama's
}
TEXT = (
    "Mila lives in Arl. She keeps a shop where three lamps and a map are sold. Every spring Oren walks from Besk to "
    "see her, and brings two baskets of figs. "
)


def random_model(shape: LlamaShape, kind: Kind) -> NativeLlama:
    """Weights N(0, 0.02), norms of one, by their Hugging Face names."""
    draw = np.random.default_rng(0)

    def matrix(*size: int) -> torch.Tensor:
        return torch.from_numpy((draw.standard_normal(size, dtype=np.float32) * 0.02).astype(np.float32))

    tensors = {
        "model.embed_tokens.weight": matrix(shape.vocab, shape.width),
        "model.norm.weight": torch.ones(shape.width),
    }
    for index in range(shape.layers):
        at = f"model.layers.{index}."
        for name, size in shape.linears().items():
            room = "self_attn" if name in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
            tensors[f"{at}{room}.{name}.weight"] = matrix(*size)
        tensors[f"{at}input_layernorm.weight"] = torch.ones(shape.width)
        tensors[f"{at}post_attention_layernorm.weight"] = torch.ones(shape.width)
    if not shape.tied:
        tensors["lm_head.weight"] = matrix(shape.vocab, shape.width)
    return NativeLlama.load(shape, tensors, kind)


def new(prompt: Sequence[int], answer: Sequence[int]) -> float:
    """The share of the answer's ids that do not follow the two before them as one did earlier."""
    ids, seen, fresh = [*prompt, *answer], set[tuple[int, ...]](), 0
    for place in range(2, len(ids)):
        fresh += place >= len(prompt) and tuple(ids[place - 2 : place + 1]) not in seen
        seen.add(tuple(ids[place - 2 : place + 1]))
    return fresh / max(1, len(answer))


def measured(
    model: Model, prompt: Sequence[int], own: Settings, turns: int, draft: Model | None = None
) -> dict[str, Any]:
    """Plain and guessing by turns, the order changing; seconds per id of each turn."""
    tally = speculate.Tally()
    plain: list[float] = []
    guessed: list[float] = []

    def once(guesses: bool) -> tuple[int, ...]:
        start = time.perf_counter()
        if guesses:
            guesser = speculate.Lookup() if draft is None else speculate.Draft(draft)
            done = ended(speculate.generate(model, prompt, own, None, guesser, tally=tally))
        else:
            done = ended(decode.generate(model, prompt, own))
        (guessed if guesses else plain).append((time.perf_counter() - start) / len(done.token_ids))
        return done.token_ids

    said = once(False)
    assert once(True) == said, "guesses changed what is said"
    plain.clear(), guessed.clear()
    for turn in range(turns):
        for guesses in (False, True) if turn % 2 else (True, False):
            assert once(guesses) == said
    ratios = sorted(a / b for a, b in zip(plain, guessed, strict=True))
    return {
        "tokens": len(said), "new": new(prompt, said), "plain_ms": 1000 * statistics.median(plain),
        "guessed_ms": 1000 * statistics.median(guessed), "ratio": statistics.median(ratios), "least": ratios[0],
        "most": ratios[-1], "per_pass": tally.given / tally.passes, "right": tally.right / max(1, tally.guessed),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", default=["110M"], choices=[*SHAPES, "none"])
    parser.add_argument("--kinds", nargs="*", default=["float32", "q8_0"])
    parser.add_argument("--drafts", nargs="*", default=[])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--tokens", type=int, default=192)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    found = []
    print(
        f"{'case':28} {'ids':>4} {'new':>5} {'plain':>9} {'guessed':>9} {'ratio':>6} {'(from, to)':>14} {'ids/pass':>8}"
    )

    def case(name: str, model: Model, prompt: Sequence[int], own: Settings, draft: Model | None = None) -> None:
        row = {"case": name, "threads": asked.threads, **measured(model, prompt, own, asked.turns, draft)}
        found.append(row)
        print(
            f"{name:28} {row['tokens']:4} {row['new']:5.2f} {row['plain_ms']:6.3f} ms {row['guessed_ms']:6.3f} ms "
            f"{row['ratio']:5.2f}x ({row['least']:.2f}x, {row['most']:.2f}x) {row['per_pass']:6.2f}",
            flush=True,
        )

    for shape in asked.shapes:
        for kind in asked.kinds if shape != "none" else ():
            model = random_model(SHAPES[shape], kind)
            prompt = [1, *np.random.default_rng(1).integers(3, 4000, 15).tolist()]
            case(f"{shape} {kind} loops", model, prompt, Settings(max_tokens=asked.tokens))
            case(f"{shape} {kind} random", model, prompt, Settings(max_tokens=asked.tokens, temperature=1.0))
            for draft in asked.drafts:
                small = random_model(SHAPES[shape], draft)
                case(f"{shape} {kind} loops + {draft}", model, prompt, Settings(max_tokens=asked.tokens), small)
                free = Settings(max_tokens=asked.tokens, temperature=1.0)
                case(f"{shape} {kind} random + {draft}", model, prompt, free, small)
    if asked.model:
        from camelid.generate.loaded import load

        loaded = load(asked.model)
        room = loaded.shape.context - 1
        text = loaded.tokenizer.encode(TEXT)
        twice = [loaded.tokenizer.bos or 1, *text, *text, *text[:4]]
        case("grown copies", loaded.model, twice, Settings(max_tokens=min(asked.tokens, room - len(twice))))
        start = [loaded.tokenizer.bos or 1, *text[:8]]
        free = Settings(max_tokens=min(asked.tokens, room - 16), temperature=1.0)
        case("grown stories", loaded.model, start, free)
        for draft in asked.drafts:
            small = load(asked.model, weights=draft).model
            case(f"grown copies + {draft}", loaded.model, twice, Settings(max_tokens=asked.tokens), small)
            case(f"grown stories + {draft}", loaded.model, start, free, small)
    if asked.out:
        data = {
            "machine": describe(),
            "date": time.strftime("%Y-%m-%d"),
            "command": "benchmarks/speculate.py",
            "rows": found,
        }
        asked.out.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
