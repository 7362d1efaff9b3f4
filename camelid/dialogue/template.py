"""Templates: how a dialogue becomes control ids, trusted text and untrusted text, and which of it is learned.

A template is data: a few patterns, each a string with slots in braces.

    {instruction} {input} {system} {reply}   text that somebody else wrote: untrusted, never a control id
    {instruction|strip}                      the same without surrounding whitespace (also lstrip, rstrip)
    {bos} {eos}                              the control tokens that the tokenizer uses for these
    {<|eot_id|>}                             a control token by its name
    {{ }}                                    braces that are meant as text

There is no way from text to a control id: control tokens enter as ids, and everything else passes through
`Tokenizer.encode`, which never yields one. What cannot be promised is that a *marker made of plain text*, such as
"### Instruction:", means anything different when a user writes it: the ids are the same. A template therefore states
its markers and a policy, "keep" or "refuse".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from camelid.dialogue.message import Message
from camelid.errors import BadData, ProblemList, UsageError, did_you_mean
from camelid.tokenizers.protocol import Tokenizer

Learn = Literal["response", "assistant", "last", "everything"]
LEARN: tuple[Learn, ...] = ("response", "assistant", "last", "everything")
Strip = Literal["", "strip", "lstrip", "rstrip"]

_SLOT = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|([{}])")
_STRIPS: dict[str, Strip] = {"": "", "strip": "strip", "lstrip": "lstrip", "rstrip": "rstrip"}
_SLOTS = {
    "opening": frozenset[str](),
    "system": frozenset({"system"}),
    "user": frozenset({"instruction"}),
    "user_with_input": frozenset({"instruction", "input"}),
    "user_with_system": frozenset({"instruction", "system"}),
    "cue": frozenset[str](),
    "assistant": frozenset({"reply"}),
}


@dataclass(frozen=True)
class Control:
    """A control token, by name; "bos" and "eos" stand for whatever the tokenizer uses."""

    name: str
    learned: bool = False
    message: int = -1


@dataclass(frozen=True)
class Trusted:
    """Text of the template itself."""

    text: str
    learned: bool = False
    message: int = -1


@dataclass(frozen=True)
class Untrusted:
    """Text that came from outside, with the slot it fills and the message (by index) it came from."""

    text: str
    field: str = ""
    learned: bool = False
    message: int = -1


Part = Control | Trusted | Untrusted


@dataclass(frozen=True)
class Slot:
    """A place in a pattern that a message fills."""

    field: str
    strip: Strip = ""


@dataclass(frozen=True)
class Template:
    """How a dialogue is written down for a model. Frozen data: it is fingerprinted, and it travels in checkpoints.

    A dialogue is `opening`, then a system turn if there is one, then user and assistant turns in alternation:

        opening · system · user · cue · assistant · user · cue · assistant ...
                                        ~~~~~~~~~                ~~~~~~~~~  learned; generation ends after `cue`

    Every turn repeats its whole pattern, so a template that was published for single turns, such as Alpaca's, shows
    earlier exchanges in full before the new one (ours: the paper knows single turns only).

    Raises BadData for a pattern that does not parse, naming every field that is wrong.
    """

    user: str
    assistant: str = "{reply}{eos}"
    user_with_input: str = ""  # for messages with an `input`; "" refuses them
    user_with_system: str = ""  # the first user turn with the system message folded in, instead of a turn of its own
    system: str = ""  # a system turn of its own; with both empty, system messages are refused
    default_system: str = ""  # the system message of dialogues that bring none
    opening: str = "{bos}"
    cue: str = ""  # what announces a reply
    stops: tuple[str, ...] = ("{eos}",)  # control tokens that end a reply, beside those that end `assistant`
    stop_texts: tuple[str, ...] = ()  # plain text that ends a reply
    markers: tuple[str, ...] = ()  # plain text by which the template marks structure
    on_markers: Literal["keep", "refuse"] = "keep"  # what to do with untrusted text that contains a marker

    def __post_init__(self) -> None:
        problems = ProblemList()
        for name, slots in _SLOTS.items():
            _check_pattern(f"template.{name}", getattr(self, name), slots, problems)
        for stop in self.stops:
            _check_pattern("template.stops", stop, frozenset(), problems)
        if not self.user:
            problems.add("template.user", "is empty", 'write at least "{instruction}"')
        if "{reply" not in self.assistant:
            problems.add("template.assistant", "has no {reply}", 'write for example "{reply}{eos}"')
        if self.system and self.user_with_system:
            problems.add("template.user_with_system", "is set beside template.system", "keep one of the two")
        if self.default_system and not self.takes_system:
            problems.add("template.default_system", "has no place to stand", "set template.system or user_with_system")
        problems.raise_data()

    @property
    def takes_system(self) -> bool:
        """Whether a dialogue may begin with a system message."""
        return bool(self.system or self.user_with_system)

    def content(self, generated: str) -> str:
        """The message content within generated text: what the template puts around a reply is taken off again."""
        before, after = _around_reply(self.assistant)
        strip = next(piece.strip for piece in pattern(self.assistant) if isinstance(piece, Slot))
        return _stripped(generated.removeprefix(before).removesuffix(after), strip)


# --- patterns -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def pattern(written: str) -> tuple[Control | Trusted | Slot, ...]:
    """The pieces of a pattern: control tokens, text of the template, and slots; neighbouring text is joined."""
    pieces: list[Control | Trusted | Slot] = []
    text, end = "", 0
    for match in _SLOT.finditer(written):
        text += written[end : match.start()]
        end = match.end()
        if match[1] is None:
            text += match[0][0]
            continue
        if text:
            pieces.append(Trusted(text))
            text = ""
        pieces.append(_slot(match[1]))
    text += written[end:]
    return (*pieces, Trusted(text)) if text else tuple(pieces)


def _slot(inside: str) -> Control | Slot:
    if inside in ("bos", "eos") or not inside[:1].isalpha():
        return Control(inside)
    name, _, strip = inside.partition("|")
    return Slot(name, _STRIPS.get(strip, ""))


def _check_pattern(where: str, written: str, slots: frozenset[str], problems: ProblemList) -> None:
    known = sorted(slots | {"bos", "eos"})
    for match in _SLOT.finditer(written):
        if match[2]:
            problems.add(
                where, f"has a lone {match[2]!r} at character {match.start() + 1}", "double braces meant as text"
            )
        elif match[1] == "":
            problems.add(where, "has an empty slot {}", f"choose from {', '.join(known)}")
        elif match[1] and match[1][0].isalpha() and match[1] not in ("bos", "eos"):
            name, _, strip = match[1].partition("|")
            if name not in slots:
                problems.add(where, f"has no slot {name!r}", did_you_mean(name, known))
            if strip not in _STRIPS or ("|" in match[1] and not strip):
                problems.add(where, f"cannot do {strip!r} to {name}", did_you_mean(strip, list(_STRIPS)[1:]))
    for slot in slots:
        count = sum(isinstance(piece, Slot) and piece.field == slot for piece in pattern(written))
        if written and count != 1:
            problems.add(where, f"uses {{{slot}}} {count} times", "use it once")


def _around_reply(written: str) -> tuple[str, str]:
    pieces = pattern(written)
    place = next(i for i, piece in enumerate(pieces) if isinstance(piece, Slot))
    before = "".join(piece.text for piece in pieces[:place] if isinstance(piece, Trusted))
    after = pieces[place + 1 :]
    return before, after[0].text if after and isinstance(after[0], Trusted) else ""


def _stripped(text: str, strip: Strip) -> str:
    return {"": text, "strip": text.strip(), "lstrip": text.lstrip(), "rstrip": text.rstrip()}[strip]


# --- parts ----------------------------------------------------------------------------------------------------------


def parts(template: Template, messages: Sequence[Message], *, generate: bool = False) -> tuple[Part, ...]:
    """The dialogue as typed parts in order; assistant turns are `learned`. With `generate`, it ends after the cue.

    Raises BadData naming every message that the template cannot express.
    """
    _check_messages(template, messages, generate)
    return tuple(_parts(template, messages, generate))


def _parts(template: Template, messages: Sequence[Message], generate: bool) -> Iterator[Part]:
    system, first = template.default_system, 0
    if messages[0].role == "system":
        system, first = messages[0].content, 1
    spoken = first == 1 or bool(system)
    yield from _filled(template.opening, {}, False, -1)
    if spoken and template.system:
        yield from _filled(template.system, {"system": system}, False, first - 1)
    for index in range(first, len(messages)):
        message = messages[index]
        if message.role == "assistant":
            yield from _filled(template.cue, {}, False, index)
            yield from _filled(template.assistant, {"reply": message.content}, True, index)
            continue
        folded = index == first and spoken and bool(template.user_with_system)
        written = template.user_with_system if folded else template.user_with_input if message.input else template.user
        fields = {"instruction": message.content, "input": message.input, "system": system}
        yield from _filled(written, fields, False, index)
    if generate:
        yield from _filled(template.cue, {}, False, len(messages))


def _filled(written: str, fields: dict[str, str], learned: bool, message: int) -> Iterator[Part]:
    for piece in pattern(written):
        if isinstance(piece, Control):
            yield Control(piece.name, learned, message)
        elif isinstance(piece, Trusted):
            yield Trusted(piece.text, learned, message)
        else:
            yield Untrusted(_stripped(fields[piece.field], piece.strip), piece.field, learned, message)


def _check_messages(template: Template, messages: Sequence[Message], generate: bool) -> None:
    problems = ProblemList()
    turns = list(enumerate(messages))
    if turns and turns[0][1].role == "system":
        if not template.takes_system:
            problems.add("messages[0]", "is a system message, for which this template has no place", "leave it out")
        turns = turns[1:]
    if not turns:
        problems.add("messages", "there is no user message", "begin with one")
    for place, (index, message) in enumerate(turns):
        expected = "user" if place % 2 == 0 else "assistant"
        if message.role != expected:
            problems.add(
                f"messages[{index}].role", f"is {message.role!r} where {expected!r} is due", "let turns alternate"
            )
    if generate and turns and turns[-1][1].role != "user":
        problems.add(
            f"messages[{len(messages) - 1}].role",
            "is not 'user', so there is nothing to answer",
            "end with a user message",
        )
    for index, message in enumerate(messages):
        _check_input(template, messages, index, message, problems)
        found = [marker for marker in template.markers if marker in message.content or marker in message.input]
        if found and template.on_markers == "refuse":
            what = ", ".join(map(repr, found))
            problems.add(
                f"messages[{index}]", f"contains {what}, by which this template marks structure", "write it otherwise"
            )
    problems.raise_data()


def _check_input(
    template: Template, messages: Sequence[Message], index: int, message: Message, problems: ProblemList
) -> None:
    if not message.input:
        return
    folded = bool(template.user_with_system) and (
        (index == 0 and bool(template.default_system)) or (index == 1 and messages[0].role == "system")
    )
    if message.role != "user" or not template.user_with_input or folded:
        problems.add(f"messages[{index}].input", "has no place in this template", "put it into the content")


# --- ids ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Span:
    """The ids of one message: from `start` up to `end`; its learned ids begin at `learned` (`end` if there are none).

    `message` is its index; the opening and a default system turn carry -1, the cue that a generation ends on carries
    the index of the message to come.
    """

    message: int
    start: int
    learned: int
    end: int


@dataclass(frozen=True)
class Rendered:
    """A dialogue as ids, and whether each id is supervised; what ends a reply; where each message lies.

    `starts` is what `Tokenizer.decode` and `stream` want to know about the ids that follow: whether their text begins
    afresh (after a control token) or continues text.
    """

    ids: list[int]
    supervised: list[bool]
    stop_ids: tuple[int, ...]
    stop_texts: tuple[str, ...]
    spans: tuple[Span, ...]
    starts: bool


def render(
    template: Template,
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    *,
    learn: Learn = "response",
    generate: bool = False,
) -> Rendered:
    """The ids of a dialogue and which of them are supervised.

    `learn` names what is supervised: "response" and "assistant" every assistant turn with its end token (two words,
    one for single exchanges and one for chats), "last" only the last assistant turn, "everything" all ids but the
    first, which nothing predicts. The ids do not depend on it: a run of text never crosses the border between a prompt
    and its reply, so the ids of a prompt are exactly the first ids of the same dialogue with its reply.

    Raises BadData for messages that the template cannot express, UsageError where the tokenizer lacks a control token.
    """
    if learn not in LEARN:
        problems = ProblemList()
        problems.add("learn", f"found {learn!r}", did_you_mean(str(learn), LEARN))
        problems.raise_usage()
    pieces = parts(template, messages, generate=generate)
    _check_controls(template, tokenizer)
    last = max((part.message for part in pieces if part.learned), default=-1)
    ids: list[int] = []
    supervised: list[bool] = []
    marks: list[tuple[int, bool, int]] = []
    starts = True
    for run in _runs(pieces):
        part = run[0]
        if isinstance(part, Control):
            new, starts = [_control(part.name, tokenizer)], True
        else:
            text = "".join(part.text for part in run if not isinstance(part, Control))
            new = tokenizer.encode(text, starts=starts)
            starts = starts and not text
        wanted = part.learned and (learn != "last" or part.message == last)
        ids += new
        supervised += [wanted or learn == "everything"] * len(new)
        marks.append((part.message, part.learned, len(ids)))
    if learn == "everything" and ids:
        supervised[0] = False
    return Rendered(ids, supervised, stop_ids(template, tokenizer), template.stop_texts, _spans(marks), starts)


def _runs(pieces: Sequence[Part]) -> Iterator[list[Part]]:
    """Parts that are encoded together: a control token alone; text up to a control token or a learned border."""
    run: list[Part] = []
    for part in pieces:
        joins = (
            run and not isinstance(part, Control) and not isinstance(run[0], Control) and part.learned == run[0].learned
        )
        if run and not joins:
            yield run
            run = []
        run.append(part)
    if run:
        yield run


def _spans(marks: Sequence[tuple[int, bool, int]]) -> tuple[Span, ...]:
    spans: list[Span] = []
    start = 0
    for message, learned, end in marks:
        if spans and spans[-1].message == message:
            before = spans.pop()
            border = before.learned if before.learned < before.end or not learned else before.end
            border = end if border == before.end and not learned else border
            spans.append(Span(message, before.start, border, end))
        else:
            spans.append(Span(message, start, start if learned else end, end))
        start = end
    return tuple(spans)


def stop_ids(template: Template, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The control ids that end a reply: those that close the assistant's turn, and the template's further stops."""
    pieces = pattern(template.assistant)
    place = next(i for i, piece in enumerate(pieces) if isinstance(piece, Slot))
    ends = [piece.name for piece in pieces[place + 1 :] if isinstance(piece, Control)]
    ends += [piece.name for stop in template.stops for piece in pattern(stop) if isinstance(piece, Control)]
    return tuple(dict.fromkeys(_control(name, tokenizer) for name in ends))


