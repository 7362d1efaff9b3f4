"""Tries a member's central claim in the desk world: the experiment, its controls, several seeds, a verdict.

Each seed has a world, a vocabulary, a base, a tuned model and controls of its own; nothing is shared but the recipe.
The card is kept as JSON in the store, with seeds, date, commit and machine.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Literal, TypeVar, cast

from camelid.durable import json_bytes, replace_file
from camelid.errors import Problem, UsageError, did_you_mean
from camelid.evaluate.claim import Arm, Better, ClaimCard, card, verdict
from camelid.journal import Narrator
from camelid.machine import Machine, describe
from camelid.recipe import (
    Blend,
    DeskConversations,
    DeskInstructions,
    DeskLines,
    DeskRecords,
    DeskSums,
    DeskTaught,
    DeskText,
    Finetune,
    Pretrain,
    Recipe,
    Sequences,
    Shares,
    Size,
    Steps,
    Tokens,
    portions,
    records_of,
)
from camelid.recipes import MEMBERS
from camelid.request import Request
from camelid.run import Work
from camelid.scoring import desk_score
from camelid.store import Store

T = TypeVar("T")
FRESH = 10_000  # ours: a seed of documents that no recipe reads
HELD_OUT_BYTES = 20_000  # ours: of each text
HELD_OUT_CONVERSATIONS = 60  # ours: 120 later turns, as many as half the held-out instructions


@dataclass(frozen=True)
class Experiment:
    """What is claimed and how it is measured; `arms` grows and scores the treated side first, then the controls."""

    statement: str
    published: str
    experiment: str
    measure: str
    treated: str
    controls: tuple[str, ...]
    at_least: float | None
    arms: Callable[[Size, int, Tools], tuple[float, ...]]
    better: Better = "higher"
    untestable: str = ""  # why no experiment of this size could refute the claim; `arms` is then never asked


@dataclass(frozen=True)
class Tools:
    """What an experiment may use."""

    store: Store
    machine: Machine
    narrator: Narrator

    def grown(self, recipe: Recipe) -> Path:
        """The model of a recipe, grown now unless the store holds it."""
        work = Work(Request(member="", size="claim"), recipe, self.store, self.machine, self.narrator, 60.0)
        return [work.make(owner, stage) for owner, stage in work.stages()][-1].path

    def score(self, recipe: Recipe, prompt_of: Recipe) -> float:
        """Share of held-out instructions answered rightly, asked in the template of `prompt_of`."""
        last = cast(Finetune, prompt_of.last)
        data = next(each for each in portions(last.data) if isinstance(each, DeskRecords))
        return desk_score(self.grown(recipe), last.prompt, data, self.machine).overall.share

    def right(self, recipe: Recipe, prompt_of: Recipe, data: DeskRecords) -> float:
        """Share of what is held out of `data` answered rightly, asked in the template of `prompt_of`."""
        prompt = cast(Finetune, prompt_of.last).prompt
        return desk_score(self.grown(recipe), prompt, data, self.machine).overall.share

    def bits(self, recipe: Recipe, texts: Sequence[DeskText]) -> float:
        """Bits per byte of fresh documents of each of these texts, their mean: each text counts alike."""
        from camelid import desk
        from camelid.evaluate.likelihood import texts as likelihoods
        from camelid.evaluate.likelihood import total
        from camelid.generate.loaded import load

        loaded = load(self.grown(recipe), device=self.machine.device)
        found = []
        for text in texts:
            world = desk.world(text.world, text.seed)
            told = [
                document.text
                for source in desk.sources(world, text.told).values()
                for document in source.documents(bytes=int(HELD_OUT_BYTES * source.weight / 100), seed=FRESH)
            ]
            found.append(total(likelihoods(loaded, told)).bits_per_byte)
        return fmean(found)

    def density(self, recipe: Recipe, text: DeskText) -> float:
        """Characters of a text that an id of the model's vocabulary stands for."""
        from camelid import desk, tokenizers

        tokenizer = tokenizers.load(self.grown(recipe))
        sources = desk.sources(desk.world(text.world, text.seed), text.told)
        told = [d.text for each in sources.values() for d in each.documents(bytes=HELD_OUT_BYTES, seed=FRESH)]
        return sum(map(len, told)) / sum(len(tokenizer.encode(each)) for each in told)

    def later_turns(self, recipe: Recipe, prompt_of: Recipe) -> float:
        """Share of held-out later turns answered rightly, asked in the template of `prompt_of`."""
        from camelid import desk
        from camelid.desk.conversations import conversations
        from camelid.evaluate.turns import later_turns
        from camelid.generate.loaded import load

        last = cast(Finetune, prompt_of.last)
        data = next(each for each in portions(last.data) if isinstance(each, DeskRecords))
        world = desk.world(data.world, data.seed)
        told = conversations(world, "held_out", HELD_OUT_CONVERSATIONS, seed=data.seed)
        loaded = load(self.grown(recipe), device=self.machine.device)
        return later_turns(loaded, told, last.prompt.within(loaded.tokenizer))


