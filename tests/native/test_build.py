from __future__ import annotations

import stat
from pathlib import Path

import pytest

from camelid.durable import verify
from camelid.native import build
from camelid.native.library import opened


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A cache of its own, and nothing remembered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CAMELID_NATIVE", raising=False)
    monkeypatch.delenv("CC", raising=False)
    build.built.cache_clear()
    yield monkeypatch
    build.built.cache_clear()


def again() -> build.Built | build.Absent:
    build.built.cache_clear()
    return build.built()


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.skipif(build.find_compiler() is None, reason="no C compiler is here")
def test_a_library_is_built_once_and_a_damaged_one_again(asked: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = again()
    assert isinstance(first, build.Built) and first.tuned
    assert first.path.is_relative_to(tmp_path / "cache" / "camelid" / "native")
    verify(first.path.parent)
    written = first.path.stat().st_mtime_ns
    assert again() == first and first.path.stat().st_mtime_ns == written
    whole = first.path.read_bytes()
    first.path.write_bytes(whole[:100])
    assert again() == first and len(first.path.read_bytes()) == len(whole)
    assert opened(first.path).camelid_check() == 0


@pytest.mark.skipif(build.find_compiler() is None, reason="no C compiler is here")
def test_sources_flags_and_compiler_each_change_the_key(asked: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = build.find_compiler()
    assert real is not None
    other = script(tmp_path / "other", "echo another compiler")
    keys = {build.key(real, build.FLAGS), build.key(real, (*build.FLAGS, "-g")), build.key(str(other), build.FLAGS)}
    asked.setattr(build, "source", lambda name: b"changed")
    assert len(keys | {build.key(real, build.FLAGS)}) == 4


def test_why_there_is_no_library_is_told(asked: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked.setenv("CAMELID_NATIVE", "off")
    assert again() == build.Absent("turned off by CAMELID_NATIVE", wished=True)
    asked.delenv("CAMELID_NATIVE")
    asked.setenv("CC", "no-such-compiler")
    found = again()
    assert isinstance(found, build.Absent) and "no C compiler found" in found.reason and not found.wished
    broken = script(tmp_path / "broken", 'echo "core.c:1: error: cannot" >&2; exit 3')
    asked.setenv("CC", str(broken))
    found = again()
    assert isinstance(found, build.Absent) and f"{broken} failed (core.c:1: error: cannot)" in found.reason
    liar = script(tmp_path / "liar", 'while [ "$1" != -o ]; do [ $# = 0 ] && exit; shift; done; echo no library > "$2"')
    asked.setenv("CC", str(liar))
    found = again()
    assert isinstance(found, build.Absent) and "does not work on this processor" in found.reason
    assert not list((tmp_path / "cache").rglob("core.so")), "nothing that fails is kept"
