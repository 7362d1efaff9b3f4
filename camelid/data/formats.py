"""What a record is, told by its fields: a text, or a dialogue in one of four formats.

    text       {"text"}
    alpaca     {"instruction", "input" (may be empty or absent), "output"}, "system" if there is one
    sharegpt   {"conversations": [{"from": "human" | "gpt" | ..., "value"}]}, "system" if there is one
    messages   {"messages": [{"role": "user" | "assistant" | "system", "content"}]}; a reply may have a "mark", and in both
               forms of turns a "weight": 0 shows it without learning it (OpenAI's fine-tuning format), 1 learns it
    apibench   {"code", "api_call", "api_data"}: request and answer stand in "code" as one text, see `_apibench`

Other fields of a record or a turn are left aside, except those that would change what it means (`REFUSED`,
`REFUSED_BESIDE_TURNS`, `REFUSED_IN_TURNS`). A field that is null
counts as absent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from camelid.dialogue.message import Message
from camelid.errors import did_you_mean

Format = Literal["text", "alpaca", "sharegpt", "messages", "apibench"]

FIELDS: dict[Format, tuple[str, ...]] = {
    "text": ("text",),
    "alpaca": ("instruction", "output"),
    "sharegpt": ("conversations",),
    "messages": ("messages",),
    "apibench": ("code", "api_call", "api_data"),
}
DIALOGUES: tuple[Format, ...] = ("alpaca", "sharegpt", "messages", "apibench")
REFUSED = {  # a field that changes what the record means: what the record is
    "chosen": "a preference, not a dialogue to imitate",
    "rejected": "a preference, not a dialogue to imitate",
    "history": "an Alpaca record with earlier turns; write it as messages",
}
REFUSED_BESIDE_TURNS = {
    "tools": "one in which functions may be called, which are not shown to the model here",
    "functions": "one in which functions may be called, which are not shown to the model here",
}
REFUSED_IN_TURNS = {  # what such a turn is
    "tool_calls": "a call of functions, which this format's reader cannot show",
    "function_call": "a call of a function, which this format's reader cannot show",
    "tool_call_id": "what a function answered, which this format's reader cannot show",
}
SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
MESSAGE_ROLES = {"user": "user", "assistant": "assistant", "system": "system"}


@dataclass(frozen=True)
class Fields:
    """The columns of a table of single exchanges: what is asked, what is answered and learned, and where there are any
    an input and a system message. A file in one of the known formats is read as such all the same.

    With `input` alone, records are in a known format, and this field of theirs is shown beside what is asked: as it
    stands where it is text, else as JSON.
    """

    instruction: str = ""
    output: str = ""
    input: str = ""
    system: str = ""

    @property
    def whole(self) -> bool:
        """Whether they make a record of their own, in none of the known formats."""
        return bool(self.instruction and self.output)

    @property
    def words(self) -> str:
        """The columns, for a message."""
        return ", ".join(name for name in (self.instruction, self.input, self.output, self.system) if name)


def known(wanted: Iterable[Format] = tuple(FIELDS), fields: Fields | None = None) -> str:
    """The formats and the fields of each, for a message."""
    words = "known are " + "; ".join(f"{name} ({', '.join(FIELDS[name])})" for name in wanted)
    others = "--set STAGE.fields.instruction=COLUMN --set STAGE.fields.output=COLUMN"
    if "alpaca" not in wanted:
        return words
    if fields is not None and fields.whole:
        return f"{words}; or a table with the columns {fields.words} (others: {others})"
    beside = "" if fields is None else f"; with {fields.words!r} to be shown beside what is asked"
    return f"{words}{beside}; columns of other names: {others}"


class Unfit(Exception):
    """Why a record cannot be read in the format at hand."""


class OneFormat:
    """Reads rows that must all be of one format: that of the first row that has one of the wanted formats.

    `fields` are the columns of a table in none of these formats; its rows are then read as Alpaca's.
    """

    def __init__(self, wanted: tuple[Format, ...], fields: Fields | None = None) -> None:
        self.wanted, self.fields, self.format = wanted, fields, None  # type: tuple[Format, ...], Fields | None, Format | None

    def document(self, data: Mapping[str, object]) -> str:
        self._settle(data)
        return _string(data, "text")

    def dialogue(self, data: Mapping[str, object]) -> list[Message]:
        data = named(data, self.fields)
        found = self._settle(data)
        read = {"alpaca": _alpaca, "sharegpt": _sharegpt, "messages": _messages, "apibench": _apibench}[found]
        messages = read(data)
        if self.fields is not None and self.fields.input and not self.fields.whole:
            messages = _beside(messages, data, self.fields.input)
        for number, message in enumerate(messages):
            if message.role == "system" and number:
                raise Unfit(f"turn {number + 1} is the system's, which only the first may be")
        if not any(message.role == "assistant" for message in messages):
            raise Unfit("no turn is the assistant's: there is nothing to learn")
        if not any(message.learned for message in messages if message.role == "assistant"):
            raise Unfit("every turn of the assistant has the weight 0: there is nothing to learn")
        return messages

    def _settle(self, data: Mapping[str, object]) -> Format:
        found = formats(data, self.wanted, self.fields)
        fitting = [name for name in found if name in self.wanted]
        if self.format is None:
            if not fitting:
                kinds = "plain text, where a dialogue", f"a dialogue ({found[0]}), where plain text"
                raise Unfit(f"{_shown(data)}: {kinds[found[0] != 'text']} is wanted ({', '.join(self.wanted)})")
            if len(fitting) > 1:
                raise Unfit(f"{_shown(data)}: fit {' and '.join(fitting)}; say which by format=")
            self.format = fitting[0]
        elif self.format not in fitting:
            raise Unfit(f"{_shown(data)}: {found[0]}, but the rows before are {self.format}; one file, one format")
        return self.format


def named(data: Mapping[str, object], fields: Fields | None) -> Mapping[str, object]:
    """The row with its columns under Alpaca's names, where it has the columns that `fields` names; else itself.

    Columns that are named nowhere are left aside, as those of the known formats are.
    """
    if fields is None or not fields.whole:
        return data
    if data.get(fields.instruction) is None or data.get(fields.output) is None:
        return data
    columns = {
        "instruction": fields.instruction,
        "input": fields.input,
        "output": fields.output,
        "system": fields.system,
    }
    for column in filter(None, columns.values()):
        if data.get(column) is not None:
            _string(data, column)  # said by the file's own name for it
    return {name: data.get(column) for name, column in columns.items() if column}


def formats(
    data: Mapping[str, object], wanted: Iterable[Format] = tuple(FIELDS), fields: Fields | None = None
) -> list[Format]:
    """The formats whose fields are all there, dialogues first. A field that is null counts as absent.

    Raises Unfit where there is none, and says what was `wanted`.
    """
    for name, meaning in REFUSED.items():
        if data.get(name):
            raise Unfit(f"{_shown(data)}: {name!r} makes it {meaning}")
    if data.get("messages") or data.get("conversations"):
        for name, meaning in REFUSED_BESIDE_TURNS.items():
            if data.get(name) and data[name] != "[]":  # some write the list as text
                raise Unfit(f"{_shown(data)}: {name!r} makes it {meaning}; leave such rows out")
    if isinstance(data.get("label"), bool) and "text" not in data:
        raise Unfit(f"{_shown(data)}: a true or false 'label' makes it a verdict, not a dialogue to imitate")
    there = {name for name, value in data.items() if value is not None}
    found = [name for name in (*DIALOGUES, "text") if there.issuperset(FIELDS[name])]
    if not found:
        raise Unfit(f"{_shown(data)}: no known format; {_expected(there, wanted, fields)}")
    return found


def _expected(there: set[str], wanted: Iterable[Format], fields: Fields | None) -> str:
    """What a row needs that is in none of the wanted formats: what lacks least, by name where a part is there."""
    needs: dict[str, tuple[str, ...]] = {name: FIELDS[name] for name in wanted}
    if fields is not None and fields.whole:
        needs["this recipe's own"] = (fields.instruction, fields.output)
    for place, names in needs.items():
        missing = [name for name in names if name not in there]
        if len(missing) < len(names):
            return f"for {place}, {' and '.join(map(repr, missing))} {'is' if len(missing) == 1 else 'are'} missing"
    words = "expected " + ", or ".join(f"{' and '.join(names)} ({place})" for place, names in needs.items())
    choices = [name for names in needs.values() for name in names]
    hints = {name: did_you_mean(name, choices) for name in sorted(there) if len(name) <= 40}
    near = next((f"{name!r}: {hint}" for name, hint in hints.items() if hint.startswith("did")), "")
    return f"{words}; {near}" if near else words


def _shown(data: Mapping[str, object]) -> str:
    """The names of the fields, shortened, and quoted where a terminal would obey them."""
    names = [name if len(name) <= 40 else name[:40] + "..." for name in data]
    names = [name if name.isprintable() else repr(name) for name in names]
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"fields {', '.join(names[:12])}{more}" if names else "no fields"


def _string(data: Mapping[str, object], name: str, where: str = "") -> str:
    value = data.get(name)
    if not isinstance(value, str):
        raise Unfit(f"{where}{name!r} is {kind(value)}, not text")
    return value


def _optional(data: Mapping[str, object], name: str) -> str:
    return "" if data.get(name) is None else _string(data, name)


def kind(value: object) -> str:
    names = {dict: "an object", list: "a list", bool: "a truth value", int: "a number", float: "a number", str: "text"}
    return "missing" if value is None else names.get(type(value), type(value).__name__)


def _alpaca(data: Mapping[str, object]) -> list[Message]:
    asked = Message("user", _string(data, "instruction"), input=_optional(data, "input"))
    if not asked.content.strip() and not asked.input.strip():
        raise Unfit("'instruction' is empty, and there is no 'input': nothing is asked")
    return [*_system(data), asked, Message("assistant", _string(data, "output"))]


def _sharegpt(data: Mapping[str, object]) -> list[Message]:
    return [*_system(data), *_turns(data["conversations"], "conversations", "from", "value", SHAREGPT_ROLES)]


def _messages(data: Mapping[str, object]) -> list[Message]:
    return _turns(data["messages"], "messages", "role", "content", MESSAGE_ROLES)


def _apibench(data: Mapping[str, object]) -> list[Message]:
    """The two messages of a row of APIBench (Patil et al. 2023), the answer as it stands in the row.

    "code" is {'Instruction': REQUEST, 'Output': {... 'api_call': ...}}, which looks like Python and is none (requests
    are not quoted, quotes within quotes are not escaped), or ###Instruction: REQUEST ###Output: ANSWER. The few requests
    with an input have it on a line of its own, ###Input: ..., as the second form writes it.
    """
    code = _string(data, "code").strip()
    if code.startswith("{'Instruction':"):
        request, output, answer = code.removeprefix("{'Instruction':").partition("'Output':")
        whole, answer = bool(output) and answer.endswith("}"), answer[:-1].strip()
        asked, given = (part.strip().removesuffix(",") for part in request.partition("'Input':")[::2])
    elif code.startswith("###Instruction:"):
        asked, output, answer = code.removeprefix("###Instruction:").partition("###Output:")
        whole, given, answer = bool(output), "", answer.strip()
    else:
        forms = "{'Instruction': ..., 'Output': {...}} or ###Instruction: ... ###Output: ..."
        raise Unfit(f"'code' is not of the form {forms}")
    if not whole or (answer.startswith("{") and not answer.endswith("}")):
        raise Unfit("'code' breaks off before its end")
    if "api_call" not in answer:
        raise Unfit("'code' has an answer without 'api_call': it calls nothing")
    asked, given = _unquoted(asked.strip()), _unquoted(given)
    if not asked:
        raise Unfit("'code' has an empty request: nothing is asked")
    request = f"{asked}\n###Input: {given}" if given not in ("", "<noinput>") else asked
    return [Message("user", request), Message("assistant", answer)]


def _unquoted(text: str) -> str:
    """The text without quotes around the whole of it."""
    quoted = len(text) > 1 and text[0] in "'\"" and text.find(text[0], 1) == len(text) - 1
    return text[1:-1].strip() if quoted else text


def _beside(messages: list[Message], data: Mapping[str, object], name: str) -> list[Message]:
    """The messages with a field of their record shown beside what is asked; a record's own input stays where the field
    is not there."""
    asked = [place for place, message in enumerate(messages) if message.role == "user"]
    if len(asked) != 1:
        raise Unfit(f"{len(asked)} turns are the user's: {name!r} is shown beside one request alone")
    (place,) = asked
    value, own = data.get(name), messages[place].input
    if (value is None) == (not own):
        raise Unfit(f"{name!r} is missing, and there is no input" if not own else f"has both {name!r} and an input")
    shown = own or (value if isinstance(value, str) else _json(value, name))
    return [*messages[:place], replace(messages[place], input=shown), *messages[place + 1 :]]


def _json(value: object, name: str) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError):
        raise Unfit(f"{name!r} is {kind(value)} that cannot be shown as JSON") from None


def _system(data: Mapping[str, object]) -> list[Message]:
    system = _optional(data, "system")
    return [Message("system", system)] if system else []


def _turns(turns: object, name: str, role: str, content: str, roles: Mapping[str, str]) -> list[Message]:
    if not isinstance(turns, list) or not turns:
        raise Unfit(f"{name!r} is {'empty' if turns == [] else kind(turns) + ', not a list'}")
    messages = []
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, dict):
            raise Unfit(f"turn {number} is {kind(turn)}, not an object")
        speaker = _string(turn, role, f"turn {number}: ")
        for refused, meaning in REFUSED_IN_TURNS.items():
            if turn.get(refused):
                raise Unfit(f"turn {number}: {refused!r} makes it {meaning}; leave such rows out")
        if speaker not in roles:
            raise Unfit(f"turn {number}: {role!r} is {speaker[:40]!r}, not one of {', '.join(roles)}")
        said = _message(roles[speaker], _string(turn, content, f"turn {number}: "))
        if said.role == "user" and not said.content.strip():
            raise Unfit(f"turn {number}: {content!r} of the {speaker} is empty: nothing is asked")
        messages.append(replace(said, mark=_optional(turn, "mark"), learned=_weighed(turn, said.role, number)))
    return messages


def _weighed(turn: Mapping[str, object], role: str, number: int) -> bool:
    """Whether a turn's own fields let it be learned. Raises Unfit for what they cannot say."""
    if turn.get("train", True) not in (None, True):
        told = 'write "weight": 0 where a reply is to be shown and not learned'
        raise Unfit(f"turn {number}: 'train' is {turn['train']!r:.40}; {told}")
    weight = turn.get("weight")
    if weight is None or (role != "assistant" and weight == 0):
        return True
    if weight not in (0, 1) or isinstance(weight, bool):
        raise Unfit(f"turn {number}: 'weight' is {str(weight)[:40]}, not 0 or 1: a reply is learned, or it is not")
    if role != "assistant":
        raise Unfit(f"turn {number}: 'weight' asks that a turn of the {role} is learned; only the assistant's are")
    return bool(weight)


def _message(role: str, content: str) -> Message:
    if role == "system":
        return Message("system", content)
    return Message("user", content) if role == "user" else Message("assistant", content)
