"""Blends: exact counts, caps, epochs, order; published data that is not here is refused with the remedy."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camelid.errors import UsageError
from camelid.recipe import (
    Blend,
    DeskConversations,
    DeskInstructions,
    DeskTaught,
    Portion,
    Released,
    Table,
    Trees,
    records_of,
)
from camelid.recipes.alpaca import PROMPT as ALPACA
from camelid.recipes.lima import PROMPT as LIMA
from camelid.supply import supplied

DESK = DeskTaught(world="tiny", count=20)


def told(dialogues) -> list[tuple[str, ...]]:
    return [tuple(m.content + m.input for m in dialogue) for dialogue in dialogues]


@settings(max_examples=40, deadline=None)
@given(st.floats(0.1, 3.5), st.none() | st.integers(1, 30), st.integers(1, 3))
def test_a_portion_gives_exactly_what_it_promises(epochs: float, most: int | None, again: int) -> None:
    data = Blend(portions=(Portion(data=DESK, epochs=epochs, most=most), Portion(data=DESK, epochs=again)))
    notes: list[str] = []
    found = told(supplied(data, ALPACA, "tuned", notes))
    each = min(20, most or 20)
    amount = int(epochs) * each + round(epochs % 1 * each)
    counts = Counter(found[:amount])
    assert len(found) == amount + again * 20 and set(Counter(found[amount:]).values()) == {again}
    assert len(counts) == min(each, amount) and max(counts.values(), default=0) - min(counts.values(), default=0) <= 1
    assert bool(notes) == (each < 20)
    assert found == told(supplied(data, ALPACA, "tuned", []))


def test_counts_are_known_before_anything_is_read() -> None:
    data = Blend(
        portions=(
            Portion(data=DESK, epochs=2.0),
            Portion(data=DeskInstructions(world="tiny", count=30), most=10),
            Portion(data=DeskConversations(world="tiny", count=7)),
        )
    )
    assert records_of(data) == 57 == len(supplied(data, ALPACA, "tuned", []))
    assert records_of(Blend(portions=(Portion(data=Table(path="x")),))) is None


def test_an_input_stands_below_its_instruction_where_the_template_has_no_place_for_it() -> None:
    data = DeskInstructions(world="tiny", count=60)
    with_input = [d for d in supplied(data, ALPACA, "tuned", []) if d[0].input]
    flat = {d[0].content for d in supplied(data, LIMA, "tuned", [])}
    assert with_input and all(f"{d[0].content}\n{d[0].input}" in flat for d in with_input)


def test_what_is_not_here_is_refused_and_nonsense_too(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"tuned\.data: HC3 is not part of this package; supply records with --data"):
        supplied(Blend(portions=(Portion(data=Released(name="HC3", rows=1, licence="")),)), ALPACA, "tuned", [])
    for bad in (Portion(data=DESK, epochs=0), Portion(data=DESK, most=0), Portion(data=DESK, epochs=float("inf"))):
        with pytest.raises(UsageError, match="number above zero"):
            supplied(Blend(portions=(bad,)), ALPACA, "tuned", [])


def test_files_and_trees_enter_a_blend(tmp_path: Path, shared: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps({"instruction": f"i{n}", "output": f"o{n}"}) + "\n" for n in range(5)))
    trees = Trees(path=str(shared / "instruct" / "oasst_en_100_trees.jsonl"), best=1)
    notes: list[str] = []
    found = told(
        supplied(Blend(portions=(Portion(data=Table(path=str(path))), Portion(data=trees))), ALPACA, "tuned", notes)
    )
    assert found[:5] == [(f"i{n}", f"o{n}") for n in range(5)] and len(found) > 100
    assert any("lower rank" in note for note in notes)
