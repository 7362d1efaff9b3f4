"""chat, generate, tokenize, render, eval: what uses models."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from camelid.cli.asked import Asked, Command, json_option, machine_options, store_option
from camelid.cli.keeping import tokenizer_path
from camelid.errors import Problem, UsageError

if TYPE_CHECKING:
    from camelid.dialogue.message import Message
    from camelid.generate.settings import Settings


def sampling_options(function: Any) -> Any:
    """--max-tokens, --temperature, --top-p, --top-k, --seed."""
    for option in (
        click.option("--seed", metavar="N", help="Seed of the draws (default: 0)."),
        click.option("--top-k", metavar="K", help="Draw among the K likeliest (default: all)."),
        click.option("--top-p", metavar="P", help="Draw among the likeliest that together have P (default: 1, all)."),
        click.option("--temperature", metavar="T", help="0 takes the likeliest (default: 0)."),
        click.option("--max-tokens", metavar="N", help="At most so many tokens (default: 256)."),
    ):
        function = option(function)
    return function


def asked_settings(asked: Asked, options: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The sampling settings as values; problems are collected."""
    return {
        "max_tokens": asked.whole("--max-tokens", options["max_tokens"], 256),
        "temperature": asked.number("--temperature", options["temperature"], 0.0),
        "top_p": asked.number("--top-p", options["top_p"], 1.0, least=1e-9, most=1.0),
        "top_k": asked.whole("--top-k", options["top_k"], 0, least=0),
        "seed": asked.whole("--seed", options["seed"], 0, least=0),
        **more,
    }


@click.command(cls=Command)
@click.argument("model", metavar="MODEL", required=False)
@click.option("--prompt", metavar="TEXT", help="What to answer or continue; - reads it from standard input.")
@click.option("--input", "context", metavar="TEXT", help="Further context, where the template has a place for it.")
@click.option("--system", metavar="TEXT", help="A system message, where the template has a place for it.")
@click.option("--raw", is_flag=True, help="No template: BOS and the text, as the base model was trained.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; may be given several times.")
@click.option("--prompt-logprobs", is_flag=True, help="With --json: log-probabilities of the prompt's tokens too.")
@sampling_options
@machine_options
@store_option
@json_option
@click.pass_obj
def generate(asked: Asked, /, as_json: bool, **options: Any) -> None:
    """Continue or answer one prompt with MODEL, a folder or a grown member.

    With --json one object is printed: prompt_ids, token_ids, text, logprobs (natural log, one per generated token),
    finish_reason, and prompt_logprobs where asked for.
    """
    folder = asked.model(options["model"], asked.store(options["store"]))
    settings = asked_settings(asked, options, stop_texts=options["stop"], prompt_logprobs=options["prompt_logprobs"])
    if options["prompt"] is None:
        asked.problems.add("--prompt", "is missing", "write --prompt TEXT, or --prompt - to read it")
    if any(not text for text in options["stop"]):
        asked.problems.add("--stop", "is empty", "leave it out")
    if options["raw"] and (options["system"] or options["context"]):
        asked.problems.add("--raw", "goes without a template", "leave out --system and --input")
    if options["prompt_logprobs"] and not as_json:
        asked.problems.add("--prompt-logprobs", "is shown with --json only", "add --json")
    machine = asked.machine(options["device"], options["dtype"], options["threads"])
    asked.settle()
    prompt = sys.stdin.read() if options["prompt"] == "-" else options["prompt"]
    loaded = opened(folder, machine, dtype_asked=options["dtype"] is not None)
    prompt_ids, more = loaded.prompt_ids(messages(prompt, options), raw=options["raw"])
    from camelid.generate.decode import End, Token
    from camelid.generate.settings import Settings

    made = Settings(**settings)
    made = with_stops(made, more)
    for event in loaded.stream(prompt_ids, made):
        if isinstance(event, Token) and not as_json:
            click.echo(event.text, nl=False)
        if isinstance(event, End):
            click.echo(json.dumps(event.completion.data()) if as_json else "")


def messages(prompt: str, options: dict[str, Any]) -> list[Message]:
    """The conversation that a single prompt makes."""
    from camelid.dialogue.message import Message

    system = [Message("system", options["system"])] if options["system"] else []
    return [*system, Message("user", prompt, input=options["context"] or "")]
