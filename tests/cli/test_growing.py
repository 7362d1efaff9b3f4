"""What --start and --data make of a recipe of several stages, and which parents are refused, before anything runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from camelid.checkpoints import directory
from camelid.cli import main
from camelid.cli.asked import Asked
from camelid.cli.growing import asked_recipe
from camelid.dialogue.published import VICUNA_1_1
from camelid.models.llama import Llama, initialise
from camelid.models.shape import LlamaShape
from camelid.plan.plan import shape_of
from camelid.recipe import (
    Blend,
    ExtendTokenizer,
    Fields,
    Finetune,
    Folder,
    Merge,
    Portion,
    Pretrain,
    Recipe,
    Share,
    Shares,
    Table,
)
from camelid.recipes import MEMBERS
from camelid.request import Request
from camelid.tokenizers import byte_bpe, sentencepiece
from tests.tokenizers.conftest import TALE

SHAPE = LlamaShape(layers=1, width=16, heads=2, kv_heads=1, head_width=8, hidden=24, vocab=420, context=64)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base with LLaMA's kind of vocabulary, one with Llama 3's, and one that was tuned in a template."""
    root = tmp_path_factory.mktemp("parents")
    pieces, ranks = sentencepiece.train([TALE * 20], vocab=420), byte_bpe.train([TALE * 20], vocab=420)
    for name, tokenizer, template in (("base", pieces, None), ("ranks", ranks, None), ("chat", pieces, VICUNA_1_1)):
        model = Llama(replace(SHAPE, vocab=tokenizer.size))
        initialise(model, 0)
        directory.save(root / name, model.state_dict(), shape=model.shape, tokenizer=tokenizer, template=template)
    return {path.name: path for path in root.iterdir()}


def asked(member: str, start: Path, size: str = "7B", **more: object) -> tuple[Recipe | None, str]:
    found = Asked()
    recipe = asked_recipe(found, Request(member, size, start=str(start), **more))  # type: ignore[arg-type]
    return recipe, "\n".join(map(str, found.problems.problems))


def test_a_folder_takes_the_parents_place_in_every_stage(folders: dict[str, Path], tmp_path: Path) -> None:
    texts, records = tmp_path / "texts.txt", tmp_path / "records.json"
    texts.write_text("One.\n")
    records.write_text("[]")
    recipe, problems = asked("gogpt", folders["base"], texts=(f"read={texts}", f"pieces={texts}"), data=str(records))
    assert recipe and not problems
    pieces, read, tuned = recipe.stages
    assert isinstance(pieces, ExtendTokenizer) and isinstance(read, Pretrain) and isinstance(tuned, Finetune)
    assert isinstance(pieces.start, Folder) and read.start == pieces.start and tuned.start == read
    assert read.tokenizer == pieces and read.shape == replace(SHAPE, vocab=68_420), "widened as the recipe widens"
    assert all(isinstance(stage.data, Table) for stage in (pieces, read, tuned)) and recipe.parent == read.start


def test_what_a_recipe_of_several_stages_needs_is_told_stage_by_stage(folders: dict[str, Path]) -> None:
    _, problems = asked("gogpt", folders["base"], texts=("raed=x",))
    for part in ("--data pieces=FILE", "--data read=FILE", "--data: GoGPT2 7B needs 1,200,000", "did you mean 'read'?"):
        assert part in problems


