"""Published training runs, and what this planner predicts for each: what was printed, where, and what was assumed.

Every row states one printed figure. A memory row needs the run's shape, micro-batch and precision; a time row needs a
utilisation, taken from print where there is one (of the same run, or of another run of the same team), and otherwise
the planner's own default. Where print leaves something open, `assumed` says what was taken. A row that misses by more
than 15 % says why in `miss`; a test recomputes every prediction and refuses a `miss` that is none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Literal

from camelid.machine import GIB
from camelid.models.count import Store, trainable, weight_bytes
from camelid.models.shape import LINEARS, SIZES, LlamaShape, LoRA
from camelid.plan.machines import DEVICES
from camelid.plan.plan import UTILISATION
from camelid.plan.training import (
    Layout,
    Training,
    flops_per_token,
    inference_memory,
    memory,
    tokens_per_second,
)

TOLERANCE = 0.15
GB = 10**9
Unit = Literal["tokens/s", "GPU-hours", "hours", "days", "GiB", "GB", "TFLOPS", "FLOPs"]


@dataclass(frozen=True, kw_only=True)
class Printed(ABC):
    """One figure as it was printed, and where; `assumed` is what its source leaves open, `miss` why we are not near."""

    run: str
    value: float
    unit: Unit
    source: str
    assumed: str = ""
    miss: str = ""

    @abstractmethod
    def predicted(self) -> float:
        """The same figure by this planner."""

    @property
    def error(self) -> float:
        """How far the prediction lies from print, as a share of print."""
        return self.predicted() / self.value - 1


@dataclass(frozen=True, kw_only=True)
class Timed(Printed):
    """A rate or a duration. `rate` is operations per second and device, `per_token` operations."""

    per_token: float
    rate: float
    tokens: float = 0.0
    devices: int = 1
    given: str

    def predicted(self) -> float:
        speed = tokens_per_second(self.per_token, self.rate, 1.0)
        hours = self.tokens / speed / 3600
        found: dict[str, float] = {
            "tokens/s": speed,
            "GPU-hours": hours,
            "hours": hours / self.devices,
            "days": hours / self.devices / 24,
            "TFLOPS": self.rate / 1e12,
            "FLOPs": self.tokens * self.per_token,
        }
        return found[self.unit]


@dataclass(frozen=True, kw_only=True)
class Held(Printed):
    """Memory of training on the fullest device."""

    training: Training
    layout: Layout = Layout()

    def predicted(self) -> float:
        return memory(self.training, self.layout).peak / (GIB if self.unit == "GiB" else GB)


@dataclass(frozen=True, kw_only=True)
class Bytes(Printed):
    """Memory that follows from counting alone, such as a model's weights."""

    bytes: int

    def predicted(self) -> float:
        return self.bytes / (GIB if self.unit == "GiB" else GB)


A100, H100 = DEVICES["a100-80gb"].flops, DEVICES["h100-80gb"].flops
DEFAULT = f"none printed: the planner's {UTILISATION:.0%}"

# --- LLaMA ----------------------------------------------------------------------------------------------------------

_LLAMA = "Touvron et al. 2023"
_LLAMA_EACH = {size: flops_per_token(SIZES[f"llama-{size}"], length=2048) for size in ("7B", "13B", "33B", "65B")}
_LLAMA_RATE = 380 * _LLAMA_EACH["65B"]  # section 2.4: "around 380 tokens/sec/GPU on 2048 A100"
_OF_65B = f"that of the 65B: 380 tokens/s per GPU, section 2.4, which is {_LLAMA_RATE / A100:.0%} of the peak"


def _llama(size: str, tokens: float, hours: float) -> Timed:
    return Timed(
        run=f"LLaMA {size}",
        value=hours,
        unit="GPU-hours",
        source=f"{_LLAMA}, table 15",
        per_token=_LLAMA_EACH[size],
        rate=_LLAMA_RATE,
        tokens=tokens,
        given=_OF_65B,
    )


_LLAMAS = (
    _llama("7B", 1.0e12, 82_432),
    _llama("13B", 1.0e12, 135_168),
    _llama("33B", 1.4e12, 530_432),
    _llama("65B", 1.4e12, 1_022_362),
    Timed(
        run="LLaMA 65B, 2,048 A100",
        value=21,
        unit="days",
        source=f"{_LLAMA}, section 2.4",
        per_token=_LLAMA_EACH["65B"],
        rate=_LLAMA_RATE,
        tokens=1.4e12,
        devices=2048,
        given="380 tokens/s per GPU, section 2.4",
    ),
)

