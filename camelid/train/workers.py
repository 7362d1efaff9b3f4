"""One step on many cores: forked processes of one thread each compute its micro-batches and share memory.

                      weights and moments (shared)                        written between steps, each by one process
    process 0    micro-batches 0, W, 2W ...    -> slots 0, W ...     |
    process 1    micro-batches 1, W+1 ...      -> slots 1, W+1 ...   |    then each adds its part of the weights'
       ...                                                           |    gradients: slot 0 + slot 1 + slot 2 ...
    process W-1  ...                                                 |    and, once the step was found sound, updates them

Process 0 is the parent, which alone judges, writes and commits. Slots are added in the order of micro-batches, as one
process adds them, and a weight is measured and updated whole by one process, so the bits are the same however many
processes there are: their number W is no part of what a run is, and may be another after each interruption. The cut
into micro-batches must not depend on it. Optimizers whose state is more than weights and moments (`Optimizer.divisible`)
are the parent's alone.

Small models need this on a CPU: their operations last microseconds, too short to be shared by threads. Children
inherit model, loss and batches by fork; commands and answers are a few bytes over pipes. A child holds no descriptor
but its own pipes (so it keeps no lock alive), ignores SIGINT and SIGTERM, and ends at once when its parent is gone.
"""

from __future__ import annotations

import math
import mmap
import os
import signal
import struct
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import torch
from torch import Tensor

from camelid.errors import CamelidError, ProblemList
from camelid.machine import Machine, can_fork
from camelid.train.optim import Optimizer

if TYPE_CHECKING:
    from camelid.data.batch import Batch

Backward = Callable[[int, int, "Batch", int], Tensor]  # step, micro-batch, its data, count of the step: its loss sum
Plan = Callable[[int], tuple[Sequence["Batch"], Sequence[int]]]  # a step's micro-batches and their counts

COMPUTE, ADD, UPDATE = 1, 2, 3  # commands
ORDER = struct.Struct("<BQQ")  # command, step, first of the micro-batches to do
DONE, FAILED = b".", b"!"
ANSWER = struct.Struct("<cI")  # how it went, bytes of text that follow
BORDER = 64  # bytes: where PyTorch's own allocator puts tensors, which decides how vector kernels walk them
ASKING = (signal.SIGINT, signal.SIGTERM)


class WorkerFailed(CamelidError):
    """A process that shares in a step died or met an error. Weights and moments are those of the step before."""


class UpdateFailed(CamelidError):
    """A process died or met an error while weights were updated: some are of this step, others of the step before."""


class _Lost(CamelidError):
    """A child died or met an error; how, in words."""


def check(machine: Machine) -> None:
    """Raises UsageError where a machine asks for workers that cannot be had."""
    problems = ProblemList()
    if machine.workers < 1:
        problems.add("workers", f"{machine.workers}", "use 1 or more")
    if machine.workers > 1:
        if machine.threads != 1:
            problems.add("threads", f"{machine.threads} in each of {machine.workers} workers", "use 1")
        if machine.device != "cpu":
            problems.add("workers", f"{machine.workers} on {machine.device}", "use 1: workers share a CPU")
        if not can_fork():
            problems.add("workers", f"{machine.workers} on a system that cannot fork", "use 1")
    problems.raise_usage()


# --- memory ---------------------------------------------------------------------------------------------------------


