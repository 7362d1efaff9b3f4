"""Surgery on a finished model: low-rank adapters beside its linear maps, put on, switched off, merged, taken out.

add_lora(model, LoRA(rank=8, alpha=16), seed=0)      only the adapter is trainable from here on
lean(shape, tensors, lora, bits="nf4", ...)          the same over weights of four bits, never held in more at once
set_randomness(model, seed, step, micro)             before every forward pass in training mode with dropout
adapter_state(model)                                 what learns, under PEFT's names
portable(model)                                      the same as an adapter for the base as it was, which PEFT reads
merge(model) / unmerge(model)                        into the weights and exactly out again
fold(model)                                          for good: a plain model again
merged(model)                                        the weights of that model, made one by one
with without_adapter(model): ...                     the base, bit for bit (a reference model for free; PiSSA's rounded)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camelid.errors import Problem, ProblemList, UsageError
from camelid.models.llama import Llama
from camelid.models.shape import LINEARS, LlamaShape, LoRA
from camelid.nn.frozen import Bits, FrozenLinear
from camelid.nn.lora import Draws, LoRALinear, TrainedEmbedding, TrainedLinear
from camelid.quantize import nf4

__all__ = [
    "LoRA",
    "adapter_of",
    "adapter_state",
    "add_lora",
    "add_rows",
    "check_bits",
    "computing_with",
    "fold",
    "lean",
    "load_adapter_state",
    "merge",
    "merged",
    "portable",
    "set_randomness",
    "unmerge",
    "without_adapter",
]

PEFT = "base_model.model."  # what PEFT puts before every name it saves


def add_lora(model: Llama, lora: LoRA, *, seed: int = 0) -> Llama:
    """Puts an adapter on `model` in place and freezes everything else; returns `model`.

    Until it is trained the adapter changes nothing: A is drawn (keyed by `seed` and the map's name), B is zero.
    Raises UsageError when there is an adapter already, or a tied head is to be trained apart from its embedding.
    """
    _check(model, lora)
    model.requires_grad_(False)
    draws = Draws()
    for name, linear in _linears(model, lora):
        _replace(model, name, _adapted(linear, name, lora, draws, seed, None))
    return _dressed(model, lora, draws)


def add_rows(model: Llama, rows: int) -> Llama:
    """Widens embedding and head to `rows` with zeros, in place: room for an adapter that brings all rows with it."""
    added = rows - model.shape.vocab
    embedding = model.model.embed_tokens
    embedding.weight = nn.Parameter(F.pad(embedding.weight.detach(), (0, 0, 0, added)))
    embedding.num_embeddings = rows
    if model.lm_head is not None:
        model.lm_head.weight = nn.Parameter(F.pad(model.lm_head.weight.detach(), (0, 0, 0, added)))
        model.lm_head.out_features = rows
    model.shape = replace(model.shape, vocab=rows)
    return model


def lean(
    shape: LlamaShape,
    tensors: Mapping[str, Tensor],
    lora: LoRA,
    *,
    bits: Bits,
    seed: int = 0,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> Llama:
    """A model of `tensors` whose linear maps lie in int8 or NF4 (`bits`), with an adapter on it, everything else frozen.

    Embedding, head and norms are kept in `dtype`, which is also what is computed in. Tensors are taken one by one, so
    that no more than one of them is ever whole. Raises what `add_lora` does, and UsageError naming every matrix that
    NF4's blocks do not fill.
    """
    model = Llama(shape, dtype=dtype, device="meta")
    _check(model, lora)
    check_bits(shape, bits)
    draws = Draws()
    maps = dict(_linears(model, None))
    rest = [name for name, _ in model.named_parameters() if name.removesuffix(".weight") not in maps]
    for name in list(maps):
        linear = maps.pop(name)  # and with it the only hold on its weights
        kept = tensors[f"{name}.weight"]
        wide = torch.promote_types(kept.dtype, dtype)
        linear.weight = nn.Parameter(kept.to(device=device, dtype=wide, copy=True), requires_grad=False)
        if name.rpartition(".")[2] in lora.targets:
            _replace(model, name, _adapted(linear, name, lora, draws, seed, bits, dtype))
        else:
            _replace(model, name, FrozenLinear.of(linear.weight, bits, dtype))
    others = {name: tensors[name].to(device=device, dtype=dtype, copy=True) for name in rest}
    model.load_state_dict(others, strict=False, assign=True)
    for name in rest:
        model.get_parameter(name).requires_grad_(False)
    return _dressed(model, lora, draws)


def check_bits(shape: LlamaShape, bits: Bits) -> None:
    """Raises UsageError naming every matrix that NF4's blocks do not fill."""
    problems = ProblemList()
    for name, (outputs, inputs) in shape.linears().items() if bits == "nf4" else ():
        if outputs * inputs % nf4.BLOCK:
            found = f"{name}'s {outputs} x {inputs} weights are no whole number of blocks of {nf4.BLOCK}"
            problems.add("base", found, "use int8, which takes any matrix")
    problems.raise_usage()


def _check(model: Llama, lora: LoRA) -> None:
    problems = ProblemList()
    if adapter_of(model) is not None:
        problems.add("adapter", "the model has one already", "merge it for good with fold(model) first")
    if model.lm_head is None and "lm_head" in lora.trained:
        problems.add("adapter.trained", "the head is the embedding here (tied)", "name embed_tokens instead")
    problems.raise_usage()


def _adapted(
    linear: nn.Linear,
    name: str,
    lora: LoRA,
    draws: Draws,
    seed: int,
    bits: Bits | None,
    dtype: torch.dtype | None = None,
) -> LoRALinear:
    """The map with its adapter as it begins. What PiSSA leaves of W is what is kept in `bits`."""
    adapted = LoRALinear(linear, name, lora.rank, lora.factor, lora.dropout, draws, magnitude=lora.kind == "dora")
    adapted.train(linear.training)
    if lora.start == "pissa":
        adapted.take_principal()
    else:
        adapted.draw(seed, "lora")
    if bits is not None:
        adapted.quantise(bits, dtype)
    return adapted


def _dressed(model: Llama, lora: LoRA, draws: Draws) -> Llama:
    if "embed_tokens" in lora.trained:
        model.model.embed_tokens = TrainedEmbedding(model.model.embed_tokens)
    if "lm_head" in lora.trained and model.lm_head is not None:
        model.lm_head = TrainedLinear(model.lm_head)
    model.adapter = lora
    model.draws = draws
    return model


def adapter_of(model: Llama) -> LoRA | None:
    """The shape of the adapter `model` wears, or None."""
    return model.adapter


def set_randomness(model: Llama, seed: int, step: int, micro: int) -> None:
    """Decides every dropout mask of the following forward passes: a pure function of (seed, step, micro, map's name).

    `micro` counts the micro-batches within a step (and virtual ranks, if there are several). Two passes under one
    setting draw the same masks, which is what recomputing activations needs. Free where nothing draws.
    """
    if model.draws is not None:
        model.draws.words = (seed, step, micro)


def adapter_state(model: Llama) -> dict[str, Tensor]:
    """The adapter's tensors under PEFT's names (`base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`).

    They are the live parameters, not copies. Raises UsageError when the model has no adapter.
    """
    _require(model)
    state: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            state[f"{PEFT}{name}.lora_A.weight"], state[f"{PEFT}{name}.lora_B.weight"] = module.a, module.b
            if module.lora_magnitude_vector is not None:
                state[f"{PEFT}{name}.lora_magnitude_vector"] = module.lora_magnitude_vector
        elif isinstance(module, TrainedEmbedding | TrainedLinear):
            state[f"{PEFT}{name}.weight"] = module.trained
    return state


def portable(model: Llama) -> tuple[LoRA, dict[str, Tensor]]:
    """An adapter for the base as it was before the adapter was put on, and its shape: what to save, and PEFT to read.

    It is `adapter_state`, but for PiSSA, whose base gave directions up: s (B A - B0 A0) is a plain adapter of twice the
    rank. On that base it is the trained model but for how W - s B0 A0 was kept: to float32's rounding beside a base in
    float32, to bfloat16's beside one in bfloat16, and in few bits by all that they lost. What that moves, for any
    adapter over a base in few bits and for PiSSA over any, stands as "merged" in the provenance of a run.

    Raises UsageError when the model has no adapter.
    """
    lora, state = _require(model), adapter_state(model)
    if lora.start != "pissa":
        return lora, state
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear) and module.origin is not None:
            a, b = module.origin
            state[f"{PEFT}{name}.lora_A.weight"] = torch.cat([module.a.detach(), a])
            state[f"{PEFT}{name}.lora_B.weight"] = torch.cat([module.b.detach(), -b], dim=1)
    alpha = lora.alpha * (2 if lora.scale == "rank" else math.sqrt(2))
    return replace(lora, rank=2 * lora.rank, alpha=alpha, start="zero"), state