# --- Llama 2 --------------------------------------------------------------------------------------------------------


def _llama_2(size: str, hours: float, miss: str = "") -> Timed:
    return Timed(
        run=f"Llama 2 {size}",
        value=hours,
        unit="GPU-hours",
        source="Touvron et al. 2023b, table 2; the total of the model card for 34B",
        per_token=flops_per_token(SIZES[f"llama-2-{size}"], length=4096),
        rate=A100 * UTILISATION,
        tokens=2e12,
        given=DEFAULT,
        miss=miss,
    )


_LLAMA_2S = (
    _llama_2("7B", 184_320),
    _llama_2("13B", 368_640),
    _llama_2("34B", 1_038_336),
    _llama_2("70B", 1_720_320),
)

# --- Llama 3 --------------------------------------------------------------------------------------------------------

_405B = SIZES["llama-3-405B"]
_HERD = "Dubey et al. 2024"


def _llama_3(size: str, hours: float, miss: str) -> Timed:
    return Timed(
        run=f"Llama 3.1 {size}",
        value=hours,
        unit="GPU-hours",
        source="model card of Llama 3.1",
        per_token=flops_per_token(SIZES[f"llama-3-{size}"], length=8192),
        rate=H100 * UTILISATION,
        tokens=15e12,
        given=DEFAULT,
        assumed="15 T tokens: the card says 15T+",
        miss=miss,
    )


_LLAMA_3S = (
    *(
        Timed(
            run=f"Llama 3 405B, {gpus:,} H100, {length:,} tokens",
            value=flops,
            unit="TFLOPS",
            source=f"{_HERD}, table 4",
            per_token=flops_per_token(_405B, length=length),
            rate=H100 * share,
            given=f"{share:.0%} of the peak, table 4",
        )
        for gpus, length, flops, share in (
            (8_192, 8192, 430, 0.43),
            (16_384, 8192, 400, 0.41),
            (16_384, 131_072, 380, 0.38),
        )
    ),
    Timed(
        run="Llama 3 405B, whole run",
        value=3.8e25,
        unit="FLOPs",
        source=f"{_HERD}, section 1",
        per_token=flops_per_token(_405B, length=8192),
        rate=400e12,
        tokens=15.6e12,
        given="none needed: operations alone; 15.6 T tokens",
    ),
    Timed(
        run="Llama 3.1 405B",
        value=30.84e6,
        unit="GPU-hours",
        source="model card of Llama 3.1",
        per_token=flops_per_token(_405B, length=8192),
        rate=400e12 * 0.9,
        tokens=15.6e12,
        given="400 TFLOPS per GPU (table 4) for 90 % of the time (section 3.3.4)",
    ),
    _llama_3("8B", 1.46e6, "as if at 15 % of the peak; the card's hours hold more than the run of 15 T tokens"),
    _llama_3("70B", 7.0e6, "as if at 27 % of the peak; the card's hours hold more than the run of 15 T tokens"),
)

# --- smaller pre-training -------------------------------------------------------------------------------------------

TINY_LLAMA = LlamaShape(
    layers=22, width=2048, heads=32, kv_heads=4, head_width=64, hidden=5632, vocab=32000, context=2048
)
# nanochat's depth 24: width 64 x depth, heads of 128; its two matrices of 4 D stand as a gated one of 8/3 D
NANOCHAT = LlamaShape(
    layers=24, width=1536, heads=12, kv_heads=12, head_width=128, hidden=4096, vocab=32768, context=2048
)
_TINY_EACH = flops_per_token(TINY_LLAMA, length=2048, attention="full")
_FSDP = "PyTorch and IBM, Maximizing training throughput using PyTorch FSDP, 2024"
_TITAN = "torchtitan, docs/performance.md (Llama 3, 64 A100)"
_8B_EACH = flops_per_token(SIZES["llama-3-8B"], length=8192, attention="full")
_70B_EACH = flops_per_token(SIZES["llama-3-70B"], length=8192, attention="full")

