"""Vicuna v1.5: Vicuna's recipe on Llama 2, with twice its context.

Paper    none of its own; repository FastChat, August 2023, after Zheng et al. 2023 (arXiv 2306.05685)
Parent   Llama 2 base, every weight trained
New      Llama 2 for LLaMA; about 125K conversations, 370M tokens, in 4096 tokens
Missing  the conversations, whose release is not in our sources: supply ShareGPT-format records with --data
Ours     as in our Vicuna: conversations too long are cut at the end, where the pipeline splits them into whole pairs
         beforehand, and warm-up follows the scripts; its scores on MT-bench are unverified: remembered of a leaderboard;
         the desk size
"""

from camelid.dialogue.published import VICUNA_1_1
from camelid.recipe import *
from camelid.recipes.llama_2 import llama_2
from camelid.recipes.vicuna import BATCH, LR, SHARED

DATA: dict[Size, Released | DeskConversations] = {
    "7B": SHARED,  # repository: about 125K, as v1.3
    "13B": SHARED,  # repository: about 125K, as v1.3
    "desk": DeskConversations(world="small", count=800, turns=3),  # ours: as the desk Vicuna's
    "tiny": DeskConversations(world="tiny", count=24, turns=3),  # ours: for tests
}
LENGTH: dict[Size, int] = {"7B": 4096, "13B": 4096, "desk": 512, "tiny": 384}  # repository; ours


def vicuna_1_5(size: Size = "7B") -> Recipe:
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
    )
    bench = Claim(what="7B on MT-bench", value=6.17, source="unverified: leaderboard from memory only")
    return Recipe(title=f"Vicuna v1.5 {size}", stages=(tuned,), claims=(bench,))
