from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice, product

import numpy as np
import pytest
import torch

from camelid.errors import CamelidError, UsageError
from camelid.generate import forward
from camelid.generate.answer import Completion
from camelid.generate.decode import complete, complete_all
from camelid.generate.engine import Engine
from camelid.generate.events import End, Token
from camelid.generate.request import Request
from camelid.generate.settings import Settings
from camelid.models.llama import Llama, initialise, paged_cache
from camelid.models.shape import LlamaShape, RopeScaling
from camelid.native import library
from camelid.native.llama import NativeLlama
from camelid.nn.paged import CacheKind
from tests.conftest import size

KINDS = ("pytorch", "float64", "float32", "bf16", "q8_0", "q4_0")
INT8 = ("pytorch int8", "float32 int8", "q4_0 int8")  # keys and values in int8
SHAPE = LlamaShape(2, 32, 4, 2, 8, 48, 61, 96)


def grown(kind: str, seed: int = 0, shape: LlamaShape = SHAPE) -> Llama | NativeLlama:
    """A random model with decided answers, through PyTorch or through the kernels; a word after the kind is the cache's."""
    kind = kind.split()[0]
    model = Llama(shape, dtype=torch.float64 if kind == "float64" else torch.float32)
    initialise(model, seed, deviation=0.3 / shape.width**0.25)
    with torch.no_grad():
        model.head_weight().mul_(6)
    model = model.eval().requires_grad_(False)
    if kind in ("pytorch", "float64"):
        return model
    if library.library() is None:
        pytest.skip(library.state())
    return NativeLlama.of(model, kind)  # type: ignore[arg-type]


def shape_of(chance: random.Random) -> LlamaShape:
    shared, kv_heads = chance.randint(1, 3), chance.randint(1, 3)
    scaling = chance.choice([None, None, RopeScaling("llama3", 8.0, original=24), RopeScaling("dynamic", 2.0)])
    lined = chance.random() < 0.6  # rows of whole cache lines, as all published shapes have them
    return LlamaShape(
        layers=chance.randint(1, 2), width=chance.choice([16, 48, 64]) if lined else chance.randint(9, 70),
        heads=shared * kv_heads, kv_heads=kv_heads, head_width=16 if lined else 2 * chance.randint(2, 16),
        hidden=chance.choice([32, 80]) if lined else chance.randint(3, 90), vocab=chance.randint(40, 90), context=96,
        scaling=scaling,
    )  # fmt: skip


def asked(chance: random.Random, vocab: int, count: int) -> list[tuple[list[int], Settings, str]]:
    """Prompts, many of which begin alike, with settings and owners of all kinds."""
    beginnings = [[chance.randrange(vocab) for _ in range(40)] for _ in range(2)]
    found = []
    for _ in range(count):
        prompt = chance.choice(beginnings)[: chance.randint(0, 40)]
        prompt += [chance.randrange(vocab) for _ in range(chance.randint(0 if prompt else 1, 24))]
        own = Settings(
            max_tokens=chance.choice([0, 1, 5, 20, 50]),
            temperature=chance.choice([0.0, 0.0, 1.0]),
            top_p=chance.choice([1.0, 0.9]),
            repetition_penalty=chance.choice([1.0, 1.3]),
            seed=chance.randrange(9),
            stop_ids=(chance.randrange(vocab),),
            prompt_logprobs=chance.random() < 0.2,
            top_logprobs=chance.choice([0, 0, 3]),
        )
        found.append((prompt, own, chance.choice("ab")))
    return found


def cache_of(kind: str) -> CacheKind:
    return "int8" if kind in INT8 else "float"


def squeezed(model: Llama | NativeLlama, chance: random.Random, cache: CacheKind = "float") -> Engine:
    """Few slots, small chunks, hardly any pages."""
    page = paged_cache(model.shape, 0, model.dtype, kind=cache).page_bytes
    chunk, pages = chance.choice([1, 3, 17, 40, 512]), chance.choice([7, 9, 14, 60])
    return Engine(model, rows=chance.randint(1, 7), chunk=chunk, bytes=page * pages, cache=cache)


