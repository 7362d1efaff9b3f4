"""The only training loop. It knows no method: model, batches, loss, optimizer and schedule come from outside.

    for each step:   for each micro-batch:  seed the randomness from (seed, step, micro-batch)
                                            sum of its losses / count of the whole step;  backward;  collect
                     measure: losses and gradient norm      refuse the step if one is not finite, else update
                     one line in the journal                commit if it is time, or if asked to stop

Bits. With equal settings, threads, micro_tokens, shares, dtype, device, library of products (train/products.py), of
passes (train/passes.py) and PyTorch, a run and every interrupted and resumed copy of it end in the same bits of
weights, moments and journal. Threads, micro_tokens and shares change the order in which floats are added, the last two
also the dropout masks; a run that goes on under others says so and writes it into its journal. How many processes work
on a step (train/workers.py; train/team.py in ordered sums), whether activations are computed again, and when commits
are made changes nothing. All this is shown on the CPU; some GPU kernels add in no fixed order.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from camelid import durable
from camelid.durable import FILES, Files
from camelid.errors import BadData, NonFinite, Problem, ProblemList
from camelid.machine import Machine
from camelid.nn import compiled
from camelid.randomness import key
from camelid.ranks import ALONE, RankFailed, Ranks
from camelid.train.heap import kept
from camelid.train.interrupt import Interrupted, listening
from camelid.train.loss import Loss
from camelid.train.optim import LARGEST, Optimizer
from camelid.train.parallel import Divided, Placement
from camelid.train.passes import name_of, passing
from camelid.train.products import library, multiplying
from camelid.train.rehearsal import rehearse
from camelid.train.schedule import rate
from camelid.train.settings import Schedule
from camelid.train.spikes import Spiked, Spikes, Watch
from camelid.train.state import Counters, Store, journal, steps_of
from camelid.train.team import Replicas
from camelid.train.team import check as check_ranks
from camelid.train.workers import Crew, WorkerFailed, crew
from camelid.train.workers import check as check_workers

if TYPE_CHECKING:
    from camelid.data.batch import Batch

Progress = Callable[[int, int, float, float], None]  # steps done, steps in all, loss in nats, tokens per second
RECENT = 20  # steps over which tokens per second are averaged for the terminal


class Batches(Protocol):
    """What the loop needs of data: the micro-batches of any step, found without looking at another."""

    @property
    def steps(self) -> int: ...

    @property
    def digest(self) -> str: ...

    def at(self, step: int) -> Sequence[Batch]: ...


@dataclass(frozen=True)
class Cadence:
    """When to commit: after so many steps, after so many seconds, whichever comes first; how many commits to keep.

    The last step and a request to stop always commit. Seconds depend on the machine's speed; results do not depend on
    when commits are made.
    """

    steps: int | None = None
    seconds: float | None = 120.0
    keep: int = 2


@dataclass(frozen=True, kw_only=True)
class Conduct:
    """How a run is carried out by whoever runs it. Nothing here changes what is computed, but for its last bits.

    skip      how many refused steps to pass over in the whole run before giving up; each is told in the journal
    spikes    what to do where the loss leaps; each is told in the journal
    rehearse  try the largest micro-batch before the first step: a run that does not fit ends then, and not in an hour
    progress  told after each step: steps done, steps in all, loss in nats per supervised token, tokens per second
    note      told what a person should know: damaged commits passed over, other settings than the run began with
    ranks     the processes that share the run, connected (camelid/ranks.py)
    """

    machine: Machine
    cadence: Cadence = Cadence()
    skip: int = 0
    spikes: Spikes | None = None
    rehearse: bool = False
    progress: Progress | None = None
    note: Callable[[str], None] = lambda text: None
    files: Files = FILES
    ranks: Ranks = ALONE


@dataclass(frozen=True)
class Trained:
    """What came of a run. `loss` is its last step's, in nats per supervised token; None if that step was refused."""

    directory: Path
    steps: int
    skipped: int
    tokens: int
    supervised: int
    loss: float | None

    @property
    def journal(self) -> Path:
        return journal(self.directory)