_SMALLER = (
    Timed(
        run="TinyLlama 1.1B, A100-40GB",
        value=24_000,
        unit="tokens/s",
        source="TinyLlama README",
        per_token=_TINY_EACH,
        rate=0.56 * A100,
        given="56 % of the peak, README; its count takes attention whole",
    ),
    Timed(
        run="TinyLlama 1.1B, 300 B tokens",
        value=3_456,
        unit="GPU-hours",
        source="TinyLlama README",
        per_token=_TINY_EACH,
        rate=0.56 * A100,
        tokens=300e9,
        given="56 % of the peak, README",
    ),
    Timed(
        run="Llama 2 7B by IBM, 128 A100",
        value=3_700,
        unit="tokens/s",
        source=_FSDP,
        per_token=flops_per_token(SIZES["llama-2-7B"], length=4096, attention="full"),
        rate=0.57 * A100,
        given="57 % of the peak, ibid.",
    ),
    Timed(
        run="Llama 3 8B, torchtitan",
        value=2_904,
        unit="tokens/s",
        source=_TITAN,
        per_token=_8B_EACH,
        rate=0.568 * A100,
        given="56.8 % of the peak, ibid.",
    ),
    Timed(
        run="Llama 3 70B, torchtitan",
        value=331,
        unit="tokens/s",
        source=_TITAN,
        per_token=_70B_EACH,
        rate=0.517 * A100,
        given="51.7 % of the peak, ibid.",
    ),
    Timed(
        run="Llama 3.1 405B, torchtitan, 128 H100",
        value=109,
        unit="tokens/s",
        source="torchtitan, docs/performance.md",
        per_token=flops_per_token(_405B, length=8192, attention="full"),
        rate=0.29 * H100,
        given="29.0 % of the peak, ibid.",
    ),
    Timed(
        run="Llama 3.1 8B, torchtitan, 8 H100",
        value=5_762,
        unit="tokens/s",
        source="torchtitan, benchmarks/llama3_h100_202412_torchtitan.md, table 1",
        per_token=_8B_EACH,
        rate=0.33 * H100,
        given="33 % of the peak, ibid.",
    ),
    Timed(
        run="Ziya-LLaMA 13B, 110 B tokens on 160 A100",
        value=8,
        unit="days",
        source="model card of Ziya-LLaMA-13B",
        per_token=flops_per_token(
            replace(SIZES["llama-13B"], vocab=39_410), length=2048, recompute=True, attention="full"
        ),
        rate=118e12,
        tokens=110e9,
        devices=160,
        given="118 TFLOPS per GPU, ibid.",
        assumed="that rate counts recomputed layers, as Megatron's does; rows of 2,048",
    ),
    Timed(
        run="nanochat depth 24, operations",
        value=4.330784131228946e19,
        unit="FLOPs",
        source="nanochat, dev/LEADERBOARD.md, run 1",
        per_token=flops_per_token(NANOCHAT, length=2048),
        rate=H100,
        tokens=16_704 * 524_288,
        given="none needed: operations alone; 16,704 steps of 524,288 tokens",
        assumed="full windows, causal half; nanochat counts 3 of 4 layers with half a window, whole",
    ),
    Timed(
        run="nanochat depth 24, speedrun on 8 H100",
        value=10_949.46713 / 3600,
        unit="hours",
        source="nanochat, dev/LEADERBOARD.md, run 1",
        per_token=flops_per_token(NANOCHAT, length=2048),
        rate=H100 * UTILISATION,
        tokens=16_704 * 524_288,
        devices=8,
        given=DEFAULT,
        miss="its own figures, 4.33e19 operations in 10,949 s, are half of the peak",
    ),
)

# --- NVIDIA NeMo ----------------------------------------------------------------------------------------------------

_NEMO = "NVIDIA NeMo 24.12, performance summary (H100, FP8)"


def _nemo(
    run: str, shape: str, length: int, tokens: float, rate: float, lora: LoRA | None = None, miss: str = ""
) -> Timed:
    return Timed(
        run=run,
        value=tokens,
        unit="tokens/s",
        source=_NEMO,
        per_token=flops_per_token(SIZES[shape], length=length, lora=lora, attention="full"),
        rate=rate * 1e12,
        given=f"{rate:g} model TFLOPS per GPU, ibid.",
        assumed="adapters of rank 8 on queries and values: their size hardly counts" if lora else "",
        miss=miss,
    )


