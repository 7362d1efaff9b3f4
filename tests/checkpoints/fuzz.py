"""Mutated files for every reader of model files: `python -m tests.checkpoints.fuzz KIND --n 12000 --seed 0`.

Each mutant must be read, or refused by BadFile (Refused inside the .pth reader), within 100 ms of processor time and
64 MiB of memory beyond the start: the process limits its own address space to that. Anything else is a failure, printed
with the number and seed that replay it. What our safetensors reader accepts, the library must accept too, with the same
bytes.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from pathlib import Path

LIMIT_SECONDS = 0.1
LIMIT_GROWTH = 64 << 20
HANG_SECONDS = 2.0
NUMBERS = [0, 1, 2, 7, 8, 255, 256, 65_535, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1, -1]


def mutate_bytes(data: bytes, draw: random.Random) -> bytes:
    """One to four small wounds anywhere."""
    data = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        kind = draw.randrange(8)
        at = draw.randrange(len(data) + 1)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data = data[:at]
        elif kind == 2:
            data[at:at] = draw.randbytes(draw.choice((1, 2, 8, 64)))
        elif kind == 3:
            del data[at : at + draw.choice((1, 2, 8, 64))]
        elif kind == 4:
            number = draw.choice([*NUMBERS, len(data), len(data) - 1, len(data) + 1])
            wide = draw.choice(["<B", "<H", "<I", "<Q", ">I"])
            raw = struct.pack(wide, number % (1 << 8 * struct.calcsize(wide)))
            data[at : at + len(raw)] = raw
        elif kind == 5:
            data[at : at + 64] = bytes(len(data[at : at + 64]))
        elif kind == 6:
            other = draw.randrange(len(data) + 1)
            data[at:at] = data[other : other + 32]
        elif data:
            data[at % len(data)] = draw.choice(b'{}[]",:0123456789eE-.tfnX(}qhRcQ\x80\x85\x86\x87\x8a\xff')
    return bytes(data)


def mutate_json(value, draw: random.Random):
    """One value somewhere replaced by something it should not be, or a key added, lost or renamed."""
    places = []

    def walk(node):
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            places.append((node, key))
            walk(node[key])

    value = json.loads(json.dumps(value))
    walk(value)
    if not places:
        return value
    for _ in range(draw.choice((1, 1, 2, 3))):
        node, key = draw.choice(places)
        odd = draw.choice([
            *NUMBERS, -(2**63), 0.5, 1e308, -0.0, True, None, "", "../../etc/passwd", "\0", "x" * 5000, [], {}, [[]],
            [None],
            {"a": 1}, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], ["\U0001f999"], "LORA", "llama", {"rope_type": []}, 10**400,
        ])  # fmt: skip
        kind = draw.randrange(6)
        try:
            if kind == 0 and isinstance(node, dict):
                node[draw.choice(["auto_map", "x", "", "factor", "weight_map", "__metadata__"])] = odd
            elif kind == 1:
                del node[key]
            elif kind == 2 and type(node[key]) is int:
                node[key] += draw.choice((-1, 1, 8, 2**32))
            else:
                node[key] = odd
        except (KeyError, IndexError):
            pass
    return value


# --- kinds: (a sound file's bytes, how to mutate them, how to read them) ----------------------------------------------


class Safetensors:
    """Our reader, and the library beside it."""

    def __init__(self, folder: Path) -> None:
        import safetensors.torch
        import torch

        from camelid.checkpoints.safetensors_io import serialise

        self.reference = safetensors
        self.path = folder / "f.safetensors"
        tables = [
            {"a": torch.randn(3, 4), "b": torch.zeros(5, dtype=torch.bfloat16), "c.weight": torch.ones(2, 2, 2)},
            {f"model.layers.{i}.w": torch.full((i, 2), 1.0) for i in range(12)},
            {},
        ]
        self.seeds = [b"".join(serialise(table, {"format": "pt"})) for table in tables]

    def mutant(self, draw):
        data = draw.choice(self.seeds)
        if draw.random() < 0.5:
            return mutate_bytes(data, draw)
        length = int.from_bytes(data[:8], "little")
        header = json.dumps(mutate_json(json.loads(data[8 : 8 + length]), draw)).encode()
        length = len(header) if draw.random() < 0.9 else draw.choice(NUMBERS) % 2**64
        return length.to_bytes(8, "little") + header + data[8 + length :]

    def read(self, data):
        from camelid.checkpoints.safetensors_io import open_tensors

        self.path.unlink(missing_ok=True)  # a new file each time: rewriting one waits for the disk
        self.path.write_bytes(data)
        found = open_tensors(self.path)
        mine = {name: (str(t.dtype), tuple(t.shape), t.reshape(-1).tolist()) for name, t in found.items()}
        theirs = self.reference.torch.load(data)
        assert repr(mine) == repr(
            {
                name: (str(theirs[name].dtype), tuple(theirs[name].shape), theirs[name].reshape(-1).tolist())
                for name in mine
            }
        ) and set(mine) == set(theirs), "the library reads something else"


class Pth:
    """The opcode reader that the child runs, in this process."""

    def __init__(self, folder: Path) -> None:
        import torch

        from camelid.checkpoints.meta import pth_file
        from camelid.checkpoints.safetensors_io import deferred

        tables = [
            {"a": torch.randn(3, 4), "b": torch.zeros(5, dtype=torch.bfloat16)},
            {f"layers.{i}.w": torch.full((i, 2), 1.0) for i in range(6)},
        ]
        self.seeds = []
        for table in tables:
            self.seeds.append(b"".join(map(bytes, pth_file({n: deferred(t) for n, t in table.items()}, "x"))))
            file = io.BytesIO()
            torch.save(table, file)
            self.seeds.append(file.getvalue())

    def mutant(self, draw):
        data = draw.choice(self.seeds)
        if draw.random() < 0.5:
            return mutate_bytes(data, draw)
        begin = data.index(b"\x80\x02}")  # the pickle, mutated at equal length, its checksum made right again
        end = data.index(b"u.", begin) + 2
        stream = mutate_bytes(data[begin:end], draw)[: end - begin].ljust(end - begin, draw.choice((b".", b"N", b"(")))
        import zlib

        return data.replace(data[begin:end], stream).replace(
            zlib.crc32(data[begin:end]).to_bytes(4, "little"), zlib.crc32(stream).to_bytes(4, "little")
        )

    def read(self, data):
        from camelid.checkpoints import pth

        file = io.BytesIO(data)
        content = pth.read_content(file, len(data))
        pth.check_storages(file, content)
        sum(map(len, pth.safetensors(file, content)))


class Json:
    """config.json, generation_config.json, the index, adapter_config.json and params.json."""

    def __init__(self, folder: Path) -> None:
        from dataclasses import replace

        from camelid.checkpoints import adapter, directory, huggingface, meta
        from camelid.checkpoints.huggingface import Config, config_to
        from camelid.models.shape import LoRA
        from tests.checkpoints.models import SCALINGS, SHAPE

        self.path = folder / "f.json"
        configs = [
            config_to(Config(replace(SHAPE, scaling=scaling), "float32", 1, (2, 3), 0)) for scaling in SCALINGS.values()
        ]
        for config in list(configs):
            inner = dict(config["rope_scaling"] or {"rope_type": "default"}, rope_theta=config["rope_theta"])
            configs.append(
                {k: v for k, v in config.items() if k not in ("rope_scaling", "rope_theta")}
                | {"rope_parameters": inner}
            )
        index = {
            "metadata": {"total_size": 9},
            "weight_map": {f"t{i}": "model-00001-of-00002.safetensors" for i in range(9)},
        }
        lora = adapter._config_to(LoRA(rank=4, alpha=8, trained=("embed_tokens",)), "base")
        generation = {"bos_token_id": 1, "eos_token_id": [2, 3], "temperature": 0.6, "top_p": 0.9, "do_sample": True}
        params = [
            meta.params_of(SHAPE),
            {"dim": 4096, "n_layers": 32, "n_heads": 32, "norm_eps": 1e-6, "vocab_size": -1},
        ]
        self.seeds = [(config, huggingface.read_config) for config in configs]
        self.seeds += [
            (index, directory.read_index),
            (lora, adapter.read_config),
            (generation, huggingface.read_generation),
        ] * 4
        self.seeds += [(value, meta._read_parameters) for value in params] * 2

    def mutant(self, draw):
        value, self.reader = draw.choice(self.seeds)
        if draw.random() < 0.4:
            return mutate_bytes(json.dumps(value).encode(), draw)
        return json.dumps(mutate_json(value, draw)).encode()

    def read(self, data):
        self.path.unlink(missing_ok=True)
        self.path.write_bytes(data)
        self.reader(self.path)


class Gguf:
    """Header, shape, tokenizer and tensors of a GGUF file; what is accepted the gguf package must accept, byte for byte."""

    def __init__(self, folder: Path) -> None:
        from dataclasses import replace

        import torch

        from camelid.checkpoints.gguf import save_gguf
        from camelid.models.shape import RopeScaling
        from camelid.tokenizers import byte_bpe, sentencepiece
        from tests.checkpoints.models import SHAPE, weights

        try:
            import gguf

            self.reference = gguf.GGUFReader
        except ImportError:
            self.reference = None
        self.path = folder / "f.gguf"
        text = ["The camel walked 120 miles to Aswan. " * 9]
        tokenizers = [None, sentencepiece.train(text, vocab=285), byte_bpe.train(text, vocab=270)]
        small = replace(SHAPE, layers=1, heads=2, kv_heads=1, hidden=32, head_width=16, vocab=288)
        scaled = replace(small, scaling=RopeScaling("llama3", 8.0, original=8192), theta=5e5, tied=True)
        self.seeds = []
        for number, (tokenizer, shape, form) in enumerate(
            (t, s, f) for t in tokenizers for s in (small, scaled) for f in ("q8_0", "bf16")
        ):
            path = folder / f"seed{number}.gguf"
            save_gguf(path, weights(shape, dtype=torch.bfloat16), shape=shape, form=form, tokenizer=tokenizer)
            self.seeds.append(path.read_bytes())
        self.seeds += [data.replace(b"camelid.model", b"general.names") for data in self.seeds]  # as foreign files

    def mutant(self, draw):
        data = draw.choice(self.seeds)
        kind = draw.random()
        if kind < 0.3:
            return mutate_bytes(data, draw)
        names = [b"llama.", b"tokenizer.ggml.", b"general.", b"camelid.", b"blk.0.", b"token_embd", b"output"]
        at = data.find(draw.choice(names), draw.randrange(1000))
        if kind < 0.8 and at > 0:  # wounds near a key or a tensor's entry, where the structure is
            end = min(len(data), at + draw.choice((16, 64, 200)))
            begin = max(0, at - 8)
            return data[:begin] + mutate_bytes(data[begin:end], draw) + data[end:]
        count = draw.choice((8, 16))  # the counts of tensors and keys
        return data[:count] + (draw.choice(NUMBERS) % 2**64).to_bytes(8, "little") + data[count + 8 :]

    def read(self, data):
        from camelid.checkpoints.gguf import load_gguf

        self.path.unlink(missing_ok=True)
        self.path.write_bytes(data)
        found = load_gguf(self.path)
        for name, tensor in found.tensors().items():
            assert tuple(tensor.shape) == found._pairs[name].shape
        if found.has_tokenizer:
            tokenizer = found.tokenizer
            assert not set(tokenizer.encode("<s> </s><|eot_id|> Aswan\n")) & set(tokenizer.controls.values())
        if self.reference is not None:
            theirs = {t.name: (t.data_offset, t.n_bytes) for t in self.reference(self.path).tensors}
            mine = {name: (place.begin, place.end - place.begin) for name, place in found.header.places.items()}
            assert mine == theirs, "the gguf package reads something else"


class Folder:
    """A config and a file of tensors that must fit each other: either is wounded, or a tensor exchanged for another."""

    config, weights = "config.json", "model.safetensors"

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "mutant"
        self.folder.mkdir()
        self.seeds = [
            ((path / self.config).read_bytes(), (path / self.weights).read_bytes()) for path in self.sound(folder)
        ]

    def mutant(self, draw):
        config, weights = draw.choice(self.seeds)
        kind = draw.random()
        if kind < 0.4:
            config = json.dumps(mutate_json(json.loads(config), draw)).encode()
        elif kind < 0.5:
            config = mutate_bytes(config, draw)
        elif kind < 0.6:
            config = draw.choice(self.seeds)[0]
        elif kind < 0.8:
            length = int.from_bytes(weights[:8], "little")
            header = json.dumps(mutate_json(json.loads(weights[8 : 8 + length]), draw)).encode()
            weights = len(header).to_bytes(8, "little") + header + weights[8 + length :]
        else:  # codes, scales and what they are said to be
            begin = 8 + int.from_bytes(weights[:8], "little")
            weights = weights[:begin] + mutate_bytes(weights[begin:], draw)[: len(weights) - begin].ljust(
                len(weights) - begin, b"\xff"
            )
        return len(config).to_bytes(8, "little") + config + weights

    def read(self, data):
        length = int.from_bytes(data[:8], "little")
        for name, content in ((self.config, data[8 : 8 + length]), (self.weights, data[8 + length :])):
            (self.folder / name).unlink(missing_ok=True)
            (self.folder / name).write_bytes(content)
        self.opened()


class Packed(Folder):
    """Folders in nf4, int8, GPTQ's and AWQ's layouts, as foreign ones; what is accepted is decoded whole."""

    def sound(self, folder: Path):
        from dataclasses import replace

        import torch

        from camelid.checkpoints import directory, layouts
        from camelid.checkpoints.calibration import Settings
        from camelid.checkpoints.quantised import layout_of, quantised, save
        from tests.checkpoints.models import SHAPE, weights

        shape = replace(SHAPE, layers=1, width=16, heads=2, kv_heads=2, head_width=8, hidden=24, vocab=24)
        directory.save(folder / "hf", weights(shape, dtype=torch.bfloat16), shape=shape)
        original, settings = directory.load(folder / "hf"), Settings(group=8)
        ids = torch.randint(24, (2, 30))
        for method in layouts.METHODS:
            coded = quantised(original, method, ids=ids, settings=settings)
            yield save(folder / method, original, coded, layout_of(method, settings))

    def opened(self):
        from camelid.checkpoints import directory
        from camelid.checkpoints.names import expected

        found = directory.load(self.folder)
        sizes = expected(found.shape)
        for name, tensor in found.tensors().items():
            assert tuple(tensor.shape) == sizes[name]


class Adapter(Folder):
    """Adapter folders as PEFT writes them, beside their base."""

    config, weights = "adapter_config.json", "adapter_model.safetensors"

    def sound(self, folder: Path):
        import torch

        from camelid.checkpoints import adapter, directory
        from camelid.models.shape import LoRA
        from tests.checkpoints.models import SHAPE, weights

        directory.save(folder / "base", weights(SHAPE), shape=SHAPE)
        self.base = directory.load(folder / "base")
        for number, lora in enumerate([LoRA(2, 4.0), LoRA(3, 8.0, scale="root", trained=("lm_head",))]):
            state = {name: torch.ones(size) for name, size in adapter.expected(SHAPE, lora).items()}
            yield adapter.save(folder / f"a{number}", state, lora=lora, shape=SHAPE, base=self.base.digest)

    def opened(self):
        from camelid.checkpoints import adapter

        found = adapter.load(self.folder, self.base)
        wanted = adapter.expected(self.base.shape, found.lora)
        assert {name: tuple(tensor.shape) for name, tensor in found.tensors().items()} == wanted


class Tokenizers:
    """Tokenizer files of every kind; one that is accepted never gives a control id for text."""

    def __init__(self, folder: Path) -> None:
        from camelid.tokenizers import byte_bpe, sentencepiece

        self.path = folder / "tokenizer"
        text = ["The camel walked 120 miles to Aswan. 骆驼 " * 9]
        pieces, ranks = sentencepiece.train(text, vocab=300), byte_bpe.train(text, vocab=270)
        self.seeds = [(pieces.model, False), (ranks.model, False)]
        self.seeds += [(one.files()["tokenizer.json"], True) for one in (pieces, ranks)]

    def mutant(self, draw):
        data, is_json = draw.choice(self.seeds)
        if is_json and draw.random() < 0.6:
            return json.dumps(mutate_json(json.loads(data), draw)).encode()
        return mutate_bytes(data, draw)

    def read(self, data):
        from camelid import tokenizers

        self.path.unlink(missing_ok=True)
        self.path.write_bytes(data)
        found = tokenizers.load(self.path)
        ids = found.encode("Hello <s> 12 \0é🐪<|eot_id|>")
        assert set(found.controls.values()).isdisjoint(ids)
        found.decode(ids)


class Templates:
    """The template and the certificate in a folder of ours whose manifest vouches for hostile ones."""

    def __init__(self, folder: Path) -> None:
        import numpy as np

        from camelid.dialogue.published import LLAMA_2, LLAMA_3, PLAIN, VICUNA_1_1
        from camelid.frozen import to_data
        from camelid.generate.certificate import Certificate
        from camelid.tokenizers import sentencepiece

        self.folder, self.tokenizer = folder, sentencepiece.train(["The camel walked to Aswan. " * 9], vocab=285)
        self.seeds = [(to_data(one), self.template) for one in (LLAMA_2, LLAMA_3, PLAIN, VICUNA_1_1)]
        note = Certificate(
            (("a", (1, 2)),), (None, ((1,), (True,), (2,), ("x",))), np.zeros((2, 3), int), np.zeros((2, 3, 4), "<f4"), 1.0,
            "float32", "float32",
        )  # fmt: skip
        self.seeds += [(note.data(), self.certificate)] * 2

    def mutant(self, draw):
        value, self.reader = draw.choice(self.seeds)
        return json.dumps(mutate_json(value, draw)).encode()

    def read(self, data):
        self.reader(json.loads(data))

    def template(self, value):
        from camelid.dialogue.jinja import jinja
        from camelid.dialogue.message import Message
        from camelid.dialogue.template import Template, render
        from camelid.errors import BadFile, Problems
        from camelid.frozen import from_data

        try:
            template = from_data(Template, value, "template")
            render(template, [Message("user", "Hi <s>"), Message("assistant", "Yes")], self.tokenizer)
            assert len(jinja(template, self.tokenizer)) < 1 << 20
        except Problems as error:
            raise BadFile(self.folder, "", str(error)) from None

    def certificate(self, value):
        from camelid.generate import certificate

        certificate._read(value, self.folder)


KINDS = {
    "safetensors": Safetensors,
    "pth": Pth,
    "json": Json,
    "gguf": Gguf,
    "packed": Packed,
    "adapter": Adapter,
    "tokenizer": Tokenizers,
    "template": Templates,
}


class Hung(BaseException):
    """A mutant kept its reader busy for HANG_SECONDS."""


def _stop(*_) -> None:
    raise Hung


def bound_memory() -> None:
    """From here on the process may grow by LIMIT_GROWTH and no more."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + LIMIT_GROWTH, now + LIMIT_GROWTH))


