"""config.json: to a shape and back, transformers' own in both layouts, and nothing odd passed over in silence."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from transformers import LlamaConfig

from camelid.checkpoints.huggingface import Config, Generation, config_to, generation_to, read_config, read_generation
from camelid.errors import BadFile, UsageError
from camelid.models.shape import SIZES, RopeScaling
from camelid.nn.scaling import frequencies
from tests.checkpoints.models import SCALINGS, SHAPE


def written(path, content):
    path.write_text(json.dumps(content))
    return path


def plain(**changes):
    return {**config_to(Config(SHAPE, "float32", 1, (2,), None)), **changes}


@pytest.mark.parametrize("name", SIZES)
def test_every_published_shape_is_read_back_as_written(tmp_path, name):
    config = Config(SIZES[name], "bfloat16", 1, (2, 3), 0)
    assert read_config(written(tmp_path / "config.json", config_to(config))) == config


@pytest.mark.parametrize("name", SCALINGS)
def test_every_scaling_is_read_back_with_the_same_rotations(tmp_path, name):
    shape = replace(SHAPE, scaling=SCALINGS[name])
    found = read_config(written(tmp_path / "config.json", config_to(Config(shape)))).shape

    def speeds(shape):
        return frequencies(shape.theta, shape.head_width, shape.scaling, context=shape.context, length=1000)

    assert speeds(found) == speeds(shape)
    if name != "ntk":  # which is written as the larger base that it is
        assert found == shape


@pytest.mark.parametrize("name", [name for name in SCALINGS if name != "ntk"])
def test_transformers_own_layout_says_the_same_shape(tmp_path, name):
    """Version 4's layout goes in, version 5's comes out of transformers, and both mean one shape to us."""
    shape = replace(SHAPE, scaling=SCALINGS[name], theta=5e5)
    old = config_to(Config(shape, "float32", 1, (2,), None))
    LlamaConfig(**old).save_pretrained(tmp_path)
    new = json.loads((tmp_path / "config.json").read_text())
    assert "rope_parameters" in new and "rope_scaling" not in new
    assert read_config(tmp_path / "config.json").shape == shape


def test_what_old_files_leave_out_has_transformers_defaults(tmp_path):
    content = plain(rope_scaling={"type": "linear", "factor": 2})
    for key in ("rope_theta", "num_key_value_heads", "head_dim", "architectures", "hidden_act"):
        del content[key]
    found = read_config(written(tmp_path / "c", content)).shape
    assert found == replace(SHAPE, kv_heads=4, scaling=RopeScaling("linear", 2.0))


def test_harmless_keys_are_listed_and_minus_one_is_no_id(tmp_path):
    found = read_config(written(tmp_path / "c", plain(use_cache=True, sep_token_id=None, pad_token_id=-1)))
    assert found.ignored == ("sep_token_id", "use_cache") and found.pad is None


REFUSALS = {
    "auto_map": ({"auto_map": {"AutoModel": "evil.Model"}}, "code of its own"),
    "trust": ({"trust_remote_code": True}, "cannot vouch"),
    "implementation": ({"_attn_implementation_internal": "x/y"}, "does not choose the code"),
    "quantised": ({"quantization_config": {"bits": 4}}, "quant_method: None"),
    "family": ({"model_type": "mistral"}, "'mistral' is not 'llama'"),
    "class": ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
    "attention bias": ({"attention_bias": True}, "biases are not part"),
    "mlp bias": ({"mlp_bias": True}, "biases are not part"),
    "activation": ({"hidden_act": "gelu"}, "'gelu'"),
    "dropout": ({"attention_dropout": 0.1}, "only 0.0 can"),
    "partial rotary": ({"partial_rotary_factor": 0.5}, "only 1.0 can"),
    "unknown key": ({"sliding_windows": 4096}, "may change what the model computes"),
    "misspelt key": ({"rope_thetas": 1e4}, "did you mean 'rope_theta'"),
    "heads": ({"num_attention_heads": 0}, "no whole number from 1"),
    "true": ({"num_hidden_layers": True}, "no whole number"),
    "huge": ({"hidden_size": 10**30}, "a number of 100 bits"),
    "layers": ({"num_hidden_layers": 2**31 - 1}, "from 1 to 4096"),
    "many heads": ({"num_attention_heads": 2**31 - 1, "num_key_value_heads": 2**30}, "from 1 to 65536"),
    "missing": ({"vocab_size": None}, "vocab_size: is missing"),
    "grouping": ({"num_key_value_heads": 3}, "do not divide 4 heads"),
    "dtype": ({"torch_dtype": "int4"}, "'int4' is none of"),
    "eps": ({"rms_norm_eps": "small"}, "'small' is no number"),
    "rope kind": ({"rope_scaling": {"rope_type": "longrope"}}, "'longrope' is none of"),
    "rope key": ({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "betas": 3}}, "betas: 3 is not understood"),
    "rope mscale": ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "mscale": 0.7}}, "mscale: 0.7"),
    "rope factor": ({"rope_scaling": {"rope_type": "linear", "factor": 0.5}}, "0.5 does not stretch"),
    "rope twice": ({"rope_scaling": {"type": "default"}, "rope_parameters": {"type": "default"}}, "stands beside"),
    "two thetas": ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}, "rope_scaling": None}, "500000.0 here"),
    "two kinds": ({"rope_scaling": {"rope_type": "linear", "type": "yarn", "factor": 2.0}}, "disagree"),
    "llama3 half said": ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "llama3 needs both"),
    "dynamic elsewhere": (
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 7}}, "7 differs"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_kept_is_refused_by_name(tmp_path, name):
    changes, told = REFUSALS[name]
    with pytest.raises(BadFile, match=told):
        read_config(written(tmp_path / "config.json", plain(**changes)))


def test_everything_wrong_is_told_at_once(tmp_path):
    with pytest.raises(BadFile) as caught:
        read_config(written(tmp_path / "c", plain(model_type="gpt2", mlp_bias=True, vocab_size=-1, zzz=1)))
    for key in ("model_type", "mlp_bias", "vocab_size", "zzz"):
        assert key in str(caught.value)


def test_dynamic_scaling_of_another_context_cannot_be_written():
    shape = replace(SHAPE, scaling=RopeScaling("dynamic", 2.0, original=64))
    with pytest.raises(UsageError, match="64 cannot be written beside a context of 128"):
        config_to(Config(shape))


def test_generation_settings_are_read_back_as_written(tmp_path):
    generation = Generation(1, (2, 3), 0, 0.6, 0.9, 40)
    found = read_generation(written(tmp_path / "g", dict(generation_to(generation))))
    assert replace(found, ignored=()) == generation and found.ignored == ("do_sample",)
    for wrong in (
        {"top_p": 2},
        {"temperature": -1},
        {"eos_token_id": "x"},
        {"auto_map": {"a": "b"}},
        [],
        {"top_k": 0.5},
    ):
        with pytest.raises(BadFile):
            read_generation(written(tmp_path / "g", wrong))
