"""What a person asked to be grown, kept beside the run so that `camelid resume` can ask the same again."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from camelid.durable import json_bytes, read_json, replace_file
from camelid.errors import BadData, BadFile, ProblemList
from camelid.frozen import from_data, to_data
from camelid.recipe import Folder, Recipe

REQUEST = "request.json"
AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)([%x]):")  # before a file: 70%:wiki.jsonl, 2x:records.json


@dataclass(frozen=True)
class Request:
    """Member, size, and what replaces parts of the recipe, as on the command line; paths absolute once settled."""

    member: str
    size: str = ""
    start: str | None = None
    data: str | None = None
    texts: tuple[str, ...] = ()  # [STAGE=][SHARE%:]FILE or [STAGE=][TIMESx:]FILE, where `data` is not enough
    settings: tuple[str, ...] = ()
    bad_rows: str | None = None
    other_size: bool = False  # whether `size` is meant even for a start of another published size
    store: str | None = None

    def settled(self, recipe: Recipe) -> Request:
        """The request with its paths made absolute."""
        start = recipe.parent
        return replace(
            self,
            start=start.path if isinstance(start, Folder) else None,
            data=_absolute(self.data) if self.data else None,
            texts=tuple(_settled(read_given(text)) for text in self.texts),
        )

    def write(self, run: Path) -> None:
        """Keep the request in the run's directory."""
        replace_file(run / REQUEST, json_bytes(to_data(self)))


@dataclass(frozen=True)
class Given:
    """A file that a person names for a stage: "" stands for the last one that learns from data. `amount` in percent of
    the tokens drawn ("%") or in times over ("x"); None where nothing was said of it."""

    stage: str
    file: str
    amount: float | None = None
    unit: Literal["%", "x", ""] = ""

    def text(self) -> str:
        """As it is typed."""
        share = "" if self.amount is None else f"{self.amount:g}{self.unit}:"
        return f"{self.stage}={share}{self.file}" if self.stage else f"{share}{self.file}"


def read_given(word: str) -> Given:
    """What one --data says; a file whose own name looks so is taken for a file."""
    if Path(word).expanduser().exists():
        return Given("", word)
    stage, equals, rest = word.partition("=")
    stage, rest = (stage, rest) if equals and "/" not in stage and ":" not in stage else ("", word)
    found = AMOUNT.match(rest)
    if found is None or Path(rest).expanduser().exists():
        return Given(stage, rest)
    return Given(stage, rest[found.end() :], float(found[1]), "%" if found[2] == "%" else "x")


def _settled(given: Given) -> str:
    return replace(given, file=_absolute(given.file)).text()


def _absolute(file: str) -> str:
    return str(Path(file).expanduser().resolve())


def read_request(run: str, problems: ProblemList) -> Request | None:
    """The request of a run; None, with the reason in `problems`, where there is none."""
    path = Path(run).expanduser()
    if path.name == REQUEST:
        path = path.parent
    if not path.is_dir():
        problems.add("RUN", f"there is no folder {run}", "name the run's folder, as camelid grow printed it")
        return None
    try:
        return from_data(Request, read_json(path / REQUEST), str(path / REQUEST))
    except (BadFile, BadData) as error:
        problems.add("RUN", f"{run} is not a run: {error}", "name the run's folder, as camelid grow printed it")
        return None
