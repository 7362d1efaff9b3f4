"""Scores of what was grown at desk scale, and the page that shows them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camelid.durable import read_json, read_lines, replace_file
from camelid.evaluate.score import Score
from camelid.machine import Machine, describe
from camelid.recipe import DeskRecords, Finetune, Folder, Merge, Pretrain, portions
from camelid.report import Ancestor, Curve, Drawn, Page, Sample, amount, page
from camelid.run import Made, Work
from camelid.store import PROVENANCE

if TYPE_CHECKING:
    from camelid.dialogue.template import Template
    from camelid.evaluate.desk import Scores

SHOWN = 3  # sample answers on the terminal and on the page
OPERATIONS = {"Pretrain": "pre-training", "Finetune": "instruction tuning", "Merge": "merging"}


def desk_score(path: Path, template: Template, data: DeskRecords, machine: Machine) -> Scores:
    """A model's scores on what is held out of the kind of records that `data` is, asked in `template`.

    A model from before the template's control tokens were added is asked without these.
    """
    import torch

    from camelid.evaluate.desk import score
    from camelid.generate.loaded import load
    from camelid.supply import items

    torch.set_num_threads(machine.threads)
    loaded = load(path, device=machine.device)
    return score(loaded, items(data, "held_out"), template=template.within(loaded.tokenizer))


def score_line(
    work: Work, made: Sequence[Made], beside: Sequence[Made] = (), carried: Path | None = None
) -> tuple[tuple[tuple[str, tuple[Score, ...]], ...], tuple[Sample, ...]]:
    """Scores of the base, of the member, of those grown beside it and of the file it was carried into, on the same
    held-out instructions; the line in the member's template, the others in their own; () elsewhere."""
    last = work.recipe.trained
    if not isinstance(last, Finetune) or isinstance(last.start, Folder):
        return (), ()
    asked = next((each for each in portions(last.data) if isinstance(each, DeskRecords)), None)
    if asked is None:
        return (), ()
    models = [each for each in made if _is_model(each)]
    titles = [each.title for each in models]
    examined = [
        (f"{each.title} {each.stage.name}" if titles.count(each.title) > 1 else each.title, each.path, last.prompt)
        for each in models
    ]
    examined += [(each.title, each.path, each.stage.prompt) for each in beside if isinstance(each.stage, Finetune)]
    if carried is not None:
        form = carried.stem.rpartition("-")[2]
        examined.append((f"{made[-1].title}, {form} file", carried, last.prompt))
    found: list[tuple[str, Scores]] = []
    with work.narrator.progress("scoring", len(examined), "models") as report:
        for done, (title, path, prompt) in enumerate(examined):
            found.append((title, desk_score(path, prompt, asked, work.machine)))
            report(done + 1)
    for title, scores in found:
        if scores.unread:
            told = f"{scores.unread:,} of {scores.overall.count:,} questions are longer than its context: not answered"
            work.narrator.warn(f"{title}: {told}")
    rows = tuple((title, (*scores.families, scores.overall)) for title, scores in found)
    return rows, tuple(_samples(found))


def _samples(found: Sequence[tuple[str, Scores]]) -> Iterator[Sample]:
    shown = [scores.samples(SHOWN) for _, scores in found]
    for answers in zip(*shown, strict=True):
        asked = answers[0].instruction + (f"\n{answers[0].input}" if answers[0].input else "")
        said = [(title, answer.answer, answer.right) for (title, _), answer in zip(found, answers, strict=True)]
        yield Sample(asked, answers[0].wanted, tuple(said))


def commands(
    work: Work, made: Sequence[Made], beside: Sequence[Made] = (), carried: Path | None = None
) -> tuple[tuple[str, str], ...]:
    """What to do next, as commands to copy."""
    member = work.request.member
    where = "" if work.store.is_default else f" --store {work.store.root}"
    name = member if work.grown_as_declared else str(made[-1].path)
    told = [("talk with it", f"camelid chat {name}{where}")]
    if isinstance(work.recipe.trained, Finetune):
        told.append(("the same, your own data", f"camelid grow {member} --start FOLDER --data FILE{where}"))
    if carried is not None:
        told.append(("with its file", f"camelid chat {carried}"))
    for other in dict.fromkeys(_told(each)["member"] for each in beside):
        told.append((f"how {other} differs", f"camelid diff {member} {other}"))
    if member == "alpaca" and not beside:
        told.append(("adapters only", f"camelid grow alpaca-lora{where}"))
    return tuple(told)


