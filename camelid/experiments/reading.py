"""What reading on gives, by itself and before a tuning: new domains, new languages, longer windows, better records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Literal, cast

from camelid.experiments.conversing import TOLD_APART, apart
from camelid.experiments.trial import (
    LATER,
    RIGHT,
    UNSEEN,
    Experiment,
    Tools,
    blended_with,
    compared,
    never,
    seeded,
    tuned_on,
    tuned_with,
)
from camelid.recipe import (
    DeskInstructions,
    DeskLines,
    DeskRecords,
    DeskSums,
    DeskText,
    Finetune,
    Pretrain,
    Recipe,
    Shares,
    Size,
    portions,
)
from camelid.recipes import MEMBERS
from camelid.scoring import desk_score
from camelid.supply import desk_texts

HELD_OUT_BYTES = 20_000  # ours: of each text
SECOND = "share of held-out questions in the second language answered rightly"


def right(tools: Tools, recipe: Recipe, prompt_of: Recipe, data: DeskRecords) -> float:
    """Share of what is held out of `data` answered rightly, asked in the template of `prompt_of`."""
    prompt = cast(Finetune, prompt_of.last).prompt
    return desk_score(tools.grown(recipe), prompt, data, tools.machine).overall.share


def mean_bits(tools: Tools, recipe: Recipe, texts: Sequence[DeskText]) -> float:
    """Bits per byte of unseen documents of each of these texts, their mean: each text counts alike."""
    from camelid.evaluate.unseen import bits_per_byte
    from camelid.generate.loaded import load

    loaded = load(tools.grown(recipe), device=tools.machine.device)
    return fmean(bits_per_byte(loaded, unseen(text)) for text in texts)


def density(tools: Tools, recipe: Recipe, text: DeskText) -> float:
    """Characters of a text that an id of the model's vocabulary stands for."""
    from camelid import tokenizers

    tokenizer, told = tokenizers.load(tools.grown(recipe)), unseen(text)
    return sum(map(len, told)) / sum(len(tokenizer.encode(each)) for each in told)


def unseen(text: DeskText) -> list[str]:
    """Documents of a text that no training reads."""
    told = replace(text, bytes=HELD_OUT_BYTES, draw=UNSEEN + text.seed)
    return [each for source in desk_texts(told).values() for each in source]


def _shuffled(recipe: Recipe) -> Recipe:
    return tuned_with(recipe, order="shuffled")


def _own(recipe: Recipe, name: str) -> Pretrain:
    """A stage of plain text of the recipe itself."""
    return next(stage for stage in recipe.stages if isinstance(stage, Pretrain) and stage.name == name)


def _unread(recipe: Recipe) -> Recipe:
    """The tuning alone, from the parent as it was."""
    assert isinstance(recipe.parent, Recipe)
    last = replace(cast(Finetune, recipe.last), start=recipe.parent)
    return Recipe(title=f"{recipe.title}, nothing read", stages=(last,))


def _read_alone(recipe: Recipe) -> Recipe:
    """What was read, tuned on the world's general instructions instead."""
    last = cast(Finetune, recipe.last)
    data = next(each for each in portions(last.data) if isinstance(each, DeskInstructions))
    return tuned_on(recipe, replace(data, told="world"))


def _unscaled(recipe: Recipe) -> Recipe:
    return replace(tuned_with(recipe, scaling=None), title=f"{recipe.title}, unscaled")


