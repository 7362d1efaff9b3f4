"""What a command was asked: every option read from its text, every problem collected and reported at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from camelid.errors import ProblemList, UsageError, did_you_mean
from camelid.frozen import read_setting
from camelid.machine import DTYPES, SUMS, Machine, Sums, detect, no_compiler
from camelid.ranks import launched
from camelid.recipe import Recipe
from camelid.recipes import Member, find, template_of
from camelid.store import Store, find_model, open_store

if TYPE_CHECKING:
    from camelid.dialogue.template import Template
    from camelid.train.scalars import Log

F = TypeVar("F", bound=Callable[..., Any])

SETTING = "Change one setting: tuned.length=1024, tuned.optim=AdamW8bit, 'tuned.adapter=LoRA(rank=8, alpha=16)'."


class Command(click.Command):
    """A command that reports unknown options together with every other problem, instead of the first alone."""

    optional: tuple[str, ...] = ()  # arguments that may be left out

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", {"ignore_unknown_options": True, "allow_extra_args": True})
        super().__init__(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        asked = Asked()
        known = [name for parameter in self.params for name in parameter.opts if name.startswith("-")]
        words = list(ctx.args)
        for value in ctx.params.values():
            if isinstance(value, str) and value.startswith("--") and value not in known:
                words.insert(0, value)
        for word in words:
            name = word.split("=")[0]
            if name.startswith("-"):
                asked.problems.add(name, "there is no such option", did_you_mean(name, known))
            else:
                asked.problems.add(repr(word), "was not expected here", f"see {ctx.command_path} --help")
        ctx.obj = asked
        for parameter in self.params:
            if not isinstance(parameter, click.Argument) or parameter.name in self.optional:
                continue
            if ctx.params.get(parameter.name or "") is None:
                asked.problems.add(str(parameter.metavar), "is missing", f"see {ctx.command_path} --help")
        return super().invoke(ctx)


class Asked:
    """Reads options one by one; `settle` raises everything that was wrong with them together."""

    def __init__(self) -> None:
        self.problems = ProblemList()

    def settle(self) -> None:
        """Raise UsageError if anything was wrong."""
        self.problems.raise_usage()

    def whole(self, option: str, text: str | None, default: int | None = None, least: int = 1) -> int | None:
        """A whole number of at least `least`; 4K and 2M are understood."""
        if text is None:
            return default
        found = len(self.problems.problems)
        value: int = read_setting(int, text, default, option, self.problems)
        if len(self.problems.problems) == found and value < least:
            self.problems.add(option, f"found {value}", f"use {least} or more")
        return value

    def number(
        self,
        option: str,
        text: str | None,
        default: float | None = None,
        least: float = 0.0,
        most: float = float("inf"),
    ) -> float | None:
        """A number between two bounds."""
        if text is None:
            return default
        found = len(self.problems.problems)
        value: float = read_setting(float, text, default, option, self.problems)
        if len(self.problems.problems) == found and not least <= value <= most:
            bounds = f"{least:g} or more" if most == float("inf") else f"a number from {least:g} to {most:g}"
            self.problems.add(option, f"found {value:g}", f"use {bounds}")
        return value

    def choice(self, option: str, text: str | None, choices: tuple[str, ...], default: str) -> str:
        """One of a few words."""
        if text is None or text in choices:
            return text or default
        self.problems.add(option, f"found {text!r}", did_you_mean(text, choices))
        return default

    def file(self, option: str, text: str | None) -> Path | None:
        """A file that is there."""
        if text is None:
            return None
        path = Path(text).expanduser()
        if not path.is_file():
            self.problems.add(
                option, f"{text} is a folder" if path.is_dir() else f"there is no file {text}{_near(path)}"
            )
        return path

    def gguf(self, option: str, text: str) -> None:
        """A GGUF file to write: by its ending alone it is known again when it is named."""
        if Path(text).suffix != ".gguf":
            self.problems.add(
                option, f"{text} does not end in .gguf, by which such a file is known", f"say {text}.gguf"
            )

    def no_gguf(self, option: str, text: str) -> None:
        """A folder to write, which nobody is to take for a GGUF file."""
        if Path(text).suffix == ".gguf":
            found = f"{text} would be a folder, and is named like a file"
            self.problems.add(option, found, f"say {text.removesuffix('.gguf')}")

    def records(self, option: str, text: str | None) -> Path | None:
        """A file of records or texts, or a folder that Hugging Face's datasets saved, one split of it."""
        from camelid.data import saved

        path = None if text is None else Path(text).expanduser()
        if path is None or not saved.is_saved(path):
            return self.file(option, text)
        try:
            saved.check(path)
        except UsageError as error:
            for problem in error.problems:
                self.problems.add(f"{option} {problem.where}", problem.found, problem.remedy)
        return path

    def folder(self, option: str, text: str | None) -> Path | None:
        """A folder that is there."""
        if text is None:
            return None
        path = Path(text).expanduser()
        if not path.is_dir():
            self.problems.add(
                option, f"{text} is a file" if path.is_file() else f"there is no folder {text}{_near(path)}"
            )
        return path

    def member(self, name: str | None, size: str | None) -> tuple[Member, Recipe] | None:
        """A member and its recipe."""
        return find(name, size, self.problems) if name else None

    def model(self, name: str | None, store: Store) -> Path:
        """The folder of a model, by path or by the name of a grown member."""
        return (find_model(name, store, self.problems) if name else None) or Path()

    def template(self, name: str | None) -> Template | None:
        """A published template or a member's, by name."""
        return None if name is None else template_of(name, "--template", self.problems)

    def settings(self, pairs: tuple[str, ...]) -> dict[str, str]:
        """PATH=VALUE pairs."""
        read: dict[str, str] = {}
        for pair in pairs:
            path, equals, value = pair.partition("=")
            if not equals or not path or not value:
                self.problems.add(
                    f"--set {pair}", "is no setting", "write --set stage.name=value, for example tuned.length=1024"
                )
            elif path in read:
                self.problems.add(f"--set {path}", "is given twice")
            else:
                read[path] = value
        return read

    def machine(
        self,
        device: str | None,
        dtype: str | None,
        threads: str | None,
        micro_tokens: str | None = None,
        recompute: bool = False,
        compiled: bool = False,
        float8: bool = False,
    ) -> Machine:
        """The machine to run on, asked for or found."""
        if device is not None and device not in ("cpu", "cuda") and not device.startswith("cuda:"):
            self.problems.add("--device", f"found {device!r}", did_you_mean(device, ("cpu", "cuda")))
            device = "cpu"
        word = self.choice("--dtype", dtype, DTYPES, "") or None
        found = detect(device, word, self.whole("--threads", threads))  # type: ignore[arg-type]  # checked against DTYPES
        micro = self.whole("--micro-tokens", micro_tokens)
        if compiled and (why := no_compiler(found.device)):
            self.problems.add("--compile", why, "install one, or leave --compile out")
        micro = micro or found.micro_tokens
        return replace(found, micro_tokens=micro, recompute=recompute, compile=compiled, float8=float8)

    def ranks(self, machine: Machine, options: Mapping[str, Any]) -> Machine:
        """The machine as torchrun's processes share it: --shard, --tensor, --shares, --sums."""
        launch = launched()
        world = launch.world
        if machine.device == "cpu":
            machine = replace(machine, memory_bytes=machine.memory_bytes // launch.beside)
        shard, tensor = (self.whole(f"--{name}", options.get(name), 1) or 1 for name in ("shard", "tensor"))
        shares = self.whole("--shares", options.get("shares"), machine.shares) or 1
        plain: Sums = "ordered" if machine.device == "cpu" else "fast"
        sums = self.choice("--sums", options.get("sums"), SUMS, plain)
        if world % (shard * tensor):
            self.problems.add(
                "--shard, --tensor",
                f"{shard} x {tensor} in {world} process{'es' * (world != 1)}",
                f"start a multiple of {shard * tensor}: torchrun --nproc-per-node {shard * tensor} -m camelid ...",
            )
            return machine
        data = world // (shard * tensor)
        found = replace(machine, count=world, data=data, shard=shard, tensor=tensor, shares=shares)
        return replace(found, sums="fast" if sums == "fast" else "ordered")

    def log(self, text: str | None) -> Log | None:
        """Who else is told a run's scalars."""
        if text is None:
            return None
        from camelid.train.scalars import LOGS, check

        if text not in LOGS:
            self.problems.add("--log", f"found {text!r}", did_you_mean(text, LOGS))
            return None
        check(text, self.problems)
        return text

    def store(self, path: str | None) -> Store:
        """The store."""
        store = open_store(path)
        if store.root.exists() and not store.root.is_dir():
            self.problems.add("--store", f"{store.root} is a file", "name a folder")
        return store


def _near(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (nor a folder {path.parent})"
    hint = did_you_mean(path.name, [entry.name for entry in path.parent.iterdir()][:500])
    return f"; {hint}" if hint.startswith("did") else ""


def machine_options(function: F) -> F:
    """--device, --dtype, --threads: how to run, which never changes what a recipe means."""
    for option in (
        click.option("--threads", metavar="N", help="CPU threads (default: all cores)."),
        click.option("--dtype", metavar="TYPE", help="float32 or bfloat16."),
        click.option("--device", metavar="NAME", help="cpu or cuda (default: what is there)."),
    ):
        function = option(function)
    return function


def training_options(function: F) -> F:
    """--micro-tokens, --recompute, --anyway, --log, how ranks share the work; what changes a run, changes its last bits only."""
    for option in (
        click.option(
            "--log",
            metavar="WORD",
            help="tensorboard or trackio: scalars of each step for these, from the run's journal (extras of those names).",
        ),
        click.option(
            "--spikes",
            metavar="N",
            help="Where the loss leaps, go back and pass over the data, up to N times (default: none is looked for).",
        ),
        click.option(
            "--sums",
            metavar="WORD",
            help="ordered: the bits of one process (default on CPUs); fast: one all-reduce (default on GPUs).",
        ),
        click.option("--tensor", metavar="N", help="Ranks that divide every matrix (default: 1)."),
        click.option(
            "--shard", metavar="N", help="Ranks that divide weights and moments (default: 1; the rest are replicas)."
        ),
        click.option("--shares", metavar="N", help="Parts that a step is cut into at least, whoever computes them."),
        click.option("--anyway", is_flag=True, help="Start even where the plan says that memory does not suffice."),
        click.option(
            "--recompute",
            is_flag=True,
            help="Less memory, more time, the same bits: layers keep their input only.",
        ),
        click.option(
            "--compile",
            "compiled",
            is_flag=True,
            help="Passes between matrix products compiled by PyTorch, with its own rounding: for GPUs, and large models.",
        ),
        click.option("--float8", is_flag=True, help="The layers' products in eight-bit floats (GPUs; extra: float8)."),
        click.option("--micro-tokens", metavar="N", help="Tokens worked on at once (default: 8192, on a GPU 32768)."),
    ):
        function = option(function)
    return function


def store_option(function: F) -> F:
    """--store: where grown things lie."""
    return click.option(
        "--store", metavar="FOLDER", help="Where grown models lie (default: $CAMELID_STORE or ~/.camelid)."
    )(function)


def json_option(function: F) -> F:
    """--json: one JSON value on standard output."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON value for programs.")(function)
