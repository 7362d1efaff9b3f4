"""GGUF out and in: llama.cpp reads what is written here, with our logits and ids; every cycle of formats keeps the bits."""

from __future__ import annotations

import ctypes
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from camelid import tokenizers
from camelid.checkpoints import directory, gguf_file
from camelid.checkpoints.convert import convert
from camelid.checkpoints.gguf import load_gguf, save_gguf
from camelid.checkpoints.gguf_file import Encoded, read_header, serialise
from camelid.checkpoints.gguf_shape import READ, shape_keys
from camelid.checkpoints.names import HEAD
from camelid.dialogue.message import Message
from camelid.dialogue.published import LLAMA_2, LLAMA_3
from camelid.dialogue.template import Template, render
from camelid.errors import BadFile, NonFinite, StoreError, UsageError
from camelid.models.shape import LlamaShape, RopeScaling
from camelid.quantize import blocks
from camelid.quantize.forms import FORMS
from camelid.recipe import Finetune
from camelid.recipes import MEMBERS
from camelid.tokenizers import byte_bpe, sentencepiece
from camelid.tokenizers.extend import with_controls
from camelid.tokenizers.hugging_face import from_document
from tests.checkpoints.models import SCALINGS, same_bits, weights
from tests.conftest import size

SHAPE = LlamaShape(layers=2, width=64, heads=4, kv_heads=2, head_width=16, hidden=96, vocab=352, context=128)
TEXT = "The camel walked 120 miles to Aswan, where dates were sold for 3 coins.\n" * 20


@pytest.fixture(scope="module")
def pieces():
    return sentencepiece.train([TEXT], vocab=320).with_controls(["[PAD]"])


@pytest.fixture(scope="module")
def ranks():
    return byte_bpe.train([TEXT], vocab=290)


@pytest.fixture(scope="module")
def llama_cpp():
    return pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")


STRETCHED = SCALINGS | {"yarn with attention": RopeScaling("yarn", 4.0, original=32, attention=1.25)}


def opened(llama_cpp, path, **settings):
    plain = {"n_ctx": 512, "n_threads": 1, "n_threads_batch": 1, "logits_all": True, "verbose": False}
    floats = {"type_k": 0, "type_v": 0, "flash_attn": False}  # keys and values in float32, as ours
    return llama_cpp.Llama(str(path), **plain, **floats, **settings)


def their_logits(llama_cpp, path, ids):
    model = opened(llama_cpp, path)
    try:
        model.eval(ids)
        return torch.from_numpy(np.array(model._scores[: len(ids)]))
    finally:
        model.close()


def our_logits(path, ids):
    with torch.no_grad():
        return directory.load_model(path, torch.float32).eval()(torch.tensor([ids]))[0]


# --- with llama.cpp ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scaling", "tied"),
    [
        *((name, False) for name in ("plain", "linear", "ntk", "yarn", "yarn with attention", "llama3")),
        ("llama3", True),
    ],
)
def test_logits_are_llama_cpps_for_every_stretching(tmp_path, llama_cpp, ranks, scaling, tied):
    shape = replace(SHAPE, scaling=STRETCHED[scaling], tied=tied, theta=5e5 if tied else 1e4)
    path = save_gguf(tmp_path / "m.gguf", weights(shape), shape=shape, tokenizer=ranks)
    ids = torch.randint(shape.vocab, (100,), generator=torch.Generator().manual_seed(1)).tolist()
    ours = our_logits(path, ids)
    assert float((their_logits(llama_cpp, path, ids) - ours).abs().max() / ours.abs().max()) < 1e-4


@pytest.mark.parametrize("form", ["f16", "bf16", "q8_0", "q4_0"])
def test_llama_cpp_reads_the_same_weights_in_every_form(tmp_path, llama_cpp, ranks, form):
    """llama.cpp rounds activations beside narrow weights; beside the same weights widened to float32 it does not."""
    narrow = save_gguf(tmp_path / "narrow.gguf", weights(SHAPE), shape=SHAPE, form=form, tokenizer=ranks)
    convert(narrow, tmp_path / "wide.gguf", to="gguf", type="f32")
    ids = torch.randint(SHAPE.vocab, (60,), generator=torch.Generator().manual_seed(1)).tolist()
    ours = our_logits(narrow, ids)
    scale = ours.abs().max()
    assert float((their_logits(llama_cpp, tmp_path / "wide.gguf", ids) - ours).abs().max() / scale) < 1e-4
    assert float((their_logits(llama_cpp, narrow, ids) - ours).abs().max() / scale) < 0.08


