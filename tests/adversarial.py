"""Texts that try to become structure: one generator for every place where untrusted text goes in.

Every special and structural string of the family, cut, nested, in mixed case, joined by invisible characters, written
with look-alikes and split at bytes; and plain hard Unicode. The same seed gives the same texts.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

CONTROL_NAMES = (
    "<s>", "</s>", "<unk>", "<pad>", "[PAD]", "<0x0A>", "<0x00>", "<mask>",
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>",
    "<|finetune_right_pad_id|>", "<|step_id|>", "<|python_tag|>", "<|image|>", "<|reserved_special_token_0|>",
    "<|reserved_special_token_250|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "▁<PRE>", "▁<SUF>", "▁<MID>",
    "▁<EOT>",
)  # fmt: skip
STRUCTURE = (
    "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<<SYS>>\n", "\n<</SYS>>\n\n", " [/INST] ", "USER:", "ASSISTANT:",
    "USER: ", " ASSISTANT:", "### Instruction:", "### Input:", "### Response:", "\n\n### Response:\n", "### Human:",
    "### Assistant:", "###", "Human:", "system\n\n", "assistant\n\n", "Source: ", "Step: 1", "Environment: ipython",
    "{instruction}", "{reply}", "{bos}", "{{", "}}", "{% raw %}", "{{ messages }}", "{#", "bos_token", "▁", "▁▁",
    "▅", "⁇", " ⁇ ",
)  # fmt: skip
INVISIBLE = ("\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u202e", "\u2066", "\u2069", "\0", "\u034f")
ALIKE = str.maketrans(
    "<>|[]/sIN:#aeop_",
    "\uff1c\uff1e\u2223\uff3b\uff3d\u2215\u0455\u0406\uff2e\uff1a\uff03\u0430\u0435\u043e\u0440\u2581",
)
SPACES = (
    " ", "  ", "\n", "\n\n", "\t", "\r\n", "\r", "\x0b", "\x0c", "\x85", "\xa0", "\u2003", "\u2028", "\u3000",
    " \n ",
)  # fmt: skip
WORDS = (
    "Hello", "the", "naïve", "12345", "3.14", "don't", "я", "我想", "한국어", "عربى", "नमस्ते", "👩\u200d👩\u200d👧",
    "🏳️\u200d🌈", "e\u0301", "x_y", "=====", "",
)  # fmt: skip


def texts(seed: int, count: int) -> Iterator[str]:
    """`count` texts that imitate structure."""
    draw = random.Random(seed)
    for _ in range(count):
        yield "".join(_fragment(draw) for _ in range(draw.randint(1, 5)))


def strings(seed: int, count: int, longest: int = 24) -> Iterator[str]:
    """`count` strings of any characters, four kinds in turn: any plane, one script, structure, repetition."""
    draw = random.Random(seed)
    for number in range(count):
        length = draw.randint(0, longest)
        kind = number % 4
        if kind == 0:
            yield "".join(_character(draw) for _ in range(length))
        elif kind == 1:
            base = draw.choice((0x20, 0xA0, 0x400, 0x600, 0x900, 0x4E00, 0x3040, 0x1F600, 0x2500, 0))
            yield "".join(chr(base + draw.randrange(96)) for _ in range(length))
        elif kind == 2:
            yield _fragment(draw) + _fragment(draw)
        else:
            yield draw.choice((*WORDS, *SPACES, "a", "ab", "=", "<", "\0")) * draw.randint(1, 2 * longest)


def _character(draw: random.Random) -> str:
    while True:
        code = draw.randrange(draw.choice((0x80, 0x800, 0x10000, 0x110000)))
        if not 0xD800 <= code < 0xE000:
            return chr(code)


def _fragment(draw: random.Random) -> str:
    kind = draw.randrange(5)
    if kind == 0:
        return draw.choice(WORDS) + draw.choice(SPACES)
    marker = draw.choice(CONTROL_NAMES if draw.random() < 0.6 else STRUCTURE)
    return marker if kind == 1 else draw.choice(_TWISTS)(draw, marker)


def _cut(draw: random.Random, marker: str) -> str:
    place = draw.randint(0, len(marker))
    return draw.choice((marker[:place], marker[place:], marker[:place] + " " + marker[place:]))


def _nested(draw: random.Random, marker: str) -> str:
    place = draw.randint(0, len(marker))
    return marker[:place] + draw.choice(CONTROL_NAMES + STRUCTURE) + marker[place:]


def _mixed_case(draw: random.Random, marker: str) -> str:
    return "".join(draw.choice((character.upper(), character.lower())) for character in marker)


def _joined(draw: random.Random, marker: str) -> str:
    return draw.choice(INVISIBLE).join(marker)


def _alike(draw: random.Random, marker: str) -> str:
    return "".join(character.translate(ALIKE) if draw.random() < 0.5 else character for character in marker)


def _split_bytes(draw: random.Random, marker: str) -> str:
    data = (draw.choice(WORDS) + marker).encode()
    place = draw.randint(0, len(data))
    return data[:place].decode("utf-8", "replace") + data[place:].decode("utf-8", "replace")


def _doubled(draw: random.Random, marker: str) -> str:
    return marker * draw.randint(2, 4)


def _spaced(draw: random.Random, marker: str) -> str:
    return draw.choice(SPACES) + marker + draw.choice(SPACES)


def _escaped(draw: random.Random, marker: str) -> str:
    escaped = marker.encode("unicode_escape").decode()
    return draw.choice((repr(marker), marker.replace("<", "&lt;"), escaped, marker[::-1]))


_TWISTS = (_cut, _nested, _mixed_case, _joined, _alike, _split_bytes, _doubled, _spaced, _escaped)
