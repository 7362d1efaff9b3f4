"""Answers that match a JSON schema, a regular expression or a grammar, whatever the model would rather say.

At each step llguidance (an optional package: `pip install camelid[constraints]`) says which ids can still lead to a
match; all others get no probability. An id stands for its bytes, so characters may be cut anywhere. A control id never
stands for text: what spells a control token is matched by text ids alone. What ends an answer is allowed where the
answer matches as a whole, and nothing else is where it can go no further.

JSON is written as Python's json.dumps writes it, with ", " and ": " and no other blanks: a model that may put any
blanks between values sometimes puts nothing else. In a regular expression \\d means 0 to 9, no other digits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camelid.durable import parse_json
from camelid.errors import BadFile, CamelidError, Problem, UsageError
from camelid.generate.settings import Constraint
from camelid.tokenizers.protocol import Tokenizer

JSON_FORM: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
LONGEST = 1 << 20  # ours: characters of a schema, expression or grammar
TRIALS = 2000  # ours: parts of a schema tried alone when looking for the one that is wrong
SCHEMAS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")  # names to schemas
LISTS = ("anyOf", "allOf", "oneOf", "prefixItems")
SINGLE = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")


class Matcher:
    """Where an answer stands within its constraint."""

    def __init__(self, matcher: Any, vocab: int, size: int) -> None:
        self._matcher = matcher
        self._words = np.zeros((size + 31) // 32, dtype=np.uint32)
        self._allowed = np.zeros(max(vocab, size), dtype=np.bool_)  # rows that only the model has stay forbidden
        self._vocab, self._size = vocab, size
        self._counts: list[int] = []  # of each id taken, whether llguidance counts it: not what ends a finished match

    def allowed(self) -> NDArray[np.bool_]:
        """Which ids may come next, [V], until the next call. Raises CamelidError where none may."""
        self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        bits = np.unpackbits(self._words.view(np.uint8), bitorder="little", count=self._size)
        self._allowed[: self._size] = bits
        if self._matcher.is_error() or not bits.any():  # after a fault llguidance allows the end, match or no match
            why = self._matcher.get_error().split("\n")[0] or "nothing can follow that this vocabulary can spell"
            raise CamelidError(f"constraint: the answer can go no further: {why}")
        return self._allowed[: self._vocab]

    def take(self, id: int) -> None:
        """The id came. Raises CamelidError for one that was not allowed."""
        finished = bool(self._matcher.is_stopped())
        if not self._matcher.consume_token(id):
            raise CamelidError(f"constraint: id {id} does not fit: {self._matcher.get_error().splitlines()[0]}")
        self._counts.append(int(not finished))

    def undo(self, count: int) -> None:
        """The last `count` ids never came."""
        counted = sum(self._counts[-count:])
        del self._counts[-count:]
        if counted and not self._matcher.rollback(counted):
            raise CamelidError(f"constraint: cannot go back by {count} ids: {self._matcher.get_error()}")


def check(constraint: Constraint) -> None:
    """Raises UsageError, with the place, for a constraint that is malformed; and where llguidance is absent."""
    _compiled(constraint, False)


def matcher(
    constraint: Constraint, tokenizer: Tokenizer | None, vocab: int, stop_ids: Sequence[int], *, starts: bool = False
) -> Matcher:
    """A matcher at the beginning of an answer, for rows of `vocab` ids; `starts` as for Answer.

    Raises UsageError for a constraint that is malformed, and for one without a tokenizer or an id that ends an answer.
    """
    if tokenizer is None:
        raise UsageError([Problem("constraint", "given without a tokenizer, which spells it", "give the tokenizer")])
    if not stop_ids:
        found = "no id is given that ends an answer, by which a match could end"
        raise UsageError([Problem("constraint", found, "give one in stop_ids: the tokenizer's end token")])
    blank = starts and _drops_blank(tokenizer)
    grammar = _compiled(constraint, blank)
    from llguidance import LLMatcher

    vocabulary = _vocabulary(_Spelled(tokenizer), tuple(sorted(set(stop_ids))))
    made = LLMatcher(vocabulary, grammar, log_level=0)
    if made.is_error():
        raise UsageError([_problem(constraint, made.get_error())])
    return Matcher(made, vocab, vocabulary.vocab_size)


# --- the vocabulary -------------------------------------------------------------------------------------------------


class _Spelled:
    """A tokenizer, equal to others with the same ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.digest = tokenizer, tokenizer.digest()

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Spelled) and other.digest == self.digest


class _Wrapped:
    """What llguidance asks of a tokenizer."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[int]) -> None:
        named = {id: name for name, id in tokenizer.controls.items()}
        controls = {*named, *stops}
        self.eos_token_id = stops[0]
        self.tokens = [
            (named.get(id) or f"<control {id}>").encode() if id in controls else tokenizer.bytes_of(id)
            for id in range(tokenizer.size)
        ]
        self.special_token_ids = sorted(id for id in controls if id < tokenizer.size)
        self._tokenizer = tokenizer
        special = set(self.special_token_ids)
        self._ids = {piece: id for id, piece in enumerate(self.tokens) if piece and id not in special}
        self._longest = max(map(len, self._ids), default=0)

    def __call__(self, text: str | bytes) -> list[int]:
        """Ids of a text: the tokenizer's own where they spell it (SentencePiece reads U+2581 as a blank)."""
        data = text if isinstance(text, bytes) else text.encode()
        ids = self._tokenizer.encode(data.decode("utf-8", "replace"), starts=False)
        return ids if b"".join(map(self._tokenizer.bytes_of, ids)) == data else list(self._greedy(data))

    def _greedy(self, data: bytes) -> Iterator[int]:
        """The longest pieces from the left."""
        start = 0
        while start < len(data):
            ends = range(min(len(data), start + self._longest), start, -1)
            found = next((end for end in ends if data[start:end] in self._ids), None)
            if found is not None:
                yield self._ids[data[start:found]]
            start = found or start + 1


