"""The processes of one run, on one host or many, as torchrun starts them; and what they tell each other.

    torchrun --nproc-per-node 2 -m camelid grow ...      two processes: ranks 0 and 1

Rank 0 leads: it alone writes journals, commits and finished models, and tells how it went. What ranks say to each
other besides tensors is JSON, never a pickled object. A process that dies or hangs ends the run of the others with
RankFailed: at once where its connection closes, after `PATIENCE` seconds where it merely falls silent.
"""

from __future__ import annotations

import gc
import json
import math
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from camelid.errors import CamelidError, ProblemList

PATIENCE = (
    600.0  # ours: seconds without an answer after which a rank is given up, unless the environment says otherwise
)
WAIT = "CAMELID_RANK_SECONDS"


class RankFailed(CamelidError):
    """Another process of the run died, failed or fell silent. What was committed stands; resume to go on."""


class RanksDisagree(CamelidError):
    """Processes that must hold the same numbers do not: a fault of hardware or of a library. Nothing was applied."""


@dataclass(frozen=True)
class Launch:
    """What torchrun tells a process through its environment."""

    rank: int
    world: int
    local: int
    beside: int = 1  # processes of the run on this host, this one counted


def launched() -> Launch:
    """Which process this is; the only one where torchrun did not start it. Raises UsageError for half an environment."""
    words = {name: os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")}
    if not words["RANK"] or not words["WORLD_SIZE"]:
        return Launch(0, 1, 0)
    problems = ProblemList()
    for name, word in words.items():
        if word and not word.isdigit():
            problems.add(name, f"found {word!r}", "start with torchrun, which sets it")
    problems.raise_usage()
    beside = max(1, int(words["LOCAL_WORLD_SIZE"] or 1))
    return Launch(int(words["RANK"]), int(words["WORLD_SIZE"]), int(words["LOCAL_RANK"] or 0), beside)


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run. Alone, everything here returns at once and nothing is sent."""

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @contextmanager
    def speaking(self, doing: str) -> Iterator[None]:
        """Inside, what the network says of a lost process becomes RankFailed; an error of this process's own stays."""
        try:
            yield
        except RuntimeError as error:  # all that torch.distributed raises
            if not _from_the_network(error):
                raise
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise RankFailed(
                f"rank {self.rank} of {self.world}: another process of the run is gone or silent, found while {doing} "
                f"({why[:200]}). Its own message says why; then resume the run, on as many processes as there are"
            ) from error

    def numbers(self, values: Sequence[float], doing: str = "comparing notes") -> list[list[float]]:
        """Everybody's numbers, rank by rank; all ranks give equally many."""
        if self.world == 1:
            return [list(values)]
        import torch
        from torch import distributed

        mine = torch.tensor(values, dtype=torch.float64)
        all_of_them = torch.empty(self.world, len(values), dtype=torch.float64)
        with self.speaking(doing):
            distributed.all_gather(list(all_of_them), mine)
        found: list[list[float]] = all_of_them.tolist()
        return found

    def gathered(self, value: Any, doing: str = "comparing notes") -> list[Any]:
        """Everybody's JSON value, rank by rank."""
        if self.world == 1:
            return [value]
        import torch
        from torch import distributed

        data = json.dumps(value, ensure_ascii=False).encode()
        lengths = [int(length) for (length,) in self.numbers([len(data)], doing)]
        mine = torch.zeros(max(lengths), dtype=torch.uint8)
        mine[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        everything = torch.empty(self.world, max(lengths), dtype=torch.uint8)
        with self.speaking(doing):
            distributed.all_gather(list(everything), mine)
        return [
            json.loads(bytes(row[:length].numpy())) for row, length in zip(everything, lengths, strict=True)
        ]  # from our own processes

    def told(self, value: Any, doing: str = "waiting for rank 0") -> Any:
        """Rank 0's JSON value; what others give is not looked at."""
        return self.gathered(value if self.leads else None, doing)[0]

    @contextmanager
    def first(self, doing: str) -> Iterator[None]:
        """Rank 0 does what is inside before the others do. If it fails, they raise RankFailed with its message."""
        if not self.leads:
            if (error := self.told(None, f"waiting for rank 0, {doing}")) is not None:
                raise RankFailed(f"rank 0 failed, {doing}: {error}")
            yield
            return
        try:
            yield
        except BaseException as error:
            self.told(f"{type(error).__name__}: {error}", doing)
            raise
        self.told(None, doing)

    def agreed(self, values: Sequence[float], doing: str) -> None:
        """Raises RanksDisagree, on every rank, unless all gave the same numbers; two that are no number are the same."""
        everyone = self.numbers(values, doing)
        if all(_same(row, everyone[0]) for row in everyone):
            return
        told = ", ".join(f"rank {rank} {row}" for rank, row in enumerate(everyone))
        raise RanksDisagree(f"{doing}: {told}; nothing was applied. Look for a faulty host, then resume the run")


def _same(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(one, other, strict=True))


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, on a CPU or a GPU."""
    import torch

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _from_the_network(error: RuntimeError) -> bool:
    """Whether torch.distributed raised an error: by its type, or from the place that it was raised at."""
    from torch.distributed import DistError

    if lacks_memory(error):
        return False
    places = [frame.f_code.co_filename.replace(os.sep, "/") for frame, _ in traceback.walk_tb(error.__traceback__)]
    innermost = next((place for place in reversed(places) if not place.endswith("torch/_ops.py")), "")
    return isinstance(error, DistError) or "torch/distributed/" in innermost


ALONE = Ranks()


@contextmanager
def joined(device: str = "cpu", launch: Launch | None = None) -> Iterator[Ranks]:
    """The processes that torchrun started, connected for as long as the block lasts; ALONE where it did not.

    Tensors on the CPU go through gloo, those on a GPU through NCCL; each process takes the GPU of its local rank.
    Raises RankFailed where the others do not come.
    """
    launch = launch or launched()
    if launch.world == 1:
        yield ALONE
        return
    import torch
    from torch import distributed

    ranks = Ranks(launch.rank, launch.world)
    if device.startswith("cuda"):
        torch.cuda.set_device(launch.local)
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    with ranks.speaking("the processes of the run were to meet"):
        distributed.init_process_group(backend, timeout=timedelta(seconds=patience()))
    try:
        yield ranks
    finally:
        _let_go()
        distributed.destroy_process_group()


def _let_go() -> None:
    """Drops what still holds groups of ranks, whose threads end with them: one that lets go of a tensor while Python ends
    would abort the process. Divided models are full of cycles, and DTensor remembers by meshes how it divided."""
    if "torch.distributed.tensor" in sys.modules:
        from torch.distributed.tensor import debug

        for name in ("_clear_sharding_prop_cache", "_clear_python_sharding_prop_cache"):
            getattr(debug, name, lambda: None)()
    gc.collect()


def patience() -> float:
    """Seconds that a silent rank is waited for."""
    word = os.environ.get(WAIT, "")
    problems = ProblemList()
    try:
        seconds = float(word) if word else PATIENCE
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        problems.add(WAIT, f"found {word!r}", "give a number of seconds above 0")
    problems.raise_usage()
    return seconds
