"""A model with all that belongs to it: weights, tokenizer, template. What people and programs talk to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from camelid.checkpoints import delta, directory
from camelid.dialogue.foreign import Recognised
from camelid.dialogue.message import Message
from camelid.dialogue.published import PLAIN
from camelid.dialogue.template import Rendered, Template, render
from camelid.errors import Problem, ProblemList, UsageError
from camelid.generate import gptq
from camelid.generate.answer import Completion
from camelid.generate.decode import GREEDY, ROWS, Event, Model, complete_all, ended, generate
from camelid.generate.engine import Engine as Runs
from camelid.generate.gguf import as_stored
from camelid.generate.settings import Settings
from camelid.generate.widening import widened
from camelid.machine import no_compiler
from camelid.models.shape import LlamaShape
from camelid.native.build import Absent, built, switched_off
from camelid.native.library import state
from camelid.native.llama import NativeLlama
from camelid.native.matrix import Kind
from camelid.nn.paged import CacheKind
from camelid.tokenizers.protocol import Tokenizer

Said = str | Sequence[Message]
Engine = Literal["native", "pytorch", "compiled"]


@dataclass(frozen=True)
class Prompt:
    """Ids to answer, what ends the answer, and whether its text begins afresh (see Answer)."""

    ids: tuple[int, ...]
    stop_ids: tuple[int, ...]
    stop_texts: tuple[str, ...]
    starts: bool

    def within(self, settings: Settings) -> Settings:
        """The settings with this prompt's stops beside their own; with `ignore_eos`, with its stop texts alone."""
        stop_ids = () if settings.ignore_eos else self.stop_ids
        return replace(
            settings,
            stop_ids=tuple(dict.fromkeys((*settings.stop_ids, *stop_ids))),
            stop_texts=tuple(dict.fromkeys((*settings.stop_texts, *self.stop_texts))),
        )


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model, its tokenizer and its template; `template` is None for a base model.

    `foreign` says how the template of a foreign model is known (dialogue/foreign.py); None where nothing was to be
    recognised.
    `ends` are the ids by which the folder says that a text ends; they stop every answer. `engine` says what computes:
    "native float32, AVX-512 VNNI", or "PyTorch float32" with the reason where the kernels could not be had. `cache` says
    how keys and values are kept (see Engine).
    """

    model: Model
    tokenizer: Tokenizer
    template: Template | None
    shape: LlamaShape
    path: Path
    ends: tuple[int, ...] = ()
    engine: str = "PyTorch"
    cache: CacheKind = "float"
    foreign: Recognised | None = None

    def prompt(self, said: Said, *, raw: bool = False, template: Template | None = None) -> Prompt:
        """What the model is given for a text (one user message) or for messages.

        raw       the begin token and the text, nothing else: a document's beginning, as base models are trained on.
                  A tokenizer without a begin token gives the text alone. Takes one text, not messages.
        template  another template than the model's own: for asking a base what its child is asked

        Raises BadData for messages that the template cannot express.
        """
        if raw:
            return self._raw(said if isinstance(said, str) else _only_text(said))
        messages = [Message("user", said)] if isinstance(said, str) else said
        rendered = self.render(messages, generate=True, template=template)
        stops = tuple(dict.fromkeys((*rendered.stop_ids, *self.ends)))
        return Prompt(tuple(rendered.ids), stops, rendered.stop_texts, rendered.starts)

    def render(
        self, messages: Sequence[Message], *, generate: bool = False, template: Template | None = None
    ) -> Rendered:
        """The messages in the model's own template (plain text where it has none), or in another."""
        return render(template or self.template or PLAIN, messages, self.tokenizer, generate=generate)

    def tokenize(self, text: str) -> list[int]:
        """Ids of a whole text, without begin or end token; never a control id."""
        return self.tokenizer.encode(text)

    def generate(
        self,
        said: Said | Prompt,
        settings: Settings = GREEDY,
        *,
        raw: bool = False,
        template: Template | None = None,
        engine: Runs | None = None,
    ) -> Iterator[Event]:
        """The answer as a stream of events (see decode.generate); the template's stops are added to the settings'.

        `engine` is one that runs other requests as well, or has read the prompt's beginning before.
        """
        prompt = said if isinstance(said, Prompt) else self.prompt(said, raw=raw, template=template)
        own = prompt.within(settings)
        if engine is not None:
            return engine.submit(prompt.ids, own, starts=prompt.starts).events()
        return generate(self.model, prompt.ids, own, self.tokenizer, starts=prompt.starts, cache=self.cache)

    def runs(self, rows: int = ROWS) -> Runs:
        """An engine for `rows` requests at once."""
        return Runs(self.model, self.tokenizer, rows=rows, cache=self.cache)

    def complete(
        self,
        said: Said | Prompt,
        settings: Settings = GREEDY,
        *,
        raw: bool = False,
        template: Template | None = None,
    ) -> Completion:
        """The whole answer."""
        return ended(self.generate(said, settings, raw=raw, template=template))

    def complete_all(
        self,
        said: Sequence[Said | Prompt],
        settings: Settings = GREEDY,
        *,
        raw: bool = False,
        template: Template | None = None,
        rows: int = ROWS,
        finished: Callable[[int, Completion], None] | None = None,
    ) -> list[Completion]:
        """The answers to many prompts, decoded together (see decode.complete_all)."""
        prompts = [one if isinstance(one, Prompt) else self.prompt(one, raw=raw, template=template) for one in said]
        return complete_all(
            self.model,
            [prompt.ids for prompt in prompts],
            [prompt.within(settings) for prompt in prompts],
            self.tokenizer,
            starts=[prompt.starts for prompt in prompts],
            rows=rows,
            cache=self.cache,
            finished=finished,
        )

    def _raw(self, text: str) -> Prompt:
        begin = () if self.tokenizer.bos is None else (self.tokenizer.bos,)
        end = () if self.tokenizer.eos is None else (self.tokenizer.eos,)
        ids = (*begin, *self.tokenizer.encode(text))
        return Prompt(ids, tuple(dict.fromkeys((*end, *self.ends))), (), starts=not text)


