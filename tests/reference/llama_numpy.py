"""LLaMA's forward pass in float64 NumPy, written from the papers alone, to be read beside them: no PyTorch, no batches.

Su et al. 2021 (rotations), Zhang and Sennrich 2019 (norm), Shazeer 2020 (SwiGLU), Ainslie et al. 2023 (grouped
queries), Touvron et al. 2023 (how they stand together); for longer contexts Chen et al. 2023 (linear), Peng et al. 2023
(NTK-aware, dynamic, YaRN) and Llama 3.1's published rule. Weights come by Hugging Face's names.
"""

import math

import numpy as np


def speeds(shape, length):
    """Radians per position of each pair, and the factor on cosine and sine."""
    width, theta, scaling = shape.head_width, shape.theta, shape.scaling
    pairs = np.arange(width // 2)
    if scaling is None:
        return theta ** (-2 * pairs / width), 1.0
    s = scaling.factor
    plain = theta ** (-2 * pairs / width)
    if scaling.kind == "linear":
        return plain / s, 1.0
    if scaling.kind == "ntk":
        return (theta * s ** (width / (width - 2))) ** (-2 * pairs / width), 1.0
    if scaling.kind == "dynamic":
        limit = scaling.original or shape.context
        if length <= limit:
            return plain, 1.0
        base = theta * (s * length / limit - (s - 1)) ** (width / (width - 2))
        return base ** (-2 * pairs / width), 1.0
    if scaling.kind == "yarn":
        # The pair whose wavelength fits n times into the original context: solve 2 pi theta^(2 i / width) n = L for i.
        def pair(n):
            return width * math.log(scaling.original / (n * 2 * math.pi)) / (2 * math.log(theta))

        low, high = max(math.floor(pair(scaling.fast)), 0), min(math.ceil(pair(scaling.slow)), width - 1)
        if low == high:
            high += 0.001
        interpolated = np.clip((pairs - low) / (high - low), 0, 1)
        factor = 0.1 * math.log(s) + 1 if scaling.attention is None else scaling.attention
        return plain * (1 - interpolated) + plain / s * interpolated, factor
    assert scaling.kind == "llama3"
    slowed = []
    for speed in plain:
        wavelength = 2 * math.pi / speed
        if wavelength < scaling.original / scaling.high:
            slowed.append(speed)
        elif wavelength > scaling.original / scaling.low:
            slowed.append(speed / s)
        else:
            smooth = (scaling.original / wavelength - scaling.low) / (scaling.high - scaling.low)
            slowed.append((1 - smooth) * speed / s + smooth * speed)
    return np.array(slowed), 1.0


def turned(x, positions, shape, length):
    """[T, E] with every pair (x[i], x[i + E/2]) turned by its angle."""
    radians, factor = speeds(shape, length)
    half = shape.head_width // 2
    pairs = x[:, :half] + 1j * x[:, half:]
    pairs = pairs * factor * np.exp(1j * np.outer(positions, radians))
    return np.concatenate([pairs.real, pairs.imag], axis=1)


def normed(x, weight, eps):
    return x / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + eps) * weight


def softmax(scores):
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def attended(x, weights, prefix, shape, positions, length):
    """Grouped-query causal attention of one document [T, D]."""
    width = shape.head_width
    future = np.triu(np.full((len(x), len(x)), -np.inf), k=1)
    q, k, v = (x @ weights[f"{prefix}.{name}_proj.weight"].T for name in "qkv")
    heads = []
    for head in range(shape.heads):
        shared = head // (shape.heads // shape.kv_heads)
        mine, theirs = slice(head * width, (head + 1) * width), slice(shared * width, (shared + 1) * width)
        queries = turned(q[:, mine], positions, shape, length)
        keys = turned(k[:, theirs], positions, shape, length)
        heads.append(softmax(queries @ keys.T / math.sqrt(width) + future) @ v[:, theirs])
    return np.concatenate(heads, axis=1) @ weights[f"{prefix}.o_proj.weight"].T


def fed(x, weights, prefix):
    gate, up, down = (weights[f"{prefix}.{name}_proj.weight"] for name in ("gate", "up", "down"))
    inner = x @ gate.T
    return (inner / (1 + np.exp(-inner)) * (x @ up.T)) @ down.T


def logits(shape, weights, ids, positions=None):
    """[T, V] for one document of ids [T]; `weights` maps Hugging Face's names to float64 arrays."""
    positions = np.arange(len(ids)) if positions is None else positions
    length = int(max(positions)) + 1
    x = weights["model.embed_tokens.weight"][ids]
    for layer in range(shape.layers):
        at = f"model.layers.{layer}"
        before = normed(x, weights[f"{at}.input_layernorm.weight"], shape.eps)
        x = x + attended(before, weights, f"{at}.self_attn", shape, positions, length)
        x = x + fed(normed(x, weights[f"{at}.post_attention_layernorm.weight"], shape.eps), weights, f"{at}.mlp")
    head = weights["model.embed_tokens.weight"] if shape.tied else weights["lm_head.weight"]
    return normed(x, weights["model.norm.weight"], shape.eps) @ head.T
