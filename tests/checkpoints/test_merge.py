"""Means and sums of adapters: what they should be by other means, and parents that do not go together."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from camelid.checkpoints import adapter, directory
from camelid.checkpoints.merge import Parent, mean, with_adapters
from camelid.cli import main
from camelid.dialogue.published import LLAMA_2, VICUNA_1_1
from camelid.errors import StoreError, UsageError
from camelid.models.shape import LINEARS, LlamaShape, LoRA
from camelid.tokenizers.extend import with_controls, with_pad
from tests.checkpoints.models import same_bits, weights
from tests.tokenizers.conftest import pieces  # noqa: F401

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what the import itself warns of is not ours
    from peft import PeftModel

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # PEFT asks transformers
SHAPE = LlamaShape(layers=2, width=16, heads=2, kv_heads=1, head_width=8, hidden=24, vocab=320, context=64)
PLAIN = LoRA(rank=3, alpha=6, targets=LINEARS)


@pytest.fixture
def saved(tmp_path: Path, pieces):  # noqa: F811
    """Writes a model of random weights, and says where."""

    def save(name: str, seed: int = 0, *, tokenizer=pieces, dtype=None, template=None, **shape) -> Path:
        own = replace(SHAPE, **{"vocab": pieces.size, **shape})
        state = weights(own, seed=seed)
        return directory.save(
            tmp_path / name, state, shape=own, tokenizer=tokenizer, dtype=dtype, template=template,
            provenance={"member": name},
        )  # fmt: skip

    return save


def worn(base: Path, name: str, seed: int, lora: LoRA = PLAIN, **more) -> Path:
    ground = directory.load(base)
    shape = more.pop("shape", ground.shape)
    draw = torch.Generator().manual_seed(seed)
    state = {n: torch.randn(s, generator=draw) * 0.1 for n, s in adapter.expected(shape, lora).items()}
    path = base.parent / name
    return adapter.save(path, state, lora=lora, shape=shape, base=ground.digest, base_name=str(base), **more)


def test_a_mean_is_the_mean_and_of_equals_the_same_bits(tmp_path: Path, saved) -> None:
    one, two = saved("one", 1, template=LLAMA_2), saved("two", 2, template=VICUNA_1_1)
    made = mean([Parent(one, 0.25), Parent(two, 0.75)], tmp_path / "mean")
    assert len(made.notes) == 1 and "two was tuned in another template" in made.notes[0]
    found = directory.load(made.path)
    a, b = (directory.load(path).tensors() for path in (one, two))
    for name, tensor in found.tensors().items():
        torch.testing.assert_close(tensor.double(), 0.25 * a[name].double() + 0.75 * b[name].double())
    assert found.template == LLAMA_2 and found.provenance["kind"] == "merge"
    shares = [(parent["name"], parent["share"]) for parent in found.provenance["parents"]]
    assert shares == [("one", 0.25), ("two", 0.75)]
    assert found.provenance["parents"][0]["digest"] == directory.load(one).digest
    again = directory.load(mean([Parent(one, 0.5), Parent(one, 0.5)], tmp_path / "same").path)
    assert same_bits(dict(again.tensors()), dict(a))
    with pytest.raises(StoreError):
        mean([Parent(one, 0.5), Parent(two, 0.5)], tmp_path / "mean")


def test_what_two_children_learned_is_added_to_their_parent(tmp_path: Path, saved) -> None:
    paths = [saved(name, seed) for seed, name in enumerate(("parent", "left", "right"))]
    made = mean([Parent(path, share) for path, share in zip(paths, (-1.0, 1.0, 1.0), strict=True)], tmp_path / "sum")
    parent, left, right = (directory.load(path).tensors() for path in paths)
    for name, tensor in directory.load(made.path).tensors().items():
        torch.testing.assert_close(tensor, parent[name] + (left[name] - parent[name]) + (right[name] - parent[name]))


def test_parents_of_two_types_are_kept_in_float32(tmp_path: Path, saved) -> None:
    half, whole = saved("half", 1, dtype=torch.bfloat16), saved("whole", 2)
    assert directory.load(mean([Parent(half, 0.5), Parent(whole, 0.5)], tmp_path / "a").path).dtype == "float32"
    assert directory.load(mean([Parent(half, 0.5), Parent(half, 0.5)], tmp_path / "b").path).dtype == "bfloat16"


def test_parents_that_do_not_go_together_are_refused_with_everything_that_keeps_them_apart(
    tmp_path: Path,
    saved,
    pieces,  # noqa: F811
) -> None:
    one, wider = saved("one"), saved("wider", hidden=32)
    rows = pieces.size + 1
    plain, padded = saved("plain", vocab=rows), saved("padded", tokenizer=with_pad(pieces, "[PAD]"), vocab=rows)
    marked = saved("marked", tokenizer=with_controls(pieces, ("<mark>",)), vocab=rows)
    assert mean([Parent(plain, 0.5), Parent(padded, 0.5)], tmp_path / "more").path.is_dir(), "a vocabulary that goes on"
    with pytest.raises(
        UsageError, match=r"another vocabulary than .*: id \d+ is '<mark>' for '\[PAD\]'; its rows mean"
    ):
        mean([Parent(padded, 0.5), Parent(marked, 0.5)], tmp_path / "no")
    with pytest.raises(UsageError) as caught:
        mean([Parent(one, 0.7), Parent(wider, 0.7)], tmp_path / "no")
    told = str(caught.value)
    assert "shares: 0.7 + 0.7 = 1.4; let them add up to 1" in told
    assert "wider: another shape than" in told and "hidden 32 for 24; only models of one shape have a mean" in told
    with pytest.raises(UsageError, match="merge: 1 model given; name two or more"):
        mean([Parent(one, 1.0)], tmp_path / "no")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("shares", [(1.0, 1.0), (0.5, 2.0)])
def test_adapters_are_added_as_peft_adds_them(tmp_path: Path, saved, shares: tuple[float, float]) -> None:
    base = saved("base")
    folders = [worn(base, "first", 3), worn(base, "second", 4, replace(PLAIN, rank=2, scale="root"), template=LLAMA_2)]
    made = with_adapters(base, [Parent(*one) for one in zip(folders, shares, strict=True)], tmp_path / "both")
    theirs = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base), folders[0], adapter_name="first")
    theirs.load_adapter(folders[1], adapter_name="second")
    theirs.add_weighted_adapter(["first", "second"], list(shares), "both", combination_type="cat")
    theirs.set_adapter("both")
    ids = torch.arange(40)[None] * 3 % SHAPE.vocab
    found = directory.load(made.path)
    with torch.no_grad():
        ours = directory.build(found)(ids)
        torch.testing.assert_close(ours, theirs.eval()(ids).logits, atol=2e-5, rtol=1e-5)
        assert not torch.allclose(ours, directory.build(directory.load(base))(ids), atol=1e-2)
    assert found.template == LLAMA_2 and found.provenance["how"] == "adapters" and not made.notes
    assert [parent["share"] for parent in found.provenance["parents"]] == [1.0, *shares]


@pytest.mark.parametrize("kind", ["dora", "whole", "rows"])
def test_an_adapter_that_has_no_part_is_merged_alone_or_not_at_all(
    tmp_path: Path,
    saved,
    kind: str,
    pieces,  # noqa: F811
) -> None:
    base = saved("base")
    shape = directory.load(base).shape
    lora = replace(PLAIN, kind="dora") if kind == "dora" else replace(PLAIN, trained=("embed_tokens", "lm_head"))
    more: dict[str, object] = {}
    if kind == "rows":
        grown = replace(shape, vocab=shape.vocab + 1)
        more = {"shape": grown, "base_rows": shape.vocab, "tokenizer": with_pad(pieces, "[PAD]")}
    only, plain = worn(base, "only", 3, lora, **more), worn(base, "plain", 4)
    made = with_adapters(base, [Parent(only, 1.0)], tmp_path / "alone")
    found, ground = directory.load(made.path), directory.load(base)
    wearing = adapter.put_on(directory.build(ground), adapter.load(only, ground))
    ids = torch.arange(40)[None] * 3 % found.shape.vocab
    with torch.no_grad():
        torch.testing.assert_close(directory.build(found)(ids), wearing.eval()(ids), atol=2e-5, rtol=1e-5)
    assert (found.tokenizer.pad is not None) == (kind == "rows")
    for parents in ([Parent(only, 0.5)], [Parent(only, 1.0), Parent(plain, 1.0)]):
        with pytest.raises(UsageError, match="which has no part and no sum; merge it alone, with share 1"):
            with_adapters(base, parents, tmp_path / "no")


def test_the_command_takes_shares_and_adapters_and_says_what_is_missing(
    tmp_path: Path, saved, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = str(saved("one", 1)), str(saved("two", 2))
    assert main(["merge", f"{one}=0.25", f"{two}=0.75", str(tmp_path / "mean")]) == 0
    assert directory.load(tmp_path / "mean").provenance["parents"][0]["share"] == 0.25
    assert main(["merge", one, two, str(tmp_path / "equal")]) == 0
    assert main(["merge", one, str(tmp_path / "worn"), "--adapter", f"{worn(Path(one), 'a', 3)}=0.5"]) == 0
    for name in ("mean", "equal", "worn"):
        assert main(["verify", str(tmp_path / name)]) == 0, "each is certified when it is made, and held to that"
    capsys.readouterr()
    for words, told in (
        ([one, str(tmp_path / "no")], "there is one alone; name two or more, or adapters for it with --adapter"),
        ([one], "a model and a folder to write are needed"),
        ([f"{one}=0.5", two, str(tmp_path / "no")], "MODEL=X: shares for 1 of 2 models; give each one, or none"),
        ([one, two, str(tmp_path / "no"), "--adapter", str(tmp_path / "a")], "2 beside --adapter; name the one base"),
        ([one, two, one], f"DST: {one} exists; name something that does not exist yet"),
        ([one, "nowhere", str(tmp_path / "no")], "model 'nowhere': neither a folder nor a member grown"),
    ):
        assert main(["merge", *words, "--store", str(tmp_path / "store")]) == 2
        assert told in capsys.readouterr().err
    assert main(["merge", two, str(tmp_path / "no"), "--adapter", str(tmp_path / "a")]) == 1
    assert "was trained beside weights" in capsys.readouterr().err and not (tmp_path / "no").exists()
