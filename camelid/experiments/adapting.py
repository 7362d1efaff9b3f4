"""What adapters can do, on which base and which maps, and which records they need."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

from camelid.experiments.trial import LATER, RIGHT, Experiment, Tools, seeded, tuned_with
from camelid.recipe import AdamW, Distinct, Finetune, Recipe, Size, Steps
from camelid.recipes import MEMBERS

FULL_RATE = 1e-3  # ours: the desk OpenAssistant's, which tunes every weight on such conversations


def _guanaco(size: Size, seed: int, tools: Tools) -> tuple[float, ...]:
    """The adapter on NF4 as a share of what full tuning reaches; then the base, and the adapter on two maps of seven."""
    adapted, base = seeded(MEMBERS["guanaco"].make(size), seed), seeded(MEMBERS["llama"].make(size), seed)
    lora = cast(Finetune, adapted.last).adapter
    assert lora is not None
    full = tuned_with(adapted, adapter=None, base=None, optim=AdamW(lr=FULL_RATE))
    few = tuned_with(adapted, adapter=replace(lora, targets=("q_proj", "v_proj")))
    whole = max(tools.later_turns(full, adapted), 1e-9)
    return tuple(tools.later_turns(side, adapted) / whole for side in (adapted, base, few))


def _platypus(size: Size, seed: int, tools: Tools) -> tuple[float, ...]:
    """Sieved records, as many steps of records not sieved, and the base."""
    sieved = seeded(MEMBERS["platypus"].make(size), seed)
    data = cast(Distinct, cast(Finetune, sieved.last).data)
    whole = tuned_with(sieved, data=data.data, train=Steps(_steps(tools.grown(sieved))))
    base = seeded(MEMBERS["llama-2"].make(size), seed)
    return tuple(tools.score(side, sieved) for side in (sieved, whole, base))


def _steps(folder: Path) -> int:
    told = json.loads((folder / "camelid.json").read_text())
    return int(told["provenance"]["training"]["steps"])


def _share_of_whole(member: str) -> Callable[[Size, int, Tools], tuple[float, ...]]:
    """The adapter on a base in few bits as a share of what the same reaches on the base as it is; then the base."""

    def arms(size: Size, seed: int, tools: Tools) -> tuple[float, ...]:
        lean, base = seeded(MEMBERS[member].make(size), seed), seeded(MEMBERS["llama"].make(size), seed)
        whole = max(tools.score(tuned_with(lean, base=None), lean), 1e-9)
        return tools.score(lean, lean) / whole, tools.score(base, lean) / whole

    return arms


def _last_turn(size: Size, seed: int, tools: Tools) -> tuple[float, ...]:
    """The last answer alone learned, as a share of what every answer learned reaches; then the base."""
    last, base = seeded(MEMBERS["chinese-vicuna-chat"].make(size), seed), seeded(MEMBERS["llama"].make(size), seed)
    every = max(tools.later_turns(tuned_with(last, learn="assistant"), last), 1e-9)
    return tools.later_turns(last, last) / every, tools.later_turns(base, last) / every


def _anima(size: Size, seed: int, tools: Tools) -> tuple[float, ...]:
    """A second adapter on the first; the first alone; the second straight on the base."""
    again = seeded(MEMBERS["anima"].make(size), seed)
    straight = tuned_with(again, start=seeded(MEMBERS["llama"].make(size), seed))
    return tuple(tools.score(side, again) for side in (again, cast(Recipe, again.parent), straight))


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
    "chinese-vicuna": Experiment(
        statement="Adapters on a base of eight bits do what they do on the whole base.",
        published="no benchmark of its own; Anima's README gives it an Elo of 623.62",
        experiment="The same records, adapters and steps; the base's linear maps in int8, or as they are.",
        measure=f"{RIGHT}, divided by that on the whole base",
        treated="adapters on int8",
        controls=("the base, same prompt",),
        at_least=0.95,  # ours: as Alpaca-LoRA's
        arms=_share_of_whole("chinese-vicuna"),
    ),
    "chinese-vicuna-4bit": Experiment(
        statement="Adapters on a base of four bits do what they do on the whole base.",
        published="no benchmark of its own",
        experiment="The same records, adapters and steps; the base's linear maps in NF4, or as they are.",
        measure=f"{RIGHT}, divided by that on the whole base",
        treated="adapters on NF4",
        controls=("the base, same prompt",),
        at_least=0.95,  # ours: as Alpaca-LoRA's
        arms=_share_of_whole("chinese-vicuna-4bit"),
    ),
    "chinese-vicuna-chat": Experiment(
        statement="Learning the last answer of a conversation does as well as learning every answer.",
        published="no headline benchmark",
        experiment="The same conversations, adapters and steps; loss on the last answer, or on all three.",
        measure=f"{LATER}, divided by that of every answer",
        treated="the last answer",
        controls=("the base, same prompt",),
        at_least=0.95,  # ours: as Alpaca-LoRA's
        arms=_last_turn,
    ),
    "anima": Experiment(
        statement="A second adapter on a first one's model adds to what the first gave, and to what it would give alone.",
        published="Elo 1096.69 over 300 rounds, where ChatGPT has 1341.98 and Chinese-Vicuna 623.62 (README)",
        experiment="The desk Guanaco, tuned on conversations, then on instructions; against itself before, and against the "
        "same second tuning straight from the base.",
        measure=RIGHT,
        treated="both tunings",
        controls=("the first alone", "the second alone"),
        arms=_anima,
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
