"""The desk world: a small generated world with exact ground truth, in which every member's claim is tried.

w = world("small", seed=0)
for document in sources(w)["Wikipedia"].documents(bytes=10_000): ...
for item in instructions(w, "held_out"): grade(item, answer)
"""

from camelid.desk.document import Document
from camelid.desk.grade import grade
from camelid.desk.instructions import Item, instructions
from camelid.desk.sources import Source, documents, sources
from camelid.desk.world import SIZES, Fact, Size, World, world

__all__ = [
    "SIZES",
    "Document",
    "Fact",
    "Item",
    "Size",
    "Source",
    "World",
    "documents",
    "grade",
    "instructions",
    "sources",
    "world",
]
