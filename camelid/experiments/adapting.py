"""What adapters can do, on which base and which maps, and which records they need."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import cast

from camelid.experiments.trial import LATER, RIGHT, Experiment, Tools, seeded
from camelid.recipe import AdamW, Distinct, Finetune, Recipe, Size, Steps
from camelid.recipes import MEMBERS

FULL_RATE = 1e-3  # ours: the desk OpenAssistant's, which tunes every weight on such conversations


def _changed(recipe: Recipe, **settings: object) -> Recipe:
    last = replace(cast(Finetune, recipe.last), **settings)  # type: ignore[arg-type]
    return replace(recipe, stages=(*recipe.stages[:-1], last))


def _guanaco(size: Size, seed: int, tools: Tools) -> tuple[float, ...]:
    """The adapter on NF4 as a share of what full tuning reaches; then the base, and the adapter on two maps of seven."""
    adapted, base = seeded(MEMBERS["guanaco"].make(size), seed), seeded(MEMBERS["llama"].make(size), seed)
    lora = cast(Finetune, adapted.last).adapter
    assert lora is not None
    full = _changed(adapted, adapter=None, base=None, optim=AdamW(lr=FULL_RATE))
    few = _changed(adapted, adapter=replace(lora, targets=("q_proj", "v_proj")))
    whole = max(tools.later_turns(full, adapted), 1e-9)
    return tuple(tools.later_turns(side, adapted) / whole for side in (adapted, base, few))


def _platypus(size: Size, seed: int, tools: Tools) -> tuple[float, ...]:
    """Sieved records, as many steps of records not sieved, and the base."""
    sieved = seeded(MEMBERS["platypus"].make(size), seed)
    data = cast(Distinct, cast(Finetune, sieved.last).data)
    whole = _changed(sieved, data=data.data, train=Steps(_steps(tools.grown(sieved))))
    base = seeded(MEMBERS["llama-2"].make(size), seed)
    return tuple(tools.score(side, sieved) for side in (sieved, whole, base))


def _steps(folder: Path) -> int:
    told = json.loads((folder / "camelid.json").read_text())
    return int(told["provenance"]["training"]["steps"])


EXPERIMENTS: dict[str, Experiment] = {
    "guanaco": Experiment(
        statement="Adapters on all linear maps of a four-bit base do what tuning every weight of the whole one does; on "
        "queries and values alone they do not.",
        published="mean 5-shot MMLU 53.1 on NF4 with double quantization, 53.0 in 16 bits (Dettmers et al. 2023)",
        experiment="The desk base in NF4, 4.127 bits a weight of its linear maps, against every weight tuned in float32 "
        "on the same conversations, which is the yardstick; held-out conversations, judged by a program.",
        measure=f"{LATER}, divided by that of full tuning",
        treated="adapters on NF4",
        controls=("the base, same prompt", "adapters on queries and values alone"),
        at_least=0.95,  # ours: as Alpaca-LoRA's
        arms=_guanaco,
    ),
    "platypus": Experiment(
        statement="A small set of questions that are unlike each other teaches more than as much of the whole set.",
        published="24,926 records are left of eleven sets, and lead a leaderboard (Lee et al. 2023); no control was printed",
        experiment="4,800 desk records without those whose cosine to an earlier one is above 0.8, against as many steps on "
        "all of them, adapters on the MLP of an int8 base both times.",
        measure=RIGHT,
        treated="unlike records",
        controls=("as many steps on all records", "the base, same prompt"),
        arms=_platypus,
    ),
}