class Arena:
    """Memory that forked processes share with their parent; its tensors begin as zeros, and keep it while they live."""

    def __init__(self) -> None:
        self._wanted: list[tuple[int, tuple[int, ...], torch.dtype]] = []
        self._bytes = 0
        self._memory: mmap.mmap | None = None

    def want(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """Reserves room for a tensor; its number for `take`."""
        self._wanted.append((self._bytes, tuple(shape), dtype))
        self._bytes += -(-math.prod(shape) * dtype.itemsize // BORDER) * BORDER
        return len(self._wanted) - 1

    def take(self, number: int) -> Tensor:
        """The tensor of this number. The first call fixes what the arena holds."""
        if self._memory is None:
            self._memory = mmap.mmap(-1, max(self._bytes, 1))
        at, shape, dtype = self._wanted[number]
        if not math.prod(shape):
            return torch.zeros(shape, dtype=dtype)
        return torch.frombuffer(self._memory, dtype=dtype, count=math.prod(shape), offset=at).view(shape)


class Slots:
    """Room for the gradients of a few micro-batches, their loss sums, the step's whole gradient, and what is updated."""

    def __init__(self, optimizer: Optimizer, count: int) -> None:
        self.count, self.names = count, list(optimizer.masters)
        arena = Arena()
        shapes = {name: (master.shape, master.dtype) for name, master in optimizer.masters.items()}
        places = {name: arena.want(tensor.shape, tensor.dtype) for name, tensor in optimizer.movable().items()}
        wanted = [{name: arena.want(*told) for name, told in shapes.items()} for _ in range(count + 1)]
        sums, present = arena.want([count], torch.float64), arena.want([count, len(shapes)], torch.bool)
        norms, told = (
            arena.want([len(shapes)], next(iter(optimizer.masters.values())).dtype),
            arena.want([2], torch.float64),
        )
        self.places = {name: arena.take(number) for name, number in places.items()}
        *self.slots, self.total = [{name: arena.take(number) for name, number in each.items()} for each in wanted]
        self.sums, self.present = arena.take(sums), arena.take(present)
        self.norms, self.told = arena.take(norms), arena.take(told)  # of each weight's gradient; rate and whole norm

    def put(self, slot: int, total: Tensor, weights: Mapping[str, torch.nn.Parameter]) -> None:
        """Keeps what a backward pass left, and takes it from the weights."""
        self.sums[slot] = total
        self.present[slot] = torch.tensor([weights[name].grad is not None for name in self.names])
        for name in self.names:
            gradient = weights[name].grad
            if gradient is not None:
                self.slots[slot][name].copy_(gradient)
                weights[name].grad = None

    def held(self, filled: int) -> list[str]:
        """Whose gradient the first `filled` slots hold."""
        return [name for name, held in zip(self.names, self.present[:filled].any(0).tolist(), strict=True) if held]

    def add(self, names: Sequence[str], filled: int, begun: set[str]) -> None:
        """Adds the gradients of the first `filled` slots to the total, in order; `begun` are those that hold any yet."""
        present = dict(zip(self.names, self.present[:filled].T.tolist(), strict=True))
        for name in names:
            parts = [slot[name] for slot, there in zip(self.slots, present[name], strict=False) if there]
            if parts and name not in begun:
                begun.add(name)
                first, *parts = parts
                if not parts:
                    self.total[name].copy_(first)
                else:
                    torch.add(first, parts.pop(0), out=self.total[name])
            for part in parts:
                self.total[name].add_(part)

    def measure(self, names: Sequence[str], begun: set[str]) -> None:
        """Keeps the Euclidean norm of the total of each of these weights, 0 where it holds none."""
        for name in names:
            number = self.names.index(name)
            self.norms[number] = torch.linalg.vector_norm(self.total[name]) if name in begun else 0.0


def parts(sizes: Mapping[str, int], count: int) -> list[list[str]]:
    """The names in so many lists of about equal size, largest first, each to the list that is emptiest."""
    lists: list[list[str]] = [[] for _ in range(count)]
    filled = [0] * count
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        least = filled.index(min(filled))
        lists[least].append(name)
        filled[least] += sizes[name]
    return lists


# --- the crew -------------------------------------------------------------------------------------------------------


class Share:
    """What one of the processes does: its micro-batches of a round, then its weights' sums, at last their update."""

    def __init__(
        self, number: int, count: int, slots: Slots, optimizer: Optimizer, plan: Plan, backward: Backward
    ) -> None:
        self.number, self.count, self.slots, self.optimizer = number, count, slots, optimizer
        self.plan, self.backward = plan, backward
        sizes = {name: master.numel() for name, master in optimizer.masters.items()}
        self.names = parts(sizes, count)[number]
        self.begun: set[str] = set()  # whose part of the total is not empty
        self.at = 0  # the micro-batch that it came to

    def obey(self, command: int, step: int, first: int) -> None:
        {COMPUTE: self.compute, ADD: self.add, UPDATE: self.update}[command](step, first)

    def compute(self, step: int, first: int) -> None:
        """The gradients of this process's part of the micro-batches that begin with number `first` of those that count."""
        micros, counts = self.plan(step)
        busy = [micro for micro, count in enumerate(counts) if count]
        for slot in range(self.number, min(self.slots.count, len(busy) - first), self.count):
            self.at = busy[first + slot]
            total = self.backward(step, self.at, micros[self.at], sum(counts))
            self.slots.put(slot, total, self.optimizer.parameters)

    def look_ahead(self, step: int, first: int) -> None:
        """Makes the next step's batches while others work; what is wrong with them shows when they are asked for."""
        if first + self.slots.count >= sum(map(bool, self.plan(step)[1])):
            with suppress(Exception):
                self.plan(step + 1)

    def add(self, step: int, first: int) -> None:
        """This process's part of the sum over the slots that were filled."""
        _, counts = self.plan(step)
        if first == 0:
            self.begun.clear()
        filled, left = self.slots.count, sum(map(bool, counts)) - first
        self.slots.add(self.names, min(filled, left), self.begun)
        if left <= filled and self.optimizer.divisible:
            self.slots.measure(self.names, self.begun)

    def update(self, step: int, first: int) -> None:
        """This process's part of the update, of the gradient that was added."""
        rate, norm = self.slots.told.tolist()
        self.optimizer.receive({name: self.slots.total[name] for name in self.names if name in self.begun})
        self.optimizer.update(rate, norm, self.names)
        self.optimizer.refuse()


@dataclass
class Child:
    """A forked process as its parent sees it."""

    number: int
    process: int
    orders: int
    answers: int

    def order(self, command: int, step: int, first: int) -> None:
        try:
            os.write(self.orders, ORDER.pack(command, step, first))
        except BrokenPipeError:
            self.mourn(step)

    def wait(self, step: int) -> None:
        """Returns when the child did what it was told. Raises _Lost with its error, or how it died."""
        head = _read(self.answers, ANSWER.size)
        if head is None:
            self.mourn(step)
        how, length = ANSWER.unpack(head)
        if how == FAILED:
            told = (_read(self.answers, length) or b"").decode("utf-8", "replace")
            message, _, trace = told.partition("\0")
            error = _Lost(f"step {step + 1}, worker {self.number}: {message}")
            error.add_note(trace)
            raise error

    def mourn(self, step: int) -> NoReturn:
        process = self.process
        raise _Lost(f"step {step + 1}: worker {self.number} (process {process}) ended, {self.ended()}")

    def ended(self) -> str:
        """How the process ended, in words."""
        with suppress(ChildProcessError):
            _, status = os.waitpid(self.process, 0)
            self.process = 0
            if os.WIFSIGNALED(status):
                return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
            return f"exit code {os.WEXITSTATUS(status)}"
        return "nobody knows how"

    def end(self) -> None:
        """Kills it, if it lives, and forgets it. It has nothing to save."""
        os.close(self.orders)
        os.close(self.answers)
        if self.process:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(self.process, signal.SIGKILL)
                os.waitpid(self.process, 0)


class Crew:
    """The parent's part of the first, and its children."""

    def __init__(self, share: Share, children: Sequence[Child]) -> None:
        self.share, self.children = share, children

    def gradient(self, step: int, counts: Sequence[int]) -> list[Tensor]:
        """The loss sums of the step's micro-batches that count; its gradient lies in the optimizer afterwards."""
        slots, busy = self.share.slots, sum(map(bool, counts))
        sums: list[Tensor] = []
        held: set[str] = set()
        for first in range(0, busy, slots.count):
            self.together(COMPUTE, step, first)
            filled = min(slots.count, busy - first)
            sums += slots.sums[:filled].clone()
            held.update(slots.held(filled))
            self.together(ADD, step, first)
        self.share.optimizer.receive({name: slots.total[name] for name in slots.names if name in held})
        return sums

    def norm(self) -> Tensor:
        """The Euclidean norm of the step's whole gradient, as `Optimizer.norm` gives it."""
        optimizer = self.share.optimizer
        return torch.linalg.vector_norm(self.share.slots.norms) if optimizer.divisible else optimizer.norm()

    def apply(self, step: int, rate: float, norm: float) -> None:
        """What `Optimizer.apply` does, each process with its weights. Raises UpdateFailed where one did not finish."""
        optimizer = self.share.optimizer
        if not optimizer.divisible:
            optimizer.apply(rate, norm)
            return
        self.share.slots.told.copy_(torch.tensor([rate, norm], dtype=torch.float64))
        self.together(UPDATE, step, 0)
        optimizer.updates += 1

    def together(self, command: int, step: int, first: int) -> None:
        try:
            for child in self.children:
                child.order(command, step, first)
            self.share.obey(command, step, first)
            if command == COMPUTE:
                self.share.look_ahead(step, first)  # while the others finish
            for child in self.children:
                child.wait(step)
        except _Lost as lost:
            kind = UpdateFailed if command == UPDATE else WorkerFailed
            state = (
                "weights were being updated and are not kept"
                if command == UPDATE
                else f"weights are as after step {step}"
            )
            error = kind(f"{lost}; {state}. Look for the reason (out of memory?), then resume the run")
            for note in getattr(lost, "__notes__", ()):
                error.add_note(note)
            raise error from lost


@contextmanager
def crew(machine: Machine, optimizer: Optimizer, plan: Plan, backward: Backward) -> Iterator[Crew]:
    """`machine.workers` processes, this one among them, that share each step's micro-batches.

    While it lasts what `optimizer` can move lies in shared memory; it moves back at the end. Its other tensors stay.
    """
    count = machine.workers
    slots = Slots(optimizer, max(count, machine.shares))
    with ExitStack() as after:
        optimizer.move(slots.places)
        after.callback(lambda: optimizer.move({name: tensor.clone() for name, tensor in slots.places.items()}))
        life, alive = os.pipe()
        after.callback(os.close, alive)
        after.callback(os.close, life)
        children = []
        for number in range(1, count):
            share = Share(number, count, slots, optimizer, plan, backward)
            children.append(_forked(share, life))
            after.callback(children[-1].end)
        yield Crew(Share(0, count, slots, optimizer, plan, backward), children)


def _forked(share: Share, life: int) -> Child:
    """A child that does its share until its parent is gone."""
    orders, told = os.pipe()
    answers, answer = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)  # whoever asks the parent to stop, asks no child
    try:
        process = _fork()
        if not process:
            try:
                for number in ASKING:
                    signal.signal(number, signal.SIG_IGN)
                _live(share, orders, answer, life)
            finally:
                os._exit(1)
    except OSError as error:
        os.close(told)
        os.close(answers)
        raise WorkerFailed(f"worker {share.number} cannot be started ({error.strerror}); use fewer workers") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(orders)
        os.close(answer)
    return Child(share.number, process, told, answers)


def _fork() -> int:
    """os.fork, without the warning of Python 3.12 where the parent has threads: PyTorch's pools, which a child of one
    thread does not enter, and the terminal's, to which it does not write."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _live(share: Share, orders: int, answers: int, life: int) -> None:
    """A child's life."""
    _close_all_but(orders, answers, life)
    threading.Thread(target=_end_with, args=(life,), daemon=True).start()
    while order := _read(orders, ORDER.size):
        command, step, first = ORDER.unpack(order)
        try:
            share.obey(command, step, first)
        except BaseException as error:
            text = f"micro-batch {share.at + 1}: {type(error).__name__}: {error}\0{traceback.format_exc()}".encode()
            os.write(answers, ANSWER.pack(FAILED, len(text)) + text)
            continue
        os.write(answers, ANSWER.pack(DONE, 0))
        if command == (UPDATE if share.optimizer.divisible else ADD):
            share.look_ahead(step, first)  # while the parent writes
    os._exit(0)


def _end_with(life: int) -> None:
    """Ends this process when nobody holds the other end of the pipe any more."""
    os.read(life, 1)
    os._exit(0)


def _close_all_but(*kept: int) -> None:
    """Closes every descriptor of this process but these and the three standard ones."""
    try:
        known = [int(name) for name in os.listdir("/dev/fd")]
    except (OSError, ValueError):
        known = list(range(os.sysconf("SC_OPEN_MAX")))
    for descriptor in known:
        if descriptor > 2 and descriptor not in kept:
            with suppress(OSError):
                os.close(descriptor)


def _read(descriptor: int, length: int) -> bytes | None:
    """So many bytes, or None where the other end was closed before they came."""
    data = b""
    while len(data) < length:
        more = os.read(descriptor, length - len(data))
        if not more:
            return None
        data += more
    return data