def test_several_files_of_a_stage_are_all_taken_by_shares_or_by_times(folders: dict[str, Path], tmp_path: Path) -> None:
    wiki, books, records, more = (tmp_path / name for name in ("wiki.jsonl", "books.jsonl", "a.json", "50%:b.json"))
    for path in (wiki, books, records, more):
        path.write_text('{"text": "One."}\n')
    texts = (f"pieces={wiki}", f"read=70%:{wiki}", f"read=30%:{books}", f"2.5x:{records}", str(more))
    recipe, problems = asked("gogpt", folders["base"], texts=texts)
    assert recipe and not problems
    pieces, read, tuned = recipe.stages
    assert isinstance(pieces, ExtendTokenizer) and isinstance(read, Pretrain) and isinstance(tuned, Finetune)
    assert pieces.data == Table(str(wiki))
    assert read.data == Shares((Share(Table(str(wiki)), 70.0), Share(Table(str(books)), 30.0)))
    assert tuned.data == Blend((Portion(Table(str(records)), 2.5), Portion(Table(str(more)))))
    settled = Request("gogpt", "7B", str(folders["base"]), texts=texts).settled(recipe)
    assert asked("gogpt", folders["base"], texts=settled.texts) == (recipe, "")


def test_several_files_without_a_share_are_refused_not_dropped(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "texts.jsonl").write_text('{"text": "One."}\n')
    one, two = (str(tmp_path / name / "texts.jsonl") for name in ("one", "two"))
    words = ["grow", "llama", "--size", "tiny", "--store", str(tmp_path / "store")]
    assert main([*words, "--data", one, "--data", two]) == 2
    told = capsys.readouterr().err
    assert f"of 2 files for pretrained, {one}, {two} has no share in percent" in told and f"--data 50%:{one}" in told
    assert "2 files are called texts.jsonl" in told
    assert main([*words, "--data", f"60%:{one}", "--data", f"30%:{two}"]) == 2
    assert "the shares add up to 90%" in capsys.readouterr().err
    _, problems = asked("alpaca", folders["base"], texts=(f"50%:{one}", f"50%:{two}"))
    assert "dialogues are not drawn by shares; say how often: 2x:" in problems


def test_both_models_of_a_merge_take_their_own_records(folders: dict[str, Path], tmp_path: Path) -> None:
    paths = [tmp_path / "own.json", tmp_path / "partner.json"]
    for path in paths:
        path.write_text("[]")
    base = folders["base"]
    recipe, problems = asked(
        "platypus+merged",
        base,
        data=str(paths[0]),
        texts=(f"partner={paths[1]}",),
        settings=("merged.shares=0.5,0.25",),
    )
    assert "merged.shares: 0.5 + 0.25 = 0.75; let them add up to 1, or name the parent" in problems
    for wrong, told in (
        ("merged.shares=0.5", "cannot read '0.5'; expected 2 items with commas between them, each a number"),
        ("merged.shares.1=0.5", "is one of a row; set the whole row: merged.shares=0.5,0.5"),
        ("merged.shares=nan,1", "cannot read 'nan,1'"),
    ):
        assert told in asked("platypus+merged", base, settings=(wrong,))[1]
    recipe, problems = asked("platypus+merged", base, data=str(paths[0]), texts=(f"partner={paths[1]}",))
    assert recipe and not problems
    partner, adapted, merged = recipe.stages
    assert isinstance(partner, Finetune) and isinstance(adapted, Finetune) and isinstance(merged, Merge)
    assert (adapted.data, partner.data) == tuple(Table(path=str(path)) for path in paths)
    assert (merged.start, merged.partner) == (adapted, partner) and recipe.parent == adapted.start == partner.start
    _, problems = asked("platypus+merged", base)
    assert "--data: GPlatty 7B needs 24,926 records" in problems and "--data partner=FILE: GPlatty 7B needs" in problems


def test_a_parent_of_another_line_or_template_is_refused(folders: dict[str, Path]) -> None:
    assert (
        "byte-level vocabulary, as Llama 3's; Llama 2 7B has a SentencePiece" in asked("metamath", folders["ranks"])[1]
    )
    assert "byte-level" in asked("llama-3.1", folders["base"], "8B")[1]
    assert "talks in another template than Alpaca 13B" in asked("gpt4-x-alpaca", folders["chat"], "13B")[1]
    assert "template" not in asked("metamath", folders["base"])[1]


