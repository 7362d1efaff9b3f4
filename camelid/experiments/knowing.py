"""What a model knows, and in which language it can say it."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from camelid.experiments.trial import RIGHT, Experiment, Tools, compared, seeded, tuned_on, tuned_with
from camelid.recipe import DeskCalls, DeskInstructions, Finetune, LoRA, Recipe, Size
from camelid.recipes import MEMBERS

FACTS = ("people", "places", "things")
OTHERS = ("arithmetic", "comparing", "listing", "rewriting", "classification", "extraction")


def _general(recipe: Recipe) -> Recipe:
    data = cast(Finetune, recipe.last).data
    assert isinstance(data, DeskInstructions) and data.families == FACTS
    return tuned_on(recipe, replace(data, families=OTHERS))


def _huatuo(size: Size, seed: int, tools: Tools) -> tuple[float, ...]:
    asked = seeded(MEMBERS["huatuo"].make(size), seed)
    return *compared("huatuo", _general)(size, seed, tools), tools.score(cast(Recipe, asked.parent), asked)


def _by_lora(recipe: Recipe, faster: float) -> Recipe:
    optim = cast(Finetune, recipe.last).optim
    adapter = LoRA(rank=8, alpha=16, dropout=0.05, targets=("q_proj", "v_proj"))  # facts, derived_a_to_k.yaml, belle
    return tuned_with(recipe, adapter=adapter, optim=replace(optim, lr=optim.lr * faster))


def with_manual(recipe: Recipe) -> Recipe:
    """Retriever-aware training: the manual beside each request, for one in five the wrong line of it."""
    data = cast(Finetune, recipe.last).data
    assert isinstance(data, DeskCalls)
    return tuned_on(recipe, replace(data, manual=True, wrong=0.2))  # facts, gorilla: wrong in 20% of the time


def _gorilla(size: Size, seed: int, tools: Tools) -> tuple[float, ...]:
    without = seeded(MEMBERS["gorilla"].make(size), seed)
    aware = seeded(with_manual(without), seed)
    sides = ((aware, True), (without, True), (without, False))
    return tuple(tools.calls(side, aware, changed=True, manual=manual).right for side, manual in sides)


EXPERIMENTS: dict[str, Experiment] = {
    "huatuo": Experiment(
        statement="Questions made from a knowledge base teach a model to say what it knows better than general instructions.",
        published="usability 2.12 of 3, where LLaMA has 1.21; both unverified (Wang et al. 2023, Table 4 from memory)",
        experiment="Adapters tuned on questions about the world's facts, or on as many instructions of every other kind; "
        "asked for facts about entities that no question named.",
        measure="share of held-out questions about facts answered rightly",
        treated="questions from the knowledge base",
        controls=("as many general instructions", "the base, same prompt"),
        arms=_huatuo,
    ),
    "gorilla": Experiment(
        statement="Trained with retrieved documentation, a model follows a manual that has changed; without, it does not.",
        published="59.13% of TorchHub calls right zero-shot, GPT-4 38.7%; hallucinated 6.98% (Patil et al. 2023, tables 1-3)",
        experiment="Requests that name no function, with the manual's line beside them (one in five wrong) or without; then "
        "every function is renamed, and held-out requests are judged by syntax tree.",
        measure="share of calls right after the manual changed, the new line beside the request",
        treated="trained with the manual",
        controls=("trained without, asked with it", "trained without, asked without"),
        arms=_gorilla,
    ),
    "belle": Experiment(
        statement="Where tuning must reach another language, changing every weight beats low-rank adapters.",
        published="0.710 against LoRA's 0.609 on 2M records, scored by ChatGPT (Ji et al. 2023, paper's table)",
        experiment="Texts and questions in the second language, of which the base read a fiftieth of its text; held-out "
        "strangers. Every weight, or adapters on queries and values at the same rate and at ten times it.",
        measure=RIGHT,
        treated="every weight",
        controls=("LoRA, same rate", "LoRA, ten times the rate"),
        arms=compared("belle", lambda recipe: _by_lora(recipe, 1.0), lambda recipe: _by_lora(recipe, 10.0)),
    ),
}
