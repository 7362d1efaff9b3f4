"""Goals F1 and F5 at every-commit size: 50,040 mutants of every kind of model file; none crashes, hangs or swells."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from camelid.errors import BadFile
from tests.checkpoints import fuzz
from tests.conftest import size

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("kind", "n"), [
    ("safetensors", 15_600), ("pth", 13_000), ("json", 10_000), ("gguf", 2_000), ("packed", 2_000), ("adapter", 2_500),
    ("tokenizer", 2_500), ("template", 2_440),
])  # fmt: skip
def test_every_mutant_is_read_or_refused_in_time_and_memory(kind, n):
    command = [sys.executable, "-m", "tests.checkpoints.fuzz", kind, "--n", str(size(n)), "--seed", "20"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert ran.stdout, ran.stderr[-2000:]
    told = json.loads(ran.stdout)
    assert told["failures"] == [] and ran.returncode == 0
    assert told["refused"] > told["read"] > 0, "mutants that all fare alike try nothing"


@pytest.mark.parametrize(("fault", "told"), [("crash", "ZeroDivisionError"), ("hang", "Hung"), ("slow", " s")])
def test_the_harness_itself_catches_a_crash_a_hang_and_a_slow_reader(monkeypatch, fault, told):
    class Planted:
        def __init__(self, folder):
            self.calls = 0

        def mutant(self, draw):
            return b""

        def read(self, data):
            self.calls += 1
            if self.calls < 105:
                raise BadFile("x", "", "refused")
            if fault == "crash":
                raise ZeroDivisionError
            began = time.process_time()
            while fault == "hang" or time.process_time() - began < 0.12:
                pass

    monkeypatch.setitem(fuzz.KINDS, "planted", Planted)
    monkeypatch.setattr(fuzz, "bound_memory", lambda: None)
    monkeypatch.setattr(fuzz, "HANG_SECONDS", 0.3)
    found = fuzz.run("planted", 5, 0)
    gc.unfreeze()
    assert found["failures"][0]["number"] == 104
    assert told in found["failures"][0]["error"]