def test_a_parent_whose_vocabulary_was_extended_already_is_refused_before_any_work(folders: dict[str, Path]) -> None:
    base = folders["base"]
    assert f"--start {base}: its vocabulary has 420 ids, OpenBuddy tiny extends" in asked("openbuddy", base, "tiny")[1]
    assert not asked("openbuddy", base, "tiny", settings=("characters.vocab=440",))[1]


def test_a_parent_of_another_published_size_is_refused_unless_it_is_meant_and_gives_the_size_that_was_not_named(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = shape_of(MEMBERS["alpaca"].make("desk").last)  # type: ignore[arg-type]
    pieces = directory.load(folders["base"]).tokenizer
    model = Llama(replace(shape, vocab=pieces.size))
    initialise(model, 0)
    path = directory.save(tmp_path / "desk", model.state_dict(), shape=model.shape, tokenizer=pieces)
    problems = asked("alpaca", path, "13B")[1]
    assert "has the shape of the parent that alpaca has at desk, not at 13B" in problems
    assert "use --size desk, which has its settings, or --other-size where 13B's are meant" in problems
    assert "shape" not in asked("alpaca", path, "13B", other_size=True)[1]
    assert "shape" not in asked("alpaca", path, "desk")[1] + asked("alpaca", folders["base"], "13B")[1]
    assert "shape" not in capsys.readouterr().err
    recipe, problems = asked("alpaca", path, "")
    assert recipe and recipe.title == "Alpaca desk" and not problems
    assert "alpaca has at desk: grown with the settings of --size desk" in " ".join(capsys.readouterr().err.split())
    recipe, _ = asked("alpaca", folders["base"], "")
    assert recipe and recipe.title == "Alpaca 7B"


def test_columns_of_any_names_are_read_once_they_are_named(folders: dict[str, Path], tmp_path: Path) -> None:
    records = tmp_path / "records.json"
    records.write_text("[]")
    named = ("tuned.fields.instruction=question", "tuned.fields.output=answer")
    recipe, problems = asked("alpaca", folders["base"], data=str(records), settings=named)
    assert recipe and not problems and isinstance(recipe.last, Finetune)
    assert recipe.last.fields == Fields(instruction="question", output="answer")
    _, problems = asked("alpaca", folders["base"], data=str(records), settings=named[:1])
    assert "--set tuned.fields: columns question; name those of instruction and output both" in problems
    _, problems = asked("alpaca", folders["base"], data=str(records), settings=("tuned.fields.answer=x",))
    assert "Fields has no setting 'answer'" in problems


def test_what_a_stage_refuses_while_it_runs_is_told_by_the_setting_s_whole_name(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = tmp_path / "records.json"
    records.write_text('[{"instruction": "Name a fruit.", "output": "Pear."}]')
    words = ["grow", "platypus", "--size", "7B", "--start", str(folders["base"]), "--data", str(records)]
    assert main([*words, "--store", str(tmp_path / "store"), "--threads", "1", "--set", "adapted.base=none"]) == 2
    told = capsys.readouterr().err
    assert "--set adapted.schedule.warmup: 100 steps in a run of 1" in told


def test_a_start_that_is_none_is_told_once(tmp_path: Path) -> None:
    problems = asked("alpaca", tmp_path / "nowhere")[1]
    assert problems.count("--start") == 1 and "there is no folder" in problems


def test_of_two_files_of_records_both_are_learned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, rows in (("a", 2), ("b", 3)):
        (tmp_path / f"{name}.jsonl").write_text('{"instruction": "a", "output": "b"}\n' * rows)
    one, other = str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")
    words = ["grow", "alpaca", "--size", "tiny", "--store", str(tmp_path), "--set", "tuned.train=1", "--json"]
    for given, rows in (((one, other), 5), ((f"tuned={one}", f"tuned=2x:{other}"), 8), ((one, f"tuned={other}"), 5)):
        assert main([*words, *(part for word in given for part in ("--data", word))]) == 0
        model = Path(json.loads(capsys.readouterr().out)["model"])
        assert json.loads((model / "camelid.json").read_text())["provenance"]["data"]["rows"] == rows
