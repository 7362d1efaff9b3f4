"""Folders that Hugging Face's datasets saved: every row in order, the same formats, damage and absence told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from camelid.cli.asked import Asked
from camelid.data import saved, source
from camelid.dialogue.message import Message
from camelid.errors import BadData, BadFile, UsageError
from camelid.run import table_digest

datasets = pytest.importorskip("datasets", reason="the extra hf is absent")

ROWS = [{"instruction": f"Say {i}.", "input": "now" if i % 3 else "", "output": f"{i}."} for i in range(700)]


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def kept(folder: Path, rows: list[dict[str, Any]], shards: int = 1) -> Path:
    datasets.Dataset.from_list(rows).save_to_disk(str(folder), num_shards=shards)
    return folder


def test_rows_come_in_their_order_and_number_from_several_files(tmp_path: Path) -> None:
    path = kept(tmp_path / "saved", ROWS, shards=3)
    found = list(source.records(path))
    assert [row.data for row in found] == ROWS and [row.line for row in found] == list(range(1, 701))
    assert [list(told) for told in source.dialogues(path)] == [
        [Message("user", row["instruction"], input=row["input"]), Message("assistant", row["output"])] for row in ROWS
    ]


def test_a_chosen_shuffled_and_formatted_set_is_read_as_it_was_saved(tmp_path: Path) -> None:
    chosen = datasets.Dataset.from_list(ROWS).shuffle(seed=3).select(range(50)).with_format("numpy")
    chosen.save_to_disk(str(tmp_path / "saved"))
    assert [row.data for row in source.records(tmp_path / "saved")] == chosen.with_format(None).to_list()


def test_turns_and_texts_go_through_the_formats_of_files(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "I."}]
    path = kept(tmp_path / "turns", [{"id": "1", "conversations": turns}])
    assert source.recognise(path) == "sharegpt"
    assert [list(told) for told in source.dialogues(path)] == [[Message("user", "Who?"), Message("assistant", "I.")]]
    assert list(source.documents(kept(tmp_path / "texts", [{"text": "One."}, {"text": "Two.\n"}]))) == [
        "One.",
        "Two.\n",
    ]
    with pytest.raises(BadData, match="row 2"):
        list(source.dialogues(kept(tmp_path / "bad", [ROWS[0], {**ROWS[1], "output": None}])))


def test_of_several_splits_one_must_be_named(tmp_path: Path) -> None:
    both = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(ROWS[:5]), "test": datasets.Dataset.from_list(ROWS[5:7])}
    )
    both.save_to_disk(str(tmp_path / "both"))
    asked = Asked()
    asked.records("--data", str(tmp_path / "both"))
    asked.records("--data", str(tmp_path / "both" / "test"))
    (problem,) = asked.problems.problems
    assert "train, test" in problem.found and problem.remedy == f"name one: {tmp_path / 'both' / 'train'}"
    assert [row.data for row in source.records(tmp_path / "both" / "test")] == ROWS[5:7]
    with pytest.raises(UsageError, match="several"):
        list(source.records(tmp_path / "both"))


def test_the_extra_is_named_where_it_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = kept(tmp_path / "saved", ROWS[:2])
    monkeypatch.setattr(saved, "find_spec", lambda name: None)
    asked = Asked()
    asked.records("--data", str(path))
    assert [problem.remedy for problem in asked.problems.problems] == ["pip install camelid[hf]"]


def test_the_digest_follows_the_rows(tmp_path: Path) -> None:
    one, same, other = (kept(tmp_path / name, rows) for name, rows in (("a", ROWS), ("b", ROWS), ("c", ROWS[::-1])))
    assert source.digest(one) == table_digest(one) != source.digest(other)
    assert source.digest(one) == source.digest(same)


def test_a_file_cut_between_two_batches_is_refused_and_not_read_short(tmp_path: Path) -> None:
    import pyarrow

    path = tmp_path / "saved"
    datasets.Dataset.from_list(ROWS).save_to_disk(str(path))
    (file,) = path.glob("*.arrow")
    table = pyarrow.ipc.open_stream(file.read_bytes()).read_all()
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table, max_chunksize=100)
    content = sink.getvalue().to_pybytes()
    file.write_bytes(content)
    assert len(list(source.records(path))) == 700
    file.write_bytes(content[: -len(saved.END)])
    assert pyarrow.ipc.open_stream(file.read_bytes()).read_all().num_rows == 700, "Arrow itself misses nothing"
    with pytest.raises(BadFile, match="it was cut"):
        list(source.records(path))


@pytest.mark.parametrize("name", ["../data-00000-of-00001.arrow", "", None, 7, "absent.arrow"])
def test_a_state_that_names_other_files_is_refused(tmp_path: Path, name: object) -> None:
    path = kept(tmp_path / "saved", ROWS[:2])
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**state, "_data_files": [{"filename": name}]}))
    with pytest.raises(BadFile):
        list(source.records(path))


def test_bytes_that_are_no_arrow_are_a_bad_file(tmp_path: Path) -> None:
    path = kept(tmp_path / "saved", ROWS[:2])
    (file,) = path.glob("*.arrow")
    content = bytearray(file.read_bytes())
    content[8:80] = bytes(72)
    file.write_bytes(content)
    with pytest.raises(BadFile, match="damaged"):
        list(source.records(path))
