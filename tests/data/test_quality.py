"""Rules by which texts are left out: each breaks just beyond its number, and datatrove's are the same."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from camelid.cli import main
from camelid.data.duplicates import near
from camelid.data.handover import dedup_script, filter_script
from camelid.data.quality import code, filtered, prose

GOOD = "The camel and the driver walk to the well that the people of the town have dug with care. " * 4


@pytest.mark.parametrize(
    ("build", "most", "rule"),
    [  # `build(n)` is fine up to n = most, and breaks the rule one beyond
        (lambda n: " ".join(["the water to"] * 30 + ["camel"] * (99_910 + n)), 0, "more than 100,000 words"),
        (lambda n: " ".join(["the to", *["wonderful"] * (48 - n)]), 0, "fewer than 50 words"),
        (lambda n: " ".join(["the", "to", *["abcdefghijk"] * (115 + n), *["a"] * 14]), 26, "words of more than 10"),
        (lambda n: " ".join(["the", "to", *["abc"] * 100, *["a"] * n, *["abcd"] * 9]), 4, "words of fewer than 3"),
        (lambda n: GOOD + "#" * n, 7, "more than one hash sign"),
        (lambda n: GOOD + "… " * n + "end", 7, "more than one ellipsis"),
        (lambda n: "\n".join([*[f"- {GOOD}"] * n, *[GOOD] * 2]), 18, "begin with a bullet"),
        (lambda n: "\n".join([*[f"{GOOD}..."] * n, *[GOOD] * 7]), 3, "end with an ellipsis"),
        (lambda n: " ".join(["the to", *["camel"] * 78, *["2023"] * n]), 20, "fewer than 80% of words hold a letter"),
        (lambda n: " ".join(["Have", *["WITH"] * (1 - n), *["camel"] * 60]), 0, "fewer than 2 of the words"),
    ],
)  # fmt: skip
def test_a_rule_of_prose_breaks_just_beyond_its_number(build: Callable[[int], str], most: int, rule: str) -> None:
    assert prose(build(most)) is None
    assert rule in str(prose(build(most + 1)))


def test_rules_of_code_break_just_beyond_their_numbers() -> None:
    assert code("x" * 1000 + "\n" * 10) is None and "more than 1,000" in str(code("x" * 1001 + "\n" * 19))
    assert code("x" * 200 + "\n\n") is None and "on average" in str(code("x" * 201 + "\n\n"))
    assert code("a" + "+++") is None and "letters or digits" in str(code("a" + "++++"))
    assert code("") == "no line at all"


def texts(count: int) -> list[str]:
    """Lines of words, signs and numbers of every kind, some of which break some rule."""
    draw, found = random.Random(7), []
    common = ["the", "of", "and", "to", "water", "camel", "driver", "people", "wonderful"]
    odd = ["#", "…", "...", "- ", "• ", "12", "3.5", "a", "I", "counterrevolutionaries", "__", "naïve", "O'Neil", "BE"]
    for _ in range(count):
        spice, lines = draw.choice([0.0, 0.05, 0.2, 0.6]), []
        for _ in range(draw.randint(1, 12)):
            parts = [draw.choice(odd if draw.random() < spice else common) for _ in range(draw.randint(0, 25))]
            head, tail = draw.choice(["", "", "- ", "• "]), draw.choice(["", "", "", "..."])
            lines.append(head + " ".join(parts) + tail)
        found.append("\n".join(lines))
    return found


def test_all_are_kept_or_told_and_the_command_writes_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [*texts(40), GOOD]
    found = filtered(rows, "prose")
    assert sorted([*found.kept, *(broken.text for broken in found.removed)]) == list(range(41)) and 40 in found.kept
    path, out = tmp_path / "rows.jsonl", tmp_path / "kept.jsonl"
    path.write_text("".join(json.dumps({"text": text, "id": n}) + "\n" for n, text in enumerate(rows)))
    assert main(["data", "filter", str(path), "--out", str(out), "--rules", "prose"]) == 0
    said = capsys.readouterr().out
    assert f"{len(found.kept)} of 41 texts kept" in said and "removed: fewer than 50 words" in said
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == list(found.kept)
    removed = [json.loads(line) for line in (tmp_path / "kept.jsonl.removed.jsonl").read_text().splitlines()]
    assert [(each["row"] - 1, each["rule"]) for each in removed] == [(b.text, b.rule) for b in found.removed]
    assert main(["data", "filter", str(path), "--out", str(out)]) == 2
    told = capsys.readouterr().err
    assert "--rules: is missing; say prose or code" in told and "exists" in told


def kept_by_datatrove(script: str, folder: Path) -> list[int]:
    """Which texts a script leaves, by the number that each carries."""
    pytest.importorskip("datatrove.pipeline.dedup", reason="the extra datatrove is absent")
    (folder / "job.py").write_text(script)
    done = subprocess.run([sys.executable, "job.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for file in sorted((folder / "out" / "kept").glob("*")) for line in file.read_text().splitlines()]
    return sorted(json.loads(line)["metadata"]["number"] for line in lines)


def laid(rows: list[str], folder: Path) -> Path:
    lines = (json.dumps({"text": text, "id": str(n), "number": n}) + "\n" for n, text in enumerate(rows))
    (folder / "rows.jsonl").write_text("".join(lines))
    return folder


def test_datatrove_keeps_the_same_texts_by_the_rules_of_prose(tmp_path: Path) -> None:
    rows = texts(300)
    script = filter_script(str(laid(rows, tmp_path)), "rows.jsonl", str(tmp_path / "out"), parquet=False)
    found = filtered(rows, "prose")
    assert kept_by_datatrove(script, tmp_path) == list(found.kept)
    assert len({broken.rule for broken in found.removed}) >= 6 and len(found.kept) > 30


def test_datatrove_removes_the_same_repetitions(tmp_path: Path) -> None:
    draw = random.Random(5)
    rows = [" ".join(f"w{draw.randrange(4000)}" for _ in range(120)) for _ in range(150)]
    for number in range(40):
        parts = rows[number].split()
        parts[60] = "changed"
        rows.append(" ".join(parts))
    script = dedup_script(str(laid(rows, tmp_path)), "rows.jsonl", str(tmp_path / "out"), parquet=False)
    kept = kept_by_datatrove(script, tmp_path)
    assert len(kept) == len(near(rows).kept) == 150
    assert {number % 150 for number in kept} == {number % 150 for number in near(rows).kept}, "of each pair one"
