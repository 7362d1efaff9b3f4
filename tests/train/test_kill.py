"""The every-commit size of goals R1 and R6; `python -m tests.kill --n 10000` is the same at any size."""

import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import size
from tests.kill import MOMENTS

ROOT = Path(__file__).parents[2]


def harness(*words):
    command = [sys.executable, "-m", "tests.kill", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    told = json.loads(done.stdout)
    assert told["wrong"] == [] and done.returncode == 0, told
    return told


def test_runs_killed_at_random_moments_end_in_the_same_bits():
    told = harness("--n", size(50), "--seed", 0, "--cold", 1)
    assert told["kills"] >= size(50) and told["cold"] == 1 and told["aimed"]
    assert all(told[moment] for moment in MOMENTS), told  # the first kill of each run is aimed at one of them in turn


def test_runs_asked_to_stop_commit_in_time_and_end_in_the_same_bits():
    told = harness("--n", size(8), "--seed", 1, "--signal", "TERM", "--jobs", "packed", "lora-accumulated")
    # The first attempt of each run asks itself while it listens; in its last commit there is nothing left to stop.
    assert told["committed"] + told.get("finished", 0) >= told["runs"] >= 1 and told["committed"] >= 1, told
    assert told["slowest_stop"] <= 10
