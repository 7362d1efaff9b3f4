from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from camelid.errors import UsageError
from camelid.generate.beams import search
from camelid.generate.choices import best, branches, complete_choices, mean
from camelid.generate.decode import complete, complete_all, generate
from camelid.generate.loaded import Prompt
from camelid.generate.settings import Settings
from camelid.native.library import library, state
from camelid.native.llama import NativeLlama
from camelid.nn.paged import CacheKind, PagedCache
from tests.conftest import size
from tests.generate.stand_ins import BYTES, ForcedModel, small
from tests.generate.test_decode import SHAPE, grown, prompts_of, theirs


@pytest.mark.parametrize("seed", range(size(10)))
def test_beams_are_those_of_transformers_with_their_scores(seed: int) -> None:
    """Stop ids that come often, penalties of both signs, one beam more or less than the vocabulary allows."""
    chance = random.Random(seed)
    model, prompt = grown(seed, spread=6), prompts_of(seed, 1, 12)[0]
    beams = chance.choice([2, 3, 5, 8])
    ends = tuple(chance.sample(range(61), chance.randint(1, 6)))
    penalty, tokens = chance.choice([1.0, 0.0, 2.0, -0.5]), chance.randint(1, 16)
    own = Settings(max_tokens=tokens, beams=beams, n=chance.randint(1, beams), length_penalty=penalty, stop_ids=ends)
    given = torch.tensor([prompt])
    told = theirs(model).generate(
        given, attention_mask=torch.ones_like(given), max_new_tokens=tokens, num_beams=beams, do_sample=False,
        num_return_sequences=own.n, length_penalty=penalty, eos_token_id=list(ends), early_stopping=False,
        pad_token_id=60, return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    found = search(model, prompt, own)
    assert len(found) == own.n
    for ours, ids, score in zip(found, told.sequences, told.sequences_scores, strict=True):
        assert list(ours.completion.token_ids) == ids[len(prompt) :][: len(ours.completion.token_ids)].tolist()
        assert all(id == 60 for id in ids[len(prompt) + len(ours.completion.token_ids) :].tolist())
        assert ours.score == pytest.approx(score.item(), abs=2e-5)
        total = sum(ours.completion.logprobs)
        assert ours.score == pytest.approx(total / len(ours.completion.token_ids) ** penalty, abs=1e-9)


def test_as_many_beams_as_ids_find_the_likeliest_answer_of_all() -> None:
    """Against every sequence there is: two steps over a small vocabulary, no end but the length."""
    model = grown(3, spread=6)
    with torch.inference_mode():
        first = torch.log_softmax(model(torch.tensor([[5, 9]]))[0, -1].double(), -1)
        second = torch.log_softmax(model(torch.tensor([[5, 9, id] for id in range(61)]))[:, -1].double(), -1)
    totals = (first[:, None] + second).reshape(-1)
    ranked = totals.topk(4)
    found = search(model, [5, 9], Settings(max_tokens=2, beams=61, n=4, length_penalty=0.0))
    assert [beam.completion.token_ids for beam in found] == [divmod(place, 61) for place in ranked.indices.tolist()]
    assert [beam.score for beam in found] == pytest.approx(ranked.values.tolist(), abs=1e-5)


@pytest.mark.skipif(library() is None, reason="no native kernels: no C compiler")
def test_beams_through_the_kernels_are_those_through_pytorch() -> None:
    model, own = grown(2, spread=6), Settings(max_tokens=9, beams=4, n=4, stop_ids=(3, 4, 5))
    for prompt in prompts_of(2, 4, 9):
        ours = [beam.completion.token_ids for beam in search(NativeLlama.of(model), prompt, own)]
        assert ours == [beam.completion.token_ids for beam in search(model, prompt, own)]


@pytest.mark.parametrize("cache", ["float", "int8"])
def test_beams_share_pages_and_never_write_into_each_others(cache: CacheKind, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each beam's log-probabilities are those of its ids read alone, to the bit, with few pages beyond one text's."""
    if library() is None:
        pytest.skip(state())
    made: list[int] = []
    grow = PagedCache.grow
    monkeypatch.setattr(PagedCache, "grow", lambda self, pages: (made.append(pages), grow(self, pages))[1])
    model = NativeLlama.of(grown(7, replace(SHAPE, context=128), spread=4), "q8_0")
    prompt, own = [1, 2, 3] * 12, Settings(max_tokens=45, beams=5, n=5)
    found = search(model, prompt, own, cache=cache)
    assert len({beam.completion.token_ids for beam in found}) == 5
    longest = -(-(len(prompt) + 45) // 16)
    assert max(made) <= longest + 2 * 5 < 5 * longest, "what they have in common is held once"
    for beam in found:
        whole = (*prompt, *beam.completion.token_ids)
        alone = complete(model, whole, Settings(max_tokens=0, prompt_logprobs=True), cache=cache)
        assert alone.prompt_logprobs is not None
        assert alone.prompt_logprobs[len(prompt) :] == pytest.approx(beam.completion.logprobs, abs=1e-5)


def test_a_beam_ends_at_a_stop_text_and_at_the_end_of_the_room() -> None:
    script = BYTES.encode("yes. No")
    model = ForcedModel([script], BYTES.size)
    ended = complete_choices(model, [0], Settings(max_tokens=7, beams=2, stop_texts=(".",)), BYTES)[0]  # type: ignore[arg-type]
    assert (ended.text, ended.finish_reason) == ("yes", "stop")
    whole = complete_choices(model, [0], Settings(max_tokens=7, beams=2), BYTES)[0]  # type: ignore[arg-type]
    assert (whole.text, whole.finish_reason) == ("yes. No", "length")
    assert complete_choices(model, [0], Settings(max_tokens=0, beams=2), BYTES)[0].token_ids == ()  # type: ignore[arg-type]


def test_n_answers_are_requests_of_their_own_and_the_first_is_the_one_given_alone() -> None:
    loaded = small(seed=1, spread=4)
    own = Settings(max_tokens=8, temperature=1.0, seed=3, n=4)
    found = complete_choices(loaded.model, [1, 7], own, loaded.tokenizer)
    alone = [complete(loaded.model, [1, 7], branch, loaded.tokenizer) for branch in branches(own)]
    assert [one.token_ids for one in found] == [one.token_ids for one in alone] and len(found) == 4
    single = Settings(max_tokens=8, temperature=1.0, seed=3)
    assert found[0].token_ids == complete(loaded.model, [1, 7], single, loaded.tokenizer).token_ids
    assert len({one.token_ids for one in found}) > 1
    fewer = branches(Settings(temperature=1.0, seed=3, n=2))
    assert fewer == tuple(branch for branch in branches(Settings(temperature=1.0, seed=3, n=4)))[:2]


def test_the_best_of_many_are_those_of_the_highest_mean_log_probability() -> None:
    loaded = small(seed=2, spread=4)
    own = Settings(max_tokens=6, temperature=1.5, seed=3, n=2, best_of=7)
    all = complete_choices(loaded.model, [1, 7], Settings(max_tokens=6, temperature=1.5, seed=3, n=7), loaded.tokenizer)
    found = complete_choices(loaded.model, [1, 7], own, loaded.tokenizer)
    assert [mean(one) for one in found] == pytest.approx(sorted((mean(one) for one in all), reverse=True)[:2], abs=1e-9)
    assert best(own, all[:1]) == all[:1]


def test_a_stream_of_one_answer_refuses_settings_that_ask_for_several() -> None:
    with pytest.raises(UsageError, match=r"n: 2 answers .*complete_choices"):
        generate(grown(), [1, 2], Settings(n=2, temperature=1.0))
    with pytest.raises(UsageError, match=r"beams: 3 answers"):
        complete(grown(), [1, 2], Settings(beams=3))


@pytest.mark.parametrize("settings", [Settings(), Settings(temperature=1.5, seed=4, repetition_penalty=1.3)])
def test_top_logprobs_of_answer_and_prompt_are_the_likeliest_of_a_full_forward(settings: Settings) -> None:
    model, prompt = grown(5, dtype=torch.float64, spread=4), prompts_of(5, 1, 30)[0]
    own = replace(settings, max_tokens=9, top_logprobs=4, prompt_logprobs=True)
    beside = Settings(max_tokens=5, temperature=0.5)
    beams = () if own.draws else complete_choices(model, prompt, replace(own, beams=3, n=3))
    for done in (*beams, complete(model, prompt, own), complete_all(model, [[3, 4], prompt], [beside, own])[1]):
        with torch.inference_mode():
            logs = torch.log_softmax(model(torch.tensor([[*prompt, *done.token_ids]]))[0, :-1], -1)
        values, ids = logs.topk(4)
        assert done.top_logprobs is not None and done.prompt_top_logprobs is not None
        tops = (*done.prompt_top_logprobs[1:], *done.top_logprobs)
        assert done.prompt_top_logprobs[0] == () and len(tops) == len(logs)
        for place, top in enumerate(tops):
            assert [id for id, _ in top] == ids[place].tolist()
            assert [logprob for _, logprob in top] == pytest.approx(values[place].tolist(), abs=1e-9)
        chosen = logs[len(prompt) - 1 :].gather(1, torch.tensor(done.token_ids)[:, None])[:, 0]
        assert done.logprobs == pytest.approx(chosen.tolist(), abs=1e-9)
    assert complete(model, prompt, replace(own, top_logprobs=0)).token_ids == done.token_ids


def test_ignoring_the_end_leaves_only_the_stops_that_were_given() -> None:
    prompt = Prompt((1,), stop_ids=(2, 9), stop_texts=("USER:",), starts=False)
    assert prompt.within(Settings(stop_ids=(5,))).stop_ids == (5, 2, 9)
    ignoring = prompt.within(Settings(stop_ids=(5,), ignore_eos=True))
    assert ignoring.stop_ids == (5,) and ignoring.stop_texts == ("USER:",)
