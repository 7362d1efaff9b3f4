"""ArXiv: sums and differences worked out step by step."""

from __future__ import annotations

from random import Random

from camelid.desk.document import Document, Pen
from camelid.desk.world import World
from camelid.randomness import key


def derivation(world: World, source: str, index: int, seed: int) -> Document:
    """A note of two to three worked sums; every equation in it is in `sums`."""
    pen = Pen(world, Random(key("desk", world.seed, source, seed, index)))
    worked = [_worked(pen, number) for number in range(1, 3 + int(pen.draw.random() * 2))]
    return pen.document(source, index, "derivation", "\n".join(worked))


def _worked(pen: Pen, number: int) -> str:
    left, sign, right, result = pen.sum()
    if sign == "-":
        pen.sums.append((result, "+", right, left))
        return f"Lemma {number}. {left} - {right} = {result}. Proof. {result} + {right} = {left}."
    step = (10 - left % 10) % 10
    if 0 < step < right:  # bridge the ten
        pen.sums.append((left, "+", step, left + step))
        pen.sums.append((left + step, "+", right - step, result))
        proof = f"{left} + {step} = {left + step} and {left + step} + {right - step} = {result}."
    else:
        pen.sums.append((right, "+", left, result))
        proof = f"{right} + {left} = {result}."
    return f"Lemma {number}. {left} + {right} = {result}. Proof. {proof}"
