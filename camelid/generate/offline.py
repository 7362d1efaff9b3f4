"""A file of prompts in, a file of answers out: in the same order, and with the same bytes however often it was stopped.

    prompts.jsonl   {"id": "a", "prompt": "Name a colour.", "max_tokens": 20}
                    {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0.7, "n": 2}
    answers.jsonl   {"line": 1, "id": "a", "key": "5f0c...", "prompt_tokens": 31, "answers": [{"text": "Blue.", ...}]}

A row may carry any setting of `Settings`; what it leaves out is that of the call. Answers are written in the order of
the rows, each line whole and at once. `key` names the row, its settings and the model; a run that finds answers goes on
behind them, and refuses those of another job.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

from camelid.checkpoints import directory
from camelid.dialogue.message import Message
from camelid.durable import FILES, append_line, cut_torn, json_bytes, locked, parse_json, read_lines
from camelid.errors import BadData, BadFile, CamelidError, Problem, ProblemList, Problems, UsageError, did_you_mean
from camelid.frozen import from_data, to_data
from camelid.generate.answer import Completion
from camelid.generate.choices import best, branches, complete_choices
from camelid.generate.engine import GREEDY, ROWS, Engine, Tally
from camelid.generate.limits import check_constraints, check_prompts, reach
from camelid.generate.loaded import Loaded, Prompt
from camelid.generate.request import Request
from camelid.generate.settings import Settings

SHOWN = 20  # ours: bad rows told one by one; the others are counted
LONGEST = 64 << 20  # ours: bytes of a line
AHEAD = 2  # ours: for each row that runs, one is ready to follow
SETTINGS = tuple(field.name for field in fields(Settings))
KEYS = ("id", "prompt", "messages", "raw", *SETTINGS)


@dataclass(frozen=True)
class Row:
    """One line of the file: what to answer, how, and what makes it impossible, if anything."""

    line: int
    id: object
    said: str | tuple[Message, ...]
    raw: bool
    settings: Settings
    key: str
    wrong: str = ""


@dataclass
class Outcome:
    """What came of a file: rows in all, those answered before and now, failed ones, and what was cut and computed."""

    rows: int = 0
    before: int = 0
    answered: int = 0
    failed: int = 0
    answers: int = 0
    truncated: int = 0
    tally: Tally | None = None


@dataclass
class _Going:
    """A row on its way: its requests, or the answers that are there already."""

    row: Row
    prompt: Prompt | None
    cut: int
    requests: list[Request]
    answers: tuple[Completion, ...] = ()
    error: str = ""

    @property
    def done(self) -> bool:
        return all(request.state == "ended" for request in self.requests)


def answer_file(
    loaded: Loaded,
    source: Path,
    out: Path,
    settings: Settings = GREEDY,
    *,
    rows: int = ROWS,
    truncate: bool = False,
    skip_bad: bool = False,
    report: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Answers every row of `source` that `out` does not answer yet.

    truncate  cuts the beginning of prompts that are too long, and says in the answer how many ids were cut
    skip_bad  answers rows that cannot be answered with their error; otherwise nothing is begun

    Raises BadData naming the rows that cannot be answered, BadFile for a file that is no JSON lines, UsageError where
    `out` holds anything but answers to these rows (it is left as it is), StoreError where they cannot be written.
    """
    digest = directory.load(loaded.path, check="lengths").digest
    told = {"model": digest, "engine": loaded.engine, "cut": truncate, "template": to_data(loaded.template)}
    outcome = Outcome()
    with locked(out):
        problems, written = _Wrong(source), _Written(out)
        for row in read(source, settings, told):
            outcome.rows += 1
            if (answer := written.answer(row)) is not None:
                outcome.before += 1
                outcome.failed += "error" in answer
            elif not skip_bad and (wrong := row.wrong or _asked(loaded, row, truncate).error):
                problems.add(row.line, wrong)
        problems.settle(outcome.rows)
        written.settle(outcome.rows)
        engine = loaded.runs(rows)
        outcome.tally = engine.tally
        waiting = islice(read(source, settings, told), outcome.before, None)
        try:
            for going in _answered(loaded, engine, waiting, truncate, outcome, report):
                append_line(out, _line(going))
        finally:
            engine.close()
        if out.exists():
            FILES.fsync(out)
    return outcome


def _answered(
    loaded: Loaded,
    engine: Engine,
    waiting: Iterator[Row],
    truncate: bool,
    outcome: Outcome,
    report: Callable[[Outcome], None],
) -> Iterator[_Going]:
    """Each row with its answers, in order; as many are on their way as keep the engine busy."""
    going: deque[_Going] = deque()
    more = True
    while more or going:
        while more and sum(len(each.requests) or 1 for each in going if not each.done) < AHEAD * engine.rows:
            row = next(waiting, None)
            if row is None:
                more = False
                break
            going.append(_submitted(loaded, engine, row, truncate))
        if not engine.idle:
            engine.step()
        while going and going[0].done:
            first = going.popleft()
            _settle(first)
            outcome.answered += 1
            outcome.failed += bool(first.error)
            outcome.answers += len(first.answers)
            outcome.truncated += first.cut > 0
            yield first
        report(outcome)


