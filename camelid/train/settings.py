"""The words in which a recipe says how to optimise: plain values, readable without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from camelid.errors import ProblemList
from camelid.stage import Steps


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    The defaults are those of the Hugging Face Trainer, by which most derived members were trained: betas (0.9, 0.999)
    and eps 1e-8 as in PyTorch, no decay. LLaMA itself used betas (0.9, 0.95) and decay 0.1 (Touvron et al. 2023,
    section 2.3). `decay` applies to matrices, embeddings included, and not to norm weights, as in the Trainer; LLaMA's
    paper is silent on that.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    decay: float = 0.0
    ratio: float = 1.0
    """How many times faster than A the matrix B of an adapter learns (LoRA+, Hayou et al. 2024; their repository's example has 20)."""
    paged: bool = False
    """Whether moments lie in a mapped file, which the system may write out where memory is short (Dettmers et al. 2023,
    section 3, keep them in host memory instead of a GPU's). The numbers are the same."""

    def check(self, where: str, problems: ProblemList) -> None:
        """Adds what makes no sense to `problems`, each under the setting's name."""
        if not 0 < self.lr < float("inf"):
            problems.add(f"{where}.lr", f"{self.lr}", "a learning rate is a positive number")
        if not all(0 <= beta < 1 for beta in self.betas):
            problems.add(f"{where}.betas", f"{self.betas}", "both lie in [0, 1)")
        if not 0 < self.eps < float("inf"):
            problems.add(f"{where}.eps", f"{self.eps}", "use a small positive number such as 1e-8")
        if not 0 <= self.decay < float("inf"):
            problems.add(f"{where}.decay", f"{self.decay}", "use 0 or a positive number")
        if not 0 < self.ratio < float("inf"):
            problems.add(f"{where}.ratio", f"{self.ratio}", "use 1 for one rate, or a positive number such as 16")


@dataclass(frozen=True, kw_only=True)
class AdamW8bit(AdamW):
    """AdamW whose moments take eight bits each: blocks of `block` neighbours, levels of the dynamic tree (Dettmers et al.
    2021, who have blocks of 2048; bitsandbytes has 256).

    Weights of fewer than 4,096 numbers and embeddings keep float32 moments, as with bitsandbytes in the Hugging Face
    Trainer.
    """

    block: int = 256

    def check(self, where: str, problems: ProblemList) -> None:
        super().check(where, problems)
        if not (isinstance(self.block, int) and self.block > 0):
            problems.add(f"{where}.block", f"{self.block}", "use 256 or 2048 numbers")


@dataclass(frozen=True, kw_only=True)
class GaLore(AdamW):
    """AdamW on the gradient's projection to `rank` directions, found anew every so many steps (Zhao et al. 2024).

        every T steps   P = the R largest singular directions of G, on its shorter side
        each step       R = P^T G (or G P);   W -= rate * scale * P AdamW(R)

    For the linear maps of the layers; embedding, head and norms are updated by AdamW itself, and so are maps that have
    no more than `rank` directions: there is nothing to leave out. Defaults are those of the authors' run of 60M weights
    (repository GaLore, 2cc66f8); their 7B has rank 1,024, anew every 500 steps.
    """

    rank: int = 128
    every: int = 200
    scale: float = 0.25

    def check(self, where: str, problems: ProblemList) -> None:
        super().check(where, problems)
        for name in ("rank", "every"):
            if not (isinstance(getattr(self, name), int) and getattr(self, name) > 0):
                problems.add(f"{where}.{name}", f"{getattr(self, name)}", "use a whole number of 1 or more")
        if not 0 < self.scale < float("inf"):
            problems.add(f"{where}.scale", f"{self.scale}", "use a positive number such as 0.25")


def check_together(optim: AdamW, adapter: object, base: str | None, where: str, problems: ProblemList) -> None:
    """Adds economies that do not go together: `where` is what their names begin with, such as "tuned."."""
    if base is not None and adapter is None:
        found = f"{base} weights are frozen, and nothing else would learn"
        problems.add(f"{where}base", found, "name an adapter beside it")
    if optim.ratio != 1 and adapter is None:
        found = f"{optim.ratio:g} is for an adapter's B, and there is no adapter"
        problems.add(f"{where}optim.ratio", found, "leave it at 1")
    if isinstance(optim, GaLore) and adapter is not None:
        found = "GaLore projects the gradients of whole matrices, and an adapter leaves these frozen"
        problems.add(f"{where}optim", found, "use AdamW or AdamW8bit, or train every weight")


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The same rate at every step after the warm-up."""

    warmup: float | Steps = 0.0
    """Share of all steps, rounded up (as the Hugging Face Trainer's warmup_ratio), or a number of steps."""


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A straight line from the peak down to `floor` times the peak."""

    warmup: float | Steps = 0.0
    floor: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Half a cosine from the peak down to `floor` times the peak (0.1 for LLaMA: Touvron et al. 2023, section 2.3)."""

    warmup: float | Steps = 0.0
    floor: float = 0.0


Schedule = Constant | Linear | Cosine
