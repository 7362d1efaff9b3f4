"""What all tests share: where the real data lies, and how large an every-commit check is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SCALE = float(os.environ.get("CAMELID_N", "1"))


def size(n: int) -> int:
    """How many cases to try: `n` at every commit, more where CAMELID_N asks for it (10 for a night, 100 for a release)."""
    return max(1, int(n * SCALE))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of small real data sets; tests that need it skip where it is absent."""
    candidates = [os.environ.get("CAMELID_SHARED"), Path(__file__).resolve().parents[2] / "shared" / "data"]
    for candidate in candidates:
        if candidate and Path(candidate).is_dir():
            return Path(candidate)
    pytest.skip("the real data sets are absent: set CAMELID_SHARED to the folder that holds tokenizers/ and instruct/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests marked `long` begin first, so that no worker still has one before it when the others are done."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
