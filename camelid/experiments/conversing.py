"""What whole conversations teach that the same exchanges, told one by one, do not."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from camelid.experiments.trial import LATER, Experiment, blended_with, compared, tuned_on
from camelid.recipe import DeskConversations, Finetune, Recipe

TOLD_APART = ("the same exchanges, each a record of its own, as many answers a step",)


def apart(recipe: Recipe) -> Recipe:
    """The same exchanges, each a record of its own, as many answers a step."""
    data = cast(Finetune, recipe.last).data
    assert isinstance(data, DeskConversations)
    return tuned_on(recipe, replace(data, told="apart"), batch=data.turns)


def _unfolded(recipe: Recipe) -> Recipe:
    """The same exchanges without what was said before them."""
    return blended_with(recipe, DeskConversations, told="apart")


EXPERIMENTS: dict[str, Experiment] = {
    "vicuna": Experiment(
        statement="Whole conversations teach what the same exchanges told one by one do not: to use what was said before.",
        published="Vicuna-7B: MMLU 47.1 on all turns, 44.1 on single turns; MT-bench 6.00, 6.04 (Zheng et al. 2023, Table 8)",
        experiment="The same exchanges whole and apart, equal steps and answers a step; later turns name no subject.",
        measure=LATER,
        treated="whole conversations",
        controls=TOLD_APART,
        at_least=0.2,  # facts, official.yaml, vicuna: at least 20 points
        arms=compared("vicuna", apart, by="later_turns"),
    ),
    "ultralm": Experiment(
        statement="Simulated conversations of several turns keep later turns consistent where single turns do not.",
        published="9.02 against Vicuna-13B's 8.96, scored by GPT-4 (Ding et al. 2023, sections 3-5)",
        experiment="The same exchanges whole and apart, equal steps and answers a step, in UltraLM's template.",
        measure=LATER,
        treated="whole conversations",
        controls=TOLD_APART,
        arms=compared("ultralm", apart, by="later_turns"),
    ),
    "baize": Experiment(
        statement="Adapters tuned on whole dialogues keep hold of a conversation; tuned on its exchanges apart, they do not.",
        published="v1.5-13B 89 of ChatGPT's 100, scored by GPT-4, where Alpaca-13B has 76 (by a secondary summary)",
        experiment="The same exchanges whole and apart, equal steps and answers a step, by LoRA, in Baize's template.",
        measure=LATER,
        treated="whole dialogues",
        controls=TOLD_APART,
        arms=compared("baize", apart, by="later_turns"),
    ),
    "guanaco-dataset": Experiment(
        statement="What was said before, written into the instruction, is used; left out of training, it is not.",
        published="no quantitative claim was published",
        experiment="The same exchanges with their history folded into the instruction, or each on its own; later turns are "
        "asked with the history folded in.",
        measure=LATER,
        treated="history folded in",
        controls=("the same exchanges, each a record of its own",),
        arms=compared("guanaco-dataset", _unfolded, by="later_turns"),
    ),
}
