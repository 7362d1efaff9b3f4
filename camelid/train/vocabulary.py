"""New rows for new tokens, as Alpaca gave its [PAD] one."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from camelid.errors import Problem, UsageError
from camelid.models.llama import Llama


def with_rows(model: Llama, rows: int) -> Llama:
    """The same model with a vocabulary of `rows`: each new row of embedding and head is the mean of the old rows.

    Stanford Alpaca, train.py: smart_tokenizer_and_embedding_resize. The change is made in place; `model` comes back.
    Raises UsageError for fewer rows than there are.
    """
    old = model.shape.vocab
    if rows < old:
        raise UsageError([Problem("vocabulary", f"{rows} rows asked, {old} there", "rows are added, never taken away")])
    if rows == old:
        return model
    embedding = model.model.embed_tokens
    embedding.weight = _with_means(embedding.weight, rows)
    embedding.num_embeddings = rows
    if model.lm_head is not None:
        model.lm_head.weight = _with_means(model.lm_head.weight, rows)
        model.lm_head.out_features = rows
    model.shape = replace(model.shape, vocab=rows)
    return model


def _with_means(weight: Tensor, rows: int) -> nn.Parameter:
    """[V, D] -> [rows, D]; the mean is taken in float32 or better."""
    old = weight.detach()
    mean = old.to(torch.promote_types(old.dtype, torch.float32)).mean(dim=0, keepdim=True).to(old.dtype)
    return nn.Parameter(torch.cat([old, mean.expand(rows - len(old), -1)]))
