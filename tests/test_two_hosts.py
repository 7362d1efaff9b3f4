"""Two namespaces with addresses of their own train together: at nightly size only, because it starts three interpreters."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.two_hosts import missing
from tests.conftest import size

ROOT = Path(__file__).resolve().parents[1]


def test_two_hosts_train_one_model_with_the_bits_of_one_process():
    if size(1) < 10:
        pytest.skip("two hosts train together at nightly size: CAMELID_N=10, or python scripts/two_hosts.py")
    if why := missing():
        pytest.skip(f"two hosts cannot be had: {why}")
    done = subprocess.run(
        [sys.executable, "scripts/two_hosts.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "weights equal" in done.stdout, done.stdout + done.stderr
