"""Files are recognised by content; what is cut, corrupt, mislabelled or hostile is refused in one clear error."""

from __future__ import annotations

import contextlib
import json
import random
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from camelid.errors import BadFile, UsageError
from camelid.tokenizers import load
from camelid.tokenizers.byte_bpe import ByteBPETokenizer
from camelid.tokenizers.sentencepiece import SentencePieceTokenizer
from camelid.tokenizers.sentencepiece_file import parse
from tests.conftest import size


def refused(path: Path, content: bytes) -> BadFile:
    path.write_bytes(content)
    with pytest.raises(BadFile) as caught:
        load(path).encode("Hello 123 <s>")
    assert str(path) in str(caught.value)
    return caught.value


def test_content_decides_and_not_the_name(pieces, byte_level, tmp_path):
    for name, content in (("a", pieces.model), ("b.json", pieces.model), ("tokenizer.json", byte_level.model)):
        (tmp_path / name).write_bytes(content)
    assert isinstance(load(tmp_path / "a"), SentencePieceTokenizer)
    assert isinstance(load(tmp_path / "b.json"), SentencePieceTokenizer)
    assert isinstance(load(tmp_path / "tokenizer.json"), ByteBPETokenizer)
    (tmp_path / "tokenizer.model").write_bytes(byte_level.files()["tokenizer.json"])
    assert isinstance(load(tmp_path / "tokenizer.model"), ByteBPETokenizer)


def test_other_files_are_named_for_what_they_are(tmp_path):
    path = tmp_path / "tokenizer.model"
    assert "is empty" in str(refused(path, b""))
    assert "is empty" in str(refused(path, b" \n"))
    assert "Git LFS pointer" in str(refused(path, b"version https://git-lfs.github.com/spec/v1\noid sha256:0"))
    assert "begins with b'PK" in str(refused(path, b"PK\x03\x04" + bytes(100)))
    assert "begins with b'\\x80\\x02" in str(refused(path, b"\x80\x02}q\x00."))
    assert "no tokenizer.json" in str(refused(path, b"{}"))
    assert "is not strict JSON" in str(refused(path, b'{"model": {"type": NaN}}'))
    assert "deep" in str(refused(path, b'{"model": ' + b"[" * 200_000))
    with pytest.raises(BadFile, match="is missing"):
        load(tmp_path / "absent")
    with pytest.raises(BadFile, match="holds neither"):
        load(tmp_path / "..")


def test_a_cut_model_is_refused_at_every_length(pieces, tmp_path):
    model = pieces.model
    records = {0}
    for length in random.Random(1).sample(range(len(model)), size(300)):
        try:
            parse(model[:length], "cut")
            records.add(length)
        except BadFile as error:
            assert error.place or "no pieces" in error.found
    # A cut between two records is a whole protobuf; it lacks byte pieces or the trainer's record of byte fallback.
    assert len(records) < size(300) // 10


def varint(value: int) -> bytes:
    return bytes([value & 127 | 128, *varint(value >> 7)]) if value > 127 else bytes([value])


def record(text: str = "x", score: bytes = b"\0\0\0\0", kind: int = 1) -> bytes:
    inside = b"\x0a" + varint(len(text.encode())) + text.encode() + b"\x15" + score + b"\x18" + varint(kind)
    return b"\x0a" + varint(len(inside)) + inside