def run(kind: str, n: int, seed: int) -> dict:
    """What happened to `n` mutants of one kind."""
    from camelid.checkpoints.pth import Refused
    from camelid.errors import BadFile

    told = {"kind": kind, "n": n, "seed": seed, "refused": 0, "read": 0, "slowest_ms": 0.0, "failures": []}
    signal.signal(signal.SIGPROF, _stop)
    with tempfile.TemporaryDirectory() as folder:
        target = KINDS[kind](Path(folder))
        for number in range(100 + n):
            if number == 100:
                gc.freeze()  # a pass of the collector over the imported libraries is not the reader's work
                bound_memory()
            data = target.mutant(random.Random(f"{kind} {seed} {number}"))
            began = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, HANG_SECONDS)
            try:
                target.read(data)
                told["read"] += 1
            except (BadFile, Refused):
                told["refused"] += 1
            except BaseException:
                told["failures"].append({"number": number, "error": traceback.format_exc()[-1500:]})
            signal.setitimer(signal.ITIMER_PROF, 0)
            spent = time.process_time() - began
            if number >= 100:  # the first ones also import
                told["slowest_ms"] = max(told["slowest_ms"], round(1000 * spent, 1))
            if spent > LIMIT_SECONDS and number >= 100:
                told["failures"].append({"number": number, "error": f"{spent:.2f} s"})
    return told


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    outcome = run(asked.kind, asked.n, asked.seed)
    print(json.dumps({**outcome, "failures": outcome["failures"][:3]}))
    sys.exit(1 if outcome["failures"] else 0)