def control_names(template: Template) -> frozenset[str]:
    """The control tokens that a template uses, "bos" and "eos" among them as such."""
    written = [getattr(template, name) for name in _SLOTS] + list(template.stops)
    return frozenset(piece.name for text in written for piece in pattern(text) if isinstance(piece, Control))


def _check_controls(template: Template, tokenizer: Tokenizer) -> None:
    problems = ProblemList()
    for name in sorted(control_names(template)):
        if _find_control(name, tokenizer) is None:
            problems.add(
                "template",
                f"uses the control token {name!r}, which this tokenizer lacks",
                did_you_mean(name, tokenizer.controls),
            )
    problems.raise_usage()


def _find_control(name: str, tokenizer: Tokenizer) -> int | None:
    if name in ("bos", "eos"):
        return tokenizer.bos if name == "bos" else tokenizer.eos
    return tokenizer.controls.get(name)


def _control(name: str, tokenizer: Tokenizer) -> int:
    found = _find_control(name, tokenizer)
    if found is None:
        raise UsageError([])
    return found


__all__ = [
    "BadData",
    "Control",
    "Learn",
    "Part",
    "Rendered",
    "Span",
    "Template",
    "Trusted",
    "Untrusted",
    "control_names",
    "parts",
    "pattern",
    "render",
    "stop_ids",
]
