"""A model's linear maps rounded to four bits with a text in view: GPTQ and AWQ, layer after layer.

Only one layer's weights are in memory in full; the states of the text between layers are float32. GPTQ reads each
layer's inputs from layers that are rounded already, and within a layer takes the maps in the order in which they work
(AutoGPTQ's true_sequential); AWQ reads them from the layers as they were, as its authors' code does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from camelid.checkpoints.directory import Checkpoint
from camelid.checkpoints.names import EMBEDDING
from camelid.errors import Problem, UsageError
from camelid.models.llama import DecoderLayer
from camelid.nn.attention import Layout
from camelid.nn.rope import Rope
from camelid.quantize import awq, gptq, int4
from camelid.quantize.gptq import DAMPING
from camelid.quantize.int4 import GROUP, Int4

WINDOW = 512  # ours: ids read together, the context if that is shorter; the papers take 2,048 on a GPU
WINDOWS = 128  # Frantar et al. 2022, section 4: 128 segments
AT_ONCE = 4096  # ours: ids that go through a layer together
STAGES = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
ROOM = {"q_proj": "self_attn", "k_proj": "self_attn", "v_proj": "self_attn", "o_proj": "self_attn"}


@dataclass(frozen=True)
class Settings:
    """How to round: columns of a group, GPTQ's damping, order and symmetry."""

    group: int = GROUP
    damping: float = DAMPING
    act_order: bool = False


@dataclass(frozen=True, eq=False)
class Calibrated:
    """One tensor of a layer. `stored` is None for norms, which AWQ changes.

    weights  what was rounded, in float32: the original (for GPTQ), or AWQ's scaled one, from which the norm before it or
             the rows of the map before it take the scales back
    loss     the error on the layer's output, summed over the calibration text, and that of plain rounding; AWQ tells
             that of all maps of a stage with the first
    """

    name: str
    stored: Int4 | None
    weights: Tensor
    loss: float = 0.0
    loss_of_nearest: float = 0.0


