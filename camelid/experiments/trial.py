"""What an experiment is made of: a member, changed copies of it, and a measure; every seed has a world of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, cast

from camelid.evaluate.claim import Better
from camelid.journal import Narrator
from camelid.machine import Machine
from camelid.recipe import (
    Blend,
    DeskCalls,
    DeskConversations,
    DeskRecords,
    DeskText,
    Finetune,
    Instructions,
    Message,
    Pretrain,
    Recipe,
    Sequences,
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
from camelid.supply import HELD_OUT_CALLS, desk_texts, folded

if TYPE_CHECKING:
    from camelid.evaluate.requests import Called

T = TypeVar("T")
HELD_OUT_CONVERSATIONS = 60  # ours: 120 later turns, as many as half the held-out instructions
UNSEEN = 100_000  # ours: documents that no training reads are told by this seed and those above
UNSEEN_BYTES = 120_000
RIGHT = "share of held-out instructions answered rightly"
LATER = "share of held-out later turns answered rightly"


@dataclass(frozen=True)
class Experiment:
    """What is claimed and how it is measured; `arms` grows and scores the treated side first, then the controls.

    `untestable` gives the reason where the desk world cannot try the claim: nothing is grown then.
    """

    statement: str
    published: str
    experiment: str
    measure: str
    treated: str
    controls: tuple[str, ...]
    arms: Callable[[Size, int, Tools], tuple[float, ...]]
    at_least: float | None = None
    better: Better = "higher"
    untestable: str = ""


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
        written = [each.told for each in portions(last.data) if isinstance(each, DeskConversations)]
        fold = into_one if "folded" in written else None
        return later_turns(loaded, told, last.prompt.within(loaded.tokenizer), fold)

    def calls(self, recipe: Recipe, prompt_of: Recipe, *, changed: bool, manual: bool) -> Called:
        """How held-out requests are answered, of the library as it was or after every name has changed."""
        from camelid import desk
        from camelid.desk.apis import library, requests
        from camelid.evaluate.requests import called
        from camelid.generate.loaded import load

        last = cast(Finetune, prompt_of.last)
        data = cast(DeskCalls, last.data)
        world = desk.world(data.world, data.seed)
        asked = requests(world, "held_out", HELD_OUT_CALLS, seed=data.seed, changed=changed)
        known = {function.name for function in library(world, changed=changed)}
        loaded = load(self.grown(recipe), device=self.machine.device)
        return called(loaded, asked, last.prompt.within(loaded.tokenizer), known, manual=manual)

    def bits(self, recipe: Recipe, *, beyond: int = 0) -> float:
        """Bits per byte of documents that the base has not read, about the world that it has read of.

        With `beyond`, of long ones, and only of their tokens after so many.
        """
        from camelid.evaluate.unseen import bits_per_byte
        from camelid.generate.loaded import load

        data = cast(DeskText, cast(Pretrain, recipe.last).data)
        loaded = load(self.grown(recipe), device=self.machine.device)
        told = replace(data, bytes=UNSEEN_BYTES, draw=UNSEEN + data.seed)
        texts = [text for source in desk_texts(told).values() for text in source]
        return bits_per_byte(loaded, texts, beyond=beyond)


def into_one(said: list[Message]) -> list[Message]:
    """What was said, ending with a question, as the one user message of records whose history is folded in."""
    pairs = [said[place : place + 2] for place in range(0, len(said), 2)]
    return folded([*pairs[:-1], [*pairs[-1], Message("assistant", "")]])[:-1]


def size_of(recipe: Recipe) -> Size:
    """The size that a recipe's title names last."""
    return cast(Size, recipe.title.rpartition(" ")[2])


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


def tuned_on(recipe: Recipe, data: Instructions, *, equal_steps: bool = False, batch: int = 1) -> Recipe:
    """The recipe with other data; with `equal_steps`, for as many steps as before; `batch` times as many records a step."""
    last = cast(Finetune, recipe.last)
    changed = replace(last, data=data, batch=Sequences(last.batch.count * batch))
    if equal_steps:
        epochs, records = last.train, records_of(last.data)
        assert records is not None
        steps = epochs.count if isinstance(epochs, Steps) else -(-records // last.batch.count) * epochs.count
        changed = replace(changed, train=Steps(int(steps)))
    return replace(recipe, stages=(*recipe.stages[:-1], changed))


def tuned_with(recipe: Recipe, **settings: object) -> Recipe:
    """The recipe with other settings of its tuning."""
    last = replace(cast(Finetune, recipe.last), **settings)  # type: ignore[arg-type]
    return replace(recipe, stages=(*recipe.stages[:-1], last))


def blended_with(recipe: Recipe, kind: type, **fields: object) -> Recipe:
    """The recipe with other fields in each portion of its blend that is of a kind."""
    blend = cast(Blend, cast(Finetune, recipe.last).data)
    changed = tuple(
        replace(each, data=replace(each.data, **fields)) if isinstance(each.data, kind) else each  # type: ignore[arg-type]
        for each in blend.portions
    )
    return tuned_on(recipe, replace(blend, portions=changed))


def never(size: Size, seed: int, tools: Tools) -> tuple[float, ...]:
    """The arms of a claim that is not tried."""
    raise AssertionError("an untestable claim is not tried")
