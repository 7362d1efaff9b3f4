"""Meta's folders: bit-identical there and back in any number of pieces, and no hostile .pth runs or opens anything."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from camelid import tokenizers
from camelid.checkpoints import directory, meta, pth
from camelid.checkpoints.convert import convert
from camelid.checkpoints.names import pairs, to_halves, to_neighbours
from camelid.checkpoints.safetensors_io import deferred, open_tensors
from camelid.dialogue.published import LLAMA_2, LLAMA_3
from camelid.durable import FILES, scratch
from camelid.errors import BadFile, StoreError, UsageError
from camelid.models.shape import SIZES, RopeScaling
from camelid.tokenizers import byte_bpe, sentencepiece
from tests.checkpoints import malice
from tests.checkpoints.models import SHAPE, WIDE, same_bits, weights
from tests.conftest import size

ROOT = Path(__file__).resolve().parents[2]


def meta_folder(path, shape, shards, *, seed=0, dtype=torch.float32, embedding="columns", edit=None, write=torch.save):
    """A Meta folder as torch itself writes it, and Meta's whole tensors under Meta's names."""
    path.mkdir()
    whole = {}
    generator = torch.Generator().manual_seed(seed)
    tables = [{} for _ in range(shards)]
    for pair in pairs(shape, embedding=embedding):
        tensor = torch.randn(pair.shape, generator=generator).to(dtype)
        whole[pair.meta] = tensor
        pieces = [tensor] * shards
        if pair.cut != "repeated":
            pieces = [piece.clone() for piece in tensor.chunk(shards, dim=0 if pair.cut == "rows" else 1)]
        for table, piece in zip(tables, pieces, strict=True):
            table[pair.meta] = piece.contiguous()
    parameters = meta.params_of(shape)
    if edit:
        edit(tables, parameters)
    for number, table in enumerate(tables):
        write(table, path / f"consolidated.{number:02d}.pth")
    (path / "params.json").write_text(json.dumps(parameters))
    return whole


def pth_tables(path):
    """Every file of a Meta folder, read by torch itself."""
    return {p.name: torch.load(p, weights_only=True) for p in sorted(path.glob("*.pth"))}


@pytest.mark.parametrize("shards", [1, 2, 4, 8])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_meta_to_hugging_face_to_meta_is_bit_identical(tmp_path, shards, dtype):
    meta_folder(tmp_path / "meta", WIDE, shards, dtype=dtype)
    convert(tmp_path / "meta", tmp_path / "hf", to="hf")
    convert(tmp_path / "hf", tmp_path / "back", to="meta", shards=shards)
    before, after = pth_tables(tmp_path / "meta"), pth_tables(tmp_path / "back")
    assert before.keys() == after.keys() and all(same_bits(before[name], after[name]) for name in before)
    assert meta.params_of(WIDE) == json.loads((tmp_path / "back" / "params.json").read_text())
    assert directory.load(tmp_path / "hf").shape == WIDE


@pytest.mark.parametrize("shards", [1, 2, 8])
def test_hugging_face_to_meta_to_hugging_face_is_bit_identical(tmp_path, shards):
    state = weights(WIDE, dtype=torch.float16)
    directory.save(tmp_path / "hf", state, shape=WIDE)
    convert(tmp_path / "hf", tmp_path / "meta", to="meta", shards=shards)
    convert(tmp_path / "meta", tmp_path / "back", to="hf")
    assert same_bits(dict(directory.load(tmp_path / "back").tensors()), state)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "hf" / name).read_bytes() == (tmp_path / "back" / name).read_bytes()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == [], "nothing temporary is left"


@pytest.mark.parametrize("kind", ["pieces", "bytes"])
def test_tokenizer_template_and_provenance_survive_the_journey(tmp_path, kind):
    train = sentencepiece.train if kind == "pieces" else byte_bpe.train
    text = "The camel walked 120 miles to Aswan, where dates were sold. " * 20
    tokenizer = train([text], vocab=320 if kind == "pieces" else 290)
    template = LLAMA_2 if kind == "pieces" else LLAMA_3
    shape = replace(SHAPE, vocab=tokenizer.size)
    directory.save(
        tmp_path / "hf", weights(shape), shape=shape, tokenizer=tokenizer, template=template, provenance={"seed": 7}
    )
    convert(tmp_path / "hf", tmp_path / "meta", to="meta")
    convert(tmp_path / "meta", tmp_path / "back", to="hf")
    before, after = directory.load(tmp_path / "hf"), directory.load(tmp_path / "back")
    assert after.tokenizer.digest() == tokenizer.digest() and after.template == template
    assert after.provenance["seed"] == 7 and after.provenance["converted_from"]["format"] == "meta"
    assert (after.config, after.generation, after.digest) == (before.config, before.generation, before.digest)
    assert tokenizers.load(tmp_path / "meta" / "tokenizer.model").encode("Aswan") == tokenizer.encode("Aswan")
    for name, manifest in ((name, before.manifest) for name in before.manifest.files if name != "camelid.json"):
        assert after.manifest.files[name] == manifest.files[name], name


def test_pieces_of_llama_3_whose_embedding_is_cut_by_rows(tmp_path):
    whole = meta_folder(tmp_path / "meta", WIDE, 4, embedding="rows")
    with scratch(tmp_path / "x") as room:
        model = meta.read_meta(tmp_path / "meta", room)
        assert model.embedding == "rows"
        assert torch.equal(model.tensors["model.embed_tokens.weight"].read(), whole["tok_embeddings.weight"])
    convert(tmp_path / "meta", tmp_path / "hf", to="hf")
    convert(tmp_path / "hf", tmp_path / "back", to="meta", shards=4, embedding="rows")
    before, after = pth_tables(tmp_path / "meta"), pth_tables(tmp_path / "back")
    assert all(same_bits(before[name], after[name]) for name in before)


def test_the_pairs_of_each_head_are_reordered_by_hand(tmp_path):
    rows = torch.arange(12.0).reshape(12, 1)  # two heads of width 6: rows 0..5 and 6..11
    assert to_halves(rows, 2).flatten().tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]
    assert torch.equal(to_neighbours(to_halves(rows, 2), 2), rows)


def test_attention_scores_are_metas_after_renaming(tmp_path):
    """Rotating neighbours of Meta's rows gives the same scores as rotating halves of ours, for grouped heads too."""
    whole = meta_folder(tmp_path / "meta", SHAPE, 2)
    convert(tmp_path / "meta", tmp_path / "hf", to="hf")
    ours = directory.load(tmp_path / "hf").tensors()
    x, positions, half = torch.randn(7, SHAPE.width), torch.arange(7), SHAPE.head_width // 2
    angles = positions[:, None] * SHAPE.theta ** (-torch.arange(half) / half)

    def neighbours(rows):
        rotated = torch.view_as_complex(rows.reshape(7, -1, half, 2).contiguous())
        return torch.view_as_real(rotated * torch.polar(torch.ones_like(angles), angles)[:, None]).flatten(2)

    def halves(rows):
        rows = rows.view(7, -1, SHAPE.head_width)
        a, b = rows[..., :half], rows[..., half:]
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)

    def scores(rotate, q, k):
        queries, keys = rotate(x @ q.T), rotate(x @ k.T).repeat_interleave(SHAPE.heads // SHAPE.kv_heads, dim=1)
        return torch.einsum("qhe,khe->hqk", queries, keys)

    theirs = scores(neighbours, whole["layers.1.attention.wq.weight"], whole["layers.1.attention.wk.weight"])
    at = "model.layers.1.self_attn."
    assert torch.allclose(scores(halves, ours[at + "q_proj.weight"], ours[at + "k_proj.weight"]), theirs, atol=1e-4)


def test_files_written_here_are_read_by_torch_and_the_zip_library(tmp_path):
    table = {
        "a": torch.randn(3, 4),
        "b": torch.arange(5),
        "c.d": torch.ones(2, 1, 2).bfloat16(),
        "é": torch.tensor(1.5),
    }
    data = b"".join(map(bytes, meta.pth_file({n: deferred(t) for n, t in table.items()}, "x")))
    assert same_bits(torch.load(io.BytesIO(data), weights_only=True), table)
    archive = zipfile.ZipFile(io.BytesIO(data))
    assert archive.testzip() is None
    for entry in archive.infolist():
        begin = entry.header_offset + 30 + int.from_bytes(data[entry.header_offset + 26 :][:2], "little")
        assert (begin + int.from_bytes(data[entry.header_offset + 28 :][:2], "little")) % 64 == 0


def test_sizes_past_four_gigabytes_are_told_in_the_wide_fields():
    class Large(bytes):
        def __len__(self):
            return 5 << 30

    head, entry = meta._zip_heads(b"x/data/0", Large(), 6 << 30)
    after = entry[46 + 8 :]
    assert pth._widened(after, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, "x") == (5 << 30, 5 << 30, 6 << 30)
    local = head[30 + 8 :]
    assert pth._widened(local, 0xFFFFFFFF, 0xFFFFFFFF, 0, "x") == (5 << 30, 5 << 30, 0)


def test_a_state_dict_with_its_versions_and_shared_storage_is_read(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    state = model.state_dict()
    state["tied"] = state["0.weight"]
    state["middle"] = torch.arange(10.0)[3:7]
    torch.save(state, tmp_path / "f.pth")
    meta.unpack(tmp_path / "f.pth", tmp_path / "out")
    assert same_bits(open_tensors(tmp_path / "out"), dict(state))


def test_tables_that_follow_from_the_shape_are_left_out_and_said_to_be(tmp_path):
    def add_frequencies(tables, parameters):
        for table in tables:
            table["rope.freqs"] = torch.ones(SHAPE.head_width // 2)

    meta_folder(tmp_path / "meta", SHAPE, 2, edit=add_frequencies)
    convert(tmp_path / "meta", tmp_path / "hf", to="hf")
    assert directory.load(tmp_path / "hf").provenance["converted_from"]["left_out"] == ["rope.freqs"]


def test_a_head_that_meta_did_not_store_is_tied(tmp_path):
    def drop_head(tables, parameters):
        for table in tables:
            del table["output.weight"]

    whole = meta_folder(tmp_path / "meta", SHAPE, 2, edit=drop_head)
    convert(tmp_path / "meta", tmp_path / "hf", to="hf")
    found = directory.load(tmp_path / "hf")
    assert found.shape == replace(SHAPE, tied=True, context=2048)
    convert(tmp_path / "hf", tmp_path / "back", to="meta", shards=2)
    pieces = [table["output.weight"] for table in pth_tables(tmp_path / "back").values()]
    assert torch.equal(torch.cat(pieces), whole["tok_embeddings.weight"])


# --- wrong folders ----------------------------------------------------------------------------------------------------


def drop(tables, parameters):
    del tables[1]["layers.0.attention.wq.weight"]


def misshape(tables, parameters):
    tables[0]["layers.1.feed_forward.w2.weight"] = torch.zeros(3, 3)


def add(tables, parameters):
    tables[0]["layers.0.attention.wq.bias"] = torch.zeros(3)


def mix(tables, parameters):
    tables[1]["layers.0.ffn_norm.weight"] = tables[1]["layers.0.ffn_norm.weight"] + 1


def integers(tables, parameters):
    tables[0]["norm.weight"] = torch.ones(SHAPE.width, dtype=torch.int64)


def other_width(tables, parameters):
    parameters["multiple_of"] = 1000


def other_vocabulary(tables, parameters):
    parameters["vocab_size"] = 65


def unknown(tables, parameters):
    parameters["moe"] = {"experts": 8}


def text_layers(tables, parameters):
    parameters["n_layers"] = "two"


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (drop, r"consolidated.01.pth: layers.0.attention.wq.weight is missing"),
        (misshape, r"w2.weight is \[3, 3\], not \[32, 24\]"),
        (add, "wq.bias' is no tensor of a Llama"),
        (mix, "ffn_norm.weight differs from consolidated.00.pth's"),
        (integers, "floating-point"),
        (other_width, "do not give the 48 rows"),
        (other_vocabulary, "vocab_size: 65, where tok_embeddings has 64"),
        (unknown, "moe: not a known key"),
        (text_layers, "n_layers: needs a whole number"),
    ],
)
def test_folders_that_do_not_fit_are_refused_with_the_reason(tmp_path, edit, told):
    meta_folder(tmp_path / "meta", SHAPE, 2, edit=edit)
    with pytest.raises(BadFile, match=told):
        convert(tmp_path / "meta", tmp_path / "hf", to="hf")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["meta"]


def test_a_missing_piece_is_refused(tmp_path):
    meta_folder(tmp_path / "meta", SHAPE, 2)
    (tmp_path / "meta" / "consolidated.00.pth").unlink()
    with pytest.raises(BadFile, match="numbered from 00"):
        convert(tmp_path / "meta", tmp_path / "hf", to="hf")


def test_every_damaged_part_of_a_pth_is_found(tmp_path):
    torch.save({"w": torch.randn(64, 64)}, tmp_path / "f.pth")
    good = (tmp_path / "f.pth").read_bytes()
    begin = good.index(b"ZZZZ", 400)
    for at in range(begin + 400, begin + 400 + 64 * 64 * 4 - 800, 1500):
        bad = bytearray(good)
        bad[at] ^= 4
        file = io.BytesIO(bytes(bad))
        with pytest.raises(pth.Refused, match="checksum"):
            pth.check_storages(file, pth.read_content(file, len(bad)))
    for end in range(0, len(good), 700):
        with pytest.raises(pth.Refused):
            pth.read_content(io.BytesIO(good[:end]), end)


def test_shapes_that_metas_format_cannot_say_are_refused(tmp_path):
    for shape, told in (
        (replace(SHAPE, head_width=4), "4 heads of 4 do not make a width of 32"),
        (replace(SHAPE, scaling=RopeScaling("linear", 2.0)), "linear with these settings"),
    ):
        with pytest.raises(UsageError, match=told):
            meta.params_of(shape)
    directory.save(tmp_path / "hf", weights(SHAPE), shape=SHAPE)
    with pytest.raises(UsageError, match="4 do not divide kv_heads 2"):
        convert(tmp_path / "hf", tmp_path / "meta", to="meta", shards=4)
    with pytest.raises(UsageError, match="is in Hugging Face's format already"):
        convert(tmp_path / "hf", tmp_path / "copy", to="hf")


@pytest.mark.parametrize("name", SIZES)
def test_the_feed_forward_of_every_published_size_has_its_words(name):
    shape = SIZES[name]
    told = meta.params_of(shape)
    assert meta.feed_forward(shape.width, told["multiple_of"], told.get("ffn_dim_multiplier")) == shape.hidden
    if shape.scaling is not None:
        assert "rope_scaling_factor" not in told and meta._scaling(told) == shape.scaling


@pytest.mark.parametrize("name", SIZES)
def test_the_context_of_every_published_size_is_known_from_its_numbers(name):
    assert meta.published_context(replace(SIZES[name], context=1)) == SIZES[name].context
    assert meta.published_context(replace(SIZES[name], layers=7)) is None


def test_any_feed_forward_width_has_its_words():
    for hidden in (1, 2, 7, 85, 86, 1000, 5000):
        told = meta.params_of(replace(SHAPE, hidden=hidden))
        assert meta.feed_forward(SHAPE.width, told["multiple_of"], told.get("ffn_dim_multiplier")) == hidden


# --- hostile files ----------------------------------------------------------------------------------------------------

WITNESS = """
import io, sys, json
from pathlib import Path
from tests.checkpoints import malice
from camelid.checkpoints import pth
canary, n = Path(sys.argv[1]), int(sys.argv[2])
files = list(malice.corpus(str(canary), n, seed=1))
events = []
WATCHED = {"exec", "compile", "import", "open", "pickle.find_class", "ctypes.dlopen", "code.__new__"}
PREFIXES = ("os.", "subprocess.", "socket.", "shutil.", "urllib.", "pty.", "webbrowser.", "tempfile.")
watching = False
def hook(event, arguments):
    if watching and (event in WATCHED or event.startswith(PREFIXES)):
        events.append([event, repr(arguments)[:200]])
sys.addaudithook(hook)
accepted = []
watching = True
for how, data in files:
    try:
        pth.read_content(io.BytesIO(data), len(data))
    except pth.Refused:
        continue
    accepted.append(how)
watching = False
print(json.dumps({"tried": len(files), "accepted": accepted, "events": events[:5], "canary": canary.exists()}))
"""


def test_hostile_files_run_nothing_by_two_witnesses(tmp_path):
    """Goal F2: an audit hook sees no import, execution, open or connection, and no canary file appears."""
    command = [sys.executable, "-c", WITNESS, tmp_path / "canary", str(size(2000))]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout)
    assert told == {"tried": size(2000), "accepted": [], "events": [], "canary": False}


