"""The script for datatrove: valid Python, our words and our numbers, whatever the paths are called."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from camelid.data.duplicates import MINIMA, MISSED, RUN, band_rows
from camelid.data.handover import dedup_script, filter_script
from camelid.data.shingles import words


def told(script: str) -> dict[str, object]:
    """The constants of a script, by its syntax tree."""
    found: dict[str, object] = {}
    for node in ast.parse(script).body:
        if isinstance(node, ast.Assign) and isinstance(target := node.targets[0], ast.Name):
            if isinstance(node.value, ast.Constant):
                found[target.id] = node.value.value
        elif isinstance(node, ast.Assign) and isinstance(target, ast.Tuple):
            found |= {name.id: v for name, v in zip(target.elts, ast.literal_eval(node.value), strict=True)}  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("similarity", [0.5, 0.8, 0.95, 1.0])
def test_the_numbers_are_ours(similarity: float) -> None:
    found = told(dedup_script("in", "a.jsonl", "out", parquet=False, similarity=similarity))
    assert found["RUN"] == RUN == 5 and found["HASHES"] == band_rows(similarity)
    assert found["BUCKETS"] == MINIMA // band_rows(similarity)
    assert (1 - similarity ** found["HASHES"]) ** found["BUCKETS"] <= MISSED  # type: ignore[operator]


@pytest.mark.parametrize("name", ['a"b', "a'b", 'a"""b', "a\\nb", "a\nb", "{out}", "\u202eab", '"""\nimport os\n"""'])
def test_no_name_of_a_file_becomes_code(name: str) -> None:
    script = dedup_script(f"/x/{name}", name, f"/y/{name}", parquet=True, run=7)
    found = told(script)
    assert (found["SOURCE"], found["FILES"], found["OUT"], found["RUN"]) == (f"/x/{name}", name, f"/y/{name}", 7)
    plain = ast.parse(dedup_script("x", "y", "z", parquet=True, run=7))
    assert [type(node) for node in ast.parse(script).body] == [type(node) for node in plain.body]


def test_the_rules_are_ours_and_no_name_becomes_code() -> None:
    plain = ast.parse(filter_script("x", "y", "z", parquet=True))
    for name in ('a"b', "a\nb", "{out}", '"""\nimport os\n"""'):
        script = filter_script(f"/x/{name}", name, f"/y/{name}", parquet=True)
        assert [type(node) for node in ast.parse(script).body] == [type(node) for node in plain.body]
        assert told(script)["OUT"] == f"/y/{name}"
    numbers = {k.arg: k.value.value for n in ast.walk(plain) if isinstance(n, ast.Call) for k in n.keywords
               if isinstance(k.value, ast.Constant)}  # fmt: skip
    assert (numbers["min_doc_words"], numbers["max_doc_words"], numbers["min_stop_words"]) == (50, 100_000, 2)


def test_its_words_are_ours() -> None:
    text = "Straße, naïve—O'Neil 3.14\tsnake_case ΣΑΣ"
    (tokenizer,) = (
        n for n in ast.parse(dedup_script("x", "y", "z", parquet=False)).body if isinstance(n, ast.ClassDef)
    )
    source = "import re\nclass WordTokenizer: pass\n" + ast.unparse(tokenizer)
    code = f"{source}\nprint(ascii(Words().word_tokenize({text!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ast.literal_eval(done.stdout) == words(text)


def test_the_command_writes_it_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from camelid.cli import main

    (tmp_path / "a.jsonl").write_text('{"text": "One."}\n')
    ask = ["data", "dedup", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "kept")]
    assert main([*ask, "--datatrove", str(tmp_path / "job.py"), "--similarity", "0.9"]) == 0
    found = told((tmp_path / "job.py").read_text())
    assert (found["SOURCE"], found["FILES"]) == (str(tmp_path), "a.jsonl") and found["HASHES"] == band_rows(0.9)
    assert not (tmp_path / "kept").exists() and str(tmp_path / "job.py") in capsys.readouterr().out
    assert main([*ask, "--datatrove", str(tmp_path / "job.py")]) == 2, "a file that is there stays as it is"
    assert main([*ask, "--datatrove", str(tmp_path / "b.py"), "--exact"]) == 2