def seeded(value: T, seed: int) -> T:
    """The recipe with every seed in it, of worlds and of training alike, set to `seed`."""
    if isinstance(value, tuple):
        return cast(T, tuple(seeded(item, seed) for item in value))
    if not is_dataclass(value) or isinstance(value, type):
        return value
    changed = {
        f.name: seed if f.name == "seed" else seeded(getattr(value, f.name), seed) for f in fields(value) if f.init
    }
    return replace(value, **changed)


def read_more(base: Recipe, tuned: Recipe, tools: Tools) -> Recipe:
    """The control: the base reads plain text for as many more tokens as the tuning saw, at the tuning's own rate."""
    last, stage = cast(Finetune, tuned.last), cast(Pretrain, base.last)
    tokens = tokens_seen(tools.grown(tuned))
    batch = Tokens(min(stage.batch.count, max(stage.length, tokens)))
    steps = max(1, round(tokens / batch.count))
    more = replace(
        stage,
        name="read-more",
        start=base,
        batch=batch,
        train=Tokens(steps * batch.count),
        optim=last.optim,
        schedule=last.schedule,
        seed=stage.seed + 1000,
    )
    return Recipe(title=f"{base.title}, more text", stages=(more,))


def tokens_seen(folder: Path) -> int:
    """Tokens a stage was trained on, from the provenance of its model."""
    told = json.loads((folder / "camelid.json").read_text())
    return int(told["provenance"]["training"]["tokens"])


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


def compared(
    member: str, *controls: Callable[[Recipe], Recipe], by: Literal["score", "later_turns"] = "score"
) -> Callable[[Size, int, Tools], tuple[float, ...]]:
    """Arms that grow a member and changed copies of it, all from one base and scored alike."""

    def arms(size: Size, seed: int, tools: Tools) -> tuple[float, ...]:
        treated = MEMBERS[member].make(size)
        measure = tools.score if by == "score" else tools.later_turns
        sides = [seeded(side, seed) for side in (treated, *(change(treated) for change in controls))]
        return tuple(measure(side, sides[0]) for side in sides)

    return arms


