"""Safetensors: the reference library's bytes, nothing accepted that it rejects, saving over the file being read."""

from __future__ import annotations

import json

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from camelid.checkpoints.safetensors_io import MAX_HEADER_BYTES, Deferred, open_tensors, read_header, serialise
from camelid.durable import replace_file
from camelid.errors import BadFile
from tests.checkpoints.models import same_bits
from tests.conftest import size

DTYPES = [
    getattr(torch, name) for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool")
]
TABLES = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
        lambda name: name != "__metadata__"
    ),
    st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=4)),
    max_size=6,
)


def table_of(spec, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randint(0, 2, tuple(shape), generator=generator).to(dtype) for name, (dtype, shape) in spec.items()
    }


@given(TABLES, st.dictionaries(st.text("ab é", max_size=3), st.text(max_size=5).filter(str.isprintable), max_size=1))
@settings(max_examples=size(150), deadline=None)
def test_every_file_written_here_is_the_librarys_and_the_other_way_round(tmp_path_factory, spec, metadata):
    tensors, path = table_of(spec), tmp_path_factory.getbasetemp() / "file.safetensors"
    written = b"".join(serialise(tensors, metadata or None))
    reference = safetensors.torch.save(tensors, metadata or None)
    assert same_bits(safetensors.torch.load(written), tensors)
    for data in (written, reference):
        path.write_bytes(data)
        found = open_tensors(path)
        assert same_bits(found, tensors) and dict(found.header.metadata) == metadata
    if len({dtype for dtype, _ in spec.values()}) <= 1:
        assert written == reference, "one dtype leaves one order"


def test_tensors_that_do_not_lie_in_order_are_written_in_order(tmp_path):
    whole = torch.arange(24.0).reshape(4, 6)
    tensors = {"turned": whole.T, "cut": whole[:, 1:3], "one": torch.tensor(3.0), "none": torch.empty(0, 5)}
    path = replace_file(tmp_path / "f", serialise(tensors))
    assert same_bits(open_tensors(path), tensors)


def test_deferred_tensors_are_made_once_and_one_at_a_time(tmp_path):
    alive, most, made = [0], [0], []

    class Held:
        def __init__(self):
            alive[0] += 1
            most[0] = max(most[0], alive[0])

        def __del__(self):
            alive[0] -= 1

    def make(name):
        made.append(name)
        tensor = torch.full((300_000,), float(len(made)))
        tensor.held = Held()
        return tensor

    promised = {n: Deferred(torch.float32, (300_000,), lambda n=n: make(n)) for n in "abcd"}
    replace_file(tmp_path / "f", serialise(promised))
    assert made == list("abcd") and most[0] <= 2
    assert [float(tensor[0]) for tensor in open_tensors(tmp_path / "f").values()] == [1, 2, 3, 4]


def test_a_promise_that_is_not_kept_is_refused():
    with pytest.raises(ValueError, match="was promised"):
        list(serialise({"a": Deferred(torch.float32, (2,), lambda: torch.zeros(3))}))


def test_saving_over_the_file_being_read_is_safe(tmp_path):
    path = replace_file(tmp_path / "f", serialise({"a": torch.arange(5000.0)}))
    for n in range(size(100)):
        tensors = dict(open_tensors(path))
        replace_file(path, serialise({name: tensor + 1 for name, tensor in tensors.items()}))
        assert torch.equal(tensors["a"], torch.arange(5000.0) + n)
    assert torch.equal(open_tensors(path)["a"], torch.arange(5000.0) + size(100))


def test_writing_to_a_tensor_read_does_not_change_the_file(tmp_path):
    path = replace_file(tmp_path / "f", serialise({"a": torch.zeros(9)}))
    open_tensors(path)["a"].fill_(7)
    assert torch.equal(open_tensors(path)["a"], torch.zeros(9))


def header_of(**tensors):
    return json.dumps(tensors).encode()


def file_of(header: bytes, data: bytes = bytes(8)) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


