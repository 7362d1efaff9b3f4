"""What may be asked of a generation. Free of PyTorch, so that a wrong value is answered at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

from camelid.errors import ProblemList


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How an answer is drawn and where it ends; the defaults are greedy, so equal prompts give equal answers.

    The steps that change the logits, in this order (that of transformers, `generation/utils.py`):

        repetition_penalty   a logit below 0 times r, any other divided by r, for ids of prompt and answer
                             (Keskar et al. 2019, section 4.1); 1 is off
        presence, frequency  minus `presence` once and `frequency` per occurrence, for ids of the answer; 0 is off
        temperature          logits / T; 0 takes the largest logit, the lowest id among equals, and draws nothing
        top_k                keep the k largest, the lower id among equals (Fan et al. 2018); 0 is off
        top_p                keep the likeliest ids until their mass reaches p (Holtzman et al. 2020); 1 is off
        min_p                keep ids at least `min_p` times as likely as the likeliest (Nguyen et al. 2024); 0 is off

    `seed` and the position in the sequence key each draw: a request gets the same tokens whatever runs beside it, and
    an answer that is continued later goes on as it would have gone on at once.

    An answer ends at the first id among `stop_ids` (kept in the ids, left out of the text), at the first of
    `stop_texts` to be complete (cut from the text), after `max_tokens` ids, or where the model's context is full.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    seed: int = 0
    stop_ids: tuple[int, ...] = ()
    stop_texts: tuple[str, ...] = ()
    prompt_logprobs: bool = False

    def __post_init__(self) -> None:
        problems = ProblemList()
        _check(problems, "max_tokens", self.max_tokens, self.max_tokens >= 0, "a whole number, 0 or more")
        _check(problems, "temperature", self.temperature, self.temperature >= 0, "0 (greedy) or more")
        _check(problems, "top_k", self.top_k, self.top_k >= 0, "a whole number, 0 (off) or more")
        _check(problems, "top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1 (off)")
        _check(problems, "min_p", self.min_p, 0 <= self.min_p <= 1, "between 0 (off) and 1")
        _check(problems, "repetition_penalty", self.repetition_penalty, self.repetition_penalty > 0, "above 0 (1: off)")
        _check(problems, "presence", self.presence, True, "a finite number")
        _check(problems, "frequency", self.frequency, True, "a finite number")
        if any(not text for text in self.stop_texts):
            problems.add("stop_texts", "an empty text, which would stop every answer before it starts", "leave it out")
        problems.raise_usage()

    @property
    def draws(self) -> bool:
        """Whether chance takes part."""
        return self.temperature > 0

    @property
    def penalises(self) -> bool:
        """Whether what was already said changes what may follow."""
        return self.repetition_penalty != 1 or self.presence != 0 or self.frequency != 0


def _check(problems: ProblemList, name: str, value: float, fits: bool, wanted: str) -> None:
    if not (fits and math.isfinite(value)):
        problems.add(name, f"{value} is out of range", f"give {wanted}")