def tuned_on(recipe: Recipe, data: DeskRecords, *, equal_steps: bool = False, batch: int = 1) -> Recipe:
    """The recipe with other data; with `equal_steps`, for as many steps as before; `batch` times as many records a step."""
    last = cast(Finetune, recipe.last)
    changed = replace(last, data=data, batch=Sequences(last.batch.count * batch))
    if equal_steps:
        epochs, records = last.train, records_of(last.data)
        assert records is not None
        steps = epochs.count if isinstance(epochs, Steps) else -(-records // last.batch.count) * epochs.count
        changed = replace(changed, train=Steps(int(steps)))
    return replace(recipe, stages=(*recipe.stages[:-1], changed))


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


def _apart(recipe: Recipe) -> Recipe:
    data = cast(Finetune, recipe.last).data
    assert isinstance(data, DeskConversations)
    return tuned_on(recipe, replace(data, told="apart"), batch=data.turns)


def _shuffled(recipe: Recipe) -> Recipe:
    last = replace(cast(Finetune, recipe.last), order="shuffled")
    return replace(recipe, stages=(*recipe.stages[:-1], last))


def _koala_all(recipe: Recipe) -> Recipe:
    size = cast(Size, recipe.title.rpartition(" ")[2])
    return MEMBERS["koala-all"].make(size)


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
    last = replace(cast(Finetune, recipe.last), scaling=None)
    return replace(recipe, title=f"{recipe.title}, unscaled", stages=(*recipe.stages[:-1], last))


def _far_lines(size: Size, seed: int, tools: Tools) -> tuple[float, ...]:
    """Lines found in records of the longest third of those tuned on, all of them longer than the parent's window."""
    treated = seeded(MEMBERS["vicuna-v1.5-16k"].make(size), seed)
    data = next(each for each in portions(cast(Finetune, treated.last).data) if isinstance(each, DeskLines))
    far = replace(data, fewest=2 * data.most // 3)
    return tools.right(treated, treated, far), tools.right(_unscaled(treated), treated, far)


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
    return tuple(tools.bits(side, texts) for side in sides)


def _augmented(*ways: Literal["answers", "rephrased", "verified", "fobar"]) -> Callable[[Recipe], Recipe]:
    """The same number of records, made in these ways alone."""

    def change(recipe: Recipe) -> Recipe:
        return tuned_on(recipe, replace(cast(DeskSums, cast(Finetune, recipe.last).data), ways=ways))

    return change


def _bare(recipe: Recipe) -> Recipe:
    """The same problems, answered without a word on the way."""
    blend = cast(Blend, cast(Finetune, recipe.last).data)
    changed = [
        replace(each, data=replace(each.data, told="bare")) if isinstance(each.data, DeskSums) else each
        for each in blend.portions
    ]
    last = replace(cast(Finetune, recipe.last), data=replace(blend, portions=tuple(changed)))
    return replace(recipe, stages=(*recipe.stages[:-1], last))


def _alpaca_cot(size: Size, seed: int, tools: Tools) -> tuple[float, ...]:
    treated = seeded(MEMBERS["alpaca-cot"].make(size), seed)
    sums = next(each for each in portions(cast(Finetune, treated.last).data) if isinstance(each, DeskSums))
    return tuple(tools.right(side, treated, sums) for side in (treated, _bare(treated)))


def _atom(size: Size, seed: int, tools: Tools) -> tuple[float, ...]:
    treated = seeded(MEMBERS["atom"].make(size), seed)
    text = cast(DeskText, cast(Shares, _own(treated, "read").data).texts[0].text)
    return tools.density(treated, text), tools.density(cast(Recipe, treated.parent), text)


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


def _never(size: Size, seed: int, tools: Tools) -> tuple[float, ...]:
    raise AssertionError("an untestable claim is not tried")


RIGHT = "share of held-out instructions answered rightly"
SECOND = "share of held-out questions in the second language answered rightly"
LATER = "share of held-out later turns answered rightly"
TOLD_APART = ("the same exchanges, each a record of its own, as many answers a step",)

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
        at_least=None,
        arms=compared("gpt-4-llm", _weaker_teacher),
    ),
    "alpagasus": Experiment(
        statement="The sixth of the records that a grader likes best teaches more than all, and more than a blind sixth.",
        published="9,229 of 52,002 records beat Alpaca on four test sets; a random 9,229 do not (Chen et al. 2023)",
        experiment="A teacher wrong in 60% of its answers; a grader that errs on one in twenty chooses 17.75% of them.",
        measure=RIGHT,
        treated="graded records",
        controls=("all records", "as many drawn blindly"),
        at_least=None,
        arms=compared("alpagasus", _all_records, _blind_choice),
    ),
    "lima": Experiment(
        statement="A few clean examples align a model better than many noisy ones.",
        published="equal or better than GPT-4 in 43% of cases; beats Alpaca-65B with 52 times less data (Zhou et al. 2023)",
        experiment="240 right records against 2,400 of which 30% are wrong, equal steps, and against 240 of that kind.",
        measure=RIGHT,
        treated="few and clean",
        controls=("ten times as many, noisy, equal steps", "as few, noisy"),
        at_least=None,
        arms=compared("lima", _many_noisy, _few_noisy),
    ),
    "koala-distill": Experiment(
        statement="Distilled conversations alone do as well as the same with six times as much noisy open data.",
        published="Koala-Distill slightly better than Koala-All (Geng et al. 2023, blog or repository); no number",
        experiment="1,500 clean records against the same and 2,400 of which 30% are wrong, two epochs each.",
        measure=RIGHT,
        treated="Koala-Distill",
        controls=("Koala-All",),
        at_least=None,
        arms=compared("koala-distill", _koala_all),
    ),
    "vicuna": Experiment(
        statement="Whole conversations teach what the same exchanges told one by one do not: to use what was said before.",
        published="Vicuna-7B: MMLU 47.1 on all turns, 44.1 on single turns; MT-bench 6.00, 6.04 (Zheng et al. 2023, Table 8)",
        experiment="The same exchanges whole and apart, equal steps and answers a step; later turns name no subject.",
        measure=LATER,
        treated="whole conversations",
        controls=TOLD_APART,
        at_least=0.2,  # facts, official.yaml, vicuna: at least 20 points
        arms=compared("vicuna", _apart, by="later_turns"),
    ),
    "ultralm": Experiment(
        statement="Simulated conversations of several turns keep later turns consistent where single turns do not.",
        published="9.02 against Vicuna-13B's 8.96, scored by GPT-4 (Ding et al. 2023, sections 3-5)",
        experiment="The same exchanges whole and apart, equal steps and answers a step, in UltraLM's template.",
        measure=LATER,
        treated="whole conversations",
        controls=TOLD_APART,
        at_least=None,
        arms=compared("ultralm", _apart, by="later_turns"),
    ),
}


