"""quantize, verify: what a change of form costs, and whether two models say the same."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from camelid.cli.asked import Asked, Command, json_option, machine_options, store_option
from camelid.cli.talking import opened, tell_of_decoding
from camelid.errors import CamelidError
from camelid.machine import GIB, Machine

if TYPE_CHECKING:
    from camelid.checkpoints.directory import Checkpoint
    from camelid.evaluate.divergence import Divergence

FORMS = ("q4_0", "q8_0", "nf4", "int8", "gptq", "awq")
IN_GGUF = ("q4_0", "q8_0")
NOT_BUILT = ("gptq", "awq")


@click.command(cls=Command)
@click.argument("model", metavar="MODEL", required=False)
@click.option("--to", "form", metavar="FORM", help="q4_0, q8_0, nf4 or int8.")
@click.option("--text", metavar="FILE", help="A text file on which perplexity and divergence are measured.")
@click.option("--out", metavar="FILE", help="Write the model there as GGUF (q4_0, q8_0).")
@machine_options
@store_option
@json_option
@click.pass_obj
def quantize(asked: Asked, /, as_json: bool, **options: Any) -> None:
    """Put MODEL's weights into fewer bits; print bytes, errors, and with --text what it costs in perplexity and KL."""
    path = asked.model(options["model"], asked.store(options["store"]))
    if options["form"] is None:
        asked.problems.add("--to", "is missing", "say --to q4_0, q8_0, nf4 or int8")
    form = asked.choice("--to", options["form"], FORMS, "q8_0")
    if form in NOT_BUILT:
        asked.problems.add("--to", f"{form} is not built yet", "choose q4_0, q8_0, nf4 or int8")
    text, out = asked.file("--text", options["text"]), options["out"]
    if out is not None and form not in (*IN_GGUF, *NOT_BUILT):
        asked.problems.add("--out", f"{form} has no place in GGUF", "leave it out to measure only, or use q4_0 or q8_0")
    if out is not None and Path(out).expanduser().exists():
        asked.problems.add("--out", f"{out} exists", "name a file that does not exist yet")
    machine = asked.machine(options["device"], options["dtype"], options["threads"])
    asked.settle()
    told = quantising(path, form, text, None if out is None else Path(out).expanduser(), machine)
    if as_json:
        click.echo(json.dumps(told))
        return
    for line in lines(told):
        click.echo(line)


def quantising(path: Path, form: str, text: Path | None, out: Path | None, machine: Machine) -> dict[str, Any]:
    """What was measured, as a JSON object; the file is written first, and then measured as it lies there."""
    import torch

    from camelid.checkpoints import directory
    from camelid.checkpoints.convert import convert
    from camelid.checkpoints.quantised import quantised
    from camelid.models.llama import Llama

    torch.set_num_threads(machine.threads)
    if not path.is_dir():
        tell_of_decoding(path)
    checkpoint = directory.load(path)
    _foresee(checkpoint, machine, both=text is not None)
    if out is not None:
        convert(path, out, to="gguf", type=form)
    state: dict[str, torch.Tensor] = {}
    forms, size, error, share, plain = Counter[str](), 0, 0.0, 0.0, 0
    for coded in quantised(checkpoint, form):
        forms[coded.form] += 1
        size, error, share = size + coded.bytes, max(error, coded.error), max(share, coded.share)
        plain += coded.weights.numel()
        if text is not None:
            state[coded.name] = coded.weights
    told: dict[str, Any] = {
        "model": str(path),
        "to": form,
        "out": None if out is None else str(out),
        "weights": plain,
        "bytes": size,
        "bits_per_weight": 8 * size / plain,
        "bytes_of_original": sum(t.numel() * t.element_size() for t in checkpoint.tensors().values()),
        "tensors": dict(forms.most_common()),
        "largest_error": error,
        "largest_share_of_bound": share,
    }
    if text is not None:
        if out is not None:
            state = {name: tensor.float() for name, tensor in directory.load(out).tensors().items()}
        other = Llama(checkpoint.shape, dtype=torch.float32, device="meta")
        other.load_state_dict(state, strict=True, assign=True)
        told["text"] = {"file": str(text), **_diverged(checkpoint, other, text).data()}
    return told


