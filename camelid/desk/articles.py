"""Wikipedia: one entity an article, complete; some in the second language, some with both side by side."""

from __future__ import annotations

from functools import lru_cache
from random import Random

from camelid.desk.document import Document, Pen
from camelid.desk.language import Language
from camelid.desk.world import World
from camelid.randomness import key


@lru_cache(maxsize=8)
def language(world: World) -> Language:
    """The second language of this world, made once."""
    return Language(world)


def article_page(world: World, source: str, index: int, seed: int) -> Document:
    """An article: every fact of one entity, in one language or both."""
    pen = Pen(world, Random(key("desk", world.seed, source, seed, index)))
    name = pen.pick(list(world.kind_of))
    facts = list(world.about[name])
    fate = pen.draw.random()
    if fate < 0.6:
        pronoun = world.pronoun_of[name]
        told = [pen.fact(fact, pronoun=pronoun if place else None) for place, fact in enumerate(facts)]
        return pen.document(source, index, "article", f"{name}\n\n{' '.join(told)}")
    other = language(world)
    if fate < 0.75:
        pen.facts.extend(facts)
        text = f"{other.name(name)}\n\n{' '.join(other.sentence(fact) for fact in facts)}"
        return pen.document(source, index, "second language", text)
    pairs = tuple((pen.canonical(fact), other.sentence(fact)) for fact in pen.draw.sample(facts, 3))
    text = "\n".join(f"{ours} = {theirs}" for ours, theirs in pairs)
    return pen.document(source, index, "parallel", text, parallel=pairs)
