"""Templates: how a dialogue becomes control ids, trusted text and untrusted text, and which of it is learned.

There is no way from text to a control id: control tokens enter as ids, and everything else passes through
`Tokenizer.encode`, which never yields one. What cannot be promised is that a *marker made of plain text*, such as
"### Instruction:", means anything different when a user writes it: its ids are the same. A template therefore states
its markers and a policy, "keep" or "refuse".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from camelid.dialogue.jinja import jinja
from camelid.dialogue.message import Message
from camelid.dialogue.part import Control, Part, Trusted, Untrusted
from camelid.dialogue.pattern import around, check, control_ids, pieces
from camelid.errors import ProblemList, did_you_mean
from camelid.tokenizers.protocol import Tokenizer

__all__ = [
    "Control",
    "Learn",
    "Part",
    "Rendered",
    "Reply",
    "Template",
    "Trusted",
    "Untrusted",
    "jinja",
    "parts",
    "render",
    "stop_ids",
]

Learn = Literal["response", "assistant", "last", "everything"]
LEARN: tuple[Learn, ...] = ("response", "assistant", "last", "everything")

# The patterns of a template, and the slots that each must have.
PATTERNS: Mapping[str, tuple[str, ...]] = {
    "opening": (),
    "system": ("system",),
    "without_system": (),
    "user": ("instruction",),
    "user_with_input": ("instruction", "input"),
    "user_with_system": ("instruction", "system"),
    "cue": (),
    "assistant": ("reply",),
    "tools": ("tools",),
    "call": ("call",),
    "result": ("result",),
}


@dataclass(frozen=True)
class Template:
    """How a dialogue is written down for a model. Frozen data: it is fingerprinted, and it travels in checkpoints.

    A dialogue is `opening`, then a system turn if there is one, then user and assistant turns in alternation; each is a
    pattern (camelid/dialogue/pattern.py):

        opening · system · user · cue · assistant · user · cue · assistant ...
                                        ~~~~~~~~~                ~~~~~~~~~  learned; generation begins after `cue`

    With `call` and `result`, what the assistant says may be a call, which is followed by its result, and that by
    another turn of the assistant.

    Every turn repeats its whole pattern, so a template that was published for single turns, such as Alpaca's, shows
    earlier exchanges in full before the new one (ours: its authors define single turns only).

    Raises BadData for patterns that do not parse, naming every field that is wrong.
    """

    user: str
    assistant: str = "{reply}{eos}"
    user_with_input: str = ""  # for messages with an `input`; "" refuses them
    user_with_system: str = ""  # the first user turn with the system message folded in, instead of a turn of its own
    system: str = ""  # a system turn of its own; with both empty, system messages are refused
    default_system: str = ""  # the system message of dialogues that bring none
    without_system: str = ""  # what stands in place of the system turn in dialogues that bring no message for it
    opening: str = "{bos}"
    cue: str = ""  # what announces a reply
    marks: tuple[tuple[str, str], ...] = ()  # (mark, what announces a reply of that kind in place of `cue`)
    stops: tuple[str, ...] = ("{eos}",)  # control tokens that end a reply, beside those that close `assistant`
    stop_texts: tuple[str, ...] = ()  # plain text that ends a reply
    markers: tuple[str, ...] = ()  # plain text by which the template marks structure
    on_markers: Literal["keep", "refuse"] = "keep"  # what to do with untrusted text that contains a marker
    tools: str = ""  # the turn that offers functions, before the first of the user's
    call: str = ""  # an assistant turn that calls a function; learned like `assistant`
    result: str = ""  # what the function answered, before the next turn of the assistant

    def __post_init__(self) -> None:
        problems = ProblemList()
        for name, slots in PATTERNS.items():
            check(f"template.{name}", getattr(self, name), slots, problems)
        for stop in self.stops:
            check("template.stops", stop, (), problems)
        for mark, announced in self.marks:
            check(f"template.marks, {mark!r}", announced, (), problems)
        if "" in (named := [mark for mark, _ in self.marks]) or len(set(named)) < len(named):
            problems.add("template.marks", f"names {', '.join(map(repr, named))}", "give each mark a name of its own")
        for name in ("user", "assistant"):
            if not getattr(self, name):
                problems.add(f"template.{name}", "is empty", f"write at least {{{PATTERNS[name][0]}}}")
        if bool(self.call) != bool(self.result):
            problems.add("template.call", "and template.result go together", "write both, or neither")
        if self.tools and not self.call:
            problems.add("template.tools", "is set without template.call", "write how a tool is called")
        if self.system and self.user_with_system:
            problems.add("template.user_with_system", "is set beside template.system", "keep one of the two")
        if self.default_system and not self.takes_system:
            problems.add("template.default_system", "has no place to stand", "set template.system or user_with_system")
        if self.without_system and (self.default_system or not self.system):
            problems.add("template.without_system", "stands for a system turn without default", "set template.system")
        if "" in (*self.markers, *self.stop_texts):
            problems.add("template.markers" if "" in self.markers else "template.stop_texts", "has an empty text")
        problems.raise_data()

    @property
    def takes_system(self) -> bool:
        """Whether a dialogue may begin with a system message."""
        return bool(self.system or self.user_with_system)

    @property
    def patterns(self) -> tuple[str, ...]:
        """Every pattern as written, those of the marks and stops among them."""
        return (*(getattr(self, name) for name in PATTERNS), *(cue for _, cue in self.marks), *self.stops)

    def announced(self, mark: str) -> str:
        """What announces a reply of this mark; "" is the cue of every reply without one."""
        return dict(self.marks)[mark] if mark else self.cue

    def within(self, tokenizer: Tokenizer) -> Template:
        """The same template without the control tokens that the tokenizer lacks: what can be asked of a model from
        before they were added. Itself where none is lacking."""
        names = {piece.name for written in self.patterns for piece in pieces(written) if isinstance(piece, Control)}
        lacking = [name for name in names - {"bos", "eos"} if name not in tokenizer.controls]
        if not lacking:
            return self
        changed, marks = {name: getattr(self, name) for name in PATTERNS}, self.marks
        for lost in lacking:
            changed = {name: written.replace(f"{{{lost}}}", "") for name, written in changed.items()}
            marks = tuple((mark, cue.replace(f"{{{lost}}}", "")) for mark, cue in marks)
        kept = tuple(stop for stop in self.stops if stop.strip("{}") not in lacking)
        return replace(self, **changed, marks=marks, stops=kept)

    def folds(self, messages: Sequence[Message], index: int) -> bool:
        """Whether the message at `index` is the user turn that the system message is folded into."""
        first = 1 if messages[0].role == "system" else 0
        return bool(self.user_with_system) and index == first and (first == 1 or bool(self.default_system))

    def content(self, generated: str) -> str:
        """The message content within generated text: what the template puts around a reply is taken off again.

        Where a stop text lies inside what follows a reply, the text ends with what comes before it.
        """
        before, slot, after = around(self.assistant, "reply")
        text = generated.removeprefix("".join(piece.text for piece in before if isinstance(piece, Trusted)))
        if after and isinstance(after[0], Trusted):
            whole = after[0].text
            begun = {whole[: whole.index(stop)] for stop in self.stop_texts if stop in whole}
            ends = [end for end in (whole, *sorted(begun, key=len, reverse=True)) if text.endswith(end)]
            text = text.removesuffix(ends[0]) if ends else text
        return slot.filled(text)


# --- parts ----------------------------------------------------------------------------------------------------------


def parts(template: Template, messages: Sequence[Message], *, generate: bool = False) -> tuple[Part, ...]:
    """The dialogue as typed parts in order; assistant turns are `learned`. With `generate`, it ends after the cue.

    Raises BadData naming every message that the template cannot express.
    """
    _check_messages(template, messages, generate)
    return tuple(_parts(template, messages, generate))


def _parts(template: Template, messages: Sequence[Message], generate: bool) -> Iterator[Part]:
    given = messages[0].role == "system"
    system = messages[0].content if given else template.default_system
    yield from _filled(template.opening, {}, -1)
    if template.system and (given or system):
        yield from _filled(template.system, {"system": system}, 0 if given else -1)
    elif not given:
        yield from _filled(template.without_system, {}, -1)
    for index in range(1 if given else 0, len(messages)):
        message = messages[index]
        if message.role == "assistant":
            yield from _filled(template.announced(message.mark), {}, index)
            yield from _filled(template.assistant, {"reply": message.content}, index, learned=True)
            continue
        if message.role == "call":
            yield from _filled(template.cue, {}, index)
            yield from _filled(template.call, {"call": message.content}, index, learned=True)
            continue
        if message.role in ("tools", "ipython"):
            pattern, slot = (template.tools, "tools") if message.role == "tools" else (template.result, "result")
            yield from _filled(pattern, {slot: message.content}, index)
            continue
        written = template.user_with_input if message.input else template.user
        written = template.user_with_system if template.folds(messages, index) else written
        yield from _filled(written, {"instruction": message.content, "input": message.input, "system": system}, index)
    if generate:
        yield from _filled(template.cue, {}, len(messages))


def _filled(written: str, fields: Mapping[str, str], message: int, *, learned: bool = False) -> Iterator[Part]:
    for piece in pieces(written):
        if isinstance(piece, Control):
            yield Control(piece.name, learned, message)
        elif isinstance(piece, Trusted):
            yield Trusted(piece.text, learned, message)
        else:
            yield Untrusted(piece.filled(fields[piece.field]), piece.field, learned, message)


def _check_messages(template: Template, messages: Sequence[Message], generate: bool) -> None:
    problems = ProblemList()
    turns = list(enumerate(messages))
    if turns and turns[0][1].role == "system":
        if not template.takes_system:
            problems.add("messages[0]", "is a system message, for which this template has no place", "leave it out")
        turns = turns[1:]
    if not turns:
        problems.add("messages", "there is no user message", "begin with one")
    before = "system"
    for index, message in turns:
        due = _due(template, before)
        if message.role not in due:
            wanted = " or ".join(map(repr, due))
            problems.add(f"messages[{index}].role", f"is {message.role!r} where {wanted} is due", "let turns alternate")
        before = message.role if message.role in due else due[0]  # so that one wrong role is one problem
    if generate and turns and turns[-1][1].role not in ("user", "ipython"):
        problems.add(f"messages[{turns[-1][0]}]", "is not the user's, so there is nothing to answer", "end with one")
    for index, message in enumerate(messages):
        _check_message(template, messages, index, message, problems)
    problems.raise_data()


def _due(template: Template, before: str) -> tuple[str, ...]:
    """The roles that may follow one."""
    replies = ("assistant", "call") if template.call else ("assistant",)
    following = {"user": replies, "ipython": replies, "assistant": ("user",), "call": ("ipython",), "tools": ("user",)}
    return following.get(before, ("user", "tools") if template.tools else ("user",))


def _check_message(
    template: Template, messages: Sequence[Message], index: int, message: Message, problems: ProblemList
) -> None:
    placed = message.role == "user" and template.user_with_input and not template.folds(messages, index)
    if message.input and not placed:
        remedy = "put it into the content (of an Alpaca record: into its instruction)"
        problems.add(f"messages[{index}].input", "has no place in this template", remedy)
    if message.mark and (message.role != "assistant" or message.mark not in dict(template.marks)):
        known = ", ".join(repr(mark) for mark, _ in template.marks) or "none"
        told = f"is {message.mark!r}; this template marks replies of these kinds: {known}"
        problems.add(f"messages[{index}].mark", told, "leave it out, or leave out the message")
    found = [marker for marker in template.markers if marker in message.content or marker in message.input]
    if found and template.on_markers == "refuse":
        told = f"contains {', '.join(map(repr, found))}, by which this template marks structure"
        problems.add(f"messages[{index}]", told, "write it in another way")


# --- ids ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    """The ids of one assistant turn within a rendered dialogue: from `start` up to `end`. `message` is its index."""

    message: int
    start: int
    end: int


@dataclass(frozen=True)
class Rendered:
    """A dialogue as ids, whether each id is supervised, what ends a reply, and where the replies lie.

    `starts` is what `Tokenizer.decode` and `stream` want to know about the ids that follow: whether their text begins
    afresh (after a control token) or continues text.
    """

    ids: list[int]
    supervised: list[bool]
    stop_ids: tuple[int, ...]
    stop_texts: tuple[str, ...]
    replies: tuple[Reply, ...]
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

    `learn` names what is supervised: "response" and "assistant" every assistant turn with its end token (one word for
    single exchanges, one for chats), "last" only the last assistant turn, "everything" all ids but the very first,
    which nothing predicts; of these, never a reply whose message is not `learned`. The ids do not depend on it: a run of
    text never crosses the border between a prompt and its reply, so the ids of a prompt are exactly the first ids of the
    same dialogue with its reply.

    Raises BadData for messages that the template cannot express, UsageError where the tokenizer lacks a control token.
    """
    if learn not in LEARN:
        problems = ProblemList()
        problems.add("learn", f"found {learn!r}", did_you_mean(str(learn), LEARN))
        problems.raise_usage()
    controls = control_ids(template.patterns, tokenizer)
    whole = parts(template, messages, generate=generate)
    ids: list[int] = []
    replies: list[Reply] = []
    starts = True
    for run in _runs(whole):
        first, start = run[0], len(ids)
        if isinstance(first, Control):
            ids.append(controls[first.name])
            starts = True
        else:
            text = "".join(part.text for part in run if not isinstance(part, Control))
            ids += tokenizer.encode(text, starts=starts)
            starts = starts and not text
        if first.learned:
            joined = replies and replies[-1].message == first.message
            start = replies.pop().start if joined else start
            replies.append(Reply(first.message, start, len(ids)))
    supervised = _supervised(len(ids), replies, learn)
    for reply in replies:
        if not messages[reply.message].learned:
            supervised[reply.start : reply.end] = [False] * (reply.end - reply.start)
    return Rendered(ids, supervised, _stops(template, controls), template.stop_texts, tuple(replies), starts)


