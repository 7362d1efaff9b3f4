"""Every member, shrunk, is grown whole from its parent, opens in transformers and PEFT, resumes to the same bits, chats."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from camelid import tokenizers
from camelid.checkpoints import adapter, directory
from camelid.dialogue.message import Message
from camelid.dialogue.published import PLAIN
from camelid.dialogue.template import render
from camelid.evaluate.parity import held
from camelid.generate.answer import Answer
from camelid.generate.certificate import stored
from camelid.generate.chat import Chat
from camelid.generate.events import End, Token
from camelid.generate.loaded import load
from camelid.generate.settings import Settings
from camelid.grow import grow
from camelid.journal import Narrator, Report
from camelid.machine import Machine
from camelid.recipe import Finetune, Merge, Pretrain, Recipe
from camelid.recipes import MEMBERS
from camelid.request import Request
from camelid.run import Made, Outcome, Work
from camelid.store import Store
from camelid.train.interrupt import Interrupted

MACHINE = Machine(threads=1)
CLOSE = 2e-5  # float32 on both sides
SAID = "The answer"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One store for all, so that siblings share their base."""
    return Store(tmp_path_factory.mktemp("family"))


def work(name: str, store: Store, narrator: Narrator | None = None) -> Work:
    recipe = MEMBERS[name].make("tiny")
    return Work(Request(name, "tiny"), recipe, store, MACHINE, narrator or Narrator(quiet=True), 60.0)


def grown(name: str, store: Store) -> Outcome:
    recipe = MEMBERS[name].make("tiny")
    outcome = grow(Request(name, "tiny"), recipe, store=store, machine=MACHINE, narrator=Narrator(quiet=True))
    assert outcome is not None
    return outcome


def made(work: Work) -> Made:
    """The member, every stage of its line taken from the store or made."""
    return [work.make(owner, stage) for owner, stage in work.stages()][-1]


def adapters_of(recipe: Recipe) -> list[Pretrain | Finetune]:
    """The stages of a recipe that learn an adapter."""
    return [stage for stage in recipe.stages if isinstance(stage, Pretrain | Finetune) and stage.adapter is not None]


class Stopping(Narrator):
    """Asks the run to stop, as a person or a scheduler does, once half of its steps are done."""

    def __init__(self) -> None:
        super().__init__(quiet=True)

    @contextmanager
    def progress(self, title: str, total: float, unit: str = "steps") -> Iterator[Report]:
        def report(done: float, note: str = "") -> None:
            if done >= total / 2:
                signal.raise_signal(signal.SIGTERM)

        yield report


