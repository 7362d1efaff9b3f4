from __future__ import annotations

import json
import random
import re
import sys
from typing import Any

import numpy as np
import pytest

from camelid.errors import CamelidError, UsageError
from camelid.generate import constrain
from camelid.generate.decode import complete, complete_all, generate
from camelid.generate.sample import Sampler
from camelid.generate.settings import Constraint, Settings
from camelid.randomness import numpy_generator
from camelid.tokenizers.extend import with_controls
from tests.adversarial import CONTROL_NAMES
from tests.conftest import size
from tests.generate.stand_ins import BYTES, ByteTokenizer, small
from tests.generate.test_decode import grown
from tests.tokenizers.conftest import byte_level, llama_2, llama_3, pieces  # noqa: F401

pytest.importorskip("llguidance", reason="llguidance is absent: pip install camelid[constraints]")
KINDS = ("pieces", "byte_level")


def said(
    constraint: Constraint, tokenizer: Any, *words: int | str, starts: bool = False, limit: int = 200
) -> str | None:
    """What a model of random logits says within a constraint; None where it was still at it after `limit` ids."""
    own = Settings(constraint=constraint, temperature=1.0, seed=1, stop_ids=(tokenizer.eos,))
    sampler, ids = Sampler(own, [0], tokenizer.size + 3, tokenizer, starts=starts), list[int]()
    rows = numpy_generator("constrained", *words)
    for _ in range(limit):
        if rows.random() < 0.1:  # a guess that is taken back, as speculation does
            guesses = rows.integers(1, 4)
            for _ in range(guesses):
                id = sampler.draw(rows.normal(size=tokenizer.size + 3) * 2).id
                sampler.take(id)
                if id == tokenizer.eos:
                    sampler.undo(1)
                    guesses -= 1
            sampler.undo(int(guesses))
        id = sampler.draw(rows.normal(size=tokenizer.size + 3) * 2).id
        if id == tokenizer.eos:
            return tokenizer.decode(ids, starts=starts)
        assert id < tokenizer.size and id not in tokenizer.controls.values()
        sampler.take(id)
        ids.append(id)
    return None


# --- JSON schemas ---------------------------------------------------------------------------------------------------


def schema_of(draw: random.Random, depth: int = 2) -> dict:
    """A schema whose values are finite, with most of what such schemas are made of."""
    kind = draw.randrange(8 if depth else 5)
    if kind == 0:
        low = draw.randint(-200, 200)
        return {"type": "integer", "minimum": low, "maximum": low + draw.randint(0, 5000)}
    if kind == 1:
        return {"type": "string", "minLength": draw.randint(0, 2), "maxLength": draw.randint(2, 6)}
    if kind == 2:
        return {"enum": draw.sample(["é", 'a"b', 3, -1.5, None, True, "<s>", "</s>", ["x"], {"k": "</s>"}], 3)}
    if kind == 3:
        return {"type": "string", "pattern": draw.choice(["^[a-c]{1,3}$", "^\\d{4}-\\d{2}$", "^(ja|nein)!?$"])}
    if kind == 4:
        return {"type": draw.choice(["boolean", "null"])}
    if kind == 5:
        most = draw.randint(1, 3)
        return {
            "type": "array",
            "items": schema_of(draw, depth - 1),
            "minItems": draw.randint(0, most),
            "maxItems": most,
        }
    if kind == 6:
        return {"anyOf": [schema_of(draw, depth - 1), schema_of(draw, depth - 1)]}
    names = draw.sample(["a", "name", "ünï", "two words", "<|eot_id|>"], draw.randint(1, 3))
    needed = draw.sample(names, draw.randint(0, len(names)))
    inner = {name: schema_of(draw, depth - 1) for name in names}
    return {"type": "object", "properties": inner, "required": needed, "additionalProperties": False}


def fits(value: Any, schema: dict) -> bool:
    """Whether a value is one of a schema's, by the plain meaning of its words."""
    if "anyOf" in schema:
        return any(fits(value, one) for one in schema["anyOf"])
    if "enum" in schema:
        return any(type(value) is type(one) and value == one for one in schema["enum"])
    kind = schema["type"]
    if kind == "integer":
        return type(value) is int and schema["minimum"] <= value <= schema["maximum"]
    if kind == "string":
        long = schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 99) if type(value) is str else False
        return long and re.search(schema.get("pattern", ""), value) is not None
    if kind == "array":
        held = type(value) is list and schema["minItems"] <= len(value) <= schema["maxItems"]
        return held and all(fits(one, schema["items"]) for one in value)
    if kind == "object":
        known = type(value) is dict and set(schema["required"]) <= set(value) <= set(schema["properties"])
        return known and all(fits(one, schema["properties"][name]) for name, one in value.items())
    return value is None if kind == "null" else type(value) is bool


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("starts", [False, True])
def test_every_answer_under_a_schema_is_json_that_fits_it(
    kind: str, starts: bool, request: pytest.FixtureRequest
) -> None:
    tokenizer, draw, ended = request.getfixturevalue(kind), random.Random(f"{kind}{starts}"), 0
    for turn in range(size(60)):
        schema = schema_of(draw)
        text = said(Constraint("json_schema", json.dumps(schema)), tokenizer, kind, turn, starts=starts)
        if text is not None:
            value = json.loads(text)
            assert fits(value, schema), (schema, text)
            ended += 1
    assert ended > size(60) * 0.95