def load_adapter_state(model: Llama, state: Mapping[str, Tensor]) -> None:
    """Copies `state` (as `adapter_state` gives it) into the adapter `model` wears.

    Raises UsageError naming every missing, unknown and misshapen tensor; then nothing was copied.
    """
    wanted = adapter_state(model)
    problems = ProblemList()
    for name in wanted.keys() - state.keys():
        problems.add(name, "missing from the adapter", "was it saved with other targets?")
    for name in state.keys() - wanted.keys():
        problems.add(name, "not part of the adapter put on the model", "were other targets meant?")
    for name in wanted.keys() & state.keys():
        if wanted[name].shape != state[name].shape:
            problems.add(
                name, f"shape {list(state[name].shape)}, wanted {list(wanted[name].shape)}", "is it another rank?"
            )
    problems.problems.sort(key=lambda problem: problem.where)
    problems.raise_usage()
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(state[name])


def merge(model: Llama) -> None:
    """Adds the adapter into the weights, so that it costs nothing to run; `unmerge` brings the base's bits back."""
    _require(model)
    for module in model.modules():
        if isinstance(module, LoRALinear):
            module.merge()


def unmerge(model: Llama) -> None:
    """Takes the adapter out of the weights again: they are the base's, bit for bit."""
    _require(model)
    for module in model.modules():
        if isinstance(module, LoRALinear):
            module.unmerge()


