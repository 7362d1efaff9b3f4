"""What a model can be asked at all: ids it has, and texts that fit its context."""

from __future__ import annotations

from collections.abc import Sequence

from camelid.errors import ProblemList
from camelid.generate.settings import Settings
from camelid.models.shape import LlamaShape


def reach(shape: LlamaShape) -> int:
    """How many ids a sequence may have: the shape's context, stretched where the rotations follow the length."""
    stretched = shape.scaling is not None and shape.scaling.kind == "dynamic" and shape.scaling.original is None
    return int(shape.context * shape.scaling.factor) if stretched and shape.scaling else shape.context


def check_prompts(shape: LlamaShape, prompts: Sequence[Sequence[int]], settings: Sequence[Settings]) -> None:
    """Raises UsageError naming each prompt that is empty, has ids the model lacks, or leaves no room for an answer."""
    problems, limit = ProblemList(), reach(shape)
    for index, (prompt, own) in enumerate(zip(prompts, settings, strict=True)):
        where = "prompt" if len(prompts) == 1 else f"prompt {index}"
        unknown = [id for id in prompt if not 0 <= id < shape.vocab]
        if not prompt:
            problems.add(where, "no ids at all", "give at least the token that begins a text")
        if unknown:
            found = f"id {unknown[0]} outside the model's {shape.vocab} ids"
            problems.add(where, found, "use the tokenizer that the model was trained with")
        if len(prompt) > limit or (own.max_tokens and len(prompt) == limit):
            found = f"{len(prompt)} ids leave no room in the model's context of {limit}"
            problems.add(where, found, "shorten the prompt; nothing is cut silently")
        for id in (id for id, _ in own.logit_bias if id >= shape.vocab):
            problems.add("logit_bias", f"id {id} outside the model's {shape.vocab} ids", "name ids of this model")
    problems.raise_usage()


def check_single(settings: Sequence[Settings]) -> None:
    """Raises UsageError for settings that ask for several answers to a prompt."""
    problems = ProblemList()
    for own in settings:
        for name in ("n", "best_of", "beams"):
            if getattr(own, name) > 1:
                found = f"{getattr(own, name)} answers where one is given"
                problems.add(name, found, "ask LanguageModel.generate or choices.complete_choices for several")
    problems.raise_usage()


def check_constraints(settings: Sequence[Settings]) -> None:
    """Raises UsageError for a constraint that is malformed."""
    for constraint in {own.constraint for own in settings if own.constraint is not None}:
        from camelid.generate.constrain import check

        check(constraint)
