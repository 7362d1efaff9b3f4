from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count, product

import pytest
import torch

from camelid.errors import UsageError
from camelid.generate import speculate
from camelid.generate.decode import End, complete, ended
from camelid.generate.settings import Constraint, Settings
from camelid.generate.speculate import Draft, Lookup, Odds, Tally, check_draft
from camelid.models.llama import Cache
from camelid.native.library import library
from camelid.native.llama import NativeLlama
from camelid.tokenizers.extend import with_pad
from tests.conftest import size
from tests.generate.stand_ins import BYTES, ForcedModel, small, small_tokenizer
from tests.generate.test_decode import SHAPE, grown, near, prompts_of

NATIVE = pytest.mark.skipif(library() is None, reason="no native kernels: no C compiler")


EAGER = pytest.mark.usefixtures("eager")


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guesses are made whatever they have lost, so that what they do to an answer is seen."""
    monkeypatch.setattr(speculate, "LOST", 1e9)
    monkeypatch.setattr(Odds, "plain_is_unknown", lambda *_: False)


class Wild:
    """Guesses anything, of any length; sometimes, as if by a miracle, what will be drawn."""

    free, cost, kind = True, 0.0, 0

    def __init__(self, seed: int, told: Sequence[int] = (), vocab: int = 61) -> None:
        self._chance, self._told, self._vocab = random.Random(seed), list(told), vocab

    def begin(self, prompt_ids: Sequence[int], settings: Settings, room: int, starts: bool) -> None:
        self._count = 0

    def said(self, id: int) -> None:
        self._count += 1

    def guess(self, most: int) -> list[int]:
        count = self._chance.randint(0, most) if most > 1 else most
        right = self._told[self._count : self._count + self._chance.randint(0, count)]
        return [*right, *(self._chance.randrange(self._vocab) for _ in range(count - len(right)))]


class Always(Wild):
    """Guesses one id, always, and is believed."""

    kind = 99

    def __init__(self, id: int) -> None:
        self._id = id

    def guess(self, most: int) -> list[int]:
        self.kind += 1  # a kind never seen
        return [self._id] * most


def any_settings(chance: random.Random) -> Settings:
    return Settings(
        max_tokens=chance.randint(1, 40), temperature=chance.choice([0.0, 0.7, 1.5]), top_k=chance.choice([0, 7]),
        top_p=chance.choice([1.0, 0.8]), typical_p=chance.choice([1.0, 0.9]), seed=chance.randrange(9),
        repetition_penalty=chance.choice([1.0, 1.2]), frequency_penalty=chance.choice([0.0, 0.4]),
        top_logprobs=chance.choice([0, 3]), stop_ids=tuple(chance.sample(range(61), 2)), prompt_logprobs=chance.random() < 0.2,
    )  # fmt: skip


@EAGER
@NATIVE
@pytest.mark.parametrize("seed", range(size(24)))
def test_through_the_kernels_every_guesser_gives_the_plain_answer_bit_for_bit(seed: int) -> None:
    chance = random.Random(seed)
    model = NativeLlama.of(grown(seed, spread=chance.choice([1, 5, 12])), chance.choice(["float32", "q8_0"]))
    prompt, own = prompts_of(seed, 1)[0], any_settings(chance)
    plain = complete(model, prompt, own)
    for guesser in (
        Wild(seed, plain.token_ids),
        Lookup(),
        Draft(model),
        Draft(NativeLlama.of(grown(seed + 1, spread=5))),
    ):
        tally = Tally()
        assert ended(speculate.generate(model, prompt, own, None, guesser, tally=tally)) == plain
        assert tally.given == len(plain.token_ids) and tally.right <= tally.guessed


@EAGER
@pytest.mark.parametrize("seed", range(size(8)))
def test_through_pytorch_ids_are_the_plain_ones(seed: int) -> None:
    chance = random.Random(seed)
    model, prompt, own = grown(seed, dtype=torch.float64, spread=5), prompts_of(seed, 1)[0], any_settings(chance)
    plain = complete(model, prompt, own)
    for guesser in (Wild(seed, plain.token_ids), Lookup(), Draft(grown(seed, dtype=torch.float32, spread=5))):
        found = ended(speculate.generate(model, prompt, own, None, guesser))
        near(found, plain, 1e-10)


@EAGER
def test_what_is_sampled_has_exactly_the_distribution_of_the_model() -> None:
    """Every answer of three ids over a vocabulary of four, with its exact probability; chi-square below its 1e-4 tail."""
    from camelid.models.shape import LlamaShape

    shape, draws = LlamaShape(1, 8, 2, 1, 4, 12, 4, 16), size(1000)
    model, draft = grown(1, shape, torch.float64, spread=60), grown(2, shape, torch.float64, spread=60)
    with torch.inference_mode():
        every = torch.tensor([[1, 2, *answer] for answer in product(range(4), repeat=3)])
        logs = torch.log_softmax(model(every).double(), -1)
        exact = logs[:, 1:4].gather(-1, every[:, 2:, None]).sum((1, 2)).exp().tolist()
    guesser, tally, counts = Draft(draft), Tally(), Counter[tuple[int, ...]]()
    guesser.free = True  # so that it guesses from the first id on
    for seed in range(draws):
        own = Settings(max_tokens=3, temperature=1.0, seed=seed)
        counts[ended(speculate.generate(model, [1, 2], own, None, guesser, tally=tally)).token_ids] += 1
    assert 0 < tally.right < tally.guessed
    expected = {answer: draws * p for answer, p in zip(product(range(4), repeat=3), exact, strict=True)}
    chi = sum((counts[answer] - count) ** 2 / count for answer, count in expected.items())
    assert chi < 117.0  # 63 degrees of freedom


@EAGER
def test_stops_text_and_cache_are_those_of_plain_decoding() -> None:
    script = BYTES.encode("a camel and a camel and a camel and né.stop")
    for own in (
        Settings(max_tokens=99, stop_texts=("el an",)),
        Settings(max_tokens=99, stop_ids=(script[-5],)),
        Settings(max_tokens=30),
        Settings(max_tokens=0),
    ):
        plain = complete(ForcedModel([script], BYTES.size), [0], own, BYTES)  # type: ignore[arg-type]
        model = ForcedModel([script], BYTES.size)
        events = list(speculate.generate(model, [0], own, BYTES, Lookup()))  # type: ignore[arg-type]
        assert isinstance(events[-1], End) and events[-1].completion == plain
        assert "".join(event.text for event in events[:-1]) == plain.text  # type: ignore[union-attr]


@EAGER
def test_a_cache_left_in_the_middle_holds_a_beginning_of_the_text() -> None:
    """As a conversation leaves it that is interrupted: what it holds is read on without being read anew."""
    model, prompt, own = grown(3, dtype=torch.float64, spread=5), [1, 2, 3], Settings(max_tokens=30)
    plain = complete(model, prompt, own)
    for left in range(1, 12):
        cache = Cache(SHAPE, 1, 40, torch.float64)
        events = speculate.generate(model, prompt, own, None, Wild(left, plain.token_ids), cache=cache)
        said = [next(events).id for _ in range(left)]  # type: ignore[union-attr]
        events.close()  # type: ignore[attr-defined]
        whole = [*prompt, *plain.token_ids]
        assert said == whole[3 : 3 + left]
        cache.rollback(min(cache.lengths[0], 3 + left))
        held = cache.lengths[0]
        again = complete(model, whole[: held + 1], Settings(max_tokens=5))
        more = Settings(max_tokens=5)
        on = ended(speculate.generate(model, whole[: held + 1], more, None, Lookup(), cache=cache))
        assert on.token_ids == again.token_ids


@EAGER
def test_constrained_answers_are_guessed_within_their_constraint() -> None:
    pytest.importorskip("llguidance", reason="llguidance is absent: pip install camelid[constraints]")
    loaded = small(seed=5)
    own = Settings(
        max_tokens=60, temperature=1.0, seed=2, stop_ids=(loaded.tokenizer.eos,),
        constraint=Constraint("regex", "(to be or not|Mila lives){2,6}[.]"),
    )  # fmt: skip
    tally = Tally()
    for starts in (False, True):
        plain = complete(loaded.model, [1, 9], own, loaded.tokenizer, starts=starts)
        for guesser in (Lookup(), Draft(small(seed=5).model, loaded.tokenizer), Wild(3, plain.token_ids)):
            guesser.free = True
            ask = (loaded.model, [1, 9], own, loaded.tokenizer, guesser)
            near(ended(speculate.generate(*ask, starts=starts, tally=tally)), plain, 1e-10)
    assert tally.right > 20


@EAGER
@NATIVE
def test_what_fails_in_a_draft_or_behind_a_wrong_guess_does_not_touch_the_answer() -> None:
    model, own = grown(3, spread=5), Settings(max_tokens=20)
    plain = complete(NativeLlama.of(model), [1, 2, 3], own)
    damaged = grown(3)
    with torch.no_grad():
        damaged.model.norm.weight[0] = float("nan")
        wrong = next(id for id in range(61) if id not in plain.token_ids)
        model.model.embed_tokens.weight[wrong] = float("nan")  # only a wrong guess ever reads it
    for guesser in (Draft(damaged), Draft(grown(4, replace(SHAPE, vocab=4))), Always(wrong)):
        guesser.free = True
        tally = Tally()
        found = ended(speculate.generate(NativeLlama.of(model), [1, 2, 3], own, None, guesser, tally=tally))
        assert found == plain
        assert tally.right == 0 and (tally.guessed > 0) == isinstance(guesser, Always)


def test_a_lookup_guesses_what_followed_the_last_ids_before_and_goes_round_in_loops() -> None:
    lookup = Lookup()
    lookup.begin([1, 2, 3, 9, 5, 1, 2, 3, 7, 8, 4, 1, 2, 3], Settings(), 9, False)
    assert lookup.guess(3) == [7, 8, 4] and lookup.kind == 3
    lookup.begin([4, 5, 6, 4, 5, 6, 4, 5], Settings(), 9, False)
    assert lookup.guess(7) == [6, 4, 5, 6, 4, 5, 6] and lookup.kind == 5
    lookup.begin([1, 2, 3, 2, 3], Settings(), 9, False)
    assert lookup.guess(3) == []
    lookup.begin([7] * 40, Settings(), 9, False)
    assert lookup.guess(4) == [7] * 4 and lookup.kind == 8


def test_odds_guess_more_the_more_often_guesses_are_right_and_nothing_that_does_not_pay() -> None:
    odds = Odds()
    for rows in range(1, 20):
        for _ in range(5):
            odds.took(rows, 1.0 + 0.05 * (rows - 1))
    lengths = []
    for right in (0.0, 0.2, 0.5, 0.8, 0.95):
        odds.right[0] = right
        lengths.append(odds.best(0, 0.0))
    assert lengths == sorted(lengths) and lengths[0] == 0 and lengths[-1] == 16
    assert odds.best(0, 2.0) == 0, "guesses that cost two passes each"
    for _ in range(60):
        odds.saw(0, 0, 1)
    assert odds.best(0, 0.0) == 0


class Given:
    """Guesses whose fate is drawn elsewhere; those of a draft cost time."""

    kind = 5

    def __init__(self, cost: float) -> None:
        self.free, self.cost, self._real = cost == 0, 0.0, cost

    def guess(self, most: int) -> list[int]:
        self.cost = self._real
        return [0] * most


def played(
    seed: int, cost: float, right: Callable[[int], float], seconds: Callable[[int, random.Random], float]
) -> float:
    """How many times faster 400 ids come than without guesses, where passes of n rows take `seconds` of n and the guess
    for place i is right with probability `right` of i. A pass of one row takes at a place what it takes without guesses."""
    chance = random.Random(seed)
    turn = speculate._Turn(Given(cost), Odds(speculate.UNSEEN if cost == 0 else speculate.HOPED))  # type: ignore[arg-type]
    said, spent = 0, 0.0
    while said < 400:
        guesses = turn.guess(16)
        taken = seconds(1 + len(guesses), random.Random(f"{seed} {said}"))
        turn.odds.took(1 + len(guesses), taken)
        agreed = next((n for n in range(len(guesses)) if chance.random() >= right(said + n)), len(guesses))
        turn.saw(agreed, len(guesses), int(chance.random() >= right(said)))
        if not turn.reads:
            turn.odds.settle(agreed + 1, taken + cost * len(guesses), guessed=turn.tried)
        said, spent = said + agreed + 1, spent + taken + cost * len(guesses)
    return sum(seconds(1, random.Random(f"{seed} {place}")) for place in range(said)) / spent


MACHINES: dict[str, Callable[[int, random.Random], float]] = {
    "rows for nothing": lambda rows, _: 1 + 0.04 * (rows - 1),
    "rows at a quarter": lambda rows, _: 1 + 0.25 * (rows - 1),
    "rows for their price": lambda rows, _: 1 + 0.9 * (rows - 1),
    "noise": lambda rows, chance: (1 + 0.1 * (rows - 1)) * chance.lognormvariate(0, 0.3),
    "others at work": lambda rows, chance: (1 + 0.05 * (rows - 1)) * (8 if rows > 1 and chance.random() < 0.3 else 1),
    "busy cores": lambda rows, chance: (1 + 0.05 * (rows - 1)) * (30 if chance.random() < min(0.1 * rows, 0.3) else 1),
}
TEXTS: dict[str, Callable[[int], float]] = {
    "free": lambda _: 0.0,
    "seldom": lambda _: 0.1,
    "half": lambda _: 0.5,
    "loops": lambda _: 0.97,
    "by turns": lambda place: 0.97 * (place // 50 % 2),
}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("cost", [0.0, 0.2, 1.0])
def test_guessing_is_never_below_95_hundredths_of_plain_whatever_passes_cost(cost: float, machine: str) -> None:
    """Against drawn seconds, not those of this machine; the median of nine texts, each of them where nothing is drawn."""
    for name, right in TEXTS.items():
        found = sorted(played(seed, cost, right, MACHINES[machine]) for seed in range(9))
        assert found[4] > 0.95, f"{name}: {found}"
        if machine.startswith("rows") or machine == "busy cores":
            assert found[0] > 0.93, f"{name}: {found}"
        if name == "loops" and machine in ("rows for nothing", "noise") and cost < 1:
            assert found[4] > 1.6, found


def test_a_loop_costs_few_passes_and_text_without_one_no_more_than_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speculate, "clock", count(step=1e-3).__next__)  # every pass takes as long, whatever its rows
    loop = BYTES.encode("round and ") * 20
    tally = Tally()
    model = ForcedModel([loop], BYTES.size)
    ended(speculate.generate(model, [0], Settings(max_tokens=200), BYTES, Lookup(), tally=tally))  # type: ignore[arg-type]
    assert tally.given == 200 and tally.passes < 80
    chance, tally = random.Random(1), Tally()
    model = ForcedModel([[chance.randrange(2, 258) for _ in range(200)]], BYTES.size)
    ended(speculate.generate(model, [0], Settings(max_tokens=200), BYTES, Lookup(), tally=tally))  # type: ignore[arg-type]
    assert tally.guessed <= 2


def test_a_draft_of_other_ids_is_refused() -> None:
    tokenizer = small_tokenizer()
    check_draft(tokenizer, with_pad(tokenizer, "[PAD]"))
    with pytest.raises(UsageError, match=r"draft: its id 0 is .* where the model's is"):
        check_draft(tokenizer, BYTES)