@lru_cache(maxsize=8)
def _vocabulary(spelled: _Spelled, stops: tuple[int, ...]) -> Any:
    """llguidance's view of a tokenizer; made once, for it takes a second for a large vocabulary."""
    from llguidance import LLTokenizer, TokenizerWrapper

    wrapped = TokenizerWrapper(_Wrapped(spelled.tokenizer, stops))
    return LLTokenizer(wrapped, eos_token=list(stops))


def _drops_blank(tokenizer: Tokenizer) -> bool:
    """Whether a text that starts loses the blank of its first piece."""
    for id in range(tokenizer.size):
        if tokenizer.bytes_of(id).startswith(b" "):
            return tokenizer.decode([id], starts=True) != tokenizer.decode([id], starts=False)
    return False


# --- the grammar ----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _compiled(constraint: Constraint, blank: bool) -> str:
    """The constraint as llguidance writes grammars; with `blank`, after the blank that a first piece carries.

    Raises UsageError naming the place.
    """
    try:
        from llguidance import LLMatcher, regex_to_lark
    except ImportError:
        found = "constrained answers need llguidance, which is not installed"
        raise UsageError([Problem("constraint", found, "pip install camelid[constraints]")]) from None
    if len(constraint.text) > LONGEST:
        found = f"{len(constraint.text)} characters, of at most {LONGEST}"
        raise UsageError([Problem("constraint", found, "write a smaller one")])
    if not constraint.text.strip():
        raise UsageError([Problem(_named(constraint), "is empty", "say what an answer has to match")])
    if constraint.kind == "json_schema":
        grammar = _json_grammar(_schema(constraint.text))
    elif constraint.kind == "regex":
        grammar = _lark("start: /" + regex_to_lark(constraint.text, "d") + "/")
    else:
        grammar = _lark(constraint.text)
    wrong = LLMatcher.validate_grammar(grammar)
    if wrong:
        raise UsageError([_problem(constraint, wrong)])
    if not blank:
        return grammar
    parts = json.loads(grammar)["grammars"]
    return json.dumps(
        {"grammars": [{"lark_grammar": 'start: " " @answer'}, {**parts[0], "name": "answer"}, *parts[1:]]}
    )


def _lark(text: str) -> str:
    return json.dumps({"grammars": [{"lark_grammar": text}]})


def _schema(text: str) -> object:
    try:
        schema = parse_json(text.encode("utf-8", "surrogatepass"), Path("schema"), max_depth=64)
    except BadFile as error:
        raise UsageError([Problem("json_schema", error.found, "give a JSON schema")]) from None
    if not isinstance(schema, dict | bool):
        raise UsageError([Problem("json_schema", "is neither an object nor true or false", "give a JSON schema")])
    return schema


def _json_grammar(schema: object) -> str:
    if isinstance(schema, dict):
        from llguidance import LLMatcher

        return str(LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=JSON_FORM))
    held: dict[str, object] = {"x-guidance": JSON_FORM} if schema else {"x-guidance": JSON_FORM, "enum": []}
    return json.dumps({"grammars": [{"json_schema": held}]})


def _problem(constraint: Constraint, told: str) -> Problem:
    """What llguidance says, with the place: of a schema the smallest part that is wrong by itself."""
    lines = [line.strip() for line in told.strip().splitlines() if line.strip()]
    if constraint.kind != "json_schema":
        return Problem(_named(constraint), " ".join(lines), "correct it there")
    place = _wrong_part(_schema(constraint.text))
    return Problem(f"json_schema{place}", " ".join(lines), "correct the schema there")


def _named(constraint: Constraint) -> str:
    return {"json_schema": "json_schema", "regex": "regex", "grammar": "grammar"}[constraint.kind]


def _wrong_part(schema: object) -> str:
    """The place, as a JSON pointer, of the innermost schema that is refused by itself; "" for the whole."""
    from llguidance import LLMatcher

    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema} if isinstance(schema, dict) else {}
    place, current, trials = "", schema, 0
    while True:
        for step, part in _parts(current):
            trials += 1
            if trials > TRIALS:
                return place
            alone = {**shared, **part} if isinstance(part, dict) else part
            if LLMatcher.validate_grammar(_json_grammar(alone)):
                place, current = place + step, part
                shared = {} if step.startswith(("/$defs", "/definitions")) else shared
                break
        else:
            return place


def _parts(schema: object) -> Iterator[tuple[str, object]]:
    """The schemas directly within a schema, each with its place."""
    if not isinstance(schema, Mapping):
        return
    for key in SCHEMAS:
        inner = schema.get(key)
        if isinstance(inner, Mapping):
            yield from ((f"/{key}/{_escaped(name)}", part) for name, part in inner.items() if _is_schema(part))
    for key in LISTS:
        inner = schema.get(key)
        if isinstance(inner, list):
            yield from ((f"/{key}/{place}", part) for place, part in enumerate(inner) if _is_schema(part))
    for key in SINGLE:
        if key in schema and _is_schema(schema[key]):
            yield f"/{key}", schema[key]


def _is_schema(value: object) -> bool:
    return isinstance(value, dict | bool)


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
