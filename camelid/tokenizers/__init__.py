"""Tokenizers behind one protocol: SentencePiece (LLaMA 1, 2), byte-level BPE (Llama 3), tokenizer.json of either."""

from __future__ import annotations

from pathlib import Path

from camelid.tokenizers.protocol import StreamDecoder, Tokenizer

__all__ = ["StreamDecoder", "Tokenizer", "load"]


def load(path: Path | str) -> Tokenizer:
    """The tokenizer in a folder or file, recognised by its content: a SentencePiece model, tiktoken ranks or a
    Hugging Face tokenizer.json.

    In a folder the control tokens that were added later are read from the configuration files beside it.
    Raises BadFile for anything truncated, corrupt, mislabelled or hostile.
    """
    from camelid.tokenizers.reading import read  # the libraries are imported when the first tokenizer is opened

    return read(Path(path))
