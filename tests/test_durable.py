"""Commits: complete or absent whatever dies, damage always found, nothing deleted before its successor was read."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camelid import durable
from camelid.errors import BadFile, StoreError
from tests import faults
from tests.conftest import size

ROOT = Path(__file__).resolve().parents[1]
OLD = {"weights.safetensors": b"old weights " * 600, "state.json": b'{"step": 1}'}
NEW = {"weights.safetensors": b"new weights " * 700, "state.json": b'{"step": 2}', "more": b""}


def fill_with(contents):
    return lambda draft: [draft.write(name, data) for name, data in contents.items()]


def contents(path):
    manifest = durable.verify(path)
    return {name: (path / name).read_bytes() for name in manifest.files}


def visible(parent):
    return sorted(path.name for path in parent.iterdir() if not path.name.startswith("."))


def hidden(parent):
    return sorted(path.name for path in parent.iterdir() if path.name.startswith("."))


# --- committing -----------------------------------------------------------------------------------------------------


def test_a_commit_holds_what_was_written_and_says_so(tmp_path):
    pieces = [bytes([i % 251]) * (i * 137 % 5000) for i in range(2000)]
    fill = lambda draft: (draft.write("big", iter(pieces)), draft.write("empty", b""))
    path = durable.commit(tmp_path / "a" / "b" / "step-1", fill, meta={"step": 1})
    manifest = durable.verify(path)
    assert (path / "big").read_bytes() == b"".join(pieces)
    assert manifest.meta == {"step": 1} and manifest.files["big"].bytes == sum(map(len, pieces))
    assert hidden(path.parent) == []


def test_equal_contents_give_equal_bytes(tmp_path):
    one = durable.commit(tmp_path / "one", fill_with(NEW), meta={"b": 1, "a": 2})
    other = durable.commit(tmp_path / "other", fill_with(NEW), meta={"a": 2, "b": 1})
    assert durable.verify(one).digest == durable.verify(other).digest


def test_meta_with_keys_of_any_kind_is_read_back_as_json(tmp_path):
    path = durable.commit(tmp_path / "c", fill_with(NEW), meta={2: "two", 10: "ten"})
    assert durable.verify(path).meta == {"2": "two", "10": "ten"}


def test_writers_loop_over_short_writes(tmp_path):
    path = durable.commit(tmp_path / "c", fill_with(OLD), files=faults.ByteByByte())
    assert contents(path) == OLD


def test_an_existing_target_is_never_touched(tmp_path):
    path = durable.commit(tmp_path / "c", fill_with(OLD))
    with pytest.raises(StoreError, match="exists already"):
        durable.commit(path, fill_with(NEW))
    assert contents(path) == OLD


def test_a_target_that_appears_meanwhile_is_never_touched(tmp_path):
    def fill(draft):
        draft.write("a", b"mine")
        durable.commit(tmp_path / "c", fill_with(OLD))

    with pytest.raises(StoreError, match="another process"):
        durable.commit(tmp_path / "c", fill)
    assert contents(tmp_path / "c") == OLD and hidden(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["../up", "a/b", "/etc/passwd", ".hidden", "", "manifest.json", "nul\0", "x" * 300, "é"]
)
def test_names_are_never_paths(tmp_path, name):
    with pytest.raises(ValueError, match="cannot name"):
        durable.commit(tmp_path / "c", fill_with({name: b""}))
    assert visible(tmp_path) == [] and hidden(tmp_path) == []


def test_names_equal_but_for_case_are_refused(tmp_path):
    with pytest.raises(ValueError, match="already"):
        durable.commit(tmp_path / "c", fill_with({"a": b"", "A": b""}))


def test_what_fill_raises_passes_through_and_leaves_nothing(tmp_path):
    def fill(draft):
        draft.write("a", b"1")
        raise FileNotFoundError("a source")

    with pytest.raises(FileNotFoundError, match="a source"):
        durable.commit(tmp_path / "c", fill)
    assert visible(tmp_path) == [] and hidden(tmp_path) == []


# --- R2: killed anywhere --------------------------------------------------------------------------------------------


def replace_step_1(parent, files):
    """The whole life of a checkpoint: the new one committed, the old one pruned."""
    durable.commit(parent / "step-2", fill_with(NEW), files=files)
    durable.prune(parent, "step-", 1, files=files)


def test_killed_at_any_step_leaves_the_old_or_the_new_and_the_next_writer_cleans_up(tmp_path):
    recording = faults.Recording()
    durable.commit(tmp_path / "plain" / "step-1", fill_with(OLD))
    replace_step_1(tmp_path / "plain", recording)
    for at, step in enumerate(recording.steps):
        for torn in (0, 1, 512) if step[0] == "append" else (0,):
            parent = tmp_path / f"{at}-{torn}"
            durable.commit(parent / "step-1", fill_with(OLD))
            with pytest.raises(faults.Killed):
                replace_step_1(parent, faults.Stopping(at, torn))
            left = durable.newest(parent, "step-")
            assert left is not None and contents(left) in (OLD, NEW)
            durable.commit(parent / "step-3", fill_with(NEW))
            assert hidden(parent) == [], "the next writer removes what the dead one left"
            shutil.rmtree(parent)


SCRIPT = """
    import sys
    sys.path.insert(0, {root!r})
    from pathlib import Path
    from camelid import durable
    new = {new!r}
    parent = Path(sys.argv[1])
    durable.commit(parent / "step-2", lambda draft: [draft.write(name, data) for name, data in new.items()])
    durable.prune(parent, "step-", 1)
