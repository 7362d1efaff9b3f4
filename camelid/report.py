"""One static page about what was grown: ancestry, loss curves over tokens, scores side by side, sample answers.

The page is a single HTML file without scripts and without anything from outside; its curves are drawn as SVG.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from camelid.evaluate.score import Score

COLOURS = ("#b4552d", "#2d6ab4", "#3c8f4d", "#8a4fb0")
STYLE = """
:root { --ink: #26211c; --soft: #7a7068; --line: #ddd5cc; --paper: #fbf8f4; --card: #fff; --good: #3c8f4d }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ece6df; --soft: #a2978c; --line: #453e37; --paper: #1d1a17; --card: #262220; --good: #6fc282 } }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto; max-width: 980px;
  padding: 2rem 1.25rem 4rem }
h1 { font-size: 1.7rem; margin: 0 0 .25rem } h2 { font-size: 1.15rem; margin: 2.2rem 0 .7rem }
p { margin: .4rem 0 } .soft { color: var(--soft) } code { font: .88em ui-monospace, monospace; overflow-wrap: anywhere }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.2rem; overflow-x: auto }
.line { display: flex; flex-wrap: wrap; align-items: stretch; gap: .5rem }
.line .card { flex: 1 1 220px } .line .step { align-self: center; color: var(--soft); font-size: .9rem; text-align: center }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .38rem .7rem .38rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
th { font-weight: 600; font-size: .88rem; color: var(--soft) } td.n, th.n { text-align: right }
tr.total td { font-weight: 700; border-bottom: 0 } .bar { display: block; height: 5px; border-radius: 3px; background: var(--good) }
td.soft:first-child { width: 10rem }
.answer { white-space: pre-wrap } .whole { white-space: nowrap }
.right { color: var(--good); font-weight: 600 } svg { width: 100%; height: auto; display: block }
@media (max-width: 600px) { body { padding: 1.2rem .7rem 3rem } .card { padding: .7rem .8rem } svg.large { width: 660px }
  th, td { padding-right: .4rem; font-size: .84rem } td.soft:first-child { width: auto } }
"""


@dataclass(frozen=True)
class Ancestor:
    """One model of the line: its title, how it came from the one before, what it cost, and where it lies."""

    title: str
    operation: str
    facts: tuple[str, ...]
    path: str


@dataclass(frozen=True)
class Curve:
    """Loss in nats per token, learning rate and gradient norm against tokens seen."""

    title: str
    tokens: tuple[int, ...]
    losses: tuple[float, ...]
    rates: tuple[float, ...] = ()
    norms: tuple[float, ...] = ()


@dataclass(frozen=True)
class Drawn:
    """What one source of a mixture gave: the part asked for, tokens, and passes over it."""

    source: str
    asked: float
    tokens: int
    epochs: float


@dataclass(frozen=True)
class Sample:
    """One held-out question, its right answer, and each model's answer with whether it was right."""

    question: str
    wanted: str
    answers: tuple[tuple[str, str, bool], ...]


@dataclass(frozen=True)
class Page:
    """Everything the page shows."""

    title: str
    summary: str
    ancestry: tuple[Ancestor, ...]
    curves: tuple[Curve, ...]
    mixtures: tuple[tuple[str, tuple[Drawn, ...]], ...]
    scores: tuple[tuple[str, tuple[Score, ...]], ...]
    samples: tuple[Sample, ...]
    commands: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]
    beside: tuple[Ancestor, ...] = ()


def page(told: Page) -> str:
    """The page as one HTML text."""
    sections = [
        _section("Ancestry", _ancestry(told.ancestry)),
        _section("Grown beside it, from what they share", _ancestry(told.beside)) if told.beside else "",
        _section("Loss", "".join(_curve(curve, COLOURS[i % len(COLOURS)]) for i, curve in enumerate(told.curves))),
        _section("Data drawn", "".join(_mixture(title, drawn) for title, drawn in told.mixtures)),
        _section("Scores on held-out instructions", _scores(told.scores)) if told.scores else "",
        _section("Answers", _samples(told.samples)) if told.samples else "",
        _section("Go on from here", _pairs(told.commands, code=True)),
        _section("How this was made", _pairs(told.facts)),
    ]
    return sheet(told.title, told.summary, "".join(sections))