def said_by(run: Path, model: Path) -> dict[str, object]:
    """What a finished stage says but for when it was made: weights, adapter, journal."""
    checkpoint = directory.load(model)
    told = {name: fact for name, fact in checkpoint.provenance.items() if name != "made"}
    worn = run / "adapter" / "adapter_model.safetensors"
    return {
        "weights": checkpoint.digest,
        "adapter": worn.read_bytes() if worn.exists() else None,
        "journal": (run / "journal.jsonl").read_bytes(),
        "told": told,
    }


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_grows_from_its_parent_and_opens_in_transformers(name: str, store: Store) -> None:
    transformers = pytest.importorskip("transformers")
    outcome = grown(name, store)
    again = work(name, store)
    assert all(again.is_made(stage) for _, stage in again.stages()), "a second time, all of it is in the store"
    checkpoint = directory.load(outcome.model)
    assert checkpoint.provenance["member"] == name and checkpoint.provenance["training"]["skipped"] == 0
    last = outcome.recipe.last
    assert checkpoint.template == (last.prompt if isinstance(last, Finetune) else None)
    ids = torch.arange(24).reshape(1, -1) * 7 % checkpoint.shape.vocab
    theirs = transformers.AutoModelForCausalLM.from_pretrained(outcome.model, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(directory.build(checkpoint)(ids), theirs(ids).logits, atol=CLOSE, rtol=CLOSE)


def test_a_merge_is_grown_from_both_its_models_to_the_bit_and_certified(store: Store) -> None:
    recipe = MEMBERS["platypus"].variants["merged"]("tiny")
    half = recipe.last
    assert isinstance(half, Merge) and isinstance(recipe.parent, Recipe)
    added = replace(half, name="added", shares=(1.0, 1.0), parent=recipe.parent)
    for last, shares in ((half, (0.5, 0.5)), (added, (1.0, 1.0, -1.0))):
        asked = replace(recipe, stages=(*recipe.stages[:-1], last))
        outcome = grow(Request("", "tiny"), asked, store=store, machine=MACHINE, narrator=Narrator(quiet=True))
        assert outcome is not None and [name for name, _ in outcome.scores][1:] == [
            f"GPlatty tiny {stage.name}" for stage in asked.stages
        ]
        doing = Work(Request("", "tiny"), asked, store, MACHINE, Narrator(quiet=True), 60.0)
        models = [last.start, last.partner, *([last.parent] if last.parent else [])]
        parents = [dict(directory.load(doing.folder(model)).tensors()) for model in models]
        found = directory.load(outcome.model)
        for name, tensor in found.tensors().items():
            wanted = parents[0][name] * shares[0]
            for parent, share in zip(parents[1:], shares[1:], strict=True):
                wanted.add_(parent[name], alpha=share)
            assert torch.equal(tensor, wanted)
        noted = stored(found)
        assert noted is not None and held(noted, load(found.path, engine="pytorch")).exact
        assert found.provenance["stage"] == last.name and found.provenance["parents"][0]["share"] == shares[0]
        assert found.template == half.start.prompt  # type: ignore[union-attr]
        adapted = directory.load(doing.folder(last.start)).provenance
        assert (adapted["member"], adapted["title"]) == ("platypus", "Platypus tiny"), "its own name, shared or not"


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_stopped_in_the_middle_and_taken_up_again_ends_in_the_same_bits(name: str, store: Store) -> None:
    whole = made(work(name, store))
    expected = said_by(whole.run, whole.path)
    whole.path.rename(whole.path.with_name(f"whole-{whole.path.name}"))
    whole.run.rename(whole.run.with_name(f"whole-{whole.run.name}"))
    with pytest.raises(Interrupted) as stopped:
        made(work(name, store, Stopping()))
    assert 0 < stopped.value.step < len(expected["journal"].splitlines()), "in the middle"  # type: ignore[attr-defined]
    assert not whole.path.exists()
    resumed = made(work(name, store))
    assert resumed.fresh and resumed.path == whole.path
    assert said_by(resumed.run, resumed.path) == expected


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_is_asked_in_chat_what_it_was_tuned_on_and_stops_where_it_learned_to(name: str, store: Store) -> None:
    last = MEMBERS[name].make("tiny").last
    template = last.prompt if isinstance(last, Finetune) else PLAIN
    loaded = load(made(work(name, store)).path)
    prompt = loaded.prompt("Name a river.")
    learned = render(template, [Message("user", "Name a river."), Message("assistant", SAID)], loaded.tokenizer)
    (reply,) = learned.replies
    assert prompt.ids == tuple(learned.ids[: reply.start]), "the question is the one that was learned from"
    own = prompt.within(Settings(max_tokens=reply.end))
    answer = Answer(prompt.ids, own, loaded.tokenizer, room=reply.end, starts=prompt.starts)
    for id in learned.ids[reply.start : reply.end]:
        if answer.finish_reason is None:
            answer.add(id, 0.0)
    heard = answer.completion()
    assert heard.finish_reason == "stop" and template.content(heard.text) == SAID
    chat = Chat(loaded, Settings(max_tokens=3))
    *said, end = chat.say("Name a river.")
    assert isinstance(end, End) and all(isinstance(event, Token) for event in said)
    assert end.completion.prompt_ids == prompt.ids and len(chat.messages) == 2


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # PEFT asks transformers
@pytest.mark.parametrize("name", [name for name, member in MEMBERS.items() if adapters_of(member.make("tiny"))])
def test_the_adapter_of_a_member_opens_in_peft_with_the_logits_it_was_trained_to(name: str, store: Store) -> None:
    transformers = pytest.importorskip("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the import itself warns of is not ours
        peft = pytest.importorskip("peft")
    made(work(name, store))
    for stage in adapters_of(MEMBERS[name].make("tiny")):
        doing = work(name, store)
        base = directory.load(doing.folder(stage.start))
        run = store.run(stage.name, doing.mark(stage))
        merged = directory.load(store.stage(stage.name, doing.mark(stage)))
        theirs = transformers.AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
        if merged.shape.vocab > base.shape.vocab:
            assert tokenizers.load(run / "adapter").digest() == merged.tokenizer.digest()
            theirs.resize_token_embeddings(merged.shape.vocab, mean_resizing=False)
        theirs = peft.PeftModel.from_pretrained(theirs, run / "adapter").eval()
        mine = adapter.put_on(directory.build(base), adapter.load(run / "adapter", base)).eval()
        ids = torch.arange(24).reshape(1, -1) * 7 % merged.shape.vocab
        with torch.no_grad():
            found = theirs(ids).logits
            torch.testing.assert_close(mine(ids), found, atol=CLOSE, rtol=CLOSE)
            if getattr(stage, "base", None) is None:
                torch.testing.assert_close(directory.build(merged)(ids), found, atol=CLOSE, rtol=CLOSE)
