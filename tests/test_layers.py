"""Imports go strictly down, and siblings of one layer do not import each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "camelid"
LAYERS: list[set[str]] = [
    {"errors"},
    {"frozen", "randomness", "durable", "stage", "machine", "journal", "ranks"},
    {"quantize"},
    {"tokenizers", "dialogue", "nn"},
    {"models", "data", "desk"},
    {"checkpoints", "native"},
    {"generate"},
    {"train", "evaluate"},
    {"recipe"},
    {"plan", "recipes"},
    {"request", "store", "report", "supply"},
    {"run", "runs"},
    {"scoring", "fit"},
    {"grow", "experiments"},
    {"summary", "claims", "gallery"},
    {"cli"},
    {"__main__"},
]
LAYER = {name: depth for depth, names in enumerate(LAYERS) for name in names}
DOORS = {"camelid.tokenizers.protocol"}  # types that every room may name


def rooms() -> list[str]:
    return sorted({path.relative_to(ROOT).parts[0].removesuffix(".py") for path in ROOT.rglob("*.py")} - {"__init__"})


def imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            if node.module == "camelid":
                found |= {f"camelid.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("camelid.")}


@pytest.mark.parametrize("room", rooms())
def test_imports_go_strictly_down(room: str) -> None:
    assert room in LAYER, f"camelid/{room} has no layer: give it one here and in docs/house.md"
    files = sorted((ROOT / room).rglob("*.py")) if (ROOT / room).is_dir() else [ROOT / f"{room}.py"]
    wrong = []
    for path in files:
        for name in sorted(imported(path) - DOORS):
            other = name.split(".")[1]
            if other != room and LAYER.get(other, 99) >= LAYER[room]:
                wrong.append(f"{path.relative_to(ROOT.parent)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_a_refusal_does_not_import_pytorch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from camelid.cli import main; code = main(['grow', 'alpcaa', '--set', 'tuned.lenght=1']);"
        "print(code, 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert told.stdout.split() == ["2", "False", "False"], told
