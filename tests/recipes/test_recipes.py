"""Every recipe is data, every number has a source, and its text is the golden one."""

from __future__ import annotations

import ast
import importlib.util
import os
from pathlib import Path

import pytest

from camelid.cli import main
from camelid.errors import ProblemList
from camelid.frozen import text
from camelid.recipe import Recipe, reference
from camelid.recipes import MEMBERS, find
from camelid.recipes.sources import read, sources

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
CASES = [(name, size) for name, member in MEMBERS.items() for size in member.sizes]
BRANCHES = (
    ast.For,
    ast.While,
    ast.If,
    ast.IfExp,
    ast.Try,
    ast.With,
    ast.Lambda,
    ast.ListComp,
    ast.DictComp,
    ast.SetComp,
)


def module_text(name: str) -> str:
    found = importlib.util.find_spec(MEMBERS[name].module)
    assert found is not None and found.origin is not None
    return Path(found.origin).read_text()


VARIANTS = [(f"{name}+{variant}", size) for name, m in MEMBERS.items() for variant in m.variants for size in m.sizes]


@pytest.mark.parametrize(("name", "size"), VARIANTS)
def test_a_variant_is_the_member_with_settings_of_its_own_and_says_where_they_come_from(name: str, size: str) -> None:
    problems = ProblemList()
    found = find(name, size, problems)
    assert found is not None and not problems.problems
    member, recipe = found
    plain = MEMBERS[name.partition("+")[0]]
    assert recipe.title != plain.make(size).title and recipe.parent == plain.make(size).parent  # type: ignore[arg-type]
    assert (member.make.__doc__ or "").strip(), "a variant says in a sentence what it is"
    told = sources(member.module, size, member.others)
    assert not [path for path, source in told.items() if source.numeric and not source.words]
    whole = text(recipe, name_of=lambda value: None if value is recipe else reference(value)) + "\n"
    path = GOLDEN / f"{name}-{size}.txt"
    if os.environ.get("CAMELID_GOLDEN") == "write":
        path.write_text(whole)
    assert path.read_text() == whole


@pytest.mark.parametrize("name", MEMBERS)
def test_a_recipe_is_data(name: str) -> None:
    tree = ast.parse(module_text(name))
    wrong = [type(node).__name__ for node in ast.walk(tree) if isinstance(node, BRANCHES)]
    assert not wrong
    docstring = ast.get_docstring(tree) or ""
    for word in ("Paper ", "Parent ", "New "):
        assert f"\n{word}" in docstring, f"{name} does not say its {word.strip()}"


@pytest.mark.parametrize(("name", "size"), CASES)
def test_each_number_says_where_it_comes_from(name: str, size: str) -> None:
    told = sources(MEMBERS[name].module, size)
    unsaid = [path for path, source in told.items() if source.numeric and not source.words]
    assert told and not unsaid, f"no source for {', '.join(unsaid)}"


def test_a_number_without_a_source_is_found() -> None:
    planted = read(
        'def member(size):\n    tuned = Finetune(\n        name="tuned",\n        length=512,\n    )\n', "7B"
    )
    assert planted["tuned.length"].numeric and not planted["tuned.length"].words


@pytest.mark.parametrize(("name", "size"), CASES)
def test_the_text_of_a_recipe_is_the_golden_one(name: str, size: str) -> None:
    """CAMELID_GOLDEN=write writes them anew; the difference is then read by whoever commits it."""
    recipe = MEMBERS[name].make(size)  # type: ignore[arg-type]
    whole = text(recipe, name_of=lambda value: None if value is recipe else reference(value)) + "\n"
    path = GOLDEN / f"{name}-{size}.txt"
    if os.environ.get("CAMELID_GOLDEN") == "write":
        path.write_text(whole)
    assert path.read_text() == whole


@pytest.mark.parametrize("name", MEMBERS)
def test_titles_are_unique_and_lineages_end_at_a_base(name: str) -> None:
    member = MEMBERS[name]
    titles = [member.make(size).title for size in member.sizes]
    assert len(set(titles)) == len(titles)
    oldest = next(iter(member.make("desk").lineage()))
    assert isinstance(oldest, Recipe) and oldest.parent is None


def test_a_misspelt_member_or_size_gets_a_suggestion() -> None:
    problems = ProblemList()
    assert find("alpacca", None, problems) is None and find("alpaca", "14B", problems) is None
    assert "did you mean 'alpaca'?" in str(problems.problems[0]) and "13B" in str(problems.problems[1])
    assert find("meditron+bsae", None, problems) is None and find("alpaca+released", None, problems) is None
    assert "did you mean 'base'?" in str(problems.problems[2]) and "it has none: say alpaca alone" in str(
        problems.problems[3]
    )
    assert find("lora", None, problems) is None and "there are alpaca-lora; camelid tree" in str(problems.problems[4])
    assert find("alpaca", "71B", problems) is None and "there are 7B, 13B, desk, tiny" in str(problems.problems[5])


def test_what_is_taken_from_another_file_has_that_files_words_and_not_a_neighbours(
    capsys: pytest.CaptureFixture[str],
) -> None:
    all, distill = (sources(f"camelid.recipes.{name}", "13B") for name in ("koala_all", "koala"))
    assert all["tuned.prompt.cue"] == distill["tuned.prompt.cue"]
    assert all["tuned.prompt.marks"].words != distill["tuned.prompt.cue"].words
    child, parent = sources("camelid.recipes.llama_3_2", "1B"), sources("camelid.recipes.llama_3", "8B")
    for part in ("kind", "data", "vocab"):
        assert child[f"distilled.tokenizer.{part}"] == parent[f"pieces.{part}"]
    assert main(["show", "alpaca"]) == 0
    assert "    name='instructions',\n" in capsys.readouterr().out, "a name of ours has no source"
