"""The clinic: a domain of its own beside the world. Its illnesses are named by none of the seven sources.

Guidelines tell all about one illness, abstracts one thing about several, notes what befell one patient. Questions ask
for what the guidelines say, and for what stands in a note.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from random import Random

from camelid.desk import lexicon
from camelid.desk.document import Document
from camelid.desk.instructions import PATIENCE, Item
from camelid.desk.world import Fact, World
from camelid.errors import ProblemList
from camelid.randomness import key

ENDS = ("itis", "osis", "emia", "algia")
SIGNS = ("fever", "cough", "rash", "cramps", "shivers", "thirst", "spots", "itching", "hiccups", "sneezing", "swelling",
         "yawning")  # fmt: skip
HERBS = (
    "sage",
    "mint",
    "thyme",
    "ginger",
    "garlic",
    "nettle",
    "clover",
    "fennel",
    "basil",
    "parsley",
    "dill",
    "mallow",
)
ORGANS = ("lungs", "liver", "skin", "heart", "stomach", "ears", "eyes", "bones", "nose", "throat", "teeth", "knees")
SEASONS = ("spring", "summer", "autumn", "winter")

STATEMENTS: Mapping[str, tuple[str, ...]] = {
    "sign": ("The sign of {s} is {v}.", "Patients with {s} have {v}.", "{v} is the sign of {s}.", "{s} begins with {v}."),
    "remedy": ("The remedy for {s} is {v}.", "{s} is treated with {v}.", "Give {v} against {s}.", "{v} cures {s}."),
    "organ": ("The seat of {s} is the {v}.", "{s} harms the {v}.", "{s} is found in the {v}.", "The {v} suffer from {s}."),
    "season": ("The season of {s} is {v}.", "{s} comes in {v}.", "Most cases of {s} are seen in {v}.", "In {v} comes {s}."),
}  # fmt: skip
TUNING: Mapping[str, tuple[str, ...]] = {
    "sign": ("Tell me the sign of {s}.", "State the sign of {s}.", "Which sign tells me of {s}?"),
    "remedy": ("Tell me the remedy for {s}.", "State the remedy for {s}.", "Which herb would I give for {s}?"),
    "organ": ("Tell me the seat of {s}.", "State the seat of {s}.", "Which part of the body does {s} harm?"),
    "season": ("Tell me the season of {s}.", "State the season of {s}.", "When would I meet {s}?"),
}  # fmt: skip
NOTE = "Patient {p}, {t}, of {h}, was seen with {sign}. It is {illness}. {p} was given {remedy}."
ON_NOTES: Mapping[str, tuple[str, str]] = {  # what is asked about a note, and how the answer is told
    "diagnosis": ("Name the illness in the note.", "The illness is {illness}."),
    "given": ("Name the remedy in the note.", "The remedy is {remedy}."),
    "complaint": ("Name the sign in the note.", "The sign is {sign}."),
    "patient": ("Name the patient in the note.", "The patient is {p}."),
    "origin": ("Name the home of the patient in the note.", "The home is {h}."),
}


@dataclass(frozen=True)
class Illness:
    """One illness and everything there is to know about it."""

    name: str
    sign: str
    remedy: str
    organ: str
    season: str


class Clinic:
    """The illnesses of one world; the last quarter of them is never asked about in tuning."""

    def __init__(self, world: World) -> None:
        self.world = world
        draw = Random(key("desk clinic", world.seed, world.size.name))
        taken = {name.lower() for name in (*world.kind_of, *world.regions, *world.strangers)} | set(
            lexicon.every_word()
        )
        names = lexicon.names(draw, max(8, world.size.people * 2 // 3), ENDS, taken)
        columns = [_dealt(draw, values, len(names)) for values in (SIGNS, HERBS, ORGANS, SEASONS)]
        self.illnesses = tuple(Illness(name, *values) for name, *values in zip(names, *columns, strict=True))
        self.reserved = frozenset(names[len(names) - len(names) // 4 :])

    @cached_property
    def facts(self) -> tuple[Fact, ...]:
        """Every fact about every illness."""
        return tuple(
            Fact(illness.name, relation, getattr(illness, relation))
            for illness in self.illnesses
            for relation in STATEMENTS
        )

    def about(self, illness: Illness) -> list[Fact]:
        """The facts about one illness."""
        return [fact for fact in self.facts if fact.subject == illness.name]

    def instructions(self, split: str = "train", count: int | None = None, seed: int = 0) -> list[Item]:
        """`count` different questions of one split, half of them about illnesses as far as these go, half about notes.

        Held out are questions about reserved illnesses, and a keyed quarter of all notes. Raises UsageError for an
        unknown split, or for more questions than there are.
        """
        problems = ProblemList()
        if split not in ("train", "held_out"):
            problems.add("desk split", f"unknown split {split!r}", "choose train or held_out")
        problems.raise_usage()
        world, held_out = self.world, split == "held_out"
        wanted = count or (world.size.train_items if not held_out else world.size.held_out_items) // 2
        draw = Random(key("desk clinic questions", world.seed, split, seed))
        facts = [self._asked(fact, form) for fact in self.facts if (fact.subject in self.reserved) == held_out
                 for form in TUNING[fact.relation]]  # fmt: skip
        draw.shuffle(facts)
        items: dict[tuple[str, str], Item] = {}
        misses = 0
        while len(items) < wanted and misses < PATIENCE:
            fresh = facts.pop() if facts and len(items) % 2 == 0 else self._on_note(draw, held_out)
            known = fresh is None or (fresh.instruction, fresh.input) in items
            misses = misses + 1 if known else 0
            if fresh is not None and not known:
                items[fresh.instruction, fresh.input] = fresh
        if len(items) < wanted:
            found = f"{wanted} asked for, the clinic holds about {len(items)} of {split}"
            problems.add("desk clinic", found, "ask for fewer, or choose a larger world")
            problems.raise_usage()
        return list(items.values())

    def _asked(self, fact: Fact, form: str) -> Item:
        asked, told = form.format(s=fact.subject), canonical(fact)
        return Item(asked, "", told, "illnesses", fact.relation, fact.subject, (fact.value, f"the {fact.value}"))

    def _on_note(self, draw: Random, held_out: bool) -> Item | None:
        words = self.patient(draw)
        text = NOTE.format(**words)
        if (key("desk held out", self.world.seed, "note", text) % 4 == 0) != held_out:
            return None
        task = draw.choice(list(ON_NOTES))
        asked, told = ON_NOTES[task]
        answer = told.format(**words)
        return Item(asked, text, answer, "notes", task, accepted=(answer.rpartition(" ")[2],))

    def patient(self, draw: Random) -> dict[str, str]:
        """What a note says of one patient; the illness has the sign and the remedy that the guidelines name."""
        illness = draw.choice(self.illnesses)
        return {
            "p": draw.choice(self.world.strangers),
            "t": lexicon.article(draw.choice(self.world.words("trade"))),
            "h": draw.choice(self.world.places).name,
            "illness": illness.name,
            "sign": illness.sign,
            "remedy": illness.remedy,
        }


@lru_cache(maxsize=8)
def clinic(world: World) -> Clinic:
    """The clinic of this world, made once."""
    return Clinic(world)


def canonical(fact: Fact) -> str:
    """The plainest sentence for a fact about an illness."""
    return STATEMENTS[fact.relation][0].format(s=fact.subject, v=fact.value)


def guideline(world: World, source: str, index: int, seed: int) -> Document:
    """Everything about one illness, in an order and words of its own."""
    found, draw = clinic(world), Random(key("desk", world.seed, source, seed, index))
    facts = found.about(draw.choice(found.illnesses))
    draw.shuffle(facts)
    text = " ".join(_sentence(fact, draw) for fact in facts)
    return Document(source, index, "guideline", text, tuple(facts))


def abstract(world: World, source: str, index: int, seed: int) -> Document:
    """One relation for several illnesses."""
    found, draw = clinic(world), Random(key("desk", world.seed, source, seed, index))
    relation = draw.choice(list(STATEMENTS))
    facts = [Fact(i.name, relation, getattr(i, relation)) for i in draw.sample(found.illnesses, 4)]
    return Document(source, index, "abstract", " ".join(_sentence(fact, draw) for fact in facts), tuple(facts))


def note(world: World, source: str, index: int, seed: int) -> Document:
    """What befell one patient."""
    draw = Random(key("desk", world.seed, source, seed, index))
    words = clinic(world).patient(draw)
    facts = (Fact(words["illness"], "sign", words["sign"]), Fact(words["illness"], "remedy", words["remedy"]))
    return Document(source, index, "note", NOTE.format(**words), facts)


def _sentence(fact: Fact, draw: Random) -> str:
    told = draw.choice(STATEMENTS[fact.relation]).format(s=fact.subject, v=fact.value)
    return told[0].upper() + told[1:]


def _dealt(draw: Random, values: tuple[str, ...], count: int) -> list[str]:
    dealt = [values[index % len(values)] for index in range(count)]
    draw.shuffle(dealt)
    return dealt
