"""One commit protocol for everything durable, and bounded reading of what it left.

A commit is a directory that appears by one rename, complete, or not at all:

    .NAME.TOKEN.draft/        temporary, beside the target, held by a lock of its own while its writer lives
      each file               written in a loop, then fsync
      manifest.json           length, SHA-256 and block checksums of every file, a small `meta`, its own seal; fsync
    fsync of the directory · rename to NAME · fsync of the parent

Nothing points at "the latest": `newest` finds it by verifying manifests. `prune` deletes only after the commit that
stays was read again. Every write goes through a `Files`, so that tests can record, stop and fail each step.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import socket
import stat
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from camelid.errors import BadFile, StoreError

MANIFEST = "manifest.json"
FORMAT = "camelid manifest 1"
BLOCK = 1 << 20  # bytes under one checksum: the precision with which damage is located
NAME = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]{0,199}")  # a name inside a commit: never a path, never hidden
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.(draft|pruned|part)")
ORPHANS = 10.0  # seconds that children of a dead process are given to let go of its lock
MAX_MANIFEST_BYTES = 64 << 20  # about 8 TB of content

Bytes = bytes | bytearray | memoryview


# --- the file layer -------------------------------------------------------------------------------------------------


class Files:
    """The steps by which anything durable reaches the disk. Tests replace one of them to record, stop or fail it."""

    def write(self, path: Path, data: Bytes) -> None:
        """Create a file that must not exist, holding `data`."""
        self._put(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, data)

    def append(self, path: Path, data: Bytes) -> None:
        """Add to the end of a file, created if absent."""
        self._put(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, data)

    def truncate(self, path: Path, length: int) -> None:
        """Cut a file down to its first `length` bytes."""
        os.truncate(path, length)

    def fsync(self, path: Path) -> None:
        """Force a file's bytes to the disk."""
        self._sync(path, os.O_RDONLY)

    def fsync_dir(self, path: Path) -> None:
        """Force a directory's names to the disk."""
        self._sync(path, os.O_RDONLY | os.O_DIRECTORY)

    def rename(self, a: Path, b: Path) -> None:
        os.rename(a, b)

    def remove(self, path: Path) -> None:
        """Remove a file, or an empty directory."""
        if path.is_dir() and not path.is_symlink():
            os.rmdir(path)
        else:
            os.unlink(path)

    def mkdir(self, path: Path) -> None:
        os.mkdir(path)

    def push(self, descriptor: int, data: memoryview) -> int:
        """One system call; may take fewer bytes than given."""
        return os.write(descriptor, data)

    def _put(self, path: Path, flags: int, data: Bytes) -> None:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o666)
        try:
            rest = memoryview(data).cast("B")
            while len(rest):
                taken = self.push(descriptor, rest)
                if taken <= 0:
                    raise OSError(errno.EIO, "the system took no bytes", str(path))
                rest = rest[taken:]
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            raise
        os.close(descriptor)  # may report a late write error

    @staticmethod
    def _sync(path: Path, flags: int) -> None:
        descriptor = os.open(path, flags | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


FILES = Files()


# --- commits --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """What the manifest says of one file; `blocks` is the CRC-32 of each mebibyte, eight hex digits after another."""

    bytes: int
    sha256: str
    blocks: str = field(repr=False)


@dataclass(frozen=True)
class Manifest:
    """A commit's files by name, its writer's `meta`, and `digest`: the SHA-256 by which the commit is known."""

    files: Mapping[str, Entry]
    meta: Mapping[str, Any]
    digest: str


class _Sums:
    """Length, SHA-256 and block checksums of bytes as they pass."""

    def __init__(self) -> None:
        self.length, self.sha, self.blocks, self.crc = 0, hashlib.sha256(), [], 0  # type: int, Any, list[int], int

    def add(self, data: memoryview) -> None:
        self.sha.update(data)
        while len(data):
            part = data[: BLOCK - self.length % BLOCK]
            self.crc = zlib.crc32(part, self.crc)
            self.length += len(part)
            if self.length % BLOCK == 0:
                self.blocks.append(self.crc)
                self.crc = 0
            data = data[len(part) :]

    def entry(self) -> Entry:
        blocks = [*self.blocks, self.crc] if self.length % BLOCK else self.blocks
        return Entry(self.length, self.sha.hexdigest(), "".join(f"{crc:08x}" for crc in blocks))


class Draft:
    """A commit being written: `write` each file once; nothing is visible before `commit` returns."""

    def __init__(self, path: Path, target: Path, expected: int, files: Files) -> None:
        self.path, self.target, self.expected, self.files = path, target, expected, files
        self.entries: dict[str, Entry] = {}
        self.needed = 0  # bytes that it took so far, with those that were to follow

    def write(self, name: str, data: Bytes | Iterable[Bytes]) -> Entry:
        """Write one file, in pieces if `data` is an iterable of them, and force it to the disk.

        Raises ValueError for a name that is a path, hidden, taken, or equal to another but for case.
        """
        if not NAME.fullmatch(name) or name == MANIFEST:
            raise ValueError(f"{name!r} cannot name a file in a commit")
        if name.casefold() in {known.casefold() for known in self.entries}:
            raise ValueError(f"{name!r} was written already")
        self.entries[name] = self._stream(name, [data] if isinstance(data, Bytes) else data)
        return self.entries[name]

    def adopt(self, name: str, entry: Entry) -> None:
        """Takes over a file that another process wrote into this draft, through a Draft of its own, and synced."""
        if name in self.entries or not (self.path / name).is_file():
            raise ValueError(f"{name!r} was written already, or is not there")
        self.entries[name] = entry
        self.needed += entry.bytes

    def _stream(self, name: str, pieces: Iterable[Bytes]) -> Entry:
        path, sums = self.path / name, _Sums()
        with self.stored():
            self.files.write(path, b"")
        for piece in _gathered(pieces):
            self.needed += len(piece)
            sums.add(piece)
            with self.stored():
                self.files.append(path, piece)
        with self.stored():
            self.files.fsync(path)
        return sums.entry()

    def stored(self) -> AbstractContextManager[None]:
        """Turns a failure of the disk, and of nothing else that `fill` may do, into a StoreError."""
        return _translated(self.target, lambda: max(self.needed, self.expected))


def _gathered(pieces: Iterable[Bytes]) -> Iterator[memoryview]:
    """The same bytes with small pieces joined to at least a block, so that no piece costs a system call of its own."""
    small = bytearray()
    for piece in pieces:
        view = memoryview(piece).cast("B")
        if len(small) + len(view) < BLOCK:
            small += view
            continue
        if small:
            yield memoryview(bytes(small))
            small = bytearray()
        yield view
    if small:
        yield memoryview(bytes(small))


def commit(
    target: Path,
    fill: Callable[[Draft], None],
    *,
    meta: Mapping[str, Any] | None = None,
    needed: int = 0,
    files: Files = FILES,
) -> Path:
    """`target`, now a directory with the files that `fill` wrote to its draft: complete and on the disk, or not there.

    meta    a few JSON values to keep in the manifest
    needed  bytes that `fill` will write, if known: a disk too full is then refused before anything is written

    Raises StoreError if the target exists, the disk is full or fails; whatever `fill` raises passes through. In each
    case the draft is removed and nothing else has changed. Drafts that killed processes left beside it are removed too.
    """
    target = Path(os.path.abspath(target))
    if os.path.lexists(target):
        raise StoreError(f"{target}: exists already; choose another name or remove it first")
    with _translated(target, lambda: needed):
        _make_parents(target.parent, files)
        sweep(target.parent, files=files)
        _refuse_if_full(target, needed)
        path, held = _claim(target, "draft", files.mkdir)
    draft = Draft(path, target, needed, files)
    try:
        fill(draft)
        with draft.stored():
            _seal(draft, meta or {})
            files.fsync_dir(path)
            _publish(path, target, files)
    except BaseException:
        with contextlib.suppress(OSError):
            _discard(path, files)
        raise
    finally:
        os.close(held)
    return target


@contextlib.contextmanager
def scratch(beside: Path, *, needed: int = 0, files: Files = FILES) -> Iterator[Path]:
    """A temporary directory on the disk of `beside`, gone at the end; if the process is killed, swept like a draft.

    Raises StoreError if fewer than `needed` bytes are free.
    """
    beside = Path(os.path.abspath(beside))
    with _translated(beside, lambda: needed):
        _make_parents(beside.parent, files)
        sweep(beside.parent, files=files)
        _refuse_if_full(beside, needed)
        path, held = _claim(beside, "draft", files.mkdir)
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            _discard(path, files)
        os.close(held)


def _publish(path: Path, target: Path, files: Files) -> None:
    if os.path.lexists(target):  # the rename itself would also fail: it replaces no directory that holds files
        raise StoreError(f"{target}: another process committed it meanwhile; nothing of it was touched")
    files.rename(path, target)
    try:
        files.fsync_dir(target.parent)
    except BaseException:
        with contextlib.suppress(OSError):  # not known to last: take it back, so that failure always means absence
            files.rename(target, path)
        raise


def _seal(draft: Draft, meta: Mapping[str, Any]) -> None:
    content: dict[str, Any] = {
        "format": FORMAT,
        "files": {
            name: {"bytes": e.bytes, "sha256": e.sha256, "blocks": e.blocks} for name, e in draft.entries.items()
        },
        "meta": dict(meta),
    }
    content = json.loads(json_bytes(content))  # as it will be read, whatever mappings and keys `meta` is made of
    sealed = json_bytes({**content, "seal": _digest(content)})
    if len(sealed) > MAX_MANIFEST_BYTES:
        raise ValueError(f"a manifest of {len(sealed)} bytes is over the limit of {MAX_MANIFEST_BYTES}")
    draft.needed += len(sealed)
    draft.files.write(draft.path / MANIFEST, sealed)
    draft.files.fsync(draft.path / MANIFEST)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json_bytes(content)).hexdigest()