def train(
    model: nn.Module,
    batches: Batches,
    loss: Loss,
    optimizer: Optimizer,
    schedule: Schedule,
    *,
    directory: Path,
    seed: int,
    identity: Mapping[str, Any],
    conduct: Conduct,
    draw: Callable[[int, int], None] = lambda step, micro: None,
    placement: Placement | None = None,
) -> Trained:
    """Trains to the last step of `batches`, from the newest good commit in `directory` if there is one.

    identity   what decides the result, as JSON values; a directory begun under another identity is refused
    draw       told step and micro-batch before each forward pass, to key the model's own random draws
    placement  how the model was divided among ranks (train/parallel.py); the optimizer then holds this rank's pieces

    Raises NonFinite or Spiked for a step that was refused and WorkerFailed for one that a process did not finish (weights and
    moments stay as they were and are committed), UpdateFailed where it ended in the middle of its update (they are not),
    Interrupted after a signal, StoreError if the directory is in use or the disk refuses, UsageError if it holds
    another run or the machine cannot be had, RankFailed if another rank is lost and RanksDisagree if one holds other
    numbers.
    """
    ranks = conduct.ranks
    check_workers(conduct.machine)
    check_ranks(conduct.machine, ranks)
    if conduct.spikes is not None:
        problems = ProblemList()
        conduct.spikes.check("spikes", problems)
        problems.raise_usage()
    facts = {"seed": seed, "steps": batches.steps, "data": batches.digest, **identity}
    work = _Work(model, loss, seed, draw)
    plan = _Plan(batches, loss)
    alone = durable.locked(directory) if ranks.leads else nullcontext()
    with alone, _threads(conduct.machine), listening() as request:
        store = Store(
            directory,
            facts,
            bits(conduct.machine),
            keep=conduct.cadence.keep,
            marks=conduct.spikes.every if conduct.spikes else 0,
            note=conduct.note,
            files=conduct.files,
            ranks=ranks,
            placement=placement,
        )
        counters = committed = store.begin(optimizer)
        spikes = conduct.spikes
        if spikes is not None:
            store.begin_marks(counters, optimizer, spikes.mark(counters.step))
        clock, line = _Clock(conduct.cadence), dict[str, Any]()
        model.train()
        asked, due = _asked(ranks, request.signal, False)
        with _hands(conduct, optimizer, plan, work, placement, counters.step < batches.steps) as hands:
            run = _Run(work, plan, optimizer, schedule, conduct.skip, ranks, hands, _watch(spikes, directory, ranks))
            if conduct.rehearse and counters.step < batches.steps:
                rehearse(batches, work, optimizer, hands if isinstance(hands, Divided) else None)
            while counters.step < batches.steps and asked is None:
                try:
                    counters, line = run.step(counters)
                except Spiked as spiked:
                    if spikes is None or counters.spikes >= spikes.budget:
                        if counters != committed:
                            store.commit(counters, optimizer)
                        raise
                    mark = spikes.mark(counters.step)
                    counters = store.go_back(mark, spiked, counters, optimizer)
                    committed = replace(counters, step=mark)
                    if counters.step % spikes.every == 0:
                        store.commit(counters, optimizer)
                        committed = counters
                    line, run.watch = store.last, _watch(spikes, directory, ranks)
                    conduct.note(f"step {counters.step}: {spiked.words}; passed over")
                    continue
                except (NonFinite, WorkerFailed, RankFailed) as error:
                    if counters != committed:
                        store.commit(counters, optimizer, alone=isinstance(error, RankFailed))
                    raise
                speed = clock.tick(line["tokens"])
                store.write(line, clock.line(line["step"]))
                if conduct.progress is not None:
                    loss_now = math.nan if line["loss"] is None else line["loss"]
                    conduct.progress(counters.step, batches.steps, loss_now, speed)
                marked = spikes is not None and counters.step % spikes.every == 0
                asked, due = _asked(ranks, request.signal, marked or clock.due(counters.step - committed.step))
                if due:
                    store.commit(counters, optimizer)
                    committed = counters
                    clock.restart()
        if counters != committed:
            store.commit(counters, optimizer)
        if asked is not None:
            raise Interrupted(asked, directory, counters.step, batches.steps)
    last = line or deque(steps_of(directory), maxlen=1).pop()
    return Trained(directory, counters.step, counters.skipped, counters.tokens, counters.supervised, last["loss"])


