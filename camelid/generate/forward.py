"""One call of a model for the new tokens of many sequences, through the kernels or through PyTorch.

Through the kernels a token's numbers never depend on its company. PyTorch's products do: other sizes add in another
order. So in exact mode every product is made in tiles of 16 rows, filled up where there are fewer, and every token looks
at its keys by itself. That a row's numbers then do not depend on where it stands or what stands beside it is a property
of the library beneath, and so it is tried, once per model. A model that fails, or whose rows begin anywhere but at a
cache line (there the library was seen to add in other orders, rarely enough to pass), reads its tokens one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from camelid.generate.sample import log_probability
from camelid.models.llama import Llama, paged_cache
from camelid.native.llama import NativeLlama
from camelid.nn.paged import PAGE, PagedTokens

TILE = 16  # ours: rows of a product; on one core of the log's machine a quarter of the time of 16 products of one row
LINE = 64  # bytes of a cache line, and of the widest registers
TRIES = 3  # ours: orders in which a tile is tried

Model = Llama | NativeLlama
_tiles: WeakKeyDictionary[nn.Module, tuple[tuple[object, ...], int]] = WeakKeyDictionary()


@torch.inference_mode()
def read(
    model: Model, ids: NDArray[np.int64], new: PagedTokens, want: NDArray[np.int32], *, rows: int, states: bool = False
) -> tuple[Tensor | None, Tensor]:
    """Logits [n, V] of the tokens `want` among the new ones, and, where asked for, the states [N, D] of all of them.

    `rows` is what `tile` found for the model; 0 takes all tokens at once, as `PagedTokens.exact` does.
    """
    if isinstance(model, NativeLlama):
        return model.read(ids, new, want, states=states)
    with quiet(training(model)):
        if rows:
            whole = torch.cat([_tile(model, ids, new, first, rows) for first in range(0, len(ids), rows)])
        else:
            whole = model.hidden(torch.from_numpy(ids).to(model.device)[None], cache=new)[0]
        wanted = whole[torch.from_numpy(want).long().to(whole.device)]
        return whole if states else None, heads(model, wanted, rows=rows)


@torch.inference_mode()
def heads(model: Model, states: Tensor, *, rows: int) -> Tensor:
    """Logits [N, V] of states [N, D]."""
    if not rows:
        return model.logits(states)
    parts = [
        model.logits(filled(states[at : at + rows], rows))[: len(states) - at] for at in range(0, len(states), rows)
    ]
    return torch.cat(parts) if parts else states.new_empty(0, model.shape.vocab)


def filled(rows: Tensor, size: int) -> Tensor:
    """`size` rows, the last one repeated, in memory of their own: where rows begin can change how they are added."""
    return torch.cat([rows, rows[-1:].expand(size - len(rows), -1)])


def tile(model: Model) -> int:
    """Rows of a product that give each row the same bits wherever it stands: 16, or 1; 0 where all products do."""
    if not isinstance(model, Llama):
        return 0
    built = (model.dtype, model.device, torch.get_num_threads())
    found = _tiles.get(model)
    if found is None or found[0] != built or model.adapter is not None:  # an adapter's zeros grow into numbers
        found = built, _tried(model) if _lined(model) else 1
        _tiles[model] = found
    return found[1]


def _lined(model: Llama) -> bool:
    """Whether every row of numbers between two products begins at a cache line, given that the first does."""
    sizes = {size for pair in model.shape.linears().values() for size in pair}
    if model.adapter is not None:
        sizes.add(model.adapter.rank)
    return all(size * model.dtype.itemsize % LINE == 0 for size in sizes)


@torch.inference_mode()
def _tried(model: Llama) -> int:
    """Sixteen texts of one token, in several orders; then one of them among fifteen of another kind."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.shape.vocab, (TILE,), generator=generator)
    expected = _states(model, ids)
    for turn in range(TRIES):
        order = torch.randperm(TILE, generator=generator)
        company = ids[order] if turn < TRIES - 1 else ids[order[:1]].expand(TILE)
        found, wanted = _states(model, company), [part[order] for part in expected]
        rows = slice(None) if turn < TRIES - 1 else slice(0, 1)
        if not all(torch.equal(a[rows], b[rows]) for a, b in zip(found, wanted, strict=True)):
            return 1
    return TILE


def _states(model: Llama, ids: Tensor) -> tuple[Tensor, Tensor]:
    """States [16, D] and logits [16, V] of sixteen texts of one token."""
    cache = paged_cache(model.shape, TILE, model.dtype, model.device)
    rows = np.arange(TILE, dtype=np.int32)
    new = PagedTokens(cache, rows, np.zeros(TILE, np.int32), rows[:, None].copy())
    with quiet(training(model)):
        states = model.hidden(ids.to(model.device)[None], cache=new)[0]
        return states, model.logits(states)


def _tile(model: Llama, ids: NDArray[np.int64], new: PagedTokens, first: int, size: int) -> Tensor:
    part = new.tile(first, size)
    own = ids[np.minimum(np.arange(first, first + size), first + part.count - 1)]
    return model.hidden(torch.from_numpy(own).to(model.device)[None], cache=part)[0, : part.count]


def scores(model: Model, logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities [n] of one id in each row of logits [n, V]."""
    return model.pick(logits, ids)[1] if isinstance(model, NativeLlama) else log_probability(logits, ids)


def training(model: Model) -> list[nn.Module]:
    """The modules of the model that are in training mode; an adapter's may be where the model itself is not."""
    return [module for module in model.modules() if module.training]


@contextmanager
def quiet(modules: Sequence[nn.Module]) -> Iterator[None]:
    """These modules out of training mode, so that nothing is dropped; afterwards they are in it again."""
    for module in modules:
        vars(module)["training"] = False  # nn.Module's own setter takes a tenth of a small model's step
    try:
        yield
    finally:
        for module in modules:
            vars(module)["training"] = True


__all__ = ["PAGE", "Model", "heads", "quiet", "read", "scores", "tile", "training"]