"""
CALLS = ("write", "fsync", "rename", "mkdir", "unlink", "rmdir", "flock")


@pytest.fixture(scope="module")
def strace():
    """A prefix that runs a command under strace; skips where tracing is not allowed."""
    found = shutil.which("strace")
    if found is None or subprocess.run([found, "-o", os.devnull, "true"], capture_output=True).returncode:
        pytest.skip("strace is absent or not allowed here; the same kills run in the file layer")
    return found


def test_killed_at_any_system_call_leaves_the_old_or_the_new(tmp_path, strace):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT).format(root=str(ROOT), new=NEW))
    command = [sys.executable, "-I", "-S", "-B", str(script)]

    def run(name, *options):
        parent = tmp_path / name
        durable.commit(parent / "step-1", fill_with(OLD))
        log = tmp_path / f"{name}.log"
        code = subprocess.run([strace, "-f", "-o", log, *options, *command, parent], capture_output=True).returncode
        return parent, code, log.read_text()

    parent, code, log = run("plain", "-e", "trace=openat," + ",".join(CALLS))
    assert code == 0 and visible(parent) == ["step-2"]
    points = []
    for call in (*CALLS, "openat"):
        made = [line for line in log.splitlines() if f" {call}(" in line]
        numbered = [k for k, line in enumerate(made, 1) if call != "openat" or "O_CREAT" in line]
        assert numbered, f"{call} is never called: the list is out of date"
        points += [(call, k) for k in numbered]
    for call, k in points:
        parent, code, _ = run(f"{call}-{k}", "-e", f"inject={call}:signal=SIGKILL:when={k}")
        assert code == -signal.SIGKILL
        left = durable.newest(parent, "step-")
        assert left is not None and contents(left) in (OLD, NEW), (call, k)
        durable.sweep(parent)
        assert hidden(parent) == []


# --- R3: power cut --------------------------------------------------------------------------------------------------


def test_a_power_cut_leaves_the_old_or_the_new(tmp_path):
    draw = random.Random(3)
    parent = tmp_path / "run"
    recording = faults.Recording()
    durable.commit(parent / "step-1", fill_with(OLD), files=recording)
    first = len(recording.steps)
    durable.commit(parent / "step-2", fill_with(NEW), files=recording)
    second = len(recording.steps)
    durable.prune(parent, "step-", 1, files=recording)
    seen = set()
    for taken, state in faults.crash_states(recording.steps, tmp_path, draw, size(600), tmp_path):
        left = durable.newest(state / "run", "step-")
        if left is None:
            assert taken < first, "a commit that was reported is lost"
        else:
            found = contents(left)
            assert found == {"step-1": OLD, "step-2": NEW}[left.name]
            assert taken < second or left.name == "step-2"
        seen.add(None if left is None else left.name)
    assert seen == {None, "step-1", "step-2"}


@pytest.mark.parametrize("forgotten", ["fsync", "fsync_dir"])
def test_the_power_cut_model_finds_a_forgotten_sync(tmp_path, forgotten):
    class Careless(faults.Recording):
        pass

    setattr(Careless, forgotten, lambda self, path: None)
    recording = Careless()
    durable.commit(tmp_path / "run" / "step-1", fill_with(OLD), files=recording)
    states = faults.crash_states(recording.steps, tmp_path, random.Random(0), 300, tmp_path)
    taken_all = [state for taken, state in states if taken == len(recording.steps) if _is_lost(state)]
    assert taken_all, "no state betrays the missing sync"


def _is_lost(state):
    return not (state / "run").is_dir() or durable.newest(state / "run", "step-") is None


# --- R4: full disks -------------------------------------------------------------------------------------------------


def test_a_disk_full_at_any_byte_keeps_the_old_and_says_how_much_is_needed(tmp_path):
    durable.commit(tmp_path / "step-1", fill_with(OLD))
    total = sum(map(len, NEW.values()))
    rooms = {0, 1, total - 1, total, total + 100} | {random.Random(n).randrange(total) for n in range(size(40))}
    for room in rooms:
        for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            with pytest.raises(StoreError, match=r"\d+ bytes are needed and \d+ are free"):
                durable.commit(tmp_path / "step-2", fill_with(NEW), files=faults.FullDisk(room, code))
            assert visible(tmp_path) == ["step-1"] and hidden(tmp_path) == []
    assert contents(tmp_path / "step-1") == OLD


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("kind", ["fsync", "fsync_dir", "rename", "mkdir", "write"])
def test_any_failing_call_is_an_error_and_leaves_the_old_alone(tmp_path, kind, code):
    durable.commit(tmp_path / "step-1", fill_with(OLD))
    at = 0
    while True:
        try:
            durable.commit(tmp_path / f"new-{at}", fill_with(NEW), files=faults.Failing(kind, at, code))
        except StoreError:
            assert visible(tmp_path) == ["step-1"] and hidden(tmp_path) == []
            at += 1
        else:
            break
    assert at >= 1 and contents(tmp_path / "step-1") == OLD


def test_a_file_size_limit_is_a_clear_error(tmp_path):
    limit = 5000
    script = tmp_path / "script.py"
    body = textwrap.dedent(SCRIPT).format(root=str(ROOT), new=NEW)
    script.write_text(f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n{body}")
    durable.commit(tmp_path / "run" / "step-1", fill_with(OLD))
    ran = subprocess.run([sys.executable, "-I", "-S", "-B", script, tmp_path / "run"], capture_output=True, text=True)
    assert "StoreError" in ran.stderr and "bytes are needed" in ran.stderr
    assert visible(tmp_path / "run") == ["step-1"] and hidden(tmp_path / "run") == []


def test_a_disk_known_to_be_too_small_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(StoreError, match=f"{2**60} bytes are needed"):
        durable.commit(tmp_path / "c", lambda draft: pytest.fail("nothing may be written"), needed=2**60)
    assert hidden(tmp_path) == []


# --- R5: damage -----------------------------------------------------------------------------------------------------


def test_every_damaged_byte_is_found_and_placed(tmp_path):
    draw = random.Random(5)
    data = draw.randbytes(3 * durable.BLOCK + 777)
    path = durable.commit(tmp_path / "c", fill_with({"a": data, "b": b"tiny"}), meta={"n": 1})
    for _ in range(size(30)):
        at = draw.randrange(len(data))
        with open(path / "a", "r+b") as file:
            file.seek(at)
            file.write(bytes([data[at] ^ 1 << draw.randrange(8)]))
        with pytest.raises(BadFile) as caught:
            durable.verify(path)
        assert caught.value.path == path / "a"
        assert caught.value.place.startswith(f"bytes {at // durable.BLOCK * durable.BLOCK} to")
        with open(path / "a", "r+b") as file:
            file.seek(at)
            file.write(data[at : at + 1])
    durable.verify(path)


def test_every_flipped_bit_of_a_manifest_is_found(tmp_path):
    path = durable.commit(tmp_path / "c", fill_with({"a": b"1", "b": b"2"}), meta={"name": "x", "n": 1.5})
    good = (path / "manifest.json").read_bytes()
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 1 << at % 8
        (path / "manifest.json").write_bytes(bad)
        with pytest.raises(BadFile):
            durable.verify(path, contents=False)


def test_missing_short_long_swapped_and_linked_files_are_found(tmp_path):
    def fresh(name):
        return durable.commit(tmp_path / name, fill_with({"a": b"11", "b": b"22"}))

    def swap(path):
        (path / "a").rename(path / "t")
        (path / "b").rename(path / "a")
        (path / "t").rename(path / "b")

    def link(path):
        (path / "a").rename(tmp_path / "elsewhere")
        (path / "a").symlink_to(tmp_path / "elsewhere")

    damages = {
        "missing": lambda path: (path / "a").unlink(),
        "short": lambda path: (path / "a").write_bytes(b"1"),
        "long": lambda path: (path / "a").write_bytes(b"111"),
        "swapped": swap,
        "linked": link,
        "folder": lambda path: ((path / "a").unlink(), (path / "a").mkdir()),
        "manifest": lambda path: (path / "manifest.json").unlink(),
        "another's manifest": lambda path: shutil.copy(tmp_path / "other" / "manifest.json", path),
    }
    durable.commit(tmp_path / "other", fill_with(OLD))
    for name, damage in damages.items():
        path = fresh(name)
        damage(path)
        with pytest.raises(BadFile):
            durable.verify(path)


def test_the_cheap_check_sees_length_and_presence_alone(tmp_path):
    path = durable.commit(tmp_path / "c", fill_with({"a": b"11"}))
    (path / "a").write_bytes(b"12")
    durable.verify(path, contents=False)
    (path / "a").write_bytes(b"1")
    with pytest.raises(BadFile, match="1 bytes where 2 were written"):
        durable.verify(path, contents=False)


# --- newest, prune, sweep -------------------------------------------------------------------------------------------


def test_the_newest_good_commit_is_found_by_number_and_damage_is_reported(tmp_path):
    for number in (2, 10, 9):
        durable.commit(tmp_path / f"step-{number}", fill_with(OLD))
    (tmp_path / "step-10" / "state.json").write_bytes(b'{"step": 7}')
    (tmp_path / "step-11").mkdir()
    (tmp_path / "step-x").mkdir()
    damaged = []
    assert durable.newest(tmp_path, "step-", damaged=damaged.append) == tmp_path / "step-9"
    assert [error.path.parent.name for error in damaged] == ["step-11", "step-10"]
    assert durable.newest(tmp_path, "nothing-") is None and durable.newest(tmp_path / "nowhere", "step-") is None


def test_prune_deletes_only_what_is_older_than_enough_good_commits(tmp_path):
    for number in range(1, 6):
        durable.commit(tmp_path / f"step-{number}", fill_with(OLD))
    (tmp_path / "step-5" / "state.json").write_bytes(b'{"step": 7}')
    assert [path.name for path in durable.prune(tmp_path, "step-", 2)] == ["step-2", "step-1"]
    assert visible(tmp_path) == ["step-3", "step-4", "step-5"] and hidden(tmp_path) == []
    for name in ("step-3", "step-4"):
        (tmp_path / name / "state.json").write_bytes(b"")
    assert durable.prune(tmp_path, "step-", 1) == [], "nothing good is left to stay"


def test_what_a_commit_that_stays_needs_beside_it_stays_too(tmp_path):
    for step in range(9):
        durable.commit(tmp_path / f"step-{step}", fill_with(OLD))
    mark = lambda name: f"step-{int(name.removeprefix('step-')) // 4 * 4}"
    durable.prune(tmp_path, "step-", 2, beside=mark)
    assert [path.name for path in durable.commits(tmp_path, "step-")] == ["step-4", "step-7", "step-8"]


def test_a_commit_deleted_by_name_leaves_nothing(tmp_path):
    durable.delete(durable.commit(tmp_path / "step-1", fill_with(OLD)))
    assert not list(tmp_path.iterdir())


def test_a_living_writer_is_never_swept(tmp_path):
    def fill(draft):
        assert durable.sweep(tmp_path) == []
        draft.write("a", b"1")
        durable.commit(tmp_path / "inner", fill_with(OLD))

    durable.commit(tmp_path / "outer", fill)
    with durable.scratch(tmp_path / "room") as room:
        (room / "x").write_bytes(b"1")
        assert durable.sweep(tmp_path) == [] and (room / "x").exists()
    assert visible(tmp_path) == ["inner", "outer"] and hidden(tmp_path) == []


def test_of_many_writers_to_one_name_exactly_one_wins(tmp_path):
    def write(number):
        try:
            durable.commit(tmp_path / "entry", fill_with({"who": str(number).encode() * 50_000}))
        except StoreError as error:
            return str(error)
        return number

    for _ in range(10):
        with ThreadPoolExecutor(8) as pool:
            told = list(pool.map(write, range(8)))
        (winner,) = [answer for answer in told if isinstance(answer, int)]
        assert contents(tmp_path / "entry") == {"who": str(winner).encode() * 50_000}
        assert hidden(tmp_path) == []
        shutil.rmtree(tmp_path / "entry")


def test_many_writers_side_by_side_do_not_sweep_each_other(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: durable.commit(tmp_path / f"step-{n}", fill_with(OLD)), range(60)))
    assert [path.name for path in durable.commits(tmp_path, "step-")] == [f"step-{n}" for n in range(60)]
    assert hidden(tmp_path) == []


# --- locks ----------------------------------------------------------------------------------------------------------


def test_a_second_writer_is_told_who_holds_the_entry(tmp_path):
    with durable.locked(tmp_path / "entry"):
        began = time.monotonic()
        with pytest.raises(StoreError, match=f"process {os.getpid()} on .* since"), durable.locked(tmp_path / "entry"):
            pass
        assert time.monotonic() - began < 1
    with durable.locked(tmp_path / "entry"):
        pass
    assert hidden(tmp_path) == []


def test_a_lock_that_the_child_of_a_dead_process_still_holds_is_waited_for(tmp_path):
    """A process that was killed just after it forked: its child has had no time yet to close what it inherited."""
    parent = os.fork()
    if not parent:
        with durable.locked(tmp_path / "entry"):
            if not os.fork():
                select.select([], [], [], 0.3)  # the child's own time, in which it holds the lock
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(parent, 0)
    with open(tmp_path / ".entry.lock") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with durable.locked(tmp_path / "entry"):
        pass


def test_a_killed_holder_frees_the_lock(tmp_path):
    code = f"""
        import sys, time
        sys.path.insert(0, {str(ROOT)!r})
        from pathlib import Path
        from camelid import durable
        with durable.locked(Path({str(tmp_path / "entry")!r})):
            print("held", flush=True)
            time.sleep(60)
    """
    holder = subprocess.Popen([sys.executable, "-I", "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match=f"process {holder.pid}"), durable.locked(tmp_path / "entry"):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with durable.locked(tmp_path / "entry", wait=5):
        pass


# --- single files and journals --------------------------------------------------------------------------------------


def test_a_replaced_file_is_the_old_or_the_new_whatever_dies(tmp_path):
    path = durable.replace_file(tmp_path / "f", b"old")
    recording = faults.Recording()
    durable.replace_file(tmp_path / "g", b"new" * 1000, files=recording)
    for at in range(len(recording.steps)):
        path.write_bytes(b"old")
        with pytest.raises(faults.Killed):
            durable.replace_file(path, b"new" * 1000, files=faults.Stopping(at, 5))
        assert path.read_bytes() in (b"old", b"new" * 1000)
    durable.replace_file(path, b"again")
    assert hidden(tmp_path) == [], "the next writer removes what the dead one left"


def test_a_torn_journal_is_cut_to_its_last_whole_line(tmp_path):
    path = tmp_path / "journal.jsonl"
    events = [{"step": n, "loss": n / 3, "text": "née \u2028"} for n in range(5)]
    for event in events:
        durable.append_line(path, event, sync=True)
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for end in range(last, len(whole)):
        for junk in (b"", b"\0" * 7):
            path.write_bytes(whole[:end] + junk)
            torn = end - last + len(junk)
            assert durable.cut_torn(path) == torn
            assert path.read_bytes() == whole[:last]
    assert [event for _, event in durable.read_lines(path)] == events[:4]
    assert durable.cut_torn(path) == 0 and durable.cut_torn(tmp_path / "none") == 0


def test_damage_inside_a_journal_is_no_torn_end(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": \0}\n{"a": 3}\n')
    with pytest.raises(BadFile, match="line 2, offset 9"):
        durable.cut_torn(path)
    assert path.stat().st_size == 27


def test_a_line_that_does_not_fit_leaves_the_journal_as_it_was(tmp_path):
    path = tmp_path / "journal.jsonl"
    durable.append_line(path, {"a": 1})
    for room in range(8):
        with pytest.raises(StoreError, match="9 bytes are needed"):
            durable.append_line(path, {"bc": 2}, files=faults.FullDisk(room))
        assert path.read_bytes() == b'{"a":1}\n'


# --- strict JSON ----------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)  # fmt: skip


@given(VALUES, st.booleans())
@settings(max_examples=size(200), deadline=None)
def test_json_is_read_back_as_written(value, escaped):
    text = json.dumps(value, ensure_ascii=escaped).encode()
    assert durable.parse_json(text, Path("x"), max_depth=64) == value
    assert durable.parse_json(durable.json_bytes(value), Path("x"), max_depth=64) == value


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b'{"a":1}{', b"\xff", b"\xef\xbb\xbf1", b"NaN", b"-Infinity", b"[1e999]", b"1" * 5000, b"01", b"'a'",
        b'{"a":1,"a":2}', b'{"a":{"b":1,"\\u0062":2}}', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\x01"', b"[1,]", b"nul",
        b"[" * 33 + b"]" * 33, b"[" * 200_000, b'{"a":' * 200_000, b"[[" + b"]" * 40, b'"' + b'\\"' * 200_000,
        b'["\\', b"\\" * 100_000, b'"' * 100_001,
    ],
)  # fmt: skip
def test_lax_and_hostile_json_is_refused(text):
    with pytest.raises(BadFile):  # a search that is quadratic in the longest of these would take minutes
        durable.parse_json(text, Path("x"))


def test_json_may_be_as_deep_as_said_and_brackets_in_strings_do_not_count():
    assert durable.parse_json(b"[" * 32 + b"]" * 32, Path("x"))
    assert durable.parse_json(b'["' + b"[{" * 500 + b'\\"]"]', Path("x"), max_depth=1)
    with pytest.raises(BadFile, match="more than 2 deep"):
        durable.parse_json(b'{"a":[{}]}', Path("x"), max_depth=2)


def test_only_regular_files_within_bounds_are_read(tmp_path):
    (tmp_path / "large").write_bytes(b" " * 101)
    os.mkfifo(tmp_path / "pipe")
    for name in ("large", "pipe", ".", "absent", "nul\0"):
        with pytest.raises(BadFile):
            durable.read_json(tmp_path / name, max_bytes=100)


def test_memory_for_a_large_commit_stays_small(tmp_path):
    code = f"""
        import resource, sys
        sys.path.insert(0, {str(ROOT)!r})
        from pathlib import Path
        from camelid import durable
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        piece = bytes(1 << 20)
        fill = lambda draft: draft.write("big", (piece for _ in range(96)))
        durable.verify(durable.commit(Path({str(tmp_path / "c")!r}), fill))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    ran = subprocess.run(
        [sys.executable, "-I", "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(ran.stdout) * unit < 16 << 20
