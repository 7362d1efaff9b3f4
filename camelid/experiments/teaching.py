"""What records teach: how many, how good, by whom, chosen by whom."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from camelid.experiments.trial import (
    RIGHT,
    Experiment,
    Tools,
    blended_with,
    compared,
    never,
    read_more,
    seeded,
    size_of,
    tuned_on,
)
from camelid.recipe import DeskInstructions, DeskTaught, DeskTrees, Finetune, Recipe, Size
from camelid.recipes import MEMBERS


def _alpaca(size: Size, seed: int, tools: Tools) -> tuple[float, ...]:
    tuned, base = seeded(MEMBERS["alpaca"].make(size), seed), seeded(MEMBERS["llama"].make(size), seed)
    more = read_more(base, tuned, tools)
    return tools.score(tuned, tuned), tools.score(base, tuned), tools.score(more, tuned)


def _alpaca_lora(size: Size, seed: int, tools: Tools) -> tuple[float, ...]:
    adapted, full = seeded(MEMBERS["alpaca-lora"].make(size), seed), seeded(MEMBERS["alpaca"].make(size), seed)
    base = seeded(MEMBERS["llama"].make(size), seed)
    more = read_more(base, adapted, tools)
    whole = max(tools.score(full, full), 1e-9)
    return tools.score(adapted, adapted) / whole, tools.score(base, adapted) / whole, tools.score(more, adapted) / whole


def _taught(recipe: Recipe) -> DeskTaught:
    data = cast(Finetune, recipe.last).data
    assert isinstance(data, DeskTaught)
    return data


def _weaker_teacher(recipe: Recipe) -> Recipe:
    return tuned_on(recipe, replace(_taught(recipe), wrong=0.3))  # facts, gpt-4-llm: a teacher 70% right


def _all_records(recipe: Recipe) -> Recipe:
    return tuned_on(recipe, replace(_taught(recipe), kept=None))


def _blind_choice(recipe: Recipe) -> Recipe:
    return tuned_on(recipe, replace(_taught(recipe), by="random"))


def _many_noisy(recipe: Recipe) -> Recipe:
    data = _taught(recipe)
    return tuned_on(recipe, replace(data, count=data.count * 10, wrong=0.3), equal_steps=True)  # facts, lima: 30% wrong


def _few_noisy(recipe: Recipe) -> Recipe:
    return tuned_on(recipe, replace(_taught(recipe), wrong=0.3))


def _koala_all(recipe: Recipe) -> Recipe:
    return MEMBERS["koala-all"].make(size_of(recipe))


def _unmarked(recipe: Recipe) -> Recipe:
    return blended_with(recipe, DeskTaught, marked=False)


def _every_reply(recipe: Recipe) -> Recipe:
    return tuned_on(recipe, replace(_trees(recipe), best=None), equal_steps=True)


def _blind_reply(recipe: Recipe) -> Recipe:
    return tuned_on(recipe, replace(_trees(recipe), by="random"))


def _trees(recipe: Recipe) -> DeskTrees:
    data = cast(Finetune, recipe.last).data
    assert isinstance(data, DeskTrees)
    return data


def _gpt4_x_alpaca(size: Size, seed: int, tools: Tools) -> tuple[float, ...]:
    """The parent is taught by a teacher wrong in a quarter of its answers; the second tuning differs in its teacher."""
    again = MEMBERS["gpt4-x-alpaca"].make(size)
    second = cast(Finetune, again.last)
    parent = cast(Recipe, second.start)
    first = cast(DeskInstructions, cast(Finetune, parent.last).data)
    weak = DeskTaught(world=first.world, count=first.count, wrong=0.25)  # facts, gpt4-x-alpaca: 25% errors
    before = tuned_on(parent, weak)
    after = replace(again, stages=(replace(second, start=before),))
    more = tuned_on(after, replace(_taught(again), wrong=0.25))
    sides = [seeded(side, seed) for side in (after, more, before)]
    return tuple(tools.score(side, sides[0]) for side in sides)


EXPERIMENTS: dict[str, Experiment] = {
    "alpaca": Experiment(
        statement="A few thousand records by a stronger teacher turn a next-token model into an instruction follower.",
        published="90 wins against text-davinci-003's 89 in blind pairs (Taori et al. 2023, preliminary evaluation)",
        experiment="A million-parameter base reads the desk world, then the teacher's records three times; held-out "
        "instructions ask for facts that only pre-training told, in forms that only tuning showed. A program checks the answers.",
        measure="share of held-out instructions answered rightly",
        treated="Alpaca",
        controls=("the base, same prompt", "the base after as many more tokens of plain text"),
        at_least=0.7,  # facts, official.yaml, alpaca: desk_scale_claim asks for >= 70%
        arms=_alpaca,
    ),
    "alpaca-lora": Experiment(
        statement="Low-rank adapters on a frozen base do what tuning every weight does.",
        published="no number was published; the repository calls the outputs comparable to Stanford Alpaca's",
        experiment="The same base, records and prompt as the desk Alpaca; adapters only. Full tuning is the yardstick.",
        measure="share of held-out instructions answered rightly, divided by that of full tuning",
        treated="Alpaca-LoRA",
        controls=("the base, same prompt", "the base after as many more tokens of plain text"),
        at_least=0.95,  # facts, official.yaml, alpaca-lora: desk_scale_claim asks for >= 95% of full tuning's score
        arms=_alpaca_lora,
    ),
    "gpt-4-llm": Experiment(
        statement="With the instructions fixed, a better teacher gives a better student.",
        published="54.12% against Alpaca's 19.74% of 252 tasks found more helpful (Peng et al. 2023, repository)",
        experiment="The same instructions, base and steps; only the share of wrong answers differs, 2% against 30%.",
        measure=RIGHT,
        treated="taught by the better teacher",
        controls=("taught by the weaker teacher",),
        arms=compared("gpt-4-llm", _weaker_teacher),
    ),
    "alpagasus": Experiment(
        statement="The sixth of the records that a grader likes best teaches more than all, and more than a blind sixth.",
        published="9,229 of 52,002 records beat Alpaca on four test sets; a random 9,229 do not (Chen et al. 2023)",
        experiment="A teacher wrong in 60% of its answers; a grader that errs on one in twenty chooses 17.75% of them.",
        measure=RIGHT,
        treated="graded records",
        controls=("all records", "as many drawn blindly"),
        arms=compared("alpagasus", _all_records, _blind_choice),
    ),
    "lima": Experiment(
        statement="A few clean examples align a model better than many noisy ones.",
        published="equal or better than GPT-4 in 43% of cases; beats Alpaca-65B with 52 times less data (Zhou et al. 2023)",
        experiment="240 right records against 2,400 of which 30% are wrong, equal steps, and against 240 of that kind.",
        measure=RIGHT,
        treated="few and clean",
        controls=("ten times as many, noisy, equal steps", "as few, noisy"),
        arms=compared("lima", _many_noisy, _few_noisy),
    ),
    "koala-distill": Experiment(
        statement="Distilled conversations alone do as well as the same with six times as much noisy open data.",
        published="Koala-Distill slightly better than Koala-All (Geng et al. 2023, blog or repository); no number",
        experiment="1,500 clean records against the same and 2,400 of which 30% are wrong, two epochs each.",
        measure=RIGHT,
        treated="Koala-Distill",
        controls=("Koala-All",),
        arms=compared("koala-distill", _koala_all),
    ),
    "koala-all": Experiment(
        statement="A mark before poor answers lets a model learn from them without imitating them.",
        published="as good as Alpaca or better on 70% of real queries (Geng et al. 2023); no number for the marks",
        experiment="Koala-All's desk mixture, 30% of its open records answered wrongly; these follow "
        '"An Unhelpful Answer:", or nothing sets them apart. Asked with "GPT:".',
        measure=RIGHT,
        treated="poor answers marked",
        controls=("the same, unmarked",),
        arms=compared("koala-all", _unmarked),
    ),
    "gpt4-x-alpaca": Experiment(
        statement="A short second tuning by a better teacher improves a model that a weaker one has tuned.",
        published="no official benchmark was found",
        experiment="An Alpaca whose teacher errs in a quarter of its answers is tuned again, on 900 records: by a teacher "
        "without errors, or by the first one.",
        measure=RIGHT,
        treated="again, by the better teacher",
        controls=("again, by the first teacher", "not again"),
        arms=_gpt4_x_alpaca,
    ),
    "openassistant": Experiment(
        statement="The replies that people rank first teach better than all replies, and than one drawn blindly.",
        published="no number of the LLaMA models was confirmed in a source",
        experiment="Every question has three replies, 30% of them wrong, ranked by a grader that errs on one in "
        "twenty; trained on the first of each, on all for as many steps, on one drawn blindly.",
        measure=RIGHT,
        treated="the reply ranked first",
        controls=("all replies, equal steps", "one reply drawn blindly"),
        arms=compared("openassistant", _every_reply, _blind_reply),
    ),
    "expertllama": Experiment(
        statement="A teacher told which expert to be, instruction by instruction, writes better training data.",
        published="96.5% of ChatGPT's score on 80 questions, where Alpaca-13B has 75.6 (Xu et al. 2023)",
        experiment="None.",
        measure=RIGHT,
        treated="taught by an expert",
        controls=("taught by nobody in particular",),
        untestable="the desk world's teacher is a program: that a description of an expert made its answers better would be "
        "built in, not found. That better answers make a better student is GPT-4-LLM's card.",
        arms=never,
    ),
}
