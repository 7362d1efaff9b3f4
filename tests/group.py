"""Several ranks on this machine, forked from one process that imported everything: the same work in each of them."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from camelid.ranks import WAIT, Ranks, joined

LIMIT = 600.0  # seconds after which a group is given up: a hang is a failure
SILENCE = 500.0  # seconds after which a rank gives up another that says nothing: no test waits for that


@dataclass(frozen=True)
class Ended:
    """How one rank ended: its exit code (negative: the signal), what its work gave, what it raised, and when."""

    code: int
    value: Any
    error: str
    seconds: float


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def together(
    world: int,
    work: Callable[[Ranks], Any],
    *,
    during: Callable[[list[int]], None] = lambda children: None,
    silence: float = SILENCE,
) -> list[Ended]:
    """What became of `work` in each of so many ranks; `during` is told the process ids while they run."""
    began, port, children = time.monotonic(), free_port(), list[int]()
    with tempfile.TemporaryDirectory() as folder:
        for rank in range(world):
            child = os.fork()
            if not child:
                _live(rank, world, port, work, Path(folder), silence)
            children.append(child)
        waiting = {os.pidfd_open(child): rank for rank, child in enumerate(children)}
        ended: dict[int, tuple[int, float]] = {}
        try:
            during(children)
            while waiting:
                ready, *_ = select.select(list(waiting), [], [], max(0.0, began + LIMIT - time.monotonic()))
                if not ready:
                    for child in waiting.values():
                        os.kill(children[child], signal.SIGKILL)
                for descriptor in ready:
                    rank = waiting.pop(descriptor)
                    os.close(descriptor)
                    _, status = os.waitpid(children[rank], 0)
                    ended[rank] = os.waitstatus_to_exitcode(status), time.monotonic() - began
        finally:
            for descriptor, rank in waiting.items():
                os.close(descriptor)
                os.kill(children[rank], signal.SIGKILL)
                os.waitpid(children[rank], 0)
        told = [_read(Path(folder) / f"{rank}.json") for rank in range(world)]
    return [Ended(*ended[rank][:1], *told[rank], ended[rank][1]) for rank in range(world)]


def values(ended: list[Ended]) -> list[Any]:
    """What each rank's work gave, where all went well."""
    wrong = [f"rank {rank}, exit {e.code}: {e.error}" for rank, e in enumerate(ended) if e.code]
    assert not wrong, "\n".join(wrong)
    return [each.value for each in ended]


def _live(rank: int, world: int, port: int, work: Callable[[Ranks], Any], folder: Path, silence: float) -> None:
    code = 70
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        torch.set_num_threads(1)
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), WAIT: str(silence),
        }  # fmt: skip
        try:
            with joined() as ranks:
                told: tuple[Any, str] = (work(ranks), "")
            code = 0
        except BaseException as error:
            code = getattr(error, "exit_code", 70)
            told = (None, f"{type(error).__name__}: {error}" if code != 70 else traceback.format_exc())
        (folder / f"{rank}.json").write_text(json.dumps(told))
    finally:
        os._exit(code)


def _read(path: Path) -> tuple[Any, str]:
    if not path.exists():
        return None, ""
    value, error = json.loads(path.read_text())
    return value, error
