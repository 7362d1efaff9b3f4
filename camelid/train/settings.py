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
