from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
import torch
from torch.nn import functional

from camelid.checkpoints import directory
from camelid.errors import CamelidError, UsageError
from camelid.evaluate.likelihood import continuations
from camelid.generate import loaded as loaded_module
from camelid.generate.chat import Chat
from camelid.generate.decode import complete, complete_all
from camelid.generate.engine import Engine
from camelid.generate.loaded import load
from camelid.generate.settings import Settings
from camelid.models.adapt import add_lora
from camelid.models.llama import Cache, Llama, initialise
from camelid.models.shape import LlamaShape, LoRA, RopeScaling
from camelid.native import build, library
from camelid.native import llama as native
from camelid.native.llama import NativeLlama, refusal
from camelid.native.matrix import KINDS, Matrix
from camelid.native.pace import Pace
from tests.conftest import size
from tests.generate.stand_ins import small_tokenizer

pytestmark = pytest.mark.skipif(library.library() is None, reason=library.state())
SCALINGS = [
    None,
    RopeScaling("linear", 2.0),
    RopeScaling("ntk", 2.0),
    RopeScaling("dynamic", 2.0),
    RopeScaling("llama3", 8.0, original=24),
]


def shape_of(chance: random.Random) -> LlamaShape:
    """Any shape: shared heads, tied or not, rotations of every kind, widths that no vector divides."""
    shared, kv_heads = chance.randint(1, 4), chance.randint(1, 3)
    return LlamaShape(
        layers=chance.randint(1, 3), width=chance.randint(5, 90), heads=shared * kv_heads, kv_heads=kv_heads,
        head_width=2 * chance.randint(2, 20), hidden=chance.randint(3, 120), vocab=chance.randint(40, 90), context=64,
        tied=chance.random() < 0.4, scaling=chance.choice(SCALINGS),
    )  # fmt: skip


def grown(seed: int, shape: LlamaShape, spread: float = 6, dtype: torch.dtype = torch.float32) -> Llama:
    model = Llama(shape, dtype=dtype)
    initialise(model, seed, deviation=0.3 / shape.width**0.25)
    with torch.no_grad():
        model.head_weight().mul_(spread)
    return model.eval().requires_grad_(False)


def prompts_of(chance: random.Random, count: int, vocab: int, longest: int = 30) -> list[list[int]]:
    return [[chance.randrange(vocab) for _ in range(chance.randint(1, longest))] for _ in range(count)]


@pytest.mark.parametrize("seed", range(size(24)))
def test_greedy_ids_and_logprobs_are_those_of_pytorch(seed: int) -> None:
    """Any shape; the tolerance is what float32 allows: a few units in the last place of the largest logit, times the
    layers' growth, measured against PyTorch in float64, which both approximate."""
    chance = random.Random(seed)
    shape = shape_of(chance)
    model = grown(seed, shape)
    exact = Llama(shape, dtype=torch.float64)
    exact.load_state_dict(model.state_dict())
    prompt = prompts_of(chance, 1, shape.vocab)[0]
    own = Settings(max_tokens=20, prompt_logprobs=True)
    ours, wanted = complete(NativeLlama.of(model), prompt, own), complete(exact, prompt, own)
    assert ours.token_ids == wanted.token_ids
    logits = exact(torch.tensor([[*prompt, *wanted.token_ids]])).abs().max().item()
    tolerance = 4e-6 * max(1.0, logits)
    assert ours.logprobs == pytest.approx(wanted.logprobs, abs=tolerance)
    assert ours.prompt_logprobs is not None and wanted.prompt_logprobs is not None
    assert ours.prompt_logprobs[1:] == pytest.approx(wanted.prompt_logprobs[1:], abs=tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(size(3)))
