"""File layers that record, stop, fail and forget: what a dying process, a full disk and a power cut leave behind.

Production code writes through `camelid.durable.Files`; tests give it one of these instead, so that they touch the real
path. `crash_states` is the power-loss model: of all that was not forced to the disk, any part may be missing.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator
from pathlib import Path

from camelid.durable import Files


class Killed(BaseException):
    """The process is dead: nothing it might still do has an effect."""


class Recording(Files):
    """Does everything, and remembers each step in order."""

    def __init__(self) -> None:
        self.steps: list[tuple] = []

    def write(self, path, data):
        super().write(path, data)
        self.steps.append(("write", Path(path), bytes(data)))

    def append(self, path, data):
        super().append(path, data)
        self.steps.append(("append", Path(path), bytes(data)))

    def truncate(self, path, length):
        super().truncate(path, length)
        self.steps.append(("truncate", Path(path), length))

    def fsync(self, path):
        super().fsync(path)
        self.steps.append(("fsync", Path(path)))

    def fsync_dir(self, path):
        super().fsync_dir(path)
        self.steps.append(("fsync_dir", Path(path)))

    def rename(self, a, b):
        super().rename(a, b)
        self.steps.append(("rename", Path(a), Path(b)))

    def remove(self, path):
        super().remove(path)
        self.steps.append(("remove", Path(path)))

    def mkdir(self, path):
        super().mkdir(path)
        self.steps.append(("mkdir", Path(path)))


class Stopping(Files):
    """Dies at step number `at` (from 0); a write that it dies in has put only its first `torn` bytes."""

    def __init__(self, at: int, torn: int = 0) -> None:
        self.at, self.torn, self.done = at, torn, 0

    def _step(self) -> bool:
        """Whether this is the step to die in."""
        if self.done > self.at:
            raise Killed
        self.done += 1
        return self.done > self.at

    def write(self, path, data):
        if self._step():
            super().write(path, bytes(data)[: self.torn])
            raise Killed
        super().write(path, data)

    def append(self, path, data):
        if self._step():
            super().append(path, bytes(data)[: self.torn])
            raise Killed
        super().append(path, data)

    def truncate(self, path, length):
        if self._step():
            raise Killed
        super().truncate(path, length)

    def fsync(self, path):
        if self._step():
            raise Killed
        super().fsync(path)

    def fsync_dir(self, path):
        if self._step():
            raise Killed
        super().fsync_dir(path)

    def rename(self, a, b):
        if self._step():
            raise Killed
        super().rename(a, b)

    def remove(self, path):
        if self._step():
            raise Killed
        super().remove(path)

    def mkdir(self, path):
        if self._step():
            raise Killed
        super().mkdir(path)


class FullDisk(Files):
    """A disk with room for `room` more bytes; a call that does not fit is cut short first, as the kernel does."""

    def __init__(self, room: int, code: int = errno.ENOSPC) -> None:
        self.room, self.code = room, code

    def push(self, descriptor, data):
        fitting = min(self.room, len(data))
        if fitting == 0:
            raise OSError(self.code, "injected")
        self.room -= fitting
        return super().push(descriptor, data[:fitting])


class Failing(Files):
    """Fails the `at`-th call (from 0) of one kind with an error number, and then works again."""

    def __init__(self, kind: str, at: int, code: int) -> None:
        self.kind, self.at, self.code, self.count = kind, at, code, 0

    def _maybe(self, kind: str) -> None:
        if kind == self.kind:
            self.count += 1
            if self.count - 1 == self.at:
                raise OSError(self.code, "injected")

    def fsync(self, path):
        self._maybe("fsync")
        super().fsync(path)

    def fsync_dir(self, path):
        self._maybe("fsync_dir")
        super().fsync_dir(path)

    def rename(self, a, b):
        self._maybe("rename")
        super().rename(a, b)

    def mkdir(self, path):
        self._maybe("mkdir")
        super().mkdir(path)

    def write(self, path, data):
        self._maybe("write")
        super().write(path, data)


class ByteByByte(Files):
    """Every system call takes at most three bytes: writers must loop."""

    def push(self, descriptor, data):
        return super().push(descriptor, data[:3])


# --- power loss -----------------------------------------------------------------------------------------------------


class _File:
    def __init__(self) -> None:
        self.safe, self.loose = b"", []  # on the disk; written since


class _Folder:
    def __init__(self) -> None:
        self.now: dict[str, object] = {}  # as the running system sees it
        self.safe: dict[str, object] = {}  # as it was when last forced to the disk
        self.loose: list[tuple] = []  # changes since


class Disk:
    """What the disk may hold after a power cut, told from the recorded steps.

    A file keeps what was there at its last fsync; of each later write nothing, a torn part, zeros in its place, or all
    of it. A directory keeps its names at the last fsync_dir; of later changes any subset, in order. A rename is whole.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.top = root, _Folder()

    def _at(self, path: Path) -> tuple[_Folder, str]:
        folder = self.top
        *parents, name = path.relative_to(self.root).parts
        for part in parents:
            folder = folder.now[part]
        return folder, name

    def _node(self, path: Path):
        if path == self.root:
            return self.top
        folder, name = self._at(path)
        return folder.now[name]

    def _put(self, path: Path, node: object) -> None:
        folder, name = self._at(path)
        folder.now[name] = node
        folder.loose.append(("put", name, node))

    def step(self, kind: str, path: Path, *rest) -> None:
        if kind == "mkdir":
            self._put(path, _Folder())
        elif kind == "write":
            self._put(path, _File())
            self._node(path).loose.append(rest[0])
        elif kind == "append":
            folder, name = self._at(path)
            if name not in folder.now:
                self._put(path, _File())
            self._node(path).loose.append(rest[0])
        elif kind == "truncate":
            node = self._node(path)
            node.safe, node.loose = (node.safe + b"".join(node.loose))[: rest[0]], []
        elif kind == "fsync":
            node = self._node(path)
            node.safe, node.loose = node.safe + b"".join(node.loose), []
        elif kind == "fsync_dir":
            node = self._node(path)
            node.safe, node.loose = dict(node.now), []
        elif kind == "rename":
            (folder, old), (other, new) = self._at(path), self._at(rest[0])
            assert folder is other, "the protocol renames within one directory"
            node = folder.now.pop(old)
            folder.now[new] = node
            folder.loose.append(("rename", old, new, node))
        elif kind == "remove":
            folder, name = self._at(path)
            del folder.now[name]
            folder.loose.append(("del", name))

    def after_power_cut(self, draw: random.Random, target: Path) -> None:
        """Write one of the possible states to `target`."""
        self._write(self.top, draw, target)

    def _write(self, folder: _Folder, draw: random.Random, target: Path) -> None:
        target.mkdir()
        names = dict(folder.safe)
        keep = draw.choice((0.0, 0.5, 0.9, 1.0))
        for change in folder.loose:
            if draw.random() >= keep:
                continue
            if change[0] == "put":
                names[change[1]] = change[2]
            elif change[0] == "del":
                names.pop(change[1], None)
            else:
                names.pop(change[1], None)
                names[change[2]] = change[3]
        for name, node in names.items():
            if isinstance(node, _Folder):
                self._write(node, draw, target / name)
            else:
                (target / name).write_bytes(_content(node, draw))


def _content(file: _File, draw: random.Random) -> bytes:
    content = file.safe
    for piece in file.loose:
        fate = draw.choice(("all", "all", "none", "torn", "zeros"))
        if fate == "none":
            break
        if fate == "torn":
            grain = draw.choice((1, 512, 4096))
            return content + piece[: draw.randrange(len(piece) // grain + 1) * grain]
        content += bytes(len(piece)) if fate == "zeros" else piece
    return content


def crash_states(steps: list[tuple], root: Path, draw: random.Random, count: int, work: Path) -> Iterator[tuple]:
    """(steps that had been taken, directory holding one possible state) `count` times; the directory is reused."""
    import shutil

    for _ in range(count):
        taken = draw.randrange(len(steps) + 1)
        disk = Disk(root)
        for step in steps[:taken]:
            disk.step(*step)
        state = work / "state"
        disk.after_power_cut(draw, state)
        yield taken, state
        shutil.rmtree(state)