def test_the_canary_sings_for_a_real_unpickler(tmp_path):
    canary = tmp_path / "canary"
    stream = malice.streams(str(canary), "os", "system")["REDUCE"]
    subprocess.run([sys.executable, "-c", "import pickle,sys; pickle.load(sys.stdin.buffer)"], input=stream, check=True)
    assert canary.exists()


def test_hostile_files_are_refused_through_the_child_as_well(tmp_path):
    for number, (how, data) in enumerate(malice.corpus(str(tmp_path / "canary"), size(25), seed=2)):
        path = tmp_path / f"{number}.pth"
        path.write_bytes(data)
        with pytest.raises(BadFile, match="nothing in it was run") as caught:
            meta.unpack(path, tmp_path / f"{number}.out")
        assert caught.value.path == path, how
    assert not (tmp_path / "canary").exists()


def test_the_child_opens_connects_and_starts_nothing(tmp_path):
    """The third witness: the kernel's own log of the child's calls, from the moment it has locked itself down."""
    strace = shutil.which("strace")
    if strace is None or subprocess.run([strace, "-o", "/dev/null", "true"], capture_output=True).returncode:
        pytest.skip("strace is absent or not allowed here; the audit hook and the canary still watch")
    torch.save({"w": torch.randn(30, 30)}, tmp_path / "good.pth")
    hostile = malice.archives(malice.streams(str(tmp_path / "canary"), "os", "system")["REDUCE"])["zip"]
    (tmp_path / "bad.pth").write_bytes(hostile)
    for name, code in (("good", 0), ("bad", 3)):
        with open(tmp_path / f"{name}.pth", "rb") as given, open(tmp_path / f"{name}.out", "wb") as wanted:
            fds = (given.fileno(), wanted.fileno())
            child = [sys.executable, "-I", "-S", "-B", pth.__file__, *map(str, fds)]
            ran = subprocess.run(
                [strace, "-f", "-o", tmp_path / "log", *child], pass_fds=fds, env={}, stdout=subprocess.DEVNULL
            )
        assert ran.returncode == code
        log = (tmp_path / "log").read_text().splitlines()
        locked = next(number for number, line in enumerate(log) if "RLIMIT_NOFILE, {rlim_cur=0" in line)
        calls = {line.split("(")[0].split()[-1] for line in log[locked + 1 :] if "(" in line}
        assert not calls & {"execve", "fork", "vfork", "clone", "clone3", "connect", "socket", "unlink", "rename"}
        opened = [line for line in log[locked + 1 :] if "open" in line.split("(")[0] and "EMFILE" not in line]
        assert opened == []
    assert same_bits(open_tensors(tmp_path / "good.out"), torch.load(tmp_path / "good.pth", weights_only=True))


