"""Judges an answer to a desk instruction by program: right or wrong, nothing between."""

from __future__ import annotations

import re
import unicodedata

from camelid.desk.instructions import Item


def grade(item: Item, answer: str) -> bool:
    """Whether the whole answer is right.

    Forgiven: letter case, Unicode compatibility forms, spaces at the ends and repeated inside, full stops and
    exclamation marks at the end, a leading "the" or "answer:". Nothing else: an answer that goes on after the right
    words is wrong, as is one that names two values. For lists any `amount` different members will do, in any order,
    separated by commas, semicolons, "and" or line ends, with or without the reference's opening ("Some animals:").
    Where the item says how an answer ends ("The answer is: 7"), the way there is free, but it says so once.
    """
    if item.ending:
        told, ending = normal(answer), normal(item.ending)
        return told.endswith(ending) and told.count(ending.rpartition(" ")[0]) == 1
    if item.members:
        words = [normal(word) for word in re.split(r",|;|\band\b|\n", _after_lead(item, answer)) if word.strip()]
        known = {normal(member) for member in item.members}
        return len(words) == len(set(words)) == item.amount and set(words) <= known
    found = normal(answer)
    return found in {normal(right) for right in (item.output, *item.accepted)}


def normal(text: str) -> str:
    """The text as grading compares it."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    plain = plain.rstrip(".!").rstrip()
    return plain.removeprefix("answer:").strip().removeprefix("the ")


def _after_lead(item: Item, answer: str) -> str:
    """The listed words: what follows the reference's own opening ("Some animals:"), where the answer has it."""
    spaced = re.sub(r"[^\S\n]+", " ", answer.strip())
    text = re.sub(r"^answer:\s*", "", spaced, flags=re.IGNORECASE)
    lead = item.output.partition(":")[0] + ":"
    return text[len(lead) :] if text.casefold().startswith(lead.casefold()) else text
