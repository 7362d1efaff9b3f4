"""On one GPU: ours beside transformers and peft, in training and inference, each row checked before it is timed.

    make bench-gpu                                            at most eight minutes; needs requirements/bench-gpu.txt
    python benchmarks/gpu.py --device cpu --shape tiny        the same rows on a CPU, to see that they work

    train   1B full · 8B LoRA · 8B QLoRA (NF4)     tokens a second, model-FLOPs utilisation, peak memory
    infer   1B and 8B, bfloat16 and NF4            tokens a second while decoding, seconds to the first token

Ours is timed twice, as it is and with compiled passes; the ratio is the faster one's. Every side of every row is a process
of its own, one after the other, stopped when its time is over. Before anything is timed, a model of four layers computes
its loss on this device and, with the same weights, on the CPU in float32, and the peer does so too: where they differ by
more than rounding, the row is not timed and the exit code is 1. Weights are random; rates are medians of steps with the
slowest and the fastest. A side for which the memory is too small works on fewer rows at once, and says so; one that cannot
run says why. Without a GPU: exit code 1.

The peers: transformers with its float32 weights under autocast to bfloat16 and PyTorch's fused AdamW (as its Trainer has
it with bf16=True); peft's adapters on bfloat16 weights; bitsandbytes' Linear4bit in place of each linear map.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from camelid.machine import GIB, Machine, describe
from camelid.models.count import training_flops
from camelid.models.shape import LINEARS, SIZES, LlamaShape, LoRA
from camelid.plan.machines import DEVICES

TINY = LlamaShape(layers=4, width=128, heads=4, kv_heads=2, head_width=32, hidden=256, vocab=512, context=512)
ADAPTER = LoRA(rank=16, alpha=32, targets=LINEARS)
BUDGET = 480.0  # seconds for everything
PROMPT, ANSWER = 512, 64  # tokens read and written in an inference row
WARM = 3  # steps left out
CLOSE = {
    "float32": 1e-4,
    "bfloat16": 2e-2,
}  # relative difference of a loss that is rounding (bfloat16: 8 bits of mantissa)


@dataclass(frozen=True)
class Row:
    """One comparison."""

    name: str
    work: str  # train or infer
    size: str
    way: str  # full, lora, nf4 (under an adapter when training), bfloat16
    length: int = 2048
    rows: int = 2

    @property
    def adapter(self) -> LoRA | None:
        return ADAPTER if self.work == "train" and self.way != "full" else None


ROWS = (
    Row("1B full", "train", "llama-3.2-1B", "full", rows=4),
    Row("8B LoRA", "train", "llama-3.1-8B", "lora"),
    Row("8B QLoRA", "train", "llama-3.1-8B", "nf4"),
    Row("1B bfloat16", "infer", "llama-3.2-1B", "bfloat16"),
    Row("1B int4", "infer", "llama-3.2-1B", "nf4"),
    Row("8B bfloat16", "infer", "llama-3.1-8B", "bfloat16"),
    Row("8B int4", "infer", "llama-3.1-8B", "nf4"),
)


@dataclass(frozen=True)
class Place:
    """Where and how large: `tiny` shrinks every row to a model and texts that a CPU works through in a second."""

    device: str
    tiny: bool
    seconds: float

    @property
    def dtype(self) -> str:
        return "bfloat16" if self.device.startswith("cuda") else "float32"

    def shape(self, row: Row) -> LlamaShape:
        return small(row) if self.tiny else replace(SIZES[row.size], context=8192, scaling=None)

    def row(self, row: Row) -> Row:
        return replace(row, length=64) if self.tiny else row


def small(row: Row) -> LlamaShape:
    """The small model that stands for the row's: its head is the embedding where the row's is."""
    return replace(TINY, tied=SIZES[row.size].tied)


# --- ours -----------------------------------------------------------------------------------------------------------


class Drawn(Mapping[str, Any]):
    """Random weights of a shape by name, drawn on a device when asked for: the same each time, on each device alike."""

    def __init__(self, shape: LlamaShape, device: str, dtype: Any) -> None:
        from camelid.models.llama import Llama

        self.shapes = {name: each.shape for name, each in Llama(shape, device="meta").named_parameters()}
        self.device, self.dtype = device, dtype

    def __getitem__(self, name: str) -> Any:
        import torch

        shape = self.shapes[name]
        if len(shape) == 1:
            return torch.ones(shape, device=self.device, dtype=self.dtype)
        place = "cpu" if shape.numel() < 1 << 22 else self.device  # small ones alike on all devices: they are compared
        generator = torch.Generator(place).manual_seed(sum(name.encode()))
        drawn = torch.empty(shape, device=place, dtype=torch.float32).normal_(0.0, 0.02, generator=generator)
        return drawn.to(self.device, self.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def our_model(row: Row, shape: LlamaShape, device: str, dtype: str) -> Any:
    """Our model as the row trains or asks it. Raises ImportError where this version has no maps in NF4."""
    import torch

    from camelid.models.adapt import add_lora
    from camelid.models.llama import Llama

    kind = getattr(torch, dtype)
    if row.way == "nf4":
        if row.adapter:
            from camelid.models.adapt import lean

            return lean(shape, Drawn(shape, device, kind), row.adapter, bits="nf4", dtype=kind, device=device)
        from camelid.nn.frozen import FrozenLinear
    exact = torch.float32 if row.way == "full" else kind
    model = Llama(shape, dtype=exact, device="meta")
    model.load_state_dict(dict(Drawn(shape, device, exact)), strict=False, assign=True)
    if row.way == "nf4":
        for name, part in list(model.named_modules()):
            if name.rpartition(".")[2] in LINEARS:
                owner, _, child = name.rpartition(".")
                setattr(model.get_submodule(owner), child, FrozenLinear.of(part.weight.detach(), "nf4", kind))
    return add_lora(model, row.adapter) if row.adapter else model


def batch_of(row: Row, shape: LlamaShape, step: int) -> Any:
    import numpy as np

    from camelid.data.batch import lay

    draw = np.random.default_rng(step)
    return lay([(draw.integers(0, shape.vocab, row.length), None) for _ in range(row.rows)])


class Enough(Exception):
    """The row's time is over."""