def fold(model: Llama) -> Llama:
    """Merges for good: a plain model, every weight trainable, no adapter; returns `model`.

    Weights that lay in few bits are decoded: the sum is that of the base which the adapter was trained on.
    """
    _require(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, LoRALinear):
            _replace(model, name, _plain_linear(module.sum()))
        elif isinstance(module, FrozenLinear) and not name.endswith(".frozen"):
            _replace(model, name, _plain_linear(module.dense()))
        elif isinstance(module, TrainedLinear):
            _replace(model, name, _plain_linear(module.trained.detach()))
        elif isinstance(module, TrainedEmbedding):
            plain = nn.Embedding(module.num_embeddings, module.embedding_dim, device="meta")
            plain.weight = nn.Parameter(module.trained.detach())
            _replace(model, name, plain)
    model.adapter = model.draws = None
    model.requires_grad_(True)
    return model


def merged(model: Llama) -> dict[str, Callable[[], Tensor]]:
    """Every weight of the plain model that model and adapter are, by name, each made when it is called for.

    That is what `fold` leaves, for models that must not be held whole. Raises UsageError when the model has no adapter.
    """
    _require(model)
    made: dict[str, Callable[[], Tensor]] = {}
    for name, parameter in model.named_parameters():
        owner = model.get_submodule(name.rpartition(".")[0])
        if not isinstance(owner, TrainedEmbedding | TrainedLinear) and "lora_" not in name:
            made[name] = parameter.detach
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            made[f"{name}.weight"] = module.sum
        elif isinstance(module, FrozenLinear) and not name.endswith(".frozen"):
            made[f"{name}.weight"] = module.dense
        elif isinstance(module, TrainedEmbedding | TrainedLinear):
            made[f"{name}.weight"] = module.trained.detach
    return made


@contextmanager
def computing_with(model: Llama, weight: Callable[[str, LoRALinear | FrozenLinear], Tensor]) -> Iterator[Llama]:
    """As long as the block lasts, adapted and quantised maps compute with what `weight` gives for each name and map.

    It is asked when a layer's turn comes, and what it gave is let go after it: one layer is whole at a time.
    """
    handles = []
    for index, layer in enumerate(model.model.layers):
        maps = [
            (f"model.layers.{index}.{name}", part)
            for name, part in layer.named_modules()
            if isinstance(part, LoRALinear | FrozenLinear) and not name.endswith(".frozen")
        ]
        handles += [layer.register_forward_pre_hook(_lending(maps, weight)), layer.register_forward_hook(_ending(maps))]
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


Maps = Sequence[tuple[str, LoRALinear | FrozenLinear]]


def _lending(maps: Maps, weight: Callable[[str, LoRALinear | FrozenLinear], Tensor]) -> Callable[..., None]:
    def lend(layer: nn.Module, given: object) -> None:
        for name, part in maps:
            part.instead = weight(name, part)

    return lend


def _ending(maps: Maps) -> Callable[..., None]:
    def end(layer: nn.Module, given: object, out: object) -> None:
        for _, part in maps:
            part.instead = None

    return end


@contextmanager
def without_adapter(model: Llama) -> Iterator[Llama]:
    """The base for as long as the block lasts, bit for bit, merged or not; in few bits, the base as they keep it.

    With PiSSA, whose W gave directions up, it is W - s B0 A0 as it is kept, and s B0 A0 added to it: the base to float32's
    rounding where it is kept in float32, to bfloat16's where in bfloat16, and in few bits neither the base nor the base
    in those bits, but as far from it as they keep what was left.
    """
    _require(model)
    adapted = [part for part in model.modules() if isinstance(part, LoRALinear | TrainedEmbedding | TrainedLinear)]
    merged = [part for part in adapted if isinstance(part, LoRALinear) and part.merged]
    for linear in merged:
        linear.unmerge()
    for part in adapted:
        part.active = False
    try:
        yield model
    finally:
        for part in adapted:
            part.active = True
        for linear in merged:
            linear.merge()


def _require(model: Llama) -> LoRA:
    if model.adapter is None:
        raise UsageError([Problem("adapter", "the model has none", "put one on with add_lora(model, LoRA(...))")])
    return model.adapter


def _linears(model: Llama, lora: LoRA | None) -> list[tuple[str, nn.Linear]]:
    """Full name and map of every linear map to be adapted; of every one in the layers without `lora`."""
    wanted = LINEARS if lora is None else lora.targets
    modules = list(model.named_modules())
    return [(name, part) for name, part in modules if name.rpartition(".")[2] in wanted and isinstance(part, nn.Linear)]


def _plain_linear(weight: Tensor) -> nn.Linear:
    plain = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    plain.weight = nn.Parameter(weight)
    return plain


def _replace(model: Llama, name: str, module: nn.Module) -> None:
    owner, _, child = name.rpartition(".")
    setattr(model.get_submodule(owner) if owner else model, child, module)