EXPERIMENTS |= {
    "vicuna-v1.5": Experiment(
        statement="Whole conversations teach what the same exchanges told one by one do not, on Llama 2 as on LLaMA.",
        published="no number of its own; Vicuna-7B: MMLU 47.1 on all turns, 44.1 on single ones (Zheng et al. 2023, Table 8)",
        experiment="As Vicuna's card, from the desk Llama 2.",
        measure=LATER,
        treated="whole conversations",
        controls=TOLD_APART,
        at_least=None,
        arms=compared("vicuna-v1.5", _apart, by="later_turns"),
    ),
    "vicuna-v1.5-16k": Experiment(
        statement="Positions squeezed by the ratio of the lengths, and a short tuning, make four times the window usable.",
        published="no number of the 16k models was confirmed in a source",
        experiment="The same tuning on records of lines and on conversations, with and without the scaling; records of the "
        "longest third, all beyond the window that the base was trained in.",
        measure="share of lines found in records beyond the old window",
        treated="positions scaled by 4",
        controls=("the same tuning, unscaled",),
        at_least=None,
        arms=_far_lines,
    ),
    "meditron": Experiment(
        statement="Reading on in a domain pays, and a little replay of general text keeps what was known.",
        published="+6% over the best public model of its class, with 1% replay (Chen et al. 2023, abstract)",
        experiment="As many tokens of the clinic with and without general text among them; fresh documents of both kinds.",
        measure="bits per byte, the mean of the domain's and of general text (lower is better)",
        treated="a tenth is replay",
        controls=("no replay, equal tokens", "the parent, which read none of the domain"),
        at_least=None,
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
        at_least=None,
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
        at_least=None,
        arms=compared("camel", _unread, _read_alone),
    ),
    "knowlm": Experiment(
        statement="Instructions that ask for what a text says teach extraction, which a general mix does not.",
        published="no number was published",
        experiment="The same reading; adapters tuned on questions about notes and illnesses, or on general instructions.",
        measure="share of held-out questions about illnesses and notes answered rightly",
        treated="extraction",
        controls=("general instructions",),
        at_least=None,
        arms=compared("knowlm", _read_alone),
    ),
    "alpaca-cot": Experiment(
        statement="Rationales in the records raise the share of right answers in several steps.",
        published="no number for the LLaMA models (README)",
        experiment="The same word problems among the same instructions, worked out or answered without a word on the way.",
        measure="share of held-out word problems answered rightly, forward and backward",
        treated="worked out",
        controls=("bare answers",),
        at_least=None,
        arms=_alpaca_cot,
    ),
    "chinese-llama2": Experiment(
        statement="New pieces and reading on in a language give knowledge in it that tuning alone does not.",
        published="no measure of quality was published",
        experiment="The same adapters tuned on questions in the second language, with and without the vocabulary and reading.",
        measure=SECOND,
        treated="pieces added, text read, tuned",
        controls=("tuned alone",),
        at_least=None,
        arms=compared("chinese-llama2", _unread),
    ),
    "gogpt": Experiment(
        statement="New pieces and reading on in a language, every weight trained, give knowledge that tuning alone does not.",
        published="no number was published",
        experiment="The same tuning on questions in the second language, with and without the vocabulary and the reading.",
        measure=SECOND,
        treated="pieces added, text read, tuned",
        controls=("tuned alone",),
        at_least=None,
        arms=compared("gogpt", _unread),
    ),
    "llama2-chinese": Experiment(
        statement="Adapters tuned in a language let a model answer in it what it mostly read in another.",
        published="C-Eval 38.1 of the tuned 13B, where Llama-2-13B has 38.2: no gain in knowledge (README of YuLan-Chat)",
        experiment="Questions in the second language about entities that tuning never asks about.",
        measure=SECOND,
        treated="adapters in the second language",
        controls=("the base, same prompt",),
        at_least=None,
        arms=_adapted_and_base,
    ),
    "chinese-llama-2": Experiment(
        statement="Full tuning beats adapters on a change of language, at equal records.",
        published="no measure of quality was published",
        experiment="The same records in the second language, rate, batch and epochs; every weight, or adapters.",
        measure=SECOND,
        treated="every weight",
        controls=("adapters",),
        at_least=None,
        arms=_full_and_lora,
    ),
    "atom": Experiment(
        statement="A larger vocabulary writes the new language in far fewer ids.",
        published="Chinese is encoded and decoded 350% faster (README)",
        experiment="Fresh text of the second language in both vocabularies.",
        measure="characters that an id stands for",
        treated="the extended vocabulary",
        controls=("the parent's",),
        at_least=None,
        arms=_atom,
    ),
    "openbuddy": Experiment(
        statement="Characters of their own teach a new script better than bytes do, with no text read before tuning.",
        published="no benchmark of the LLaMA models was published",
        experiment="The same tuning in the second language, with and without the added characters.",
        measure=SECOND,
        treated="characters added",
        controls=("the parent's vocabulary",),
        at_least=None,
        arms=compared("openbuddy", _old_vocabulary),
    ),
    "yulan-chat": Experiment(
        statement="Easy records before hard ones teach more than the same records shuffled.",
        published="no comparison was published for the series; a curriculum is told of series 3 (arXiv 2406.19853)",
        experiment="The same records and steps, in the order given or in a fresh one each epoch.",
        measure=RIGHT,
        treated="in order",
        controls=("shuffled",),
        at_least=None,
        arms=compared("yulan-chat", _shuffled),
    ),
    "dolly": Experiment(
        statement="A small set that people wrote is enough to make a model follow instructions.",
        published="no benchmark was published (README)",
        experiment="none",
        measure="none",
        treated="Dolly on LLaMA",
        controls=("none",),
        at_least=None,
        arms=_never,
        untestable="that people wrote the records is what is claimed of them, and the desk world has programs for teachers",
    ),
    "airoboros": Experiment(
        statement="Instructions that a strong teacher makes up by topic need no human seed.",
        published="98.087% of GPT-3.5's points on 200 questions (model card, which now advises against that model)",
        experiment="none",
        measure="none",
        treated="Airoboros",
        controls=("none",),
        at_least=None,
        arms=_never,
        untestable="a teacher that invents topics is a model of its own; the desk world's programs know all of theirs",
    ),
    "openllama": Experiment(
        statement="LLaMA's recipe on open data of the same kinds gives a model as good.",
        published="mean of 22 scores of the 7B: 0.55, LLaMA-7B 0.55 (README)",
        experiment="none",
        measure="none",
        treated="OpenLLaMA",
        controls=("none",),
        at_least=None,
        arms=_never,
        untestable="the desk world tells one text: both bases would read the same, and differ by their seeds alone",
    ),
}


