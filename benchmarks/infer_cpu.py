"""Decoding, reading and loading on a CPU: ours, llama.cpp and transformers by turns, on the same random weights.

    python benchmarks/infer_cpu.py --shapes tiny 110M 1.1B --kinds q8_0 q4_0 --threads 4 2 1 --out FILE.json
    python benchmarks/infer_cpu.py --rows 1.1B:q8_0:4 1.1B:q4_0:4 --out FILE.json      slices that fit a quiet minute
    python benchmarks/infer_cpu.py --table FILE.json                                   the goals beside what FILE says

Each side is a process of its own that loads its model and waits; the sides of one row work by turns, the order changing
from turn to turn, and rows show medians with the slowest and fastest turn. llama.cpp reads a GGUF file with the very
bytes that ours decodes (blocks of q8_0 and q4_0 included); ids that both choose are compared. The last columns are the
weight bytes read a second and the share of what `stream.c` reads in the same minutes; the table of a file has the floor
beside each row: weight bytes over that bandwidth or multiplications over PEAK, whichever takes longer, and ours as a
share of it. Loading is from a file in the page
cache, in a process that has imported what it needs, to the first token after a prompt of 16. Rows that FILE holds
already are replaced, others stay, each with its date. Needs requirements/bench.txt; sides that are not installed are left
out, and the table says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from camelid.machine import cores, describe
from camelid.models.shape import LlamaShape
from camelid.native import build
from camelid.native.matrix import KINDS

SHAPES = {
    "tiny": LlamaShape(6, 256, 8, 8, 32, 704, 4096, 4096),
    "110M": LlamaShape(12, 768, 12, 12, 64, 2048, 32000, 4096, tied=True),
    "1.1B": LlamaShape(22, 2048, 32, 4, 64, 5632, 32000, 4096),  # TinyLlama's
    "3.2-1B": LlamaShape(16, 2048, 32, 8, 64, 8192, 128256, 4096, theta=5e5, tied=True),  # without its scaling
    "7B": LlamaShape(32, 4096, 32, 32, 128, 11008, 32000, 4096),
}
TOKENS = {"tiny": 256, "110M": 48, "1.1B": 12, "3.2-1B": 12, "7B": 5}  # of one turn
PROMPT, READ = 16, (128, 512)
REST = 0.2  # seconds before each turn: the threads of the side before go on spinning for a while, on cores that are not its own
SIDES = ("camelid", "llama.cpp", "transformers")
QUANTISED = ("q8_0", "q4_0")
# Operations a second of one thread out of registers, measured on the machine of docs/log.md: FMA, VDPBF16PS, VPDPBUSD.
# Of another machine the floor of reading is not known.
PEAK = {"float32": 117e9, "bf16": 234e9, "q8_0": 470e9, "q4_0": 470e9}
BYTES = {"float32": 4.0, "bf16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}


def tensors(shape: LlamaShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and sizes of all weights."""
    yield "model.embed_tokens.weight", (shape.vocab, shape.width)
    for index in range(shape.layers):
        at = f"model.layers.{index}."
        for name, size in shape.linears().items():
            yield (
                f"{at}{'self_attn' if name in ('q_proj', 'k_proj', 'v_proj', 'o_proj') else 'mlp'}.{name}.weight",
                size,
            )
        yield f"{at}input_layernorm.weight", (shape.width,)
        yield f"{at}post_attention_layernorm.weight", (shape.width,)
    yield "model.norm.weight", (shape.width,)
    if not shape.tied:
        yield "lm_head.weight", (shape.vocab, shape.width)