class Random:
    """Steps of random rows, each one micro-batch."""

    steps, digest = 1_000_000, "random"

    def __init__(self, row: Row, shape: LlamaShape) -> None:
        self.row, self.shape = row, shape

    def at(self, step: int) -> list[Any]:
        return [batch_of(self.row, self.shape, step % 8)]


def our_training(row: Row, place: Place, compiled: bool = False) -> dict[str, Any]:
    """Seconds of each step of the trainer itself: data, forward, backward, checks, update, journal."""
    import torch

    from camelid.train.loop import Cadence, Conduct, train
    from camelid.train.loss import NextToken
    from camelid.train.optim import Optimizer
    from camelid.train.settings import AdamW, Constant

    shape = place.shape(row)
    model = our_model(row, shape, place.device, place.dtype)
    dtype = getattr(torch, place.dtype) if row.way == "full" else None
    optimizer = Optimizer(dict(model.named_parameters()), AdamW(lr=1e-5), dtype=dtype)
    if dtype:
        model.to(dtype)
    ends: list[float] = []

    def told(step: int, *_: object) -> None:
        ends.append(time.perf_counter())
        if step > WARM + 2 and ends[-1] - ends[WARM] > place.seconds:
            raise Enough

    machine = Machine(device=place.device, dtype=place.dtype, threads=torch.get_num_threads(), compile=compiled)
    conduct = Conduct(machine=machine, cadence=Cadence(seconds=None), progress=told)
    with tempfile.TemporaryDirectory() as folder:
        try:
            words: dict[str, Any] = {"directory": Path(folder), "seed": 0, "identity": {}, "conduct": conduct}
            train(model, Random(row, shape), NextToken(), optimizer, Constant(), **words)
        except Enough:
            pass
    return {"steps": [after - before for before, after in pairwise(ends[WARM:])]}


def our_inference(row: Row, place: Place, compiled: bool = False) -> dict[str, Any]:
    """Through the engine that answers every request: pages, the draw, and a log-probability for each token included."""
    from camelid.generate.engine import Engine
    from camelid.generate.events import Token
    from camelid.generate.settings import Settings

    shape = place.shape(row)
    model = our_model(row, shape, place.device, place.dtype).eval()
    model.compiled = compiled
    engine = Engine(model, rows=1)

    def answer(prompt: Any) -> Iterator[None]:
        for event in engine.submit(prompt[0].tolist(), Settings(max_tokens=ANSWER)).events():
            if isinstance(event, Token):
                yield

    return timed_answers(answer, shape, place)