def sheet(title: str, summary: str, body: str, style: str = STYLE) -> str:
    """A whole HTML page around a body of sections; its policy allows no script and nothing from outside."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{_e(title)}</title>'
        f"<style>{style}</style></head><body><h1>{_e(title)}</h1><p class=soft>{_e(summary)}</p>"
        f"{body}</body></html>\n"
    )


def escaped(value: object) -> str:
    """Text as it may stand in HTML, attributes included."""
    return html.escape(str(value), quote=True)


_e = escaped


def _section(title: str, body: str) -> str:
    return f"<h2>{_e(title)}</h2>{body}" if body else ""


def _ancestry(line: Sequence[Ancestor]) -> str:
    pieces = []
    for ancestor in line:
        facts = "".join(f"<p class=soft>{_e(fact)}</p>" for fact in ancestor.facts)
        step = f"<div class=step>{_e(ancestor.operation)} &#8594;</div>"
        pieces.append(
            f"{step}<div class=card><b>{_e(ancestor.title)}</b>{facts}<p><code>{_e(ancestor.path)}</code></p></div>"
        )
    return f"<div class=line>{''.join(pieces)}</div>"


def _curve(curve: Curve, colour: str) -> str:
    """A run's loss, and below it, half as wide, its learning rate and gradient norm."""
    if len(curve.losses) < 2:
        return ""
    title = f"{curve.title}: {amount(curve.tokens[-1])} tokens, last loss {curve.losses[-1]:.3f} nats per token"
    below = [
        _chart(f"{curve.title}: {name}", curve.tokens, values, "var(--soft)", mean, width=440, height=150)
        for name, values, mean in (("learning rate", curve.rates, False), ("gradient norm", curve.norms, True))
        if len(values) == len(curve.tokens)
    ]
    return _chart(title, curve.tokens, curve.losses, colour) + f"<div class=line>{''.join(below)}</div>"


def _chart(
    title: str,
    places: Sequence[int],
    values: Sequence[float],
    colour: str,
    mean: bool = True,
    width: int = 900,
    height: int = 260,
) -> str:
    """Values against tokens with axes; every point drawn, and a running mean over it where one is wanted."""
    left, right, top, bottom = 64, 24, 30, 34
    levels, marks, end = _ticks(min(values), max(values)), _ticks(0, places[-1]), places[-1]
    floor, ceiling = levels[0], levels[-1]

    def x(tokens: float) -> float:
        return left + (width - left - right) * tokens / end

    def y(value: float) -> float:
        return top + (height - top - bottom) * (ceiling - value) / (ceiling - floor)

    def path(points: Sequence[float]) -> str:
        return " ".join(f"{x(t):.1f},{y(v):.1f}" for t, v in zip(places, points, strict=True))

    grid = [
        f'<line x1="{left}" x2="{width - right}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="var(--line)"/>'
        f'<text x="{left - 8}" y="{y(value) + 4:.1f}" text-anchor="end" font-size="12" fill="var(--soft)">{value:.6g}</text>'
        for value in levels
    ]
    grid += [
        f'<text x="{x(tokens):.1f}" y="{height - 12}" text-anchor="middle" font-size="12" fill="var(--soft)">{amount(tokens)}</text>'
        for tokens in marks
        if tokens <= end
    ]
    strong, large = _smooth(values) if mean else values, " class=large" if width > 600 else ""  # its words stay legible
    faint = f'<polyline points="{path(values)}" fill="none" stroke="{colour}" stroke-opacity=".3"/>' if mean else ""
    return (
        f'<div class=card style="margin-bottom:.8rem"><svg{large} viewBox="0 0 {width} {height}" role="img" aria-label="{_e(title)}">'
        f'<text x="{left}" y="18" font-size="14" font-weight="600" fill="var(--ink)">{_e(title)}</text>{"".join(grid)}'
        f'{faint}<polyline points="{path(strong)}" fill="none" stroke="{colour}" stroke-width="2"/></svg></div>'
    )