class Weights(Mapping[str, Any]):
    """Random weights by name, made when asked for: one block of a million normal numbers, begun elsewhere each time."""

    def __init__(self, shape: LlamaShape) -> None:
        self.sizes = dict(tensors(shape))
        self.block = (np.random.default_rng(0).standard_normal(1 << 20) * 0.02).astype(np.float32)

    def array(self, name: str) -> np.ndarray:
        size = self.sizes[name]
        if len(size) == 1:
            return np.ones(size, np.float32)
        start = 7919 * list(self.sizes).index(name) % len(self.block)
        return np.resize(np.roll(self.block, -start), size)

    def __getitem__(self, name: str) -> Any:
        import torch

        return torch.from_numpy(self.array(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.sizes)

    def __len__(self) -> int:
        return len(self.sizes)


def write_gguf(shape: LlamaShape, kind: str, path: Path) -> None:
    """The weights as llama.cpp reads them: blocks as ours, heads turned the other way round."""
    import gguf
    import torch

    from camelid.native.library import library
    from camelid.native.matrix import BLOCK, Matrix, groups

    found = library()
    assert found is not None
    w = gguf.GGUFWriter(path, "llama")
    w.add_context_length(shape.context)
    w.add_embedding_length(shape.width)
    w.add_block_count(shape.layers)
    w.add_feed_forward_length(shape.hidden)
    w.add_head_count(shape.heads)
    w.add_head_count_kv(shape.kv_heads)
    w.add_layer_norm_rms_eps(shape.eps)
    w.add_rope_dimension_count(shape.head_width)
    w.add_vocab_size(shape.vocab)
    w.add_tokenizer_model("none")
    types = {"float32": "F32", "bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0"}
    dtype = getattr(gguf.GGMLQuantizationType, types[kind])
    theirs = {"embed_tokens": "token_embd", "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v",
              "o_proj": "attn_output", "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down",
              "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "norm": "output_norm",
              "lm_head": "output"}  # fmt: skip
    weights = Weights(shape)
    for name in weights:
        parts, array = name.split("."), weights.array(name)
        prefix = f"blk.{parts[2]}." if parts[1] == "layers" else ""
        told = f"{prefix}{theirs[parts[-2]]}.weight"
        if array.ndim == 1:
            w.add_tensor(told, array)
            continue
        if parts[-2] in ("q_proj", "k_proj"):  # pairs side by side instead of halves
            heads = shape.heads if parts[-2] == "q_proj" else shape.kv_heads
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        array = np.ascontiguousarray(array)
        if kind == "bf16":
            array = torch.from_numpy(array).bfloat16().view(torch.int16).numpy().view(np.uint8)
        elif kind != "float32":
            blocks = np.empty((array.shape[0], groups(array.shape[1]) * BLOCK[KINDS[kind]]), np.uint8)  # type: ignore[index]
            source = Matrix.floats(torch.from_numpy(array)).struct
            assert found.camelid_pack(source, KINDS[kind], blocks.ctypes.data, None, None, 1) == -1  # type: ignore[index]
            array = blocks
        w.add_tensor(told, array, raw_dtype=None if kind == "float32" else dtype)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


# --- the sides: each reads a prompt, then decodes greedily; `rows` sequences at once --------------------------------


class Ours:
    def __init__(self, shape: LlamaShape, kind: str, threads: int, path: Path) -> None:
        import torch

        from camelid.native.llama import NativeLlama

        torch.set_num_threads(threads)
        self.torch, self.shape = torch, shape
        stored = _stored(path) if kind in QUANTISED and path.exists() else None
        self.model = stored or NativeLlama.load(shape, Weights(shape), kind)  # type: ignore[arg-type]
        self.model.settle()
        self.bytes = self.model.bytes

    def read(self, ids: list[list[int]], room: int) -> list[int]:
        from camelid.models.llama import Cache

        held = getattr(self, "cache", None)  # room is kept from text to text, as the other sides' is
        if held is None or (held.batch, held.length) != (len(ids), room):
            held = Cache(self.shape, len(ids), room)
        held.rollback(0)
        self.cache = held
        with self.torch.inference_mode():
            logits = self.model.after(self.torch.tensor(ids), cache=self.cache)
            return self.model.pick(logits)[0].tolist()  # type: ignore[no-any-return]

    def step(self, ids: list[int]) -> list[int]:
        with self.torch.inference_mode():
            logits = self.model.step(list(range(len(ids))), ids, self.cache)
            return self.model.pick(logits)[0].tolist()  # type: ignore[no-any-return]


def _stored(path: Path) -> Any:
    """The blocks of a GGUF file, which are those that the weights would be rounded to."""
    from camelid.checkpoints import directory
    from camelid.generate.gguf import as_stored

    return as_stored(directory.load(path))


class LlamaCpp:
    def __init__(self, shape: LlamaShape, kind: str, threads: int, path: Path) -> None:
        import llama_cpp as c

        self.c, self.shape = c, shape
        c.llama_log_set(_QUIET, None)
        self.model = c.llama_model_load_from_file(str(path).encode(), c.llama_model_default_params())
        options = c.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch, options.n_seq_max = 8192, 512, 512, 32
        options.n_threads = options.n_threads_batch = threads
        options.flash_attn_type, options.kv_unified = 1, True
        self.context = c.llama_init_from_model(self.model, options)
        assert self.context, "llama.cpp could not make a context"
        self.batch = c.llama_batch_init(512, 0, 1)

    def read(self, ids: list[list[int]], room: int) -> list[int]:
        self.c.llama_memory_clear(self.c.llama_get_memory(self.context), True)
        self.place = 0
        for first in range(0, len(ids[0]), 512 // len(ids)):
            part = [row[first : first + 512 // len(ids)] for row in ids]
            found = self._decode(part)
        return found

    def step(self, ids: list[int]) -> list[int]:
        return self._decode([[id] for id in ids])

    def _decode(self, ids: list[list[int]]) -> list[int]:
        batch, count, last = self.batch, 0, []
        for row, own in enumerate(ids):
            for offset, id in enumerate(own):
                batch.token[count], batch.pos[count] = id, self.place + offset
                batch.n_seq_id[count], batch.seq_id[count][0] = 1, row
                batch.logits[count] = offset == len(own) - 1
                count += 1
            last.append(count - 1)
        batch.n_tokens = count
        assert self.c.llama_decode(self.context, batch) == 0
        self.place += len(ids[0])
        vocab = self.shape.vocab
        rows = (np.ctypeslib.as_array(self.c.llama_get_logits_ith(self.context, i), shape=(vocab,)) for i in last)
        return [int(row.argmax()) for row in rows]

    def close(self) -> None:
        self.c.llama_free(self.context)
        self.c.llama_model_free(self.model)


class Transformers:
    def __init__(self, shape: LlamaShape, kind: str, threads: int, path: Path) -> None:
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        torch.set_num_threads(threads)
        self.torch = torch
        config = transformers.LlamaConfig(
            vocab_size=shape.vocab, hidden_size=shape.width, intermediate_size=shape.hidden, rms_norm_eps=shape.eps,
            num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
            max_position_embeddings=shape.context, tie_word_embeddings=shape.tied, bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        with torch.device("meta"):
            self.model = transformers.LlamaForCausalLM(config)
        state = dict(Weights(shape).items())
        if shape.tied:
            state["lm_head.weight"] = state["model.embed_tokens.weight"]
        self.model.load_state_dict(state, assign=True)
        self.model.model.rotary_emb = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config)
        self.model = self.model.to(torch.bfloat16 if kind == "bf16" else torch.float32).eval()

    def read(self, ids: list[list[int]], room: int) -> list[int]:
        return self._next(ids, None)

    def step(self, ids: list[int]) -> list[int]:
        return self._next([[id] for id in ids], self.cache)

    def _next(self, ids: list[list[int]], cache: Any) -> list[int]:
        with self.torch.inference_mode():
            out = self.model(self.torch.tensor(ids), past_key_values=cache, use_cache=True, logits_to_keep=1)
            self.cache = out.past_key_values
            return out.logits[:, -1].argmax(-1).tolist()  # type: ignore[no-any-return]


def serve(side: str, shape: str, kind: str, threads: int, path: Path) -> None:
    """The worker: answers each line ["decode", rows, tokens] or ["read"] with seconds and ids."""
    global _QUIET
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print does not belong into the answers
    if side == "llama.cpp":
        import llama_cpp

        _QUIET = llama_cpp.llama_log_callback(lambda *_: None)
    kinds = {"camelid": Ours, "llama.cpp": LlamaCpp, "transformers": Transformers}
    made = kinds[side](SHAPES[shape], kind, threads, path)
    print(json.dumps({"bytes": getattr(made, "bytes", 0)}), file=out, flush=True)
    vocab, draw = SHAPES[shape].vocab, np.random.default_rng(1)
    text = draw.integers(1, vocab, (32, max(READ))).tolist()
    for line in sys.stdin:
        word, *numbers = json.loads(line)
        if word == "load":
            told = loaded(side, SHAPES[shape], kind, threads, path, text[0][:PROMPT], *numbers)
        elif word == "read":
            start = time.perf_counter()
            ids = made.read([text[0][: numbers[0]]], numbers[0])
            told = {"seconds": time.perf_counter() - start, "ids": ids}
        else:
            rows, tokens = numbers
            ids = made.read([row[:PROMPT] for row in text[:rows]], PROMPT + tokens + 1)
            said = [ids]
            start = time.perf_counter()
            for _ in range(tokens):
                ids = made.step(ids)
                said.append(ids)
            told = {"seconds": time.perf_counter() - start, "ids": [list(one) for one in zip(*said, strict=True)]}
        print(json.dumps(told), file=out, flush=True)


_QUIET: Any = None


def write_folder(shape: LlamaShape, kind: str, path: Path) -> None:
    """The weights as a folder of ours."""
    import torch

    from camelid.checkpoints import directory

    directory.save(
        path, Weights(shape), shape=shape, dtype=torch.float32 if kind == "float32" else torch.bfloat16
    )  # fmt: skip


def loaded(
    side: str, shape: LlamaShape, kind: str, threads: int, path: Path, ids: list[int], check: str = ""
) -> dict[str, Any]:
    """Seconds from the GGUF file to the first token; with `check`, ours from the folder beside it."""
    start = time.perf_counter()
    made: Any
    if side == "camelid":
        from camelid.checkpoints import directory
        from camelid.generate.gguf import as_stored
        from camelid.native.llama import NativeLlama

        made = Ours.__new__(Ours)
        checkpoint = directory.load(path.with_suffix(""), check=check) if check else directory.load(path)  # type: ignore[arg-type]
        model = as_stored(checkpoint) or NativeLlama.load(shape, checkpoint.tensors(), kind)  # type: ignore[arg-type]
        made.torch, made.shape, made.model = sys.modules["torch"], shape, model
    else:
        made = LlamaCpp(shape, kind, threads, path)
    found = made.read([ids], PROMPT)
    seconds = time.perf_counter() - start
    if side == "llama.cpp":
        made.close()
    else:
        made.model.settle()  # what goes on in the background is not to slow the other side down
    return {"seconds": seconds, "ids": found}


class Side:
    """A worker process."""

    def __init__(self, name: str, shape: str, kind: str, threads: int, path: Path) -> None:
        command = [sys.executable, __file__, "--serve", name, shape, kind, str(threads), str(path)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self.name, self.kind = name, kind
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.told = self._answer()

    def ask(self, *words: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        print(json.dumps(words), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} {self.kind}: its process ended, exit code {self.process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def stream(threads: int, folder: Path) -> list[float]:
    """GB/s read: median, slowest, fastest of 15."""
    binary = folder / "stream"
    if not binary.exists():
        compiler = build.find_compiler()
        source = str(Path(__file__).with_name("stream.c"))
        assert compiler is not None, "the floor needs a C compiler"
        subprocess.run([compiler, "-O3", "-march=native", "-pthread", source, "-o", str(binary)], check=True)
    told = subprocess.run([str(binary), str(threads), "512", "15"], capture_output=True, text=True, check=True)
    return [float(word) for word in told.stdout.split()]


def busy() -> float:
    """Cores that other work has kept busy during a second."""

    def jiffies() -> tuple[int, int]:
        fields = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
        return sum(fields), fields[3] + fields[4]

    whole, idle = jiffies()
    time.sleep(1)
    later, rested = jiffies()
    return round(cores() * (1 - (rested - idle) / (later - whole)), 2)


def ratio(theirs: list[float], ours: list[float]) -> list[float]:
    """Of medians, then the least and largest of the turns' own."""
    turns = [one / other for one, other in zip(theirs, ours, strict=True)]
    return [round(value, 2) for value in (statistics.median(theirs) / statistics.median(ours), min(turns), max(turns))]


def row(shape: str, kind: str, threads: int, asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One shape, kind and number of threads: every side by turns at every task."""
    path = folder / f"{shape}-{kind}.gguf"
    names = [name for name in asked.sides if name != "transformers" or kind in ("float32", "bf16")]
    if "llama.cpp" in names and not path.exists():
        write_gguf(SHAPES[shape], kind, path)
    tasks: dict[str, tuple[Any, ...]] = {"decode": ("decode", 1, TOKENS[shape])}
    tasks |= {f"decode {rows} at once": ("decode", rows, max(4, TOKENS[shape] // 4)) for rows in asked.at_once}
    if not asked.no_read:
        tasks[f"read {asked.read}"] = ("read", asked.read)
    if asked.load:
        tasks["load"] = ("load",)
    if asked.load_folder and kind in ("float32", "bf16"):
        tasks["load folder"], tasks["load folder, every byte checked"] = ("load", "lengths"), ("load", "contents")
        if not path.with_suffix("").exists():
            write_folder(SHAPES[shape], kind, path.with_suffix(""))
    found: dict[str, Any] = {"shape": shape, "kind": kind, "threads": threads, "busy before": busy()}
    found["stream GB/s"] = stream(threads, folder)
    sides = [Side(name, shape, kind, threads, path) for name in names]
    size = next((side.told["bytes"] for side in sides if side.name == "camelid"), 0)
    for task, words in tasks.items():
        seconds: dict[str, list[float]]
        busy_with = [side for side in sides if words[0] != "load" or side.name != "transformers"]
        seconds = {side.name: [] for side in busy_with}
        said: dict[str, Any] = {side.name: side.ask(*words)["ids"] for side in busy_with}  # warm
        for turn in range(asked.turns if words[0] == "decode" else max(3, asked.turns // 2)):
            for side in busy_with[:: 1 if turn % 2 else -1]:
                time.sleep(REST)
                seconds[side.name].append(side.ask(*words)["seconds"])
        told: dict[str, Any] = {}
        if words[0] == "load":
            for name, times in seconds.items():
                told[name] = {
                    "seconds": [round(spent, 3) for spent in (statistics.median(times), max(times), min(times))]
                }
            for name in seconds:
                if name != "camelid":
                    told[f"time as a multiple of {name}"] = ratio(seconds["camelid"], seconds[name])
            found[task] = told
            continue
        tokens = words[1] if words[0] == "read" else words[1] * words[2]
        for name, times in seconds.items():
            rates = [tokens / spent for spent in (statistics.median(times), max(times), min(times))]
            told[name] = {"tokens/s": [round(rate, 2) for rate in rates]}
            if task == "decode":
                told[name]["GB/s"] = round(size * rates[0] / 1e9, 1)
        if "camelid" in said and len(said) > 1:
            other = next(name for name in said if name != "camelid")
            ours, theirs = np.ravel(said["camelid"]), np.ravel(said[other])
            told["same ids"] = f"{np.mean(ours == theirs):.0%} of {len(ours)}"
            for name in said:
                if name != "camelid":
                    told[f"times {name}"] = ratio(seconds[name], seconds["camelid"])
        found[task] = told
    for side in sides:
        side.close()
    found["stream GB/s after"], found["busy after"] = stream(threads, folder), busy()
    found["machine"], found["date"] = describe(), time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    if not asked.keep:
        path.unlink(missing_ok=True)
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)
    return found


def show(found: dict[str, Any]) -> None:
    head = f"{found['shape']} {found['kind']}, {found['threads']} threads"
    floor = found["stream GB/s"][0]
    print(f"{head}   (stream {floor} GB/s; {found['busy before']} to {found['busy after']} cores busy with other work)")
    for task, told in found.items():
        if not isinstance(told, dict):
            continue
        for name in SIDES:
            if name in told and "seconds" in told[name]:
                median, slow, fast = told[name]["seconds"]
                print(f"  {task:20} {name:13}{median:11,.2f} ({fast:,.2f} to {slow:,.2f}) seconds to the first token")
            elif name in told:
                median, slow, fast = told[name]["tokens/s"]
                weight = told[name].get("GB/s")
                share = f"{weight:8} GB/s {weight / floor:6.0%}" if weight else ""
                print(f"  {task:20} {name:13}{median:11,.1f} ({slow:,.1f} to {fast:,.1f}) tokens/s {share}")
        print("".join(f"  {'':20} {key}: {value}\n" for key, value in told.items() if key not in SIDES), end="")
    sys.stdout.flush()


GOALS = {  # issue 4; by task and kinds: against llama.cpp, against transformers
    ("decode", QUANTISED): (1.5, None),
    ("decode", ("bf16", "float32")): (1.2, 2.0),
    ("many", QUANTISED): (2.5, None),
    ("many", ("bf16", "float32")): (2.5, 2.5),
}


def floor(found: dict[str, Any], task: str) -> tuple[float, str]:
    """Tokens a second that no program exceeds on the machine (seconds for `load`), and what bounds them."""
    shape, kind, threads = SHAPES[found["shape"]], found["kind"], found["threads"]
    weights = shape.parameters() - (0 if shape.tied else shape.vocab * shape.width)  # the embedding's rows are few
    stream = statistics.mean(found[name][0] for name in ("stream GB/s", "stream GB/s after") if name in found) * 1e9
    if task.startswith("load"):
        return shape.parameters() * BYTES[kind] / stream, "bytes"
    rows = 1 if task == "decode" else int(task.split()[1])
    head = shape.vocab * shape.width
    products = rows * weights - (rows - 1) * head if task.startswith("read") else rows * weights
    reading, computing = weights * BYTES[kind] / stream, 2 * products / (PEAK[kind] * threads)
    return rows / max(reading, computing), "bytes" if reading > computing else "operations"


def table(path: Path) -> None:
    """Every ratio of a file beside its goal and its floor, and prefill as the best of ours against the best of theirs."""
    rows = json.loads(path.read_text())["rows"]
    print(
        f"{'':8}{'':9}{'thr':>4} {'task':32}{'ours':>9}{'to llama.cpp':>20}{'goal':>6}{'to transformers':>20}{'goal':>6}"
        f"{'floor':>10} {'set by':11}{'reached':>8}"
    )
    best: dict[tuple[str, int, str], dict[str, float]] = {}
    for found in rows:
        shape, kind, threads = found["shape"], found["kind"], found["threads"]
        for task, told in found.items():
            if not isinstance(told, dict):
                continue
            if task.startswith("read"):
                for name in SIDES:
                    if name in told:
                        own = best.setdefault((shape, threads, task), {})
                        own[name] = max(own.get(name, 0), told[name]["tokens/s"][0])
            sort = "decode" if task == "decode" else "many" if task.startswith("decode") else task
            goals = next(
                (goal for (name, kinds), goal in GOALS.items() if name == sort and kind in kinds), (None, None)
            )
            if sort == "decode" and kind in QUANTISED and shape in ("tiny", "110M"):
                goals = (2.0, None)
            ours = told.get("camelid", {}).get("seconds" if task.startswith("load") else "tokens/s", [0])[0]
            line = f"{shape:8}{kind:9}{threads:4} {task:32}{ours:9,.4g}"
            for other, goal in zip(SIDES[1:], goals, strict=True):
                values = told.get(f"times {other}") or told.get(f"time as a multiple of {other}")
                line += f"{values[0]:6.2f} ({values[1]:.2f}-{values[2]:.2f})".rjust(20) if values else " " * 20
                line += f"{goal:6.1f}" if goal and values else " " * 6
            least, bound = floor(found, task)
            share = (least / ours if task.startswith("load") else ours / least) if ours else 0
            print(line + f"{least:10,.4g} {bound:11}{share:8.0%}")
    print("load is in seconds, to the first token: at most 1.5 times llama.cpp's time is the goal")
    for (shape, threads, task), rates in best.items():
        for other, goal in (("llama.cpp", 1.5), ("transformers", 2.0)):
            if other in rates and "camelid" in rates:
                told = f"{rates['camelid'] / rates[other]:.2f} times {other}'s best type (goal {goal})"
                print(f"{shape:8}{'best':9}{threads:4} {task}: {rates['camelid']:,.0f} tokens/s, {told}")


def main() -> None:
    if "--serve" in sys.argv:
        side, shape, kind, threads, path = sys.argv[2:]
        serve(side, shape, kind, int(threads), Path(path))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["tiny", "110M", "1.1B", "3.2-1B"])
    parser.add_argument("--kinds", nargs="+", default=["float32", "bf16", "q8_0", "q4_0"])
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({cores(), min(2, cores())}, reverse=True))
    parser.add_argument("--rows", nargs="*", default=[], metavar="SHAPE:KIND:THREADS", help="these and no others")
    parser.add_argument("--at-once", nargs="*", type=int, default=[8, 32], help="also decode so many sequences at once")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--read", type=int, choices=READ, default=512, help="so many tokens are read")
    parser.add_argument("--no-read", action="store_true", help="leave out reading")
    parser.add_argument("--load", action="store_true", help="also load the file")
    parser.add_argument("--load-folder", action="store_true", help="also load a folder of ours (float32, bf16)")
    parser.add_argument("--keep", action="store_true", help="keep GGUF files between runs (with --folder)")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, help="measure nothing: print the ratios of a file beside their goals")
    asked = parser.parse_args()
    if asked.table:
        table(asked.table)
        return
    missing = {"llama.cpp": "llama_cpp", "transformers": "transformers"}
    for name, module in missing.items():
        if name in asked.sides and importlib.util.find_spec(module) is None:
            print(f"{name} is not installed (requirements/bench.txt) and is left out")
            asked.sides.remove(name)
    wanted = [(shape, kind, threads) for shape in asked.shapes for kind in asked.kinds for threads in asked.threads]
    if asked.rows:
        words = [one.split(":") for one in asked.rows]
        if not all(len(one) == 3 and one[0] in SHAPES and one[1] in KINDS and one[2].isdigit() for one in words):
            parser.error(f"--rows: each is SHAPE:KIND:THREADS, of {', '.join(SHAPES)} and {', '.join(KINDS)}")
        wanted = [(shape, kind, int(threads)) for shape, kind, threads in words]
    print(
        f"{describe()}; {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}; {asked.turns} turns; medians (slowest to fastest)"
    )
    with tempfile.TemporaryDirectory(prefix="infer-") as scratch:
        for shape, kind, threads in wanted:
            found = row(shape, kind, threads, asked, asked.folder or Path(scratch))
            show(found)
            if asked.out:
                merge(asked.out, found)
    if asked.out:
        table(asked.out)


def merge(path: Path, found: dict[str, Any]) -> None:
    """The file with this row in place of an older one of the same name; the tasks that it lacks stay."""
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    name = tuple(found[word] for word in ("shape", "kind", "threads"))
    older = next((row for row in rows if tuple(row[word] for word in ("shape", "kind", "threads")) == name), {})
    kept = [row for row in rows if row is not older] + [{**older, **found}]
    kept.sort(key=lambda row: (list(SHAPES).index(row["shape"]), list(KINDS).index(row["kind"]), -row["threads"]))
    path.write_text(json.dumps({"rows": kept}, indent=1) + "\n")


if __name__ == "__main__":
    main()
