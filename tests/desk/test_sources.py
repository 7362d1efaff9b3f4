"""The seven sources: Table 1's proportions, and nothing told that is not so."""

import re
from collections import Counter

import pytest

from camelid import desk
from camelid.desk.lexicon import article
from camelid.desk.phrases import STATEMENTS, SUMS
from camelid.desk.wordings import KEPT_BACK, TUNING
from camelid.desk.world import RELATIONS, Fact
from camelid.errors import UsageError
from tests.conftest import size

TABLE_1 = {
    "CommonCrawl": 67.0, "C4": 15.0, "Github": 4.5, "Wikipedia": 4.5, "Books": 4.5, "ArXiv": 2.5, "StackExchange": 2.0,
}  # fmt: skip
BYTES = size(60_000)


class Reader:
    """Reads facts back out of English sentences, by patterns made from the forms and the world's own words."""

    def __init__(self, world):
        self.world = world
        people = [*world.named("person"), *world.strangers]
        values = {fact.relation: set() for fact in world.facts}
        for fact in world.facts:
            values[fact.relation].add(fact.value)
        closed = {"trade": "trade", "pet": "animal", "food": "food", "kind": "tool"}
        values |= {relation: set(world.words(of)) for relation, of in closed.items()}
        values["home"] = set(world.named("place"))
        self.patterns = []
        for kind, relations in RELATIONS.items():
            names = people if kind == "person" else world.named(kind)
            pronouns = ("She", "He") if kind == "person" else ("It",)
            for relation in relations:
                words = values[relation]
                for form in STATEMENTS[relation]:
                    pattern = re.escape(form).replace(r"\{s\}", f"(?P<s>{'|'.join([*names, *pronouns])})")
                    pattern = pattern.replace(r"\{v\}", f"(?P<v>{'|'.join(words)})")
                    pattern = pattern.replace(r"\{a\}", f"(?P<v>{'|'.join(map(article, words))})")
                    self.patterns.append((relation, re.compile(pattern)))

    def read(self, text):
        found, last = set(), None
        for sentence in re.split(r"(?<=[.?!])\s+|\n+", text):
            for relation, pattern in self.patterns:
                if match := pattern.fullmatch(sentence.strip().removeprefix("As I said, ").removeprefix("Once more: ")):
                    subject = match["s"] if match["s"] not in ("She", "He", "It") else last
                    last = subject
                    kind = self.world.kind_of.get(subject, "person")
                    value = match["v"].removeprefix("an ").removeprefix("a ")
                    if relation in RELATIONS[kind]:
                        found.add(Fact(subject, relation, value))
        return found


def some(world, name, bytes=BYTES):
    return list(desk.sources(world)[name].documents(bytes=bytes))


@pytest.fixture(scope="module")
def world():
    return desk.world("small", seed=1)


def test_the_sources_carry_the_names_and_proportions_of_table_1(world):
    assert {name: source.weight for name, source in desk.sources(world).items()} == TABLE_1
    total = 300_000
    told = {
        name: sum(len(d.text.encode()) for d in source.documents(bytes=int(total * source.weight / 100)))
        for name, source in desk.sources(world).items()
    }
    for name, weight in TABLE_1.items():
        share = 100 * told[name] / sum(told.values())
        assert abs(share - weight) < 0.5, (name, share)


def test_documents_are_pure_functions_of_their_index(world):
    for source in desk.sources(world).values():
        first = [document for document, _ in zip(source.documents(seed=5), range(30), strict=False)]
        later = [document for document, _ in zip(source.documents(seed=5, start=10), range(20), strict=False)]
        assert first[10:] == later
        assert first != [document for document, _ in zip(source.documents(seed=6), range(30), strict=False)]
        assert all(document.source == source.name and document.text.strip() for document in first)


@pytest.mark.parametrize("name", ["CommonCrawl", "C4", "Wikipedia", "Books", "StackExchange"])
def test_every_fact_told_in_english_reads_back_as_the_world_has_it(world, name):
    reader, checked = Reader(world), 0
    for document in some(world, name):
        if document.kind in ("second language", "parallel"):
            continue
        read = reader.read(re.sub(r"(?m)^\[-?\d+\] |^[QA]: ", "", document.text))
        assert read == set(document.facts) | set(document.passing), document
        assert all(world.holds(fact) for fact in document.facts), document
        assert all(fact.subject in world.strangers for fact in document.passing), document
        checked += len(read)
    assert checked > 200


def test_every_fact_is_told_in_many_forms_on_the_web(world):
    told = Counter(fact for document in some(world, "CommonCrawl", 1_000_000) for fact in document.facts)
    assert set(told) == set(world.facts)
    assert min(told.values()) >= 10


@pytest.mark.parametrize("name", TABLE_1)
def test_every_equation_is_noted_and_right(world, name):
    signs = {"+": lambda x, y: x + y, "-": lambda x, y: x - y}
    forms = [
        (sign, re.compile(re.escape(form).replace(r"\{x\}", r"(?P<x>\d+)").replace(r"\{y\}", r"(?P<y>\d+)").replace(
            r"\{z\}", r"(?P<z>\d+)"))) for sign in SUMS for form in SUMS[sign]
    ]  # fmt: skip
    for document in some(world, name):
        for left, sign, right, result in document.sums:
            assert signs[sign](left, right) == result >= 0, document
        read = {
            (int(match["x"]), sign, int(match["y"]), int(match["z"]))
            for sign, pattern in forms
            for match in pattern.finditer(document.text)
        }
        assert read <= set(document.sums), document
        if document.kind in ("derivation", "sums"):
            assert read == set(document.sums), document


def test_no_wording_of_an_instruction_occurs_in_a_source(world):
    text = "\n".join(document.text for name in TABLE_1 for document in some(world, name, 300_000))
    for wordings in (TUNING, KEPT_BACK):
        for forms in wordings.values():
            for form in forms:
                pattern = re.sub(r"\\\{\w\\\}", r"[^\\n]{1,40}?", re.escape(form))
                assert not re.search(pattern, text), form
    assert not set(sum(TUNING.values(), ())) & set(sum(KEPT_BACK.values(), ()))


def test_an_unknown_source_and_negative_bytes_are_refused_in_words(world):
    with pytest.raises(UsageError, match="did you mean 'Wikipedia'"):
        desk.documents(world, "wikipedia")
    with pytest.raises(UsageError, match="not negative"):
        next(desk.sources(world)["C4"].documents(bytes=-1))
    assert list(desk.sources(world)["C4"].documents(bytes=0)) == []