def json_bytes(value: object) -> bytes:
    """The one text of a JSON value: keys sorted, two spaces, UTF-8, a final newline. Raises ValueError for NaN."""
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8") + b"\n"


# --- verifying ------------------------------------------------------------------------------------------------------


def verify(directory: Path, *, contents: bool = True) -> Manifest:
    """The manifest of a commit whose every byte was read again and found as it was written.

    With `contents=False` only the manifest's own seal and each file's presence and length are checked: cheap, and blind
    to changed bytes. Files that the manifest does not name are ignored; readers must take none but those it names.

    Raises BadFile naming the first file that differs, and where.
    """
    manifest = _read_manifest(Path(directory))
    for name, entry in manifest.files.items():
        path = Path(directory) / name
        with _opened(path, "listed in manifest.json", follow=False) as descriptor:
            length = os.fstat(descriptor).st_size
            if length != entry.bytes:
                raise BadFile(
                    path,
                    f"offset {min(length, entry.bytes)}",
                    f"{length} bytes where {entry.bytes} were written",
                    "the file is damaged: fall back to another checkpoint or copy it again",
                )
            if contents:
                _verify_contents(path, descriptor, entry)
    return manifest


def _verify_contents(path: Path, descriptor: int, entry: Entry) -> None:
    sha = hashlib.sha256()
    for piece in _pieces(path, descriptor, entry.bytes):
        sha.update(piece)
    if sha.hexdigest() == entry.sha256:
        return
    sums = _Sums()
    for piece in _pieces(path, descriptor, entry.bytes):
        sums.add(piece)
    blocks = zip(range(0, entry.bytes, BLOCK), _eights(sums.entry().blocks), _eights(entry.blocks), strict=False)
    offset = next((start for start, mine, theirs in blocks if mine != theirs), 0)
    raise BadFile(
        path,
        f"bytes {offset} to {min(offset + BLOCK, entry.bytes)}",
        "not the bytes that were written: the checksum differs",
        "the file is damaged: fall back to another checkpoint or copy it again",
    )


