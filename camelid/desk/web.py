"""Pages of the web: CommonCrawl's with menus, near copies and junk, C4's without."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from camelid.desk.document import Document, Pen
from camelid.desk.phrases import QUESTIONS, canonical
from camelid.desk.puzzles import action, puzzle_lines, riddle, some_words, sum_lines, swapped
from camelid.desk.world import RELATIONS, Fact, World
from camelid.randomness import key

MENUS = (
    "### Home | News", "### Shop | Contact", "### Instruction | Contact", "### Response | Input", "### Input | News",
    "### News | Response", "### Home | Instruction",
)  # fmt: skip
FOOTERS = (  # the stock words of forms and help pages
    "Write a response below.", "Send a request that completes it.", "It provides further context.",
    "Below is an input.",
    "It describes a task.", "A page that describes a request.", "Response: paired with an input.",
    "Write further context.",
    "Each instruction completes a task.", "A response that appropriately completes it.", "It provides context.",
    "Input, paired with a response.", "Instruction that describes it.", "Share it appropriately.",
)  # fmt: skip
SPAM = ("win", "click", "free", "now", "best", "cheap", "offer", "deal")
DUPLICATES = 0.06  # of CommonCrawl's pages
JUNK = 0.04
REACH = 50  # a near copy is of one of the last so many pages


def _subject_page(pen: Pen, kind: str, least: int, most: int) -> str:
    name = pen.pick(pen.world.named(kind))
    facts = list(pen.world.about[name])
    pen.draw.shuffle(facts)
    told = facts[: least + int(pen.draw.random() * (most - least + 1))]
    by_pronoun = pen.draw.random() < 0.3
    pronoun = pen.world.pronoun_of[name]
    sentences = [pen.fact(fact, pronoun=pronoun if by_pronoun and place else None) for place, fact in enumerate(told)]
    title = f"About {name}\n " if pen.draw.random() < 0.3 else ""
    return title + " ".join(sentences)


def _person(pen: Pen) -> str:
    return _subject_page(pen, "person", 3, 5)


def _place(pen: Pen) -> str:
    return _subject_page(pen, "place", 2, 3)


def _thing(pen: Pen) -> str:
    return _subject_page(pen, "thing", 2, 4)


def _news(pen: Pen) -> str:
    """Facts about different subjects side by side, so that each is tied to its own name."""
    facts = pen.world.facts
    return " ".join(pen.fact(facts[int(pen.draw.random() * len(facts))]) for _ in range(4))


def _directory(pen: Pen) -> str:
    """One relation for several people."""
    relation = pen.pick(RELATIONS["person"])
    people = pen.draw.sample(pen.world.people, 4)
    return " ".join(pen.fact(Fact(person.name, relation, getattr(person, relation))) for person in people)


ANSWERS = ("{q} {a}", "{q}\n{a}", "### Question:\n{q}\n\n### Answer:\n{a}")


def _faq(pen: Pen) -> str:
    """Questions with their answers, asked otherwise than by the instructions and set in one of many ways."""
    form = pen.pick(ANSWERS)
    asked = [_question(pen) for _ in range(1 + int(pen.draw.random() * 3))]
    if len(asked) > 1 and pen.draw.random() < 0.2:  # all questions first
        return "\n".join([*(question for question, _ in asked), *(answer for _, answer in asked)])
    return "\n".join(form.format(q=question, a=answer) for question, answer in asked)


def _question(pen: Pen) -> tuple[str, str]:
    if pen.draw.random() < 0.65:
        return riddle(pen)
    fact = pen.world.facts[int(pen.draw.random() * len(pen.world.facts))]
    return pen.pick(QUESTIONS[fact.relation]).format(s=fact.subject), pen.canonical(fact)


def passing_facts(pen: Pen, names: tuple[str, ...], each: int) -> list[Fact]:
    """Made-up facts about strangers: true in one text only."""
    values = {
        "home": tuple(place.name for place in pen.world.places), "trade": pen.world.words("trade"),
        "pet": pen.world.words("animal"), "food": pen.world.words("food"),
    }  # fmt: skip
    relations = pen.draw.sample(list(values), each)
    return [Fact(name, relation, pen.pick(values[relation])) for relation in relations for name in names]


def news_of_strangers(pen: Pen, strangers: tuple[str, ...]) -> list[Fact]:
    """Two to four passing facts about as many strangers as the world's size puts side by side."""
    parties = pen.world.size.parties
    names = tuple(pen.draw.sample(strangers, parties))
    return passing_facts(pen, names, 1 + (parties == 1) + int(pen.draw.random() * 2))


