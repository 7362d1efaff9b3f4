"""Texts to ids on all cores, in their order, with the ids that one process gives.

Encoders hold Python's lock while they make lists, so threads share badly; here forked processes encode, and send plain
arrays back over pipes. A child is sent a batch of texts, and its answer is read before it is sent the next, so neither
side ever waits for the other to empty a pipe.

    to a child      count uint64, then lengths uint64 [count], then the texts in UTF-8 end to end
    from a child    0 and count uint64, then lengths uint64 [count], then ids uint32 end to end; or 1 and a message
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import IO, NoReturn

import numpy as np
from numpy.typing import NDArray

from camelid.errors import CamelidError
from camelid.machine import can_fork, cores
from camelid.tokenizers.protocol import Tokenizer

FEW = 2 << 20  # ours: characters below which forking costs more than it saves
BATCH = 1 << 18  # ours: characters of a batch; larger ones leave children idle at the end
HEAD = struct.Struct("<QQ")
IDS = np.dtype("<u4")


class EncoderFailed(CamelidError):
    """A process that encodes met an error or died."""


def encoded(texts: Iterable[str], tokenizer: Tokenizer, *, workers: int | None = None) -> Iterator[NDArray[np.uint32]]:
    """The ids of each text, in order. `workers` processes encode, as many as there are cores by default; a few texts are
    encoded here. Raises EncoderFailed, and whatever the tokenizer raises.
    """
    count = cores() if workers is None else workers
    ahead: list[str] = []
    rest, size = iter(texts), 0
    while size < FEW and (text := next(rest, None)) is not None:
        ahead.append(text)
        size += len(text)
    if count < 2 or size < FEW or not can_fork():
        for text in chain(ahead, rest):
            yield np.array(tokenizer.encode(text), IDS)
        return
    tokenizer.encode(ahead[0])  # what is made once is made before the children are
    children: list[_Child] = []
    try:
        children += [_Child(tokenizer, children) for _ in range(count)]
        yield from _shared(_batches(chain(ahead, rest)), children)
    finally:
        for child in children:
            child.close()


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _shared(batches: Iterator[list[str]], children: Sequence[_Child]) -> Iterator[NDArray[np.uint32]]:
    """Batch n goes to child n modulo their number; answers are read in the same order."""
    sent = read = 0
    for batch in batches:
        if sent - read == len(children):
            yield from children[read % len(children)].answer()
            read += 1
        children[sent % len(children)].send(batch)
        sent += 1
    while read < sent:
        yield from children[read % len(children)].answer()
        read += 1


class _Child:
    """A forked process that encodes, as its parent sees it."""

    def __init__(self, tokenizer: Tokenizer, others: Sequence[_Child]) -> None:
        self.tokenizer = tokenizer
        (given, give), (take, taken) = os.pipe(), os.pipe()
        self.process = _fork()
        if not self.process:
            for other in others:  # or a pipe would stay open in here when its owner closes it
                other.close_pipes()
            os.close(give)
            os.close(take)
            _serve(tokenizer, os.fdopen(given, "rb"), os.fdopen(taken, "wb"))
        os.close(given)
        os.close(taken)
        self.orders, self.answers = os.fdopen(give, "wb"), os.fdopen(take, "rb")

    def send(self, texts: Sequence[str]) -> None:
        data = []
        for text in texts:
            try:
                data.append(text.encode("utf-8"))
            except UnicodeEncodeError:
                self.tokenizer.encode(text)  # says what it thinks of a text that is none
                raise
        lengths = np.array([len(each) for each in data], "<u8")
        with self._alive():
            self.orders.write(HEAD.pack(0, len(data)) + lengths.tobytes() + b"".join(data))
            self.orders.flush()

    def answer(self) -> Iterator[NDArray[np.uint32]]:
        with self._alive():
            kind, count = HEAD.unpack(_exactly(self.answers, HEAD.size))
            if kind:
                raise EncoderFailed(_exactly(self.answers, count).decode("utf-8", "replace"))
            lengths = np.frombuffer(_exactly(self.answers, 8 * count), "<u8")
            ids = np.frombuffer(_exactly(self.answers, IDS.itemsize * int(lengths.sum())), IDS)
        ends = np.cumsum(lengths).tolist()
        start = 0
        for end in ends:
            yield ids[start:end]
            start = end

    def close_pipes(self) -> None:
        for pipe in (self.orders, self.answers):
            with contextlib.suppress(OSError):
                pipe.close()

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        self.close_pipes()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.process, 0)

    @contextlib.contextmanager
    def _alive(self) -> Iterator[None]:
        try:
            yield
        except (BrokenPipeError, EOFError) as error:
            found = "a process that encodes texts died: it was killed, or memory ran out"
            raise EncoderFailed(f"{found}; free memory, or use fewer cores (taskset)") from error


def _serve(tokenizer: Tokenizer, orders: IO[bytes], answers: IO[bytes]) -> NoReturn:
    """What a child does until its parent closes the pipe; it never comes back into the parent's code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        while head := orders.read(HEAD.size):
            _, count = HEAD.unpack(head)
            lengths = np.frombuffer(_exactly(orders, 8 * count), "<u8").tolist()
            # All of them first, or who sends them waits until they are encoded.
            texts = [_exactly(orders, length) for length in lengths]
            ids = [tokenizer.encode(text.decode("utf-8")) for text in texts]
            sizes = np.array([len(each) for each in ids], "<u8")
            flat = np.fromiter(chain.from_iterable(ids), IDS, count=int(sizes.sum()))
            answers.write(HEAD.pack(0, count) + sizes.tobytes() + flat.tobytes())
            answers.flush()
    except (BrokenPipeError, EOFError):
        os._exit(1)
    except BaseException as error:  # everything is told to the parent, which raises it
        said = f"{type(error).__name__}: {error}".encode("utf-8", "replace")[:10_000]
        with contextlib.suppress(OSError):
            answers.write(HEAD.pack(1, len(said)) + said)
            answers.flush()
        os._exit(1)
    os._exit(0)


def _exactly(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _fork() -> int:
    with warnings.catch_warnings():  # PyTorch's idle threads are no danger to a child that never uses PyTorch
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


__all__ = ["EncoderFailed", "encoded"]
