"""Hostile .pth files: every published way to make an unpickler run code, in every wrapping we know of.

`corpus(canary, n, seed)` yields (what it tries, the file's bytes). Each would create the canary file if any of it ran.
"""

from __future__ import annotations

import io
import pickle
import random
import struct
import tarfile
import zipfile
from collections.abc import Iterator

# module:name, as a stream would speak them
_SPOKEN = """
    os:system posix:system nt:system subprocess:Popen subprocess:check_output builtins:eval builtins:exec
    builtins:compile builtins:open builtins:__import__ builtins:getattr builtins:apply __builtin__:eval
    importlib:import_module runpy:run_path pty:spawn socket:create_connection urllib.request:urlopen webbrowser:open
    shutil:rmtree pickle:loads _pickle:loads torch:load torch.serialization:load torch.hub:load torch.jit:load
    torch._utils:_rebuild_tensor torch._utils:_rebuild_parameter torch._utils:_rebuild_device_tensor_from_numpy
    torch._tensor:_rebuild_from_type_v2 torch._utils:_rebuild_tensor_v2.__globals__ torch.storage:_load_from_bytes
    torch:FloatStorage.from_file torch:os.system collections:OrderedDict.__init__ collections:namedtuple
    collections:_sys.modules numpy.testing._private.utils:runstring timeit:timeit cProfile:run code:interact
    operator:attrgetter functools:partial copyreg:_reconstructor types:FunctionType asyncio:run
    multiprocessing.util:spawnv_passfds bdb:Bdb.run ctypes:CDLL sys:exit
"""
CALLS = [tuple(spoken.split(":")) for spoken in _SPOKEN.split()]


def _text(text: str) -> bytes:
    raw = text.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _short(text: str) -> bytes:
    raw = text.encode()
    return b"\x8c" + bytes([len(raw)]) + raw


