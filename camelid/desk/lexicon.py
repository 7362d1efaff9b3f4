"""The closed lists of words the desk world is told with, and the invented names of its people, places and things.

Every list is longer than the small world needs; a size takes the first words of each. Names are built from syllables
by seed, so none is taken from anywhere.
"""

from __future__ import annotations

from collections.abc import Collection
from random import Random

ANIMALS = ("goat", "cat", "dog", "hen", "duck", "horse", "fox", "owl", "cow", "pig", "crow", "frog", "rabbit", "donkey",
           "swan", "turtle", "parrot", "camel")  # fmt: skip
TRADES = ("baker", "painter", "farmer", "doctor", "singer", "weaver", "teacher", "potter", "miller", "sailor", "tailor",
          "mason", "gardener", "printer", "judge", "carpenter", "hunter", "clerk")  # fmt: skip
FOODS = ("bread", "soup", "rice", "honey", "cheese", "fruit", "beans", "fish", "cake", "butter", "pie", "porridge",
         "nuts", "salad", "cream", "noodles", "jam", "toast")  # fmt: skip
COLOURS = ("red", "blue", "green", "white", "black", "yellow", "brown", "grey", "pink", "purple", "orange", "golden",
           "violet", "crimson")  # fmt: skip
KINDS = ("harp", "drum", "bell", "lamp", "clock", "chair", "boat", "ring", "table", "mirror", "kite", "wagon", "basket",
         "flute", "mask", "ladder", "statue", "kettle")  # fmt: skip
MATERIALS = ("wood", "clay", "iron", "glass", "stone", "silver", "wool", "paper", "copper", "leather", "straw",
             "marble",
             "ivory", "brass")  # fmt: skip
CLASSES: dict[str, tuple[str, ...]] = {
    "animal": ANIMALS, "trade": TRADES, "food": FOODS, "colour": COLOURS, "tool": KINDS, "material": MATERIALS,
}  # fmt: skip
PLURAL_CLASSES = {
    "animal": "animals", "trade": "trades", "food": "foods", "colour": "colours", "tool": "tools",
    "material": "materials",
}  # fmt: skip

# A verb as (present, past): "paints", "painted". All take a kind of thing as object.
VERBS = (("paints", "painted"), ("cleans", "cleaned"), ("lifts", "lifted"), ("mends", "mended"), ("opens", "opened"),
         ("washes", "washed"), ("moves", "moved"), ("turns", "turned"), ("covers", "covered"), ("hides", "hid"),
         ("finds", "found"), ("sells", "sold"), ("buys", "bought"), ("breaks", "broke"), ("holds", "held"),
         ("takes", "took"))  # fmt: skip

ONSETS = ("b", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "kr", "st", "tr")
VOWELS = ("a", "e", "i", "o", "u")
PERSON_ENDS = ("n", "ra", "la", "ri", "mo", "k", "s", "na", "vi", "do")
PLACE_ENDS = ("ford", "vale", "mark", "wick", "holm", "burg")
THING_ENDS = ("x", "zor", "bix", "plex", "qua", "dax")
REGION_ENDS = ("land", "shire", "moor", "reach")


def article(noun: str) -> str:
    """The noun with its indefinite article: "a goat", "an owl"."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def plural(noun: str) -> str:
    """The plural of any noun of the closed lists that can be counted."""
    return noun + ("es" if noun.endswith(("x", "s", "ch", "sh")) else "s")


def names(draw: Random, count: int, ends: Collection[str], taken: set[str]) -> tuple[str, ...]:
    """`count` new names that end like their kind; they are added to `taken`, and no two differ only in case."""
    found: list[str] = []
    endings = tuple(ends)
    syllables = 1
    misses = 0
    while len(found) < count:
        stem = "".join(draw.choice(ONSETS) + draw.choice(VOWELS) for _ in range(syllables))
        name = (stem + draw.choice(endings)).capitalize()
        if name.lower() in taken or len(name) < 4:
            misses += 1
            syllables += misses % 50 == 0  # the short names are nearly used up: go one syllable longer
            continue
        taken.add(name.lower())
        found.append(name)
    return tuple(found)


def every_word() -> frozenset[str]:
    """All closed words in lower case: no invented name may equal one."""
    verbs = [form for pair in VERBS for form in pair]
    return frozenset([*verbs, *(word for words in CLASSES.values() for word in words), *CLASSES])
