"""Llama 3's tool calls: functions offered, calls written, and what a model says read as calls.

    system    Environment: ipython ...                                 environment(...)
    tools     {"type": "function", "function": {"name": ...}}          offered(...)
    user      Which songs are trending?
    call      <|python_tag|>{"type": "function", "name": ...}<|eom_id|>   written(call); heard(ids) reads it
    ipython   ["..."]                                                  whatever the tool answered
    assistant These are ...

Sources: llama-models, models/llama3_1/prompt_format.md and models/llama3_2/text_prompt_format.md (the prompts),
models/llama3/tool_utils.py and chat_format.py (how calls are written and read).

Everything here is text that somebody else wrote: tool names, descriptions, arguments and results are untrusted parts
of the template, which never become control ids. In what a model said, only the *id* of <|python_tag|> marks a call; the
same characters as text are text. What is not one well-formed call of the four forms stays text, or, where it was
marked or begun as a call, is told as wrong: nothing is guessed and nothing is executed.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from camelid.durable import parse_json
from camelid.errors import BadFile, ProblemList
from camelid.tokenizers.protocol import Tokenizer

Form = Literal["json", "builtin", "code", "tag", "python"]

TAG = "<|python_tag|>"
CODE = "code_interpreter"  # the name of the tool that runs what follows the tag
BUILTIN = ("brave_search", "wolfram_alpha", "photogen")  # code: llama-models/models/datatypes.py, BuiltinTool
LONGEST = 1 << 16  # ours: characters of what is read as a call
DEEPEST = 16  # ours: levels of its arguments
_NAME = re.compile(r"[A-Za-z_][\w.\-]{0,127}", re.ASCII)
_BUILTIN = re.compile(r'(\w+)\.call\(query="([^"]*)"\)', re.ASCII)
_FUNCTION = re.compile(r"<function=([^<>{}]+)>(\{.*\})(?:</function>)?", re.DOTALL)


@dataclass(frozen=True)
class Tool:
    """A function that may be called. `parameters` is the JSON schema of its arguments."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """A call of a tool; `form` says how it is written: four of Llama 3's forms, and code for its interpreter."""

    name: str
    arguments: Mapping[str, Any]
    form: Form = "json"


@dataclass(frozen=True)
class Heard:
    """What a model said: its text where it calls nothing, its calls, and what was wrong with what looked like one."""

    text: str
    calls: tuple[Call, ...] = ()
    wrong: str = ""


# --- what is shown --------------------------------------------------------------------------------------------------


def offered(tools: Sequence[Tool]) -> str:
    """The content of a "tools" message: each function as JSON, by an empty line apart. Raises BadData."""
    check_tools(tools)
    return "\n\n".join(_json({"type": "function", "function": _told(tool)}) for tool in tools)


def offered_3_2(tools: Sequence[Tool]) -> str:
    """The system message by which Llama 3.2's small models are offered functions. Raises BadData."""
    check_tools(tools)
    return (
        "You are an expert in composing functions. You are given a question and a set of possible functions.\n"
        "Based on the question, you will need to make one or more function/tool calls to achieve the purpose.\n"
        "If none of the function can be used, point it out. If the given question lacks the parameters required by "
        "the function,\nalso point it out. You should only return the function call in tools call sections.\n\n"
        "If you decide to invoke any of the function(s), you MUST put it in the format of "
        "[func_name1(params_name1=params_value1, params_name2=params_value2...), func_name2(params)]\n"
        "You SHOULD NOT include any other text in the response.\n\n"
        "Here is a list of functions in JSON format that you can invoke.\n\n"
    ) + _json([_told(tool) for tool in tools])


def environment(system: str = "", *, builtin: Sequence[str] = (), today: str = "") -> str:
    """The system message that turns tools on; `builtin` names Llama 3.1's own, `today` is written "21 September 2024".

    Without built-in tools an empty line stands before the dates, as in the published examples.
    """
    told = "Environment: ipython\n" + (f"Tools: {', '.join(builtin)}\n" if builtin else "")
    if today:
        blank = "" if builtin else "\n"
        told += f"{blank}Cutting Knowledge Date: December 2023\nToday Date: {today}\n"
    if system:
        return f"{told}\n{system}\n"
    return told if builtin or today else told.rstrip("\n")


