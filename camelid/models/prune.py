"""Structured pruning: a smaller model cut out of a larger one, by the size of what is cut away.

How Llama 3.2 was pruned is not published. Here a layer, channel, head or feed-forward unit counts by the sum of squares
of the weights that read or write it; layers are taken at even distances, the first and the last among them.

Of a head's rotated pairs every s-th is kept, s being the ratio of the head widths: pair j of the narrow head then turns
exactly as fast as pair s j of the wide one did (theta ** (-2 j / E') = theta ** (-2 s j / E)).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from camelid.errors import ProblemList
from camelid.models.llama import Llama
from camelid.models.shape import LlamaShape


def pruned(model: Llama, shape: LlamaShape) -> Llama:
    """A model of `shape`, every weight of which is one of `model`'s; for a tied head the embedding stays.

    `shape` may have fewer layers, channels, heads, units, a narrower head, and other positions. Raises UsageError
    naming everything that cannot be cut so.
    """
    check(model.shape, shape)
    state = {name: tensor.detach().float() for name, tensor in model.state_dict().items()}
    taken = _layers(model.shape.layers, shape.layers)
    channels = _channels(state, shape.width)
    cut = {"model.embed_tokens.weight": state["model.embed_tokens.weight"][:, channels]}
    cut["model.norm.weight"] = state["model.norm.weight"][channels]
    if not shape.tied:
        head = "lm_head.weight" if "lm_head.weight" in state else "model.embed_tokens.weight"
        cut["lm_head.weight"] = state[head][:, channels]
    for place, layer in enumerate(taken):
        for name, tensor in _layer(state, f"model.layers.{layer}.", model.shape, shape, channels).items():
            cut[f"model.layers.{place}.{name}"] = tensor
    smaller = Llama(shape, dtype=torch.float32, device="meta")
    smaller.load_state_dict({name: tensor.contiguous().to(model.device) for name, tensor in cut.items()}, assign=True)
    return smaller


def check(large: LlamaShape, small: LlamaShape) -> None:
    """Raises UsageError where `small` cannot be cut out of `large`."""
    problems = ProblemList()
    for name in ("layers", "width", "kv_heads", "hidden"):
        there, wanted = getattr(large, name), getattr(small, name)
        if wanted > there:
            problems.add(f"shape.{name}", f"{wanted} cannot be cut out of {there}", f"choose {there} or fewer")
    there, wanted = large.heads // large.kv_heads, small.heads // small.kv_heads
    if wanted > there:
        problems.add("shape.heads", f"{wanted} for each key-value head, the parent has {there}", "choose fewer")
    if large.head_width % small.head_width:
        found = f"{small.head_width} does not divide {large.head_width}"
        problems.add("shape.head_width", found, "rotated pairs are kept at even distances: choose a divisor")
    for name in ("vocab", "theta", "eps"):
        if getattr(large, name) != getattr(small, name):
            problems.add(f"shape.{name}", f"{getattr(small, name)}, the parent has {getattr(large, name)}", "keep it")
    if large.tied and not small.tied:
        problems.add("shape.tied", "the parent has no head of its own", "keep the head tied")
    problems.raise_usage()


@dataclass(frozen=True)
class _Heads:
    """The rows that are kept of the queries, keys and values of one layer; the output reads the queries' values."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    output: Tensor


def _layers(there: int, wanted: int) -> list[int]:
    if wanted == 1:
        return [there - 1]
    return [round(place * (there - 1) / (wanted - 1)) for place in range(wanted)]


def _largest(size: Tensor, count: int) -> Tensor:
    """The places of the `count` largest, in their old order."""
    return torch.sort(torch.topk(size, count).indices).values


def _channels(state: dict[str, Tensor], count: int) -> Tensor:
    width = state["model.norm.weight"].shape[0]
    size = torch.zeros(width)
    for name, weight in state.items():
        if weight.dim() == 2:
            writes = name.endswith(("o_proj.weight", "down_proj.weight"))
            size += weight.square().sum(dim=1 if writes else 0).cpu()
    return _largest(size, count).to(state["model.norm.weight"].device)


def _layer(
    state: dict[str, Tensor], at: str, large: LlamaShape, small: LlamaShape, channels: Tensor
) -> dict[str, Tensor]:
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    q, k, v, o = (state[f"{at}self_attn.{name}.weight"] for name in names)
    gate, up, down = (state[f"{at}mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
    kept = _heads(q, k, v, o, large, small)
    units = _largest(gate.square().sum(1) + up.square().sum(1) + down.square().sum(0), small.hidden)
    return {
        "self_attn.q_proj.weight": q[kept.queries][:, channels],
        "self_attn.k_proj.weight": k[kept.keys][:, channels],
        "self_attn.v_proj.weight": v[kept.values][:, channels],
        "self_attn.o_proj.weight": o[channels][:, kept.output],
        "mlp.gate_proj.weight": gate[units][:, channels],
        "mlp.up_proj.weight": up[units][:, channels],
        "mlp.down_proj.weight": down[channels][:, units],
        "input_layernorm.weight": state[f"{at}input_layernorm.weight"][channels],
        "post_attention_layernorm.weight": state[f"{at}post_attention_layernorm.weight"][channels],
    }


def _heads(q: Tensor, k: Tensor, v: Tensor, o: Tensor, large: LlamaShape, small: LlamaShape) -> _Heads:
    """Key-value heads with their queries by size, then the queries within each, then pairs and values within a head."""
    wide, groups, each = large.head_width, large.kv_heads, large.heads // large.kv_heads
    of_query = (q.square().sum(1) + o.square().sum(0)).view(groups, each, wide)
    of_value = v.square().sum(1).view(groups, wide)
    size = of_query.sum((1, 2)) + k.square().sum(1).view(groups, wide).sum(1) + of_value.sum(1)
    step, half = wide // small.head_width, wide // 2
    pairs = torch.arange(0, half, step, device=q.device)
    turned = torch.cat([pairs, pairs + half])  # Hugging Face's layout: pair i is (i, i + E / 2)
    queries, keys, values, output = [], [], [], []
    for group in _largest(size, small.kv_heads).tolist():
        places = _largest(of_value[group] + o.square().sum(0).view(groups, each, wide)[group].sum(0), small.head_width)
        keys.append(group * wide + turned)
        values.append(group * wide + places)
        for head in _largest(of_query[group].sum(1), small.heads // small.kv_heads).tolist():
            queries.append((group * each + head) * wide + turned)
            output.append((group * each + head) * wide + places)
    return _Heads(*(torch.cat(rows) for rows in (queries, keys, values, output)))