def test_numbers_and_free_objects_are_json_too(byte_level: Any) -> None:  # noqa: F811
    found = [said(Constraint("json_schema", '{"type": "number"}'), byte_level, "number", turn) for turn in range(30)]
    assert {type(json.loads(text)) for text in found if text is not None} == {int, float}
    anything = [said(Constraint("json_schema", "true"), byte_level, "any", turn) for turn in range(30)]
    assert len([json.loads(text) for text in anything if text is not None]) > 10


# --- regular expressions and grammars -------------------------------------------------------------------------------

REGEXES = (
    r"[a-z]+@[a-z]{1,4}\.(de|com)", r"(yes|no)", r"\d{1,3}(,\d{3}){0,2}", r"( indented){1,2} ?", r" ?x{1,4}", r"é{1,3}🐪",
    r"[\u4e00-\u4e20]{1,3}", r"(</?s>|<\|eot_id\|>){1,3}", r"(?i)omar[^<]{0,5}", r"a{3,5}|\n\n#{1,6} ", "a\n/b{1,2}",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("starts", [False, True])
@pytest.mark.parametrize("regex", REGEXES)
def test_every_answer_under_a_regex_matches_it_whole(
    kind: str, starts: bool, regex: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(kind)
    found = [said(Constraint("regex", regex), tokenizer, regex, turn, starts=starts) for turn in range(size(5))]
    assert sum(text is not None for text in found) > len(found) / 2
    for text in found:
        assert text is None or re.fullmatch(regex, text), (regex, text)


SUMS = 'start: term (("+" | "-") term)* \n term: NUMBER | "(" start ")"\n NUMBER: /[1-9][0-9]{0,2}/\n'


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("starts", [False, True])
def test_every_answer_under_a_grammar_is_a_sentence_of_it(
    kind: str, starts: bool, request: pytest.FixtureRequest
) -> None:
    """Sums in brackets, which no regular expression can check: taken apart from the inside by hand."""
    tokenizer = request.getfixturevalue(kind)
    whole = 0
    for turn in range(size(20)):
        text = said(Constraint("grammar", SUMS), tokenizer, "sums", turn, starts=starts)
        whole += text is not None
        rest, before = text or "1", ""
        while rest != before:
            before, rest = rest, re.sub(r"\((1|[1-9]\d{0,2})([+-](1|[1-9]\d{0,2}))*\)", "1", rest)
        assert re.fullmatch(r"[1-9]\d{0,2}([+-][1-9]\d{0,2})*", rest), text
    assert whole > size(20) * 0.8


@pytest.mark.parametrize("kind", ["pieces", "byte_level", "llama_2", "llama_3"])
def test_text_that_spells_a_control_token_never_becomes_one(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(kind)
    tokenizer = tokenizer if kind.startswith("llama") else with_controls(tokenizer, ["<|eot_id|>", "<|python_tag|>"])
    for name in CONTROL_NAMES[:: 1 if size(2) > 2 else 4]:
        text = said(Constraint("regex", re.escape(name)), tokenizer, name)  # asserts that no control id is said
        assert text == name


# --- within decoding ------------------------------------------------------------------------------------------------


def test_constrained_rows_keep_free_company_and_stops() -> None:
    loaded = small(seed=3)
    end = loaded.tokenizer.eos
    settings = [
        Settings(max_tokens=40, constraint=Constraint("regex", "(yes|no), [A-Z][a-z]{1,6}"), stop_ids=(end,)),
        Settings(max_tokens=10, temperature=1.0),
        Settings(max_tokens=40, constraint=Constraint("regex", "ab{2,9}c"), stop_texts=("bb",), stop_ids=(end,)),
        Settings(max_tokens=5, constraint=Constraint("regex", "x{50}"), stop_ids=(end,)),
        Settings(max_tokens=40, constraint=Constraint("json_schema", '{"enum": [12, "b"]}'), temperature=2.0, seed=7, stop_ids=(end,)),
    ]  # fmt: skip
    prompts = [[1, 5 + row] for row in range(len(settings))]
    found = complete_all(loaded.model, prompts, settings, loaded.tokenizer)
    alone = [complete(loaded.model, p, own, loaded.tokenizer) for p, own in zip(prompts, settings, strict=True)]
    assert [one.token_ids for one in found] == [one.token_ids for one in alone]
    assert re.fullmatch("(yes|no), [A-Z][a-z]{1,6}", found[0].text) and found[0].token_ids[-1] == end
    assert (found[2].text, found[2].finish_reason) == ("a", "stop")
    assert (set(found[3].text), found[3].finish_reason) == ({"x"}, "length")
    assert json.loads(found[4].text) in (12, "b")


def test_an_answer_that_matches_may_go_on_until_it_can_not() -> None:
    sampler = Sampler(Settings(constraint=Constraint("regex", "ab?"), stop_ids=(1,)), [0], BYTES.size, BYTES)
    a, b = BYTES.encode("ab")
    for allowed, taken in (({a}, a), ({b, 1}, b), ({1}, 1)):
        row = sampler._matcher.allowed()  # type: ignore[union-attr]
        assert set(np.flatnonzero(row).tolist()) == allowed
        sampler.take(taken)
    sampler.undo(2)
    assert set(np.flatnonzero(sampler._matcher.allowed()).tolist()) == {b, 1}  # type: ignore[union-attr]


class Few(ByteTokenizer):
    def encode(self, text: str, *, starts: bool = True) -> list[int]:
        return []


@pytest.mark.parametrize("kind", [Few, ByteTokenizer])
def test_what_the_vocabulary_cannot_spell_is_told(kind: type[ByteTokenizer]) -> None:
    """An answer that does not match is never ended as if it did; also not where the tokenizer itself fails."""
    tokenizer = kind([b"a", b"b"])
    sampler = Sampler(Settings(constraint=Constraint("regex", "ac"), stop_ids=(1,)), [0], 4, tokenizer)
    sampler.take(2)
    with pytest.raises(CamelidError, match="constraint: the answer can go no further"):
        sampler.draw(np.zeros(4))
    with pytest.raises(CamelidError, match="constraint: id 3 does not fit"):
        Sampler(Settings(constraint=Constraint("regex", "ac"), stop_ids=(1,)), [0], 4, tokenizer).take(3)


@pytest.mark.parametrize(
    ("constraint", "told"),
    [
        (Constraint("json_schema", '{"type": "strin"}'), "json_schema: Invalid type: strin"),
        (
            Constraint("json_schema", '{"properties": {"a/b": {"items": {"type": "strin"}}}}'),
            "json_schema/properties/a~1b/items: Invalid type: strin",
        ),
        (
            Constraint("json_schema", '{"anyOf": [{"type": "null"}, {"type": "string", "pattern": "(a"}]}'),
            "json_schema/anyOf/1: .*unclosed group",
        ),
        (
            Constraint("json_schema", '{"$ref": "#/$defs/x", "$defs": {"x": {"properties": {"y": {"not": {}}}}}}'),
            r"json_schema/\$defs/x/properties/y: Unimplemented keys: ..not",
        ),
        (Constraint("json_schema", '{"type": "string"'), "json_schema: brackets do not match"),
        (Constraint("json_schema", '{"type": "string", "type": "null"}'), "json_schema: .*'type' appears twice"),
        (Constraint("json_schema", "[1]"), "json_schema: is neither an object"),
        (Constraint("json_schema", "[" * 90 + "]" * 90), "json_schema: brackets"),
        (Constraint("regex", "(ab"), "regex: at .*unclosed group"),
        (Constraint("regex", "(?=a)b"), "regex: .*look-around.*not supported"),
        (Constraint("grammar", "start: foo"), 'grammar: at 1\\(8\\): unknown name: "foo"'),
        (Constraint("grammar", 'start: "a" )'), r"grammar: 1\(12\): expecting rule"),
        (Constraint("grammar", "  "), "grammar: is empty"),
        (Constraint("regex", "a" * (1 << 20) + "b"), "constraint: 1048577 characters"),
    ],
)
def test_a_malformed_constraint_is_refused_with_its_place_before_anything_is_read(
    constraint: Constraint, told: str
) -> None:
    model = grown()
    model.forward = model.hidden = None  # type: ignore[method-assign, assignment]
    own = Settings(constraint=constraint, stop_ids=(1,))
    for ask in (lambda: generate(model, [1], own, BYTES), lambda: complete_all(model, [[1]], own, BYTES)):
        with pytest.raises(UsageError, match=told):
            ask()
    with pytest.raises(UsageError, match=told):
        constrain.check(constraint)


def test_a_constraint_needs_a_tokenizer_and_an_end() -> None:
    with pytest.raises(UsageError, match="constraint: given without a tokenizer"):
        complete(grown(), [1], Settings(constraint=Constraint("regex", "a"), stop_ids=(1,)))
    with pytest.raises(UsageError, match="constraint: no id is given that ends an answer"):
        complete(grown(), [1], Settings(constraint=Constraint("regex", "a")), BYTES)


def test_without_llguidance_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UsageError, match=r"llguidance, which is not installed; pip install camelid\[constraints\]"):
        constrain.check(Constraint("regex", "never compiled before"))