def check_tools(tools: Sequence[Tool]) -> None:
    """Raises BadData naming every tool that cannot be offered."""
    problems, seen = ProblemList(), set[str]()
    for index, tool in enumerate(tools):
        where = f"tools[{index}].name"
        if not _NAME.fullmatch(tool.name):
            problems.add(where, f"{tool.name[:80]!r} is no name", "use up to 128 letters, digits, _, . and -")
        if tool.name in seen or tool.name in (*BUILTIN, CODE):
            problems.add(where, f"{tool.name!r} is taken", "give each tool a name of its own")
        seen.add(tool.name)
        if not _is_plain(tool.parameters):
            problems.add(f"tools[{index}].parameters", "is no JSON object, or too deep", "give a JSON schema")
    problems.raise_data()


def tools_of(value: object) -> tuple[Tool, ...]:
    """Tools from JSON: a list of {"name", "description", "parameters"}, each perhaps within {"function": ...} as in
    OpenAI's requests. Raises BadData naming everything that is wrong."""
    problems, found = ProblemList(), []
    if not isinstance(value, list) or not value:
        problems.add("tools", "is no list of functions", 'give [{"name": "...", "parameters": {...}}]')
        problems.raise_data()
    for index, each in enumerate(value if isinstance(value, list) else ()):
        inner = each.get("function", each) if isinstance(each, dict) else {}
        held = inner if isinstance(inner, dict) else {}
        name, told, needs = held.get("name"), held.get("description", ""), held.get("parameters", {})
        if isinstance(name, str) and isinstance(told, str) and isinstance(needs, dict):
            found.append(Tool(name, told, needs))
        else:
            remedy = "give name (text), description (text) and parameters (an object)"
            problems.add(f"tools[{index}]", "is no function", remedy)
    problems.raise_data()
    check_tools(found)
    return tuple(found)


def written(call: Call) -> str:
    """A call as the model writes it, without control tokens. Raises BadData for what its form cannot express."""
    problems = ProblemList()
    if not _NAME.fullmatch(call.name):
        problems.add("call.name", f"{call.name[:80]!r} is no name", "use up to 128 letters, digits, _, . and -")
    if not _is_plain(call.arguments):
        problems.add("call.arguments", "is no JSON object, or too deep", "give values that JSON has")
    only = {"builtin": "query", "code": "code"}.get(call.form)
    if only and (set(call.arguments) != {only} or not isinstance(call.arguments[only], str)):
        problems.add("call.arguments", f"are {', '.join(call.arguments) or 'none'}", f"give the text {only!r} alone")
    elif call.form == "builtin" and '"' in call.arguments["query"]:
        problems.add("call.arguments", "a query with a quotation mark, which would end it", "leave it out")
    if call.form == "python" and any(not name.isidentifier() for name in (call.name, *call.arguments)):
        problems.add("call.arguments", "a name that Python cannot write", "use the json form")
    problems.raise_data()
    if call.form == "builtin":
        return f'{call.name}.call(query="{call.arguments["query"]}")'
    if call.form == "code":
        return str(call.arguments["code"])
    if call.form == "tag":
        return f"<function={call.name}>{json.dumps(call.arguments)}</function>"
    if call.form == "python":
        return f"[{call.name}({', '.join(f'{name}={_python(value)}' for name, value in call.arguments.items())})]"
    return json.dumps({"type": "function", "name": call.name, "parameters": call.arguments})


def _told(tool: Tool) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}


def _json(value: object) -> str:
    return json.dumps(value, indent=4, ensure_ascii=False)


def _python(value: object) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_python, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_python(name)}: {_python(inner)}' for name, inner in value.items())}}}"
    return repr(value)


def _is_plain(value: object) -> bool:
    """Whether a value is a JSON object of bounded depth."""
    try:
        text = json.dumps(value, allow_nan=False)
        parse_json(text.encode(), Path("value"), max_depth=DEEPEST)
    except (TypeError, ValueError, RecursionError, BadFile):
        return False
    return isinstance(value, Mapping)


# --- what is heard --------------------------------------------------------------------------------------------------


def heard(
    ids: Iterable[int], tokenizer: Tokenizer, *, known: Collection[str] | None = None, starts: bool = False
) -> Heard:
    """The ids of one assistant turn, read as calls or as text. `known` are the tools offered, beside the built-in ones.

    A turn that the id of <|python_tag|> begins is a call: JSON, a built-in tool's, a list as Python writes it, or else
    code. Without it, JSON with a name and parameters, <function=...> and such a list are calls, and all else is text.
    """
    tag = tokenizer.controls.get(TAG)
    said = list(ids)
    while said and said[0] != tag and said[0] in tokenizer.controls.values():
        said = said[1:]
    tagged = bool(said) and tag is not None and said[0] == tag
    text = tokenizer.decode((id for id in said if id < tokenizer.size), starts=starts)
    return read(text, tagged=tagged, known=known)


