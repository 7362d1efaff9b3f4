"""Surgery on a finished model: low-rank adapters beside its linear maps, put on, switched off, merged, taken out.

add_lora(model, LoRA(rank=8, alpha=16), seed=0)      only the adapter is trainable from here on
set_randomness(model, seed, step, micro)             before every forward pass in training mode with dropout
adapter_state(model)                                 what PEFT would save, under PEFT's names
merge(model) / unmerge(model)                        into the weights and exactly out again
fold(model)                                          for good: a plain model again
with without_adapter(model): ...                     the base, bit for bit (a reference model for free)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from camelid.errors import Problem, ProblemList, UsageError
from camelid.models.llama import Llama
from camelid.models.shape import LoRA
from camelid.nn.lora import Draws, LoRALinear, TrainedEmbedding, TrainedLinear

__all__ = [
    "LoRA",
    "adapter_of",
    "adapter_state",
    "add_lora",
    "fold",
    "load_adapter_state",
    "merge",
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
    problems = ProblemList()
    if adapter_of(model) is not None:
        problems.add("adapter", "the model has one already", "merge it for good with fold(model) first")
    if model.lm_head is None and "lm_head" in lora.trained:
        problems.add("adapter.trained", "the head is the embedding here (tied)", "name embed_tokens instead")
    problems.raise_usage()
    model.requires_grad_(False)
    draws = Draws()
    for name, owner, child, linear in _linears(model, lora):
        adapted = LoRALinear(linear, name, lora.rank, lora.factor, lora.dropout, draws).train(linear.training)
        adapted.draw(seed, "lora")
        setattr(owner, child, adapted)
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
        elif isinstance(module, TrainedEmbedding | TrainedLinear):
            state[f"{PEFT}{name}.weight"] = module.trained
    return state


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
    """Merges for good: a plain model, every weight trainable, no adapter; returns `model`."""
    _require(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, LoRALinear):
            _replace(model, name, _plain_linear(module.sum()))
        elif isinstance(module, TrainedLinear):
            _replace(model, name, _plain_linear(module.trained.detach()))
        elif isinstance(module, TrainedEmbedding):
            plain = nn.Embedding(module.num_embeddings, module.embedding_dim, device="meta")
            plain.weight = nn.Parameter(module.trained.detach())
            _replace(model, name, plain)
    model.adapter = model.draws = None
    model.requires_grad_(True)
    return model


@contextmanager
def without_adapter(model: Llama) -> Iterator[Llama]:
    """The base for as long as the block lasts, bit for bit, merged or not."""
    _require(model)
    adapted = [part for part in model.modules() if isinstance(part, LoRALinear | TrainedEmbedding | TrainedLinear)]
    merged = [part for part in adapted if isinstance(part, LoRALinear) and part.base is not None]
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


def _require(model: Llama) -> None:
    if model.adapter is None:
        raise UsageError([Problem("adapter", "the model has none", "put one on with add_lora(model, LoRA(...))")])


def _linears(model: Llama, lora: LoRA) -> list[tuple[str, nn.Module, str, nn.Linear]]:
    """(full name, owner, name within it, map) of every linear map to be adapted."""
    found = []
    for name, module in model.named_modules():
        owner, _, child = name.rpartition(".")
        if child in lora.targets and isinstance(module, nn.Linear):
            found.append((name, model.get_submodule(owner), child, module))
    return found


def _plain_linear(weight: Tensor) -> nn.Linear:
    plain = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    plain.weight = nn.Parameter(weight)
    return plain


def _replace(model: Llama, name: str, module: nn.Module) -> None:
    owner, _, child = name.rpartition(".")
    setattr(model.get_submodule(owner) if owner else model, child, module)
