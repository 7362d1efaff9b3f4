"""What a run keeps on the disk, and how it is found again.

    RUN/journal.jsonl            one line for the run, then one for each step: a pure function of the run's settings
    RUN/timings.jsonl            when each step ended and how fast it was; never read back
    RUN/commits/step-00000120/   state.safetensors (exact weights, both moments) · state.json (step, counters, journal)
                                 of a model divided among ranks: a file for each (train/pieces.py), readable by any

The journal is forced to the disk before a commit that counts on it. A commit knows the journal's length and SHA-256 at
its step; resuming cuts the journal there, so each step stands in it exactly once.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from camelid import durable
from camelid.checkpoints.safetensors_io import open_tensors, read_header, serialise
from camelid.durable import FILES, Draft, Entry, Files
from camelid.errors import BadFile, NonFinite, ProblemList, StoreError
from camelid.frozen import canonical
from camelid.ranks import ALONE, RankFailed, Ranks
from camelid.train.optim import Optimizer
from camelid.train.parallel import Placement
from camelid.train.pieces import Box, Pieces
from camelid.train.spikes import Spiked

FORMAT = "camelid run 1"
PREFIX = "step-"
WEIGHTS, COUNTERS = "state.safetensors", "state.json"


@dataclass(frozen=True)
class Counters:
    """How far a run has come. `step` is the cursor of the data: batches, rates and random draws follow from it."""

    step: int = 0
    skipped: int = 0  # steps refused, of those done
    tokens: int = 0
    supervised: int = 0
    spikes: int = 0  # times that the run went back


class Store:
    """The directory of one run: its journal and its commits."""

    def __init__(
        self,
        directory: Path,
        identity: Mapping[str, Any],
        machine: Mapping[str, Any],
        *,
        keep: int,
        marks: int = 0,
        note: Callable[[str], None],
        files: Files = FILES,
        ranks: Ranks = ALONE,
        placement: Placement | None = None,
    ) -> None:
        self.directory, self.identity, self.machine = directory, _plain(identity), _plain(machine)
        self.keep, self.note, self.files, self.ranks = keep, note, files, ranks
        self.placement, self.marks = placement, marks
        self.last: dict[str, Any] = {}  # the last line that was written
        self.journal, self.commits = journal(directory), directory / "commits"
        self.timings = directory / "timings.jsonl"
        self._length, self._sha = 0, hashlib.sha256()

    def begin(self, optimizer: Optimizer) -> Counters:
        """The run as it was last committed, weights and moments loaded and the journal cut to it; or a fresh one.

        Raises UsageError if the directory holds another run, BadFile if what it holds cannot be gone on with.
        """
        found: list[str] = []
        with self.ranks.first("looking for the run's last commit"):
            if self.ranks.leads:
                found += self._begin()
        commit = self.ranks.told(found[0] if found else None)
        return Counters() if commit is None else self._resume(self.commits / commit, optimizer)

    def _begin(self) -> list[str]:
        """The name of the newest good commit, in a list; an empty one where there is none, and the run is begun."""
        self.directory.mkdir(parents=True, exist_ok=True)
        newest = durable.newest(self.commits, PREFIX, damaged=lambda error: self.note(f"passed over: {error}"))
        if newest is not None:
            return [newest.name]
        if damaged := durable.commits(self.commits, PREFIX):
            raise BadFile(damaged[-1], "", "no commit of this run is whole", "remove the run to start it over")
        self._start()
        return []

    def _start(self) -> None:
        for path in (self.journal, self.timings):
            if path.exists():
                self.files.remove(path)
        self.write({"run": FORMAT, "identity": self.identity, "machine": self.machine})

    def _resume(self, commit: Path, optimizer: Optimizer) -> Counters:
        state = _read_state(commit)
        _same_run(state["identity"], self.identity, commit)
        self._load(commit, state, optimizer)
        counters = Counters(**state["counters"])
        with self.ranks.first("taking up the journal"):
            if self.ranks.leads:
                self._take_up(commit, state, counters)
        return counters

    def begin_marks(self, counters: Counters, optimizer: Optimizer, mark: int) -> None:
        """Commits the first mark of a fresh run. Raises UsageError where a run was begun without marks to go back to."""
        if not counters.step:
            self.commit(counters, optimizer)
        elif not (self.commits / f"{PREFIX}{mark:08d}").exists() and counters.step < self.identity["steps"]:
            problems = ProblemList()
            found = f"no commit of step {mark} to go back to: the run was begun without, or with other marks"
            problems.add("spikes", found, "go on as it was begun, or begin it anew")
            problems.raise_usage()

    def go_back(self, mark: int, spiked: Spiked, now: Counters, optimizer: Optimizer) -> Counters:
        """The run as it was at a mark, the steps since then passed over, the one that leapt included; `now` is how far
        it had come.

        Raises BadFile where the mark's commit is damaged.
        """
        commit = self.commits / f"{PREFIX}{mark:08d}"
        with self.ranks.first("going back"):
            if self.ranks.leads:
                durable.verify(commit)
        state = _read_state(commit)
        self._load(commit, state, optimizer)
        before = Counters(**state["counters"])
        nothing = {"loss": None, "norm": None, "rate": 0.0, "tokens": 0, "supervised": 0, "seen": before.tokens}
        step = spiked.step + 1
        with self.ranks.first("going back"):
            if self.ranks.leads:
                since = self._lines_since(state["journal"]["bytes"])
                self._delete_after(mark)
                self._cut_journal(commit, state["journal"])
                for line in since:
                    why = line.get("refused", f"went back before it: step {step} leapt")
                    passed = {"step": line["step"], **nothing, "refused": why} if "step" in line else line
                    self.write(passed)
                self.write({"step": step, **nothing, "refused": spiked.words})
        self.last = {"step": step, **nothing}
        return replace(before, step=step, skipped=before.skipped + step - mark, spikes=now.spikes + 1)

    def _lines_since(self, length: int) -> list[dict[str, Any]]:
        """The journal's lines beyond its first so many bytes."""
        lines = durable.read_lines(self.journal)
        return [line for end, line in lines if end > length and isinstance(line, dict)]

    def _load(self, commit: Path, state: Mapping[str, Any], optimizer: Optimizer) -> None:
        """Weights and moments of a commit, or this rank's pieces of them."""
        table = state.get("pieces")
        if table is None and self.placement is None:
            tensors: Mapping[str, Tensor] = open_tensors(commit / WEIGHTS)
        else:
            tensors = Pieces(commit, table or _whole(commit), self._wanted)
        optimizer.load(tensors, state["updates"], where=str(commit / WEIGHTS))

    def _wanted(self, name: str) -> Box | None:
        """Which box of a tensor of the state this rank holds."""
        if self.placement is None:
            return None
        piece = self.placement.pieces[name.partition(".")[2]]
        return piece.begin, piece.shape

    def _take_up(self, commit: Path, state: Mapping[str, Any], counters: Counters) -> None:
        """The journal as it was at this commit, and what followed it out of the way."""
        self._cut_journal(commit, state["journal"])
        self._set_aside_after(counters.step)
        if state["machine"] != self.machine and counters.step < self.identity["steps"]:
            changes = _differences(state["machine"], self.machine)
            changed = ", ".join(f"{name} {before} -> {now}" for name, before, now in changes)
            self.note(f"{self.directory}: goes on under other settings ({changed}); its bits will differ")
            self.write({"resumed": counters.step, "machine": self.machine})

    def _cut_journal(self, commit: Path, recorded: Mapping[str, Any]) -> None:
        length, self._sha = recorded["bytes"], hashlib.sha256()
        if not self.journal.exists() or self.journal.stat().st_size < length:
            raise BadFile(self.journal, "", f"shorter than the {length} bytes that {commit.name} counts on", _LOST)
        with open(self.journal, "rb") as file:
            for rest in range(length, 0, -(1 << 20)):
                self._sha.update(file.read(min(rest, 1 << 20)))
        if self._sha.hexdigest() != recorded["sha256"]:
            raise BadFile(self.journal, f"bytes 0 to {length}", f"not what {commit.name} counts on", _LOST)
        if self.journal.stat().st_size > length:
            self.files.truncate(self.journal, length)
        self._length = length

    def _set_aside_after(self, step: int) -> None:
        """Damaged commits of later steps give up their names, which this run will need; nothing is deleted."""
        for path in self._after(step):
            self._set_aside(path)

    def _set_aside(self, path: Path) -> None:
        self.files.rename(path, path.with_name(f"damaged-{path.name}-{secrets.token_hex(4)}"))

    def _delete_after(self, step: int) -> None:
        """Commits of later steps go, the newest first: killed at any moment, the run resumes from one that is sound."""
        for path in reversed(self._after(step)):
            try:
                durable.verify(path)
            except BadFile as error:
                self.note(f"set aside: {error}")
                self._set_aside(path)
            else:
                durable.delete(path, files=self.files)

    def _after(self, step: int) -> list[Path]:
        return [path for path in durable.commits(self.commits, PREFIX) if _step(path.name) > step]

    def write(self, event: Mapping[str, Any], timing: Mapping[str, Any] | None = None) -> None:
        """One line more in the journal, and one in the timings if there is one; rank 0 writes for all."""
        if not self.ranks.leads:
            return
        durable.append_line(self.journal, event, files=self.files)
        line = json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        self._length += len(line)
        self._sha.update(line)
        if timing is not None:
            durable.append_line(self.timings, timing, files=self.files)

    def commit(self, counters: Counters, optimizer: Optimizer, *, alone: bool = False) -> None:
        """Makes everything up to this step durable, then prunes. With `alone` other ranks are gone: rank 0 goes ahead.

        Raises StoreError if the disk refuses, NonFinite if a weight or moment is not finite; the commit before stands.
        """
        if alone:
            if self.ranks.leads and self.placement is None:
                self._commit(counters, optimizer)
            return
        if self.placement is not None:
            self._commit_pieces(counters, optimizer, self.placement)
            return
        if self.ranks.world > 1:
            self.ranks.agreed([optimizer.checksum()], f"step {counters.step}, weights and moments")
        with self.ranks.first(f"committing step {counters.step}"):
            if self.ranks.leads:
                self._commit(counters, optimizer)

    def _commit(self, counters: Counters, optimizer: Optimizer) -> None:
        self._refuse(optimizer.non_finite(), counters)

        def fill(draft: Draft) -> None:
            draft.write(WEIGHTS, serialise(optimizer.state()))
            draft.write(COUNTERS, durable.json_bytes(self._state(counters, optimizer)))

        self._publish(counters, fill, optimizer.bytes())

    def _refuse(self, bad: str, counters: Counters) -> None:
        if bad:
            raise NonFinite(f"{self.directory}: {bad} is not finite after step {counters.step}; nothing was committed")

    def _state(self, counters: Counters, optimizer: Optimizer) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "counters": asdict(counters),
            "updates": optimizer.updates,
            "journal": {"bytes": self._length, "sha256": self._sha.hexdigest()},
            "identity": self.identity,
            "machine": self.machine,
        }

    def _publish(self, counters: Counters, fill: Callable[[Draft], None], needed: int) -> None:
        """One commit, the journal forced to the disk before it, older ones pruned after it."""
        self.files.fsync(self.journal)
        self.files.fsync_dir(self.directory)
        target = self.commits / f"{PREFIX}{counters.step:08d}"
        durable.commit(target, fill, needed=needed, files=self.files)
        marks = self.marks
        mark = None if not marks else lambda name: f"{PREFIX}{_step(name) // marks * marks:08d}"
        durable.prune(self.commits, PREFIX, self.keep, beside=mark, files=self.files)

    # --- pieces -------------------------------------------------------------------------------------------------------

    def _commit_pieces(self, counters: Counters, optimizer: Optimizer, placement: Placement) -> None:
        """One commit of many ranks: rank 0 opens a draft, each writes its pieces into it, rank 0 seals and publishes."""
        doing = f"committing step {counters.step}"
        self._refuse(next(filter(None, self.ranks.gathered(optimizer.non_finite(), doing)), ""), counters)
        own = {name: each for name, each in optimizer.state().items() if placement.writes(name.partition(".")[2])}
        file = f"state-{self.ranks.rank:05d}.safetensors"
        table = {
            name: {"whole": list(piece.whole), "begin": list(piece.begin)}
            for name in own
            for piece in [placement.pieces[name.partition(".")[2]]]
        }
        needed = sum(row[0] for row in self.ranks.numbers([sum(each.nbytes for each in own.values())], doing))

        def write(draft: Draft) -> list[dict[str, Any]]:
            """Writes this rank's file; what each rank wrote. Raises StoreError, on all, if one could not."""
            told: dict[str, Any] = {"file": file, "table": table}
            try:
                told["entry"] = asdict(draft.write(file, serialise(own)))
            except StoreError as error:
                told["error"] = f"rank {self.ranks.rank}: {error}"
            everyone = self.ranks.gathered(told, doing)
            if wrong := [each["error"] for each in everyone if "error" in each]:
                raise StoreError("; ".join(wrong))
            return everyone

        def fill(draft: Draft) -> None:
            opened.append(str(draft.path))
            self.ranks.told(opened[0])
            everyone = write(draft)
            for each in everyone[1:]:
                draft.adopt(each["file"], Entry(**each["entry"]))
            pieces = {each["file"]: each["table"] for each in everyone}
            draft.write(COUNTERS, durable.json_bytes(self._state(counters, optimizer) | {"pieces": pieces}))

        opened: list[str] = []
        if not self.ranks.leads:
            if path := self.ranks.told(None, f"waiting for rank 0, {doing}"):
                with suppress(StoreError):  # rank 0 will tell whose it was
                    write(Draft(Path(path), Path(path), 0, self.files))
            if error := self.ranks.told(None, f"waiting for rank 0, {doing}"):
                raise RankFailed(f"rank 0 failed, {doing}: {error}")
            return
        try:
            self._publish(counters, fill, int(needed))
        except BaseException as error:
            if not opened:
                self.ranks.told(None)
            self.ranks.told(f"{type(error).__name__}: {error}")
            raise
        self.ranks.told(None)


