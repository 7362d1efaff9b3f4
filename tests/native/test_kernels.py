"""Every kernel against its plain definition, in every spelling that this processor can run, and under sanitizers."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from camelid.native import build, plain
from camelid.native.library import library, opened
from tests.conftest import size
from tests.native import kernels as decoding
from tests.native import train_kernels as training

SOURCES = Path(build.__file__).parent


def compiler() -> str:
    found = build.find_compiler()
    if found is None:
        pytest.skip("no C compiler is here: nothing is compiled, and PyTorch decodes")
    return found


OLDER = {"AVX-512 VNNI": (*build.TUNED, "-mno-avx512bf16"), "AVX2": ("-march=x86-64-v3",), "plain C": ()}


@pytest.fixture(scope="module", params=["as built", "AVX2", "plain C"])
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The library of this machine, and the same sources for older processors."""
    if request.param == "as built":
        compiler()
        found = library()
        assert found is not None, "a compiler is here, so there are kernels"
        return found
    return older(request.param, tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="module")
def without_bf16(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return older("AVX-512 VNNI", tmp_path_factory.mktemp("kernels"))


def older(name: str, folder: Path) -> ctypes.CDLL:
    """The kernels for a processor of before; skips where this one cannot run them."""
    try:
        data = build.compiled(compiler(), build.FLAGS + OLDER[name])
    except build.Failure as error:
        if name == "plain C":
            raise
        pytest.skip(f"no {name} here: {error}")
    path = folder / f"{name.replace(' ', '')}.so"
    path.write_bytes(data)
    found = opened(path)
    lanes = found.camelid_lanes().decode()
    if name == "AVX-512 VNNI" and lanes != name:
        pytest.skip(f"no {name} here: {lanes}")
    assert lanes == name
    return found


def test_activations_are_rounded_to_bf16_as_pytorch_does() -> None:
    """But for what is smaller than 2^-126."""
    draw = np.random.default_rng(0)
    bits = draw.integers(0, 1 << 32, size(20000), dtype=np.uint32)
    bits[::3] &= np.uint32(0xFFFF8000)  # halves, and exact ones
    bits[:4] = [0x7F7FFFFF, 0xFF7F8000, 0x7F7F7FFF, 0x7F800000]
    x = bits.view(np.float32)
    wanted = torch.from_numpy(x.copy()).bfloat16().float().numpy()
    found = plain.widened(plain.brains(x))
    small = np.abs(x) < plain.NORMAL
    assert np.array_equal(found[~small], wanted[~small], equal_nan=True)
    assert not found[small].any() and (np.signbit(found[small]) == np.signbit(x[small])).all()


@pytest.mark.parametrize("check", [*decoding.CHECKS, *training.CHECKS], ids=lambda check: check.__name__)
def test_kernels_compute_what_their_definitions_say(
    kernels: ctypes.CDLL, check: Callable[[ctypes.CDLL, int], None]
) -> None:
    for seed in range(size(16)):
        check(kernels, seed)


SPELLED_ANEW = (decoding.check_products, decoding.check_long_rows, decoding.check_bf16)


@pytest.mark.parametrize("check", SPELLED_ANEW, ids=lambda check: check.__name__)
def test_avx_512_without_bf16_computes_the_same_bits(
    without_bf16: ctypes.CDLL, check: Callable[[ctypes.CDLL, int], None]
) -> None:
    for seed in range(size(16)):
        check(without_bf16, seed)


@pytest.mark.long
def test_sanitizers_find_nothing_in_the_kernels_and_would(tmp_path: Path) -> None:
    """Address and undefined-behaviour sanitizers over every check; a planted read beyond the end is found."""
    cc = compiler()
    runtimes = [told for name in ("libasan.so", "libubsan.so") if (told := located(cc, name))]
    if len(runtimes) < 2:
        pytest.skip(f"{cc} has no sanitizers here")
    flags = ("-std=gnu11", "-O1", "-g", *build.TUNED, "-ffp-contract=off", "-fPIC", "-shared", "-pthread")
    sanitized = (*flags, "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    clean = tmp_path / "clean.so"
    clean.write_bytes(build.compiled(cc, sanitized, check=False))
    seeds = [str(seed) for seed in range(size(8))]
    for checks in (decoding, training):
        told = checked(clean, runtimes, seeds, checks)
        assert told.returncode == 0 and "all checks passed" in told.stdout, told.stderr[-3000:]
    sources = {name: (SOURCES / name).read_text() for name in build.SOURCES}
    exact = "return n < 64 ? load_some((const float *)p, n / 4) : load((const float *)p);"
    assert exact in sources["core.c"]
    sources["core.c"] = sources["core.c"].replace(exact, "return load((const float *)p);")
    for name, text in sources.items():
        (tmp_path / name).write_text(text)
    planted = tmp_path / "planted.so"
    made = [cc, *sanitized, str(tmp_path / "core.c"), "-o", str(planted), "-lm"]
    subprocess.run(made, check=True, capture_output=True)
    told = checked(planted, runtimes, ["0", "4"], decoding)
    assert told.returncode != 0 and "ERROR: AddressSanitizer" in told.stderr


def located(cc: str, name: str) -> str | None:
    """The path of a run-time library of the compiler."""
    told = subprocess.run([cc, f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
    return told if os.path.isabs(told) else None


def checked(path: Path, runtimes: list[str], seeds: list[str], checks: ModuleType) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LD_PRELOAD": ":".join(runtimes), "ASAN_OPTIONS": "detect_leaks=0"}
    command = [sys.executable, "-m", checks.__name__, str(path), *seeds]
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root, check=False)
