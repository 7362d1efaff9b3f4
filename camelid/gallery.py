# ruff: noqa: E501 - lines of HTML, CSS and SVG
"""The family on one static page: the tree, every member in a row, and the card of each claim with every seed's result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from camelid.evaluate.claim import Arm, ClaimCard
from camelid.experiments import EXPERIMENTS
from camelid.recipes import MEMBERS, Member
from camelid.report import STYLE, escaped, sheet

COLOURS = {"held": "var(--good)", "did not hold": "#c2572f", "cannot be tested at this scale": "var(--soft)"}
DESK_SIZES = ("desk", "tiny")
MORE_STYLE = """
ul.tree, ul.tree ul { list-style: none; margin: 0; padding-left: 1.3rem; border-left: 1px solid var(--line) }
ul.tree { padding-left: 0; border: 0 } ul.tree li { padding: .12rem 0 } ul.tree a { font-weight: 600 } a { color: inherit }
.badge { font-size: .78rem; padding: .05rem .5rem; border-radius: 99px; border: 1px solid currentColor; white-space: nowrap }
.arm { display: grid; grid-template-columns: minmax(9rem, 17rem) 1fr 9rem; gap: .8rem; align-items: center; margin: .3rem 0 }
.arm svg { height: 20px } .wide { max-width: none } h3 { margin: 0 0 .3rem; font-size: 1.05rem }
.card + .card { margin-top: .8rem } tr[id] code { white-space: nowrap; overflow-wrap: normal }
"""


def gallery(cards: Mapping[str, ClaimCard]) -> str:
    """The page as one HTML text, without scripts and without anything from outside."""
    words = [card.verdict for card in cards.values()]
    tally = ", ".join(f"{words.count(word)} {word}" for word in COLOURS if word in words)
    derived = sum(member.parent is not None for member in MEMBERS.values())
    tried = (
        f"{len(cards)} claim{'s' * (len(cards) != 1)} judged at desk scale: {tally}"
        if cards
        else "no claim was tried yet"
    )
    summary = f"{len(MEMBERS)} members, {derived} of them derived; {tried}."
    tree = "".join(_branch(member, cards) for member in MEMBERS.values() if member.parent is None)
    rows = "".join(_row(member, cards) for member in MEMBERS.values())
    head = "<th>member</th><th>operation</th><th>sizes</th><th>published</th><th>at desk scale</th>"
    shown = "".join(_card(name, cards[name]) for name in MEMBERS if name in cards)
    sections = [
        f"<h2>The tree</h2><div class=card><ul class=tree>{tree}</ul></div>",
        f"<h2>Members</h2><div class=card><table><tr>{head}</tr>{rows}</table></div>",
        f"<h2>Claims, tried</h2>{shown}" if shown else "",
    ]
    return sheet("The family", summary, "".join(sections), style=STYLE + MORE_STYLE)


def _branch(member: Member, cards: Mapping[str, ClaimCard]) -> str:
    children = "".join(_branch(child, cards) for child in MEMBERS.values() if child.parent == member.name)
    below = f"<ul>{children}</ul>" if children else ""
    name = escaped(member.name)
    return f'<li><a href="#{name}">{name}</a> <span class=soft>{escaped(member.operation)}</span> {_badge(member.name, cards)}{below}</li>'


def _badge(name: str, cards: Mapping[str, ClaimCard]) -> str:
    if name not in cards:
        return ""
    word = cards[name].verdict
    return f'<span class=badge style="color:{COLOURS[word]}">{escaped(word)}</span>'


def _row(member: Member, cards: Mapping[str, ClaimCard]) -> str:
    told = member.make(member.published).claims
    claims = "; ".join(f"{c.what}: {'not published' if c.value is None else f'{c.value:g}'} ({c.source})" for c in told)
    sizes = ", ".join(size for size in member.sizes if size not in DESK_SIZES)
    untried = "not tried" if member.name in EXPERIMENTS else "no card"
    name = escaped(member.name)
    verdict = _badge(member.name, cards) or f"<span class=soft>{untried}</span>"
    return (
        f'<tr id="{name}"><td><b>{name}</b><br><code>camelid&nbsp;grow&nbsp;{name}</code></td><td>{escaped(member.operation)}</td>'
        f"<td>{escaped(sizes)}</td><td>{escaped(claims) or 'not published'}</td><td>{verdict}</td></tr>"
    )


def _card(name: str, card: ClaimCard) -> str:
    arms = (card.treated, *card.controls)
    values = [value for arm in arms for value in arm.results]
    drawn = "".join(_arm(arm, values) for arm in arms) if values else ""
    measure = f"<p class=soft>{escaped(card.measure)}; a dot a seed, the line their mean</p>" if values else ""
    seeds = f"seeds {', '.join(map(str, card.seeds))}; " if card.seeds else ""
    return (
        f"<div class=card><h3>{escaped(name)} {_badge(name, {name: card})}</h3><p><b>{escaped(card.statement)}</b></p>"
        f"<p class=soft>Published: {escaped(card.published)}</p><p>{escaped(card.experiment)}</p>{measure}{drawn}"
        f"<p>{escaped(card.why)}</p><p class=soft>{seeds}{escaped(card.date)}, commit {escaped(card.commit)}, {escaped(card.machine)}. "
        f"Again: <code>camelid claims {escaped(name)}</code></p></div>"
    )


def _arm(arm: Arm, values: Sequence[float]) -> str:
    """One side of an experiment on a line from zero, or from the least value where all are far from it."""
    least, most = min(values), max(values)
    low = 0.0 if least >= 0 and least < 0.5 * most else least - 0.25 * (most - least or 1.0)
    span = (most - low) or 1.0

    def x(value: float) -> float:
        return 8 + 584 * (value - low) / span

    mean = sum(arm.results) / len(arm.results)
    dots = "".join(
        f'<circle cx="{x(value):.1f}" cy="10" r="5" fill="var(--ink)" fill-opacity=".55"/>' for value in arm.results
    )
    shown = ", ".join(f"{value:.3f}" for value in arm.results)
    return (
        f'<div class=arm><span>{escaped(arm.name)}</span><svg viewBox="0 0 600 20" preserveAspectRatio="none" role="img" aria-label="{escaped(shown)}">'
        f'<line x1="8" x2="592" y1="10" y2="10" stroke="var(--line)"/><line x1="{x(mean):.1f}" x2="{x(mean):.1f}" y1="1" y2="19" stroke="var(--ink)" stroke-width="2"/>'
        f"{dots}</svg><span class=soft>{escaped(shown)}</span></div>"
    )