def journal(directory: Path) -> Path:
    """Where a run writes what happened, step by step."""
    return directory / "journal.jsonl"


def steps_of(directory: Path) -> Iterator[dict[str, Any]]:
    """The journal's lines for steps, in order: step, loss, norm, rate, tokens, supervised, seen; for reports."""
    for _, line in durable.read_lines(journal(directory)):
        if isinstance(line, dict) and "step" in line:
            yield line


_LOST = "it was changed or lost outside the run: restore it, or remove the run to start it over"


def _step(name: str) -> int:
    """The step of a commit of this name."""
    return int(name.removeprefix(PREFIX))


def _read_state(commit: Path) -> dict[str, Any]:
    state = durable.read_json(commit / COUNTERS)
    keys = {"format", "counters", "updates", "journal", "identity", "machine"}
    if not isinstance(state, dict) or set(state) - {"pieces"} != keys or state["format"] != FORMAT:
        raise BadFile(commit / COUNTERS, "", f"is not a {FORMAT!r}", "resume with the version that wrote it")
    return state


def _whole(commit: Path) -> dict[str, Any]:
    """The table of a state that lies whole in one file."""
    places = read_header(commit / WEIGHTS).places
    return {WEIGHTS: {name: {"whole": each.shape, "begin": (0,) * len(each.shape)} for name, each in places.items()}}


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """The same as JSON gives it back, so that comparing with a file compares like with like."""
    plain: dict[str, Any] = json.loads(canonical(data))
    return plain


def _same_run(theirs: Mapping[str, Any], ours: Mapping[str, Any], commit: Path) -> None:
    problems = ProblemList()
    for name, before, now in _differences(theirs, ours):
        found = f"begun with {before}, asked to go on with {now}"
        problems.add(f"{commit.parent.parent}: {name}", found, "use another directory for another run")
    problems.raise_usage()


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    names = sorted(before.keys() | after.keys())
    return [(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]
