"""The dialogues that a recipe's data names: out of files, out of the desk world, or blended from several of these."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from camelid.data.source import Dialogue, Rejected
from camelid.desk.apis import Request
from camelid.desk.instructions import Item
from camelid.desk.sources import Source
from camelid.dialogue.template import Template
from camelid.errors import Problem, UsageError
from camelid.randomness import key, order
from camelid.recipe import (
    Blend,
    DeskCalls,
    DeskConversations,
    DeskInstructions,
    DeskLines,
    DeskRecords,
    DeskSums,
    DeskText,
    DeskTrees,
    Distinct,
    Fields,
    Instructions,
    Message,
    Portion,
    Released,
    Table,
    Trees,
)

HELD_OUT_CALLS = 240  # ours: as many as held-out instructions of the small world


def supplied(
    data: Instructions, template: Template, where: str, notes: list[str], fields: Fields | None = None
) -> list[Dialogue]:
    """The dialogues of `data`, worded so that `template` can express the desk world's; what was lost goes to `notes`.

    `fields` are the columns of tables in none of the known formats.

    Raises UsageError for published data that is not part of this package, BadData and BadFile as its readers do.
    """
    if isinstance(data, Blend):
        return [dialogue for each in data.portions for dialogue in portion(each, template, where, notes, fields)]
    if isinstance(data, Distinct):
        return distinct(data, template, where, notes, fields)
    if isinstance(data, Trees):
        from camelid.data.trees import Pruned, conversations

        pruned = Pruned()
        found = list(conversations(data.path, best=data.best, languages=data.languages, pruned=pruned))
        notes += [f"{Path(data.path).name}: {line}" for line in pruned.lines()]
        return found
    if isinstance(data, Table):
        from camelid.data.source import dialogues

        rejected = Rejected()
        read = list(dialogues(data.path, fields=fields, first=data.first, bad_rows=data.bad_rows, rejected=rejected))
        notes += [f"{rejected.count} rows of {data.path} cannot be used"] * bool(rejected.count)
        return read
    if isinstance(data, DeskRecords):
        return [Dialogue(messages, f"desk record {number}") for number, messages in enumerate(_desk(data, template), 1)]
    found_words = f"{data.name} is not part of this package" if isinstance(data, Released) else "its teacher is retired"
    raise UsageError([Problem(f"{where}.data", found_words, "supply records with --data")])


def portion(
    given: Portion, template: Template, where: str, notes: list[str], fields: Fields | None = None
) -> list[Dialogue]:
    """A portion's dialogues: so many times over, a part of an epoch and a cap by a keyed choice that keeps their order.

    Raises UsageError for epochs or a cap that give nothing.
    """
    if not (math.isfinite(given.epochs) and given.epochs > 0) or (given.most is not None and given.most < 1):
        found = f"{given.epochs} epochs, at most {given.most} records"
        raise UsageError([Problem(f"{where}.data", found, "give each portion a number above zero")])
    all = supplied(given.data, template, where, notes, fields)
    most = len(all) if given.most is None else min(given.most, len(all))
    if most < len(all):
        notes.append(f"{len(all) - most} of {len(all)} records of {_name(given.data)} are beyond its cap")
    chosen = _chosen(all, most, _name(given.data))
    whole, part = divmod(given.epochs, 1)
    return chosen * int(whole) + _chosen(chosen, round(part * len(chosen)), f"{_name(given.data)} part")


def distinct(
    given: Distinct, template: Template, where: str, notes: list[str], fields: Fields | None = None
) -> list[Dialogue]:
    """The dialogues that are like no earlier one and like no held-out one, in their order; who went, and why, in `notes`.

    Raises UsageError for a bound that is no cosine.
    """
    from camelid.data.similarity import alike, hashed, leaked

    told = supplied(given.data, template, where, notes, fields)
    longest: dict[str, Dialogue] = {}
    for dialogue in told:
        question = _question(dialogue)
        if question not in longest or _answer(dialogue) > _answer(longest[question]):
            longest[question] = dialogue  # where the first of them stood
    read = list(longest.values())
    others = [] if given.apart_from is None else supplied(given.apart_from, template, where, notes, fields)
    vectors = hashed([_question(dialogue) for dialogue in [*read, *others]])
    sieved = alike(vectors[: len(read)], given.alike)
    leaks = {leak.text for leak in leaked(vectors[: len(read)], vectors[len(read) :], given.alike)}
    kept = [read[place] for place in sieved.kept if place not in leaks]
    notes.append(
        f"{len(told)} records: {len(told) - len(read)} ask what another asks with a longer answer, {len(sieved.removed)} "
        f"are too like an earlier one, {len(leaks)} too like a held-out one; {len(kept)} are kept"
    )
    return kept


def _question(dialogue: Dialogue) -> str:
    """The first user message, input and all."""
    user = next(message for message in dialogue if message.role == "user")
    return f"{user.content}\n{user.input}" if user.input else user.content


def _answer(dialogue: Dialogue) -> int:
    return sum(len(message.content) for message in dialogue if message.role == "assistant")


def _chosen(all: Sequence[Dialogue], amount: int, words: str) -> list[Dialogue]:
    if amount == len(all):
        return list(all)
    places = order(key("portion", words), len(all))
    return [all[place] for place in sorted(places[turn] for turn in range(amount))]


def _name(data: object) -> str:
    return str(getattr(data, "path", "") or getattr(data, "name", "") or type(data).__name__)


def _desk(data: DeskRecords, template: Template) -> Iterator[list[Message]]:
    from camelid import desk

    world = desk.world(data.world, data.seed)
    if isinstance(data, DeskConversations):
        from camelid.desk.conversations import conversations

        for turns in conversations(world, "train", data.count, turns=data.turns, seed=data.seed):
            pairs = [[asked(turn.item, template), Message("assistant", turn.item.output)] for turn in turns]
            if data.told == "folded":
                yield from (folded(pairs[: place + 1]) for place in range(len(pairs)))
            else:
                yield from pairs if data.told == "apart" else [[message for pair in pairs for message in pair]]
        return
    if isinstance(data, DeskInstructions | DeskSums | DeskLines):
        for item in items(data, "train", data.count):
            yield [asked(item, template), Message("assistant", item.output)]
        return
    if isinstance(data, DeskCalls):
        from camelid.desk.apis import requests

        for each in requests(world, "train", data.count, seed=data.seed, wrong=data.wrong):
            yield [Message("user", each.asked, each.manual if data.manual else ""), Message("assistant", each.call)]
        return
    from camelid.desk.teachers import kept, ranked, taught, threads

    if isinstance(data, DeskTrees):
        for replies in threads(world, data.count, data.replies, seed=data.seed, wrong=data.wrong):
            for record in ranked(replies, data.best or data.replies, data.by):
                yield [asked(record.item, template), Message("assistant", record.answer)]
        return
    records = taught(world, data.count, seed=data.seed, wrong=data.wrong)
    for record in records if data.kept is None else kept(records, data.kept, data.by, seed=data.seed):
        mark = "poor" if data.marked and not record.right else ""
        yield [asked(record.item, template), Message("assistant", record.answer, mark=mark)]


def desk_sources(data: DeskText) -> Mapping[str, Source]:
    """The sources of a text of the desk world, by name."""
    from camelid import desk

    return desk.sources(desk.world(data.world, data.seed), data.told)


def desk_texts(data: DeskText, most: int | None = None) -> dict[str, Iterator[str]]:
    """The texts of the desk world by source, all of them or about `most` bytes in the sources' proportions."""
    amount = min(data.bytes, most or data.bytes)
    seed = data.seed if data.draw is None else data.draw
    return {
        name: joined(
            (told.text for told in source.documents(bytes=int(amount * source.weight / 100), seed=seed)), data.joined
        )
        for name, source in desk_sources(data).items()
    }