def _far_lines(size: Size, seed: int, tools: Tools) -> tuple[float, ...]:
    """Lines found in records of the longest third of those tuned on, all of them longer than the parent's window."""
    treated = seeded(MEMBERS["vicuna-v1.5-16k"].make(size), seed)
    data = next(each for each in portions(cast(Finetune, treated.last).data) if isinstance(each, DeskLines))
    far = replace(data, fewest=2 * data.most // 3)
    return right(tools, treated, treated, far), right(tools, _unscaled(treated), treated, far)


def _without_replay(recipe: Recipe) -> Recipe:
    """All that is read is of the domain."""
    read = _own(recipe, "read")
    shares = cast(Shares, read.data)
    alone = replace(read, data=replace(shares, texts=shares.texts[:1]))
    return Recipe(title=f"{recipe.title}, no replay", stages=(alone,))


def _meditron(size: Size, seed: int, tools: Tools) -> tuple[float, ...]:
    treated = seeded(MEMBERS["meditron"].variants["base"](size), seed)
    texts = [cast(DeskText, share.text) for share in cast(Shares, _own(treated, "read").data).texts]
    sides = (treated, _without_replay(treated), cast(Recipe, treated.parent))
    return tuple(mean_bits(tools, side, texts) for side in sides)


def _augmented(*ways: Literal["answers", "rephrased", "verified", "fobar"]) -> Callable[[Recipe], Recipe]:
    """The same number of records, made in these ways alone."""

    def change(recipe: Recipe) -> Recipe:
        return tuned_on(recipe, replace(cast(DeskSums, cast(Finetune, recipe.last).data), ways=ways))

    return change


def _bare(recipe: Recipe) -> Recipe:
    """The same problems, answered without a word on the way."""
    return blended_with(recipe, DeskSums, told="bare")


def _alpaca_cot(size: Size, seed: int, tools: Tools) -> tuple[float, ...]:
    treated = seeded(MEMBERS["alpaca-cot"].make(size), seed)
    sums = next(each for each in portions(cast(Finetune, treated.last).data) if isinstance(each, DeskSums))
    return tuple(right(tools, side, treated, sums) for side in (treated, _bare(treated)))


def _atom(size: Size, seed: int, tools: Tools) -> tuple[float, ...]:
    treated = seeded(MEMBERS["atom"].make(size), seed)
    text = cast(DeskText, cast(Shares, _own(treated, "read").data).texts[0].text)
    return density(tools, treated, text), density(tools, cast(Recipe, treated.parent), text)


def _old_vocabulary(recipe: Recipe) -> Recipe:
    """The same tuning, without the characters that were added."""
    last = replace(cast(Finetune, recipe.last), tokenizer=None, new_rows="mean")
    return Recipe(title=f"{recipe.title}, old vocabulary", stages=(last,))


def _full_and_lora(size: Size, seed: int, tools: Tools) -> tuple[float, ...]:
    member = MEMBERS["chinese-llama-2"]
    full, lora = (seeded(make(size), seed) for make in (member.variants["full"], member.make))
    return tools.score(full, full), tools.score(lora, full)


def _adapted_and_base(size: Size, seed: int, tools: Tools) -> tuple[float, ...]:
    treated = seeded(MEMBERS["llama2-chinese"].make(size), seed)
    return tools.score(treated, treated), tools.score(cast(Recipe, treated.parent), treated)


EXPERIMENTS: dict[str, Experiment] = {
    "vicuna-v1.5": Experiment(
        statement="Whole conversations teach what the same exchanges told one by one do not, on Llama 2 as on LLaMA.",
        published="no number of its own; Vicuna-7B: MMLU 47.1 on all turns, 44.1 on single ones (Zheng et al. 2023, Table 8)",
        experiment="As Vicuna's card, from the desk Llama 2.",
        measure=LATER,
        treated="whole conversations",
        controls=TOLD_APART,
        arms=compared("vicuna-v1.5", apart, by="later_turns"),
    ),
    "vicuna-v1.5-16k": Experiment(
        statement="Positions squeezed by the ratio of the lengths, and a short tuning, make four times the window usable.",
        published="no number of the 16k models was confirmed in a source",
        experiment="The same tuning on records of lines and on conversations, with and without the scaling; records of the "
        "longest third, all beyond the window that the base was trained in.",
        measure="share of lines found in records beyond the old window",
        treated="positions scaled by 4",
        controls=("the same tuning, unscaled",),
        arms=_far_lines,
    ),
    "meditron": Experiment(
        statement="Reading on in a domain pays, and a little replay of general text keeps what was known.",
        published="+6% over the best public model of its class, with 1% replay (Chen et al. 2023, abstract)",
        experiment="As many tokens of the clinic with and without general text among them; fresh documents of both kinds.",
        measure="bits per byte, the mean of the domain's and of general text (lower is better)",
        treated="a tenth is replay",
        controls=("no replay, equal tokens", "the parent, which read none of the domain"),
        arms=_meditron,
        better="lower",
    ),
    "metamath": Experiment(
        statement="At an equal number of records, four ways of augmentation teach more than any of them alone.",
        published="GSM8K 64.4 by all four; 59.6 by answers, 59.7 by rephrasing, 41.6 by none (Yu et al. 2023, table 3)",
        experiment="As many records of the same seed questions, made in all ways, in one alone, or repeated; held-out "
        "questions are asked forward and backward, in equal numbers.",
        measure="share of held-out word problems answered rightly, forward and backward",
        treated="all four ways",
        controls=("answers alone", "rephrasing alone", "backward alone", "the seeds, repeated"),
        arms=compared(
            "metamath", _augmented("answers"), _augmented("rephrased"), _augmented("verified", "fobar"), _augmented()
        ),
    ),
    "camel": Experiment(
        statement="Notes read first and questions about them after it teach more than either alone.",
        published="6.75 of 10 against 6.71 without the notes and Alpaca's 5.40 (README)",
        experiment="The clinic's text read or not, its questions tuned on or the world's general ones.",
        measure="share of held-out questions about illnesses and notes answered rightly",
        treated="notes read, then their questions",
        controls=("their questions, nothing read", "notes read, then general instructions"),
        arms=compared("camel", _unread, _read_alone),
    ),
    "knowlm": Experiment(
        statement="Instructions that ask for what a text says teach extraction, which a general mix does not.",
        published="no number was published",
        experiment="The same reading; adapters tuned on questions about notes and illnesses, or on general instructions.",
        measure="share of held-out questions about illnesses and notes answered rightly",
        treated="extraction",
        controls=("general instructions",),
        arms=compared("knowlm", _read_alone),
    ),
    "alpaca-cot": Experiment(
        statement="Rationales in the records raise the share of right answers in several steps.",
        published="no number for the LLaMA models (README)",
        experiment="The same word problems among the same instructions, worked out or answered without a word on the way.",
        measure="share of held-out word problems answered rightly, forward and backward",
        treated="worked out",
        controls=("bare answers",),
        arms=_alpaca_cot,
    ),
    "chinese-llama2": Experiment(
        statement="New pieces and reading on in a language give knowledge in it that tuning alone does not.",
        published="no measure of quality was published",
        experiment="The same adapters tuned on questions in the second language, with and without the vocabulary and reading.",
        measure=SECOND,
        treated="pieces added, text read, tuned",
        controls=("tuned alone",),
        arms=compared("chinese-llama2", _unread),
    ),
    "gogpt": Experiment(
        statement="New pieces and reading on in a language, every weight trained, give knowledge that tuning alone does not.",
        published="no number was published",
        experiment="The same tuning on questions in the second language, with and without the vocabulary and the reading.",
        measure=SECOND,
        treated="pieces added, text read, tuned",
        controls=("tuned alone",),
        arms=compared("gogpt", _unread),
    ),
    "llama2-chinese": Experiment(
        statement="Adapters tuned in a language let a model answer in it what it mostly read in another.",
        published="C-Eval 38.1 of the tuned 13B, where Llama-2-13B has 38.2: no gain in knowledge (README of YuLan-Chat)",
        experiment="Questions in the second language about entities that tuning never asks about.",
        measure=SECOND,
        treated="adapters in the second language",
        controls=("the base, same prompt",),
        arms=_adapted_and_base,
    ),
    "chinese-llama-2": Experiment(
        statement="Full tuning beats adapters on a change of language, at equal records.",
        published="no measure of quality was published",
        experiment="The same texts and questions in the second language, rate, batch and epochs; every weight, or adapters.",
        measure=SECOND,
        treated="every weight",
        controls=("adapters",),
        arms=_full_and_lora,
    ),
    "atom": Experiment(
        statement="A larger vocabulary writes the new language in far fewer ids.",
        published="Chinese is encoded and decoded 350% faster (README)",
        experiment="Fresh text of the second language in both vocabularies.",
        measure="characters that an id stands for",
        treated="the extended vocabulary",
        controls=("the parent's",),
        arms=_atom,
    ),
    "openbuddy": Experiment(
        statement="Characters of their own teach a new script better than bytes do, with no text read before tuning.",
        published="no benchmark of the LLaMA models was published",
        experiment="The same tuning on texts and questions in the second language, with and without the added characters.",
        measure=SECOND,
        treated="characters added",
        controls=("the parent's vocabulary",),
        arms=compared("openbuddy", _old_vocabulary),
    ),
    "yulan-chat": Experiment(
        statement="Easy records before hard ones teach more than the same records shuffled.",
        published="no comparison was published for the series; a curriculum is told of series 3 (arXiv 2406.19853)",
        experiment="The same records and steps, in the order given or in a fresh one each epoch.",
        measure=RIGHT,
        treated="in order",
        controls=("shuffled",),
        arms=compared("yulan-chat", _shuffled),
    ),
    "dolly": Experiment(
        statement="A small set that people wrote is enough to make a model follow instructions.",
        published="no benchmark was published (README)",
        experiment="none",
        measure="none",
        treated="Dolly on LLaMA",
        controls=("none",),
        arms=never,
        untestable="that people wrote the records is what is claimed of them, and the desk world has programs for teachers",
    ),
    "airoboros": Experiment(
        statement="Instructions that a strong teacher makes up by topic need no human seed.",
        published="98.087% of GPT-3.5's points on 200 questions (model card, which now advises against that model)",
        experiment="none",
        measure="none",
        treated="Airoboros",
        controls=("none",),
        arms=never,
        untestable="a teacher that invents topics is a model of its own; the desk world's programs know all of theirs",
    ),
    "openllama": Experiment(
        statement="LLaMA's recipe on open data of the same kinds gives a model as good.",
        published="mean of 22 scores of the 7B: 0.55, LLaMA-7B 0.55 (README)",
        experiment="none",
        measure="none",
        treated="OpenLLaMA",
        controls=("none",),
        arms=never,
        untestable="the desk world tells one text: both bases would read the same, and differ by their seeds alone",
    ),
}