def test_a_request_gets_the_same_bits_alone_and_in_any_company(seed: int, kind: str) -> None:
    """Goal N4 at every-commit size: own settings, any batch, any number of threads, tokens and log-probabilities."""
    chance = random.Random(seed)
    shape = replace(shape_of(chance), scaling=chance.choice([None, SCALINGS[4]]))
    model = NativeLlama.of(grown(seed, shape), kind)  # type: ignore[arg-type]
    prompts = prompts_of(chance, 30, shape.vocab)
    each = [
        Settings(
            max_tokens=chance.randint(0, 20),
            temperature=chance.choice([0.0, 0.0, 1.0]),
            top_p=chance.choice([1.0, 0.9]),
            repetition_penalty=chance.choice([1.0, 1.3]),
            seed=chance.randrange(9),
            stop_ids=(chance.randrange(shape.vocab),),
            prompt_logprobs=chance.random() < 0.3,
        )
        for _ in prompts
    ]
    alone = [complete(model, prompt, own) for prompt, own in zip(prompts, each, strict=True)]
    before = torch.get_num_threads()
    try:
        for rows, threads, count in ((64, 1, 30), (7, 1, 20), (4, 2, 3)):
            torch.set_num_threads(threads)
            chosen = chance.sample(range(30), count)
            together = complete_all(model, [prompts[i] for i in chosen], [each[i] for i in chosen], rows=rows)
            assert together == [alone[i] for i in chosen]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("seed", range(size(12)))