def our_loss(row: Row, device: str, dtype: str) -> float:
    from camelid.train.loss import NextToken

    model = our_model(row, small(row), device, dtype)
    batch = batch_of(replace(row, length=64), small(row), 0)
    loss = NextToken()
    if row.way == "full" and dtype == "bfloat16":
        import torch

        model.to(torch.bfloat16)
    return float(loss(model, batch).detach()) / loss.count(batch)


# --- the peer -------------------------------------------------------------------------------------------------------


def their_model(row: Row, shape: LlamaShape, device: str, dtype: str) -> Any:
    """transformers' model with the same weights, with bitsandbytes' maps or peft's adapter where the row has them."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    kind = getattr(torch, dtype)
    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.width,
        intermediate_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_width,
        max_position_embeddings=shape.context,
        rms_norm_eps=shape.eps,
        rope_parameters={"rope_type": "default", "rope_theta": shape.theta},
        tie_word_embeddings=shape.tied,
        attn_implementation="sdpa",
    )
    exact = torch.float32 if row.way == "full" else kind
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    drawn = Drawn(shape, device, exact)
    model.to_empty(device=device).to(exact)
    model.tie_weights()  # emptying makes two parameters of one
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(drawn[name])
    if row.way == "nf4":
        _in_four_bits(model, device, kind)
    if row.adapter:
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(r=ADAPTER.rank, lora_alpha=ADAPTER.alpha, target_modules=list(ADAPTER.targets))
        model = get_peft_model(model, lora)
    return model


def _in_four_bits(model: Any, device: str, dtype: Any) -> None:
    import bitsandbytes

    for name, part in list(model.named_modules()):
        owner, _, child = name.rpartition(".")
        if child in LINEARS:
            size = (part.in_features, part.out_features)
            made = bitsandbytes.nn.Linear4bit(*size, bias=False, compute_dtype=dtype, quant_type="nf4")
            made.weight = bitsandbytes.nn.Params4bit(part.weight.data, requires_grad=False, quant_type="nf4")
            setattr(model.get_submodule(owner), child, made.to(device))


def their_loss_of(model: Any, row: Row, place: Place, shape: LlamaShape, step: int) -> Any:
    import torch

    ids = torch.from_numpy(batch_of(row, shape, step).ids).view(row.rows, row.length).to(place.device)
    kind = "cuda" if place.device.startswith("cuda") else "cpu"
    with torch.autocast(kind, dtype=torch.bfloat16, enabled=place.dtype == "bfloat16"):
        return model(input_ids=ids, labels=ids).loss


def their_training(row: Row, place: Place) -> dict[str, Any]:
    import torch

    shape = place.shape(row)
    model = their_model(row, shape, place.device, place.dtype).train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-5, weight_decay=0.0, fused=True)
    ends, step = list[float](), 0
    while step <= WARM + 2 or ends[-1] - ends[WARM] <= place.seconds:
        loss = their_loss_of(model, row, place, shape, step % 8)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        ends.append(time.perf_counter())
        step += 1
    return {"steps": [after - before for before, after in pairwise(ends[WARM:])]}


def their_inference(row: Row, place: Place) -> dict[str, Any]:
    import torch

    shape = place.shape(row)
    model = their_model(row, shape, place.device, place.dtype).eval()

    @torch.inference_mode()
    def answer(prompt: Any) -> Iterator[None]:
        found = model(input_ids=prompt, use_cache=True, logits_to_keep=1)
        yield
        for _ in range(ANSWER - 1):
            id = found.logits[:, -1].argmax(-1, keepdim=True)
            found = model(input_ids=id, past_key_values=found.past_key_values, use_cache=True)
            yield

    return timed_answers(answer, shape, place)


def their_loss(row: Row, device: str, dtype: str) -> float:
    place = Place(device, True, 0.0)
    model = their_model(row, small(row), device, dtype)
    return float(their_loss_of(model, replace(row, length=64), place, small(row), 0).detach())


# --- both -----------------------------------------------------------------------------------------------------------


def timed_answers(answer: Callable[[Any], Iterator[None]], shape: LlamaShape, place: Place) -> dict[str, Any]:
    """Seconds to the first token and for each later one, of answers to random prompts until the time is over."""
    import torch

    firsts, laters = list[float](), list[float]()
    began = time.perf_counter()
    turn = 0
    while turn < 2 or time.perf_counter() - began < place.seconds:
        generator = torch.Generator().manual_seed(turn)
        prompt = torch.randint(shape.vocab, (1, 64 if place.tiny else PROMPT), generator=generator).to(place.device)
        marks = [time.perf_counter()]
        for _ in answer(prompt):
            if place.device.startswith("cuda"):
                torch.cuda.synchronize()
            marks.append(time.perf_counter())
        if turn:  # the first one warms up
            firsts.append(marks[1] - marks[0])
            laters += [after - before for before, after in pairwise(marks[1:])]
        turn += 1
    return {"firsts": firsts, "laters": laters}


SIDES: dict[tuple[str, str], Callable[[Row, Place], dict[str, Any]]] = {
    ("ours", "train"): our_training,
    ("compiled", "train"): partial(our_training, compiled=True),
    ("ours", "infer"): our_inference,
    ("compiled", "infer"): partial(our_inference, compiled=True),
    ("peer", "train"): their_training,
    ("peer", "infer"): their_inference,
}


def sides(row: Row) -> tuple[str, ...]:
    """Who is timed: ours, ours with compiled passes, and the peer."""
    return tuple(name for name in ("ours", "compiled", "peer") if (name, row.work) in SIDES)


def check(row: Row, place: Place) -> dict[str, Any]:
    """Our loss on this device, on the CPU in float32, and the peer's: of one small model with the same weights."""
    found: dict[str, Any] = {"device": our_loss(row, place.device, place.dtype), "cpu": our_loss(row, "cpu", "float32")}
    try:
        found["peer"] = their_loss(row, place.device, place.dtype)
    except Exception as error:
        found["peer missing"] = f"{type(error).__name__}: {str(error)[:120]}"
    worst = max(abs(found[name] / found["cpu"] - 1) for name in ("device", "peer") if name in found)
    # the two four-bit forms round scales apart by a little: that difference is the peer's, and allowed here
    return found | {"difference": worst, "equal": worst <= (2e-2 if row.way == "nf4" else CLOSE[place.dtype])}


