"""What docs/house.md and the README name is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = {"range", "dataclass"}


def test_every_door_that_the_house_names_is_there() -> None:
    code = "\n".join(path.read_text() for path in sorted((ROOT / "camelid").rglob("*.py")))
    there = set(re.findall(r"(?:def|class)\s+([A-Za-z_]\w*)", code)) | set(
        re.findall(r"^([A-Za-z_]\w*)\s*[:=]", code, re.M)
    )
    named = set(re.findall(r"\b([A-Za-z_][A-Za-z0-9_]{3,})\(", (ROOT / "docs" / "house.md").read_text()))
    assert len(named) > 100 and not named - there - PYTHON


def test_every_file_that_the_house_and_the_readme_name_is_there() -> None:
    files = {path.name for path in ROOT.rglob("*.py") if ".venv" not in path.parts}
    for page in ("README.md", "docs/house.md"):
        named = set(re.findall(r"[\w/]+\.py\b", (ROOT / page).read_text()))
        assert named and {name for name in named if name.split("/")[-1] not in files} == set(), page


def test_the_page_of_speed_is_what_the_results_say() -> None:
    from benchmarks.speed_page import text

    assert (ROOT / "docs" / "speed.md").read_text() == text(), "write it anew: python -m benchmarks.speed_page"


def test_make_bench_has_a_program_and_it_knows_every_other() -> None:
    from benchmarks.__main__ import programs

    known = dict(programs())
    assert {"infer_cpu", "train_cpu", "gpu"} <= set(known) and all(known.values())
