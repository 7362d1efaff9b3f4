"""How well a base predicts text that it has not read: bits per byte, of whole documents or beyond a length."""

from __future__ import annotations

import math
from collections.abc import Sequence

from camelid.errors import Problem, UsageError
from camelid.evaluate.likelihood import scored, texts, total
from camelid.generate.loaded import Loaded


def bits_per_byte(loaded: Loaded, documents: Sequence[str], *, beyond: int = 0) -> float:
    """Bits per byte over all documents; with `beyond`, of what comes after so many tokens, up to the context.

    Raises UsageError where no document is longer than that.
    """
    if not beyond:
        return total(texts(loaded, documents)).bits_per_byte
    windows = []
    written = 0
    for text in documents:
        ids = [loaded.tokenizer.bos or 0, *loaded.tokenizer.encode(text)][: loaded.shape.context]
        if len(ids) > beyond + 1:
            windows.append((ids, beyond))
            written += len(loaded.tokenizer.decode(ids[beyond:], starts=False).encode())
    if not windows:
        raise UsageError([Problem("documents", f"none is longer than {beyond} tokens", "give longer ones")])
    nats = -math.fsum(logprob for found in scored(loaded.model, windows) for logprob in found)
    return nats / math.log(2) / written