def _foresee(checkpoint: Checkpoint, machine: Machine, *, both: bool) -> None:
    needed = 4 * checkpoint.shape.parameters() * (2 if both else 0)
    if machine.memory_bytes and needed > machine.memory_bytes:
        found = f"the original and its copy in float32 take {needed / GIB:.1f} GiB, {machine.memory_bytes / GIB:.1f} are there"
        raise CamelidError(f"quantize: {found}; leave out --text, or use a machine with more memory")


def _diverged(checkpoint: Checkpoint, other: Any, text: Path) -> Divergence:
    import torch

    from camelid.checkpoints import directory
    from camelid.durable import read_bytes
    from camelid.errors import Problem, UsageError
    from camelid.evaluate.divergence import divergence

    try:
        said = read_bytes(text, max_bytes=64 << 20).decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"byte {error.start} is not UTF-8"
        raise UsageError([Problem(f"--text {text}", found, "give text in UTF-8")]) from None
    tokenizer = checkpoint.tokenizer
    begin = [] if tokenizer.bos is None else [tokenizer.bos]
    original = directory.build(checkpoint, torch.float32).eval().requires_grad_(False)
    return divergence(original, other.eval().requires_grad_(False), [*begin, *tokenizer.encode(said)])


def lines(told: dict[str, Any]) -> list[str]:
    """What was measured as a person reads it."""
    shown = ", ".join(f"{count} in {form}" for form, count in told["tensors"].items())
    share = told["bytes"] / told["bytes_of_original"]
    found = [
        f"weights      {told['weights']:,} in {told['bytes']:,} bytes, {told['bits_per_weight']:.3f} bits each",
        f"             {share:.1%} of the original's {told['bytes_of_original']:,} bytes; tensors: {shown}",
        f"errors       largest {told['largest_error']:.3g}, at most {told['largest_share_of_bound']:.1%} of the bound",
    ]
    if told["out"]:
        found.append(f"written      {told['out']}")
    if "text" not in told:
        return [*found, "perplexity   not measured: name a text with --text FILE"]
    text = told["text"]
    before, after = text["perplexity_of_original"], text["perplexity"]
    return [
        *found,
        f"perplexity   {after:.4f}, the original's {before:.4f} ({after / before - 1:+.2%}), {text['tokens']:,} tokens",
        f"KL           {text['kl']:.3e} nats a token, largest {text['kl_largest']:.3e}",
        f"first choice the same at {text['same_first']:.2%} of the tokens (windows of {text['window']})",
    ]


@click.command(cls=Command)
@click.argument("a", metavar="A", required=False)
@click.argument("b", metavar="B", required=False)
@click.option("--tolerance", metavar="X", help="Largest difference of logits, over the largest logit (default: 1e-3).")
@machine_options
@store_option
@json_option
@click.pass_obj
def verify(asked: Asked, /, as_json: bool, **options: Any) -> None:
    """Whether models A and B say the same: token ids, rendered chats, logits. Exit code 1 if they do not.

    Both are computed in float32 unless --dtype says otherwise.
    """
    store = asked.store(options["store"])
    paths = [asked.model(options[name], store) for name in ("a", "b")]
    tolerance = asked.number("--tolerance", options["tolerance"], 1e-3)
    machine = asked.machine(options["device"], options["dtype"], options["threads"])
    asked.settle()
    from camelid.evaluate.parity import parity

    assert tolerance is not None
    one, other = (opened(path, machine, options["dtype"] or "float32") for path in paths)
    found = parity(one, other, tolerance=tolerance)
    if as_json:
        click.echo(json.dumps({"a": str(paths[0]), "b": str(paths[1]), **found.data()}))
    else:
        first_text = "" if found.first_text is None else f", first apart at {found.first_text!r}"
        first_chat = "" if found.first_chat is None else f", first apart at chat {found.first_chat}"
        click.echo(f"token ids  {found.texts_equal} of {found.texts} texts equal{first_text}")
        click.echo(f"chats      {found.chats_equal} of {found.chats} equal{first_chat}")
        click.echo(f"logits     largest difference {found.largest_difference:.3g}, relative {found.relative:.3g}")
        if found.first_position is not None and found.ids_there is not None:
            prompt, place = found.first_position
            ids = " and ".join(map(str, found.ids_there))
            click.echo(f"           the likeliest next ids part first at prompt {prompt}, token {place}: {ids}")
        same = "the same to the bit" if found.exact else f"the same within {tolerance:g}"
        click.echo(same if found.holds else "NOT the same")
    if not found.holds:
        click.get_current_context().exit(1)


__all__ = ["quantize", "verify"]