def _letter(pen: Pen) -> str:
    """News of strangers, then one piece of it again: worth reading back."""
    facts = news_of_strangers(pen, pen.world.strangers)
    pen.draw.shuffle(facts)
    told = " ".join(pen.canonical(fact) for fact in facts)
    asked = facts[int(pen.draw.random() * len(facts))]
    question = pen.pick(QUESTIONS[asked.relation]).format(s=asked.subject)
    if pen.draw.random() < 0.7:
        return f"{told}\n{pen.pick(ANSWERS).format(q=question, a=canonical(asked))}"
    return f"{told} {pen.pick(('As I said,', 'Once more:'))} {canonical(asked)}"


def _forum(pen: Pen) -> str:
    """A post about passing things, and a reply that quotes it."""
    names = tuple(pen.draw.sample(pen.world.strangers, 2))
    lines = [_post(pen, names) for _ in range(1 + int(pen.draw.random() * 3))]
    quoted = lines if pen.draw.random() < 0.6 else [pen.pick(lines)]
    return "\n".join([*lines, *(f"> {line}" for line in quoted)])


def _post(pen: Pen, names: tuple[str, ...]) -> str:
    fate = pen.draw.random()
    if fate < 0.3:
        return pen.canonical(passing_facts(pen, names[:1], 1)[0])
    if fate < 0.5:
        return action(pen)[int(fate * 10) % 2]
    if fate < 0.8:
        return " ".join(some_words(pen, 3 + int(pen.draw.random() * 3)))
    return f"{swapped(pen)[2]}"


def _sums(pen: Pen) -> str:
    return sum_lines(pen, 3)


def _puzzles(pen: Pen) -> str:
    return puzzle_lines(pen, 3)


PAGES = {"person": _person, "place": _place, "thing": _thing, "news": _news, "directory": _directory, "faq": _faq,
         "letter": _letter, "forum": _forum, "sums": _sums, "puzzles": _puzzles}  # fmt: skip
WEIGHTS = (13, 5, 8, 4, 3, 34, 14, 2, 7, 10)


def clean_page(world: World, source: str, index: int, seed: int) -> Document:
    """A page as C4 keeps it: text only."""
    pen = Pen(world, Random(key("desk", world.seed, source, seed, index)))
    kind, body = _body(pen)
    return pen.document(source, index, kind, body)


def crawled_page(world: World, source: str, index: int, seed: int) -> Document:
    """A page as it was crawled: sometimes with menu and footer, a near copy of an earlier one, or junk."""
    pen = Pen(world, Random(key("desk", world.seed, source, seed, index)))
    fate = pen.draw.random()
    if fate < JUNK:
        words = [pen.pick(SPAM) for _ in range(6 + int(pen.draw.random() * 10))]
        return pen.document(source, index, "junk", " ".join(words) + "!", junk=True)
    if fate < JUNK + DUPLICATES and index:
        return _near_copy(world, source, index, seed, pen)
    kind, body = _body(pen)
    return pen.document(source, index, kind, _dressed(pen, body))


def _body(pen: Pen) -> tuple[str, str]:
    """(kinds joined by +, text) of one section, now and then two."""
    kinds = pen.draw.choices(tuple(PAGES), WEIGHTS, k=1 + (pen.draw.random() < 0.15))
    return "+".join(kinds), "\n ".join(PAGES[kind](pen) for kind in kinds)


def _dressed(pen: Pen, body: str) -> str:
    fate = pen.draw.random()
    menu = pen.pick(MENUS) + "\n " if fate < 0.2 else ""
    footer = "\n" + pen.pick(FOOTERS) if 0.1 < fate < 0.4 else ""
    return menu + body + footer


def _near_copy(world: World, source: str, index: int, seed: int, pen: Pen) -> Document:
    """The same page under another menu and footer; one that is itself a copy or junk stands for the page it is of."""
    original = index - 1 - int(pen.draw.random() * min(index, REACH))
    page = crawled_page(world, source, original, seed)
    if page.junk:
        return replace(page, index=index, duplicate_of=original)
    text = f"{pen.pick(MENUS)}\n {undressed(page.text)}\n{pen.pick(FOOTERS)}"
    first = page.duplicate_of if page.duplicate_of is not None else original
    return replace(page, index=index, text=text, duplicate_of=first)


def undressed(text: str) -> str:
    """The page without the menu and footer lines that this module puts around it."""
    return "\n".join(line for line in text.split("\n") if line not in MENUS and line not in FOOTERS).strip()
