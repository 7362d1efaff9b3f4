from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from camelid.data.corpus import Corpus, render_all
from camelid.data.inspect import coloured, counts, plain, printable, sample
from camelid.dialogue.message import Message
from tests.conftest import size
from tests.data.stand_ins import ASK, ByteTokenizer, corpora, corpus, numbered


def shown(asked: str, answer: str) -> tuple:
    chat = [[Message("user", asked), Message("assistant", answer)]]
    made, _ = render_all(chat, ASK, ByteTokenizer(), length=99, over_length="stop")
    return sample(made, 0, ByteTokenizer())


def test_marks_stand_around_exactly_what_is_learned() -> None:
    assert plain(shown("Hi?", "Ho!")) == "<s>Q: Hi?⏎\nA:⟦Ho!</s>⟧"


def test_colours_say_what_marks_say() -> None:
    text = coloured(shown("Hi?", "Ho!"))
    assert text.plain == "<s>Q: Hi?⏎\nA:Ho!</s>"
    styles = [(text.plain[span.start : span.end], str(span.style)) for span in text.spans]
    assert styles[0] == ("<s>", "dim reverse") and styles[-1] == ("</s>", "bold green reverse")
    assert "".join(piece for piece, style in styles if "green" in style) == "Ho!</s>"


def test_data_cannot_write_to_the_terminal() -> None:
    hostile = "\x1b[2J\x1b]0;title\x07 \r\b \u202e \x9b31m"
    assert not set(printable(hostile)) & set("\x1b\x07\r\b\u202e\x9b")
    assert "\\x1b[2J" in plain(shown(hostile, "ok"))
    console = Console(force_terminal=True, color_system=None, width=200)
    with console.capture() as capture:
        console.print(coloured(shown(hostile, "ok [red]no markup[/red]")))
    assert "\x1b[2J" not in capture.get() and "\x07" not in capture.get()
    assert "[red]no markup[/red]" in capture.get()


def test_a_first_token_counts_as_context_whatever_its_mark() -> None:
    made = corpus([[65, 66, 67]])
    assert plain(sample(made, 0, ByteTokenizer())) == "A⟦BC⟧"


@settings(max_examples=size(60), deadline=None)
@given(corpora(longest=300, shortest=0), st.integers(1, 15))
def test_the_histogram_counts_every_sequence_in_the_bin_of_its_length(data: Corpus, bins: int) -> None:
    found = counts(data, bins=bins)
    assert len(found.histogram) <= bins
    lengths = np.diff(data.starts)
    for low, high, count in found.histogram:
        assert count == np.count_nonzero((lengths >= low) & (lengths <= high))
    assert sum(count for _, _, count in found.histogram) == found.sequences == len(data)
    assert (found.shortest, found.longest) == (lengths.min(), lengths.max())
    assert found.share == data.supervised / data.tokens


def test_an_empty_corpus_has_counts_too() -> None:
    assert counts(numbered([])).histogram == () and counts(numbered([])).share == 0.0
