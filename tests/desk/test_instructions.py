"""Instructions: what is held out is held out, in every sense that is promised."""

import sys
from collections import Counter

import pytest

from camelid import desk
from camelid.desk.instructions import TASKS
from camelid.desk.phrases import canonical
from camelid.desk.wordings import KEPT_BACK, TUNING
from camelid.desk.world import RELATIONS
from camelid.errors import UsageError

FACTS = {relation for relations in RELATIONS.values() for relation in relations}
SPLITS = ("train", "held_out", "held_out_wording")


@pytest.fixture(scope="module", params=[("small", 0), ("small", 1), ("medium", 0)], ids=str)
def world(request):
    return desk.world(*request.param)


@pytest.fixture(scope="module")
def items(world):
    return {split: desk.instructions(world, split) for split in SPLITS}


def asked(items):
    return {(item.instruction, item.input) for item in items}


def test_each_split_is_as_large_as_the_world_says_without_repeats(world, items):
    assert len(items["train"]) == world.size.train_items
    assert len(items["held_out"]) == world.size.held_out_items
    for found in items.values():
        assert len(asked(found)) == len(found)
        assert set(TASKS) == {item.task for item in found}
    for split, least in (("train", 0.35), ("held_out", 0.35), ("held_out_wording", 0.2)):
        assert least <= sum(bool(item.input) for item in items[split]) / len(items[split]) <= 0.5


def test_no_test_question_occurs_in_tuning_whatever_the_seed(world, items):
    test = asked(items["held_out"]) | asked(items["held_out_wording"])
    for seed in range(3):
        assert not test & asked(desk.instructions(world, "train", seed=seed))


def test_reserved_people_and_things_occur_nowhere_in_tuning(world, items):
    hidden = {name for name in world.reserved if world.kind_of[name] != "place"}
    assert hidden
    for item in items["train"]:
        words = f"{item.instruction} {item.input} {item.output} {' '.join(item.accepted)}"
        assert not hidden & {word.strip(".,?:") for word in words.split()}, item
        assert item.subject not in world.reserved, item


def test_held_out_facts_are_about_reserved_subjects_only(world, items):
    for split in SPLITS[1:]:
        facts = [item for item in items[split] if item.task in FACTS]
        assert len(facts) > 50
        assert all(item.subject in world.reserved for item in facts)


def test_held_out_inputs_of_other_tasks_do_not_occur_in_tuning(world, items):
    for task in set(TASKS) - FACTS - {"plus", "minus", "more", "count", "list"}:
        inputs = {split: {item.input for item in items[split] if item.task == task} for split in SPLITS}
        assert inputs["held_out"] and not inputs["train"] & (inputs["held_out"] | inputs["held_out_wording"]), task
    for task in ("plus", "minus", "more", "count"):
        answers = {split: {item.output for item in items[split] if item.task == task} for split in SPLITS}
        assert answers["held_out"] and not answers["train"] & (answers["held_out"] | answers["held_out_wording"]), task


def test_kept_back_wordings_occur_in_no_other_split(items):
    def wording(item, forms):
        return any(item.instruction.startswith(form.split("{")[0]) and len(form.split("{")[0]) > 3 for form in forms)

    for item in items["train"] + items["held_out"]:
        assert not wording(item, [form for form in KEPT_BACK[item.task] if form.startswith("Please")])
    for item in items["held_out_wording"]:
        assert item.instruction not in {form for form in TUNING[item.task] if "{" not in form}


def test_reference_answers_are_what_the_world_says(world, items):
    true = {(fact.subject, fact.relation): canonical(fact) for fact in world.facts}
    for found in items.values():
        for item in found:
            if item.task in FACTS:
                assert item.output == true[item.subject, item.task]
            elif item.task in ("plus", "minus"):
                left, sign, right, _, result = item.output.removesuffix(".").split()
                assert int(left) + int(right) * {"plus": 1, "minus": -1}[sign] == int(result)
            elif item.task == "more":
                assert int(item.output.split()[0]) > int(item.output.removesuffix(".").split()[-1])
            elif item.task == "reverse":
                assert item.output.removesuffix(".").split()[2:] == item.input.split()[:0:-1]
            elif item.task == "extract":
                assert item.output in item.input


def test_the_order_is_fixed_by_the_seed(world):
    assert desk.instructions(world, "train", 50, seed=4) == desk.instructions(world, "train", 50, seed=4)
    assert desk.instructions(world, "train", 50, seed=4) != desk.instructions(world, "train", 50, seed=5)
    assert desk.instructions(world, "train", 50, seed=4) == desk.instructions(world, "train", 80, seed=4)[:50]


def test_families_have_their_weight(world, items):
    counts = Counter(item.family for item in items["train"])
    assert set(counts) == {family for family, _, _ in TASKS.values()}
    assert min(counts.values()) >= 0.02 * len(items["train"])


def test_what_cannot_be_given_is_refused_in_words(monkeypatch):
    tiny = desk.world("tiny")
    with pytest.raises(UsageError, match="did you mean 'held_out'"):
        desk.instructions(tiny, "heldout")
    with pytest.raises(UsageError, match="ask for one or more"):
        desk.instructions(tiny, "train", 0)
    monkeypatch.setattr(sys.modules["camelid.desk.instructions"], "TASKS", {"minus": TASKS["minus"]})
    with pytest.raises(UsageError, match=r"500 asked for, the tiny world holds about \d+ of held_out"):
        desk.instructions(tiny, "held_out", 500)