def write_page(
    work: Work,
    made: Sequence[Made],
    beside: Sequence[Made],
    scores: Sequence[tuple[str, Sequence[Score]]],
    samples: Sequence[Sample],
    told: Sequence[tuple[str, str]],
    seconds: float,
) -> tuple[Path, int]:
    """The report's path, and the tokens seen by the stages that this call made."""
    trained = [m for m in (*made, *beside) if isinstance(m.stage, Pretrain | Finetune)]
    curves = [curve for each in trained if (curve := _curve(each))]
    facts = (
        ("machine", describe()),
        ("precision", f"{work.machine.dtype} on {work.machine.device}, {work.machine.threads} threads"),
        ("recipe", f"camelid show {work.request.member} --size {work.request.size or 'published'}"),
        ("date", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())),
    )
    summary = f"grown on {time.strftime('%Y-%m-%d', time.gmtime())} in {seconds:.0f} s"
    shown = Page(
        title=work.recipe.title,
        summary=summary,
        ancestry=(*_outside(trained[0]), *(_ancestor(each) for each in made if _is_model(each))),
        beside=tuple(_ancestor(each) for each in beside if _is_model(each)),
        curves=tuple(curves),
        mixtures=tuple((f"{each.title} {each.stage.name}", drawn) for each in trained if (drawn := _drawn(each))),
        scores=tuple((title, tuple(rows)) for title, rows in scores),
        samples=tuple(samples),
        commands=tuple(told),
        facts=facts,
    )
    path = work.store.root / "reports" / f"{made[-1].path.name}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, page(shown).encode())
    fresh = sum(int(_told(each)["training"]["tokens"]) for each in trained if each.fresh)
    return path, fresh


def _is_model(made: Made) -> bool:
    return isinstance(made.stage, Pretrain | Finetune | Merge)


def _outside(first: Made) -> Iterator[Ancestor]:
    """The folder that the line starts from, where it was not grown here."""
    start = first.stage.start if isinstance(first.stage, Finetune | Pretrain) else None
    if isinstance(start, Folder):
        yield Ancestor(Path(start.path).name, "given", (), start.path)


def _told(made: Made) -> dict[str, Any]:
    told: Any = read_json(made.path / PROVENANCE)
    found: dict[str, Any] = told["provenance"]
    return found


def _ancestor(made: Made) -> Ancestor:
    told = _told(made)
    config = json.loads((made.path / "config.json").read_text())
    facts = [
        f"{config['num_hidden_layers']} layers, width {config['hidden_size']}, vocabulary {config['vocab_size']}",
        _merged(told) if isinstance(made.stage, Merge) else _trained(told["training"]),
        f"grown now in {made.seconds:.0f} s" if made.fresh else "was in the store",
    ]
    adapted = isinstance(made.stage, Finetune) and made.stage.adapter is not None
    operation = "adapters" if adapted else OPERATIONS[type(made.stage).__name__]
    return Ancestor(made.title, operation, tuple(facts), str(made.path))


def _trained(told: dict[str, Any]) -> str:
    return f"{amount(told['tokens'])} tokens seen, {amount(told['supervised'])} of them learned, {told['steps']} steps"


def _merged(told: dict[str, Any]) -> str:
    return " + ".join(f"{parent['share']:g} of {parent['name']}" for parent in told["parents"])


def _curve(made: Made) -> Curve | None:
    """The run's losses over tokens, from its journal."""
    journal = made.run / "journal.jsonl"
    if not journal.is_file():
        return None
    lines = [line for _, line in read_lines(journal) if isinstance(line, dict) and line.get("loss") is not None]
    if not lines:
        return None
    told = {name: tuple(line[name] for line in lines) for name in ("seen", "loss", "rate", "norm")}
    return Curve(f"{made.title} {made.stage.name}", told["seen"], told["loss"], told["rate"], told["norm"])


def _drawn(made: Made) -> tuple[Drawn, ...]:
    """What each source of the stage's mixture gave, as the run noted it; () where there was none."""
    shares = _told(made).get("mixture", [])
    return tuple(Drawn(each["source"], each["asked"], each["tokens"], each["epochs"]) for each in shares)
