"""Encoding on many cores gives the ids of one, in order, and tells what goes wrong in a child."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from camelid.data import encoding
from camelid.data.corpus import tokenise
from camelid.data.encoding import EncoderFailed, encoded
from camelid.machine import can_fork
from camelid.tokenizers import byte_bpe, sentencepiece
from tests.adversarial import texts

STORY = "The camel walked 120 miles to Aswan, where dates were sold. 骆驼走了很远。\n"
pytestmark = pytest.mark.skipif(not can_fork(), reason="this system cannot fork")


@pytest.fixture(scope="module", params=["pieces", "bytes"])
def tokenizer(request):
    train = sentencepiece.train if request.param == "pieces" else byte_bpe.train
    return train([STORY * 20], vocab=310)


@pytest.fixture
def small(monkeypatch):
    """Batches and the border for forking small enough that a test crosses them many times."""
    monkeypatch.setattr(encoding, "FEW", 2000)
    monkeypatch.setattr(encoding, "BATCH", 300)


def given(count: int) -> list[str]:
    source = texts(5, 1_000_000)
    return [*("" if n % 17 == 0 else STORY[: n % 60] + next(source) for n in range(count)), STORY * 40]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_ids_are_those_of_one_process_in_order(tokenizer, small, workers):
    said = given(400)
    found = list(encoded(iter(said), tokenizer, workers=workers))
    assert [ids.tolist() for ids in found] == [tokenizer.encode(text) for text in said]


def test_a_corpus_is_the_same_however_many_encode(tokenizer, small, monkeypatch):
    monkeypatch.setattr(encoding, "cores", lambda: 3)
    many = tokenise(given(100), tokenizer)
    monkeypatch.setattr(encoding, "cores", lambda: 1)
    one = tokenise(given(100), tokenizer)
    assert many.digest == one.digest and np.array_equal(many.ids, one.ids)


def test_few_texts_start_nobody(tokenizer, monkeypatch):
    monkeypatch.setattr(encoding, "_fork", lambda: pytest.fail("a process was started"))
    assert len(list(encoded(given(20), tokenizer, workers=4))) == 21


def test_what_goes_wrong_in_a_child_is_told_here(tokenizer, small):
    class Wrong:
        def encode(self, text):
            if text == "boom":
                raise ZeroDivisionError("in the encoder")
            return [1] * len(text)

    with pytest.raises(EncoderFailed, match="ZeroDivisionError: in the encoder"):
        list(encoded(["x" * 1000] * 9 + ["boom"] + ["y"] * 900, Wrong(), workers=2))


def test_a_child_that_is_killed_is_told_and_nobody_is_left(tokenizer, small, monkeypatch):
    started = []
    fork = encoding._fork

    def noted():
        process = fork()
        if process:
            started.append(process)
        return process

    monkeypatch.setattr(encoding, "_fork", noted)
    run = encoded((STORY * 10 for _ in range(2000)), tokenizer, workers=2)
    next(run)
    os.kill(started[0], signal.SIGKILL)
    with pytest.raises(EncoderFailed, match="died"):
        list(run)
    for process in started:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_a_reader_that_stops_early_leaves_nobody(tokenizer, small, monkeypatch):
    started = []
    fork = encoding._fork
    monkeypatch.setattr(encoding, "_fork", lambda: started.append(fork()) or started[-1])
    run = encoded((STORY * 10 for _ in range(2000)), tokenizer, workers=2)
    next(run)
    run.close()
    for process in started:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_a_lone_surrogate_is_refused_as_one_process_refuses_it(small):
    tokenizer = byte_bpe.train([STORY * 20], vocab=310)
    with pytest.raises(Exception) as alone:
        tokenizer.encode("\ud800")
    with pytest.raises(type(alone.value)):
        list(encoded([STORY * 50, "\ud800"], tokenizer, workers=2))


def test_who_sends_a_batch_does_not_wait_until_it_is_encoded(tmp_path: Path) -> None:
    """The batch is larger than a pipe, and nothing is encoded before it was sent whole."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    class Waiting:
        def encode(self, text: str, *, starts: bool = True) -> list[int]:
            if gate.exists():
                gate.read_bytes()  # until somebody opened and closed it
                gate.unlink()
            return [len(text)]

    def stuck(*_: object) -> None:
        raise AssertionError("sending waits for the encoder")

    child = encoding._Child(Waiting(), [])
    before = signal.signal(signal.SIGALRM, stuck)
    signal.alarm(30)
    try:
        child.send(["a" * 200_000, "b" * 300_000, "c"])
        gate.write_bytes(b"")
        assert [ids.tolist() for ids in child.answer()] == [[200_000], [300_000], [1]]
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        child.close()