def joined(texts: Iterable[str], count: int) -> Iterator[str]:
    """So many texts in a row as one, a blank line between them."""
    rest = iter(texts)
    while part := list(itertools.islice(rest, count)):
        yield "\n\n".join(part)


def _wanted(request: Request, manual: bool) -> Item:
    """A request as an item that is judged by its call alone."""
    function = request.function
    shown = request.manual if manual else ""
    return Item(request.asked, shown, request.call, "calls", function.name.partition("_")[0], function.kind)


def items(data: DeskRecords, split: Literal["train", "held_out"], count: int | None = None) -> list[Item]:
    """The items of a kind of desk record: those that are learned, or those held out from them, which scores are made on.

    What conversations and imperfect teachers are scored on are the world's own instructions.
    """
    from camelid import desk

    world = desk.world(data.world, data.seed)
    if isinstance(data, DeskCalls):
        from camelid.desk.apis import requests

        return [_wanted(each, data.manual) for each in requests(world, split, count or HELD_OUT_CALLS, seed=data.seed)]
    if isinstance(data, DeskSums):
        from camelid.desk.problems import problems

        return problems(world, split, count, seeds=data.seeds, ways=data.ways, told=data.told, seed=data.seed)
    if isinstance(data, DeskLines):
        from camelid.desk.lines import lines

        return lines(world, split, count, fewest=data.fewest, most=data.most, seed=data.seed)
    told = data.told if isinstance(data, DeskInstructions) else "world"
    if told == "clinic":
        from camelid.desk.clinic import clinic

        return clinic(world).instructions(split, count, data.seed)
    if told == "second language":
        from camelid.desk.second import second_instructions

        return second_instructions(world, split, count, data.seed)
    if told == "second reading":
        from camelid.desk.foreign import foreign

        return foreign(world, split, count, data.seed)
    families = data.families if isinstance(data, DeskInstructions) else ()
    return desk.instructions(world, split, count, data.seed, families)


def folded(pairs: Sequence[Sequence[Message]]) -> list[Message]:
    """The last exchange as a record: what was said before in the instruction, the question in the input."""
    *before, (question, answer) = pairs
    history = [f"User: {said.content}\nAssistant: {reply.content}" for said, reply in before]
    return [Message("user", "\n".join(history), f"User: {question.content}"), answer]


def asked(item: Item, template: Template) -> Message:
    """The item as a user message that the template can express: its input beside it, else on a line below."""
    if item.input and not template.user_with_input:
        return Message("user", f"{item.instruction}\n{item.input}")
    return Message("user", item.instruction, item.input)
