"""The conversation of `camelid chat`: lines from standard input, answers as they come, and a few words that command it."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from camelid.errors import BadData, UsageError, did_you_mean

if TYPE_CHECKING:
    from camelid.generate.chat import Chat

WORD = re.compile(r"/[a-z]+")
WORDS = {
    "/help": "what can be said here",
    "/again": "another answer to the last message, drawn by the next seed",
    "/undo": "take the last message and its answer back",
    "/system": "TEXT as system message from now on, and begin anew; without TEXT, none",
    "/clear": "begin anew; a system message stays",
    "/save": "FILE: add the conversation to a JSONL file, as camelid grow --data reads it",
    "/exit": "leave, as the end of input does",
}


class Conversation:
    """A chat carried on by lines: what begins with one of WORDS commands it, everything else is said to the model."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.done = False

    def take(self, line: str) -> None:
        """One line of a person. A single word behind a slash that is no command is told, not said."""
        word, _, rest = line.strip().partition(" ")
        steps: dict[str, Callable[[], None]] = {
            "/help": self.help,
            "/again": self.again,
            "/undo": self.undo,
            "/system": lambda: self.system(rest.strip()),
            "/clear": self.chat.clear,
            "/save": lambda: self.save(rest.strip()),
            "/exit": self.leave,
        }
        if word in WORDS and (not rest or word in ("/system", "/save")) and line.startswith("/"):
            steps[word]()
        elif WORD.fullmatch(line.rstrip()):
            remedy = did_you_mean(line.strip(), WORDS)
            tell(f"{line.strip()} is no command: {remedy}; with a space before it, it is said to the model")
        elif line.strip():
            self.say(line)

    def say(self, text: str) -> None:
        """One turn; what cannot be said is told, and the conversation goes on."""
        from camelid.generate.chat import Forgot
        from camelid.generate.events import Token

        try:
            for event in self.chat.say(text):
                if isinstance(event, Forgot):
                    tell(f"(forgot the {event.exchanges} oldest exchanges)")
                if isinstance(event, Token):
                    click.echo(event.text, nl=False)
                    sys.stdout.flush()
        except KeyboardInterrupt:
            click.echo(" ...", nl=False)
        except (UsageError, BadData) as error:
            click.echo(str(error), err=True, nl=False)
        click.echo()

    def again(self) -> None:
        settings = self.chat.settings
        if settings.temperature == 0:
            tell("the likeliest answer is always the same: start with --temperature 0.7, say, for others")
            return
        said = self.chat.undo()
        if said is None:
            tell("nothing was said yet")
            return
        self.chat.settings = replace(settings, seed=settings.seed + 1)
        self.say(said.content)

    def undo(self) -> None:
        said = self.chat.undo()
        tell("nothing was said yet" if said is None else f"taken back: {said.content}")

    def system(self, text: str) -> None:
        self.chat.begin(text)

    def save(self, file: str) -> None:
        turns = [{"role": each.role, "content": each.content} for each in self.chat.messages]
        if not file or all(turn["role"] == "system" for turn in turns):
            tell("nothing was said yet" if file else "name a file: /save FILE")
            return
        record = json.dumps({"messages": turns}, ensure_ascii=False).encode() + b"\n"
        try:
            with Path(file).expanduser().open("a+b") as out:
                if out.tell() and (out.seek(-1, os.SEEK_END), out.read())[1] != b"\n":
                    record = b"\n" + record  # what another program left without its line's end
                out.write(record)
        except OSError as error:
            tell(f"{file}: {error.strerror}; name another file")
            return
        tell(f"{len(turns)} messages added to {file}")

    def help(self) -> None:
        for word, meaning in WORDS.items():
            tell(f"  {word:<8}  {meaning}")

    def leave(self) -> None:
        self.done = True


def converse(chat: Chat, *, interactive: bool) -> None:
    """Read lines from standard input until it ends or somebody leaves, and stream the answers."""
    if interactive:
        tell("/help says what can be said here, /exit leaves")
    read = _asking() if interactive else _reading
    conversation = Conversation(chat)
    while not conversation.done:
        try:
            line = read()
        except KeyboardInterrupt:
            return
        if line is None:
            return
        conversation.take(line)


def tell(text: str) -> None:
    """A line for whoever talks, beside what the model says."""
    click.echo(text, err=True)


def _reading() -> str | None:
    line = sys.stdin.readline()
    return line.rstrip("\n") if line else None


def _asking() -> Callable[[], str | None]:
    """A line at a prompt, with the arrow keys of a shell where Python has readline; nothing of it is kept on disk."""
    if sys.stdout.isatty():
        with suppress(ImportError):
            import readline  # noqa: F401 - input() uses it once it is there

        def ask() -> str | None:
            click.echo()
            try:
                return input("> ")
            except EOFError:
                return None

        return ask

    def plain() -> str | None:
        click.echo("\n> ", nl=False, err=True)
        return _reading()

    return plain
