"""A chat template of others read as a Template, by what it says of a few dialogues.

Each message of these dialogues is one character that stands nowhere else; so what the template puts around messages is
seen: the same way a person reads a format off its examples. What was read is then held against the template on further
dialogues (longer ones, with a system message, with whitespace around every message). Only where all agree, character for
character, is it taken. Control tokens are ids in what comes out, and nothing that a message says becomes one.

Nothing of the template is run: see interpreter.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from camelid.dialogue.interpreter import Refused, Unreadable, parsed, said
from camelid.dialogue.message import Message
from camelid.dialogue.part import Control
from camelid.dialogue.pattern import Slot, Strip, control_ids
from camelid.dialogue.template import Template, parts
from camelid.errors import BadData, UsageError
from camelid.tokenizers.protocol import Tokenizer

if TYPE_CHECKING:
    from jinja2 import nodes

# Messages are characters of private use: the system's, and the i-th of a side i further.
SYSTEM, USER, REPLY = "\ue000", "\ue001", "\ue101"
# What is put around messages, to see what of it the template takes off.
PADS = (("", ""), (" \n", "\n "), ("\t\u2003", "\u3000\t"))
TURNS = 3  # exchanges of the longest dialogue

Atoms = tuple[str | int, ...]  # what a template says: characters, and the ids of control tokens
Dialogue = tuple[list[Message], bool]  # and whether it ends where the model is to answer


def read(text: str, tokenizer: Tokenizer, known: Sequence[Template] = ()) -> Template:
    """The template that the text of a `chat_template` stands for, with this tokenizer's control tokens.

    One of `known` is given where it says the same, for it may know more: its markers, tools, what ends a reply.
    Raises Unreadable, with the reason, where no template of ours says the same.
    """
    try:
        asked = _Asked(parsed(text), tokenizer)
        told = [(each, asked.atoms(*each)) for each in _dialogues(system=asked.takes_system)]
        for template in known:
            if template.takes_system == asked.takes_system and _agree(template, tokenizer, told):
                return template
        template = _suggested(asked)
    except Refused as error:
        raise Unreadable(f"it refuses a plain dialogue: {str(error)[:120]}") from None
    except (BadData, UsageError) as error:
        raise Unreadable(str(error)) from None
    if not _agree(template, tokenizer, told):
        raise Unreadable("what it says depends on more than who speaks, and in which order")
    return template


def _dialogues(*, system: bool) -> Iterator[Dialogue]:
    """The dialogues that a template is tried on."""
    for left, right in PADS:
        for begin in ([], [Message("system", left + SYSTEM + right)]) if system else ([],):
            whole = list(begin)
            for turn in range(TURNS):
                whole = [*whole, Message("user", left + chr(ord(USER) + turn) + right)]
                yield whole, True
                whole = [*whole, Message("assistant", left + chr(ord(REPLY) + turn) + right)]
                yield whole, False


def _agree(template: Template, tokenizer: Tokenizer, told: Sequence[tuple[Dialogue, Atoms]]) -> bool:
    """Whether a template of ours says the same of every dialogue, control tokens where it has control tokens."""
    try:
        ids = control_ids(template.patterns, tokenizer)
        return all(_of(template, ids, *dialogue) == atoms for dialogue, atoms in told)
    except (BadData, UsageError):
        return False


def _of(template: Template, ids: dict[str, int], messages: Sequence[Message], generate: bool) -> Atoms:
    made: list[str | int] = []
    for part in parts(template, messages, generate=generate):
        made += [ids[part.name]] if isinstance(part, Control) else part.text
    return tuple(made)


class _Asked:
    """A template of others that can be asked what it says of a dialogue."""

    def __init__(self, tree: nodes.Template, tokenizer: Tokenizer) -> None:
        self.tree, self.tokenizer = tree, tokenizer
        self.controls = dict(tokenizer.controls)
        names = sorted(self.controls, key=len, reverse=True)
        self.cut = re.compile("|".join(map(re.escape, names)) or r"(?!)")
        by_id = {id: name for name, id in self.controls.items()}
        roles = {"bos_token": tokenizer.bos, "eos_token": tokenizer.eos, "pad_token": tokenizer.pad}
        self.names = {role: by_id[id] for role, id in roles.items() if id in by_id}

    @property
    def takes_system(self) -> bool:
        """Whether it shows a system message; one that it refuses or passes over has no place in it."""
        try:
            return SYSTEM in self.atoms([Message("system", SYSTEM), Message("user", USER)], True)
        except Refused:
            return False

    def atoms(self, messages: Sequence[Message], generate: bool) -> Atoms:
        """What the template says, its control tokens found by their names, as readers of one string find them."""
        shown = [{"role": each.role, "content": each.content} for each in messages]
        asked = {"messages": shown, "add_generation_prompt": generate, "tools": None, "documents": None}
        text = said(self.tree, {**self.names, **asked})
        made: list[str | int] = []
        end = 0
        for match in self.cut.finditer(text):
            made += [*text[end : match.start()], self.controls[match[0]]]
            end = match.end()
        return (*made, *text[end:])

    def around(self, shown: str, *, generate: bool, pad: tuple[str, str] = ("", "")) -> list[Atoms]:
        """What stands around messages, given as their characters in order: one stretch more than there are messages."""
        left, right = pad
        roles = {SYSTEM: "system"} | {chr(ord(USER) + i): "user" for i in range(TURNS)}
        messages = [Message(roles.get(each, "assistant"), left + each + right) for each in shown]  # type: ignore[arg-type]
        atoms = self.atoms(messages, generate)
        if [each for each in atoms if isinstance(each, str) and each in shown] != list(shown):
            raise Unreadable("it leaves a message out, shows one twice, or changes their order")
        found, rest = [], atoms
        for each in shown:
            place = rest.index(each)
            found.append(rest[:place])
            rest = rest[place + 1 :]
        return [*found, rest]


def _suggested(asked: _Asked) -> Template:
    """The template that what was said suggests. Raises Unreadable where no template of ours could say it."""
    first, second, reply = USER, chr(ord(USER) + 1), REPLY
    before, cued = asked.around(first, generate=True)
    _, uncued = asked.around(first, generate=False)
    _, answered, closed = asked.around(first + reply, generate=False)
    _, _, between, _ = asked.around(first + reply + second, generate=True)
    if answered[: len(cued)] != cued:
        raise Unreadable("it announces an answer in another way than it writes one")
    if between[: len(closed)] != closed:
        raise Unreadable("what follows an answer depends on whether it is the last")
    after = uncued if cued[: len(uncued)] == uncued else cued
    turn = between[len(closed) :]
    write = _Writer(asked.tokenizer)
    padded = asked.around(first + reply + second, generate=True, pad=PADS[-1])
    fields: dict[str, str] = {
        "user": write(turn, Slot("instruction", _taken(padded, 2)), after),
        "cue": write(cued[len(after) :]),
        "assistant": write(answered[len(cued) :], Slot("reply", _taken(padded, 1)), closed),
    }
    starts = before[-len(turn) :] == turn if turn else True
    opening = before[: len(before) - len(turn)] if starts else ()
    if asked.takes_system:
        fields |= _system(asked, write, opening, turn, before, after)
    elif starts:
        fields["opening"] = write(opening)
    else:
        raise Unreadable("it writes the first message in another way than the next")
    told = "".join(each for each in (*closed, *turn) if isinstance(each, str)).strip()
    ends = () if any(isinstance(each, int) for each in closed) or not told else (told.splitlines()[0],)
    stops = () if asked.tokenizer.eos is None else ("{eos}",)
    return replace(Template(**fields), stops=stops, stop_texts=ends)  # type: ignore[arg-type]  # all of text


def _system(asked: _Asked, write: _Writer, opening: Atoms, turn: Atoms, before: Atoms, after: Atoms) -> dict[str, str]:
    """The fields that say how a system message is written, and what stands there without one."""
    ahead, behind, _ = asked.around(SYSTEM + USER, generate=True)
    padded = asked.around(SYSTEM + USER, generate=True, pad=PADS[-1])
    system = Slot("system", _taken(padded, 0))
    default = before[len(ahead) : len(before) - len(behind)]
    is_default = default and before == (*ahead, *default, *behind) and not any(isinstance(one, int) for one in default)
    words = {"default_system": "".join(map(str, default))} if is_default else {}
    if behind[len(behind) - len(turn) :] == turn:
        end = behind[: len(behind) - len(turn)]
        if is_default:
            return {"opening": "", "system": write(ahead, system, end), **words}
        shared = 0
        while shared < min(len(ahead), len(opening)) and ahead[shared] == opening[shared]:
            shared += 1
        return {
            "opening": write(ahead[:shared]),
            "system": write(ahead[shared:], system, end),
            "without_system": write(opening[shared:]),
        }
    if ahead[: len(opening)] != opening:
        raise Unreadable("it writes a system message neither before the first message nor into it")
    folded = write(ahead[len(opening) :], system, behind, Slot("instruction", _taken(padded, 1)), after)
    return {"opening": write(opening), "user_with_system": folded, **words}


def _taken(padded: Sequence[Atoms], message: int) -> Strip:
    """What the template takes off a message, by what is left of the padding around it."""
    left, right = padded[message][-1:] == (PADS[-1][0][-1],), padded[message + 1][:1] == (PADS[-1][1][0],)
    if left:
        return "" if right else "rstrip"
    return "lstrip" if right else "strip"


class _Writer:
    """Atoms and slots as a pattern."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.names = {id: name for name, id in tokenizer.controls.items()}
        self.names |= {id: role for role, id in (("eos", tokenizer.eos), ("bos", tokenizer.bos)) if id is not None}

    def __call__(self, *pieces: Atoms | Slot) -> str:
        return "".join(map(self._piece, pieces))

    def _piece(self, piece: Atoms | Slot) -> str:
        if isinstance(piece, Slot):
            return f"{{{piece.field}{'|' if piece.strip else ''}{piece.strip}}}"
        return "".join(self._atom(atom) for atom in piece)

    def _atom(self, atom: str | int) -> str:
        if isinstance(atom, str):
            return atom.replace("{", "{{").replace("}", "}}")
        name = self.names[atom]
        if name not in ("bos", "eos") and (name[:1].isalpha() or set(name) & set("{}")):
            raise Unreadable(f"it uses the control token {name!r}, whose name a pattern cannot hold")
        return f"{{{name}}}"
