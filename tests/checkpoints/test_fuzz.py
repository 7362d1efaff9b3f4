"""Goal F1 at every-commit size: 14,000 mutants of every kind of model file; none crashes, hangs or swells."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import size

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("kind", "n"), [("safetensors", 5000), ("pth", 5000), ("json", 4000)])
def test_every_mutant_is_read_or_refused_in_time_and_memory(kind, n):
    command = [sys.executable, "-m", "tests.checkpoints.fuzz", kind, "--n", str(size(n)), "--seed", "20"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert ran.stdout, ran.stderr[-2000:]
    told = json.loads(ran.stdout)
    assert told["failures"] == [] and ran.returncode == 0
    assert told["refused"] > told["read"] > 0, "mutants that all fare alike try nothing"
