"""quantize, verify: what a change of form costs, and whether two models say the same."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from camelid.cli.asked import Asked, Command, json_option, machine_options, store_option
from camelid.cli.talking import opened, tell_of_decoding
from camelid.machine import GIB, Machine, available
from camelid.quantize.forms import IN_BLOCKS

if TYPE_CHECKING:
    from camelid.checkpoints.directory import Checkpoint
    from camelid.checkpoints.quantised import Coded
    from camelid.evaluate.divergence import Divergence
    from camelid.evaluate.parity import Parity

FORMS = (*IN_BLOCKS, "nf4", "int8", "gptq", "awq")
CALIBRATED = ("gptq", "awq")
ANY = 1e300  # tolerance where any finite distance is what rounding did
HELP = f"{', '.join(IN_BLOCKS)} (GGUF), nf4, int8, gptq or awq (folders)."


@click.command(cls=Command)
@click.argument("model", metavar="MODEL", required=False)
@click.option("--to", "form", metavar="FORM", help=HELP)
@click.option("--text", metavar="FILE", help="A text file on which perplexity and divergence are measured.")
@click.option("--calibrate", metavar="FILE", help="gptq, awq: the text to look at (default: the first half of --text).")
@click.option("--group", metavar="N", help="gptq, awq: columns that share a scale (default: 128).")
@click.option("--damping", metavar="X", help="gptq: share of the mean diagonal added to the Hessian (default: 0.01).")
@click.option("--act-order", is_flag=True, help="gptq: round the columns with the largest inputs first.")
@click.option("--out", metavar="PATH", help="Write the model there: a GGUF file or a folder, by its form.")
@click.option("--anyway", is_flag=True, help="Start even where memory does not suffice.")
@machine_options
@store_option
@json_option
@click.pass_obj
def quantize(asked: Asked, /, as_json: bool, **options: Any) -> None:
    """Put MODEL's weights into fewer bits; print bytes, errors, and with --text what it costs in perplexity and KL."""
    path = asked.model(options["model"], asked.store(options["store"]))
    if options["form"] is None:
        asked.problems.add("--to", "is missing", f"say --to {HELP.rstrip('.')}")
    form = asked.choice("--to", options["form"], FORMS, "q8_0")
    text, out = asked.file("--text", options["text"]), options["out"]
    calibrate = asked.file("--calibrate", options["calibrate"])
    for option, used in (
        ("calibrate", CALIBRATED),
        ("group", CALIBRATED),
        ("damping", ("gptq",)),
        ("act_order", ("gptq",)),
    ):
        if options[option] and form not in used:
            word = f"--{option.replace('_', '-')}"
            asked.problems.add(word, f"means nothing for {form}", f"leave it out; it is for {' and '.join(used)}")
    if form in CALIBRATED and text is None and calibrate is None:
        asked.problems.add("--calibrate", f"{form} needs a text to look at", "name a text like those it will meet")
    group = asked.whole("--group", options["group"], 128, least=8)
    damping = asked.number("--damping", options["damping"], 0.01, least=1e-6, most=10.0)
    if out is not None and Path(out).expanduser().exists():
        asked.problems.add("--out", f"{out} exists", "name something that does not exist yet")
    if out is not None:
        (asked.gguf if form in IN_BLOCKS else asked.no_gguf)("--out", out)
    machine = asked.machine(options["device"], options["dtype"], options["threads"])
    asked.settle()
    assert group is not None and damping is not None
    wanted = Wanted(
        path,
        form,
        text,
        calibrate,
        None if out is None else Path(out).expanduser(),
        group,
        damping,
        options["act_order"],
        options["anyway"],
    )
    told = quantising(wanted, machine)
    checked = None if wanted.out is None else recheck(wanted.out, machine)
    if as_json:
        click.echo(json.dumps({**told, **({} if checked is None else {"certificate": checked.data})}))
    else:
        click.echo("\n".join([*lines(told), *([] if checked is None else checked.lines)]))
    if checked is not None and not checked.holds:
        click.get_current_context().exit(1)


