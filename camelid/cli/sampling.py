"""Options by which an answer is drawn, beyond the first five: further filters, penalties, several answers, constraints,
guesses, tools."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from camelid.cli.asked import Asked
from camelid.errors import BadFile, Problem, UsageError
from camelid.store import Store

if TYPE_CHECKING:
    from camelid.dialogue.tools import Tool
    from camelid.generate.decode import Event
    from camelid.generate.loaded import Loaded, Prompt
    from camelid.generate.settings import Constraint, Settings
    from camelid.generate.speculate import Tally

LARGEST = 4 << 20  # bytes of a schema, grammar or list of tools
CONSTRAINTS = {"json_schema": "--json-schema", "regex": "--regex", "grammar": "--grammar"}


def shaping_options(function: Any) -> Any:
    """Filters and penalties: what they leave of the distribution is drawn from."""
    for option in (
        click.option("--logit-bias", multiple=True, metavar="ID=B", help="Add B to the logit of token ID; repeatable."),
        click.option("--frequency-penalty", metavar="X", help="Minus X per time that a token was said."),
        click.option("--presence-penalty", metavar="X", help="Minus X for tokens that were said."),
        click.option(
            "--repetition-penalty", metavar="R", help="Divide logits of what was said by R (default: 1, off)."
        ),
        click.option("--typical-p", metavar="P", help="Draw among the most typical that together have P."),
        click.option("--min-p", metavar="P", help="Draw among tokens P times as likely as the likeliest, or more."),
    ):
        function = option(function)
    return function


def drawing_options(function: Any) -> Any:
    """Filters, penalties, several answers, log-probabilities."""
    for option in (
        click.option("--ignore-eos", is_flag=True, help="Go on past the tokens that end an answer."),
        click.option("--top-logprobs", metavar="K", help="With --json: the K likeliest tokens at each place."),
        click.option("--length-penalty", metavar="X", help="Beams: scores over length ** X (default: 1)."),
        click.option("--beams", metavar="N", help="Search with N beams instead of drawing."),
        click.option("--best-of", metavar="N", help="Draw N answers, give the best by mean log-probability."),
        click.option("--n", "n", metavar="N", help="So many answers."),
    ):
        function = option(function)
    return shaping_options(function)


def shaping(asked: Asked, options: dict[str, Any]) -> dict[str, Any]:
    """The filters and penalties as values; problems are collected."""
    any_number = {"least": float("-inf")}
    return {
        "min_p": asked.number("--min-p", options["min_p"], 0.0, most=1.0),
        "typical_p": asked.number("--typical-p", options["typical_p"], 1.0, least=1e-9, most=1.0),
        "repetition_penalty": asked.number("--repetition-penalty", options["repetition_penalty"], 1.0, least=1e-9),
        "presence_penalty": asked.number("--presence-penalty", options["presence_penalty"], 0.0, **any_number),
        "frequency_penalty": asked.number("--frequency-penalty", options["frequency_penalty"], 0.0, **any_number),
        "logit_bias": tuple(_biases(asked, options["logit_bias"])),
    }


def drawing(asked: Asked, options: dict[str, Any]) -> dict[str, Any]:
    """All of those settings as values; problems are collected."""
    return {
        **shaping(asked, options),
        "n": asked.whole("--n", options["n"], 1),
        "best_of": asked.whole("--best-of", options["best_of"], 0),
        "beams": asked.whole("--beams", options["beams"], 1),
        "length_penalty": asked.number("--length-penalty", options["length_penalty"], 1.0, least=float("-inf")),
        "top_logprobs": asked.whole("--top-logprobs", options["top_logprobs"], 0, least=0),
        "ignore_eos": options["ignore_eos"],
    }


def _biases(asked: Asked, pairs: tuple[str, ...]) -> Iterator[tuple[int, float]]:
    for pair in pairs:
        word, _, bias = pair.partition("=")
        try:
            yield int(word), float(bias)
        except ValueError:
            asked.problems.add(f"--logit-bias {pair}", "is no ID=BIAS", "write for example --logit-bias 42=-100")


def settled(asked: Asked, values: dict[str, Any]) -> Settings | None:
    """The settings, if all is well so far; what is wrong with them together is collected under the options' names."""
    from camelid.generate.settings import Settings

    if asked.problems.problems:
        return None
    try:
        return Settings(**values)
    except UsageError as error:
        for problem in error.problems:
            asked.problems.add("--" + problem.where.replace("_", "-"), problem.found, problem.remedy)
    return None


# --- constraints, tools, guesses --------------------------------------------------------------------------------------


def constraint_options(function: Any) -> Any:
    """--json-schema, --regex, --grammar: what an answer must match."""
    for option in (
        click.option("--grammar", metavar="FILE", help="The answer is a sentence of this Lark grammar."),
        click.option("--regex", metavar="R", help="The answer matches this regular expression as a whole."),
        click.option("--json-schema", metavar="FILE", help="The answer is JSON that this schema describes."),
    ):
        function = option(function)
    return function


