"""chat, generate, tokenize, render, eval: what uses models."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from camelid.cli.asked import Asked, Command, json_option, machine_options, store_option
from camelid.cli.keeping import tokenizer_path
from camelid.cli.sampling import (
    constraint,
    constraint_options,
    draft,
    drawing,
    drawing_options,
    guess_options,
    guessed,
    settled,
    shaping,
    shaping_options,
    tools,
    with_tools,
)
from camelid.errors import BadFile, Problem, UsageError
from camelid.machine import GIB, Machine

if TYPE_CHECKING:
    from camelid.dialogue.template import Template
    from camelid.generate.loaded import Loaded
    from camelid.generate.settings import Settings
    from camelid.models.shape import LlamaShape
    from camelid.tokenizers.protocol import Tokenizer

ROLES = ("system", "tools", "user", "assistant", "call", "ipython")
TASKS = ("desk",)
WEIGHTS = ("float32", "bf16", "q8_0", "q4_0")
HELD = "rounded when loaded (CPU; float16 becomes float32 by default). All but float32 round what weights are multiplied with as well."
CACHES = ("float", "int8")


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


def sampling(asked: Asked, options: dict[str, Any]) -> dict[str, Any]:
    """The sampling settings as values; problems are collected."""
    return {
        "max_tokens": asked.whole("--max-tokens", options["max_tokens"], 256),
        "temperature": asked.number("--temperature", options["temperature"], 0.0),
        "top_p": asked.number("--top-p", options["top_p"], 1.0, least=1e-9, most=1.0),
        "top_k": asked.whole("--top-k", options["top_k"], 0, least=0),
        "seed": asked.whole("--seed", options["seed"], 0, least=0),
    }


def engine_options(function: Any) -> Any:
    """--engine, --weights, --cache: what computes, and how it holds things; --anyway: though memory does not suffice."""
    for option in (
        click.option("--cache", metavar="TYPE", help="Keys and values as float (default), or int8: 3.6 times smaller."),
        click.option("--anyway", is_flag=True, help="Load even where memory does not suffice."),
        click.option("--weights", metavar="TYPE", help=f"{', '.join(WEIGHTS)}: {HELD}"),
        click.option("--engine", metavar="NAME", help="native (default on a CPU), pytorch, or compiled."),
    ):
        function = option(function)
    return function


def template_option(function: Any) -> Any:
    """--template: in which a model talks that has none, or is to talk otherwise."""
    told = "Talk as this member does, or as llama-2-chat, llama-3-instruct, llama-3.1-instruct ... (default: as it was tuned)."
    return click.option("--template", metavar="NAME", help=told)(function)


def engine(asked: Asked, options: dict[str, Any]) -> dict[str, Any]:
    """The engine and the type of the weights, None where left open, and that of the cache; problems are collected."""
    return {
        "engine": asked.choice("--engine", options["engine"], ("native", "pytorch", "compiled"), "") or None,
        "weights": asked.choice("--weights", options["weights"], WEIGHTS, "") or None,
        "cache": asked.choice("--cache", options["cache"], CACHES, "float"),
    }


def check_cache(asked: Asked, options: dict[str, Any]) -> None:
    """Collects what cannot be had with a rounded cache: what walks back and forth in one of its own."""
    for name in ("draft", "lookup"):
        if options["cache"] == "int8" and options[name]:
            remedy = f"leave out --{name}, or the option --cache"
            asked.problems.add("--cache int8", f"beside --{name}, which keeps floats", remedy)


def opened(
    folder: Path,
    machine: Machine,
    dtype: str | None,
    wished: dict[str, Any] | None = None,
    *,
    tokens: int = 0,
    rows: int = 1,
    anyway: bool = False,
    template: Template | None = None,
) -> Loaded:
    """The model of a folder or GGUF file on a machine, in its stored precision unless another was asked for.

    Quantised weights of a file are decoded, which is told on standard error; so is the reason where PyTorch
    computes although the kernels would serve. Raises UsageError before anything is loaded where memory does not suffice
    for the weights and a cache of `rows` texts of so many tokens.
    """
    from camelid.checkpoints import directory
    from camelid.cli.memory import check_loading
    from camelid.generate.widening import widened

    plan = directory.load(folder, check="lengths")
    check_loading(plan, machine, dtype=dtype, tokens=tokens, rows=rows, anyway=anyway, **(wished or {}))
    import torch

    from camelid.generate.loaded import load

    torch.set_num_threads(machine.threads)
    found = None if dtype is None else getattr(torch, dtype)
    loaded = load(folder, dtype=found, device=machine.device, template=template, **(wished or {}))
    if loaded.cache == "int8":
        tell_of_cache(loaded)
    if "(" in loaded.engine:
        click.echo(f"engine: {loaded.engine}", err=True)
    chosen = (wished or {}).get("engine")
    if "float32" in loaded.engine and widened(plan.dtype, device=machine.device, dtype=dtype, engine=chosen):
        tell_of_widening(folder, plan.shape)
    if "as stored" not in loaded.engine:
        tell_of_decoding(folder)
    return loaded


def tell_of_template(loaded: Loaded) -> None:
    """Say on standard error in which template a foreign model talks, and where there is none."""
    other, found = "--template NAME chooses", loaded.foreign
    if found is None:
        if loaded.template is None:
            told = f"this model has no template: it continues your text instead of answering ({other} one)"
            click.echo(told, err=True)
    elif found.how == "unknown":
        told = "the model's chat template cannot be read, and it continues your text instead of answering"
        click.echo(f"{told} ({other} one): {found.problem}", err=True)
    elif found.how == "marks":
        told = f"template: {found.name}, by the marks of the model's own, which cannot be read ({other} another)"
        click.echo(f"{told}: {found.problem}", err=True)
    else:
        name = f"{found.name}, which says what the model's own says" if found.name else "read from the model's own"
        click.echo(f"template: {name} ({other} another)", err=True)


def tell_of_cache(loaded: Loaded) -> None:
    """Say on standard error what keys and values in int8 take, and that they are rounded."""
    from camelid.models.llama import paged_cache

    rounded, floats = (paged_cache(loaded.shape, 0, loaded.model.dtype, kind=kind) for kind in ("int8", "float"))
    small, large = (each.page_bytes // each.page for each in (rounded, floats))
    told = f"{small:,} bytes a token instead of {large:,}"
    click.echo(f"cache: keys and values in int8, {told}; answers may differ by rounding", err=True)


def tell_of_widening(path: Path, shape: LlamaShape) -> None:
    """Say on standard error that weights stored in float16 take twice their file's size, and what takes less."""
    from camelid.cli.memory import matrix_bytes

    sizes = {kind: told_size(matrix_bytes(shape, kind)) for kind in WEIGHTS}
    told = f"{path.name}: stored in float16, computed with in float32, which holds the same values"
    less = ", ".join(f"{kind} {size}" for kind, size in sizes.items() if kind != "float32")
    click.echo(f"{told}, {sizes['float32']} of memory (--weights, which rounds, takes less: {less})", err=True)


