"""Tokenizers for the tests of this room: the real ones where they are, and small ones trained here."""

from __future__ import annotations

from pathlib import Path

import pytest

from camelid.tokenizers import byte_bpe, load, sentencepiece

TALE = (
    "The camel walked 120 miles to Aswan, where its owner's sister sold dates.\n"
    '"How many?" asked Omar. "Twelve baskets at 3.50 each — that\'s 42," she said.\n'
    "def total(n): return n * 3.50  # price\n\n"
    "Ein Kamel läuft weiter, als man glaubt; верблюд идёт; 骆驼走了很远。🐪\n"
)


@pytest.fixture(scope="session")
def pieces() -> sentencepiece.SentencePieceTokenizer:
    return sentencepiece.train([TALE * 20], vocab=420)


@pytest.fixture(scope="session")
def byte_level() -> byte_bpe.ByteBPETokenizer:
    return byte_bpe.train([TALE * 20], vocab=420)


@pytest.fixture(scope="session")
def llama_2(shared: Path) -> sentencepiece.SentencePieceTokenizer:
    return load(shared / "tokenizers" / "llama2.model")


@pytest.fixture(scope="session")
def llama_3(shared: Path) -> byte_bpe.ByteBPETokenizer:
    return load(shared / "tokenizers" / "llama3.model")
