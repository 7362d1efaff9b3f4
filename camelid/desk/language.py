"""The second language: its own words in Cyrillic letters, the verb at the end, and an exact way there and back."""

from __future__ import annotations

from functools import cached_property
from random import Random

from camelid.desk.lexicon import CLASSES
from camelid.desk.world import RELATIONS, Fact, World
from camelid.randomness import key

LETTERS = dict(zip("abcdefghijklmnopqrstuvwxyz", "абцдефгхийклмнопярстувшжыз", strict=True))
ONSETS, VOWELS, CODAS = "бвгджзклмнпрст", "аеиоу", "нрлмск"


class Language:
    """The second language of one world.

    A fact is told as subject, value, verb: "Mira lives in Torvale." becomes "Мира Торвале-да жине." Names are spelled
    letter by letter, closed words and verbs have invented words of their own.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._draw = Random(key("desk language", world.seed))
        self._taken: set[str] = set()
        self.words = {word: self._invent(2) for words in CLASSES.values() for word in words}
        relations = [relation for kind in RELATIONS.values() for relation in kind]
        self.verbs = {relation: self._invent(1) + "е" for relation in relations}

    def _invent(self, syllables: int) -> str:
        while True:
            word = "".join(self._draw.choice(ONSETS) + self._draw.choice(VOWELS) for _ in range(syllables))
            word += self._draw.choice(CODAS)
            if word not in self._taken:
                self._taken.add(word)
                return word

    def name(self, name: str) -> str:
        """A name in the second script."""
        return "".join(LETTERS[letter] for letter in name.lower()).capitalize()

    def sentence(self, fact: Fact) -> str:
        """The fact in the second language."""
        value = self.words.get(fact.value) or self.name(fact.value)
        return f"{self.name(fact.subject)} {value} {self.verbs[fact.relation]}."

    def read(self, sentence: str) -> Fact:
        """The fact a sentence of this language states; ValueError where it is not one."""
        parts = sentence.removesuffix(".").split(" ")
        if len(parts) != 3 or parts[2] not in self._relations:
            raise ValueError(f"no sentence of the second language: {sentence!r}")
        subject, value = (self._meanings.get(part) for part in parts[:2])
        if subject is None or value is None:
            raise ValueError(f"unknown words in {sentence!r}")
        return Fact(subject, self._relations[parts[2]], value)

    @cached_property
    def _relations(self) -> dict[str, str]:
        return {verb: relation for relation, verb in self.verbs.items()}

    @cached_property
    def _meanings(self) -> dict[str, str]:
        names = [*self.world.kind_of, *self.world.regions]
        return {word: english for english, word in self.words.items()} | {self.name(name): name for name in names}
