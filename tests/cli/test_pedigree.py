"""The family page is current, whole, and shows the verdicts of the store."""

from __future__ import annotations

import json
import os
from pathlib import Path

from camelid.cli.pedigree import page
from camelid.recipes import MEMBERS
from camelid.store import Store

PAGE = Path(__file__).resolve().parents[2] / "docs" / "family.md"


def test_the_page_in_docs_is_what_the_command_prints(tmp_path: Path) -> None:
    """CAMELID_GOLDEN=write writes it anew."""
    made = page(Store(tmp_path))
    if os.environ.get("CAMELID_GOLDEN") == "write":
        PAGE.write_text(made, "utf-8")
    assert PAGE.read_text("utf-8") == made
    for name in MEMBERS:
        assert made.count(f"| {name} |") >= 1 and f"`camelid grow {name}`" in made


def test_a_verdict_of_the_store_is_shown(tmp_path: Path) -> None:
    (tmp_path / "claims").mkdir()
    card = {"verdict": "did not hold", "date": "2026-01-01", "seeds": [0, 1, 2]}
    (tmp_path / "claims" / "lima-desk.json").write_text(json.dumps(card))
    (row,) = (line for line in page(Store(tmp_path)).splitlines() if line.startswith("| lima |"))
    assert "did not hold (2026-01-01, 3 seeds)" in row
    (row,) = (line for line in page(Store(tmp_path)).splitlines() if line.startswith("| belle |"))
    assert "| no card |" in row
