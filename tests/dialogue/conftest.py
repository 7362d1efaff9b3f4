"""The tokenizers of tests/tokenizers, and every template with the tokenizers that can render it."""

from __future__ import annotations

from pathlib import Path

import pytest

from camelid.dialogue.published import LLAMA_2, LLAMA_3, LLAMA_3_1, PLAIN, VICUNA_1_1
from camelid.recipes.alpaca import PROMPT as ALPACA
from camelid.recipes.alpaca_lora import alpaca_lora
from camelid.tokenizers.extend import with_controls, with_pad
from tests.tokenizers.conftest import byte_level, llama_2, llama_3, pieces  # noqa: F401

ALPACA_LORA = alpaca_lora().stages[-1].prompt
TEMPLATES = {
    "alpaca": ALPACA,
    "alpaca_lora": ALPACA_LORA,
    "llama_2": LLAMA_2,
    "llama_3": LLAMA_3,
    "vicuna": VICUNA_1_1,
    "plain": PLAIN,
}
TOKENIZERS = ("pieces", "byte_level", "llama_2", "llama_3")
LLAMA_3_NAMES = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


MADE: dict[tuple[str, bool], object] = {}  # tokenizers by kind, with Llama 3's control names or without


def tokenizer_for(template: str, kind: str, request: pytest.FixtureRequest):
    """The tokenizer, with a pad and with Llama 3's control names where the template wants them."""
    named = template == "llama_3" and kind in ("pieces", "llama_2")
    if (kind, named) not in MADE:
        tokenizer = with_pad(request.getfixturevalue(kind), "[PAD]")
        MADE[kind, named] = with_controls(tokenizer, LLAMA_3_NAMES) if named else tokenizer
    return MADE[kind, named]


@pytest.fixture(scope="session")
def opened(tmp_path_factory: pytest.TempPathFactory):
    """transformers' view of a tokenizer of ours, written to a folder once."""
    transformers = pytest.importorskip("transformers")
    known: dict[str, Path] = {}

    def open(tokenizer):
        if tokenizer.digest() not in known:
            folder = known.setdefault(tokenizer.digest(), tmp_path_factory.mktemp("opened"))
            for name, content in tokenizer.files().items():
                (folder / name).write_bytes(content)
        return transformers.AutoTokenizer.from_pretrained(str(known[tokenizer.digest()]))

    return open


def every_pair(*without: str):
    return [(t, k) for t in TEMPLATES for k in TOKENIZERS if t not in without]


__all__ = ["LLAMA_3_1", "TEMPLATES", "TOKENIZERS", "every_pair", "tokenizer_for"]
