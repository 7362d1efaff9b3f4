"""What becomes of freed memory while a model is trained."""

import json
import os
import subprocess
import sys

import pytest

from camelid.train import heap

CHILD = """
import json, torch
from camelid.machine import Machine, resident
from camelid.train.heap import kept
torch.zeros(1)
with kept(Machine(recompute={recompute})):
    start = resident()
    blocks = [torch.ones(1 << 22) for _ in range(8)]
    full = resident() - start
    del blocks
    freed = resident() - start
print(json.dumps([full, freed, resident() - start]))
"""


@pytest.mark.skipif(heap._glibc() is None, reason="the C library is not glibc")
def test_freed_memory_is_kept_by_a_run_returned_by_one_that_recomputes_and_returned_at_the_end_by_both():
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    for recompute, stays in ((False, True), (True, False)):
        child = [sys.executable, "-c", CHILD.format(recompute=recompute)]
        full, freed, ended = json.loads(subprocess.run(child, check=True, capture_output=True, env=plain).stdout)
        assert full > 8 * (1 << 24) * 0.99
        assert (freed > full * 0.9) if stays else (freed < full * 0.1)
        assert ended < full * 0.2


def test_who_chose_an_allocator_keeps_it(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    assert heap._told()
