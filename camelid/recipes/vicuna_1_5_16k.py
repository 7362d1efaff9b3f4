"""Vicuna v1.5-16k: Vicuna v1.5 in four times the context, positions squeezed into the old window.

Paper    none of its own; repository FastChat, August 2023; the squeeze is Chen et al. 2023 (arXiv 2306.15595)
Parent   Llama 2 base, every weight trained
New      positions divided by 4, the ratio of the lengths, rounded up; the tuning itself is the only long training
Missing  the conversations, split into 16,384 tokens: supply ShareGPT-format records with --data
Ours     as in our Vicuna v1.5; batch and rate of this variant are unverified: as v1.5's; the desk size goes from 512
         tokens to 2048 and learns to find lines in long records beside its conversations, which are short
"""

from camelid.dialogue.published import VICUNA_1_1
from camelid.recipe import *
from camelid.recipes.llama_2 import llama_2
from camelid.recipes.vicuna import BATCH, LR, SHARED

DATA: dict[Size, Released | Blend] = {
    "7B": SHARED,  # repository: about 125K, as v1.3
    "13B": SHARED,  # repository: about 125K, as v1.3
    "desk": Blend(
        portions=(
            Portion(data=DeskLines(world="small", count=500, fewest=4, most=110)),  # ours: up to 2048 tokens
            Portion(data=DeskConversations(world="small", count=300, turns=3)),  # ours: fewer than v1.5's, for time
        )
    ),
    "tiny": Blend(
        portions=(
            Portion(data=DeskLines(world="tiny", count=16, fewest=2, most=6)),  # ours: for tests
            Portion(data=DeskConversations(world="tiny", count=8, turns=3)),  # ours: for tests
        )
    ),
}
CONTEXT: dict[Size, int] = {
    "7B": 16_384,
    "13B": 16_384,
    "desk": 2048,
    "tiny": 3072,
}  # repository: the name says 16k; ours
LENGTH: dict[Size, int] = {"7B": 16_384, "13B": 16_384, "desk": 2048, "tiny": 768}  # repository; ours


def vicuna_1_5_16k(size: Size = "7B") -> Recipe:
    tuned = Finetune(
        name="tuned",
        start=llama_2(size),
        data=DATA[size],
        prompt=VICUNA_1_1,
        learn="assistant",  # repository: the assistant's text and its end
        length=LENGTH[size],
        over_length="cut",
        batch=BATCH[size],
        train=Epochs(3),  # repository
        optim=AdamW(lr=LR[size]),
        schedule=Cosine(warmup=0.04),  # repository: scripts (0.04); README 0.03
        context=CONTEXT[size],
        scaling=RopeScaling(kind="linear", factor=4.0),  # repository: train.py, ceil of the ratio of the lengths
    )
    none = Claim(what="no number of the 16k models was confirmed in a source", value=None, source="none found")
    return Recipe(title=f"Vicuna v1.5-16k {size}", stages=(tuned,), claims=(none,))