@pytest.mark.parametrize(
    ("more", "found"),
    [
        (record("x") + record("x"), "'x' stands at"),
        (record("x", struct.pack("<f", float("nan"))), "has score nan"),
        (record("x", struct.pack("<f", float("inf"))), "has score inf"),
        (record("x", kind=9), "has type 9"),
        (record("x", kind=5), "marked unused"),
        (record("x", kind=2), "2 unknown pieces"),
        (record("<0x0A>x", kind=6), "is marked as BYTE"),
        (record("a\0b"), "holds NUL"),
        (record("y" * 5_000), "is too long"),
        (b"\x0a\x02\x0a\x00", "a piece that is empty"),
        (b"\x0a\x04\x0a\x02\xff\xfe", "not UTF-8"),
        (b"\x0a" + varint(2**31), "bytes announced"),
        (b"\x0a" + varint(2**63 - 1), "bytes announced"),
        (b"\x0a" + b"\xff" * 12, "more than ten bytes"),
        (b"\x0b", "wire type 3"),
        (b"\x07", "field number 0"),
        (b"\x12\x02\x18\x04", "model type 4"),
        (b"\x12\x03\xc0\x01\x01", "whitespace is a suffix"),
        (b"\x1a\x02\x28\x00", "not written as U+2581"),
        (b"\x1a\x06\x12\x04\xff\xff\xff\xff", "does not hold together"),
        (b"\x1a\x0f\x12\x0d\x04\0\0\0" + struct.pack("<I", 0x7FFFFC00) + b"ab\0\0\0", "points outside"),
        (b"\x2a\x03\x12\x01x", "denormaliser"),
        (b"\x18\x01", "is not a message"),
    ],
)
def test_hostile_model_records_are_named(more, found, pieces, tmp_path):
    assert found in str(refused(tmp_path / "tokenizer.model", pieces.model + more))


def test_hostile_rank_files_are_named(byte_level, tmp_path):
    lines = byte_level.model.splitlines()
    path = tmp_path / "t"
    assert "(line 4): rank '9'" in str(refused(path, b"\n".join([*lines[:3], b"IQ== 9"])))
    assert "not base64" in str(refused(path, b"\n".join([*lines[:3], b"I!== 3"])))
    assert "twice" in str(refused(path, b"\n".join([*lines, lines[0].split()[0] + b" %d" % len(lines)])))
    assert "single bytes have no token" in str(refused(path, b"\n".join(lines[:200])))
    assert "a token of 0 bytes" in str(refused(path, b"\n".join([lines[0], b" 1"])))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda d: d["model"].update(type="WordPiece"), "'WordPiece'"),
        (lambda d: d["model"].update(dropout=0.1), "model.dropout"),
        (lambda d: d["model"].update(vocab={}), "missing or empty"),
        (lambda d: d["model"]["vocab"].update(x=-1), "has id -1"),
        (lambda d: d["model"]["vocab"].update(x=10**9), "has id 1000000000"),
        (lambda d: d["model"]["vocab"].update(x=True), "has id True"),
        (lambda d: d["model"]["vocab"].update(x=5), "without gaps"),
        (lambda d: d["model"]["vocab"].pop("<0x41>"), "without gaps"),
        (lambda d: d["model"]["merges"].append(["qq", "zz"]), "does not join"),
        (lambda d: d["model"]["merges"].append(7), "is no pair"),
        (lambda d: d["model"].update(merges=None), "is no list"),
        (lambda d: d["added_tokens"].append({"id": 7, "content": "<s>"}), "has two ids"),
        (lambda d: d["added_tokens"].append({"id": "7", "content": "x"}), "is no token"),
        (lambda d: d.update(added_tokens={}), "is no list"),
        (lambda d: d.update(normalizer={"type": "NFKC"}), "does not only write spaces"),
        (lambda d: d.update(pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+$"}}), "does not only write"),
        (lambda d: d["model"].update(byte_fallback=False), "parts text in an unknown way"),
        (lambda d: d["model"].update(ignore_merges=True), "beside byte fallback"),
    ],
)
def test_hostile_tokenizer_json_is_named(change, found, pieces, tmp_path):
    document = json.loads(pieces.files()["tokenizer.json"])
    change(document)
    assert found in str(refused(tmp_path / "tokenizer.json", json.dumps(document).encode()))


