"""Progress stays readable in a narrow window, in a pipe and in a log file."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camelid.journal import clock, fitting
from tests.conftest import size

WORK = """
import time
from camelid.journal import Narrator
with Narrator().progress("LLaMA desk pretrained", 100, "%") as report:
    for step in range(0, 101, 20):
        report(step, f"step {step * 977} of 97700, loss {9.5 - step / 20:.3f}, 12,345 tokens/s")
        time.sleep(0.15)
"""
NOTE = "step 440 of 977, loss 3.142, 12345 tokens/s"


@settings(max_examples=size(300), deadline=None)
@given(
    st.text("abc d", max_size=40),
    st.floats(0, 1),
    st.floats(0, 1e6),
    st.none() | st.floats(0, 1e6),
    st.integers(0, 200),
)
def test_a_line_never_passes_the_window(title: str, share: float, spent: float, left: float | None, width: int) -> None:
    line = fitting(title, share, spent, left, NOTE, width=width)
    assert len(line) <= width and "\n" not in line
    assert width < 4 or f"{share:.0%}" in line, "how far it is, always"


def test_what_matters_least_goes_first() -> None:
    def line(width: int) -> str:
        return fitting("LLaMA desk pretrained", 0.45, 75, 3723, NOTE, width=width)

    assert (
        line(130)
        == f"LLaMA desk pretrained  {'━' * 9:<20}   45%  1:15  1:02:03 left  step 440 of 977  loss 3.142  12345 tokens/s"
    )
    assert line(100) == "LLaMA desk pretrained   45%  1:15  1:02:03 left  step 440 of 977  loss 3.142  12345 tokens/s"
    assert line(55) == "LLaMA desk pretrained   45%  1:02:03 left  loss 3.142"
    assert line(45) == "pretrained   45%  1:02:03 left  loss 3.142"
    assert line(32) == "pretrained   45%  1:02:03 left"
    assert line(10) == "45%"
    assert [clock(seconds) for seconds in (0, 7.9, 754, 3723)] == ["0:00", "0:07", "12:34", "1:02:03"]


@pytest.mark.parametrize("columns", [40, 100])
def test_in_a_window_everything_stays_on_one_line(columns: int) -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "PYTHONIOENCODING": "utf-8"}
    environment.pop("COLUMNS", None)
    run = subprocess.Popen([sys.executable, "-c", WORK], stderr=slave, stdout=slave, env=environment)
    os.close(slave)
    seen = b""
    while True:
        try:
            part = os.read(master, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(master)
    assert run.wait() == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    lines = [line for line in re.split(r"[\r\n]+", plain) if line.strip()]
    assert lines and max(map(len, lines)) <= columns
    assert "100%" in lines[-1] and "loss 4.500" in lines[-1]
    assert seen.count(b"\n") <= 2, "one line that is drawn over, and the end"


def test_in_a_pipe_each_line_is_whole_and_has_no_control_characters() -> None:
    told = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True).stderr
    assert told.splitlines() == [told.strip()] and "\x1b" not in told and "\r" not in told
    assert re.fullmatch(
        r"LLaMA desk pretrained: 100%, 0:00 so far, step 97700 of 97700, loss 4\.500, 12,345 tokens/s", told.strip()
    )