def side(row: Row, name: str, place: Place) -> dict[str, Any]:
    """What one process measures."""
    import torch

    if name == "check":
        return check(row, place)
    found = SIDES[name, row.work](place.row(row), place)
    if place.device.startswith("cuda"):
        found["peak GiB"] = round(torch.cuda.max_memory_allocated() / GIB, 2)
        found["name"] = torch.cuda.get_device_name(0)
    return found


def child(row: Row, name: str, place: Place, limit: float) -> dict[str, Any]:
    """The same from a process of its own, which ends when its time is over."""
    words = ["--row", row.name, "--side", name, "--device", place.device, "--seconds", str(place.seconds)]
    words += ["--rows", str(row.rows)]
    command = [sys.executable, __file__, *words, "--shape", "tiny" if place.tiny else "full"]
    environment = {**os.environ, "TRANSFORMERS_VERBOSITY": "error", "PYTHONPATH": str(Path(__file__).parents[1])}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=max(1.0, limit), check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return {"missing": f"not done within {limit:.0f} s"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {"missing": last[:160]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def timed(row: Row, name: str, place: Place, limit: float) -> dict[str, Any]:
    """A side's rates; of half the rows, and half again, where they are too much for the device's memory, which is told."""
    ends, asked = time.monotonic() + limit, row.rows
    while True:
        found = child(row, name, place, ends - time.monotonic())
        if row.rows == 1 or "out of memory" not in found.get("missing", "").lower():
            return rates(row, place, found) | ({"rows": row.rows} if row.rows < asked else {})
        row = replace(row, rows=row.rows // 2)


def rates(row: Row, place: Place, found: dict[str, Any]) -> dict[str, Any]:
    """Tokens a second: the median, the slowest, the fastest; and the share of the device's peak where that is known."""
    if "missing" in found:
        return found
    shrunk = place.row(row)
    told: dict[str, Any] = {key: found[key] for key in ("peak GiB", "name") if key in found}
    tokens, seconds = (shrunk.rows * shrunk.length, found["steps"]) if row.work == "train" else (1, found["laters"])
    told["tokens/s"] = [tokens / each for each in (statistics.median(seconds), max(seconds), min(seconds))]
    if row.work == "infer":
        told["first s"] = statistics.median(found["firsts"])
    elif (peak := peak_of(found.get("name", ""))) is not None:
        flops = training_flops(place.shape(row), seen=(shrunk.length + 1) / 2, lora=row.adapter)
        told["MFU"] = flops * told["tokens/s"][0] / peak
    return told


def peak_of(name: str) -> float | None:
    """Operations a second of a GPU in bfloat16 by its maker's sheet; None where it is not in plan/machines.py."""
    found = [device.flops for key, device in DEVICES.items() if key.split("-")[0].upper() in name.upper()]
    return max(found) if name and found else None


def measure(place: Place, budget: float) -> tuple[list[dict[str, Any]], bool]:
    """All rows, as far as the time reaches; and whether all that was checked was equal."""
    ends, told, sound = time.monotonic() + budget, [], True
    left = sum(1 + len(sides(row)) for row in ROWS)
    for row in ROWS:
        line: dict[str, Any] = {"row": row.name, "work": row.work, "way": row.way}
        for name in ("check", *sides(row)):
            share = (ends - time.monotonic()) / left * 2.5  # some are quick: the rest may take longer
            if name != "check" and not line["check"].get("equal", False):
                line[name] = {"missing": "not timed: the check failed"}
            else:
                limit = min(share, ends - time.monotonic())
                line[name] = child(row, name, place, limit) if name == "check" else timed(row, name, place, limit)
            left -= 1
        sound &= bool(line["check"].get("equal", False))
        rate = {name: line[name]["tokens/s"][0] for name in sides(row) if "tokens/s" in line[name]}
        ours = max((rate[name] for name in rate if name != "peer"), default=None)
        line["ratio"] = ours / rate["peer"] if ours and "peer" in rate else None
        told.append(line)
        print(shown(line), flush=True)
    return told, sound


def shown(line: dict[str, Any]) -> str:
    """One row as a person reads it."""
    checked = line["check"]
    words = [f"{line['work']} {line['row']:<12}"]
    words.append(
        f"loss within {checked['difference']:.1e}" if "difference" in checked else f"check: {checked['missing']}"
    )
    for name in (name for name in ("ours", "compiled", "peer") if name in line):
        side = line[name]
        if "missing" in side:
            words.append(f"{name}: {side['missing']}")
            continue
        middle, low, high = side["tokens/s"]
        more = f", MFU {side['MFU']:.2f}" if "MFU" in side else ""
        more += f", {side['peak GiB']} GiB" if "peak GiB" in side else ""
        more += f", {side['rows']} rows at once" if "rows" in side else ""
        more += f", first {side['first s'] * 1e3:.0f} ms" if "first s" in side else ""
        words.append(f"{name} {middle:,.0f} tokens/s ({low:,.0f} to {high:,.0f}){more}")
    words.append(f"ratio {line['ratio']:.2f}" if line["ratio"] else "no ratio")
    return " | ".join(words)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shape", choices=("full", "tiny"), default="full")
    parser.add_argument("--seconds", type=float, default=8.0, help="of timing, for each side of each row")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for everything")
    parser.add_argument("--out", type=Path, help="where to keep the figures as JSON")
    parser.add_argument("--look", action="store_true", help="only say whether there is a GPU")
    parser.add_argument("--row", choices=[row.name for row in ROWS], help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=("check", "ours", "compiled", "peer"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    place = Place(asked.device, asked.shape == "tiny", asked.seconds)
    if asked.side:
        (row,) = [row for row in ROWS if row.name == asked.row]
        print(json.dumps(side(replace(row, rows=asked.rows or row.rows), asked.side, place)))
        return 0
    if asked.device.startswith("cuda"):
        import torch

        if not torch.cuda.is_available():
            print(
                "no GPU: PyTorch sees none here, so nothing was run. Install a CUDA build of PyTorch on a machine with "
                "one, or see the rows work: python benchmarks/gpu.py --device cpu --shape tiny",
                file=sys.stderr,
            )
            return 1
    if asked.look:
        return 0
    began = time.monotonic()
    told, sound = measure(place, asked.budget)
    kept = {
        "machine": describe(),
        "date": date.today().isoformat(),
        "device": asked.device,
        "shape": asked.shape,
        "seconds": round(time.monotonic() - began),
        "rows": told,
    }
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(kept, indent=2) + "\n")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