def _submitted(loaded: Loaded, engine: Engine, row: Row, truncate: bool) -> _Going:
    going = _Going(row, None, 0, [], error=row.wrong) if row.wrong else _asked(loaded, row, truncate)
    if going.error or going.prompt is None:
        return going
    prompt, own = going.prompt, going.prompt.within(row.settings)
    try:
        if own.beams > 1:
            found = complete_choices(
                engine.model, prompt.ids, own, engine.tokenizer, starts=prompt.starts, cache=engine.cache
            )
            going.answers = tuple(found)
        else:
            going.requests = [
                engine.submit(prompt.ids, one, starts=prompt.starts, streams=False) for one in branches(own)
            ]
    except CamelidError as error:
        going.error = str(error)
    return going


def _asked(loaded: Loaded, row: Row, truncate: bool) -> _Going:
    """The row's ids, cut where that is wished; or why there are none."""
    try:
        said = row.said if isinstance(row.said, str) else list(row.said)
        prompt = loaded.prompt(said, raw=row.raw)
        ids, cut = _fitted(loaded, prompt.ids, row.settings) if truncate else (prompt.ids, 0)
        own = prompt.within(row.settings)
        check_prompts(loaded.shape, [ids], [own])
        check_constraints([own])
    except Problems as error:
        return _Going(row, None, 0, [], error="; ".join(map(str, error.problems)))
    return _Going(row, replace(prompt, ids=ids), cut, [])