@dataclass(frozen=True)
class Wanted:
    """What `quantize` was asked for."""

    model: Path
    form: str
    text: Path | None = None
    calibrate: Path | None = None
    out: Path | None = None
    group: int = 128
    damping: float = 0.01
    act_order: bool = False
    anyway: bool = False


def quantising(wanted: Wanted, machine: Machine) -> dict[str, Any]:
    """What was measured, as a JSON object; with `out` the model is written first, and then measured as it lies there."""
    import torch

    from camelid.checkpoints import directory
    from camelid.checkpoints import quantised as quantising
    from camelid.checkpoints.calibration import Settings, windows
    from camelid.checkpoints.convert import convert
    from camelid.checkpoints.layouts import misread
    from camelid.cli.memory import check_quantizing
    from camelid.generate.decode import reach

    torch.set_num_threads(machine.threads)
    tell_of_decoding(wanted.model)
    checkpoint = directory.load(wanted.model)
    measured, seen = _texts(wanted, checkpoint)
    ids = None if seen is None else windows(seen, reach(checkpoint.shape))
    check_quantizing(
        checkpoint,
        machine,
        form=wanted.form,
        measured=measured is not None,
        saved=wanted.out is not None and wanted.form not in IN_BLOCKS,
        seen=0 if ids is None else ids.numel(),
        anyway=wanted.anyway,
    )
    settings = Settings(wanted.group, wanted.damping, wanted.act_order)
    told = _Told(keep=measured is not None and wanted.out is None)
    coded = told.passing(quantising.quantised(checkpoint, wanted.form, ids=ids, settings=settings, progress=_progress))
    if wanted.out is not None and wanted.form not in IN_BLOCKS:
        layout = quantising.layout_of(wanted.form, settings)
        if wrongly := misread(layout, {str(name): size for name, size in checkpoint.shape.linears().items()}):
            told_off = (
                "have rows of no whole blocks, which bitsandbytes reads wrongly on a CPU; camelid reads them rightly"
            )
            click.echo(f"{', '.join(wrongly)} {told_off}", err=True)
        quantising.save(wanted.out, checkpoint, coded, layout)
    else:
        for _ in coded:
            pass
        if wanted.out is not None:
            convert(wanted.model, wanted.out, to="gguf", type=wanted.form)
    found: dict[str, Any] = {
        "model": str(wanted.model),
        "to": wanted.form,
        "out": None if wanted.out is None else str(wanted.out),
        **told.data(),
        "bytes_of_original": sum(t.numel() * t.element_size() for t in checkpoint.tensors().values()),
    }
    if ids is not None:
        found["calibration"] = {
            "file": str(wanted.calibrate or wanted.text),
            "first_half_only": wanted.calibrate is None,
            "tokens": ids.numel(),
            "loss": told.loss,
            "loss_of_nearest": told.loss_of_nearest,
        }
    if measured is not None:
        state = told.state
        if wanted.out is not None:
            state = {name: tensor.float() for name, tensor in directory.load(wanted.out).tensors().items()}
        found["text"] = {"file": str(wanted.text), **_diverged(checkpoint, state, measured).data()}
    return found


class _Told:
    """What passes by, counted: bytes, errors, losses; the weights themselves where they are to be kept."""

    def __init__(self, keep: bool) -> None:
        self.keep, self.state = keep, dict[str, Any]()
        self.forms = Counter[str]()
        self.size = self.weights = 0
        self.error = self.share = self.loss = self.loss_of_nearest = 0.0

    def passing(self, coded: Iterable[Coded]) -> Iterator[Coded]:
        for each in coded:
            self.forms[each.form] += 1
            self.size, self.weights = self.size + each.bytes, self.weights + each.weights.numel()
            self.error, self.share = max(self.error, each.error), max(self.share, each.share)
            self.loss, self.loss_of_nearest = self.loss + each.loss[0], self.loss_of_nearest + each.loss[1]
            if self.keep:
                self.state[each.name] = each.weights
            yield each

    def data(self) -> dict[str, Any]:
        return {
            "weights": self.weights,
            "bytes": self.size,
            "bits_per_weight": 8 * self.size / self.weights,
            "tensors": dict(self.forms.most_common()),
            "largest_error": self.error,
            "largest_share_of_bound": self.share or None,
        }


