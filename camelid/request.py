"""What a person asked to be grown, kept beside the run so that `camelid resume` can ask the same again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from camelid.durable import json_bytes, read_json, replace_file
from camelid.errors import BadData, BadFile, ProblemList
from camelid.frozen import from_data, to_data
from camelid.recipe import Finetune, Folder, Pretrain, Recipe

REQUEST = "request.json"


@dataclass(frozen=True)
class Request:
    """Member, size, and what replaces parts of the recipe, as on the command line; paths absolute once settled."""

    member: str
    size: str = ""
    start: str | None = None
    data: str | None = None
    settings: tuple[str, ...] = ()
    bad_rows: str | None = None
    store: str | None = None

    def settled(self, recipe: Recipe) -> Request:
        """The request with its paths made absolute."""
        start = recipe.last.start if isinstance(recipe.last, Finetune | Pretrain) else None
        return replace(
            self,
            start=start.path if isinstance(start, Folder) else None,
            data=str(Path(self.data).expanduser().resolve()) if self.data else None,
        )

    def write(self, run: Path) -> None:
        """Keep the request in the run's directory."""
        replace_file(run / REQUEST, json_bytes(to_data(self)))


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