_SMALL_LORA = LoRA(rank=8, alpha=16.0)
_NO_ATTENTION = "its TFLOPS over its tokens/s are 4 operations a weight: it counts no attention for adapters, we do"
_NEMOS = (
    _nemo("Llama 2 7B, NeMo, 8 H100", "llama-2-7B", 4096, 16_934, 780),
    _nemo("Llama 2 13B, NeMo, 16 H100", "llama-2-13B", 4096, 8_715, 760),
    _nemo("Llama 2 70B, NeMo, 64 H100", "llama-2-70B", 4096, 1_728, 768),
    _nemo("Llama 3 8B, NeMo, 8 H100", "llama-3-8B", 8192, 12_273, 711),
    _nemo("Llama 3 70B, NeMo, 64 H100", "llama-3-70B", 8192, 1_524, 734),
    _nemo("Llama 2 7B LoRA, NeMo, 8 H100", "llama-2-7B", 4096, 24_824, 663, _SMALL_LORA, _NO_ATTENTION),
    _nemo("Llama 2 13B LoRA, NeMo, 8 H100", "llama-2-13B", 4096, 14_629, 757, _SMALL_LORA, _NO_ATTENTION),
    _nemo("Llama 2 70B LoRA, NeMo, 8 H100", "llama-2-70B", 4096, 2_621, 722, _SMALL_LORA),
)

# --- fine-tuning, time ----------------------------------------------------------------------------------------------

_ALPACA_TOKENS = 52_002 * 3 * 127.26  # mean of 9,229 of its records through its template, cut at 512, LLaMA's pieces

_TUNED = (
    Timed(
        run="Alpaca 7B, 8 A100",
        value=3,
        unit="hours",
        source="Taori et al. 2023, report: 3 hours on 8 80GB A100s",
        per_token=flops_per_token(SIZES["llama-7B"], length=127),
        rate=A100 * UTILISATION,
        tokens=_ALPACA_TOKENS,
        devices=8,
        given=DEFAULT,
        assumed="19.9 M real tokens: 52,002 records of 127 tokens on average, 3 epochs",
        miss="micro-batches of 4 short, padded rows, each with a gather of every layer: 3 % of the peak",
    ),
    Timed(
        run="Vicuna 13B, 8 A100",
        value=24,
        unit="hours",
        source="Chiang et al. 2023, release: 8 A100 in one day",
        per_token=flops_per_token(SIZES["llama-13B"], length=2048, recompute=True),
        rate=A100 * UTILISATION,
        tokens=70_000 * 2048 * 3,
        devices=8,
        given=DEFAULT,
        assumed="70 k conversations, one full row each, 3 epochs, recomputing every layer",
        miss="the number of tokens was not printed: long conversations were split into several rows",
    ),
)

# --- memory ---------------------------------------------------------------------------------------------------------

_LIT = "LitGPT, tutorials/resource-tables.md (A100-40GB, Alpaca, longest row 1,304 tokens)"
_LIT_LORA = LoRA(rank=8, alpha=16.0, dropout=0.05)  # 4,194,304 trained in 7B: queries and values at rank 8


def _litgpt(
    size: str, store: Literal["bfloat16", "nf4", "nf4-double"], micro: int, value: float, miss: str = ""
) -> Held:
    return Held(
        run=f"Llama 2 {size} LoRA, LitGPT, {store}, micro-batch {micro}",
        value=value,
        unit="GB",
        source=_LIT,
        training=Training(
            shape=SIZES[f"llama-2-{size}"],
            tokens=1304 * micro,
            lora=_LIT_LORA,
            store=store,
            gradient=2,
            moments=4,
            adapter="bfloat16",
            inputs=store != "bfloat16",
            rows=128,
        ),
        assumed="adapters and moments in bfloat16, as bf16-true means"
        + ("; frozen maps keep their input, as bitsandbytes' do" if store != "bfloat16" else ""),
        miss=miss,
    )