def _runs(whole: Sequence[Part]) -> Iterator[list[Part]]:
    """Parts that are encoded together: a control token alone; text up to a control token or a learned border."""
    run: list[Part] = []
    for part in whole:
        apart = isinstance(part, Control) or (run and (isinstance(run[0], Control) or part.learned != run[0].learned))
        if run and apart:
            yield run
            run = []
        run.append(part)
    if run:
        yield run


def _supervised(count: int, replies: Sequence[Reply], learn: Learn) -> list[bool]:
    if learn == "everything":
        return [place > 0 for place in range(count)]
    supervised = [False] * count
    for reply in replies[-1:] if learn == "last" else replies:
        supervised[reply.start : reply.end] = [True] * (reply.end - reply.start)
    return supervised


def stop_ids(template: Template, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The control ids that end a reply: those that close the assistant's turn, then the template's further stops."""
    controls = control_ids(template.patterns, tokenizer)
    return _stops(template, controls)


def _stops(template: Template, controls: Mapping[str, int]) -> tuple[int, ...]:
    _, _, after = around(template.assistant, "reply")
    calls = around(template.call, "call")[2] if template.call else ()
    ends = [*after, *calls, *(piece for stop in template.stops for piece in pieces(stop))]
    return tuple(dict.fromkeys(controls[piece.name] for piece in ends if isinstance(piece, Control)))
