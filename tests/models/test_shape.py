import subprocess
import sys

import pytest

from camelid.errors import UsageError
from camelid.models.shape import SIZES, LlamaShape, LoRA, RopeScaling

# Counts by the papers' and model cards' derivation (vocabulary 32,000 or 128,256, free head); Llama 3.2's head is tied.
PRINTED = {
    "llama-7B": 6738415616,
    "llama-13B": 13015864320,
    "llama-33B": 32528943616,
    "llama-65B": 65285660672,
    "llama-2-7B": 6738415616,
    "llama-2-13B": 13015864320,
    "llama-2-34B": 33743970304,
    "llama-2-70B": 68976648192,
    "llama-3-8B": 8030261248,
    "llama-3-70B": 70553706496,
    "llama-3-405B": 405853388800,
    "llama-3.1-8B": 8030261248,
    "llama-3.1-70B": 70553706496,
    "llama-3.1-405B": 405853388800,
    "llama-3.2-1B": 1235814400,  # unverified: as remembered of its model page; the shape itself is sourced
    "llama-3.2-3B": 3212749824,  # unverified: the same
    "openllama-3B": 3426473600,  # counted by hand: no exact number was found in print
    "code-llama-7B": 6738415616 + 2 * 16 * 4096,  # 16 more rows in embedding and head for infilling
    "code-llama-13B": 13015864320 + 2 * 16 * 5120,
    "code-llama-34B": 33743970304,
    "code-llama-70B": 68976648192 + 2 * 16 * 8192,
}


def test_every_published_size_has_its_printed_number_of_parameters():
    assert {name: shape.parameters() for name, shape in SIZES.items()} == PRINTED


def test_feed_forward_widths_follow_the_reference_rule():
    # llama-models, models/llama3/model.py: two thirds of 4 D, times a multiplier, up to a multiple.
    rules = {
        "llama-7B": (1.0, 256), "llama-13B": (1.0, 256), "llama-33B": (1.0, 256), "llama-65B": (1.0, 256),
        "llama-2-34B": (1.0, 256), "llama-2-70B": (1.3, 4096), "llama-3-8B": (1.3, 1024), "llama-3-70B": (1.3, 4096),
        "llama-3-405B": (1.2, 4096), "llama-3.2-1B": (1.5, 256), "llama-3.2-3B": (1.0, 256),
    }  # fmt: skip
    for name, (multiplier, multiple) in rules.items():
        shape = SIZES[name]
        inner = int(multiplier * int(2 * 4 * shape.width / 3))
        assert shape.hidden == -(-inner // multiple) * multiple, name
        assert shape.head_width * shape.heads == shape.width


def test_everything_wrong_with_a_shape_is_said_at_once():
    with pytest.raises(UsageError) as caught:
        LlamaShape(0, 64, True, 1, 2, -3, 1.5, 10, theta=1.0, eps=0.0, scaling=RopeScaling("lama3", 0.1))
    text = str(caught.value)
    for part in ("layers: 0", "heads: True", "hidden: -3", "vocab: 1.5", "theta: 1.0", "eps: 0.0", "'llama3'?"):
        assert part in text
    with pytest.raises(UsageError, match="use a divisor of the heads, such as 2 or 6") as caught:
        LlamaShape(1, 64, 6, 4, 7, 8, 9, 10)
    assert "head_width: 7 is odd" in str(caught.value)
    with pytest.raises(UsageError, match="no exponent"):
        LlamaShape(1, 64, 6, 3, 2, 8, 9, 10, scaling=RopeScaling("ntk", 2.0))


def test_everything_wrong_with_an_adapter_is_said_at_once():
    with pytest.raises(UsageError) as caught:
        LoRA(0, -1, 1.0, ("q_pro", "v_proj", "v_proj"), "wide", ("head",))
    text = str(caught.value)
    for part in ("rank: 0", "alpha: -1", "dropout: 1.0", "'q_proj'?", "names one twice", "'wide'", "'lm_head'"):
        assert part in text
    with pytest.raises(UsageError, match="nothing to adapt"):
        LoRA(4, 8, targets=())


def test_the_factor_of_an_adapter_is_alpha_over_rank_or_its_root():
    assert LoRA(16, 32).factor == 2
    assert LoRA(16, 32, scale="root").factor == 8


def test_shapes_and_counts_are_read_without_pytorch():
    code = "import sys, camelid.models.shape, camelid.models.count; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