_TUNE = "torchtune README, memory and training speed (batch 2, packed to 2,048, compiled)"
_TUNE_LORA = LoRA(rank=8, alpha=16.0, targets=("q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
_TUNE_LARGE = replace(_TUNE_LORA, rank=16, alpha=32.0)
_8B = Training(
    shape=SIZES["llama-3.1-8B"],
    tokens=4096,
    fused=True,
    rows=512,
    summed=False,
    master=0,
    gradient=2,
    moments=4,
    adapter="bfloat16",
)
_8B_FULL = replace(_8B, gradient=0, moments=0)
_8B_LORA = replace(_8B, lora=_TUNE_LORA)
_CONFIG = "as in its configuration files: "

_TITAN_RUN = "torchtitan, benchmarks/llama3_h100_202412_torchtitan.md"
_TITAN_8B = Training(
    shape=SIZES["llama-3.1-8B"],
    tokens=2 * 8192,
    store="float32",
    master=0,
    summed=False,
    recompute=0.5,
    rows=None,
    copies=2.0,
)

_GUANACO: tuple[tuple[str, float, str], ...] = (
    ("7B", 5.0, ""),
    ("13B", 10.0, "print's 10 GB are more than 6 bits a weight; with the ends in 16 bits and the adapter we find 5"),
    ("33B", 21.0, ""),
    ("65B", 41.0, ""),
)
_GUANACO_LORA = LoRA(rank=64, alpha=16.0, dropout=0.05, targets=LINEARS)


def _guanaco(size: str, value: float, miss: str) -> Bytes:
    shape = SIZES[f"llama-{size}"]
    return Bytes(
        run=f"Guanaco {size}, model in NF4 with double quantization",
        value=value,
        unit="GB",
        source="Dettmers et al. 2023, table 6",
        bytes=weight_bytes(shape, "nf4-double") + trainable(shape, _GUANACO_LORA) * 4,
        assumed="with its adapter, rank 64 on every map, in float32; print rounds to whole gigabytes",
        miss=miss,
    )


_DECODING: tuple[tuple[str, str, Store, float], ...] = (
    ("Llama 2 7B", "llama-2-7B", "bfloat16", 13.52),
    ("Llama 2 13B", "llama-2-13B", "bfloat16", 26.21),
    ("Code Llama 34B", "code-llama-34B", "nf4-double", 18.95),
    ("Llama 2 70B", "llama-2-70B", "nf4-double", 37.21),
)

_MEMORY: tuple[Printed, ...] = (
    Bytes(
        run="Alpaca 7B, weights, gradients and moments",
        value=112,
        unit="GB",
        source="Stanford Alpaca README: 7 x 4 x 4 GB",
        bytes=SIZES["llama-7B"].parameters() * 16,
    ),
    Bytes(
        run="LLaMA 65B in 16 bits, weights, gradients and moments",
        value=780,
        unit="GB",
        source="Dettmers et al. 2023, section 1: more than 780 GB",
        bytes=SIZES["llama-65B"].parameters() * 12,
        assumed="2 + 2 + 8 bytes a weight",
    ),
    *(_guanaco(size, value, miss) for size, value, miss in _GUANACO),
    Held(
        run="QLoRA 65B on one card of 48 GB",
        value=48,
        unit="GB",
        source="Dettmers et al. 2023, section 1: less than 48 GB",
        training=Training(
            shape=SIZES["llama-65B"],
            tokens=512,
            lora=_GUANACO_LORA,
            store="nf4-double",
            gradient=4,
            moments=0,
            recompute=1.0,
            rows=None,
            copies=2.0,
        ),
        assumed="micro-batch of one row of 512 tokens, moments paged out; print gives an upper bound",
    ),
    _litgpt("7B", "bfloat16", 1, 21.30),
    _litgpt("7B", "bfloat16", 2, 29.07),
    _litgpt("13B", "bfloat16", 1, 38.12),
    _litgpt("7B", "nf4", 1, 14.14),
    _litgpt("7B", "nf4-double", 1, 13.84, "by a hair: its eager norms keep float32 copies of their inputs, ours none"),
    _litgpt("13B", "nf4", 1, 23.14),
    _litgpt("13B", "nf4-double", 1, 22.55),
    *(
        Bytes(
            run=f"{name}, decoding, LitGPT, {store}",
            value=value,
            unit="GB",
            source="LitGPT, tutorials/resource-tables.md, single-GPU inference",
            bytes=inference_memory(SIZES[shape], store=store, batch=1, length=256),
            assumed="256 tokens in the cache",
        )
        for name, shape, store, value in _DECODING
    ),
    Held(
        run="Llama 3.1 8B, every weight, torchtune, RTX 4090",
        value=18.9,
        unit="GiB",
        source=_TUNE,
        training=replace(_8B_FULL, recompute=1.0),
        assumed=_CONFIG + "recomputing, gradients applied as made, 8-bit moments paged out",
    ),
    Held(
        run="Llama 3.1 8B, every weight, torchtune, A6000",
        value=37.4,
        unit="GiB",
        source=_TUNE,
        training=replace(_8B_FULL, fused=False),
        assumed="as on the 4090 but without recomputation: the table does not say",
    ),
    Held(
        run="Llama 3.1 8B LoRA, torchtune, RTX 4090",
        value=16.2,
        unit="GiB",
        source=_TUNE,
        training=replace(_8B_LORA, recompute=1.0),
        assumed=_CONFIG + "rank 8, recomputing",
    ),
    Held(
        run="Llama 3.1 8B LoRA, torchtune, A6000",
        value=30.3,
        unit="GiB",
        source=_TUNE,
        training=_8B_LORA,
        assumed="as on the 4090 but without recomputation: the table does not say",
    ),
    Held(
        run="Llama 3.1 8B QLoRA, torchtune, RTX 4090",
        value=7.4,
        unit="GiB",
        source=_TUNE,
        training=replace(_8B_LORA, lora=replace(_TUNE_LORA, targets=LINEARS), store="nf4-double", recompute=1.0),
        assumed=_CONFIG + "rank 8 on every map, recomputing",
    ),
    Held(
        run="Llama 3.1 70B LoRA, torchtune, 8 A100",
        value=27.6,
        unit="GiB",
        source=_TUNE,
        training=replace(_8B_LORA, shape=SIZES["llama-3.1-70B"], lora=_TUNE_LARGE, recompute=1.0),
        layout=Layout(shard=8),
        assumed=_CONFIG + "rank 16, recomputing, sharded",
    ),
    Held(
        run="Llama 3.1 405B QLoRA, torchtune, 8 A100",
        value=44.8,
        unit="GB",
        source=_TUNE,
        training=replace(
            _8B_LORA,
            shape=SIZES["llama-3.1-405B"],
            lora=_TUNE_LARGE,
            store="nf4-double",
            recompute=1.0,
        ),
        layout=Layout(shard=8),
        assumed=_CONFIG + "rank 16, recomputing, sharded",
        miss="the table says batch 2, the configuration file 1, with which we are 10 % above",
    ),
    Held(
        run="Llama 3.1 8B, torchtitan, 8 H100",
        value=82.4,
        unit="GiB",
        source=f"{_TITAN_RUN}, table 1",
        training=_TITAN_8B,
        layout=Layout(shard=8),
        assumed="selective recomputation taken as half of the layers",
    ),
    Held(
        run="Llama 3.1 8B, torchtitan, 8 H100, compiled",
        value=77.0,
        unit="GiB",
        source=f"{_TITAN_RUN}, table 1",
        training=replace(_TITAN_8B, fused=True),
        layout=Layout(shard=8),
        assumed="selective recomputation taken as half of the layers",
        miss="compiling saved 5 GiB in print; that every pointwise result is made anew, as taken here, would save 19",
    ),
    Held(
        run="Llama 3.1 8B, torchtitan, 128 H100",
        value=67.0,
        unit="GiB",
        source=f"{_TITAN_RUN}, table 3",
        training=_TITAN_8B,
        layout=Layout(shard=128),
        assumed="selective recomputation taken as half of the layers",
    ),
    Held(
        run="Llama 3.1 8B, torchtitan, 128 H100, compiled",
        value=62.0,
        unit="GiB",
        source=f"{_TITAN_RUN}, table 3",
        training=replace(_TITAN_8B, fused=True),
        layout=Layout(shard=128),
        assumed="selective recomputation taken as half of the layers",
        miss="compiling saved 5 GiB in print; that every pointwise result is made anew, as taken here, would save 19",
    ),
)

TIMES: tuple[Printed, ...] = (*_LLAMAS, *_LLAMA_2S, *_LLAMA_3S, *_SMALLER, *_NEMOS, *_TUNED)
MEMORIES: tuple[Printed, ...] = _MEMORY

NOT_PREDICTED = (
    "torchtune's Llama 3.1 70B, every weight, on 8 A100: weights and moments lie in the host's memory there, and the "
    "planner knows no such layout.",
    "QLoRA's 24 hours for 65B: neither the card nor the number of tokens was printed.",
    "The memory of LLaMA, Llama 2, Llama 3 and Vicuna runs: no peak was printed.",
    "Ten runs under other names (Koala, Platypus, Baize ...) whose hours are printed without their tokens.",
)