seen = {"preempted": 0, "reused": 0, "aborted": 0, "requests": 0}


@pytest.mark.parametrize(
    ("kind", "seed"), [*product(KINDS, range(size(3))), *((kind, seed) for kind in INT8 for seed in range(size(1)))]
)
def test_any_schedule_gives_every_request_the_bits_it_has_alone(kind: str, seed: int) -> None:
    """Goal N4: arrivals, chunks, preemption, kept pages, company that is aborted anywhere; at every step nothing is lost
    or held twice (decision 12)."""
    chance = random.Random(f"{kind} {seed}")
    model = grown(kind, seed, shape_of(chance))
    wanted = asked(chance, model.shape.vocab, 14)
    cache = cache_of(kind)
    alone = [complete(model, prompt, own, cache=cache) for prompt, own, _ in wanted]
    for _ in range(2):  # the second time another schedule
        engine, waiting = squeezed(model, chance, cache), list(range(len(wanted)))
        chance.shuffle(waiting)
        going: dict[int, Request] = {}
        company: list[Request] = []
        while waiting or not engine.idle:
            for _ in range(chance.choice([0, 0, 1, 2, 5])):
                if waiting:
                    index = waiting.pop()
                    prompt, own, owner = wanted[index]
                    going[index] = engine.submit(prompt, own, owner=owner, streams=chance.random() < 0.5)
                if waiting and chance.random() < 0.3:
                    prompt, own, owner = chance.choice(wanted)
                    company.append(engine.submit(prompt, own, owner=owner))
            engine.step()
            engine.check()
            if company and chance.random() < 0.3:
                other = company.pop(chance.randrange(len(company)))
                (other.abort if chance.random() < 0.5 else other.cancel)()
                seen["aborted"] += 1
        for index, expected in enumerate(alone):
            assert going[index].completion == expected, f"request {index}"
        assert engine._pages.count().used == 0
        for name in ("preempted", "reused"):
            seen[name] += getattr(engine.tally, name)
        seen["requests"] += len(wanted)


def test_the_schedules_were_no_easy_ones() -> None:
    """What the test above met, where all of it ran in this process."""
    if seen["requests"] < 28 * len(KINDS) * size(3):
        pytest.skip(f"only {seen['requests']} requests ran in this process")
    assert seen["requests"] > 200 and min(seen["preempted"], seen["reused"], seen["aborted"]) > 50, seen


@pytest.mark.parametrize("kind", (*KINDS, *INT8))
def test_what_a_request_notes_is_the_full_forward_to_the_bit(kind: str) -> None:
    """Goal N3: log-probabilities of answers, whatever was chunked, preempted or kept, are those of one reading."""
    chance = random.Random(kind)
    model = grown(kind, 3)
    engine = squeezed(model, chance, cache_of(kind))
    plain = [(p, Settings(max_tokens=o.max_tokens, stop_ids=o.stop_ids)) for p, o, _ in asked(chance, 61, 12)]
    requests = [engine.submit(prompt, own) for prompt, own in plain]
    list(engine.run())
    for done in (request.result() for request in requests):
        own = Settings(max_tokens=0, prompt_logprobs=True)
        whole = complete(model, (*done.prompt_ids, *done.token_ids), own, cache=engine.cache)
        assert whole.prompt_logprobs is not None
        assert whole.prompt_logprobs[len(done.prompt_ids) :] == done.logprobs


def test_together_is_as_exact_as_float64_allows_where_tiles_are_left_out() -> None:
    """The way of a GPU: all tokens of a step in one product, padded pages side by side; 1e-12."""
    chance = random.Random(0)
    model = grown("float64", 5)
    wanted = asked(chance, 61, 20)
    engine = Engine(model, rows=6, chunk=30, exact=False)
    requests = [engine.submit(prompt, own, owner=owner) for prompt, own, owner in wanted]
    list(engine.run())
    for request, (prompt, own, _) in zip(requests, wanted, strict=True):
        near(request.result(), complete(model, prompt, own), 1e-12)