def _fitted(loaded: Loaded, ids: tuple[int, ...], settings: Settings) -> tuple[tuple[int, ...], int]:
    """Ids that leave room for the answer (for half the context at most), cut behind the token that begins a text."""
    limit = reach(loaded.shape)
    keep = limit - min(settings.max_tokens, limit // 2)
    if len(ids) <= keep:
        return ids, 0
    begin = ids[:1] if ids[0] == loaded.tokenizer.bos else ()
    return (*begin, *ids[len(ids) - keep + len(begin) :]), len(ids) - keep


def _settle(going: _Going) -> None:
    """Takes the answers from the requests, or what went wrong."""
    if not going.requests:
        return
    try:
        own = going.row.settings
        going.answers = best(own, [request.result() for request in going.requests])
    except CamelidError as error:
        going.error = str(error)


def _line(going: _Going) -> dict[str, Any]:
    row = going.row
    told: dict[str, Any] = {"line": row.line, "id": row.id, "key": row.key}
    if going.error:
        return {**told, "error": going.error}
    assert going.prompt is not None
    told["prompt_tokens"] = len(going.prompt.ids)
    if going.cut:
        told["truncated"] = going.cut
    told["answers"] = [_told(one, row.settings) for one in going.answers]
    return told


def _told(one: Completion, settings: Settings) -> dict[str, Any]:
    """An answer as JSON: text, why it ended, tokens; log-probabilities where `top_logprobs` or the prompt's were asked."""
    told: dict[str, Any] = {"text": one.text, "finish_reason": one.finish_reason, "tokens": len(one.token_ids)}
    if settings.top_logprobs or settings.prompt_logprobs:
        told |= {name: value for name, value in one.data().items() if name not in ("prompt_ids", "text")}
    return told


# --- reading --------------------------------------------------------------------------------------------------------


def read(source: Path, settings: Settings, told: dict[str, Any]) -> Iterator[Row]:
    """The rows of a file. What is wrong with one stands in it; empty lines are passed over.

    Raises BadFile where the file cannot be read or a line is longer than 64 MiB.
    """
    try:
        with open(source, "rb") as file:
            number = 0
            while line := file.readline(LONGEST + 1):
                number += 1
                if len(line) > LONGEST:
                    raise BadFile(source, f"line {number}", f"more than {LONGEST} bytes")
                if line.strip():
                    yield _row(source, number, line, settings, told)
    except OSError as error:
        raise BadFile(source, "", f"cannot be read: {error.strerror}") from error


def _row(source: Path, number: int, line: bytes, settings: Settings, told: dict[str, Any]) -> Row:
    words = [line.strip(), json_bytes([to_data(settings), told])]
    key = hashlib.sha256(b"".join(hashlib.sha256(word).digest() for word in words)).hexdigest()[:16]
    id: object = None
    problems = ProblemList()
    try:
        data = parse_json(line, source, f"line {number}")
        if not isinstance(data, dict):
            raise UsageError([Problem("row", "is no object", 'write {"prompt": "..."} or {"messages": [...]}')])
        id = data.get("id")
        said = _said(data, problems)
        for name in data.keys() - set(KEYS):
            problems.add(name, "is no setting", did_you_mean(name, KEYS))
        raw = data.get("raw", False)
        if not isinstance(raw, bool) or (raw and "messages" in data):
            problems.add("raw", f"found {raw!r}", "true goes with a prompt, without a template")
        own: dict[str, Any] = {**_object(to_data(settings)), **{name: data[name] for name in SETTINGS if name in data}}
        problems.raise_data()
        return Row(number, id, said, raw, from_data(Settings, own, "settings"), key)
    except BadFile as error:
        return Row(number, id, "", False, settings, key, f"{error.found}")
    except Problems as error:
        return Row(number, id, "", False, settings, key, "; ".join(_plainly(problem) for problem in error.problems))


def _plainly(problem: Problem) -> str:
    """A problem of a row by the name that the row has for it."""
    return str(problem).removeprefix("settings.").removeprefix("row: ")


def _said(data: dict[str, Any], problems: ProblemList) -> str | tuple[Message, ...]:
    """The prompt or the messages of a row."""
    wanted = 'give "prompt", a text, or "messages", a list of {"role", "content"}'
    if ("prompt" in data) == ("messages" in data):
        problems.add("row", "has both prompt and messages" if "prompt" in data else "has no prompt", wanted)
        return ""
    if "prompt" in data:
        if not isinstance(data["prompt"], str):
            problems.add("prompt", f"found {type(data['prompt']).__name__}", wanted)
        return str(data["prompt"])
    if not isinstance(data["messages"], list) or not data["messages"]:
        problems.add("messages", "is no list, or empty", wanted)
        return ""
    try:
        return from_data(tuple[Message, ...], data["messages"], "messages")
    except BadData as error:
        problems.problems += error.problems
        return ""


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


class _Written:
    """The answers that are there already, one after the other beside the rows that they answer.

    What a kill left behind the last whole line is cut off once all rows have been seen, and only if it is the beginning
    of the next answer: any other file is somebody's, and stays as it is.
    """

    def __init__(self, out: Path) -> None:
        self._out, self._end, self._count = out, 0, 0
        self._lines = read_lines(out, max_line=LONGEST) if out.exists() else iter(())
        self._torn = False

    def answer(self, row: Row) -> dict[str, Any] | None:
        """The answer to this row, the next one; None where there is none. Raises UsageError where there is another."""
        try:
            line = None if self._torn else next(self._lines, None)
        except BadFile:
            self._check_torn(row.line)
            self._torn, line = True, None
        if line is None:
            return None
        self._end, value = line
        answer = _object(value)
        if answer.get("key") != row.key or answer.get("line") != row.line:
            raise self._refused(f"line {row.line} holds the answer of another prompt, setting or model")
        self._count += 1
        return answer

    def settle(self, rows: int) -> None:
        """Cuts off what was torn. Raises UsageError where there are more answers than rows."""
        if not self._torn and (more := sum(1 for _ in self._lines)):
            raise self._refused(f"holds {self._count + more} answers for {rows} rows")
        if self._torn:
            cut_torn(self._out, max_line=LONGEST)

    def _check_torn(self, line: int) -> None:
        """Raises UsageError unless all that is left of the file is one line, cut short, that begins as this answer does."""
        begins = b'{"line":%d,' % line
        with open(self._out, "rb") as file:
            file.seek(self._end)
            left = file.readline(LONGEST + 1)
            is_last = not left.endswith(b"\n") and len(left) <= LONGEST
        left = left.rstrip(b"\0")  # a power cut may leave the length of what was never written
        if not is_last or not (left.startswith(begins) or begins.startswith(left)):
            raise self._refused(f"what it holds at offset {self._end} is no answer to line {line}")

    def _refused(self, found: str) -> UsageError:
        return UsageError([Problem(str(self._out), found, "name another file for the answers, or remove this one")])


class _Wrong:
    """Rows that cannot be answered: how many, and the first of them one by one."""

    def __init__(self, source: Path) -> None:
        self._source, self._count = source, 0
        self._first: list[Problem] = []

    def add(self, line: int, found: str) -> None:
        self._count += 1
        if len(self._first) < SHOWN:
            self._first.append(Problem(f"{self._source.name}, line {line}", found))

    def settle(self, rows: int) -> None:
        """Raises BadData if there are any, UsageError where there are no rows at all."""
        if not rows:
            raise UsageError([Problem(str(self._source), "holds no rows", 'write one {"prompt": "..."} on each line')])
        if self._count:
            remedy = (
                "mend them; or let over-long prompts be cut (--truncate), or be answered with their error (--skip-bad)"
            )
            head = Problem(str(self._source), f"{self._count} of {rows} rows cannot be answered", remedy)
            rest = self._count - len(self._first)
            raise BadData([head, *self._first, *([Problem(str(self._source), f"and {rest} more")] if rest else [])])
