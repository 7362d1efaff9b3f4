"""Folders in nf4, int8, GPTQ's and AWQ's layouts: written as their own tools read them, read as these write them."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from camelid.checkpoints import directory, layouts
from camelid.checkpoints.calibration import Settings, windows
from camelid.checkpoints.convert import convert
from camelid.checkpoints.layouts import Layout
from camelid.checkpoints.quantised import METHODS, layout_of, quantised, save
from camelid.checkpoints.safetensors_io import open_tensors, serialise
from camelid.errors import BadFile, UsageError
from camelid.quantize import int4
from tests.checkpoints.models import SHAPE, weights

WIDE = replace(SHAPE, width=64, heads=4, kv_heads=4, head_width=16, hidden=128)
SETTINGS = Settings(group=32)
IDS = torch.randint(64, (6, 40), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "hf"
    directory.save(path, weights(WIDE, dtype=torch.bfloat16), shape=WIDE)
    return directory.load(path)


@pytest.fixture(scope="module")
def folders(original, tmp_path_factory):
    """Each method's folder, and what was put into it."""
    root, made = tmp_path_factory.mktemp("coded"), {}
    for method in layouts.METHODS:
        coded = list(quantised(original, method, ids=IDS, settings=SETTINGS))
        made[method] = (save(root / method, original, coded, layout_of(method, SETTINGS)), coded)
    return made


@pytest.mark.parametrize("method", layouts.METHODS)
def test_a_folder_comes_back_with_every_code_and_says_what_it_is(folders, method):
    path, coded = folders[method]
    found = directory.load(path)
    assert found.quantised and found.forms == {method: 14, "bfloat16": 7} and found.dtype == "float32"
    for each in coded:
        tensor = found.tensors()[each.name]
        assert torch.equal(tensor, each.weights.to(tensor.dtype)), each.name
    assert found.stored_bytes() < 1.3 * sum(each.bytes for each in coded)
    model = directory.build(found, torch.float32)
    assert bool(torch.isfinite(model(IDS)).all())


@pytest.mark.parametrize("method", ["nf4", "int8"])
def test_transformers_and_bitsandbytes_open_the_folder_and_hold_its_weights(folders, method):
    functional = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")
    transformers = pytest.importorskip("transformers")
    path, _ = folders[method]
    theirs, ours = transformers.AutoModelForCausalLM.from_pretrained(path), directory.load(path).tensors()
    for name, module in theirs.named_modules():
        if name.endswith("_proj"):
            expected = ours[f"{name}.weight"]
            weight = module.weight
            if method == "nf4":  # decoded to the folder's bfloat16
                weight.quant_state.dtype = torch.float32
                assert torch.equal(functional.dequantize_4bit(weight.data, weight.quant_state), expected), name
            else:
                scales = weight.SCB if weight.SCB is not None else module.state.SCB
                found = functional.int8_vectorwise_dequant(weight.data, scales)
                torch.testing.assert_close(found, expected, rtol=2**-22, atol=0)
    assert torch.equal(theirs.lm_head.weight.float(), ours["lm_head.weight"].float())