def near(one: Completion, other: Completion, tolerance: float) -> None:
    assert one.token_ids == other.token_ids and one.finish_reason == other.finish_reason
    assert one.logprobs == pytest.approx(other.logprobs, abs=tolerance)
    assert (one.prompt_logprobs or ())[1:] == pytest.approx((other.prompt_logprobs or ())[1:], abs=tolerance)


def test_a_tile_that_would_round_by_place_is_found_and_left() -> None:
    """PyTorch's own products of such widths depend on the row; then tokens are read one by one."""
    odd = grown("pytorch", shape=replace(SHAPE, width=43))
    assert forward.tile(odd) == 1, "rows of 172 bytes"
    rotated = grown("pytorch")
    inner = rotated.model.norm.forward  # type: ignore[union-attr]
    drift = torch.linspace(1, 1.1, forward.TILE)[:, None]
    rotated.model.norm.forward = lambda x: inner(x) * (drift if len(x) == forward.TILE else 1)  # type: ignore[union-attr]
    assert forward.tile(rotated) == 1 and forward.tile(grown("pytorch")) == forward.TILE


def test_equal_beginnings_are_read_once_and_never_across_owners() -> None:
    model = grown("pytorch")
    prompt, own = [7] * 70, Settings(max_tokens=3, temperature=1.0)
    engine = Engine(model)
    first = [engine.submit(prompt, replace(own, seed=seed), owner="a") for seed in range(5)]
    list(engine.run())
    assert engine.tally.reused == 4 * 64 and engine.tally.read == 70 + 4 * 6 + 5 * 2
    assert [request.reused for request in first] == [0, 64, 64, 64, 64]
    other = engine.submit(prompt, own, owner="b")
    assert other.result() == first[0].result() and other.reused == 0
    again = engine.submit([*prompt[:40], 9], own, owner="b")
    again.result()
    assert again.reused == 32


def test_the_youngest_gives_way_and_loses_nothing() -> None:
    model = grown("pytorch")
    page = 2 * 2 * 2 * 8 * 16 * 4
    engine = Engine(model, bytes=6 * page)
    requests = [engine.submit([n + 1] * 20, Settings(max_tokens=70)) for n in range(3)]
    events: list[list[object]] = [[], [], []]
    while not engine.idle:
        engine.step()
        for request, told in zip(requests, events, strict=True):
            told += request._events
            request._events.clear()
    assert engine.tally.preempted and not requests[0].preempted
    for request, told in zip(requests, events, strict=True):
        done = complete(model, request.prompt_ids, Settings(max_tokens=70))
        assert tuple(event.id for event in told if isinstance(event, Token)) == done.token_ids
        assert told[-1] == End(done)


def test_ending_is_valid_in_every_state_and_twice() -> None:
    model = grown("pytorch")
    engine = Engine(model, rows=2, chunk=8)
    own = Settings(max_tokens=30)
    requests = [engine.submit([1, 2, 3] * 8, own) for _ in range(4)]
    requests[3].abort()  # waiting
    engine.step()
    reading, promised = requests[0], requests[1]
    assert (reading.state, reading.held, promised.state) == ("running", 8, "waiting"), "it waits for what is being read"
    reading.abort()
    engine.step()
    assert promised.state == "running", "nobody reads it any more, so it reads itself"
    while not promised.told:
        engine.step()
    promised.abort()  # answering
    for request in requests:
        request.abort()
        request.abort()
        request.cancel()
    assert engine.idle and engine._pages.count().used == 0 and len(engine._slots) == 2
    with pytest.raises(CamelidError, match="request 0 was aborted"):
        requests[0].result()
    done = engine.submit([1, 2, 3], own)
    whole = done.result()
    done.abort()
    assert done.result() == whole, "what is whole stays whole"
    assert list(done.events()) == []


def test_leaving_a_stream_gives_back_what_it_held() -> None:
    engine = Engine(grown("pytorch"))
    stream = engine.submit([5, 6], Settings(max_tokens=50)).events()
    assert len(list(islice(stream, 3))) == 3 and not engine.idle
    stream.close()
    assert engine.idle
    engine.check()
    for request in (engine.submit([1], Settings(max_tokens=5)) for _ in range(3)):
        assert request.state == "waiting"
    for _ in engine.run():
        break
    assert engine.idle, "leaving a run aborts what is left"


