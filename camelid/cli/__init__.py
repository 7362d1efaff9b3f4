"""The command line: `camelid`. Answers go to standard output, progress to standard error.

Exit codes: 0 done, 1 a check failed or the work could not be done, 2 wrong usage, 130 interrupted, 143 terminated.
Under torchrun each rank ends with its own code and prints its own message; torchrun itself ends with 1 if any failed.
PyTorch is imported only once there is work to do: help and refusals answer at once.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import click

import camelid
from camelid.errors import CamelidError, Problem, Problems, UsageError, did_you_mean

# Where each command lives; a command's module is imported when the command is used.
COMMANDS = {
    "demo": (
        "growing",
        "Grow a base model, an Alpaca and an Alpaca-LoRA from nothing, offline, and show what came of it.",
    ),
    "grow": ("growing", "Grow a member of the family from its parent."),
    "resume": ("growing", "Continue a run that was stopped or killed."),
    "runs": ("running", "What ran in the store, how far it came, and two runs side by side."),
    "claims": ("growing", "Try a member's central claim, with a control and a verdict."),
    "tree": ("family", "The family tree."),
    "show": ("family", "A member's recipe, with the source of every number."),
    "diff": ("family", "The distance between two members."),
    "family": ("pedigree", "Every member with its numbers and verdicts, as a page."),
    "plan": ("family", "Steps, tokens, memory and FLOPs, before anything runs."),
    "chat": ("talking", "Talk with a model in its own template."),
    "generate": ("talking", "Continue or answer one prompt."),
    "tokenize": ("talking", "Text to ids, and back."),
    "render": ("talking", "A conversation to ids, loss mask and stop ids."),
    "eval": ("talking", "Score a model on tasks."),
    "convert": ("keeping", "Rewrite a model in another format: Hugging Face, Meta, GGUF."),
    "merge": ("merging", "The mean of several models, or a model with adapters added."),
    "delta": ("merging", "A tuned model as its difference from its parent, made and applied."),
    "quantize": ("measuring", "Weights in fewer bits: bytes, errors, perplexity and divergence, measured."),
    "verify": ("measuring", "Whether two models say the same: ids, chats, logits."),
    "data": ("keeping", "Look at a data set as the model will see it; remove repetitions and held-out items."),
    "doctor": ("keeping", "What this machine, this installation and the store are like."),
}

HEARD = 5.0  # ours: seconds in which rank 0 has told what it refuses, and torchrun has ended the other ranks
NUMBERS = 6  # of rows of which the same is said


class Family(click.Group):
    """Commands by name, imported when used, with a suggestion for a misspelt one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"camelid.cli.{COMMANDS[cmd_name][0]}")
        command = getattr(module, "eval_command" if cmd_name == "eval" else cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS:
            hint = did_you_mean(args[0], COMMANDS) or "see camelid --help"
            raise click.UsageError(f"there is no command {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=Family, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(camelid.__version__, prog_name="camelid")
def cli() -> None:
    """Grow, measure, chat with and serve the LLaMA family, each member from its parent by its published recipe.

    Begin with: camelid demo
    """


def main(arguments: list[str] | None = None) -> int:
    """Run one command; every error of ours becomes a few plain lines on standard error and an exit code."""
    try:
        return int(cli.main(arguments, prog_name="camelid", standalone_mode=False) or 0)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        error.show(file=sys.stderr)
        return 2
    except (click.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 130
    except CamelidError as error:
        complain(error)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except RecursionError:
        raise


def complain(error: CamelidError) -> None:
    """The error as a person reads it: one line a problem. What all ranks of torchrun refuse alike, the first one tells.

    The others give it time for that, because torchrun ends all as soon as one of them has ended; one that is still there
    then has found what rank 0 did not, such as a file that its host lacks, and tells it.
    """
    rank = os.environ.get("RANK", "0")
    if isinstance(error, UsageError) and rank != "0":
        time.sleep(HEARD)
        print(f"rank {rank}:", end=" ", file=sys.stderr)
    if isinstance(error, Problems):
        count = len(error.problems)
        counted = f"wrong usage, {count} problem{'s' * (count != 1)}"
        print(f"camelid: {counted if isinstance(error, UsageError) else 'unusable data'}:", file=sys.stderr)
        for line in told(error.problems):
            print(f"  {line}", file=sys.stderr)
    else:
        print(f"camelid: {error}", file=sys.stderr)


def told(problems: Sequence[Problem]) -> list[str]:
    """A line for each problem; rows of one file of which the same is to be said share one: "a.json, row 2, 5 and 9 more"."""
    alike: dict[tuple[object, ...], list[Problem]] = {}
    for number, problem in enumerate(problems):
        place, _, row = problem.where.rpartition(" ")
        name = (place, problem.found, problem.remedy) if row.isdigit() else (number,)
        alike.setdefault(name, []).append(problem)
    lines = []
    for first, *rest in alike.values():
        others = "".join(f", {problem.where.rpartition(' ')[2]}" for problem in rest[: NUMBERS - 1])
        more = f" and {len(rest) - NUMBERS + 1} more" if len(rest) >= NUMBERS else ""
        lines.append(str(replace(first, where=first.where + others + more)))
    return lines


def entry() -> Any:
    """What the installed command calls."""
    sys.exit(main())