def constraint(asked: Asked, options: dict[str, Any]) -> Constraint | None:
    """What the answer must match, checked; problems are collected."""
    from camelid.generate.settings import Constraint

    given = {kind: options[kind] for kind in CONSTRAINTS if options[kind] is not None}
    if len(given) > 1:
        names = " and ".join(CONSTRAINTS[kind] for kind in given)
        asked.problems.add(names, "are given together", "choose one of them")
    if len(given) != 1:
        return None
    ((kind, text),) = given.items()
    option = CONSTRAINTS[kind] if kind == "regex" else f"{CONSTRAINTS[kind]} {text}"
    if kind != "regex":
        path = asked.file(CONSTRAINTS[kind], text)
        text = _text(asked, CONSTRAINTS[kind], path) if path is not None and path.is_file() else None
    if text is None:
        return None
    found = Constraint(kind, text)  # type: ignore[arg-type]  # a key of CONSTRAINTS
    try:
        from camelid.generate.constrain import check

        check(found)
    except UsageError as error:
        for problem in error.problems:
            place = problem.where.removeprefix(kind) if problem.where.startswith(kind) else ""
            where = f"{option} ({place})" if place else option
            asked.problems.add(where, problem.found, problem.remedy)
    return found


def tools(asked: Asked, text: str | None) -> tuple[Tool, ...]:
    """The functions of a JSON file, () where none are given; problems are collected."""
    from camelid.dialogue.tools import tools_of
    from camelid.durable import parse_json
    from camelid.errors import BadData

    path = asked.file("--tools", text)
    if path is None or not path.is_file():
        return ()
    told = _text(asked, "--tools", path)
    try:
        return () if told is None else tools_of(parse_json(told.encode(), path))
    except BadFile as error:
        asked.problems.add("--tools", f"{path}: {error.found}", "give a JSON list of functions")
    except BadData as error:
        for problem in error.problems:
            asked.problems.add(f"--tools: {problem.where}", problem.found, problem.remedy)
    return ()


def _text(asked: Asked, option: str, path: Path) -> str | None:
    from camelid.durable import read_bytes

    try:
        return read_bytes(path, max_bytes=LARGEST).decode("utf-8")
    except BadFile as error:
        asked.problems.add(option, f"{path}: {error.found}", error.remedy)
    except UnicodeDecodeError as error:
        asked.problems.add(option, f"{path}: byte {error.start} is not UTF-8", "give text in UTF-8")
    return None


def guess_options(function: Any) -> Any:
    """--lookup, --draft: guesses, which change how fast an answer comes and nothing else."""
    for option in (
        click.option("--draft", metavar="MODEL", help="Guess ahead with this smaller model of the same tokenizer."),
        click.option("--lookup", is_flag=True, help="Guess ahead what followed the same tokens before."),
    ):
        function = option(function)
    return function


def draft(asked: Asked, options: dict[str, Any], store: Store) -> Path | None:
    """The folder of the draft model, None where none is wanted; problems are collected."""
    if options["draft"] is None:
        return None
    if options["lookup"]:
        asked.problems.add("--draft and --lookup", "are given together", "choose one of them")
    from camelid.store import find_model

    found = find_model(options["draft"], store, asked.problems)
    return found or Path()


def guessed(loaded: Loaded, prompt: Prompt, settings: Settings, small: Loaded | None, tally: Tally) -> Iterator[Event]:
    """The answer as a stream of events, guessing ahead with a smaller model or, without one, from the text."""
    from camelid.generate import speculate

    if small is not None:
        speculate.check_draft(loaded.tokenizer, small.tokenizer)
    guesser = speculate.Lookup() if small is None else speculate.Draft(small.model, loaded.tokenizer)
    own = prompt.within(settings)
    return speculate.generate(
        loaded.model, prompt.ids, own, loaded.tokenizer, guesser, starts=prompt.starts, tally=tally
    )


def with_tools(loaded: Loaded, messages: list[Any], offered_tools: tuple[Tool, ...]) -> list[Any]:
    """The messages with the turn that offers functions. Raises UsageError where the template has no place for it."""
    if not offered_tools:
        return messages
    from camelid.dialogue.message import Message
    from camelid.dialogue.tools import offered

    if loaded.template is None or not loaded.template.tools:
        found = "this model's template has no turn that offers functions"
        raise UsageError([Problem("--tools", found, "take a model that was trained to call them, such as Llama 3.1")])
    first = 1 if messages[0].role == "system" else 0
    return [*messages[:first], Message("tools", offered(offered_tools)), *messages[first:]]


__all__ = [
    "constraint",
    "constraint_options",
    "draft",
    "drawing",
    "drawing_options",
    "guess_options",
    "guessed",
    "settled",
    "shaping",
    "shaping_options",
    "tools",
    "with_tools",
]
