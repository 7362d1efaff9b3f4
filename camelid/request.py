"""What a person asked to be grown, kept beside the run so that `camelid resume` can ask the same again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from camelid.durable import json_bytes, read_json, replace_file
from camelid.errors import BadData, BadFile, ProblemList
from camelid.frozen import from_data, to_data
from camelid.recipe import Folder, Recipe

REQUEST = "request.json"


@dataclass(frozen=True)
class Request:
    """Member, size, and what replaces parts of the recipe, as on the command line; paths absolute once settled."""

    member: str
    size: str = ""
    start: str | None = None
    data: str | None = None
    texts: tuple[str, ...] = ()  # STAGE=FILE for stages before the last
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
            texts=tuple(
                f"{stage}={_absolute(file)}" for stage, _, file in (text.partition("=") for text in self.texts)
            ),
        )

    def write(self, run: Path) -> None:
        """Keep the request in the run's directory."""
        replace_file(run / REQUEST, json_bytes(to_data(self)))


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
