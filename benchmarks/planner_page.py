"""Writes docs/planner.md: every published figure and every run of our own beside what the planner predicts.

python -m benchmarks.planner_page
"""

from __future__ import annotations

import json
from pathlib import Path

from camelid.plan.table import markdown

ROOT = Path(__file__).resolve().parent.parent
OWN, PAGE = ROOT / "benchmarks" / "results" / "memory_of_runs.json", ROOT / "docs" / "planner.md"


def text() -> str:
    """The page as it should stand."""
    return markdown(json.loads(OWN.read_text()))


if __name__ == "__main__":
    PAGE.write_text(text())
