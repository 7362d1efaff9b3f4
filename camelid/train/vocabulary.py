"""New rows for new tokens: as Alpaca gave its [PAD] one, and as the Chinese members gave theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from camelid.errors import Problem, UsageError
from camelid.models.llama import DEVIATION, Llama
from camelid.randomness import torch_generator
from camelid.tokenizers.protocol import Tokenizer

NewRows = Literal["mean", "pieces", "random"]


def with_rows(
    model: Llama,
    rows: int,
    *,
    known: int | None = None,
    new: NewRows = "mean",
    pieces: Mapping[int, Sequence[int]] | None = None,
    seed: int = 0,
) -> Llama:
    """The same model with a vocabulary of `rows`, changed in place; `model` comes back, its old rows as they were.

    known   ids that mean something before, from which on rows are begun; all by default. Models are often padded: there
            are more rows than their tokenizer has ids, and what lies there was never trained
    new     "mean": each new row of embedding and head is the mean of the known ones (Stanford Alpaca, train.py:
            smart_tokenizer_and_embedding_resize); "pieces": the mean of the rows of its old pieces, as `pieces` names
            them by id, and of all rows where it has none; "random": N(0, 0.02), keyed by `seed`, which is what a plain
            resize did in the libraries of 2023
    Padding beyond `rows` stays. Raises UsageError for fewer rows than are known.
    """
    known = model.shape.vocab if known is None else known
    if rows < known:
        found = f"{rows} rows asked, {known} there"
        raise UsageError([Problem("vocabulary", found, "rows are added, never taken away")])
    if rows == known:
        return model
    embedding = model.model.embed_tokens
    added = range(known, rows)
    embedding.weight = _grown(embedding.weight, added, new, pieces or {}, (seed, "embed_tokens"))
    if model.lm_head is not None:
        model.lm_head.weight = _grown(model.lm_head.weight, added, new, pieces or {}, (seed, "lm_head"))
        model.lm_head.out_features = len(model.lm_head.weight)
    embedding.num_embeddings = len(embedding.weight)
    model.shape = replace(model.shape, vocab=len(embedding.weight))
    return model


def old_pieces(old: Tokenizer, new: Tokenizer) -> dict[int, list[int]]:
    """What each id that `new` has beyond `old` was written with before: its text as old ids. Controls have none."""
    controls = set(new.controls.values())
    texts = {id: new.decode([id], starts=False) for id in range(old.size, new.size) if id not in controls}
    return {id: old.encode(text, starts=False) for id, text in texts.items()}


def _grown(
    weight: Tensor, rows: range, new: NewRows, pieces: Mapping[int, Sequence[int]], words: tuple[int, str]
) -> nn.Parameter:
    """[V, D] with `rows` begun, which may lie within V, beyond it, or both; means are taken in float32 or better."""
    old = weight.detach()
    exact = old[: rows.start].to(torch.promote_types(old.dtype, torch.float32))
    added = exact.mean(dim=0, keepdim=True).repeat(len(rows), 1)
    if new == "random":
        drawn = torch.randn(added.shape, generator=torch_generator("new rows", *words), dtype=torch.float32)
        added = (drawn * DEVIATION).to(added)
    elif new == "pieces":
        for id, ids in pieces.items():
            if ids:
                added[id - rows.start] = exact[torch.tensor(list(ids), device=old.device)].mean(dim=0)
    return nn.Parameter(torch.cat([old[: rows.start], added.to(old.dtype), old[rows.stop :]]))
