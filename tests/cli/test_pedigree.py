"""The family page is current, whole, and shows the verdicts of its cards; the web page runs nothing and loads nothing."""

from __future__ import annotations

import os
from html.parser import HTMLParser
from pathlib import Path

import pytest

from camelid.claims import cards
from camelid.cli import main
from camelid.cli.pedigree import page
from camelid.evaluate.claim import Arm, ClaimCard
from camelid.gallery import gallery
from camelid.recipes import MEMBERS

DOCS = Path(__file__).resolve().parents[2] / "docs"


def a_card(word: str = "did not hold", statement: str = "Less is more.") -> ClaimCard:
    arms = (Arm("few", (0.5, 0.6)), Arm("many <b>", (0.7, 0.8)))
    return ClaimCard(
        statement, "43%", "An experiment.", "share", (10, 11), arms[0], arms[1:], word, "why", None, (), "2026-01-01",
        "abc", "a machine",
    )  # fmt: skip


def test_the_pages_in_docs_are_what_the_command_makes() -> None:
    """CAMELID_GOLDEN=write writes them anew."""
    found = cards(DOCS / "cards")
    made = {"family.md": page(found), "family.html": gallery(found)}
    for name, text in made.items():
        if os.environ.get("CAMELID_GOLDEN") == "write":
            (DOCS / name).write_text(text, "utf-8")
        assert (DOCS / name).read_text("utf-8") == text
    for name in MEMBERS:
        assert made["family.md"].count(f"| {name} |") >= 1 and f"`camelid grow {name}`" in made["family.md"]
        assert f'id="{name}"' in made["family.html"]


def test_a_page_is_written_into_a_folder_that_is_there_and_into_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["family", "--page", str(tmp_path / "new" / "family.html"), "--store", str(tmp_path)]) == 2
    assert main(["family", "--page", str(tmp_path), "--store", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "new; make it first, or name another" in told and "is a folder; name a file in it" in told
    assert not list(tmp_path.iterdir())


def test_a_verdict_is_shown_and_its_absence_is_said() -> None:
    rows = {line.split(" | ")[0]: line for line in page({"lima": a_card()}).splitlines() if line.startswith("| ")}
    assert "did not hold (2026-01-01, 2 seeds)" in rows["| lima"]
    assert "| not run |" in rows["| belle"]


def test_the_web_page_shows_every_card_and_holds_neither_script_nor_address() -> None:
    text = gallery({"lima": a_card(statement="<script>alert(1)</script>"), "vicuna": a_card("held")})
    seen: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.append(tag)
            links = [value for name, value in attrs if name in ("src", "href", "action") and value]
            assert all(link.startswith("#") for link in links)
            assert not any(name.startswith("on") for name, _ in attrs)

    Reader().feed(text)
    assert "script" not in seen and "&lt;script&gt;" in text and "many &lt;b&gt;" in text
    assert text.count("<circle") == 8 and "1 held, 1 did not hold" in text


def test_a_folder_that_is_none_is_refused(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert main(["family", "--cards", str(tmp_path / "nowhere")]) == 2
    assert "--cards" in capsys.readouterr().err
