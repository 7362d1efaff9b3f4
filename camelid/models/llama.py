"""The decoder of LLaMA 1, 2, 3, 3.1, 3.2 (text) and Code Llama: one model for all shapes.

Touvron et al. 2023, section 2.2: RMSNorm before each block, SwiGLU, rotary positions; grouped queries from Llama 2.
Parameters carry Hugging Face's names and layout, so a state dict of ours is one of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, cast

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from camelid.errors import Problem, UsageError
from camelid.models.shape import LlamaShape, LoRA
from camelid.nn import compiled
from camelid.nn.again import again
from camelid.nn.attention import Attention, Layout
from camelid.nn.block import block
from camelid.nn.cache import KeyValueCache
from camelid.nn.feedforward import FeedForward
from camelid.nn.linear import plain, unheard
from camelid.nn.lora import Draws, TrainedEmbedding, TrainedLinear
from camelid.nn.norm import RMSNorm
from camelid.nn.paged import CACHES, PAGE, CacheKind, PagedCache, PagedTokens
from camelid.nn.passes import heads_of, passes_for
from camelid.nn.rope import Rope
from camelid.nn.tied import Tie, embedded
from camelid.randomness import torch_generator

DEVIATION = 0.02  # ours: LLaMA's initialisation is unpublished; this is GPT-2's and transformers' default

DRAWS = (Tensor.uniform_, Tensor.normal_, nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_)

Segments = Tensor | NDArray[Any] | Layout
Held = KeyValueCache | PagedTokens


class DecoderLayer(nn.Module):
    """x + attention(norm(x)), then x + feedforward(norm(x)): [P, D] -> [P, D]."""

    def __init__(self, shape: LlamaShape, *, dtype: torch.dtype | None, device: torch.device | None) -> None:
        super().__init__()
        place: dict[str, Any] = {"dtype": dtype, "device": device}
        self.self_attn = Attention(shape.width, shape.heads, shape.kv_heads, shape.head_width, **place)
        self.mlp = FeedForward(shape.width, shape.hidden, **place)
        self.input_layernorm = RMSNorm(shape.width, shape.eps, **place)
        self.post_attention_layernorm = RMSNorm(shape.width, shape.eps, **place)

    def forward(
        self, x: Tensor, layout: Layout, rotations: Tensor, cache: Held | None = None, layer: int = 0
    ) -> Tensor:
        if cache is None and (made := self._in_one(x, layout, rotations)) is not None:
            return made
        seen = self.self_attn(self.input_layernorm(x), layout, rotations, cache, layer)
        x, normed = self.post_attention_layernorm.after(x, seen)
        return cast(Tensor, x + self.mlp(normed))

    def _in_one(self, x: Tensor, layout: Layout, rotations: Tensor) -> Tensor | None:
        """The layer as one operation, where a run computes its passes so and every part of it is as it was made."""
        attention, mlp = self.self_attn, self.mlp
        around = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
        maps = (*around, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        norms = (self.input_layernorm, self.post_attention_layernorm)
        if passes_for(x, rotations) is None or not (
            all(map(plain, maps)) and all(map(unheard, (*norms, attention, mlp)))
        ):
            return None
        weights = (*(part.weight for part in maps), *(part.weight for part in norms))
        passes = passes_for(x, *weights)
        texts = [(group.rows, group.length) for group in layout.groups]
        heads = heads_of(attention.heads, attention.kv_heads, attention.head_width, texts)
        if passes is None or heads is None:
            return None
        return block(x, weights, (norms[0].eps, norms[1].eps), rotations, heads, passes)


class Decoder(nn.Module):
    """Embedding, layers and final norm; what Hugging Face calls `model`."""

    def __init__(self, shape: LlamaShape, *, dtype: torch.dtype | None, device: torch.device | None) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab, shape.width, dtype=dtype, device=device)
        self.layers = nn.ModuleList(DecoderLayer(shape, dtype=dtype, device=device) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.width, shape.eps, dtype=dtype, device=device)


class _Undrawn(TorchFunctionMode):
    """PyTorch's constructors without their own draws, which would cost time and mean nothing.

    On the meta device they would cost most: it brings in a second's worth of modules to draw what is not there.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if func in DRAWS:
            return args[0] if args else named["tensor"]
        return func(*args, **named)