def test_any_schedule_of_chunks_and_rollbacks_gives_the_bits_of_a_full_forward(seed: int) -> None:
    """Goal N3 with its bit equality, at every-commit size."""
    chance = random.Random(seed)
    shape = replace(shape_of(chance), scaling=None)
    model = NativeLlama.of(grown(seed, shape), chance.choice(list(KINDS)))
    texts = prompts_of(chance, 3, shape.vocab, 50)
    full = [model(torch.tensor([text]))[0] for text in texts]
    cache, rows = Cache(shape, 3, 50), [0, 1, 2]
    for _ in range(60):
        counts = [
            chance.randint(0, min(9, len(texts[row]) - held)) for row, held in zip(rows, cache.lengths, strict=True)
        ]
        before = cache.lengths
        ids = torch.zeros(3, max(*counts, 1), dtype=torch.int64)
        for slot, (row, count) in enumerate(zip(rows, counts, strict=True)):
            ids[slot, :count] = torch.tensor(texts[row][before[slot] : before[slot] + count])
        logits = model(ids, cache=cache, counts=counts)
        for slot, (row, count) in enumerate(zip(rows, counts, strict=True)):
            assert torch.equal(logits[slot, :count], full[row][before[slot] : before[slot] + count])
        if chance.random() < 0.3:
            cache.rollback([chance.randint(held // 2, held) for held in cache.lengths])
        if chance.random() < 0.2:
            order = [chance.randrange(3) for _ in range(3)]
            cache.keep(order)
            rows = [rows[slot] for slot in order]
            cache.grow(cache.length + chance.randint(0, 3))


@pytest.mark.parametrize("seed", range(size(4)))
def test_logits_after_the_last_ids_alone_are_those_of_all_states(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one call and in several, and what is read afterwards too: keys and values are all there."""
    chance = random.Random(seed)
    model = NativeLlama.of(grown(seed, shape_of(chance)), chance.choice(list(KINDS)))
    counts, later = [chance.randint(1, 20) for _ in range(4)], torch.randint(model.shape.vocab, (4, 3))
    ids = torch.randint(model.shape.vocab, (4, max(counts)))
    caches = [Cache(model.shape, 4, 24) for _ in range(2)]
    states = model.hidden(ids, cache=caches[0], counts=counts)
    wanted = model.logits(torch.stack([row[count - 1] for row, count in zip(states, counts, strict=True)]))
    monkeypatch.setattr(native, "CHUNK", chance.choice([3, 7, 512]))
    assert torch.equal(model.after(ids, cache=caches[1], counts=counts), wanted)
    assert torch.equal(model(later, cache=caches[1]), model(later, cache=caches[0]))
    with pytest.raises(CamelidError, match="give each at least one"):
        model.after(ids, cache=caches[1], counts=[1, 0, 1, 1])


def test_what_was_read_before_and_a_conversation_change_no_bit() -> None:
    shape = LlamaShape(2, 32, 4, 2, 8, 48, small_tokenizer().size, 256)
    model = NativeLlama.of(grown(1, shape), "q8_0")
    prompt, own = [3, 1, 4, 1, 5, 9, 2, 6], Settings(max_tokens=10)
    expected = complete(model, prompt, own)
    engine = Engine(model)
    for _ in range(2):
        assert engine.submit(prompt, own).result() == expected
    loaded = loaded_module.Loaded(model, small_tokenizer(), None, shape, Path("small"))
    talk = Chat(loaded, own)
    list(talk.say("Who lives here?"))
    second = next(event for event in list(talk.say("Where?")) if hasattr(event, "completion")).completion
    fresh = loaded.complete(loaded.prompt([*talk.messages[:-1]]), own)
    assert second == fresh, "what was read before is as if read now"


ROUNDED = 2**-11  # of a half-float scale
BOUNDS = {"bf16": 2**-8, "q8_0": 0.5 / 127 + ROUNDED, "q4_0": 1 / 8 + ROUNDED}  # q4_0: +8 steps are held as +7


@pytest.mark.parametrize(("kind", "off"), [("bf16", 1e-3), ("q8_0", 0.02), ("q4_0", 0.02)])
def test_quantised_weights_lie_within_the_bound_of_their_format(
    kind: str, off: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And products are those of PyTorch with the same weights: for bf16 beside activations rounded to bf16 as well, of
    which few are rounded the other way; else but for the rounding of activations to 1/127 of the largest of 32. `off` is
    root mean square over root mean square, after two layers of four products in a row."""
    shape = LlamaShape(2, 64, 4, 2, 16, 96, 80, 64)
    model = grown(0, shape, spread=1)
    native = NativeLlama.of(model, kind)  # type: ignore[arg-type]
    found = library.library()
    assert found is not None
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            if weight.dim() == 2:
                matrix = native._held.matrices[name]
                rows = torch.stack([matrix.row(found, row) for row in range(len(weight))])
                groups = weight.view(len(weight), -1, 32)
                assert (
                    (rows.view_as(groups) - groups).abs() <= BOUNDS[kind] * groups.abs().amax(-1, keepdim=True)
                ).all()
                weight.copy_(rows)
    ids = torch.tensor([prompts_of(random.Random(0), 1, 80, 40)[0]])
    exact = model(ids)
    if kind == "bf16":
        plain = functional.linear
        monkeypatch.setattr(functional, "linear", lambda x, *rest: plain(x.bfloat16().float(), *rest))
    wanted = model(ids)
    if kind == "bf16":
        assert (exact - wanted).square().mean().sqrt() > 2 * off * wanted.square().mean().sqrt(), "a bound that tells"
        widened = NativeLlama.of(model, "float32")(ids)
        assert (widened - exact).square().mean().sqrt() < 1e-5 * exact.square().mean().sqrt(), (
            "nothing is rounded there"
        )
    assert (native(ids) - wanted).square().mean().sqrt() < off * wanted.square().mean().sqrt()


def test_blocks_of_the_wrong_size_and_weights_that_do_not_fit_are_refused() -> None:
    found = library.library()
    assert found is not None
    blocks = torch.zeros(3, 34 * 2, dtype=torch.uint8)
    assert Matrix.of_blocks(found, blocks, 64, "q8_0").row(found, 2).eq(0).all()
    with pytest.raises(UsageError, match="68 bytes a row for 96 columns of q8_0, which take 102"):
        Matrix.of_blocks(found, blocks, 96, "q8_0")
    model = grown(0, LlamaShape(1, 32, 2, 2, 16, 40, 50, 64))
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[3, 7] = float("inf")
    with pytest.raises(UsageError, match=r"layers.0.mlp.down_proj.*row 3, column 7 is inf, which q4_0 cannot hold"):
        NativeLlama.of(model, "q4_0")


def test_damaged_weights_unknown_ids_and_full_caches_are_named() -> None:
    shape = LlamaShape(1, 32, 2, 2, 16, 40, 50, 64)
    model = grown(0, shape)
    with pytest.raises(IndexError, match="ids from 1 to 50 for a vocabulary of 50"):
        NativeLlama.of(model)(torch.tensor([[1, 50]]))
    with pytest.raises(CamelidError, match="would hold 9 tokens, made for 8"):
        NativeLlama.of(model)(torch.ones(1, 9, dtype=torch.int64), cache=Cache(shape, 1, 8))
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    for own in (Settings(), Settings(temperature=1.0)):
        with pytest.raises(CamelidError, match="position 3: the model's logits are not finite"):
            complete(NativeLlama.of(model), [1, 2, 3], own)


def test_what_the_kernels_do_not_do_is_refused() -> None:
    shape = LlamaShape(1, 32, 2, 2, 16, 40, 50, 64)
    assert refusal(grown(0, shape)) is None
    assert refusal(grown(0, shape, dtype=torch.float64)) == "is in float64"
    hooked = grown(0, shape)
    hooked.model.norm.register_forward_hook(lambda *_: None)
    assert refusal(hooked) == "has hooks, which the kernels would not call"
    adapted = grown(0, shape)
    add_lora(adapted, LoRA(rank=2, alpha=2.0), seed=0)
    with pytest.raises(UsageError, match="carries an adapter; merge it first"):
        NativeLlama.of(adapted)


def saved(path: Path, dtype: torch.dtype) -> Path:
    tokenizer = small_tokenizer()
    shape = LlamaShape(2, 64, 4, 2, 16, 96, tokenizer.size, 128)
    return directory.save(path, grown(3, shape, dtype=dtype).state_dict(), shape=shape, tokenizer=tokenizer)


def test_a_loaded_model_says_what_computes_and_obeys_wishes(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", torch.float32)
    own, said = Settings(max_tokens=16), "Who lives here?"
    fast, plain = load(folder), load(folder, engine="pytorch")
    assert isinstance(fast.model, NativeLlama) and fast.engine.startswith("native float32, ")
    assert isinstance(plain.model, Llama) and plain.engine == "PyTorch float32"
    one, other = fast.complete(said, own), plain.complete(said, own)
    assert one.token_ids == other.token_ids and one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
    pairs = [([1, 5, 6], [7, 8]), ([1], [2, 3, 4])]
    for ours, theirs in zip(continuations(fast.model, pairs), continuations(plain.model, pairs), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert load(folder, weights="q4_0").engine.startswith("native q4_0, ")
    assert load(folder, dtype=torch.float64).engine == "PyTorch float64"
    halves = load(saved(tmp_path / "halves", torch.bfloat16))
    assert halves.engine.startswith("native bf16, ") and halves.model.dtype == torch.float32
    with pytest.raises(UsageError, match=r"weights: q8_0 needs the native kernels.*float64"):
        load(folder, weights="q8_0", dtype=torch.float64)
    with pytest.raises(UsageError, match="weights: q8_0 for PyTorch"):
        load(folder, weights="q8_0", engine="pytorch")


def test_without_kernels_pytorch_decodes_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path / "model", torch.float32)
    absent = build.Absent("no C compiler found (cc, gcc, clang); install one, or name it in CC")
    for module in (build, library, loaded_module):
        monkeypatch.setattr(module, "built", lambda: absent)
    monkeypatch.setattr(library, "library", lambda: None)
    found = load(folder)
    assert isinstance(found.model, Llama)
    assert found.engine.startswith("PyTorch float32 (no native kernels: no C compiler found")
    assert "no C compiler found" in library.state() and "slower" in library.state()
    for wish in ({"engine": "native"}, {"weights": "q8_0"}):
        with pytest.raises(UsageError, match="needs the native kernels: no C compiler found"):
            load(folder, **wish)  # type: ignore[arg-type]
    monkeypatch.setenv("CAMELID_NATIVE", "off")
    assert load(folder).engine == "PyTorch float32", "whoever turned it off is not told again"


def test_the_number_of_threads_follows_the_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Busy cores make four threads slow; when they are free again, that is found out."""
    monkeypatch.setattr("camelid.native.pace._crowd", [])  # what other tests met on this machine
    pace = Pace(4)
    seconds = {1: 4e-3, 2: 2.2e-3, 3: 9e-3, 4: 30e-3}
    chosen = []
    for call in range(3000):
        if call == 200:
            seconds = {1: 4e-3, 2: 2.2e-3, 3: 1.6e-3, 4: 1.2e-3}
        number = pace.threads()
        chosen.append(number)
        pace.took(number, seconds[number])
    assert chosen[40:200].count(2) > 110
    assert chosen[-100:].count(4) > 80
    assert Pace(1).threads() == 1 and Pace(6, tries=False).threads() == 6


def test_where_others_are_at_work_calls_of_other_sizes_know_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("camelid.native.pace._crowd", [])
    first, begun = Pace(4, work=10), Pace(4, work=5, known=4)
    assert Pace(4).threads() == begun.threads() == 4
    for _ in range(40):
        number = first.threads()
        first.took(number, {1: 1e-4, 2: 0.1, 3: 0.3, 4: 0.7}[number])
    other = Pace(4)
    assert first.threads() == other.threads() == begun.threads() == 1
    assert Pace(4, work=11).threads() == 4, "longer calls have to find out for themselves"
    assert Pace(4, tries=False).threads() == 4, "long calls, whose threads meet seldom, do not mind"
    late = []
    for _ in range(4000):
        late.append(other.threads())
        other.took(late[-1], {1: 4e-4, 2: 2e-4, 3: 1.5e-4, 4: 1e-4}[late[-1]])
    assert late[-200:].count(4) > 150, "when the others are gone, that is found out"
    assert Pace(4).threads() == 4, "and believed"


def test_threads_and_forked_processes_decode_side_by_side() -> None:
    """Calls from several Python threads wait for each other; a child has its own threads."""
    import os
    from concurrent.futures import ThreadPoolExecutor

    shape = LlamaShape(2, 32, 4, 2, 8, 48, 61, 96)
    model, prompts = NativeLlama.of(grown(5, shape), "q8_0"), prompts_of(random.Random(5), 8, 61)
    own = Settings(max_tokens=8)
    expected = [complete(model, prompt, own) for prompt in prompts]
    with ThreadPoolExecutor(4) as several:
        assert list(several.map(lambda prompt: complete(model, prompt, own), prompts)) == expected
    found = library.library()
    assert found is not None
    matrix, x, y = model._head, torch.ones(3, 32), torch.empty(3, 61)
    for _ in range(2):
        assert found.camelid_linear(matrix.struct, x.data_ptr(), 3, y.data_ptr(), 3) == 0
    child = os.fork()
    if child == 0:  # no test runs on in the child, whatever happens
        other = torch.empty(3, 61)
        found.camelid_linear(matrix.struct, x.data_ptr(), 3, other.data_ptr(), 3)
        os._exit(0 if other.tolist() == y.tolist() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("kind", ["float32", "bf16"])
def test_weights_that_are_moved_while_the_model_answers_change_no_bit(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder's weights are answered from where they are mapped, then from memory of their own; the file may go then."""
    monkeypatch.setattr(native, "LATER", 1)
    started: list[Thread] = []
    monkeypatch.setattr(native, "Thread", lambda **asked: started.append(Thread(**asked)) or started[-1])
    dtype = torch.float32 if kind == "float32" else torch.bfloat16
    model = grown(3, LlamaShape(2, 24, 4, 2, 6, 40, 50, 64), dtype=dtype)
    expected = complete(NativeLlama.of(model), [1, 2, 3], Settings(max_tokens=40))
    folder = directory.save(tmp_path / "model", model.state_dict(), shape=model.shape, dtype=dtype)
    tensors = dict(directory.load(folder).tensors())
    moving = NativeLlama.load(model.shape, tensors, kind)  # type: ignore[arg-type]
    for _ in range(3):
        assert complete(moving, [1, 2, 3], Settings(max_tokens=40)) == expected
    (thread,) = started
    thread.join()
    for tensor in tensors.values():
        tensor.fill_(float("nan"))  # the mapping's own copy: what still looked there would see it
    assert complete(moving, [1, 2, 3], Settings(max_tokens=40)) == expected


def test_every_size_of_matrix_is_known_before_it_is_read() -> None:
    for tied in (False, True):
        model = grown(1, LlamaShape(2, 24, 4, 2, 6, 40, 50, 64, tied=tied))
        told = native._sizes(model.shape)
        found = {name: tuple(own.shape) for name, own in model.state_dict().items() if own.dim() == 2}
        assert {name: told[name] for name in found} == found
