"""Every member, shrunk, is grown whole from its parent; its folder opens in transformers with the same logits."""

from __future__ import annotations

import pytest
import torch

from camelid.checkpoints import directory
from camelid.grow import grow
from camelid.journal import Narrator
from camelid.machine import Machine
from camelid.recipe import Finetune
from camelid.recipes import MEMBERS
from camelid.request import Request
from camelid.run import Outcome
from camelid.store import Store

MACHINE = Machine(threads=1)
CLOSE = 2e-5  # float32 on both sides


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One store for all, so that siblings share their base."""
    return Store(tmp_path_factory.mktemp("family"))


def grown(name: str, store: Store) -> Outcome:
    recipe = MEMBERS[name].make("tiny")
    return grow(Request(name, "tiny"), recipe, store=store, machine=MACHINE, narrator=Narrator(quiet=True))


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_grows_from_its_parent_and_opens_in_transformers(name: str, store: Store) -> None:
    transformers = pytest.importorskip("transformers")
    outcome = grown(name, store)
    assert not any(made.fresh for made in grown(name, store).made), "a second time, all of it is in the store"
    checkpoint = directory.load(outcome.model)
    assert checkpoint.provenance["member"] == name and checkpoint.provenance["training"]["skipped"] == 0
    last = outcome.recipe.last
    assert checkpoint.template == (last.prompt if isinstance(last, Finetune) else None)
    ids = torch.arange(24).reshape(1, -1) * 7 % checkpoint.shape.vocab
    theirs = transformers.AutoModelForCausalLM.from_pretrained(outcome.model, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(directory.build(checkpoint)(ids), theirs(ids).logits, atol=CLOSE, rtol=CLOSE)
