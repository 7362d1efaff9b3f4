"""What may be asked of a generation. Free of PyTorch, so that a wrong value is answered at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from camelid.errors import ProblemList

Kind = Literal["json_schema", "regex", "grammar"]
KINDS: tuple[Kind, ...] = ("json_schema", "regex", "grammar")


@dataclass(frozen=True)
class Constraint:
    """What an answer must match as a whole: a JSON schema (as JSON), a regular expression, or a Lark grammar.

    See generate/constrain.py for the form of the JSON and for what regular expressions lack (looking around).
    """

    kind: Kind
    text: str


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How an answer is drawn and where it ends; the defaults are greedy, so equal prompts give equal answers.

    The steps that change the logits, in this order (that of transformers, `generation/utils.py`):

        logit_bias           plus the bias of each (id, bias)
        repetition_penalty   a logit below 0 times r, any other divided by r, for ids of prompt and answer
                             (Keskar et al. 2019, section 4.1); 1 is off
        presence_penalty, frequency_penalty
                             minus `presence_penalty` once and `frequency_penalty` per occurrence, for ids of the
                             answer; 0 is off
        constraint           only ids by which the answer can still come to match; what ends an answer, once it matches
        temperature          logits / T; 0 takes the largest logit, the lowest id among equals, and draws nothing
        top_k                keep the k largest, the lower id among equals (Fan et al. 2018); 0 is off
        top_p                keep the likeliest ids until their mass reaches p (Holtzman et al. 2020); 1 is off
        min_p                keep ids at least `min_p` times as likely as the likeliest (Nguyen et al. 2024); 0 is off
        typical_p            keep the ids whose surprise is nearest to the entropy until their mass reaches it
                             (Meister et al. 2023); 1 is off

    `seed` and the position in the sequence key each draw: a request gets the same tokens whatever runs beside it, and
    an answer that is continued later goes on as it would have gone on at once.

    An answer ends at the first id among `stop_ids` (kept in the ids, left out of the text), at the first of
    `stop_texts` to be complete (cut from the text), after `max_tokens` ids, or where the model's context is full.
    `ignore_eos` takes only the stop ids given here, not those of the model and its template.

    Several answers to one prompt (generate/choices.py): `n` of them are drawn, or of `best_of` the n of the highest
    mean log-probability; or `beams` search for the likeliest, with scores divided by length ** `length_penalty`.

    `top_logprobs` asks for the log-probabilities of so many likeliest ids at each place of the answer, and of the
    prompt where `prompt_logprobs` asks for those of its ids. Raises UsageError naming every value that is wrong.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    constraint: Constraint | None = None
    seed: int = 0
    stop_ids: tuple[int, ...] = ()
    stop_texts: tuple[str, ...] = ()
    ignore_eos: bool = False
    prompt_logprobs: bool = False
    top_logprobs: int = 0
    n: int = 1
    best_of: int = 0  # 0: as many as n
    beams: int = 1
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        problems = ProblemList()
        _check(problems, "max_tokens", self.max_tokens, self.max_tokens >= 0, "a whole number, 0 or more")
        _check(problems, "temperature", self.temperature, self.temperature >= 0, "0 (greedy) or more")
        _check(problems, "top_k", self.top_k, self.top_k >= 0, "a whole number, 0 (off) or more")
        _check(problems, "top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1 (off)")
        _check(problems, "min_p", self.min_p, 0 <= self.min_p <= 1, "between 0 (off) and 1")
        _check(problems, "typical_p", self.typical_p, 0 < self.typical_p <= 1, "above 0 and at most 1 (off)")
        _check(problems, "repetition_penalty", self.repetition_penalty, self.repetition_penalty > 0, "above 0 (1: off)")
        _check(problems, "presence_penalty", self.presence_penalty, True, "a finite number")
        _check(problems, "frequency_penalty", self.frequency_penalty, True, "a finite number")
        _check(problems, "length_penalty", self.length_penalty, True, "a finite number")
        _check(problems, "top_logprobs", self.top_logprobs, self.top_logprobs >= 0, "a whole number, 0 (none) or more")
        for name in ("n", "beams"):
            value: int = getattr(self, name)
            _check(problems, name, value, value >= 1, "a whole number, 1 or more")
        _check(problems, "best_of", self.best_of, self.best_of >= 0, "a whole number, 0 (as many as n) or more")
        self._check_lists(problems)
        self._check_together(problems)
        problems.raise_usage()

    def _check_lists(self, problems: ProblemList) -> None:
        if any(not text for text in self.stop_texts):
            problems.add("stop_texts", "an empty text, which would stop every answer before it starts", "leave it out")
        biased = [id for id, _ in self.logit_bias]
        if len(set(biased)) < len(biased):
            twice = next(id for id in biased if biased.count(id) > 1)
            problems.add("logit_bias", f"id {twice} is given twice", "give each id once")
        for id, bias in self.logit_bias:
            _check(problems, f"logit_bias of id {id}", bias, id >= 0, "a finite bias of an id, which is 0 or more")
        if self.constraint is not None and self.constraint.kind not in KINDS:
            problems.add("constraint", f"is of the kind {self.constraint.kind!r}", f"choose from {', '.join(KINDS)}")

    def _check_together(self, problems: ProblemList) -> None:
        """What goes alone and not together."""
        if self.constraint is not None and self.ignore_eos:
            found = "a constrained answer ends where it matches, and is told not to"
            problems.add("ignore_eos", found, "leave out ignore_eos or the constraint")
        if self.beams > 1:
            if self.temperature > 0:
                problems.add(
                    "beams", f"{self.beams} beside temperature {self.temperature:g}", "beams draw nothing: use 0"
                )
            if self.best_of:
                problems.add(
                    "best_of", f"{self.best_of} beside {self.beams} beams", "beams give their best n: leave it out"
                )
            if self.n > self.beams:
                problems.add("n", f"{self.n} answers of {self.beams} beams", "ask for at most as many as beams")
            if self.penalises or self.constraint or self.logit_bias:
                found = "beside a penalty, a bias or a constraint"
                problems.add("beams", found, "beams rank by the model's own distribution: use one of the two")
        elif self.several > 1 and self.temperature == 0:
            name = "n" if self.n > 1 else "best_of"
            problems.add(name, f"{self.several} greedy answers are all the same", "set temperature above 0, or beams")
        if 0 < self.best_of < self.n:
            problems.add("best_of", f"{self.best_of} drawn for n={self.n} answers", "draw at least as many")

    @property
    def draws(self) -> bool:
        """Whether chance takes part."""
        return self.temperature > 0

    @property
    def penalises(self) -> bool:
        """Whether what was already said changes what may follow."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    @property
    def several(self) -> int:
        """How many answers are worked out for one prompt."""
        return max(self.n, self.best_of, self.beams)

    @property
    def plain(self) -> bool:
        """Whether the largest logit is taken, as it is, and only its log-probability told."""
        reshaped = self.penalises or bool(self.logit_bias) or self.constraint is not None
        return not (self.draws or reshaped or self.top_logprobs)


def _check(problems: ProblemList, name: str, value: float, fits: bool, wanted: str) -> None:
    if not (fits and math.isfinite(value)):
        problems.add(name, f"{value} is out of range", f"give {wanted}")
