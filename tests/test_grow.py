"""What grow finds out before anything costs time."""

from __future__ import annotations

from pathlib import Path

import pytest

from camelid.cli import main


def test_records_that_cannot_be_learned_are_refused_before_the_base_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, store = tmp_path / "bad.jsonl", tmp_path / "store"
    data.write_text('{"instruction": "a", "output": "b"}\n{"instruct": "a", "output": "b"}\n')
    assert main(["grow", "alpaca", "--size", "tiny", "--data", str(data), "--store", str(store), "--threads", "1"]) == 1
    told = capsys.readouterr().err
    assert "bad.jsonl" in told and "line 2" in told and "instruct" in told
    assert not list((store / "stages").glob("*")) and not list((store / "runs").glob("*"))
