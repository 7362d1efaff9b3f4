"""Being asked to stop."""

import os
import signal
import subprocess
import sys

import pytest

from camelid.train.interrupt import SIGNALS, Interrupted, listening
from tests.train import tiny

LISTENER = """
import time
from camelid.train.interrupt import listening
with listening() as request:
    print("listening", flush=True)
    while request.signal is None:
        time.sleep(0.001)
    print(request.signal, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_noted_and_the_second_ends_the_process_at_once(number):
    with subprocess.Popen([sys.executable, "-c", LISTENER], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout.readline() == "listening\n"
            child.send_signal(number)
            assert child.stdout.readline() == f"{int(number)}\n"
            child.send_signal(number)
            assert child.wait(timeout=10) == -number
        finally:
            child.kill()


def test_under_torchrun_a_signal_that_comes_twice_is_one_request(monkeypatch):
    for name, word in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, word)
    with listening() as request:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
        assert request.signal == signal.SIGTERM


def test_handlers_are_put_back_on_leaving():
    before = [signal.getsignal(number) for number in SIGNALS]
    with listening() as request:
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.signal == signal.SIGTERM
        assert [signal.getsignal(number) for number in SIGNALS] == [signal.SIG_DFL] * 2
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_asked_to_stop_commits_the_running_step_says_so_and_goes_on_bit_for_bit(tmp_path, number, code):
    whole = tiny.model()
    expected = tiny.optimizer(whole)
    tiny.run(tmp_path / "whole", whole, expected)

    def ask(step, *told):
        if step == 3:
            signal.raise_signal(number)

    made = tiny.model()
    with pytest.raises(Interrupted, match=rf"stopped by {number.name} after step 3 of 6, committed") as stopped:
        tiny.run(tmp_path / "run", made, tiny.optimizer(made), conduct=tiny.conduct(progress=ask))
    assert stopped.value.exit_code == code
    assert (tmp_path / "run" / "commits" / "step-00000003").is_dir()
    made = tiny.model(seed=5)  # its weights come from the commit
    resumed = tiny.optimizer(made)
    tiny.run(tmp_path / "run", made, resumed)
    assert resumed.digest() == expected.digest()
    journals = [(tmp_path / name / "journal.jsonl").read_bytes() for name in ("whole", "run")]
    assert journals[0] == journals[1]


def test_a_request_at_the_last_step_still_stops_whoever_would_go_on(tmp_path):
    made = tiny.model()
    with pytest.raises(Interrupted, match="after step 6 of 6"):
        words = {"progress": lambda step, *told: signal.raise_signal(signal.SIGTERM) if step == 6 else None}
        tiny.run(tmp_path, made, tiny.optimizer(made), conduct=tiny.conduct(**words))
    made = tiny.model()
    assert tiny.run(tmp_path, made, tiny.optimizer(made)).steps == 6