def quantised_by_llama_cpp(llama_cpp, source, target, file_type):
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = file_type, 1
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(settings)) == 0


@pytest.mark.parametrize(("form", "file_type"), [("q8_0", 7), ("q4_0", 2)])
def test_quantised_tensors_are_those_of_llama_cpps_quantizer(tmp_path, llama_cpp, ranks, form, file_type):
    path = save_gguf(tmp_path / "f32.gguf", weights(SHAPE), shape=SHAPE, tokenizer=ranks)
    quantised_by_llama_cpp(llama_cpp, path, tmp_path / "theirs.gguf", file_type)
    convert(path, tmp_path / "ours.gguf", to="gguf", type=form)
    theirs, ours = load_gguf(tmp_path / "theirs.gguf"), load_gguf(tmp_path / "ours.gguf")
    same = [name for name in ours.tensors() if theirs.stored(name).form is ours.stored(name).form]
    assert set(ours.tensors()) - set(same) <= {HEAD}
    assert all(torch.equal(theirs.stored(name).data, ours.stored(name).data) for name in same)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("form", "file_type"), [("q4_k_m", 15), ("q6_k", 18)])
def test_each_tensor_has_the_form_that_llama_cpps_quantizer_gives_it(tmp_path, llama_cpp, ranks, form, file_type, tied):
    """Nine layers, so that the first and last eighth and the thirds between are told apart; and llama.cpp reads it."""
    shape = replace(SHAPE, width=256, hidden=256, head_width=64, layers=9, tied=tied)
    path = save_gguf(tmp_path / "f32.gguf", weights(shape), shape=shape, tokenizer=ranks)
    quantised_by_llama_cpp(llama_cpp, path, tmp_path / "theirs.gguf", file_type)
    convert(path, tmp_path / "ours.gguf", to="gguf", type=form)
    theirs, ours = load_gguf(tmp_path / "theirs.gguf"), load_gguf(tmp_path / "ours.gguf")
    assert ours.header.metadata["general.file_type"] == theirs.header.metadata["general.file_type"] == file_type
    forms = {name: (ours.stored(name).form.name, theirs.stored(name).form.name) for name in ours.tensors()}
    assert all(one == other for one, other in forms.values()), forms
    assert len({one for one, _ in forms.values()}) == (3 if form == "q4_k_m" else 2)
    convert(tmp_path / "ours.gguf", tmp_path / "wide.gguf", to="gguf", type="f32")
    ids = torch.randint(shape.vocab, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    mine = our_logits(tmp_path / "ours.gguf", ids)
    assert float((their_logits(llama_cpp, tmp_path / "wide.gguf", ids) - mine).abs().max() / mine.abs().max()) < 1e-3
    with pytest.raises(UsageError, match="no whole number of blocks of 256"):
        save_gguf(tmp_path / "no.gguf", weights(SHAPE), shape=SHAPE, form=form, tokenizer=ranks)


@pytest.mark.parametrize("file_type", [3, 8, 9, 10, 12, 15, 17, 18, 25], ids=lambda n: f"file type {n}")
def test_what_llama_cpps_quantizer_wrote_is_read_with_its_values(tmp_path, llama_cpp, ranks, file_type):
    """Q4_1, Q5_0, Q5_1, Q2_K, Q3_K_M, Q4_K_M, Q5_K_M, Q6_K, IQ4_NL, with the mixtures that they bring."""
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    shape = replace(SHAPE, width=256, hidden=512, head_width=64, layers=1)
    path = save_gguf(tmp_path / "f32.gguf", weights(shape), shape=shape, tokenizer=ranks)
    quantised_by_llama_cpp(llama_cpp, path, tmp_path / "theirs.gguf", file_type)
    found = load_gguf(tmp_path / "theirs.gguf")
    assert found.quantised and found.shape == shape and found.tokenizer.digest() == ranks.digest()
    for tensor in gguf.GGUFReader(tmp_path / "theirs.gguf").tensors:
        place = found.header.places[tensor.name]
        raw = torch.from_numpy(np.array(tensor.data).view(np.uint8)).reshape(*place.shape[:-1], -1)
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(blocks.decode(place.form.name, raw).numpy(), expected), tensor.name
    original = weights(shape)
    for name, tensor in found.tensors().items():
        assert float((tensor - original[name]).norm() / original[name].norm()) < 0.45, name


HARD = [
    "", " ", "   three", "Aswan", " The camel", "\n\n\t x \r\n", "é漢\U0001f600🏳️‍🌈", "naïve cafe\u0301", "1234567 0.5",
    "<s></s>[INST]<<SYS>>", "<|eot_id|><|begin_of_text|>", "<0x0A><unk>[PAD]", "don't we'll I'VE", "\u00a0\u2003\u3000x", "…—“”",
    "ﬀ Ⅷ ½ x²", "\u202eabc\u202c", "\u200b\u200d", "a" * 50, "العربية हिन्दी ไทย", "\ufeffx", "x\x01\x7f", "--- ### ***",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["pieces", "ranks", "llama2.model", "llama3.model"])
def test_token_ids_are_llama_cpps_on_a_hard_corpus(tmp_path, llama_cpp, request, kind):
    if kind.endswith(".model"):
        tokenizer = tokenizers.load(request.getfixturevalue("shared") / "tokenizers" / kind)
    else:
        tokenizer = request.getfixturevalue(kind)
    shape = replace(SHAPE, vocab=tokenizer.size, width=32, head_width=8, layers=1, tied=True)
    path = save_gguf(tmp_path / "m.gguf", weights(shape), shape=shape, tokenizer=tokenizer)
    model = opened(llama_cpp, path)
    try:
        for text in HARD:
            theirs = model.tokenize(text.encode(), add_bos=False, special=False)
            assert theirs == tokenizer.encode(text), text
        assert (model.token_bos(), model.token_eos()) == (tokenizer.bos, tokenizer.eos)
    finally:
        model.close()


@pytest.mark.parametrize("kind", ["pieces", "ranks"])
def test_the_chat_template_in_the_file_renders_the_ids_of_our_renderer(tmp_path, llama_cpp, request, kind):
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    tokenizer = request.getfixturevalue(kind)
    template = LLAMA_2 if kind == "pieces" else LLAMA_3
    path = save_gguf(tmp_path / "m.gguf", weights(SHAPE), shape=SHAPE, tokenizer=tokenizer, template=template)
    chats = [
        [Message("user", "Where is Aswan?")],
        [
            Message("system", "Be brief."),
            Message("user", "Hi"),
            Message("assistant", "Hello."),
            Message("user", "Go on"),
        ],
    ]
    model = opened(llama_cpp, path)
    try:
        written = model.metadata["tokenizer.chat_template"]
        formatter = Jinja2ChatFormatter(written, eos_token="", bos_token="", add_generation_prompt=True)
        for chat in chats:
            said = [{"role": message.role, "content": message.content} for message in chat]
            theirs = model.tokenize(formatter(messages=said).prompt.encode(), add_bos=False, special=True)
            assert theirs == render(template, chat, tokenizer, generate=True).ids
    finally:
        model.close()


def members() -> dict[str, tuple[Template, tuple[str, ...]]]:
    """The template of every member that has one, and the control tokens it brings."""
    stages = [stage for member in MEMBERS.values() for stage in member.make(member.sizes[-1]).stages]
    tuned = [stage for stage in stages if isinstance(stage, Finetune)]
    return {f"{stage.name} {number}": (stage.prompt, stage.controls) for number, stage in enumerate(tuned)}


def test_the_template_of_every_member_renders_our_ids_through_llama_cpps_formatter(tmp_path, llama_cpp, pieces, ranks):
    """A first question, with a system message where there is a place for one, to where the answer begins."""
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    tried = set()
    for name, (template, controls) in members().items():
        for base in (pieces, ranks):
            if (key := (template, base.digest())) in tried:
                continue
            tried.add(key)
            tokenizer = with_controls(base, controls) if controls else base
            shape = replace(SHAPE, vocab=tokenizer.size, layers=1)
            path = tmp_path / f"{len(tried)}.gguf"
            save_gguf(path, weights(shape), shape=shape, tokenizer=tokenizer, template=template)
            model = opened(llama_cpp, path, vocab_only=True)
            try:
                written = model.metadata["tokenizer.chat_template"]
                formatter = Jinja2ChatFormatter(written, eos_token="", bos_token="", add_generation_prompt=True)
                for system in [[], [Message("system", "Be brief.")]][: 1 + template.takes_system]:
                    chat = [*system, Message("user", "Where is Aswan?")]
                    said = [{"role": message.role, "content": message.content} for message in chat]
                    prompt = formatter(messages=said).prompt.encode()
                    theirs = model.tokenize(prompt, add_bos=False, special=True)
                    assert theirs == render(template, chat, tokenizer, generate=True).ids, (name, type(base).__name__)
            finally:
                model.close()
    assert len(tried) >= 20


# --- there and back ---------------------------------------------------------------------------------------------------

FORMATS = ("hf", "meta", "gguf")
CYCLES = [
    (start, *way)
    for length in (2, 3, 4)
    for start in FORMATS
    for way in itertools.product(FORMATS, repeat=length)
    if way[-1] == start and all(a != b for a, b in itertools.pairwise((start, *way)))
]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_every_cycle_of_formats_keeps_every_bit(tmp_path, ranks, dtype):
    """N6: every cycle of up to four steps ends in the tensors, logits, tokenizer and template that it began with."""
    llama3 = RopeScaling("llama3", 8.0, original=8192, low=1.0, high=4.0)
    shape = replace(SHAPE, scaling=llama3, theta=5e5, eps=1e-6)
    state = weights(shape, dtype=dtype)
    directory.save(tmp_path / "hf", state, shape=shape, tokenizer=ranks, template=LLAMA_3, provenance={"seed": 7})
    ids = torch.randint(shape.vocab, (size(512),), generator=torch.Generator().manual_seed(1)).tolist()
    expected = our_logits(tmp_path / "hf", ids)
    made = {("hf",): tmp_path / "hf"}
    steps = {cycle[:end] for cycle in CYCLES if cycle[0] == "hf" for end in range(2, len(cycle) + 1)}
    for way in sorted(steps, key=len):
        target = tmp_path / ("-".join(way) + (".gguf" if way[-1] == "gguf" else ""))
        made[way] = convert(made[way[:-1]], target, to=way[-1])
        if way[-1] == "meta":
            continue
        found = directory.load(target)
        assert same_bits(dict(found.tensors()), state) and found.shape == shape, way
        assert found.tokenizer.digest() == ranks.digest() and found.template == LLAMA_3, way
        assert found.generation == directory.load(tmp_path / "hf").generation and found.provenance["seed"] == 7, way
        if len(way) == 5 or way == ("hf", "gguf"):
            assert torch.equal(our_logits(target, ids), expected), way
    assert {way for way in made if len(way) > 1 and way[0] == way[-1]} == {c for c in CYCLES if c[0] == "hf"}


@pytest.mark.parametrize("start", ["meta", "gguf"])
def test_cycles_from_the_other_formats_keep_every_byte_of_the_tensors(tmp_path, pieces, start):
    shape = replace(SHAPE, vocab=321)
    directory.save(
        tmp_path / "hf", weights(shape, dtype=torch.bfloat16), shape=shape, tokenizer=pieces, template=LLAMA_2
    )
    names = {"hf": "hf{}", "meta": "meta{}", "gguf": "gguf{}.gguf"}
    first = convert(tmp_path / "hf", tmp_path / names[start].format(0), to=start)
    cycles = [cycle for cycle in CYCLES if cycle[0] == start]
    assert sorted(map(len, cycles)) == [3, 3, 4, 4, 5, 5, 5, 5, 5, 5]
    made = {(start,): first}
    for way in sorted({cycle[:end] for cycle in cycles for end in range(2, len(cycle) + 1)}, key=len):
        here = made[way] = convert(made[way[:-1]], tmp_path / names[way[-1]].format("-".join(("", *way))), to=way[-1])
        if way not in cycles:
            continue
        if start == "gguf":
            old, new = read_header(first), read_header(here)
            keys = {key for key in old.metadata if key != "camelid.model"}
            assert all(repr(old.metadata[key]) == repr(new.metadata[key]) for key in keys)
            lengths = [max(place.end for place in header.places.values()) for header in (old, new)]
            begins = [min(place.begin for place in header.places.values()) for header in (old, new)]
            data = [path.read_bytes()[a:b] for path, a, b in zip((first, here), begins, lengths, strict=True)]
            assert data[0] == data[1]
        else:
            assert (here / "consolidated.00.pth").read_bytes() == (first / "consolidated.00.pth").read_bytes()


@pytest.mark.parametrize("kind", ["llama2.model", "llama3.model"])
def test_published_tokenizers_come_back_with_their_digest(tmp_path, shared, kind):
    tokenizer = tokenizers.load(shared / "tokenizers" / kind)
    shape = replace(SHAPE, vocab=tokenizer.size + 64, width=8, head_width=2, kv_heads=4, layers=1, tied=True)
    found = load_gguf(save_gguf(tmp_path / "m.gguf", weights(shape), shape=shape, tokenizer=tokenizer))
    assert found.tokenizer.digest() == tokenizer.digest() and found.tokenizer.size == tokenizer.size


def test_a_tokenizer_json_of_pieces_gets_scores_that_mean_its_merges(tmp_path, pieces):
    document = json.loads(pieces.files()["tokenizer.json"])
    tokenizer = from_document(document, "tokenizer.json", bos="<s>", eos="</s>", pad="[PAD]")
    found = load_gguf(save_gguf(tmp_path / "m.gguf", weights(SHAPE), shape=SHAPE, tokenizer=tokenizer)).tokenizer
    assert [found.encode(text) for text in HARD] == [tokenizer.encode(text) for text in HARD]
    assert found.controls == tokenizer.controls and (found.bos, found.eos, found.pad) == (1, 2, 320)


def test_an_unknown_token_that_llama_cpps_converter_calls_control_is_known_again(tmp_path, pieces):
    path = save_gguf(tmp_path / "m.gguf", weights(SHAPE), shape=SHAPE, tokenizer=pieces)
    header, data = read_header(path), gguf_file.Blocks(read_header(path))
    keys = {name: value for name, value in header.metadata.items() if not name.startswith("camelid.")}
    kinds = keys["tokenizer.ggml.token_type"].copy()
    assert kinds[0] == 2
    kinds[0] = 3
    tensors = {
        name: Encoded(place.form, place.shape, lambda name=name: data[name]) for name, place in header.places.items()
    }
    foreign = {**keys, "tokenizer.ggml.token_type": kinds}
    (tmp_path / "foreign.gguf").write_bytes(b"".join(map(bytes, serialise(foreign, tensors))))
    found = load_gguf(tmp_path / "foreign.gguf").tokenizer
    assert [found.encode(text) for text in HARD] == [pieces.encode(text) for text in HARD]
    assert found.controls == pieces.controls and (found.bos, found.eos) == (1, 2)


def test_a_foreign_chat_template_goes_through_every_format_as_it_stands(tmp_path, ranks):
    """Kept and never run; in transformers' two places: a file of its own, and the tokenizer's settings, by name."""
    text = "{# a foreign text #}{% for x in range(9**9) %}<|start_header_id|>é<|eot_id|>{% endfor %}"
    directory.save(tmp_path / "hf", weights(SHAPE), shape=SHAPE, tokenizer=ranks)
    for name in ("camelid.json", "manifest.json"):
        (tmp_path / "hf" / name).unlink()
    config = tmp_path / "hf" / "tokenizer_config.json"
    named = [{"name": "tools", "template": "x"}, {"name": "default", "template": text}]
    config.write_text(json.dumps({**json.loads(config.read_text()), "chat_template": named}))
    path = tmp_path / "hf"
    assert directory.load(path).chat_template == text and directory.load(path).template is None
    for number, to in enumerate(("gguf", "hf", "meta", "hf", "meta", "gguf")):
        path = convert(path, tmp_path / f"{number}{'.gguf' if to == 'gguf' else ''}", to=to)
        if to != "meta":
            assert directory.load(path).chat_template == text and directory.load(path).template is None
    (tmp_path / "hf" / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(BadFile, match=r"chat_template\.jinja \(byte 0\): is not UTF-8"):
        _ = directory.load(tmp_path / "hf").chat_template


def test_a_foreign_file_is_read_by_its_own_keys(tmp_path, ranks):
    """As the gguf package writes it, without a word of ours; its norms, widened as always, come back as the matrices are."""
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    shape = replace(SHAPE, scaling=RopeScaling("llama3", 32.0, original=8192), theta=5e5, tied=True)
    state = weights(shape, dtype=torch.float16)
    ours = save_gguf(tmp_path / "ours.gguf", state, shape=shape, tokenizer=ranks)
    reader, writer = gguf.GGUFReader(ours), gguf.GGUFWriter(tmp_path / "foreign.gguf", "llama")
    for name, field in reader.fields.items():
        if not name.startswith(("GGUF.", "camelid.", "general.architecture")):
            kind, inner = field.types[0], field.types[-1]
            writer.add_key_value(name, field.contents(), kind, inner if len(field.types) > 1 else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = load_gguf(tmp_path / "foreign.gguf")
    assert found.shape == shape and found.told == {} and found.tokenizer.digest() == ranks.digest()
    assert same_bits(dict(found.tensors()), state)
    assert found.generation.eos == (ranks.eos, ranks.controls["<|eot_id|>"])


def test_the_gguf_package_reads_what_is_written_here(tmp_path, pieces):
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    state = weights(SHAPE)
    reader = gguf.GGUFReader(save_gguf(tmp_path / "m.gguf", state, shape=SHAPE, form="q8_0", tokenizer=pieces))
    mine = read_header(tmp_path / "m.gguf")
    assert {tensor.name: (tensor.data_offset, tensor.n_bytes) for tensor in reader.tensors} == {
        name: (place.begin, place.end - place.begin) for name, place in mine.places.items()
    }
    for name, value in mine.metadata.items():
        theirs = reader.fields[name].contents()
        assert list(value) == theirs if isinstance(value, np.ndarray) else value == theirs, name


# --- what cannot be, and what is told ---------------------------------------------------------------------------------


def test_what_cannot_be_stored_is_refused_before_anything_is_written(tmp_path):
    shape = replace(SHAPE, hidden=100)
    with pytest.raises(UsageError, match=r"rows of 100 weights \(2 tensors\).*use f16, bf16 or f32"):
        save_gguf(tmp_path / "m.gguf", weights(shape), shape=shape, form="q4_0")
    with pytest.raises(UsageError, match="dynamic"):
        save_gguf(tmp_path / "m.gguf", weights(SHAPE), shape=replace(SHAPE, scaling=RopeScaling("dynamic", 2.0)))
    with pytest.raises(UsageError, match="from 16 to 2"):
        save_gguf(tmp_path / "m.gguf", weights(SHAPE), shape=replace(SHAPE, scaling=SCALINGS["yarn, all said"]))
    with pytest.raises(UsageError, match="name a type"):
        save_gguf(tmp_path / "m.gguf", weights(SHAPE, dtype=torch.float64), shape=SHAPE)
    state = weights(SHAPE)
    state["model.layers.1.mlp.up_proj.weight"][3, 4] = 1e6
    with pytest.raises(NonFinite, match=r"layers.1.mlp.up_proj.weight: f16"):
        save_gguf(tmp_path / "m.gguf", state, shape=SHAPE, form="f16")
    assert list(tmp_path.iterdir()) == []
    save_gguf(tmp_path / "m.gguf", state, shape=SHAPE)
    with pytest.raises(StoreError, match="exists"):
        save_gguf(tmp_path / "m.gguf", state, shape=SHAPE)


def test_quantised_weights_are_decoded_only_when_a_type_is_named(tmp_path, ranks):
    save_gguf(tmp_path / "m.gguf", weights(SHAPE), shape=SHAPE, form="q4_0", tokenizer=ranks)
    with pytest.raises(UsageError, match="name f32, f16 or bf16"):
        convert(tmp_path / "m.gguf", tmp_path / "hf", to="hf")
    convert(tmp_path / "m.gguf", tmp_path / "hf", to="hf", type="f32")
    found, decoded = directory.load(tmp_path / "hf"), load_gguf(tmp_path / "m.gguf")
    assert same_bits(dict(found.tensors()), dict(decoded.tensors()))
    assert found.provenance["converted_from"]["forms"] == {"q4_0": 15, "f32": 5, "q8_0": 1}
    assert decoded.stored(HEAD).form is FORMS["q8_0"] and not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("general.architecture", "gemma", "only Llama models"),
        ("llama.block_count", None, "block_count: is missing"),
        ("llama.expert_count", 8, "expert_count"),
        ("llama.attention.sliding_window", 4096, "may change what the model computes"),
        ("llama.rope.scaling.type", "longrope", "none, linear, yarn"),
        ("llama.rope.dimension_count", 8, "head width"),
        ("llama.attention.head_count", 3, "kv_heads"),
        ("llama.block_count", 3, "too few for 3 layers"),
        ("llama.block_count", 10**9, "whole number from 1 to 4096"),
        ("llama.embedding_length", 128, "where the keys need"),
        ("split.count", 2, "llama-gguf-split"),
        ("tokenizer.ggml.pre", "qwen2", "none of llama-bpe"),
        ("tokenizer.ggml.bos_token_id", 9999, "is no id"),
        ("tokenizer.ggml.bos_token_id", 5, "no control token"),
        ("tokenizer.ggml.merges", ["a"], "merges"),
    ],
)
def test_files_that_are_no_such_model_are_refused_by_name(tmp_path, ranks, key, value, told):
    path = save_gguf(tmp_path / "m.gguf", weights(SHAPE), shape=SHAPE, tokenizer=ranks)
    header, data = read_header(path), gguf_file.Blocks(read_header(path))
    keys = {name: found for name, found in header.metadata.items() if name != "camelid.model"}
    keys = {**keys, key: value} if value is not None else {k: v for k, v in keys.items() if k != key}
    tensors = {
        name: Encoded(place.form, place.shape, lambda name=name: data[name]) for name, place in header.places.items()
    }
    (tmp_path / "bad.gguf").write_bytes(b"".join(map(bytes, serialise(keys, tensors))))
    with pytest.raises(BadFile, match=told):
        load_gguf(tmp_path / "bad.gguf").tokenizer.encode("x")


def test_a_width_that_only_the_keys_have_costs_nothing_before_it_is_refused(tmp_path, ranks):
    """Keys and camelid's own word agree on heads of 2^30; the factors for them would take gigabytes."""
    shape = replace(SHAPE, scaling=SCALINGS["llama3"])
    path = save_gguf(tmp_path / "m.gguf", weights(shape), shape=shape, tokenizer=ranks)
    header, data = read_header(path), gguf_file.Blocks(read_header(path))
    keys = dict(header.metadata) | shape_keys(replace(shape, head_width=2**30))
    keys["camelid.model"] = keys["camelid.model"].replace('"head_width": 16', f'"head_width": {2**30}')
    tensors = {
        name: Encoded(place.form, place.shape, lambda name=name: data[name]) for name, place in header.places.items()
    }
    for own in (True, False):
        chosen = {key: value for key, value in keys.items() if own or key != "camelid.model"}
        (tmp_path / "bad.gguf").write_bytes(b"".join(map(bytes, serialise(chosen, tensors))))
        with pytest.raises(BadFile, match=r"rope_freqs\.weight"):
            load_gguf(tmp_path / "bad.gguf")


def test_a_template_given_alone_comes_back(tmp_path, ranks):
    save_gguf(tmp_path / "m.gguf", weights(SHAPE), shape=SHAPE, tokenizer=ranks, template=LLAMA_3)
    assert load_gguf(tmp_path / "m.gguf").template == LLAMA_3


def test_a_file_of_ours_whose_keys_were_edited_is_refused(tmp_path):
    path = save_gguf(tmp_path / "m.gguf", weights(SHAPE), shape=SHAPE)
    data = path.read_bytes()
    theta = np.float32(1e4).tobytes()
    assert data.count(theta) == 1
    path.write_bytes(data.replace(theta, np.float32(2e4).tobytes()))
    with pytest.raises(BadFile, match=r"rope.freq_base: 20000.0 is not what camelid.model says"):
        load_gguf(path)


def test_every_key_of_a_shape_is_understood_when_read_again():
    for name, scaling in STRETCHED.items():
        if name not in ("dynamic", "yarn, all said"):
            assert {key.removeprefix("llama.") for key in shape_keys(replace(SHAPE, scaling=scaling))} <= READ
