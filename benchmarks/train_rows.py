"""What benchmarks/train_cpu.py compares: shapes, rows, and the real sequences that supervised rows are trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from camelid.data.corpus import Corpus
from camelid.models.shape import LlamaShape

SHAPES = {
    "15M": LlamaShape(
        layers=6, width=288, heads=6, kv_heads=6, head_width=48, hidden=768, vocab=32000, context=8192, tied=True
    ),
    "110M": LlamaShape(
        layers=12, width=768, heads=12, kv_heads=12, head_width=64, hidden=2048, vocab=32000, context=8192, tied=True
    ),
    "1.1B": LlamaShape(
        layers=22, width=2048, heads=32, kv_heads=4, head_width=64, hidden=5632, vocab=32000, context=8192
    ),
    "110M, 128k vocabulary": LlamaShape(
        layers=12, width=768, heads=12, kv_heads=12, head_width=64, hidden=2048, vocab=128_256, context=8192, tied=True
    ),
}
SEQUENCES, LONGEST = 8, 512  # of a supervised step; tokens, as Alpaca's
RANK, ALPHA = 8, 16  # of adapters, on all seven linear maps
RATE = 1e-4


@dataclass(frozen=True)
class Row:
    """One comparison: `rows` times `length` tokens a step where it is dense, else SEQUENCES real sequences."""

    kind: str  # dense, sft, lora
    shape: str
    rows: int = 0
    length: int = 0
    sides: tuple[str, ...] = ()
    goals: tuple[tuple[str, float], ...] = ()  # side, how many times faster ours is to be
    apart: bool = False  # memory does not hold all sides at once


DENSE = ("camelid", "transformers", "transformers compiled", "litgpt compiled", "torchtune compiled", "matrix")
DENSE_GOALS = (
    ("transformers", 1.6),
    *((side, 1.2) for side in ("transformers compiled", "litgpt compiled", "torchtune compiled")),
)
SFT = ("camelid", "camelid bfloat16", "trl", "trl float32", "trl packed", "transformers grouped")
SFT_GOALS = (("trl", 4.0), ("trl float32", 4.0), ("trl packed", 2.0), ("transformers grouped", 1.3))
ADAPTERS = ("camelid", "camelid bfloat16", "trl", "trl float32", "transformers padded", "transformers grouped")
ADAPTER_GOALS = (("trl", 4.0), ("trl float32", 4.0), ("transformers padded", 1.5), ("transformers grouped", 1.5))
ROWS = {
    "dense 15M": Row("dense", "15M", 8, 256, DENSE, DENSE_GOALS),
    "dense 110M": Row("dense", "110M", 4, 512, DENSE, DENSE_GOALS),
    "sft 15M": Row("sft", "15M", sides=SFT, goals=SFT_GOALS),
    "sft 110M": Row("sft", "110M", sides=SFT, goals=SFT_GOALS),
    "lora 110M": Row("lora", "110M", sides=ADAPTERS, goals=ADAPTER_GOALS),
    "lora 1.1B": Row("lora", "1.1B", sides=ADAPTERS, goals=ADAPTER_GOALS, apart=True),
}


def supervised(folder: Path) -> Corpus:
    """Alpaca's records as `render` below laid them down: real lengths, the response learned."""
    found = np.load(folder / "alpaca.npz", allow_pickle=False)
    return Corpus(found["ids"], found["starts"], found["learned"])


def render(records: Path, tokenizer: Path, folder: Path) -> None:
    """Renders the records through Alpaca's prompt with LLaMA's tokenizer, cut at LONGEST tokens, into `folder`."""
    from camelid.data import source
    from camelid.data.corpus import render_all
    from camelid.recipes.alpaca import PROMPT
    from camelid.tokenizers import load

    if (folder / "alpaca.npz").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    corpus, _ = render_all(
        source.dialogues(records), PROMPT, load(tokenizer), learn="response", length=LONGEST, over_length="cut"
    )
    assert corpus.learned is not None
    np.savez(folder / "alpaca.npz", ids=corpus.ids, starts=corpus.starts, learned=corpus.learned)