def load(
    path: Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    check: Literal["contents", "lengths"] = "contents",
    weights: Kind | None = None,
    engine: Engine | None = None,
    cache: CacheKind = "float",
    template: Template | None = None,
) -> Loaded:
    """The model in a folder, ours or Hugging Face's, or in a GGUF file, ready to answer.

    `dtype` is that of the stored weights by default; float16 becomes float32 on a CPU (see widening.py). Quantised
    weights are read by the native kernels as they are where these can (GGUF's Q8_0 and Q4_0, symmetric GPTQ without
    act-order), and otherwise decoded to float32.

    engine   "native" (the kernels of camelid/native: CPU, float32 activations), "pytorch", or "compiled": PyTorch with its
             passes compiled, whose last bits may depend on what is decoded beside a request; by default native where
             it can be had and the weights are float32 or bfloat16. `Loaded.engine` says which it became, and why.
    weights  how the native kernels hold the weights: as stored by default; q8_0 and q4_0 are rounded here, at once.
             bf16 rounds what products take in to bf16 as well, as PyTorch does; float32 computes with the same stored
             weights and rounds nothing, in twice the memory
    cache    how keys and values are kept: "float", or "int8", which takes 3.6 times less memory and rounds
    template in which it talks, instead of its own

    Raises BadFile naming everything that is wrong with the folder, before any weight is read, and UsageError where
    native kernels were asked for, by `engine` or `weights`, and cannot be had.
    """
    checkpoint = directory.load(path, check=check)
    if (wrong := delta.problem(checkpoint)) is not None:
        raise UsageError([wrong])
    tokenizer, foreign = checkpoint.tokenizer, checkpoint.recognised if template is None else None
    template = template or checkpoint.template or (foreign.template if foreign else None)
    device = torch.device(device)
    if widened(checkpoint.dtype, device=device.type, dtype=dtype, engine=engine):
        asked = torch.float32
    else:
        asked = dtype or getattr(torch, checkpoint.dtype)
    why = _no_native(asked, device, engine, weights)
    model: Model
    stored = None
    if why is None and dtype is None and weights is None:
        stored = as_stored(checkpoint) or gptq.as_stored(checkpoint)
    if stored is not None:
        model, told = stored, f"native {stored.weights} as stored, {state().split(',')[0]}"
    elif why is None:
        kind: Kind = weights or ("bf16" if asked == torch.bfloat16 else "float32")
        model = NativeLlama.load(checkpoint.shape, checkpoint.tensors(), kind)
        told = f"native {kind}, {state().split(',')[0]}"
    else:
        model = plain = directory.build(checkpoint, asked, device).eval().requires_grad_(False)
        plain.compiled = engine == "compiled"
        told = f"{'compiled ' * plain.compiled}PyTorch {str(asked).removeprefix('torch.')}" + (
            f" ({why})" if why else ""
        )
    told += "" if cache == "float" else f", keys and values in {cache}"
    ends = checkpoint.generation.eos
    return Loaded(model, tokenizer, template, checkpoint.shape, checkpoint.path, ends, told, cache, foreign)


def _no_native(dtype: torch.dtype, device: torch.device, engine: Engine | None, weights: Kind | None) -> str | None:
    """None where the kernels serve, "" where nobody would expect them, and else the reason why they do not."""
    problems = ProblemList()
    unfit = ""
    if device.type != "cpu":
        unfit = f"they run on the CPU, not on {device}"
    elif dtype not in (torch.float32, torch.bfloat16):
        unfit = f"they do not compute in {str(dtype).removeprefix('torch.')}"
    if engine == "compiled" and (lacking := no_compiler(device.type)):
        problems.add("engine", f"compiled: {lacking}", "install one, or use the engine pytorch")
    if engine in ("pytorch", "compiled") or (unfit and engine is None and weights is None):
        if weights is not None:
            problems.add("weights", f"{weights} for PyTorch", "leave out weights, or use the native engine")
        problems.raise_usage()
        return ""
    absent = built()
    missing = absent.reason if not unfit and isinstance(absent, Absent) else ""
    if not unfit and not missing:
        return None
    if engine == "native" or weights is not None:
        setting = "weights" if weights is not None else "engine"
        remedy = "see camelid doctor, or use the engine pytorch and the stored weights"
        problems.add(setting, f"{weights or engine} needs the native kernels: {unfit or missing}", remedy)
        problems.raise_usage()
    return "" if switched_off() else f"no native kernels: {missing or unfit}"


def _only_text(messages: Sequence[Message]) -> str:
    if len(messages) == 1 and messages[0].role == "user" and not messages[0].input:
        return messages[0].content
    found = f"{len(messages)} messages, or one with more than a text"
    raise UsageError([Problem("raw", found, "give one text: roles and inputs need a template")])