class _Reduced:
    """What pickle writes for an object whose __reduce__ names a call."""

    def __init__(self, call, arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def streams(canary: str, module: str, name: str) -> dict[str, bytes]:
    """Pickle streams that would call module.name, in every way the opcodes allow."""
    command = f"touch {canary}"
    said = _text(command)
    named = f"c{module}\n{name}\n".encode()
    stacked = _short(module) + _short(name) + b"\x93"
    table = b"\x80\x02}q\x00" + _text("w")
    return {
        "REDUCE": b"\x80\x02" + named + said + b"\x85R.",
        "REDUCE in a table": table + named + said + b"\x85Rs.",
        "REDUCE as a key": b"\x80\x02}" + named + said + b"\x85RNs.",
        "STACK_GLOBAL": b"\x80\x04\x95" + struct.pack("<Q", 9) + stacked + said + b"\x85R.",
        "STACK_GLOBAL in protocol 2": table + stacked + said + b"\x85Rs.",
        "INST": b"\x80\x02(" + said + f"i{module}\n{name}\n.".encode(),
        "OBJ": b"\x80\x02(" + named + said + b"o.",
        "NEWOBJ": b"\x80\x02" + named + said + b"\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04" + named + said + b"\x85}\x92.",
        "BUILD": b"\x80\x02" + named + b"}" + _text("__setstate__") + named + b"sb.",
        "BUILD on a table": b"\x80\x02ccollections\nOrderedDict\n)R}" + _text("__class__") + named + b"sb.",
        "GLOBAL alone": b"\x80\x02" + named + b".",
        "GLOBAL as a tensor": table + named + b"s.",
        "GLOBAL as a storage type": table + b"(" + _text("storage") + named + _text("0") + said + b"K\x01tQs.",
        "GLOBAL called by the rebuild": table + b"ctorch._utils\n_rebuild_tensor_v2\n(" + named + b"K\x00))\x89NtRs.",
        "hooks": table + b"ctorch._utils\n_rebuild_tensor_v2\n((" + _text("storage") + b"ctorch\nFloatStorage\n"
        + _text("0") + _text("cpu") + b"K\x01tQK\x00K\x01\x85K\x01\x85\x89" + named + said + b"\x85RtRs.",
        "PERSID": b"\x80\x02P" + command.encode() + b"\n.",
        "BINPERSID of a command": b"\x80\x02" + said + b"Q.",
        "EXT1": b"\x80\x02\x82\x01" + said + b"\x85R.",
        "EXT2": b"\x80\x02\x83\x01\x00" + said + b"\x85R.",
        "EXT4": b"\x80\x02\x84\x01\x00\x00\x00" + said + b"\x85R.",
        "memo": b"\x80\x02" + named + b"q\x01" + said + b"q\x020h\x01h\x02\x85R.",
        "hidden after the end": b"\x80\x02}." + named + said + b"\x85R.",
        "nested": b"\x80\x02cpickle\nloads\n" + b"U\x05" + b"cos\ns" + b"\x85R.",
        "text protocol": named + b"(S'" + command.encode() + b"'\ntR.",
        "names with line ends": b"\x80\x02c" + f"{module}\r\n{name}\r\n".encode() + said + b"\x85R.",
    }  # fmt: skip


def _by_pickle(canary: str, protocol: int) -> bytes:
    import os

    return pickle.dumps({"w": _Reduced(os.system, (f"touch {canary}",))}, protocol=protocol)


def archives(stream: bytes) -> dict[str, bytes]:
    """The stream in an archive as torch makes it, and in many that torch would not make."""

    def zipped(kind=zipfile.ZIP_STORED, names=("x/data.pkl",), contents=(stream,)):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", kind) as archive:
            for name, content in zip(names, contents, strict=True):
                archive.writestr(zipfile.ZipInfo(name), content, compress_type=kind)
            archive.writestr("x/version", b"3\n")
        return file.getvalue()

    def flagged(flags):
        data = bytearray(zipped())
        for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            begin = data.index(mark)
            data[begin + at : begin + at + 2] = struct.pack("<H", flags)
        return bytes(data)

    def tarred():
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as archive:
            entry = tarfile.TarInfo("x/data.pkl")
            entry.size = len(stream)
            archive.addfile(entry, io.BytesIO(stream))
        return file.getvalue()

    good = zipped()
    renamed = good.replace(b"x/data.pkl", b"x/data.pkk", 1)
    return {
        "zip": good,
        "deflated": zipped(zipfile.ZIP_DEFLATED),
        "bzip2": zipped(zipfile.ZIP_BZIP2),
        "encrypted flag": flagged(1),
        "strong encryption flag": flagged(0x41),
        "masked header flag": flagged(0x2000),
        "two pickles": zipped(names=("x/data.pkl", "y/data.pkl"), contents=(b"\x80\x02}.", stream)),
        "traversal": zipped(names=("../../x/data.pkl",)),
        "absolute": zipped(names=("/data.pkl",)),
        "renamed in its own header": renamed,
        "bare pickle": stream,
        "tar": tarred(),
        "7z": b"7z\xbc\xaf\x27\x1c" + stream,
        "zip behind a shebang": b"#!/bin/sh\ntouch x\n" + good,
        "zip with a comment": good[:-2] + struct.pack("<H", len(stream)) + stream,
        "cut": good[:-1],
    }


def corpus(canary: str, n: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`n` hostile files, every stream and every wrapping among the first ones."""
    draw = random.Random(seed)
    first = streams(canary, "os", "system")
    listed = [
        (f"{how}, {wrapping}", data) for how, stream in first.items() for wrapping, data in archives(stream).items()
    ]
    listed += [(f"os.system by pickle {p}", archives(_by_pickle(canary, p))["zip"]) for p in range(6)]
    for module, name in CALLS:
        listed += [
            (f"{module}.{name} {how}", archives(stream)["zip"]) for how, stream in streams(canary, module, name).items()
        ]
    draw.shuffle(listed)
    for number in range(n):
        if number < len(listed):
            yield listed[number]
        else:
            how, stream = draw.choice(list(streams(canary, *draw.choice(CALLS)).items()))
            wrapping, data = draw.choice(list(archives(stream).items()))
            yield f"{how}, {wrapping}", data
