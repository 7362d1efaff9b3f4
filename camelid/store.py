"""Where grown things lie. A stage is named by the fingerprint of its text and its inputs, so it is made once.

    STORE/stages/tuned-0123456789abcdef/    a finished stage: a model folder, complete or absent
    STORE/runs/tuned-0123456789abcdef/      the same stage while it is made: checkpoints, journal
    STORE/cache/                            tokenised data, keyed by content
    STORE/reports/  STORE/claims/           pages and claim cards
    STORE/exports/                          models in files of others

STORE is the environment variable CAMELID_STORE, or else ~/.camelid.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from camelid.durable import read_json, verify
from camelid.errors import BadFile, ProblemList, did_you_mean

PROVENANCE = "camelid.json"
STAGE = re.compile(r"([a-z0-9_.-]+)-([0-9a-f]{16})")


@dataclass(frozen=True)
class Grown:
    """A finished model of the store: which member it is, at which size, when it was made, and where it lies."""

    path: Path
    member: str
    size: str
    made: str

    @property
    def title(self) -> str:
        return f"{self.member} ({self.size})"


@dataclass(frozen=True)
class Store:
    """One folder that holds everything grown."""

    root: Path

    def stage(self, name: str, mark: str) -> Path:
        return self.root / "stages" / f"{name}-{mark}"

    def run(self, name: str, mark: str) -> Path:
        return self.root / "runs" / f"{name}-{mark}"

    @property
    def is_default(self) -> bool:
        """Whether commands find this store without being told."""
        return self.root == open_store().root

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def is_made(self, directory: Path) -> bool:
        """Whether a finished stage stands there, whole; a damaged one raises BadFile."""
        if not directory.exists():
            return False
        verify(directory)
        return True

    def entries(self) -> list[Path]:
        """The directory of every finished stage; drafts, whose names begin with a dot, are none."""
        return [path for path in sorted((self.root / "stages").glob("*-*")) if STAGE.fullmatch(path.name)]

    def models(self) -> list[Grown]:
        """Every finished model, newest first. Entries that cannot be read are left to `doctor`."""
        found = [grown for path in self.entries() if (grown := _grown(path))]
        return sorted(found, key=lambda grown: grown.made, reverse=True)


def open_store(path: str | None = None) -> Store:
    """The store named, or by CAMELID_STORE, or the one in the home folder."""
    return Store(Path(path or os.environ.get("CAMELID_STORE") or "~/.camelid").expanduser().absolute())


def _grown(path: Path) -> Grown | None:
    if not (path / "config.json").is_file() or not (path / "manifest.json").is_file():
        return None
    try:
        told: Any = read_json(path / PROVENANCE)
    except BadFile:
        return None
    if not isinstance(told, dict) or not isinstance(told.get("provenance"), dict):
        return None
    about = told["provenance"]
    return Grown(path, str(about.get("member", "")), str(about.get("size", "")), str(about.get("made", "")))


def find_model(name: str, store: Store, problems: ProblemList) -> Path | None:
    """Where the model lies that MODEL means: a folder, a GGUF file, or the newest grown member of that name.

    "alpaca" is any size of the member, "alpaca:desk" one.
    """
    path = Path(name).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        return path
    if path.exists():
        found, remedy = "is a file, not a folder", "name the folder that holds config.json, or a file NAME.gguf"
        problems.add(f"model {name!r}", found, remedy)
        return None
    if "/" in name:
        what = "file" if path.suffix == ".gguf" else "folder"
        problems.add(f"model {name!r}", f"there is no such {what}")
        return None
    member, _, size = name.partition(":")
    models = store.models()
    for grown in models:
        if grown.member == member and size in ("", grown.size):
            return grown.path
    known = sorted({grown.member for grown in models})
    remedy = did_you_mean(member, known) if known else ""
    problems.add(
        f"model {name!r}", f"neither a folder nor a member grown in {store.root}", remedy or f"camelid grow {member}"
    )
    return None
