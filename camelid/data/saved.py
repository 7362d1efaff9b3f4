"""Data sets that Hugging Face's `datasets` saved to a folder (`save_to_disk`), read where they lie, without a network.

A folder with a state.json is one data set; one with a dataset_dict.json holds several, a subfolder each, of which one
must be named. The package reads them (the extra `hf`); Arrow's own end mark of each file is looked for first, because
a file that was cut between two batches reads as a shorter data set and nobody is told.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from camelid.durable import read_json
from camelid.errors import BadFile, CamelidError, Problem, UsageError

STATE, SPLITS = "state.json", "dataset_dict.json"
END = b"\xff\xff\xff\xff\0\0\0\0"  # of a stream of Arrow's (format, "IPC streaming format")
LARGEST = 64 << 20  # bytes of state.json, which lists the files


def is_saved(path: Path) -> bool:
    """Whether this is a folder that `save_to_disk` wrote, of one data set or of several."""
    return (path / STATE).is_file() or (path / SPLITS).is_file()


def check(path: Path) -> None:
    """Raises UsageError for a folder of several data sets of which none is named, and where the extra is absent."""
    if not (path / STATE).is_file():
        listed = _object(path / SPLITS).get("splits")
        names = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
        there = [name for name in names if (path / name / STATE).is_file()]
        remedy = f"name one: {path / there[0]}" if there else "save it again whole"
        raise UsageError(
            [Problem(str(path), f"holds several data sets: {', '.join(there) or 'none is there'}", remedy)]
        )
    if find_spec("datasets") is None:
        found = "was saved by Hugging Face's datasets, which is not installed"
        raise UsageError([Problem(str(path), found, "pip install camelid[hf]")])


def mappings(path: Path) -> Iterator[Mapping[str, object]]:
    """Every row in the data set's order. Raises BadFile for a damaged one, and what `check` raises."""
    check(path)
    _files(path)
    import datasets
    import pyarrow

    number = 0
    try:
        for number, row in enumerate(_whole(datasets, path), 1):  # noqa: B007 - told where it breaks off
            yield row
    except CamelidError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadFile(path, f"after row {number}", f"damaged data set: {reason}", "save it again whole") from error


def digest(path: Path) -> str:
    """SHA-256 of what the data set's files hold, in their order."""
    found = hashlib.sha256()
    for file in (path / "dataset_info.json", *_files(path)):
        with open(file, "rb") as opened:
            found.update(hashlib.file_digest(opened, "sha256").digest())
    return found.hexdigest()


def _whole(datasets: Any, path: Path) -> Any:
    """The data set, mapped, with its rows as plain Python values whatever they were saved to be shown as."""
    found = datasets.load_from_disk(str(path.resolve()), keep_in_memory=False)
    return found.with_format(None)


def _files(path: Path) -> list[Path]:
    """The files of the data set in their order, each there and whole to its end mark."""
    listed = _object(path / STATE).get("_data_files")
    entries = listed if isinstance(listed, list) else []
    names = [each.get("filename") if isinstance(each, dict) else None for each in entries]
    if not names:
        raise BadFile(path / STATE, "_data_files", "names no files", "save it again whole")
    found = []
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise BadFile(path / STATE, "_data_files", f"{name!r} is no file of this folder", "save it again whole")
        found.append(path / name)
        _check_end(path / name)
    return found


def _check_end(file: Path) -> None:
    if not file.is_file():
        raise BadFile(file, "", "is missing", "copy the folder again whole")
    size = file.stat().st_size
    with open(file, "rb") as opened:
        opened.seek(max(0, size - len(END)))
        if opened.read() != END:
            raise BadFile(file, f"byte {size}", "ends without Arrow's end mark: it was cut", "copy it again whole")


def _object(file: Path) -> dict[str, Any]:
    value = read_json(file, max_bytes=LARGEST, max_depth=32)
    if not isinstance(value, dict):
        raise BadFile(file, "", "is not an object", "save it again whole")
    return value