def _texts(wanted: Wanted, checkpoint: Checkpoint) -> tuple[list[int] | None, list[int] | None]:
    """The ids to measure on and those to look at. One text for both is cut in two, so that none is measured on what the
    method has seen."""
    begin = [] if checkpoint.tokenizer.bos is None else [checkpoint.tokenizer.bos]

    def ids(path: Path, option: str) -> list[int]:
        return [*begin, *checkpoint.tokenizer.encode(_read(path, option))]

    measured = None if wanted.text is None else ids(wanted.text, "--text")
    if wanted.form not in CALIBRATED:
        return measured, None
    if wanted.calibrate is not None:
        return measured, ids(wanted.calibrate, "--calibrate")
    assert measured is not None
    half = len(measured) // 2
    return [*begin, *measured[half:]], measured[:half]


def _progress(done: int, of: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\rlayer {done} of {of}" + ("\n" if done == of else ""), nl=False, err=True)


def _read(path: Path, option: str) -> str:
    from camelid.durable import read_bytes
    from camelid.errors import Problem, UsageError

    try:
        return read_bytes(path, max_bytes=64 << 20).decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"byte {error.start} is not UTF-8"
        raise UsageError([Problem(f"{option} {path}", found, "give text in UTF-8")]) from None


def _diverged(checkpoint: Checkpoint, state: dict[str, Any], ids: list[int]) -> Divergence:
    import torch

    from camelid.checkpoints import directory
    from camelid.evaluate.divergence import divergence
    from camelid.models.llama import Llama

    other = Llama(checkpoint.shape, dtype=torch.float32, device="meta")
    other.load_state_dict(state, strict=True, assign=True)
    original = directory.build(checkpoint, torch.float32).eval().requires_grad_(False)
    return divergence(original, other.eval().requires_grad_(False), ids)


def lines(told: dict[str, Any]) -> list[str]:
    """What was measured as a person reads it."""
    shown = ", ".join(f"{count} in {form}" for form, count in told["tensors"].items())
    share = told["bytes"] / told["bytes_of_original"]
    found = [
        f"weights      {told['weights']:,} in {told['bytes']:,} bytes, {told['bits_per_weight']:.3f} bits each",
        f"             {share:.1%} of the original's {told['bytes_of_original']:,} bytes; tensors: {shown}",
        f"errors       largest {told['largest_error']:.3g}{_of_bound(told)}",
    ]
    if seen := told.get("calibration"):
        part = "the first half of " if seen["first_half_only"] else ""
        less = 1 - seen["loss"] / seen["loss_of_nearest"] if seen["loss_of_nearest"] else 0.0
        found += [
            f"calibrated   on {seen['tokens']:,} tokens of {part}{seen['file']}: the layers' outputs are off by "
            f"{less:.1%} less than with plain rounding",
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


def _of_bound(told: dict[str, Any]) -> str:
    share = told["largest_share_of_bound"]
    return ", by weights moved on purpose" if share is None else f", at most {share:.1%} of the bound"


class Verify(Command):
    """`verify` with one model or two: B may be left out."""

    optional = ("b",)


@click.command(cls=Verify)
@click.argument("a", metavar="A", required=False)
@click.argument("b", metavar="B", required=False)
@click.option("--tolerance", metavar="X", help="Largest difference of logits, over the largest logit (default: 1e-3).")
@machine_options
@store_option
@json_option
@click.pass_obj
def verify(asked: Asked, /, as_json: bool, **options: Any) -> None:
    """Whether models A and B say the same: token ids, rendered chats, logits. Exit code 1 if they do not.

    A alone is held against its own certificate, which was made when it was trained. Two models are computed in float32
    unless --dtype says otherwise.
    """
    store = asked.store(options["store"])
    path = asked.model(options["a"], store)
    other = None if options["b"] is None else asked.model(options["b"], store)
    tolerance = asked.number("--tolerance", options["tolerance"], None)
    machine = asked.machine(options["device"], options["dtype"], options["threads"])
    asked.settle()
    if other is None:
        checked = recheck(path, machine, tolerance)
        click.echo(json.dumps(checked.data) if as_json else "\n".join(checked.lines))
        if not checked.holds:
            click.get_current_context().exit(1)
        return
    from camelid.evaluate.parity import TOLERANCE, parity

    tolerance = TOLERANCE if tolerance is None else tolerance
    one, two = (opened(each, machine, options["dtype"] or "float32") for each in (path, other))
    found = parity(one, two, tolerance=tolerance)
    if as_json:
        click.echo(json.dumps({"a": str(path), "b": str(other), **found.data()}))
    else:
        same = "the same to the bit" if found.exact else f"the same within {tolerance:g}"
        click.echo("\n".join([*differences(found), same if found.holds else "NOT the same"]))
    if not found.holds:
        click.get_current_context().exit(1)


@dataclass(frozen=True)
class Checked:
    """A model held against its certificate; `lines` for people."""

    holds: bool
    lines: list[str]
    data: dict[str, Any]


def recheck(path: Path, machine: Machine, tolerance: float | None = None) -> Checked:
    """The model read again, every byte, and what it says now beside what its certificate says.

    Weights that were rounded since are told with their distance, which is no fault; ids and chats must be the same.
    """
    import torch

    from camelid.checkpoints import directory
    from camelid.cli.memory import rechecking_bytes
    from camelid.evaluate.parity import held
    from camelid.generate.certificate import rounded_to, stored
    from camelid.generate.loaded import load

    torch.set_num_threads(machine.threads)
    checkpoint = directory.load(path)
    certificate = stored(checkpoint)
    if certificate is None:
        found = "has no certificate: it is older, or not trained here"
        said = f"{path.name} {found}; its files are whole" if checkpoint.manifest else f"{path.name} {found}"
        return Checked(True, [said], {"model": str(path), "certificate": None})
    if 0 < available(machine.device) < rechecking_bytes(checkpoint.shape):
        found = (
            f"{path.name}: not held against its certificate, which takes {rechecking_bytes(checkpoint.shape) / GIB:.1f}"
        )
        said = f"{found} GiB of memory where {available(machine.device) / GIB:.1f} are free; its files are whole"
        return Checked(True, [said], {"model": str(path), "certificate": "not checked: memory"})
    rounded = rounded_to(checkpoint, certificate)
    dtype = getattr(torch, certificate.dtype, torch.float32)
    loaded = load(path, dtype=dtype, device=machine.device, engine="pytorch")
    parity = held(certificate, loaded, tolerance=ANY if rounded and tolerance is None else tolerance)
    verdict = "NOT what its certificate says"
    if parity.holds and rounded:
        verdict = (
            f"ids and chats as its certificate says; weights rounded since, from {certificate.weights} to {rounded}"
        )
    elif parity.holds:
        verdict = f"what its certificate says{' to the bit' if parity.exact else ''}"
    data = {"model": str(path), "rounded": bool(rounded), **parity.data()}
    if parity.tolerance == ANY:
        data["tolerance"] = None
    return Checked(parity.holds, [*differences(parity), verdict], data)


def differences(found: Parity) -> list[str]:
    """Ids, chats and logits as a person reads them."""
    first_text = "" if found.first_text is None else f", first apart at {found.first_text!r}"
    first_chat = "" if found.first_chat is None else f", first apart at chat {found.first_chat}"
    lines = [
        f"token ids  {found.texts_equal} of {found.texts} texts equal{first_text}",
        f"chats      {found.chats_equal} of {found.chats} equal{first_chat}",
        f"logits     largest difference {found.largest_difference:.3g}, relative {found.relative:.3g}"
        if math.isfinite(found.largest_difference)
        else "logits     not comparable: the vocabularies differ in size, or a logit is no finite number",
    ]
    if found.first_position is not None and found.ids_there is not None:
        prompt, place = found.first_position
        ids = " and ".join(map(str, found.ids_there))
        lines.append(f"           the likeliest next ids part first at prompt {prompt}, token {place}: {ids}")
    return lines


__all__ = ["quantize", "recheck", "verify"]