def _pieces(path: Path, descriptor: int, length: int) -> Iterator[memoryview]:
    """The first `length` bytes of an open file, a block at a time; fewer if the file ends."""
    at = 0
    while at < length:
        try:
            piece = os.pread(descriptor, min(BLOCK, length - at), at)
        except OSError as error:
            raise BadFile(path, f"offset {at}", f"cannot be read: {error.strerror}") from error
        if not piece:
            return
        at += len(piece)
        yield memoryview(piece)


def _eights(text: str) -> list[str]:
    return [text[i : i + 8] for i in range(0, len(text), 8)]


def _read_manifest(directory: Path) -> Manifest:
    path = directory / MANIFEST
    if not os.path.lexists(path):
        raise BadFile(path, "", "is missing", "this directory is no commit, or a part of one")
    raw = read_bytes(path, max_bytes=MAX_MANIFEST_BYTES, follow=False)
    content = parse_json(raw, path, max_depth=16)
    bad = BadFile(path, "", "is not a manifest as it was written", "fall back to another checkpoint or copy it again")
    if not isinstance(content, dict) or set(content) != {"format", "files", "meta", "seal"}:
        raise bad
    if content["format"] != FORMAT:
        raise BadFile(path, "format", f"{content['format']!r:.80} is not {FORMAT!r}", "read it with what wrote it")
    seal = content.pop("seal")
    if seal != _digest(content) or raw != json_bytes({**content, "seal": seal}):
        raise bad
    files, meta = content["files"], content["meta"]
    if not isinstance(files, dict) or not isinstance(meta, dict):
        raise bad
    return Manifest({name: _read_entry(name, entry, bad) for name, entry in files.items()}, meta, seal)