def told_size(size: float) -> str:
    """Bytes, for people."""
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"


def tell_of_decoding(path: Path) -> None:
    """Say on standard error that quantised weights are decoded, and to what; nothing of others."""
    from camelid.checkpoints import directory

    checkpoint = directory.load(path, check="lengths")
    if checkpoint.quantised:
        forms = ", ".join(f"{count} in {form}" for form, count in checkpoint.forms.items())
        more = told_size(4 * checkpoint.shape.parameters())
        click.echo(f"{path.name}: {forms} (tensors); decoded to {checkpoint.dtype}, {more} of memory", err=True)


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a model folder, a GGUF file, or a tokenizer file."""
    from camelid import tokenizers
    from camelid.checkpoints import directory
    from camelid.checkpoints.gguf_file import is_gguf

    return directory.load(path).tokenizer if is_gguf(path) else tokenizers.load(path)


@click.command(cls=Command)
@click.argument("model", metavar="MODEL", required=False)
@click.option("--prompt", metavar="TEXT", help="What to answer or continue; - reads it from standard input.")
@click.option("--file", "source", metavar="JSONL", help='Many prompts: {"prompt"} or {"messages"} on each line.')
@click.option("--out", metavar="JSONL", help="With --file: where the answers go; a run that was stopped goes on.")
@click.option("--rows", metavar="N", help="With --file: so many answers at once (default: 64).")
@click.option("--truncate", is_flag=True, help="With --file: cut the beginning of prompts that are too long.")
@click.option("--skip-bad", is_flag=True, help="With --file: answer rows that are wrong with their error.")
@click.option("--input", "context", metavar="TEXT", help="Further context, where the template has a place for it.")
@click.option("--system", metavar="TEXT", help="A system message, where the template has a place for it.")
@click.option("--raw", is_flag=True, help="No template: BOS and the text, as the base model was trained.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; may be given several times.")
@click.option("--prompt-logprobs", is_flag=True, help="With --json: log-probabilities of the prompt's tokens too.")
@click.option(
    "--tools", metavar="FILE", help="Functions that may be called, as JSON; with --json: calls, and wrong ones."
)
@template_option
@sampling_options
@drawing_options
@constraint_options
@guess_options
@engine_options
@machine_options
@store_option
@json_option
@click.pass_obj
def generate(asked: Asked, /, as_json: bool, **options: Any) -> None:
    """Continue or answer one prompt, or a file of them, with MODEL, a folder, a GGUF file or a grown member.

    A line of --file may carry an id and any setting beside its prompt: max_tokens, temperature, seed, n, ...

    With --json one object is printed: prompt_ids, token_ids, text, logprobs (natural log, one per generated token),
    finish_reason, and where asked for prompt_logprobs, top_logprobs, prompt_top_logprobs, calls. Of several answers
    (--n, --best-of, --beams) the object holds a list of such objects, "choices".
    """
    store = asked.store(options["store"])
    folder, smaller = asked.model(options["model"], store), draft(asked, options, store)
    settings = {
        **sampling(asked, options),
        **drawing(asked, options),
        "constraint": constraint(asked, options),
        "prompt_logprobs": options["prompt_logprobs"],
        "stop_texts": tuple(text for text in options["stop"] if text),
    }
    functions = tools(asked, options["tools"])
    source = asked.file("--file", options["source"])
    together = asked.whole("--rows", options["rows"], 64)
    if options["prompt"] is None and source is None:
        asked.problems.add("--prompt", "is missing", "write --prompt TEXT, --prompt - to read it, or --file JSONL")
    check_batch(asked, options, as_json)
    if any(not text for text in options["stop"]):
        asked.problems.add("--stop", "is empty", "leave it out")
    if options["raw"] and (options["system"] or options["context"] or options["template"]):
        asked.problems.add("--raw", "goes without a template", "leave out --template, --system and --input")
    template = asked.template(options["template"])
    if options["tools"] and options["raw"]:
        asked.problems.add("--tools", "goes with a template", "leave out --raw")
    for name in ("prompt_logprobs", "top_logprobs"):
        if options[name] and not as_json and source is None:
            asked.problems.add("--" + name.replace("_", "-"), "is shown with --json only", "add --json")
    check_cache(asked, options)
    own = settled(asked, settings)
    if own is not None and own.several > 1 and (smaller or options["lookup"]):
        asked.problems.add("--draft or --lookup", f"beside {own.several} answers", "guess ahead for one at a time")
    machine = asked.machine(options["device"], options["dtype"], options["threads"])
    wished = engine(asked, options)
    asked.settle()
    assert own is not None
    if source is not None:
        asked_of = {"tokens": own.max_tokens, "rows": together or 1, "anyway": options["anyway"]}
        loaded = opened(folder, machine, options["dtype"], wished, template=template, **asked_of)
        if loaded.foreign:
            tell_of_template(loaded)
        batch(loaded, source, own, options, together)
        return
    text = read_input("--prompt") if options["prompt"] == "-" else options["prompt"]
    tokens = len(text) + (settings["max_tokens"] or 0)
    loaded = opened(
        folder, machine, options["dtype"], wished, tokens=tokens, anyway=options["anyway"], template=template
    )
    if loaded.foreign and not options["raw"]:
        tell_of_template(loaded)
    from camelid.dialogue.message import Message
    from camelid.generate.decode import End, Token

    system = [Message("system", options["system"])] if options["system"] else []
    asking = with_tools(loaded, [*system, Message("user", text, options["context"] or "")], functions)
    prompt = loaded.prompt(text if options["raw"] else asking, raw=options["raw"])
    if own.several > 1:
        show_choices(loaded, prompt, own, functions, as_json)
        return
    if smaller or options["lookup"]:
        from camelid.generate.speculate import Tally

        tally = Tally()
        small = (
            opened(smaller, machine, options["dtype"], wished, tokens=tokens, anyway=options["anyway"])
            if smaller
            else None
        )
        events = guessed(loaded, prompt, own, small, tally)
    else:
        tally, events = None, loaded.generate(prompt, own)
    for event in events:
        if isinstance(event, Token) and not as_json:
            click.echo(event.text, nl=False)
        if isinstance(event, End):
            calls = calls_of(event.completion.token_ids, loaded, functions) if functions else {}
            click.echo(json.dumps({**event.completion.data(), **calls}) if as_json else "")
            if calls.get("wrong") and not as_json:
                click.echo(f"the answer {calls['wrong']}", err=True)
            if own.constraint is not None and event.completion.finish_reason == "length" and not as_json:
                count = len(event.completion.token_ids)
                click.echo(f"cut after {count} tokens, before it matched: raise --max-tokens", err=True)
    if tally is not None and not as_json:
        told = f"{tally.right} of {tally.guessed} guesses were right"
        click.echo(f"{tally.given} tokens in {tally.passes} passes; {told}", err=True)


def show_choices(loaded: Loaded, prompt: Any, own: Any, functions: Any, as_json: bool) -> None:
    """Several answers to one prompt, the best or first first, with their calls where functions were offered."""
    from camelid.generate.choices import complete_choices

    own = prompt.within(own)
    found = complete_choices(loaded.model, prompt.ids, own, loaded.tokenizer, starts=prompt.starts, cache=loaded.cache)
    heard = [calls_of(one.token_ids, loaded, functions) if functions else {} for one in found]
    if as_json:
        click.echo(json.dumps({"choices": [{**one.data(), **calls} for one, calls in zip(found, heard, strict=True)]}))
        return
    for number, (one, calls) in enumerate(zip(found, heard, strict=True), 1):
        click.echo(f"[{number}] {one.text}")
        if calls.get("wrong"):
            click.echo(f"answer {number} {calls['wrong']}", err=True)


def calls_of(ids: Any, loaded: Loaded, functions: Any) -> dict[str, Any]:
    """The calls in an answer and what is wrong with what looks like one, for JSON."""
    from camelid.dialogue.tools import heard

    found = heard(ids, loaded.tokenizer, known=[tool.name for tool in functions])
    calls = [{"name": call.name, "arguments": dict(call.arguments)} for call in found.calls]
    return {"calls": calls, **({"wrong": found.wrong} if found.wrong else {})}


def check_batch(asked: Asked, options: dict[str, Any], as_json: bool) -> None:
    """Collects what does not go with --file, and what goes with it only."""
    given = {"--out": options["out"], "--rows": options["rows"]}
    flags = {"--truncate": options["truncate"], "--skip-bad": options["skip_bad"]}
    if options["source"] is None:
        for name, value in (given | flags).items():
            if value:
                asked.problems.add(name, "goes with --file", "name a file of prompts, or leave it out")
        return
    out, source = options["out"], Path(options["source"]).expanduser()
    if out is None:
        asked.problems.add("--out", "is missing", "name the file for the answers")
    elif Path(out).is_dir():
        asked.problems.add("--out", f"{out} is a folder", f"name a file: {Path(out) / 'answers.jsonl'}")
    elif Path(out).exists() and source.exists() and source.samefile(out):
        asked.problems.add("--out", f"{out} holds the prompts", "name another file for the answers")
    alone = {"--prompt": options["prompt"], "--input": options["context"], "--system": options["system"]}
    alone |= {name: options[name[2:]] for name in ("--raw", "--tools", "--draft", "--lookup")}
    for name, value in alone.items():
        if value:
            asked.problems.add(name, "goes with one prompt", "leave it out; rows of a file say what they need")
    if as_json:
        asked.problems.add("--json", "goes with one prompt", "the answers' file is JSON already")


def batch(loaded: Loaded, source: Path, own: Settings, options: dict[str, Any], together: int | None) -> None:
    """Answer a file of prompts, telling how it goes, and at its end how fast it went. Raises CamelidError at the end
    if rows failed."""
    import time

    from camelid.errors import CamelidError
    from camelid.generate.offline import Outcome, answer_file
    from camelid.journal import Narrator, clock

    narrator, began = Narrator(), time.monotonic()
    with open(source, "rb") as file:
        lines = sum(1 for line in file if line.strip())
    with narrator.progress(source.name, lines, "rows") as shown:

        def report(outcome: Outcome) -> None:
            tally, seconds = outcome.tally, time.monotonic() - began
            assert tally is not None
            speed = f"{tally.drawn / seconds:,.0f} tokens/s" if seconds > 0 else ""
            shown(outcome.before + outcome.answered, speed)

        done = answer_file(
            loaded, source, Path(options["out"]), own,
            rows=together or 64, truncate=options["truncate"], skip_bad=options["skip_bad"], report=report,
        )  # fmt: skip
    seconds, tally = time.monotonic() - began, done.tally
    assert tally is not None
    words = [f"{done.answered:,} rows answered" + (f" ({done.before:,} were before)" if done.before else "")]
    words += [f"{tally.read:,} tokens read, {tally.reused:,} found again, {tally.drawn:,} written"]
    words += [f"{clock(seconds)}: {tally.drawn / seconds:,.0f} tokens/s written"] if tally.drawn else []
    words += [f"prompts cut: {done.truncated:,}"] if done.truncated else []
    narrator.say("; ".join(words))
    if done.failed:
        raise CamelidError(
            f"{options['out']}: {done.failed:,} of {done.rows:,} rows have an error instead of an answer"
        )


@click.command(cls=Command)
@click.argument("model", metavar="MODEL", required=False)
@click.option("--system", metavar="TEXT", help="A system message, where the template has a place for it.")
@click.option(
    "--forget", metavar="never|oldest", help="When the context is full: stop (default), or drop oldest turns."
)
@template_option
@sampling_options
@shaping_options
@engine_options
@machine_options
@store_option
@click.pass_obj
def chat(asked: Asked, /, **options: Any) -> None:
    """Talk with MODEL, a folder, a GGUF file or a grown member, in its own template.

    /help says what else can be said there, /exit or the end of input leaves; an interrupt stops the answer.
    """
    folder = asked.model(options["model"], asked.store(options["store"]))
    own = settled(asked, {**sampling(asked, options), **shaping(asked, options)})
    forget = asked.choice("--forget", options["forget"], ("never", "oldest"), "never")
    template = asked.template(options["template"])
    machine = asked.machine(options["device"], options["dtype"], options["threads"])
    wished = engine(asked, options)
    asked.settle()
    from camelid.cli.chatting import converse
    from camelid.generate.chat import Chat

    assert own is not None
    tokens = 8 * own.max_tokens  # ours: a conversation of some turns
    loaded = opened(
        folder, machine, options["dtype"], wished, tokens=tokens, anyway=options["anyway"], template=template
    )
    tell_of_template(loaded)
    talk = Chat(
        loaded,
        own,
        system=options["system"] or "",
        forget="oldest" if forget == "oldest" else "never",
    )
    converse(talk, interactive=sys.stdin.isatty())


@click.command(cls=Command)
@click.argument("model", metavar="MODEL_OR_FILE", required=False)
@click.option("--decode", is_flag=True, help='Read {"ids": [...]} or a JSON list, and print the text.')
@store_option
@json_option
@click.pass_obj
def tokenize(asked: Asked, /, model: str | None, decode: bool, store: str | None, as_json: bool) -> None:
    """Standard input as one text to ids, and back with --decode. Text never yields a control id."""
    where = tokenizer_path(asked, model, asked.store(store))
    asked.settle()
    tokenizer = load_tokenizer(where)
    text = read_input("standard input")
    if decode:
        ids = read_ids(text, tokenizer.size)
        said = tokenizer.decode(ids)
        click.echo(json.dumps({"text": said}) if as_json else said)
        return
    ids = tokenizer.encode(text)
    click.echo(json.dumps({"ids": ids}) if as_json else " ".join(f"{id}:{tokenizer.piece(id)!r}" for id in ids))


def read_input(where: str) -> str:
    """All of standard input, byte for byte: no line end is translated. Raises UsageError where it is not UTF-8."""
    data = sys.stdin.buffer.read()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"byte {error.start} is not UTF-8 ({error.reason})"
        raise UsageError([Problem(where, found, "give text in UTF-8")]) from None


def parsed(text: str, wanted: str) -> Any:
    """Standard input as JSON. Raises UsageError."""
    from camelid.durable import parse_json

    try:
        return parse_json(text.encode(), Path("standard input"))
    except BadFile as error:
        raise UsageError([Problem("standard input", error.found, f"give {wanted}")]) from None


def read_ids(text: str, size: int) -> list[int]:
    """Ids from a JSON list or an object that holds one. Raises UsageError for anything else."""
    wanted = '{"ids": [...]} with whole numbers'
    value = parsed(text, wanted)
    ids = value.get("ids") if isinstance(value, dict) else value
    if not isinstance(ids, list) or not all(isinstance(id, int) and not isinstance(id, bool) for id in ids):
        raise UsageError([Problem("standard input", "holds no list of ids", f"give {wanted}")])
    wrong = [id for id in ids if not 0 <= id < size]
    if wrong:
        found = f"id {wrong[0]} is outside this vocabulary of {size}"
        raise UsageError([Problem("standard input", found, "give ids of this tokenizer")])
    return ids


@click.command(cls=Command)
@click.argument("model", metavar="MODEL", required=False)
@click.option("--learn", metavar="WORD", help="response (default), assistant, last or everything.")
@click.option("--generate", "generating", is_flag=True, help="End where the model is to answer.")
@store_option
@json_option
@click.pass_obj
def render(
    asked: Asked, /, model: str | None, learn: str | None, generating: bool, store: str | None, as_json: bool
) -> None:
    """A conversation, {"messages": [...]} on standard input, as the model sees it: ids, loss mask, stop ids."""
    folder = asked.model(model, asked.store(store))
    word = asked.choice("--learn", learn, ("response", "assistant", "last", "everything"), "response")
    asked.settle()
    from camelid.checkpoints import directory
    from camelid.dialogue.published import PLAIN
    from camelid.dialogue.template import render as rendered

    messages = read_messages(read_input("standard input"))
    checkpoint = directory.load(folder)
    foreign, tokenizer = checkpoint.recognised, checkpoint.tokenizer
    template = checkpoint.template or (foreign.template if foreign else None) or PLAIN
    generating = generating or messages[-1].role != "assistant"
    found = rendered(template, messages, tokenizer, learn=word, generate=generating)  # type: ignore[arg-type]
    if as_json:
        told = {"ids": found.ids, "supervised": [int(s) for s in found.supervised], "stop_ids": found.stop_ids}
        click.echo(json.dumps({name: list(value) for name, value in told.items()}))
        return
    for id, learned in zip(found.ids, found.supervised, strict=True):
        click.echo(f"{id:>7} {'learned' if learned else 'context'} {tokenizer.piece(id)!r}")


def read_messages(text: str) -> list[Any]:
    """The messages of a conversation. Raises UsageError naming every message that is wrong."""
    from camelid.dialogue.message import Message
    from camelid.errors import ProblemList

    value = parsed(text, '{"messages": [{"role": "user", "content": "..."}]}')
    told = value.get("messages") if isinstance(value, dict) else None
    problems = ProblemList()
    if not isinstance(told, list) or not told:
        problems.add("standard input", "holds no messages", 'give {"messages": [{"role": "user", "content": "..."}]}')
        told = []
    read = []
    for index, message in enumerate(told):
        fields = message if isinstance(message, dict) else {}
        role, content, more = fields.get("role"), fields.get("content"), fields.get("input", "")
        if role not in ROLES or not isinstance(content, str) or not isinstance(more, str):
            problems.add(f"messages[{index}]", "is no message", f"give role ({', '.join(ROLES)}) and content, text")
        else:
            read.append(Message(role, content, more))
    problems.raise_usage()
    return read


@click.command(cls=Command, name="eval")
@click.argument("model", metavar="MODEL", required=False)
@click.option("--tasks", metavar="TASKS", help="desk: held-out instructions of the desk world.")
@click.option("--world", metavar="SIZE", help="The world asked about (default: the one the model grew up in).")
@click.option("--seed", metavar="N", help="The world's seed (default: the model's).")
@click.option("--split", metavar="SPLIT", help="held_out (default) or held_out_wording.")
@engine_options
@machine_options
@store_option
@json_option
@click.pass_obj
def eval_command(asked: Asked, /, as_json: bool, **options: Any) -> None:
    """Score a model on tasks: shares of right answers by family, with 95 % intervals."""
    folder = asked.model(options["model"], asked.store(options["store"]))
    for task in (options["tasks"] or "desk").split(","):
        asked.choice("--tasks", task, TASKS, "desk")
    split = asked.choice("--split", options["split"], ("held_out", "held_out_wording"), "held_out")
    seed = asked.whole("--seed", options["seed"], None, least=0)
    machine = asked.machine(options["device"], options["dtype"], options["threads"])
    wished = engine(asked, options)
    asked.settle()
    import torch

    from camelid import desk
    from camelid.evaluate.desk import score
    from camelid.recipes.alpaca import PROMPT

    torch.set_num_threads(machine.threads)
    loaded = opened(folder, machine, options["dtype"], wished, anyway=options["anyway"])
    world, grown_seed = world_of(folder)
    seed = grown_seed if seed is None else seed
    items = desk.instructions(desk.world(options["world"] or world, seed), split, seed=seed)
    scores = score(loaded, items, template=loaded.template or PROMPT)
    if as_json:
        click.echo(json.dumps({"task": "desk", "model": str(folder), **scores.data(samples=3)}))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 3, 0, 0), header_style="bold")
    for title in ("family", "right", "of", "share", "95 %"):
        table.add_column(title, justify="left" if title == "family" else "right")
    for row in (*scores.families, scores.overall):
        style = "bold" if row is scores.overall else ""
        interval = f"{row.low:.1%} to {row.high:.1%}"
        table.add_row(row.family, str(row.correct), str(row.count), f"{row.share:.1%}", interval, style=style)
    Console(highlight=False).print(table)
    if scores.unread:
        click.echo(f"{scores.unread:,} questions are longer than the model's context: not answered", err=True)


def world_of(folder: Path) -> tuple[str, int]:
    """The desk world that a grown model's data came from, by its provenance; the small one elsewhere."""
    from camelid.checkpoints.gguf_file import is_gguf
    from camelid.durable import read_json
    from camelid.store import PROVENANCE

    try:
        told: Any
        if is_gguf(folder):
            from camelid.checkpoints.gguf import load_gguf

            told = load_gguf(folder).told
        else:
            told = read_json(folder / PROVENANCE)
    except BadFile:
        return "small", 0
    desk = told.get("provenance", {}).get("desk") if isinstance(told, dict) else None
    return (str(desk["world"]), int(desk["seed"])) if isinstance(desk, dict) else ("small", 0)