def try_claim(member: str, size: str, *, seeds: int, store: Store, machine: Machine, narrator: Narrator) -> ClaimCard:
    """The card of one member, every arm grown and scored for every seed. Raises UsageError for a member without one."""
    found = EXPERIMENTS.get(member)
    if found is None:
        raise UsageError([Problem(f"member {member!r}", "has no claim card yet", did_you_mean(member, EXPERIMENTS))])
    if found.untestable:
        return _carded(found, member, size, [], store)
    tools = Tools(store, machine, narrator)
    results: list[tuple[float, ...]] = []
    for seed in range(seeds):
        narrator.say(f"[bold]{member}: seed {seed + 1} of {seeds}[/]")
        results.append(found.arms(cast(Size, size), seed, tools))
        narrator.say(
            f"seed {seed}: " + ", ".join(f"{n} {v:.3f}" for n, v in zip(_names(found), results[-1], strict=True))
        )
    return _carded(found, member, size, results, store)


def _names(found: Experiment) -> tuple[str, ...]:
    return (found.treated, *found.controls)


def _carded(found: Experiment, member: str, size: str, results: Sequence[tuple[float, ...]], store: Store) -> ClaimCard:
    arms = [Arm(name, tuple(row[i] for row in results)) for i, name in enumerate(_names(found))]
    made = card(
        verdict(arms[0], arms[1:], at_least=found.at_least, better=found.better, untestable=found.untestable),
        statement=found.statement,
        published=found.published,
        experiment=found.experiment,
        measure=found.measure,
        seeds=tuple(range(len(results))),
        treated=arms[0],
        controls=tuple(arms[1:]),
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        commit=_commit(),
        machine=describe(),
    )
    folder = store.root / "claims"
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / f"{member}-{size}.json", json_bytes(made.data()))
    return made


def _commit() -> str:
    here = Path(__file__).resolve().parent
    found = subprocess.run(["git", "-C", str(here), "describe", "--always", "--dirty"], capture_output=True, text=True)
    return found.stdout.strip() or "not a git checkout"


def show_card(made: ClaimCard) -> None:
    """The card on standard output."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"[bold]{made.statement}[/]\npublished: {made.published}\nexperiment: {made.experiment}\n")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(made.measure)
    for seed in made.seeds:
        table.add_column(f"seed {seed}", justify="right")
    for arm in (made.treated, *made.controls):
        table.add_row(arm.name, *(f"{value:.3f}" for value in arm.results))
    console.print(table)
    console.print(
        f"\nverdict: [bold]{made.verdict}[/]. {made.why}\n[dim]{made.date}, commit {made.commit}, {made.machine}[/]"
    )
