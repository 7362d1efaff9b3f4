"""make bench-gpu where there is no GPU: it says so; and its rows, shrunk, work on a CPU and agree with the peers."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu

ROOT = Path(__file__).resolve().parents[1]
CPU = gpu.Place("cpu", True, 0.0)


def test_without_a_gpu_it_says_so_and_ends_with_1():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    done = subprocess.run([sys.executable, "benchmarks/gpu.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("no GPU: PyTorch sees none here, so nothing was run.")


@pytest.mark.filterwarnings("ignore")  # the peers warn of their own settings
@pytest.mark.parametrize("name", ["1B full", "8B LoRA"])
def test_ours_and_the_peer_have_one_loss_with_the_same_weights(name):
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    (row,) = [row for row in gpu.ROWS if row.name == name]
    found = gpu.check(row, CPU)
    assert found["equal"] and found["device"] == found["cpu"] and abs(found["peer"] / found["cpu"] - 1) < 1e-6, found


def test_a_loss_that_is_another_is_no_equal_one(monkeypatch):
    monkeypatch.setattr(gpu, "our_loss", lambda row, device, dtype: 6.0)
    monkeypatch.setattr(gpu, "their_loss", lambda row, device, dtype: 6.001)
    assert not gpu.check(gpu.ROWS[0], CPU)["equal"]


def test_rows_are_timed_in_tokens_and_in_the_share_of_a_known_peak():
    (row,) = [row for row in gpu.ROWS if row.name == "1B full"]
    found = gpu.our_training(CPU.row(row), CPU)
    told = gpu.rates(row, CPU, found)
    assert len(found["steps"]) >= 2 and told["tokens/s"][1] <= told["tokens/s"][0] <= told["tokens/s"][2]
    assert "MFU" not in told
    known = gpu.rates(row, CPU, {"steps": [0.5, 0.5], "name": "NVIDIA H100 80GB HBM3"})
    flops = gpu.training_flops(gpu.TINY, seen=32.5)
    assert known["MFU"] == pytest.approx(flops * 4 * 64 / 0.5 / 989e12)
    assert gpu.peak_of("NVIDIA GeForce GTX 1080") is None


def test_a_side_that_runs_out_of_memory_is_timed_on_fewer_rows_and_says_so(monkeypatch):
    (row,) = [row for row in gpu.ROWS if row.name == "1B full"]

    def child(row, name, place, limit):
        if row.rows > 1:
            return {"missing": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"}
        return {"steps": [0.5, 0.25, 1.0]}

    monkeypatch.setattr(gpu, "child", child)
    found = gpu.timed(row, "peer", CPU, 9.0)
    assert found["rows"] == 1 and found["tokens/s"] == [128.0, 64.0, 256.0]
    line = {"row": row.name, "work": "train", "check": {"difference": 0.0}, "peer": found, "ratio": None}
    assert "1 rows at once" in gpu.shown(line)
    assert gpu.small(row).tied and not gpu.small(gpu.ROWS[1]).tied, "what is checked is tied where the row's model is"