def read(text: str, *, tagged: bool = False, known: Collection[str] | None = None) -> Heard:
    """A turn's text, read as calls or as text; `tagged` says whether the id of <|python_tag|> stood before it."""
    body = text.strip()
    try:
        calls = _calls(body, tagged)
    except _Wrong as wrong:
        return Heard(text, wrong=str(wrong))
    allowed = None if known is None else {*known, *BUILTIN, CODE}
    strange = next((call.name for call in calls if allowed is not None and call.name not in allowed), None)
    if strange is not None:
        return Heard(text, wrong=f"calls {strange[:80]!r}, which was not offered")
    return Heard("" if calls else text, calls)


class _Wrong(Exception):
    """What was marked or begun as a call and is none."""


def _calls(body: str, tagged: bool) -> tuple[Call, ...]:
    if len(body) > LONGEST:
        if tagged:
            raise _Wrong(f"a call of {len(body)} characters, of at most {LONGEST}")
        return ()
    if body.startswith("{") and (tagged or body.endswith("}")):
        return _from_json(body, tagged)
    if found := _FUNCTION.fullmatch(body):
        return (_call(found[1], _object(found[2]), "tag"),)
    if body.startswith("[") and body.endswith("]"):
        return _from_python(body, tagged)
    if not tagged:
        return ()
    if (found := _BUILTIN.fullmatch(body)) and found[1] in BUILTIN:
        return (Call(found[1], {"query": found[2]}, "builtin"),)
    if not body:
        raise _Wrong("a call of nothing")
    return (Call(CODE, {"code": body}, "code"),)


def _from_json(body: str, tagged: bool) -> tuple[Call, ...]:
    """One call in JSON; text where nothing says that it was meant as a call."""
    try:
        value = _object(body)
    except _Wrong:
        if tagged:
            raise
        return ()
    is_call = set(value) <= {"type", "name", "parameters"} and {"name", "parameters"} <= set(value)
    if not is_call or value.get("type", "function") != "function":
        if tagged:
            raise _Wrong("a call in JSON without exactly a name and parameters")
        return ()
    if not isinstance(value["parameters"], dict):
        raise _Wrong("a call whose parameters are no object")
    return (_call(value["name"], value["parameters"], "json"),)


def _object(text: str) -> dict[str, Any]:
    try:
        value = parse_json(text.encode("utf-8", "surrogatepass"), Path("call"), max_depth=DEEPEST)
    except BadFile as error:
        raise _Wrong(f"a call that {error.found}") from None
    if not isinstance(value, dict):
        raise _Wrong("a call that is no JSON object")
    return value


def _call(name: object, arguments: Mapping[str, Any], form: Form) -> Call:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _Wrong(f"a call of {str(name)[:80]!r}, which is no name")
    return Call(name, arguments, form)


def _from_python(body: str, tagged: bool) -> tuple[Call, ...]:
    """A list of calls as Python writes it, taken apart without running anything; text where it is none."""
    depth = deepest = 0
    for character in body:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    calls = None
    if deepest <= DEEPEST:
        try:
            calls = _listed(ast.parse(body, mode="eval").body)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            calls = None
    if calls is None and tagged:
        return (Call(CODE, {"code": body}, "code"),)
    return calls or ()


def _listed(tree: ast.expr) -> tuple[Call, ...] | None:
    if not isinstance(tree, ast.List) or not tree.elts:
        return None
    found = []
    for node in tree.elts:
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
            return None
        names = [keyword.arg for keyword in node.keywords]
        if None in names or len(set(names)) < len(names):
            return None
        found.append(Call(node.func.id, {str(each.arg): _value(each.value) for each in node.keywords}, "python"))
    return tuple(found)


def _value(node: ast.expr) -> Any:
    """A literal's value. Raises ValueError for anything that is not one that JSON has."""
    if isinstance(node, ast.Constant) and (node.value is None or type(node.value) in (bool, int, float, str)):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        if type(node.operand.value) in (int, float):
            return -node.operand.value  # type: ignore[operator]  # an int or float, as just seen
    elif isinstance(node, ast.List | ast.Tuple):
        return [_value(inner) for inner in node.elts]
    elif isinstance(node, ast.Dict) and all(
        isinstance(key, ast.Constant) and type(key.value) is str for key in node.keys
    ):
        return {key.value: _value(inner) for key, inner in zip(node.keys, node.values, strict=True)}  # type: ignore[union-attr]
    raise ValueError("not a literal")