def _asked(ranks: Ranks, signal: int | None, due: bool) -> tuple[int | None, bool]:
    """The signal by which any rank was asked to stop, and whether rank 0's clock says that a commit is due."""
    if ranks.world == 1:
        return signal, due
    told = ranks.numbers([signal or 0, due], "asking whether to stop")
    return int(max(number for number, _ in told)) or None, bool(told[0][1])


@contextmanager
def _hands(
    conduct: Conduct, optimizer: Optimizer, plan: _Plan, work: _Work, placement: Placement | None, needed: bool
) -> Iterator[Crew | Replicas | Divided | None]:
    """Who makes a step's gradient: forked workers, ranks, or nobody but the loop itself."""
    if not needed:
        yield None
    elif placement is not None:
        yield Divided(placement, optimizer, plan, work)
    elif conduct.ranks.world > 1:
        yield Replicas(conduct.machine, conduct.ranks, optimizer, plan, work)
    elif conduct.machine.workers > 1:
        with crew(conduct.machine, optimizer, plan, work) as workers:
            yield workers
    else:
        yield None


@contextmanager
def _threads(machine: Machine) -> Iterator[None]:
    """Threads, libraries for products and passes, freed memory as the machine wants them, a random state of our own; then put back."""
    before = torch.get_num_threads()
    torch.set_num_threads(machine.threads)
    try:
        own = torch.random.fork_rng([torch.cuda.current_device()] if machine.device.startswith("cuda") else [])
        fused = compiled.passes() if machine.compile else nullcontext()
        with own, multiplying(machine), passing(machine), kept(machine), fused:
            yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class _Work:
    """What one micro-batch costs: forward and backward, in whatever process."""

    model: nn.Module
    loss: Loss
    seed: int
    draw: Callable[[int, int], None]

    def __call__(self, step: int, micro: int, batch: Batch, total: float) -> Tensor:
        """The sum of its losses, in float64; its gradient, divided by `total`, is left in the model's weights."""
        torch.manual_seed(key(self.seed, "train", step, micro))  # for whatever draws without a key of its own
        self.draw(step, micro)
        part = self.loss(self.model, batch)
        (part / total).backward()  # type: ignore[no-untyped-call]
        return part.detach().double()


class _Plan:
    """The micro-batches of a step and what each counts; this step and the next are remembered."""

    def __init__(self, batches: Batches, loss: Loss) -> None:
        self.batches, self.loss, self.steps = batches, loss, batches.steps
        self._known: dict[int, tuple[Sequence[Batch], list[int]]] = {}

    def __call__(self, step: int) -> tuple[Sequence[Batch], list[int]]:
        if step not in self._known:
            micros = self.batches.at(step)
            self._known = {known: told for known, told in self._known.items() if known == step - 1}
            self._known[step] = micros, [self.loss.count(batch) for batch in micros]
        return self._known[step]


def _watch(spikes: Spikes | None, directory: Path, ranks: Ranks) -> Watch | None:
    """The losses so far, where somebody looks for spikes; rank 0 reads them and tells the others."""
    if spikes is None:
        return None
    told = steps_of(directory) if ranks.leads else ()
    last = deque((line["loss"] for line in told if line["loss"] is not None), spikes.window)
    return Watch(spikes, ranks.told(list(last), "waiting for rank 0, reading the journal"))