class Llama(nn.Module):
    """A LLaMA of `shape`. Its weights are not drawn yet: call `initialise`, or load a state dict.

    `device="meta"` builds it without memory, for `load_state_dict(..., assign=True)`.
    """

    def __init__(
        self, shape: LlamaShape, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self.shape = shape
        place = torch.device(device) if device is not None else None
        with _Undrawn():
            self.model = Decoder(shape, dtype=dtype, device=place)
            head: dict[str, Any] = {"bias": False, "dtype": dtype, "device": place}
            self.lm_head = None if shape.tied else nn.Linear(shape.width, shape.vocab, **head)
        if place is None or place.type != "meta":
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.zero_()
        self.adapter: LoRA | None = None  # put on by models/adapt.py
        self.draws: Draws | None = None
        self.recompute = False  # whether every forward pass under autograd is told to `recompute`
        self.compiled = False  # whether its passes are compiled whoever calls (nn/compiled.py); a run says so itself
        self.noise: Callable[[Tensor, Layout], Tensor] | None = None  # put on by models/noise.py
        self.rope = Rope(shape.head_width, shape.theta, shape.scaling, shape.context)

    @property
    def device(self) -> torch.device:
        return self.model.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.norm.weight.dtype

    def forward(
        self,
        ids: Tensor,
        *,
        segments: Segments | None = None,
        positions: Tensor | None = None,
        cache: Held | None = None,
        counts: Sequence[int] | None = None,
        recompute: bool = False,
    ) -> Tensor:
        """Logits [B, T, V]; the arguments are those of `hidden`."""
        x = self.hidden(ids, segments=segments, positions=positions, cache=cache, counts=counts, recompute=recompute)
        return self.logits(x)

    def logits(self, states: Tensor) -> Tensor:
        """What the head makes of states [..., D]: [..., V]."""
        return nn.functional.linear(states, self.head_weight())

    def hidden(
        self,
        ids: Tensor,
        *,
        segments: Segments | None = None,
        positions: Tensor | None = None,
        cache: Held | None = None,
        counts: Sequence[int] | None = None,
        recompute: bool = False,
        tie: Tie | None = None,
    ) -> Tensor:
        """The states [B, T, D] after the final norm, from which the head predicts the next tokens of `ids` [B, T].

        segments   [B, T] document of each token (equal id, side by side = same document; below zero = padding, whose
                   state comes back as zeros), or the Layout that `layout` made of it. Without, each row is one
                   document; padding at the end of rows is then harmless and need not be marked.
        positions  [B, T] rotary positions, where they should not count from 0 in every document.
        cache      the rows continue the sequences it holds: only new ids are given. Of row b, `counts[b]` ids are real
                   (all of them when left out), the rest is padding at the end; their states mean nothing. Not under
                   autograd, and without `segments` and `positions`. PagedTokens say where each of `ids` [1, N] stands.
        recompute  keeps only each layer's input for the backward pass and computes the rest again: less memory, about
                   a third more time, the same bits.
        tie        where a tied model's embedding meets the gradient that a loss will leave there (`cross_entropy`).
        """
        layout = self._plan(ids, segments, positions, cache, counts)
        rotations = self.rope.rotations(layout.positions, lengths=layout.lengths, dtype=self.dtype, device=self.device)
        x = self._embedded(layout.lay(ids), tie)  # [P, D]
        if self.noise is not None and self.training:
            x = self.noise(x, layout)
        with compiled.passes() if self.compiled else nullcontext():
            for index, layer in enumerate(self.model.layers):
                if (recompute or self.recompute) and torch.is_grad_enabled():
                    x = again(layer, x, layout, rotations)
                else:
                    x = layer(x, layout, rotations, cache, index)
            x = self.model.norm(x)
        if isinstance(cache, KeyValueCache) and layout.counts is not None:
            cache.advance(layout.counts)
        return layout.restore(x)

    def _embedded(self, ids: Tensor, tie: Tie | None) -> Tensor:
        end = self.model.embed_tokens
        plain = type(end) is nn.Embedding and type(end.weight) is nn.Parameter and end.weight.is_cpu
        if tie is None or not plain or self.lm_head is not None or not torch.is_grad_enabled():
            return cast(Tensor, end(ids))
        return embedded(ids, end.weight, tie)

    def layout(self, segments: Tensor | NDArray[Any], positions: Tensor | None = None) -> Layout:
        """The layout of a batch [B, T], for passing as `segments` where one batch is used more than once."""
        given = None if positions is None else positions.numpy(force=True)
        return Layout.of_segments(segments, positions=given, call=self._call(), device=self.device)

    def head_weight(self) -> Tensor:
        """The matrix [V, D] that turns states into logits: the head's, or the embedding's when tied."""
        end = self.model.embed_tokens if self.lm_head is None else self.lm_head
        return end.used if isinstance(end, TrainedEmbedding | TrainedLinear) else end.weight

    def _plan(
        self,
        ids: Tensor,
        segments: Segments | None,
        positions: Tensor | None,
        cache: Held | None,
        counts: Sequence[int] | None,
    ) -> Layout:
        if cache is not None:
            if segments is not None or positions is not None:
                found = "given together with a cache"
                raise UsageError([Problem("segments, positions", found, "a cache knows the positions: leave them out")])
            if isinstance(cache, PagedTokens):
                return Layout.paged(cache)
            if len(ids) != cache.batch:
                found = f"{cache.batch} sequences for {len(ids)} rows of ids"
                raise UsageError([Problem("cache", found, "make them equal")])
            return Layout.after(cache, ids.shape[1], counts)
        if counts is not None:
            raise UsageError([Problem("counts", "given without a cache", "mark padding by segments below zero")])
        if segments is None:
            return Layout.whole(ids.shape[0], ids.shape[1], None if positions is None else positions.numpy(force=True))
        layout = segments if isinstance(segments, Layout) else self.layout(segments, positions)
        if (layout.batch, layout.tokens) != tuple(ids.shape):
            found = f"{[layout.batch, layout.tokens]} for ids {list(ids.shape)}"
            raise UsageError([Problem("segments", found, "both must be [B, T]")])
        return layout

    def _call(self) -> int:
        """How many padded places one more attention call is worth: what it costs over what a place costs in a layer."""
        weights = sum(outputs * inputs for outputs, inputs in self.shape.linears().values())
        return int((CALL_WORK if self.device.type == "cpu" else CALL_WORK_GPU) / weights)


# What one more attention call (forward and backward, one layer) costs, in weights that could be multiplied meanwhile.
# Ours: on a CPU about 12 places of benchmarks/step_tiny.py (4 to 12 were equally good, 20 to 60 up to 6 % worse); on a
# GPU not measured, set so that a narrow model makes few calls and a wide one pads little.
CALL_WORK = 2.4e6
CALL_WORK_GPU = 2e9


def initialise(model: Llama, seed: int, *, deviation: float = DEVIATION) -> None:
    """Draws every weight: norms are one, matrices N(0, `deviation`); 0.02 is ours, for LLaMA's is unpublished.

    Each draw is keyed by the seed and the parameter's name alone and made in float32 on the CPU, so it depends neither
    on the order of parameters nor on device, dtype, or what else the model holds.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0)
                continue
            drawn = torch.empty(parameter.shape, dtype=torch.float32)
            drawn.normal_(0.0, deviation, generator=torch_generator(seed, "initialise", name))
            parameter.copy_(drawn)


class Cache(KeyValueCache):
    """Keys and values for decoding with a model of `shape`: room for `length` tokens of each of `batch` sequences.

    With dynamic NTK scaling all rotations are those of a text of `length` tokens, so that all keys share one base, unless
    it is said how many are `given` (see `KeyValueCache.spans`).
    """

    def __init__(
        self,
        shape: LlamaShape,
        batch: int,
        length: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(
            layers=shape.layers,
            batch=batch,
            kv_heads=shape.kv_heads,
            length=length,
            head_width=shape.head_width,
            dtype=dtype,
            device=device,
        )


def paged_cache(
    shape: LlamaShape,
    pages: int,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    *,
    page: int = PAGE,
    kind: CacheKind = "float",
) -> PagedCache:
    """Room for `pages` pages of keys and values of a model of `shape`, in its own floats or in int8."""
    return CACHES[kind](
        layers=shape.layers,
        kv_heads=shape.kv_heads,
        head_width=shape.head_width,
        pages=pages,
        page=page,
        dtype=dtype,
        device=device,
    )


__all__ = ["Cache", "Decoder", "DecoderLayer", "Llama", "initialise", "paged_cache"]