def _read_entry(name: str, entry: object, bad: BadFile) -> Entry:
    if not NAME.fullmatch(name) or name == MANIFEST or not isinstance(entry, dict):
        raise bad
    if set(entry) != {"bytes", "sha256", "blocks"} or type(entry["bytes"]) is not int or entry["bytes"] < 0:
        raise bad
    if not isinstance(entry["sha256"], str) or not isinstance(entry["blocks"], str):
        raise bad
    return Entry(entry["bytes"], entry["sha256"], entry["blocks"])


# --- finding and pruning --------------------------------------------------------------------------------------------


def commits(parent: Path, prefix: str) -> list[Path]:
    """The directories called `prefix` + digits, in the order of their numbers; not yet verified."""
    if not Path(parent).is_dir():
        return []
    numbered = re.compile(re.escape(prefix) + r"(\d{1,18})")
    found = [(match, path) for path in Path(parent).iterdir() if (match := numbered.fullmatch(path.name))]
    return [path for match, path in sorted(found, key=lambda m: (int(m[0][1]), m[1].name)) if path.is_dir()]


def newest(parent: Path, prefix: str, *, damaged: Callable[[BadFile], None] | None = None) -> Path | None:
    """The commit with the highest number of which every byte is as written; None if there is none.

    `damaged` is told of each one that had to be passed over.
    """
    for path in reversed(commits(parent, prefix)):
        try:
            verify(path)
        except BadFile as error:
            if damaged is not None:
                damaged(error)
        else:
            return path
    return None


def prune(
    parent: Path, prefix: str, keep: int, *, beside: Callable[[str], str] | None = None, files: Files = FILES
) -> list[Path]:
    """What was deleted: the commits older than the `keep` newest good ones.

    beside  names, for a commit that stays, an older one that is to stay with it

    The newest good one is read again in full first; the others that stay are checked for presence and length. Where
    fewer than `keep` are good, nothing is deleted. Damaged commits newer than the oldest that stays are left alone.
    """
    if keep < 1:
        raise ValueError(f"keep={keep}: at least one commit must stay")
    kept = 0
    removed, needed = [], set[str]()
    with _translated(Path(parent), lambda: 0):
        for path in reversed(commits(parent, prefix)):
            if kept < keep:
                with contextlib.suppress(BadFile):
                    verify(path, contents=kept == 0)
                    kept += 1
                    needed.add(path.name if beside is None else beside(path.name))
            elif path.name not in needed:
                with contextlib.suppress(BlockingIOError, FileNotFoundError):  # another process is deleting it
                    _delete(path, files)
                    removed.append(path)
    return removed