def test_a_fault_ends_the_request_that_has_it_and_no_other() -> None:
    model = grown("pytorch")
    healthy = complete(model, [1, 2, 3], Settings(max_tokens=8, stop_ids=(60,)))
    with torch.no_grad():
        model.model.embed_tokens.weight[60] = float("nan")  # type: ignore[union-attr]
    engine = Engine(model)
    requests = [
        engine.submit([60] * 20 if n == 1 else [1, 2, 3], Settings(max_tokens=8, stop_ids=(60,))) for n in (0, 1, 2)
    ]
    with pytest.raises(CamelidError, match="position 20: the model's logits are not finite"):
        requests[1].result()
    assert requests[0].result() == requests[2].result() == healthy
    assert engine._pages.count().kept == 0, "pages of what failed are not found again"


def test_a_failing_call_is_told_to_everyone_in_it_and_the_engine_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    model = grown("pytorch")
    engine = Engine(model)
    requests = [engine.submit([n], Settings(max_tokens=4)) for n in range(3)]
    with monkeypatch.context() as patched:
        patched.setattr("camelid.generate.engine.read", lambda *_, **__: np.zeros(0)[1])
        engine.step()
    for request in requests:
        with pytest.raises(IndexError):
            list(request.events())
    engine.check()
    assert engine.submit([1], Settings(max_tokens=4)).result() == complete(model, [1], Settings(max_tokens=4))


def test_a_request_larger_than_the_cache_gets_what_it_needs() -> None:
    model = grown("pytorch")
    engine = Engine(model, bytes=1)
    assert engine.submit([3] * 60, Settings(max_tokens=36)).result() == complete(
        model, [3] * 60, Settings(max_tokens=36)
    )
    with pytest.raises(UsageError, match="97 ids leave no room in the model's context of 96"):
        engine.submit([3] * 97)
    with pytest.raises(UsageError, match="0 ids a step"):
        Engine(model, chunk=0)


def test_each_answer_is_told_as_soon_as_it_is_there() -> None:
    model, told = grown("pytorch"), []
    engines: list[int] = []
    model.model.norm.register_forward_hook(lambda *_: engines.append(1))  # type: ignore[union-attr]
    each = [Settings(max_tokens=tokens) for tokens in (30, 2, 0, 10)]
    complete_all(model, [[1], [2], [3], [4]], each, finished=lambda index, _: told.append((index, len(engines))))
    assert [index for index, _ in told] == [2, 1, 3, 0] and len({calls for _, calls in told}) == 4


def test_threads_share_one_engine() -> None:
    model = grown("q8_0")
    prompts = [[n, n + 1, n + 2] for n in range(12)]
    own = Settings(max_tokens=12)
    expected = [complete(model, prompt, own) for prompt in prompts]
    engine = Engine(model)

    def listen(prompt: list[int]) -> Completion:
        end = list(engine.submit(prompt, own).events())[-1]
        assert isinstance(end, End)
        return end.completion

    with ThreadPoolExecutor(6) as several:
        assert list(several.map(listen, prompts)) == expected
    assert engine.idle
    engine.check()


@pytest.mark.parametrize("kind", ["pytorch", "q8_0"])
def test_a_cache_in_int8_holds_three_and_a_half_times_as_many_ids_and_is_only_asked_for(kind: str) -> None:
    model = grown(kind, shape=replace(SHAPE, head_width=64))
    pages = [Engine(model, bytes=1 << 20, cache=cache)._pages.limit for cache in ("float", "int8")]  # type: ignore[arg-type]
    assert pages == [32, 113], "bytes of a head's 64 numbers: 256, and 64 with two scales of 4"
    own = Settings(max_tokens=20)
    plain, rounded = (complete(model, [5, 6, 7], own, cache=cache) for cache in ("float", "int8"))  # type: ignore[arg-type]
    assert complete(model, [5, 6, 7], own) == plain != rounded
    assert rounded.logprobs[:3] == pytest.approx(plain.logprobs[:3], abs=0.05)