@dataclass
class _Run:
    work: _Work
    plan: _Plan
    optimizer: Optimizer
    schedule: Schedule
    skip: int
    ranks: Ranks = ALONE
    hands: Crew | Replicas | Divided | None = None
    watch: Watch | None = None

    def step(self, counters: Counters) -> tuple[Counters, dict[str, Any]]:
        """The counters after one step and its line for the journal. Raises NonFinite or Spiked with nothing changed."""
        step = counters.step
        micros, counts = self.plan(step)
        if not sum(counts):
            where, found = f"step {step + 1} of {self.plan.steps}", f"no learned token in {len(micros)} batches"
            raise BadData([Problem(where, found, "leave such rows out of the data")])
        losses, norm = self._gradient(step, micros, counts)
        fault = _fault(losses, norm)
        if fault and counters.skipped >= self.skip:
            self.optimizer.refuse()
            raise NonFinite(
                f"step {step + 1} of {self.plan.steps}: {fault}; nothing was applied. Lower the learning rate, look "
                f"at the step's data, or resume with skip={counters.skipped + 1} to pass over it"
            )
        loss = math.fsum(losses) / sum(counts) if not fault else math.nan
        usual = None if fault or self.watch is None else self.watch.usual(loss)
        if usual is not None:
            self.optimizer.refuse()
            raise Spiked(step, self.plan.steps, loss, usual)
        factor = self.optimizer.settings.lr * rate(self.schedule, step, self.plan.steps)
        if fault:
            self.optimizer.refuse()
        elif isinstance(self.hands, Crew):
            self.hands.apply(step, factor, norm)
        else:
            self.optimizer.apply(factor, norm)
        tokens = sum(batch.tokens for batch in micros)
        after = replace(
            counters,
            step=step + 1,
            skipped=counters.skipped + bool(fault),
            tokens=counters.tokens + tokens,
            supervised=counters.supervised + sum(counts),
        )
        line = {
            "step": after.step,
            "loss": None if fault else loss,
            "norm": None if fault else norm,
            "rate": factor,
            "tokens": tokens,
            "supervised": sum(counts),
            "seen": after.tokens,
        }
        return after, line | ({"refused": fault} if fault else {})

    def _gradient(self, step: int, micros: Sequence[Batch], counts: Sequence[int]) -> tuple[list[float], float]:
        """The sum of losses of each micro-batch that has any, and the norm of the gradient that the optimizer holds."""
        sums = self._collected(step, micros, counts) if self.hands is None else self.hands.gradient(step, counts)
        size = (self.optimizer if self.hands is None else self.hands).norm()
        measured = torch.stack([*sums, size.double().to(sums[0].device)])
        *losses, norm = measured.tolist()  # the one place where a step waits for its device
        if self.ranks.world > 1:
            self.ranks.agreed([norm, math.fsum(losses)], f"step {step + 1}, norm and loss")
        return losses, norm

    def _collected(self, step: int, micros: Sequence[Batch], counts: Sequence[int]) -> list[Tensor]:
        total, sums = sum(counts), []
        for micro, (batch, count) in enumerate(zip(micros, counts, strict=True)):
            if count:
                sums.append(self.work(step, micro, batch, total))
                self.optimizer.collect()
        return sums


def _fault(losses: Sequence[float], norm: float) -> str:
    """What of a step is not finite, in words; "" if all is well."""
    for index, value in enumerate(losses):
        if not math.isfinite(value):
            return f"the loss is {value} in micro-batch {index + 1} of {len(losses)}"
    return "" if norm <= LARGEST else f"the gradient norm is {norm}"


class _Clock:
    """Seconds: what the terminal and timings.jsonl tell, and when a commit is due. Nothing else depends on them."""

    def __init__(self, cadence: Cadence) -> None:
        self.cadence = cadence
        self.last = self.committed = time.monotonic()
        self.recent: deque[tuple[int, float]] = deque(maxlen=RECENT)

    def tick(self, tokens: int) -> float:
        """Tokens per second, a step of so many tokens having ended now."""
        now = time.monotonic()
        self.recent.append((tokens, now - self.last))
        self.last = now
        return sum(tokens for tokens, _ in self.recent) / max(sum(seconds for _, seconds in self.recent), 1e-9)

    def line(self, step: int) -> dict[str, Any]:
        return {"step": step, "seconds": round(self.recent[-1][1], 6), "at": round(time.time(), 3)}

    def restart(self) -> None:
        """A commit was made now."""
        self.committed = time.monotonic()

    def due(self, steps: int) -> bool:
        by_steps = self.cadence.steps is not None and steps >= self.cadence.steps
        return by_steps or (self.cadence.seconds is not None and self.last - self.committed >= self.cadence.seconds)


def bits(machine: Machine) -> dict[str, Any]:
    """What of a machine changes bits, though not the mathematics."""
    return {
        "device": machine.device,
        "dtype": machine.dtype,
        "threads": machine.threads,
        "micro_tokens": machine.micro_tokens,
        "shares": machine.shares,
        "products": library(machine),
        "passes": name_of(machine),
        **({"compiled": True} if machine.compile else {}),
        **({"float8": True} if machine.float8 else {}),
        **({"sums": f"fast, {machine.replicas} ranks"} if machine.sums == "fast" and machine.replicas > 1 else {}),
        **({"tensor": machine.tensor} if machine.tensor > 1 else {}),
        "torch": torch.__version__,
        "kernels": torch.backends.cpu.get_cpu_capability(),
    }