def delete(path: Path, *, files: Files = FILES) -> None:
    """Takes a commit away, whole or not at all: killed meanwhile, the next writer beside it removes what is left."""
    with _translated(path, lambda: 0):
        _delete(path, files)


def _delete(path: Path, files: Files) -> None:
    """Take a commit out of sight by one rename, then remove it piece by piece."""
    hidden = path.parent / f".{path.name[:40]}.{secrets.token_hex(8)}.pruned"
    held = _flock(path, needed=False)
    try:
        files.rename(path, hidden)
        files.fsync_dir(path.parent)
        _discard(hidden, files)
    finally:
        os.close(held)


def sweep(parent: Path, *, files: Files = FILES) -> list[Path]:
    """What was removed: drafts and half-deleted commits in `parent` whose writers are dead.

    A living writer holds a lock on its draft, which the kernel drops when it dies; only what can be locked is removed.
    """
    removed = []
    for path in sorted(Path(parent).iterdir()) if Path(parent).is_dir() else ():
        if not TEMPORARY.fullmatch(path.name) or path.is_symlink():
            continue
        try:
            held = _flock(path)
        except OSError:
            continue
        try:
            with contextlib.suppress(FileNotFoundError):  # its writer finished, or another sweeper was faster
                _discard(path, files)
                removed.append(path)
        finally:
            os.close(held)
    return removed


def _discard(path: Path, files: Files) -> None:
    if path.is_dir() and not path.is_symlink():
        for inner in sorted(path.iterdir()):
            _discard(inner, files)
    files.remove(path)


def _claim(target: Path, kind: str, make: Callable[[Path], None]) -> tuple[Path, int]:
    """A new temporary file or directory beside `target`, and the descriptor whose lock says that its writer lives."""
    while True:
        path = target.parent / f".{target.name[:40]}.{secrets.token_hex(8)}.{kind}"
        make(path)
        try:
            held = _flock(path, needed=False)
        except (FileNotFoundError, BlockingIOError):
            continue  # a sweeper came between and owns that one now
        if path.exists():
            return path, held
        os.close(held)


def _flock(path: Path, *, needed: bool = True) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Where directories cannot be locked (some network disks) nobody can, so nobody sweeps what is unlocked.
        if needed or isinstance(error, BlockingIOError):
            os.close(descriptor)
            raise
    return descriptor