@pytest.mark.parametrize("method", ["nf4", "int8"])
def test_a_folder_that_transformers_and_bitsandbytes_wrote_is_read(original, tmp_path, method):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    transformers = pytest.importorskip("transformers")
    settings = {"nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "int8": {"load_in_8bit": True}}[method]
    config = transformers.BitsAndBytesConfig(**settings)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(original.path, quantization_config=config)
    theirs.save_pretrained(tmp_path / "theirs")
    found = directory.load(tmp_path / "theirs")
    assert found.quantised and found.config.layout == Layout(method, double=method != "nf4")
    for name, tensor in found.tensors().items():
        before = original.tensors()[name].float()
        assert float((tensor - before).norm() / before.norm()) < {"nf4": 0.12, "int8": 0.01}[method]


def source(package: str, *parts: str):
    """One file of a package that may be too old to import whole; skips where the package is absent."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    path = Path(spec.submodule_search_locations[0], *parts)
    made = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(made)
    made.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.q_proj.", "model.layers.1.mlp.down_proj."])
def test_autogptqs_own_code_decodes_the_weights_that_were_meant(folders, name):
    linear = source("auto_gptq", "nn_modules", "qlinear", "qlinear_cuda.py")
    path, _ = folders["gptq"]
    file, ours = open_tensors(path / "model.safetensors"), directory.load(path).tensors()[f"{name}weight"]
    rows, width = ours.shape
    theirs = linear.QuantLinear(4, 32, width, rows, bias=False, weight_dtype=torch.float16)
    theirs.load_state_dict({part: file[name + part].clone() for part in ("qweight", "qzeros", "scales", "g_idx")})
    theirs.autogptq_cuda_available = False
    assert torch.equal(theirs(torch.eye(width, dtype=torch.float16)).T, ours.half())  # it multiplies half floats


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.q_proj.", "model.layers.1.mlp.down_proj."])
def test_autoawqs_own_code_decodes_the_weights_that_were_meant(folders, name):
    packing = source("awq", "utils", "packing_utils.py")
    path, _ = folders["awq"]
    file, ours = open_tensors(path / "model.safetensors"), directory.load(path).tensors()[f"{name}weight"]
    parts = [file[name + part] for part in ("qweight", "qzeros")]
    assert torch.equal(packing.dequantize_gemm(*parts, file[f"{name}scales"].float(), 4, 32).T, ours)


def numbers(packed: torch.Tensor) -> np.ndarray:
    return packed.numpy().view(np.uint32).astype(np.int64)


@pytest.mark.parametrize("layout", [
    Layout("gptq", 8), Layout("gptq", 8, symmetric=True, act_order=True), Layout("gptq", 8, zeros_less_one=False),
    Layout("gptq", 0), Layout("awq", 8), Layout("awq", 0),
], ids=str)  # fmt: skip
def test_codes_lie_where_the_tools_code_says(layout):
    """Number by number, from qlinear_cuda.py and gemm.py: which bits of which int32 hold the code of output n, input m."""
    values = torch.randn(16, 24, generator=torch.Generator().manual_seed(4))
    order = torch.randperm(24, generator=torch.Generator().manual_seed(5))
    placed = int4.in_order(24, layout.group or 24)[order if layout.act_order else slice(None)]
    coded = int4.encode(values, symmetric=layout.symmetric, groups=placed)
    if layout.method == "gptq":
        coded.zeros.clamp_(min=1)  # its first version has no place for a zero of 0
    parts = layouts.pack(layout, "x.weight", coded)
    assert {name: part.shape for name, part in parts.items()} == {
        name: piece.shape for name, piece in layouts.pieces(layout, "x.weight", (16, 24)).items()
    }
    packed, zeros = numbers(parts["x.qweight"]), numbers(parts["x.qzeros"])
    places = [0, 2, 4, 6, 1, 3, 5, 7]
    for n in range(16):
        for m in range(24):
            if layout.method == "gptq":
                assert packed[m // 8, n] >> 4 * (m % 8) & 15 == coded.codes[n, m]
            else:
                assert packed[m, n // 8] >> 4 * places.index(n % 8) & 15 == coded.codes[n, m]
            group, bits = int(placed[m]), 4 * (n % 8 if layout.method == "gptq" else places.index(n % 8))
            less = int(layout.method == "gptq" and layout.zeros_less_one)
            assert (zeros[group, n // 8] >> bits & 15) + less == coded.zeros[n, group]
            assert parts["x.scales"][group, n] == coded.scales[n, group]
    back = layouts.unpack(layout, parts, (16, 24), Path("x"))
    assert all(
        torch.equal(getattr(back, name), getattr(coded, name)) for name in ("codes", "zeros", "scales", "groups")
    )


@pytest.mark.parametrize("shared", [False, True], ids=["a head each", "shared heads"])
def test_awq_scales_change_what_the_model_computes_only_by_rounding(tmp_path, shared, monkeypatch):
    """Undone: with weights that are not rounded, the scaled model's logits are the original's."""
    shape = replace(WIDE, kv_heads=2) if shared else WIDE
    directory.save(tmp_path / "hf", weights(shape, dtype=torch.bfloat16), shape=shape)
    checkpoint = directory.load(tmp_path / "hf")
    from camelid.checkpoints import calibration

    found = list(calibration.calibrated(checkpoint, "awq", IDS, SETTINGS))
    state = {name: tensor.float() for name, tensor in checkpoint.tensors().items()}
    state |= {
        each.name: each.weights.to(torch.bfloat16).float() if each.stored is None else each.weights for each in found
    }
    model = directory.build(checkpoint, torch.float32)
    expected = model(IDS)
    model.load_state_dict(state)
    torch.testing.assert_close(model(IDS), expected, rtol=1e-4, atol=1e-4)
    moved = [
        each.name
        for each in found
        if each.stored is None and not torch.equal(each.weights, checkpoint.tensors()[each.name].float())
    ]
    assert moved, "no norm took any scale: the test tries nothing"


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_looking_at_the_text_helps_on_the_text(original, method):
    seen = list(quantised(original, method, ids=IDS, settings=SETTINGS))
    assert all(each.loss[0] <= each.loss[1] for each in seen)
    assert sum(each.loss[0] for each in seen) < 0.98 * sum(each.loss[1] for each in seen)


def test_without_a_text_there_is_no_gptq(original):
    with pytest.raises(UsageError, match="needs a text"):
        list(quantised(original, "gptq", settings=SETTINGS))
    with pytest.raises(UsageError, match="has 1 ids"):
        windows([1], 100)
    assert windows(list(range(100_000)), 2048).shape == (128, 512)


def test_sizes_that_groups_do_not_fill_are_told_with_the_size_that_would_do(original):
    with pytest.raises(UsageError, match="use --group 64"):
        list(quantised(original, "awq", ids=IDS))


def test_coded_weights_are_decoded_only_when_a_type_is_named(folders, tmp_path):
    path, coded = folders["gptq"]
    with pytest.raises(UsageError, match="name f32, f16 or bf16"):
        convert(path, tmp_path / "m.gguf", to="gguf")
    found = directory.load(convert(path, tmp_path / "m.gguf", to="gguf", type="f32")).tensors()
    assert all(torch.equal(found[each.name].float(), each.weights.float()) for each in coded)


# --- folders of others, and hostile ones ------------------------------------------------------------------------------


def rewritten(path: Path, target: Path, tensors=None, **config) -> Path:
    """The folder as a foreign one, with another quantization_config or other tensors."""
    target.mkdir()
    told = json.loads((path / "config.json").read_text())
    told["quantization_config"] = {**told["quantization_config"], **config}
    (target / "config.json").write_text(json.dumps(told))
    found = {name: tensor.clone() for name, tensor in open_tensors(path / "model.safetensors").items()}
    (tensors or (lambda _: None))(found)
    (target / "model.safetensors").write_bytes(b"".join(serialise(found)))
    return target


def test_biases_of_zeros_are_passed_over_and_others_are_refused(folders, tmp_path):
    path, _ = folders["gptq"]
    name = "model.layers.0.mlp.up_proj.bias"
    zeros = rewritten(path, tmp_path / "zeros", lambda found: found.update({name: torch.zeros(128).half()}))
    assert directory.load(zeros).forms["gptq"] == 14
    ones = rewritten(path, tmp_path / "ones", lambda found: found.update({name: torch.ones(128).half()}))
    with pytest.raises(BadFile, match="is not zero"):
        directory.load(ones)


def test_maps_that_were_left_plain_are_read_as_they_are(folders, original, tmp_path):
    path, _ = folders["nf4"]
    name = "model.layers.0.mlp.up_proj.weight"

    def plain(found):
        for part in [part for part in found if part.startswith(name)]:
            del found[part]
        found[name] = original.tensors()[name].clone()

    found = directory.load(rewritten(path, tmp_path / "mixed", plain))
    assert found.forms == {"nf4": 13, "bfloat16": 8} and torch.equal(found.tensors()[name], original.tensors()[name])


@pytest.mark.parametrize(("method", "config", "told"), [
    ("gptq", {"bits": 3}, "bits: 3 cannot be read"),
    ("gptq", {"group_size": 0}, "is no size of a group"),
    ("gptq", {"checkpoint_format": "marlin"}, "only the layouts gptq and gptq_v2"),
    ("gptq", {"lm_head": True}, "a quantised head"),
    ("gptq", {"surprise": 1}, "surprise: is not a known key"),
    ("gptq", {"quant_method": "gtpq"}, "did you mean 'gptq'"),
    ("gptq", {"quant_method": ["gptq"]}, "cannot be read"),
    ("gptq", {"group_size": 64}, "where config.json needs"),
    ("awq", {"version": "gemv"}, "only gemm is"),
    ("awq", {"zero_point": False}, "zero points"),
    ("nf4", {"bnb_4bit_quant_type": "fp4"}, "only nf4 is read"),
    ("nf4", {"bnb_4bit_use_double_quant": False}, "nested_absmax. is no weight"),
    ("int8", {"load_in_4bit": True}, "neither 4 bits nor 8, or both"),
    ("int8", {"quant_method": "awq", "bits": 4}, "is not a known key"),
])  # fmt: skip
def test_settings_that_cannot_be_read_are_named(folders, tmp_path, method, config, told):
    with pytest.raises(BadFile, match=told):
        directory.load(rewritten(folders[method][0], tmp_path / "odd", **config))


def change(name: str, edit):
    def apply(found):
        found[f"model.layers.0.mlp.up_proj.{name}"] = edit(found[f"model.layers.0.mlp.up_proj.{name}"])

    return apply


@pytest.mark.parametrize(("method", "name", "edit", "told"), [
    ("gptq", "g_idx", lambda t: t + 1, "groups beyond the 2"),
    ("gptq", "g_idx", lambda t: t - 9, "groups beyond the 2"),
    ("gptq", "scales", lambda t: t * torch.inf, "no numbers"),
    ("gptq", "qweight", lambda t: t[:-1], "where config.json needs"),
    ("awq", "qzeros", lambda t: t.short(), "is of I16, not I32"),
    ("int8", "weight_format", lambda t: t + 1, "only rows"),
    ("int8", "SCB", lambda t: -t, "no magnitude"),
    ("nf4", "weight.quant_map", lambda t: t.flip(0), "other levels"),
    ("nf4", "weight.nested_quant_map", lambda t: t * 2, "other levels"),
    ("nf4", "weight.quant_state.bitsandbytes__nf4", lambda t: t[:-3], "quant_state"),
    ("nf4", "weight.quant_state.bitsandbytes__nf4", lambda t: t.repeat(99), "quant_state of"),
    ("nf4", "weight.quant_state.bitsandbytes__nf4",
     lambda t: torch.tensor(list(bytes(t.tolist()).replace(b'"blocksize": 64', b'"blocksize": 32')), dtype=torch.uint8),
     "is not that of"),
    ("nf4", "weight.absmax", lambda t: t[:5], "where config.json needs"),
])  # fmt: skip
def test_tensors_that_contradict_their_layout_are_refused(folders, tmp_path, method, name, edit, told):
    path = rewritten(folders[method][0], tmp_path / "odd", change(name, edit))
    with pytest.raises(BadFile, match=told):
        dict(directory.load(path).tensors())


def test_every_method_is_one_of_the_command_lines():
    from camelid.cli import measuring

    assert set(measuring.FORMS) == set(METHODS) and set(layouts.METHODS) == set(METHODS) - set(measuring.IN_BLOCKS)
    assert sys.modules["camelid.cli.measuring"] is measuring
