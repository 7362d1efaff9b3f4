"""GGUF's layout: written and read to the byte, and every lie about counts, lengths, offsets and types told by its place."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from camelid.checkpoints import gguf_file
from camelid.checkpoints.gguf_file import Blocks, Encoded, is_gguf, read_header, serialise
from camelid.errors import BadFile
from camelid.quantize.blocks import encode
from camelid.quantize.forms import FORMS
from tests.conftest import size


def text(value: str | bytes) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def key(name: str, kind: int, raw: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + raw


def tensor(name: str = "t", sizes=(32,), code: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, code, offset)


def file(keys=(), tensors=(), data: bytes = b"", *, version=3, counts=None, alignment=32) -> bytes:
    counts = counts or (len(tensors), len(keys))
    head = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % alignment) + data


ROW = bytes(128)  # a tensor of 32 floats
SOUND = {
    "nothing at all": file(),
    "version 2": file(version=2),
    "a row of floats": file((), [tensor()], ROW),
    "two tensors": file((), [tensor("a", (4,)), tensor("b", (2, 3), offset=32)], bytes(64)),
    "the last one not padded": file((), [tensor("a", (4,)), tensor("b", (1,), offset=32)], bytes(36)),
    "blocks": file((), [tensor("a", (64, 2), 2)], bytes(72)),
    "another alignment": file(
        [key("general.alignment", 4, struct.pack("<I", 8))], [tensor("a", (4,)), tensor("b", (4,), offset=16)], bytes(32),
        alignment=8,
    ),
    "every kind of value": file([
        key("a", 0, b"\xff"), key("b", 1, b"\xff"), key("c", 2, b"\1\0"), key("d", 3, b"\xff\xff"), key("e", 4, bytes(4)),
        key("f", 5, bytes(4)), key("g", 6, struct.pack("<f", 0.5)), key("h", 7, b"\1"), key("i", 8, text("é")),
        key("j", 10, bytes(8)), key("k", 11, b"\xff" * 8), key("l", 12, struct.pack("<d", 0.1)),
        key("m", 9, struct.pack("<IQ", 8, 2) + text("x") + text("")), key("n", 9, struct.pack("<IQ", 7, 2) + b"\0\1"),
        key("o", 9, struct.pack("<IQ3i", 5, 3, 1, -2, 3)),
    ]),
}  # fmt: skip
ARRAY = struct.pack("<I", 9)
BAD = {
    "nothing": (b"", "cannot be mapped"),
    "another file": (b"PK\3\4" + bytes(60), "not with b'GGUF'"),
    "version 1": (file(version=1), "version 1"),
    "big-endian": (file(version=3 << 24), "big-endian"),
    "cut in the counts": (file()[:12], "ends inside a number"),
    "more tensors than can be": (file(counts=(2**63, 0)), "over the limit"),
    "more keys than can be": (file(counts=(0, 2**64 - 1)), "over the limit"),
    "more keys than there are": (file(counts=(0, 3)), "offset"),
    "a key as long as memory": (file([struct.pack("<Q", 2**62)]), "a text of 4611686018427387904 bytes"),
    "a key of 300 bytes": (file([key("k" * 300, 7, b"\1")]), "over the limit of 256"),
    "an empty key": (file([key("", 7, b"\1")]), "twice or is empty"),
    "a key twice": (file([key("a", 7, b"\1")] * 2), "twice or is empty"),
    "a key that is no text": (file([text(b"\xff") + struct.pack("<I", 7) + b"\1"]), "not UTF-8"),
    "a value of no type": (file([key("a", 13, bytes(8))]), "unknown type 13"),
    "a truth of 2": (file([key("a", 7, b"\2")]), "neither 0 nor 1"),
    "truths of 2": (file([key("a", 9, struct.pack("<IQ", 7, 2) + b"\1\2")]), "neither 0 nor 1"),
    "a text beyond the end": (file([key("a", 8, struct.pack("<Q", 500))]), "a text of 500 bytes"),
    "a long array": (file([key("a", 9, struct.pack("<IQ", 10, 2**61))]), "an array of 2305843009213693952 values"),
    "a long array of texts": (file([key("a", 9, struct.pack("<IQ", 8, 2**60))]), "an array of 1152921504606846976 texts"),
    "arrays of arrays": (file([key("a", 9, struct.pack("<IQ", 9, 1) + ARRAY * 5000)]), "an array of arrays"),
    "an array of no type": (file([key("a", 9, struct.pack("<IQ", 99, 1))]), "the unknown type 99"),
    "texts cut off": (file([key("a", 9, struct.pack("<IQ", 8, 3) + text("x"))])[:-8], "offset"),
    "texts that are none": (file([key("a", 9, struct.pack("<IQ", 8, 1) + text(b"\xc0"))]), "not UTF-8"),
    "alignment 0": (file([key("general.alignment", 4, bytes(4))]), "no power of two"),
    "alignment 24": (file([key("general.alignment", 4, struct.pack("<I", 24))]), "no power of two"),
    "alignment 2^31": (file([key("general.alignment", 4, struct.pack("<I", 1 << 31))]), "no power of two"),
    "alignment in words": (file([key("general.alignment", 8, text("32"))]), "no power of two"),
    "no axes": (file((), [tensor("t", ())], ROW), "with 0 axes"),
    "five axes": (file((), [tensor("t", (1, 1, 1, 1, 32))], ROW), "with 5 axes"),
    "2^32 axes": (file((), [text("t") + struct.pack("<I", 2**32 - 1) + bytes(60)], ROW), "with 4294967295 axes"),
    "a nameless tensor": (file((), [tensor("")], ROW), "tensor ''"),
    "a long name": (file((), [tensor("n" * 64)], ROW), "over the limit of 63"),
    "a tensor twice": (file((), [tensor("t"), tensor("t", offset=128)], ROW * 2), "twice"),
    "an unknown form": (file((), [tensor("t", (32,), 99)], ROW), "form number 99"),
    "half a block": (file((), [tensor("t", (48,), 8)], ROW), "no blocks of 32"),
    "nothing in it": (file((), [tensor("t", (0, 32))], ROW), "rows of"),
    "sizes that overflow": (file((), [tensor("t", (2**32, 2**32, 2**32))], ROW), "more than any file can hold"),
    "sizes beyond the end": (file((), [tensor("t", (2**40,))], ROW), "takes 4398046511104 bytes"),
    "an overlap": (file((), [tensor("a"), tensor("b", offset=64)], ROW * 2), "begins at 64 where the one before ends at 128"),
    "a gap": (file((), [tensor("a"), tensor("b", offset=160)], ROW * 3), "begins at 160"),
    "an offset off the grid": (file((), [tensor("a", offset=4)], ROW * 2), "begins at 4"),
    "an offset beyond the end": (file((), [tensor("a", offset=2**63)], ROW), "begins at 9223372036854775808"),
    "cut in its tensors": (file((), [tensor()], ROW)[:-1], "it was cut"),
    "cut before its tensors": (file((), [tensor()])[:-20], "it was cut"),
    "more than its tensors": (file((), [tensor()], ROW + bytes(32)), "32 bytes belong to no tensor"),
}  # fmt: skip


@pytest.mark.parametrize("data", SOUND.values(), ids=SOUND)
def test_sound_files_are_read_and_by_the_gguf_package_too(tmp_path, data):
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    path = tmp_path / "f.gguf"
    path.write_bytes(data)
    header = read_header(path)
    assert is_gguf(path) and is_gguf(path.rename(tmp_path / "unnamed"))
    theirs = gguf.GGUFReader(tmp_path / "unnamed")
    assert {t.name: (t.data_offset, t.n_bytes) for t in theirs.tensors} == {
        name: (place.begin, place.end - place.begin) for name, place in header.places.items()
    }
    for name, value in header.metadata.items():
        found = theirs.fields[name].contents()
        assert (value.tolist() if isinstance(value, np.ndarray) else value) == found


@pytest.mark.parametrize(("data", "told"), BAD.values(), ids=BAD)
def test_every_lie_is_refused_where_it_stands(tmp_path, data, told):
    (tmp_path / "f.gguf").write_bytes(data)
    with pytest.raises(BadFile) as refused:
        read_header(tmp_path / "f.gguf")
    assert told in str(refused.value) and "f.gguf" in str(refused.value)


def test_texts_beyond_the_limit_are_refused_before_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_file, "MAX_TEXTS", 5)
    arrays = [key(name, 9, struct.pack("<IQ", 8, 3) + text("x") * 3) for name in "ab"]
    (tmp_path / "f.gguf").write_bytes(file(arrays[:1]))
    assert read_header(tmp_path / "f.gguf").metadata["a"] == ["x"] * 3
    (tmp_path / "f.gguf").write_bytes(file(arrays))
    with pytest.raises(BadFile, match="6 texts in arrays, over the limit of 5"):
        read_header(tmp_path / "f.gguf")


def test_what_is_no_file_is_told(tmp_path):
    for path in (tmp_path / "absent.gguf", tmp_path):
        with pytest.raises(BadFile):
            read_header(path)
    assert not is_gguf(tmp_path) and not is_gguf(tmp_path / "absent.gguf")


VALUES = st.one_of(
    st.booleans(), st.integers(0, 2**64 - 1), st.floats(width=32, allow_nan=False), st.text(max_size=9),
    st.lists(st.text(max_size=5), max_size=4), st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4).map(lambda x: np.array(x, "i")),
)  # fmt: skip
SHAPES = st.lists(st.integers(1, 3), max_size=3).map(tuple)


@settings(max_examples=size(60), deadline=None)
@given(
    keys=st.dictionaries(st.text("abc.", min_size=1, max_size=9), VALUES, max_size=5),
    shapes=st.lists(st.tuples(SHAPES, st.sampled_from(["f32", "bf16", "q8_0", "q4_0"])), max_size=5),
)
def test_what_is_written_is_read_again_to_the_byte(tmp_path_factory, keys, shapes):
    generator = torch.Generator().manual_seed(len(shapes))
    made = {}
    for number, (outer, form) in enumerate(shapes):
        width = 32 if form.startswith("q") else 3
        made[f"t{number}"] = (form, torch.randn(*outer, width, generator=generator))
    tensors = {
        name: Encoded(FORMS[form], tuple(x.shape), lambda form=form, x=x: encode(form, x))
        for name, (form, x) in made.items()
    }
    path = tmp_path_factory.mktemp("f") / "f.gguf"
    path.write_bytes(b"".join(map(bytes, serialise(keys, tensors))))
    header, stored = read_header(path), Blocks(read_header(path))
    assert set(header.metadata) == set(keys) and list(header.places) == list(made)
    for name, value in keys.items():
        found = header.metadata[name]
        assert (
            np.array_equal(found, value)
            if isinstance(value, np.ndarray)
            else found == value and type(found) is type(value)
        )
    for name, (form, x) in made.items():
        assert torch.equal(stored[name], encode(form, x)) and header.places[name].begin % 32 == 0
