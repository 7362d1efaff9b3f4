"""The shape of a LLaMA: every number that decides its parameters and its arithmetic, and all published sizes.

A shape belongs to its checkpoint. Parameter counts of published sizes are tested against print. No PyTorch here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from camelid.errors import ProblemList, did_you_mean
from camelid.nn.scaling import KINDS, RopeScaling

__all__ = ["KINDS", "LINEARS", "SIZES", "Linear", "LlamaShape", "LoRA", "RopeScaling", "Whole"]

# The seven linear maps of a layer, and the two matrices at the ends, by Hugging Face's names.
Linear = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
Whole = Literal["embed_tokens", "lm_head"]
LINEARS: tuple[Linear, ...] = get_args(Linear)


@dataclass(frozen=True)
class LlamaShape:
    """One decoder: RMSNorm before each block, rotary positions, grouped-query attention, SwiGLU, tied or free head.

    Touvron et al. 2023 (section 2.2); grouped queries from Llama 2. `hidden` is the width of the feed-forward (F),
    `context` the number of tokens the weights were trained with, `theta` the base of the rotations, `eps` the norm's.

    Raises UsageError naming every setting that cannot be.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    hidden: int
    vocab: int
    context: int
    theta: float = 1e4
    eps: float = 1e-5
    tied: bool = False
    scaling: RopeScaling | None = None

    def __post_init__(self) -> None:
        problems = ProblemList()
        for name in ("layers", "width", "heads", "kv_heads", "head_width", "hidden", "vocab", "context"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                problems.add(f"shape.{name}", f"{value!r} is not a count", "use a whole number of 1 or more")
        if not problems.problems:
            if self.heads % self.kv_heads:
                fits = math.gcd(self.heads, self.kv_heads)
                problems.add(
                    "shape.kv_heads",
                    f"{self.kv_heads} do not divide {self.heads} heads",
                    f"use a divisor of the heads, such as {fits} or {self.heads}",
                )
            if self.head_width % 2:
                problems.add("shape.head_width", f"{self.head_width} is odd", "rotations turn pairs: use an even width")
            if self.head_width == 2 and self.scaling is not None and self.scaling.kind in ("ntk", "dynamic"):
                problems.add("shape.head_width", f"2 leaves {self.scaling.kind} no exponent", "use 4 or more")
        if not (math.isfinite(self.theta) and self.theta > 1):
            problems.add("shape.theta", f"{self.theta} is no base of rotations", "use a finite number above 1")
        if not (math.isfinite(self.eps) and self.eps > 0):
            problems.add("shape.eps", f"{self.eps} does not keep a norm from zero", "use a small positive number")
        if self.scaling is not None:
            self.scaling.problems(problems, "shape.scaling")
        problems.raise_usage()

    def linears(self) -> dict[Linear, tuple[int, int]]:
        """(outputs, inputs) of each of the seven linear maps of one layer, by name."""
        queries, keys = self.heads * self.head_width, self.kv_heads * self.head_width
        return {
            "q_proj": (queries, self.width),
            "k_proj": (keys, self.width),
            "v_proj": (keys, self.width),
            "o_proj": (self.width, queries),
            "gate_proj": (self.hidden, self.width),
            "up_proj": (self.hidden, self.width),
            "down_proj": (self.width, self.hidden),
        }

    def parameters(self) -> int:
        """The exact number of parameters; a tied head is counted once."""
        layer = sum(outputs * inputs for outputs, inputs in self.linears().values()) + 2 * self.width
        return self.layers * layer + self.width + self.vocab * self.width * (1 if self.tied else 2)


@dataclass(frozen=True)
class LoRA:
    """The shape of a low-rank adapter: W x becomes W x + s B A dropout(x), with A [R, in], B [out, R].

    Hu et al. 2021: s = alpha / rank; with `scale="root"` alpha / sqrt(rank) (rsLoRA, Kalajdzievski 2023). `targets` are
    the linear maps adapted in every layer; `trained` names end matrices trained whole beside them. `kind="dora"` trains
    the length of each row of W apart from its direction (Liu et al. 2024); `start="pissa"` begins with the largest
    singular directions of W, which W gives up, instead of nothing (Meng et al. 2024).

    Raises UsageError naming every setting that cannot be.
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    targets: tuple[Linear, ...] = ("q_proj", "v_proj")  # Hu et al. 2021, section 4.2
    scale: Literal["rank", "root"] = "rank"
    trained: tuple[Whole, ...] = ()
    kind: Literal["lora", "dora"] = "lora"
    start: Literal["zero", "pissa"] = "zero"

    def __post_init__(self) -> None:
        problems = ProblemList()
        if not isinstance(self.rank, int) or self.rank < 1:
            problems.add("adapter.rank", f"{self.rank!r} is not a rank", "use a whole number of 1 or more")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            problems.add("adapter.alpha", f"{self.alpha} would silence the adapter", "use a positive number")
        if not 0 <= self.dropout < 1:
            problems.add("adapter.dropout", f"{self.dropout} is no share to leave out", "use 0 or more, less than 1")
        for name, chosen, words in (
            ("scale", self.scale, ("rank", "root")),
            ("kind", self.kind, ("lora", "dora")),
            ("start", self.start, ("zero", "pissa")),
        ):
            if chosen not in words:
                problems.add(f"adapter.{name}", f"{chosen!r} is unknown", did_you_mean(chosen, words))
        if self.kind == "dora" and self.start == "pissa":
            found = "'pissa' moves what 'dora' measures; PEFT could not read what comes of both"
            problems.add("adapter.start", found, "use one of them")
        for name, given, known in (
            ("targets", self.targets, LINEARS),
            ("trained", self.trained, get_args(Whole)),
        ):
            for word in given:
                if word not in known:
                    problems.add(f"adapter.{name}", f"{word!r} is not one of them", did_you_mean(word, known))
            if len(set(given)) < len(given):
                problems.add(f"adapter.{name}", f"{', '.join(given)} names one twice", "name each once")
        if not self.targets and not self.trained:
            problems.add("adapter.targets", "nothing to adapt", f"name some of {', '.join(LINEARS)}")
        problems.raise_usage()

    @property
    def factor(self) -> float:
        """s, the factor on B A."""
        return self.alpha / (self.rank if self.scale == "rank" else math.sqrt(self.rank))


# llama-models, models/llama3/model.py: apply_scaling; for 3.2 litgpt, litgpt/config.py: rope_adjustments
_LLAMA_3_1 = RopeScaling(kind="llama3", factor=8.0, original=8192)
_LLAMA_3_2 = RopeScaling(kind="llama3", factor=32.0, original=8192)

# LLaMA: Touvron et al. 2023, table 2; feed-forward widths from the reference code (multiples of 256).
# eps: the reference code says 1e-5; the released weights of the three smaller sizes are used with 1e-6 (transformers'
# LlamaConfig has it as its default), from memory of their params.json. A checkpoint's own config overrides this.
# fmt: off
SIZES: dict[str, LlamaShape] = {
    "llama-7B": LlamaShape(layers=32, width=4096, heads=32, kv_heads=32, head_width=128, hidden=11008,
                           vocab=32000, context=2048, eps=1e-6),
    "llama-13B": LlamaShape(layers=40, width=5120, heads=40, kv_heads=40, head_width=128, hidden=13824,
                            vocab=32000, context=2048, eps=1e-6),
    "llama-33B": LlamaShape(layers=60, width=6656, heads=52, kv_heads=52, head_width=128, hidden=17920,
                            vocab=32000, context=2048, eps=1e-6),
    "llama-65B": LlamaShape(layers=80, width=8192, heads=64, kv_heads=64, head_width=128, hidden=22016,
                            vocab=32000, context=2048),
    # Llama 2: Touvron et al. 2023b, table 1 and appendix A.2.1; 34B from Code Llama's, which continues it
    "llama-2-7B": LlamaShape(layers=32, width=4096, heads=32, kv_heads=32, head_width=128, hidden=11008,
                             vocab=32000, context=4096),
    "llama-2-13B": LlamaShape(layers=40, width=5120, heads=40, kv_heads=40, head_width=128, hidden=13824,
                              vocab=32000, context=4096),
    "llama-2-34B": LlamaShape(layers=48, width=8192, heads=64, kv_heads=8, head_width=128, hidden=22016,
                              vocab=32000, context=4096),
    "llama-2-70B": LlamaShape(layers=80, width=8192, heads=64, kv_heads=8, head_width=128, hidden=28672,
                              vocab=32000, context=4096),
    # Llama 3: Dubey et al. 2024, table 3; contexts and bases from llama-models, models/sku_list.py
    "llama-3-8B": LlamaShape(layers=32, width=4096, heads=32, kv_heads=8, head_width=128, hidden=14336,
                             vocab=128256, context=8192, theta=5e5),
    "llama-3-70B": LlamaShape(layers=80, width=8192, heads=64, kv_heads=8, head_width=128, hidden=28672,
                              vocab=128256, context=8192, theta=5e5),
    "llama-3-405B": LlamaShape(layers=126, width=16384, heads=128, kv_heads=8, head_width=128, hidden=53248,
                               vocab=128256, context=8192, theta=5e5),
    # Llama 3.1: the same with the rotations slowed by 8
    "llama-3.1-8B": LlamaShape(layers=32, width=4096, heads=32, kv_heads=8, head_width=128, hidden=14336,
                               vocab=128256, context=131072, theta=5e5, scaling=_LLAMA_3_1),
    "llama-3.1-70B": LlamaShape(layers=80, width=8192, heads=64, kv_heads=8, head_width=128, hidden=28672,
                                vocab=128256, context=131072, theta=5e5, scaling=_LLAMA_3_1),
    "llama-3.1-405B": LlamaShape(layers=126, width=16384, heads=128, kv_heads=8, head_width=128, hidden=53248,
                                 vocab=128256, context=131072, theta=5e5, scaling=_LLAMA_3_1),
    # Llama 3.2: llama-models, sku_list.py (llama3_2_base_models): 1B has ffn_dim_multiplier 1.5, 3B has 1.0; tied head
    "llama-3.2-1B": LlamaShape(layers=16, width=2048, heads=32, kv_heads=8, head_width=64, hidden=8192,
                               vocab=128256, context=131072, theta=5e5, tied=True, scaling=_LLAMA_3_2),
    "llama-3.2-3B": LlamaShape(layers=28, width=3072, heads=24, kv_heads=8, head_width=128, hidden=8192,
                               vocab=128256, context=131072, theta=5e5, tied=True, scaling=_LLAMA_3_2),
    # OpenLLaMA: litgpt, litgpt/config.py, by the facts on LongLLaMA; its 7B and 13B have LLaMA's shapes
    "openllama-3B": LlamaShape(layers=26, width=3200, heads=32, kv_heads=32, head_width=100, hidden=8640,
                               vocab=32000, context=2048, eps=1e-6),
    # Code Llama: Rozière et al. 2023, sections 2.1 and 2.4: Llama 2's shapes, base 1e6 and 16,384 tokens after
    # long-context tuning; 16 more rows for infilling (none in the 34B)
    "code-llama-7B": LlamaShape(layers=32, width=4096, heads=32, kv_heads=32, head_width=128, hidden=11008,
                                vocab=32016, context=16384, theta=1e6),
    "code-llama-13B": LlamaShape(layers=40, width=5120, heads=40, kv_heads=40, head_width=128, hidden=13824,
                                 vocab=32016, context=16384, theta=1e6),
    "code-llama-34B": LlamaShape(layers=48, width=8192, heads=64, kv_heads=8, head_width=128, hidden=22016,
                                 vocab=32000, context=16384, theta=1e6),
    "code-llama-70B": LlamaShape(layers=80, width=8192, heads=64, kv_heads=8, head_width=128, hidden=28672,
                                 vocab=32016, context=16384, theta=1e6),
}
# fmt: on
