"""The largest micro-batch of a run, tried before its first step: running out of memory happens then or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from camelid.errors import CamelidError
from camelid.ranks import lacks_memory
from camelid.train.optim import Optimizer
from camelid.train.parallel import Divided

if TYPE_CHECKING:
    from camelid.data.batch import Batch

Backward = Callable[[int, int, "Batch", float], Any]


class DoesNotFit(CamelidError):
    """The largest micro-batch of the run needs more memory than there is. Nothing was trained."""


def rehearse(batches: Any, backward: Backward, optimizer: Optimizer, divided: Divided | None) -> None:
    """A forward and backward pass of the largest micro-batch, of which nothing is kept; no bit of the run changes.

    Raises DoesNotFit where memory does not suffice. Where the system kills a process instead, it does so now.
    """
    largest: Callable[[], Batch] | None = getattr(batches, "largest", None)
    if largest is None:
        return
    batch = largest()
    try:
        if divided is None:
            backward(0, 0, batch, float("inf"))
        else:
            divided.rehearse(batch)
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        told = str(error).splitlines()[0][:160]
        raise DoesNotFit(
            f"the largest micro-batch, {batch.tokens} tokens, does not fit into memory ({told}); nothing was trained. "
            f"Use --micro-tokens {max(1, batch.tokens // 2)}, a shorter length, or more ranks with --shard"
        ) from None
    finally:
        optimizer.refuse()