def windows(ids: Sequence[int], context: int) -> Tensor:
    """[n, T]: at most WINDOWS windows of at most WINDOW ids, spread evenly over the text. Raises UsageError."""
    length = min(WINDOW, context, len(ids))
    if length < 2:
        raise UsageError([Problem("calibration text", f"has {len(ids)} ids", "give a text of some thousand words")])
    count = len(ids) // length
    chosen = range(count) if count <= WINDOWS else [index * count // WINDOWS for index in range(WINDOWS)]
    return torch.tensor([list(ids[index * length : (index + 1) * length]) for index in chosen])


@torch.no_grad()
def calibrated(
    checkpoint: Checkpoint,
    method: str,
    ids: Tensor,
    settings: Settings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Calibrated]:
    """Every tensor of every layer, rounded by `method` ("gptq" or "awq") for the texts `ids` [n, T].

    `progress` is told layers done and of how many. Raises NonFinite, CamelidError naming the tensor.
    """
    chosen = settings or Settings()
    reading = _Reading(checkpoint, ids)
    for index in range(checkpoint.shape.layers):
        layer = reading.layer(index)
        yield from (_gptq if method == "gptq" else _awq)(layer, f"model.layers.{index}.", reading, chosen)
        if progress is not None:
            progress(index + 1, checkpoint.shape.layers)


class _Reading:
    """The states of the calibration text before the layer at hand."""

    def __init__(self, checkpoint: Checkpoint, ids: Tensor) -> None:
        self.checkpoint, self.tensors = checkpoint, checkpoint.tensors()
        shape = checkpoint.shape
        self.length = ids.shape[1]
        self.at_once = max(1, AT_ONCE // self.length)
        rope = Rope(shape.head_width, shape.theta, shape.scaling, shape.context)
        layout = Layout.whole(1, self.length)
        self.rotations = rope.rotations(
            layout.positions, lengths=layout.lengths, dtype=torch.float32, device=torch.device("cpu")
        )
        self.states = nn.functional.embedding(ids, self.tensors[EMBEDDING]).float()  # [n, T, D]

    def layer(self, index: int) -> DecoderLayer:
        """The layer with its weights in float32."""
        made = DecoderLayer(self.checkpoint.shape, dtype=torch.float32, device=torch.device("meta"))
        at = f"model.layers.{index}."
        state = {name: self.tensors[at + name].float().clone() for name in made.state_dict()}
        made.load_state_dict(state, assign=True)
        return made.requires_grad_(False).eval()

    def through(self, layer: DecoderLayer, *, keep: bool) -> None:
        """The text through a layer; `keep` puts its outputs in the place of the states."""
        for start in range(0, len(self.states), self.at_once):
            part = self.states[start : start + self.at_once]
            layout = Layout.whole(len(part), self.length)
            found = layer(part.flatten(0, 1), layout, self.rotations.repeat(1, len(part), 1, 1))
            if keep:
                self.states[start : start + self.at_once] = found.view(part.shape)


@dataclass(eq=False)
class _Inputs:
    """X^T X in float64 and the sum of |x| of what a map was given, over `count` ids."""

    gram: Tensor
    magnitude: Tensor
    count: int = 0

    def see(self, x: Tensor) -> None:
        rows = x.reshape(-1, x.shape[-1])
        self.gram += rows.t() @ rows  # float32 products of some thousand rows, summed in float64
        self.magnitude += rows.abs().sum(0)
        self.count += len(rows)


@contextmanager
def _watched(layer: DecoderLayer, names: Sequence[str]) -> Iterator[dict[str, _Inputs]]:
    """What the maps of these names are given while the layer works."""
    found, hooks = {}, []
    for name in names:
        module = _map(layer, name)
        width = module.weight.shape[1]
        seen = found[name] = _Inputs(
            torch.zeros(width, width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
        )
        hooks.append(module.register_forward_pre_hook(lambda _, given, seen=seen: seen.see(given[0])))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _map(layer: DecoderLayer, name: str) -> nn.Linear:
    found = layer.get_submodule(f"{ROOM.get(name, 'mlp')}.{name}")
    assert isinstance(found, nn.Linear)
    return found


def _full(at: str, name: str) -> str:
    return f"{at}{ROOM.get(name, 'mlp')}.{name}.weight"


def _gptq(layer: DecoderLayer, at: str, reading: _Reading, settings: Settings) -> Iterator[Calibrated]:
    for stage in STAGES:
        with _watched(layer, stage[:1]) as seen:
            reading.through(layer, keep=False)
        gram = seen[stage[0]].gram
        for name in stage:
            module = _map(layer, name)
            found = gptq.rounded(
                module.weight,
                gram,
                group=settings.group,
                damping=settings.damping,
                act_order=settings.act_order,
            )
            yield Calibrated(_full(at, name), found.stored, module.weight, found.loss, found.loss_of_nearest)
            module.weight = nn.Parameter(int4.decode(found.stored), requires_grad=False)
    yield from _norms(layer, at)
    reading.through(layer, keep=True)


def _norms(layer: DecoderLayer, at: str) -> Iterator[Calibrated]:
    for name in ("input_layernorm", "post_attention_layernorm"):
        weight = getattr(layer, name).weight
        yield Calibrated(f"{at}{name}.weight", None, weight)


def _awq(layer: DecoderLayer, at: str, reading: _Reading, settings: Settings) -> Iterator[Calibrated]:
    with _watched(layer, [stage[0] for stage in STAGES]) as seen:
        reading.through(layer, keep=True)
    weights = {name: _map(layer, name).weight.clone() for stage in STAGES for name in stage}
    norms: Mapping[str, Tensor] = {
        name: getattr(layer, name).weight.clone() for name in ("input_layernorm", "post_attention_layernorm")
    }
    losses = {}
    for stage, before in zip(STAGES, ("input_layernorm", "v_proj", "post_attention_layernorm", "up_proj"), strict=True):
        inputs = seen[stage[0]]
        dtype = reading.tensors[f"{at}{before}.weight"].dtype if before in norms else torch.float32
        if before in weights and len(weights[before]) != weights[stage[0]].shape[1]:
            continue  # values shared by several heads cannot be scaled for each (as in AutoAWQ)
        norm = norms.get(before)
        found = awq.search(
            [weights[name] for name in stage],
            inputs.gram,
            inputs.magnitude / inputs.count,
            group=settings.group,
            realised=(lambda wanted: wanted) if norm is None else _through_norm(norm, dtype),
        )
        losses[stage[0]] = (found.loss, found.loss_of_nearest)
        for name in stage:
            weights[name] *= found.scales
        if norm is None:
            weights[before] /= found.scales[:, None]
        else:
            norm.copy_((norm / found.scales).to(dtype))
    for stage in STAGES:
        for name in stage:
            stored = int4.encode(weights[name], settings.group)
            yield Calibrated(_full(at, name), stored, weights[name], *losses.get(name, (0.0, 0.0)))
    for name, norm in norms.items():
        yield Calibrated(f"{at}{name}.weight", None, norm)


def _through_norm(norm: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """What scales become where a norm of this dtype is divided by them: no weight pays for the norm's rounding."""

    def realised(wanted: Tensor) -> Tensor:
        divided = (norm / wanted).to(dtype).float()
        found = norm / divided
        return torch.where(found.isfinite() & (found > 0), found, 1.0)

    return realised