def test_a_file_that_unfolds_to_many_times_its_size_is_refused(tmp_path):
    block = torch.zeros(100_000)
    torch.save({f"t{number}": block for number in range(40)}, tmp_path / "bomb.pth")
    with pytest.raises(BadFile, match="unfold to 16000000 bytes"):
        meta.unpack(tmp_path / "bomb.pth", tmp_path / "out")
    assert (tmp_path / "out").stat().st_size == 0


def test_tensors_that_are_not_contiguous_or_have_hooks_are_refused(tmp_path):
    torch.save({"w": torch.zeros(3, 4).T}, tmp_path / "turned.pth")
    with pytest.raises(BadFile, match="not contiguous"):
        meta.unpack(tmp_path / "turned.pth", tmp_path / "out")
    torch.save({"w": torch.nn.Parameter(torch.zeros(3))}, tmp_path / "parameter.pth")
    with pytest.raises(BadFile, match="_rebuild_parameter"):
        meta.unpack(tmp_path / "parameter.pth", tmp_path / "out2")


def test_a_disk_too_full_to_unpack_is_told(tmp_path, monkeypatch):
    meta_folder(tmp_path / "meta", SHAPE, 1)
    monkeypatch.setattr(meta, "stored_bytes", lambda folder: 2**60)
    with pytest.raises(StoreError, match=f"{2**61} bytes are needed"):
        convert(tmp_path / "meta", tmp_path / "hf", to="hf", files=FILES)