def _mixture(title: str, drawn: Sequence[Drawn]) -> str:
    """The sources of a run: what was asked of each, what it gave, and how often it was read."""
    total = sum(each.tokens for each in drawn) or 1
    rows = "".join(
        f"<tr><td>{_e(each.source)}</td><td class=n>{each.asked:.1%}</td><td class=n>{each.tokens / total:.1%}</td>"
        f"<td class=n>{each.tokens:,}</td><td class=n>{each.epochs:.2f}</td></tr>"
        for each in drawn
    )
    head = "<th>source</th><th class=n>asked</th><th class=n>drawn</th><th class=n>tokens</th><th class=n>epochs</th>"
    return f"<div class=card><b>{_e(title)}</b><table><tr>{head}</tr>{rows}</table></div>"


def _ticks(least: float, most: float) -> list[float]:
    """Round numbers at one distance, at most six of them, from one at or below the least to one at or above the most."""
    span = max(most - least, 1e-3 * abs(most), 1e-12)
    size = 10 ** math.floor(math.log10(span / 5))
    for step in (each * size for each in (1, 2, 2.5, 5, 10, 20)):  # four steps of the last always reach
        first, last = math.floor(least / step + 1e-9), math.ceil(most / step - 1e-9)
        if last - first <= 5:
            break
    return [count * step for count in range(first, max(last, first + 1) + 1)]


def _smooth(values: Sequence[float]) -> list[float]:
    """The mean of each point's neighbourhood, a fortieth of the run to either side; towards the ends as much on both
    sides as there is, so that the line begins and ends where the values do and a straight line stays what it is."""
    reach, last = max(1, len(values) // 40), len(values) - 1
    near = [min(reach, i, last - i) for i in range(len(values))]
    return [sum(values[i - n : i + n + 1]) / (2 * n + 1) for i, n in enumerate(near)]


def _scores(scores: Sequence[tuple[str, Sequence[Score]]]) -> str:
    families = [score.family for score in scores[0][1]]
    head = "".join(f"<th>{_e(title)}</th>" for title, _ in scores)
    rows = []
    for index, family in enumerate(families):
        cells = []
        for _, column in scores:
            score = column[index]
            bar = f'<span class=bar style="width:{100 * score.share:.0f}%"></span>'
            interval = (
                f"<span class=soft>{score.correct} of {score.count}, "
                f"<span class=whole>95%: {score.low:.0%} to {score.high:.0%}</span></span>"
            )
            cells.append(f"<td>{score.share:.1%} {interval}{bar}</td>")
        kind = " class=total" if family == "all" else ""
        rows.append(f"<tr{kind}><td>{_e(family)}</td>{''.join(cells)}</tr>")
    return f"<div class=card><table><tr><th>family</th>{head}</tr>{''.join(rows)}</table></div>"


def _samples(samples: Sequence[Sample]) -> str:
    rows = []
    for sample in samples:
        answers = "".join(
            f'<tr><td class=soft>{_e(title)}</td><td class="answer{" right" if right else ""}">{_e(answer) or "&#8212;"}</td></tr>'
            for title, answer, right in sample.answers
        )
        rows.append(
            f'<div class=card style="margin-bottom:.8rem"><p class=answer><b>{_e(sample.question)}</b></p>'
            f"<table><tr><td class=soft>wanted</td><td class=answer>{_e(sample.wanted)}</td></tr>{answers}</table></div>"
        )
    return "".join(rows)


def _pairs(pairs: Sequence[tuple[str, str]], code: bool = False) -> str:
    def shown(value: str) -> str:
        return f"<code>{_e(value)}</code>" if code else _e(value)

    rows = "".join(f"<tr><td class=soft>{_e(name)}</td><td>{shown(value)}</td></tr>" for name, value in pairs)
    return f"<div class=card><table>{rows}</table></div>" if pairs else ""


def amount(count: float) -> str:
    """A count as people say it: 812, 3.1K, 2.5M, 1.4T."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if abs(count) >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"