PAIR = '"dtype":"F32","shape":[1],"data_offsets"'
HOSTILE = {
    "empty": b"",
    "seven bytes": bytes(7),
    "header longer than the file": (100).to_bytes(8, "little") + b"{}",
    "header of 2^63": (2**63).to_bytes(8, "little") + b"{}",
    "header over the limit": (MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}",
    "no object": file_of(b"[]", b""),
    "space first": file_of(b" {}", b""),
    "not UTF-8": file_of(b'{"\xff":1}'),
    "nested": file_of(b'{"a":' * 5000 + b"}" * 5000),
    "gap": file_of(b'{"a":{%b:[0,4]}}' % PAIR.encode()),
    "overlap": file_of(b'{"a":{%b:[0,4]},"b":{%b:[0,4]}}' % (PAIR.encode(), PAIR.encode()), bytes(4)),
    "hole between": file_of(b'{"a":{%b:[0,4]},"b":{%b:[8,12]}}' % (PAIR.encode(), PAIR.encode()), bytes(12)),
    "past the end": file_of(b'{"a":{%b:[0,4]},"b":{%b:[4,8]}}' % (PAIR.encode(), PAIR.encode()), bytes(7)),
    "falling": file_of(b'{"a":{%b:[8,4]}}' % PAIR.encode()),
    "twice": file_of(b'{"a":{%b:[0,4]},"a":{%b:[4,8]}}' % (PAIR.encode(), PAIR.encode())),
    "shape and bytes": file_of(header_of(a={"dtype": "F32", "shape": [3], "data_offsets": [0, 8]})),
    "minus one": file_of(header_of(a={"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]})),
    "minus nought": file_of(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[-0,8]}}'),
    "fraction": file_of(b'{"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}}'),
    "true": file_of(b'{"a":{"dtype":"U8","shape":[8,true],"data_offsets":[0,8]}}'),
    "wraps to eight": file_of(header_of(a={"dtype": "F32", "shape": [2**62 + 2], "data_offsets": [0, 8]})),
    "wraps to nought": file_of(header_of(a={"dtype": "F32", "shape": [2**33, 2**33, 0], "data_offsets": [0, 0]}), b""),
    "many axes": file_of(header_of(a={"dtype": "F32", "shape": [1] * 9 + [2], "data_offsets": [0, 8]})),
    "dtype": file_of(header_of(a={"dtype": "F31", "shape": [2], "data_offsets": [0, 8]})),
    "dtype no text": file_of(header_of(a={"dtype": [], "shape": [2], "data_offsets": [0, 8]})),
    "third offset": file_of(header_of(a={"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 8]})),
    "further key": file_of(header_of(a={"dtype": "F32", "shape": [2], "data_offsets": [0, 8], "code": "x"})),
    "no name": file_of(b'{"":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
    "long name": file_of(header_of(**{"n" * 65_536: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}})),
    "metadata no text": file_of(b'{"__metadata__":{"a":1}}', b""),
    "left over": file_of(b"{}", b"payload"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_with_the_place(tmp_path, name):
    (tmp_path / "f").write_bytes(HOSTILE[name])
    with pytest.raises(BadFile) as caught:
        read_header(tmp_path / "f")
    assert caught.value.path == tmp_path / "f" and caught.value.place and caught.value.remedy


def test_an_odd_header_length_is_read_all_the_same(tmp_path):
    header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]} }'
    header += b" " * (len(header) % 2 == 0)
    data = file_of(header, torch.tensor([1.5, -2.0]).numpy().tobytes())
    (tmp_path / "f").write_bytes(data)
    assert open_tensors(tmp_path / "f")["a"].tolist() == [1.5, -2.0] == safetensors.torch.load(data)["a"].tolist()


def test_a_dtype_without_a_name_here_is_refused_when_written():
    with pytest.raises(ValueError, match="complex64"):
        list(serialise({"a": torch.zeros(2, dtype=torch.complex64)}))