# --- one writer at a time -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(path: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Hold the only right to write to `path`, which need not exist yet.

    wait  seconds to wait for another writer before giving up

    Raises StoreError that says who holds it: process, host, since when. The kernel frees it when its holder dies, and
    the holder's children with it: those are waited for.
    """
    path = Path(os.path.abspath(path))
    lock = path.parent / f".{path.name}.lock"
    deadline = time.monotonic() + wait
    with _translated(lock, lambda: 0):
        _make_parents(path.parent, FILES)
    while True:
        with _translated(lock, lambda: 0):
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            _acquire(descriptor, path, deadline)
            if _is_at(descriptor, lock):  # otherwise its holder removed it while we waited
                try:
                    yield
                finally:
                    with contextlib.suppress(OSError):
                        os.unlink(lock)
                return
        finally:
            os.close(descriptor)


def holder(path: Path) -> str:
    """Who holds the right to write to `path`, by the note in its lock; "" where nobody does.

    For people: it asks no lock, so it disturbs nobody. A note left by a process that died here counts as nobody.
    """
    path = Path(os.path.abspath(path))
    try:
        note = (path.parent / f".{path.name}.lock").read_text(encoding="utf-8", errors="replace")[:200].strip()
    except OSError:
        return ""
    return "" if _is_dead(note) else note


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _acquire(descriptor: int, path: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "another process"
            if time.monotonic() >= deadline + (ORPHANS if _is_dead(holder) else 0):
                raise StoreError(f"{path}: in use by {holder}; wait for it to end, or stop it") from None
            time.sleep(0.01)
        except OSError as error:
            raise StoreError(f"{path}: cannot be locked here ({error.strerror}); use a local disk") from error
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    note = f"process {os.getpid()} on {socket.gethostname()} since {since}\n"
    with contextlib.suppress(OSError):  # the note is for people; the lock itself is the kernel's
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, note.encode(), 0)


def _is_dead(holder: str) -> bool:
    """Whether the process of a lock's note ran here and is gone: a child it had just forked holds the lock still."""
    words = holder.split()
    if len(words) < 4 or not words[1].isdigit() or words[3] != socket.gethostname():
        return False
    try:
        os.kill(int(words[1]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


# --- single files and lines -----------------------------------------------------------------------------------------


def replace_file(path: Path, data: Bytes | Iterable[Bytes], *, files: Files = FILES) -> Path:
    """`path`, now holding `data`: the old bytes or the new ones at every moment, and readers of the old keep them.

    Raises StoreError, which says whether the old or the new bytes are there.
    """
    path = Path(os.path.abspath(path))
    needed: list[int] = []
    with _translated(path, lambda: 0):
        _make_parents(path.parent, files)
        sweep(path.parent, files=files)
        part, held = _claim(path, "part", lambda new: files.write(new, b""))
    try:
        for piece in _gathered([data] if isinstance(data, Bytes) else data):
            needed.append(len(piece))
            with _translated(path, lambda: sum(needed)):
                files.append(part, piece)
        with _translated(path, lambda: sum(needed)):
            files.fsync(part)
            files.rename(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            files.remove(part)
        raise
    finally:
        os.close(held)
    try:
        files.fsync_dir(path.parent)
    except OSError as error:
        why = f"{error.strerror or error}"
        raise StoreError(f"{path}: holds what was written, but the disk does not confirm its name ({why})") from error
    return path


def append_line(path: Path, event: object, *, sync: bool = False, files: Files = FILES) -> None:
    """Add one JSON value as one line to a journal; with `sync` it is on the disk on return.

    Raises StoreError if it did not fit, with the journal as it was before.
    """
    line = json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8") + b"\n"
    path = Path(path)
    with _translated(path, lambda: len(line)):
        before = path.stat().st_size if path.exists() else None
        try:
            files.append(path, line)
            if sync:
                files.fsync(path)
                if before is None:
                    files.fsync_dir(path.parent)
        except OSError:
            with contextlib.suppress(OSError):
                if before is not None or path.exists():
                    files.truncate(path, before or 0)
            raise


def read_lines(path: Path, *, max_line: int = 1 << 20) -> Iterator[tuple[int, object]]:
    """Each value of a journal with the offset at which its line ends. Raises BadFile at a line that is none."""
    path = Path(path)
    with _opened(path, "a journal") as descriptor, os.fdopen(os.dup(descriptor), "rb") as file:
        offset = number = 0
        while line := file.readline(max_line + 1):
            number += 1
            where = f"line {number}, offset {offset}"
            if not line.endswith(b"\n"):
                raise BadFile(path, where, "a line without an end", "cut it off, or resume the run, which does")
            value = parse_json(line, path, where, max_depth=32)
            offset += len(line)
            yield offset, value


def cut_torn(path: Path, *, max_line: int = 1 << 20, files: Files = FILES) -> int:
    """How many bytes were cut from a journal's end because its last line had been torn; 0 if none or no journal.

    Raises BadFile if a line is bad although good ones follow: that is damage, and no torn end.
    """
    path = Path(path)
    if not path.exists():
        return 0
    good = 0
    try:
        for good, _ in read_lines(path, max_line=max_line):  # noqa: B007 - the last good end is what is wanted
            pass
    except BadFile as damage:
        with open(path, "rb") as file:
            file.seek(good)
            torn = file.read()
        if any(_is_line(line, path) for line in torn.split(b"\n")[1:]):
            raise damage
        with _translated(path, lambda: 0):
            files.truncate(path, good)
            files.fsync(path)
        return len(torn)
    return 0


def _is_line(line: bytes, path: Path) -> bool:
    try:
        return isinstance(parse_json(line, path, max_depth=32), dict)
    except BadFile:
        return False


# --- bounded, strict reading ----------------------------------------------------------------------------------------


def read_bytes(path: Path, *, max_bytes: int, follow: bool = True) -> bytes:
    """All bytes of a regular file no larger than `max_bytes`. Raises BadFile for any other."""
    with _opened(Path(path), "", follow=follow) as descriptor:
        length = os.fstat(descriptor).st_size
        if length > max_bytes:
            raise BadFile(path, "", f"{length} bytes, over the limit of {max_bytes}", "this cannot be the right file")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            try:
                data = file.read(length + 1)  # room is made for as much as is asked for, so never for the limit
            except OSError as error:
                raise BadFile(path, "", f"cannot be read: {error.strerror}") from error
    if len(data) > length:
        raise BadFile(path, "", f"grew past its {length} bytes while being read", "read it once it is complete")
    return data


@contextlib.contextmanager
def _opened(path: Path, role: str, *, follow: bool = True) -> Iterator[int]:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise BadFile(path, role, "is missing", "check the path; if it was copied, copy it again whole") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BadFile(path, role, f"cannot be opened: {reason}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BadFile(path, role, "is not a regular file")
        yield descriptor
    finally:
        os.close(descriptor)


def read_json(path: Path, *, max_bytes: int = 16 << 20, max_depth: int = 32) -> object:
    """The JSON value in a file. Raises BadFile for anything larger, deeper or laxer: see `parse_json`."""
    return parse_json(read_bytes(path, max_bytes=max_bytes), Path(path), max_depth=max_depth)


# A string, or what is left of one at the end of the data; possessive, so that no input makes it backtrack.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_EDITED = "see whether it was cut or edited"
_LEVELS = bytes.maketrans(b"{}", b"[]")
_REST = bytes(set(range(256)) - set(b"[]{}"))


def outside_strings(data: bytes) -> bytes:
    """What stands outside the strings of a JSON text; linear in its length, whatever the text."""
    return _STRING.sub(b"", data)


def parse_json(data: bytes, path: Path, place: str = "", *, max_depth: int = 32) -> Any:
    """The JSON value that the bytes spell: UTF-8, no key twice, no NaN or infinity, no lone surrogate, bounded depth.

    Raises BadFile naming `path` and `place`.
    """
    brackets = outside_strings(data).translate(_LEVELS, _REST)
    for _ in range(max_depth):
        brackets = brackets.replace(b"[]", b"")  # takes away exactly the innermost level
    if brackets:
        raise BadFile(path, place, f"brackets do not match, or are nested more than {max_depth} deep", _EDITED)
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
        )
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # a lone surrogate fails here
    except (ValueError, RecursionError) as error:
        raise BadFile(path, place, f"is not strict JSON: {error}", _EDITED) from error
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:80]!r} appears twice")
    return values


def _no_constant(word: str) -> object:
    raise ValueError(f"{word} is no JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:40]} is too large a number")
    return value


# --- failures of the disk -------------------------------------------------------------------------------------------

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def _refuse_if_full(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise StoreError(_full(target, needed, free))


def _full(target: Path, needed: int, free: int) -> str:
    return f"{target}: {needed} bytes are needed and {free} are free; make room or choose another disk"


@contextlib.contextmanager
def _translated(target: Path, needed: Callable[[], int]) -> Iterator[None]:
    """Turn the system's refusals into StoreError, with what was needed and what is free where the disk is full."""
    try:
        yield
    except OSError as error:
        try:
            free = shutil.disk_usage(target.parent if target.parent.exists() else "/").free
        except OSError:
            free = 0
        if error.errno in _FULL:
            limit = " (a quota or file size limit may be lower)" if free > needed() else ""
            message = _full(target, needed(), free) + limit
        else:
            message = f"{target}: cannot be written ({error.strerror or error}); what was there before is untouched"
        raise StoreError(message) from error


def _make_parents(parent: Path, files: Files) -> None:
    """Create the directories that lead to a target, each forced to the disk before anything is put into it."""
    missing = []
    while not parent.exists():
        missing.append(parent)
        parent = parent.parent
    for path in reversed(missing):
        with contextlib.suppress(FileExistsError):
            files.mkdir(path)
        files.fsync_dir(path.parent)
