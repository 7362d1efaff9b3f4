"""A LLaMA that decodes through the kernels: what `Llama` does with a cache, in one call for a whole step.

Activations and cache are float32; weights are float32, bf16, q8_0 or q4_0. What a product takes in is rounded with its
weights: to bf16 beside bf16 (sums stay float32, as PyTorch's and llama.cpp's do), to int8 in groups of 32 beside quantised
ones, and with an Int8PagedCache queries, keys and values are, too. Beside float32 nothing is rounded: that is the exact
way, for weights stored as bf16 as well. A token's numbers depend on its own sequence alone: the same bits alone and in
company, in one chunk and in many, on one thread and on eight.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from ctypes import addressof, c_int32, c_int64
from dataclasses import dataclass
from threading import Lock, Thread
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from camelid.errors import CamelidError, Problem, UsageError
from camelid.models.llama import Cache, Llama
from camelid.models.shape import LlamaShape
from camelid.native.library import INTS, BatchStruct, LayerStruct, ModelStruct, library, state
from camelid.native.matrix import KINDS, Kind, Matrix, Room, size_of
from camelid.native.pace import Pace
from camelid.nn.cache import KeyValueCache
from camelid.nn.paged import Int8PagedCache, PagedCache, PagedTokens
from camelid.nn.rope import Rope

CHUNK = 512  # ours: tokens of one call; bounds its scratch memory
TOGETHER = 4  # ours: rows of logits from which several threads choose ids; for fewer, meeting takes longer
FLOATS = {"float32": torch.float32, "bf16": torch.bfloat16}
LATER = 256 << 20  # ours: bytes of a file's weights that are copied while the model answers already
FEW = 16  # ours: calls of so few tokens begin with the number of threads that serves yet smaller ones
LONG = 1 << 30  # ours: weight bytes times tokens of a call that is too long for trying numbers of threads


@dataclass(frozen=True, eq=False)
class _Weights:
    """Everything the structures point at."""

    matrices: Mapping[str, Matrix]
    vectors: Mapping[str, Tensor]


class NativeLlama:
    """The decoder of `shape` over the kernels; answers to what generate and evaluate ask of a `Llama`."""

    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, shape: LlamaShape, weights: Mapping[str, Matrix], norms: Mapping[str, Tensor]) -> None:
        """`weights` and `norms` by their Hugging Face names; a tied head is left out."""
        found = library()
        if found is None:
            raise CamelidError(f"native kernels: {state()}")
        self._library = found
        self.shape = shape
        self.rope = Rope(shape.head_width, shape.theta, shape.scaling, shape.context)
        self.weights: Kind = weights["model.layers.0.self_attn.q_proj.weight"].kind
        copies = {name: norm.detach().to(torch.float32, copy=True).contiguous() for name, norm in norms.items()}
        self._held = _Weights(weights, copies)
        self._layers = (LayerStruct * shape.layers)(*(self._layer(index) for index in range(shape.layers)))
        self._head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
        self._struct = ModelStruct(
            *(shape.layers, shape.width, shape.heads, shape.kv_heads, shape.head_width, shape.hidden, shape.vocab),
            shape.eps,
            weights["model.embed_tokens.weight"].struct,
            self._head.struct,
            self._vector("model.norm.weight"),
            self._layers,
        )
        layers = sum(matrix.bytes for name, matrix in weights.items() if name.startswith("model.layers."))
        self.bytes = layers + self._head.bytes  # of weights that one decoded token reads
        self._paces: dict[int, Pace] = {}
        self._moving: Thread | None = None
        self._beginning = Lock()

    @staticmethod
    def of(model: Llama, weights: Kind | None = None) -> NativeLlama:
        """The same model through the kernels. Weights of its own type are shared with it, others made from them.

        Raises UsageError for what the kernels do not do (see `refusal`), and for weights that `weights` cannot hold.
        """
        if told := refusal(model):
            raise UsageError([Problem("model", told, "decode it through PyTorch (CAMELID_NATIVE=off)")])
        stored: Kind = "float32" if model.dtype == torch.float32 else "bf16"
        return NativeLlama.load(model.shape, model.state_dict(), weights or stored, share=weights in (None, stored))

    @staticmethod
    def load(shape: LlamaShape, tensors: Mapping[str, Tensor], weights: Kind, *, share: bool = False) -> NativeLlama:
        """From tensors by their Hugging Face names, taken one by one, so that no second copy of all is ever held.

        `share` leaves float weights where they are; otherwise they are copied onto huge pages. Many that are of the right
        type already (those of a mapped file) are begun with where they are, and copied while the model answers (`move`).
        Raises UsageError, naming the tensor, for weights that `weights` cannot hold.
        """
        found = library()
        if found is None:
            raise CamelidError(f"native kernels: {state()}")
        sizes = {name: size for name, size in _sizes(shape).items() if name in tensors}
        total = 0 if share else sum(size_of(*size, weights) for size in sizes.values())
        first = tensors["model.embed_tokens.weight"]
        later = not share and total >= LATER and first.dtype == FLOATS.get(weights)
        room = Room(found, total) if total and not later else None
        matrices, norms = {}, {}
        for name in tensors:
            tensor = tensors[name]
            if name not in sizes:
                norms[name] = tensor
            elif weights == "q8_0" or weights == "q4_0":
                matrices[name] = Matrix.quantised(found, tensor, weights, room, name)
            elif room is None:
                matrices[name] = Matrix.floats(tensor.to(FLOATS[weights]) if later else tensor)
            else:
                matrices[name] = Matrix.copied(found, tensor, weights, room)
        model = NativeLlama(shape, matrices, norms)
        return model.move_later() if later else model

    def settle(self) -> None:
        """Waits until the weights lie where they will stay; for those who measure."""
        self._begin_moving()
        if self._moving is not None:
            self._moving.join()

    def move(self) -> None:
        """Copies the weights onto huge pages, stored blocks as panels, one matrix after the other, and lets go of where
        they were. Calls go on meanwhile; no bit changes, for the numbers are the same. Where there is no memory for it
        they stay."""
        try:
            room = Room(self._library, sum(matrix.room for matrix in self._held.matrices.values()))
        except CamelidError:
            return
        maps = ("query", "key", "value", "out", "gate", "up", "down")
        holders = [getattr(layer, name) for layer in self._layers for name in maps]
        holders += [self._struct.embed, self._struct.head]
        for matrix in self._held.matrices.values():
            old = matrix.struct.data
            new, scales = matrix.moved(self._library, room)
            for holder in (matrix.struct, *(each for each in holders if each.data == old)):
                self._library.camelid_moved(holder, new, scales)
            matrix.held = room

    def move_later(self) -> NativeLlama:
        """Will `move` once the first call is answered, beside those that follow; itself."""
        self._moving = Thread(target=self.move, name="weights", daemon=True)
        return self

    def _begin_moving(self) -> None:
        if self._moving is not None and self._moving.ident is None:
            with self._beginning:  # calls come from several threads
                if self._moving.ident is None:
                    self._moving.start()

    def modules(self) -> Iterator[nn.Module]:
        """None: nothing here is in training mode."""
        return iter(())

    def hidden(self, ids: Tensor, *, cache: KeyValueCache | None = None, counts: Sequence[int] | None = None) -> Tensor:
        """The states [B, T, D] after the final norm, as `Llama.hidden` gives them; padding's states are zeros.

        Without a cache every row is a text of its own.
        """
        batch, width = ids.shape
        taken = [width] * batch if counts is None else list(counts)
        held = cache or Cache(self.shape, batch, width)
        flat = [ids[row, :count] for row, count in enumerate(taken)]
        slots = np.repeat(np.arange(batch, dtype=np.int32), taken)
        states = self._read(torch.cat(flat) if flat else ids.reshape(-1), slots, taken, held)
        if counts is None:
            return states.view(batch, width, -1)
        found = torch.zeros(batch, width, self.shape.width)
        for row, part in enumerate(torch.split(states, taken)):
            found[row, : len(part)] = part
        return found

    def after(self, ids: Tensor, *, cache: KeyValueCache, counts: Sequence[int] | None = None) -> Tensor:
        """Logits [B, V] after the last of each row's new ids [B, T], of which row b has counts[b] (all T by default, at
        least one). What only the other ids' states need is not computed: of the last layer their keys and values alone.
        """
        batch, width = ids.shape
        taken = [width] * batch if counts is None else list(counts)
        if min(taken, default=1) < 1:
            raise CamelidError(f"logits after the last id of each row: rows have {taken} ids; give each at least one")
        flat = [ids[row, :count] for row, count in enumerate(taken)]
        slots = np.repeat(np.arange(batch, dtype=np.int32), taken)
        logits = torch.empty(batch, self.shape.vocab)
        self._read(torch.cat(flat) if flat else ids.reshape(-1), slots, taken, cache, logits)
        return logits

    def logits(self, states: Tensor) -> Tensor:
        """What the head makes of states [..., D]: [..., V]."""
        flat = states.reshape(-1, self.shape.width).contiguous()
        found = torch.empty(len(flat), self.shape.vocab)
        if len(flat):
            threads = torch.get_num_threads()
            place = found.data_ptr()
            self._done(self._library.camelid_linear(self._head.struct, flat.data_ptr(), len(flat), place, threads))
        return found.view(*states.shape[:-1], self.shape.vocab)

    def __call__(
        self, ids: Tensor, *, cache: KeyValueCache | None = None, counts: Sequence[int] | None = None
    ) -> Tensor:
        """Logits [B, T, V]; the arguments are those of `hidden`."""
        return self.logits(self.hidden(ids, cache=cache, counts=counts))

    def step(self, slots: Sequence[int], ids: Sequence[int], cache: KeyValueCache) -> Tensor:
        """Logits [n, V] after one more id for each of these cache rows; the others stay as they are."""
        lengths, counts = cache.lengths, [0] * cache.batch
        for slot in slots:
            counts[slot] = 1
        return self._steps(slots, [lengths[slot] for slot in slots], ids, counts, cache)

    def follow(self, ids: Sequence[int], cache: KeyValueCache) -> Tensor:
        """Logits [n, V] after each of n further ids of the one text that the cache holds."""
        start, count = cache.lengths[0], len(ids)
        return self._steps([0] * count, list(range(start, start + count)), ids, [count], cache)

    def _steps(
        self, slots: Sequence[int], places: list[int], ids: Sequence[int], counts: list[int], cache: KeyValueCache
    ) -> Tensor:
        """One call that wants the logits of all its ids."""
        count = len(ids)
        cache.check_room(counts)
        logits, states = torch.empty(count, self.shape.vocab), torch.empty(count, self.shape.width)
        if not count:
            return logits
        self._check_ids(min(ids), max(ids))
        if not self.rope.follows_length and (table := self.rope.table(max(places))) is not None:
            turns: Sequence[int] = places
        else:
            table, found = self._rotations(np.asarray(places, dtype=np.int32), cache.spans(places))
            turns = found.tolist()
        # plain arrays: NumPy's and PyTorch's take longer to make than a small model takes to compute
        small = c_int32 * count
        parts = ((c_int64 * count)(*ids), small(*slots), small(*places), small(*turns), small(*range(count)))
        self._call(
            cache, count, [addressof(part) for part in parts], table, states.data_ptr(), logits.data_ptr(), count
        )
        cache.advance(counts)
        return logits

    def pick(self, logits: Tensor, ids: Tensor | None = None) -> tuple[Tensor, Tensor, int]:
        """Of each row [n, V]: the likeliest id (or the one given), its log-probability, and the first bad row or -1."""
        rows, vocab = logits.shape
        logits = logits.contiguous()
        chosen = torch.empty(rows, dtype=torch.int64) if ids is None else ids.contiguous()
        logprobs = torch.empty(rows)
        places = (chosen.data_ptr(), logprobs.data_ptr())
        threads = torch.get_num_threads() if rows >= TOGETHER else 1
        wrong = self._library.camelid_pick(logits.data_ptr(), rows, vocab, int(ids is not None), *places, threads)
        return chosen, logprobs, wrong

    def _read(
        self,
        ids: Tensor,
        slots: NDArray[np.int32],
        counts: Sequence[int],
        cache: KeyValueCache,
        logits: Tensor | None = None,
    ) -> Tensor:
        """States [n, D] of new tokens, those of a slot in order; or, where there are `logits` to be written [B, V], these
        after the last token of each slot, and no states."""
        cache.check_room(counts)
        tokens = len(ids)
        states = torch.empty(0 if logits is not None else tokens, self.shape.width)
        if not tokens:
            return states
        self._check_ids(int(ids.min()), int(ids.max()))
        starts = np.asarray(cache.lengths, dtype=np.int32)
        places = starts[slots] + np.concatenate([np.arange(count, dtype=np.int32) for count in counts if count])
        table, turns = self._rotations(places, cache.spans(places))
        ids = ids.contiguous()
        ends, done = np.cumsum(counts, dtype=np.int32) - 1, 0
        for first in range(0, tokens, CHUNK):
            count = min(CHUNK, tokens - first)
            parts = [ids[first:].data_ptr(), *(part[first:].ctypes.data for part in (slots, places, turns))]
            if logits is None:
                self._call(cache, count, [*parts, 0], table, states[first:].data_ptr())
            else:
                want = ends[(ends >= first) & (ends < first + count)] - np.int32(first)
                place = logits[done:].data_ptr() if len(want) else None
                self._call(cache, count, [*parts, want.ctypes.data], table, None, place, len(want))
                done += len(want)
        cache.advance(counts)
        return states

    def _call(
        self,
        cache: KeyValueCache,
        count: int,
        parts: Sequence[int],
        table: Tensor,
        states: int | None,
        logits: int | None = None,
        wanted: int = 0,
    ) -> None:
        """One step of `count` tokens, of which `wanted` want logits; `parts` are the addresses of ids, slots, places, rows
        of `table`, and of the tokens that want logits."""
        assert cache.keys.dtype == torch.float32 and cache.keys.is_contiguous()
        batch = BatchStruct(
            *(count, cache.batch, cache.length, wanted, 1),
            *parts,
            *(table[0].data_ptr(), table[1].data_ptr(), cache.keys.data_ptr(), cache.values.data_ptr()),
            *(states, logits),
        )
        self._run(batch)

    def _check_ids(self, least: int, most: int) -> None:
        if least < 0 or most >= self.shape.vocab:
            raise IndexError(f"ids from {least} to {most} for a vocabulary of {self.shape.vocab}")

    def read(
        self, ids: NDArray[np.int64], new: PagedTokens, want: NDArray[np.int32], *, states: bool = True
    ) -> tuple[Tensor | None, Tensor]:
        """Logits [n, V] of the tokens `want` among new ones, whose keys and values go into pages, and, where asked for, the
        states [N, D] of all; without, what only these need is not computed.

        A call's scratch memory grows with N: read long texts in pieces, which changes no bit.
        """
        tokens, cache = len(ids), new.cache
        self._check_ids(int(ids.min(initial=0)), int(ids.max(initial=0)))
        made = torch.empty(tokens, self.shape.width) if states else None
        found = torch.empty(len(want), self.shape.vocab)
        if not tokens:
            return made, found
        rotations, turns = self._rotations(new.places, new.rooms)
        assert cache.dtype == torch.float32 and new.real is None
        batch = BatchStruct(
            *(tokens, cache.pages, cache.page, len(want), 1),
            *(_address(part) for part in (ids, new.slots, new.places, turns, want)),
            *(part.data_ptr() for part in (rotations[0], rotations[1], cache.keys, cache.values)),
            *(None if made is None else made.data_ptr(), found.data_ptr()),
            _address(new.tables),
            new.tables.shape[1],
            int(new.places.max()) + 1,
            *_scales(cache),
        )
        self._run(batch)
        return made, found

    def _run(self, batch: BatchStruct) -> None:
        """The call, on as many threads as served calls of its size best."""
        pace = self._pace(batch.tokens)
        batch.threads = threads = pace.threads()
        start = time.perf_counter()
        self._done(self._library.camelid_step(self._struct, batch))
        pace.took(threads, time.perf_counter() - start)
        self._begin_moving()

    def _rotations(
        self, places: NDArray[np.int32], rooms: NDArray[np.int64] | None
    ) -> tuple[Tensor, NDArray[np.int32]]:
        """Cosines and sines [2, R, 1, E], and the row of each token."""
        if not self.rope.follows_length and (table := self.rope.table(int(places.max()))) is not None:
            return table, places
        found = self.rope.rotations(places.astype(np.int64), lengths=rooms, dtype=torch.float32, device=self.device)
        return found, np.arange(len(places), dtype=np.int32)

    def _pace(self, tokens: int) -> Pace:
        """The number of threads for calls of about so many tokens, found by trying; bits do not depend on it."""
        most = torch.get_num_threads()
        if self.bytes * tokens > LONG:
            return Pace(most, tries=False)
        single = self._paces.get(1)
        if 1 < tokens <= FEW and single is not None and single.most == most and single.best < most:
            return Pace(single.best, tries=False)  # others are at work: a few rows are too seldom read to find that out
        size = tokens.bit_length()
        if size not in self._paces or self._paces[size].most != most:
            fits = range(size if tokens <= FEW else 0)
            smaller = [own for own in fits if own in self._paces and self._paces[own].most == most]
            known = self._paces[max(smaller)].best if smaller else None
            self._paces[size] = Pace(most, known=known, work=self.bytes * tokens)
        return self._paces[size]

    def _layer(self, index: int) -> LayerStruct:
        at = f"model.layers.{index}."
        inner = [f"self_attn.{name}_proj" for name in "qkvo"]
        maps = [*inner, *(f"mlp.{name}_proj" for name in ("gate", "up", "down"))]
        return LayerStruct(
            *(self._held.matrices[f"{at}{name}.weight"].struct for name in maps),
            self._vector(f"{at}input_layernorm.weight"),
            self._vector(f"{at}post_attention_layernorm.weight"),
        )

    def _vector(self, name: str) -> int:
        return self._held.vectors[name].data_ptr()

    def _done(self, error: int) -> None:
        if error:
            raise CamelidError("native kernels: no memory for the numbers of one call; close other programs")


def _scales(cache: PagedCache) -> tuple[int, ...]:
    """Kind and scales of an int8 cache; nothing for one of floats."""
    if not isinstance(cache, Int8PagedCache):
        return ()
    return INTS, cache.key_scales.data_ptr(), cache.value_scales.data_ptr()


def _sizes(shape: LlamaShape) -> dict[str, tuple[int, int]]:
    """Rows and columns of every matrix, by its Hugging Face name; a head of its own included."""
    found = dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), (shape.vocab, shape.width))
    for index in range(shape.layers):
        for name, size in shape.linears().items():
            part = "self_attn" if name in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
            found[f"model.layers.{index}.{part}.{name}.weight"] = size
    return found


def _address(array: NDArray[Any]) -> int:
    """Where an array's numbers begin; a third of the time of `array.ctypes.data`."""
    found: int = array.__array_interface__["data"][0]
    return found


def refusal(model: Llama) -> str | None:
    """Why a model cannot go through the kernels, or None."""
    if model.device.type != "cpu":
        return f"is on {model.device}"
    if model.dtype not in (torch.float32, torch.bfloat16):
        return f"is in {str(model.dtype).removeprefix('torch.')}"
    if model.adapter is not None:
        return "carries an adapter; merge it first"
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        return "has hooks, which the kernels would not call"
    return None


__all__ = ["KINDS", "Kind", "NativeLlama", "refusal"]