def test_a_pattern_from_a_file_is_never_compiled(byte_level, tmp_path):
    document = json.loads(byte_level.files()["tokenizer.json"])
    document["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a+)+$"
    assert "parts text in an unknown way" in str(refused(tmp_path / "t.json", json.dumps(document).encode()))


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("tokenizer_config.json", '{"bos_token": "<bos>"}', "'<bos>' is no control token"),
        ("tokenizer_config.json", "[]", "is no JSON object"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {"content": "y"}}}', "'y' with id 'x'"),
        ("added_tokens.json", '{"[PAD]": 500}', "ids must follow on from 420"),
        ("added_tokens.json", '{"[PAD]": 7}', "is said to be 7"),
        ("added_tokens.json", '{"a": 420}', "is a piece of the model already"),
        ("added_tokens.json", '{"a": 1e3}', "with id '1000.0'"),
        ("added_tokens.json", '{"a": "99999999999999999999"}', "with id"),
        ("added_tokens.json", '{"x": 420, "y": 420}', "both have id 420"),
    ],
)
def test_configuration_that_contradicts_the_model_is_named(name, content, found, pieces, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(pieces.model)
    (tmp_path / name).write_text(content)
    with pytest.raises(BadFile) as caught:
        load(tmp_path)
    assert found in str(caught.value)


def test_added_tokens_of_older_folders_are_read(pieces, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(pieces.model)
    (tmp_path / "added_tokens.json").write_text('{"[PAD]": 420}')
    (tmp_path / "special_tokens_map.json").write_text('{"pad_token": {"content": "[PAD]"}, "bos_token": ""}')
    tokenizer = load(tmp_path)
    assert (tokenizer.size, tokenizer.pad, tokenizer.bos) == (421, 420, 1)


# --- mutants ----------------------------------------------------------------------------------------------------------

EXTREME = (0, 1, 127, 128, 255)


def mutants(data: bytes, seed: int, count: int):
    draw = random.Random(seed)
    for _ in range(count):
        mutant = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(len(mutant))
            kind = draw.randrange(5)
            if kind == 0:
                mutant[place] ^= 1 << draw.randrange(8)
            elif kind == 1:
                mutant[place] = draw.choice(EXTREME)
            elif kind == 2:
                del mutant[place : place + draw.randint(1, 16)]
            elif kind == 3:
                mutant[place:place] = mutant[place : place + draw.randint(1, 40)]
            else:
                mutant = mutant[: max(place, 1)] if draw.random() < 0.3 else mutant
        yield bytes(mutant) or b"\n"


def survive(data: bytes, seed: int, count: int, path: Path) -> int:
    """How many mutants were read; every one must be read whole or refused, in a moment."""
    accepted = 0
    for mutant in mutants(data, seed, count):
        path.write_bytes(mutant)
        start = time.perf_counter()
        try:
            tokenizer = load(path)
            ids = tokenizer.encode("Hello <s> 12 \0é🐪")
            assert set(tokenizer.controls.values()).isdisjoint(ids)
            tokenizer.decode(range(tokenizer.size))
            accepted += 1
        except BadFile:
            pass
        except UsageError as error:
            raise AssertionError(mutant[:200]) from error
        assert time.perf_counter() - start < 2
    return accepted


def test_mutated_files_are_read_or_refused_and_nothing_else(tmp_path):
    """In a process of its own: a crash inside a library would end it."""
    code = (
        "import sys; from pathlib import Path; from tests.tokenizers import test_reading as t;"
        "from tests.tokenizers.conftest import TALE; from camelid.tokenizers import sentencepiece, byte_bpe;"
        "p = sentencepiece.train([TALE * 9], vocab=360); b = byte_bpe.train([TALE * 9], vocab=300);"
        "n = int(sys.argv[2]); path = Path(sys.argv[1]);"
        "cases = [p.model, b.model, p.files()['tokenizer.json'], b.files()['tokenizer.json']];"
        "print([t.survive(case, seed, n, path) for seed, case in enumerate(cases)])"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "mutant"), str(size(300))], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(0 <= accepted < size(300) for accepted in json.loads(done.stdout))


def test_mutated_character_maps_are_read_or_refused(shared: Path, tmp_path):
    model = (shared / "tokenizers" / "chinese_sp.model").read_bytes()
    parsed = parse(model, "m")
    first = parsed.rest.find(b"nmt_nfkc") + 8
    draw = random.Random(3)
    for _ in range(size(10)):
        rest = bytearray(parsed.rest)
        for _ in range(20):
            rest[first + draw.randrange(4 + 4 * 256)] = draw.randrange(256)
        (tmp_path / "t").write_bytes(model[: len(model) - len(parsed.rest)] + bytes(rest))
        with contextlib.suppress(BadFile):
            load(tmp_path / "t").encode("ｈｅｌｌｏ ﬁ Å 한국 ①")
