"""Vicuna: LLaMA tuned on whole conversations that people shared, loss on every answer.

Paper    Chiang et al. 2023, Vicuna (blog); Zheng et al. 2023, Judging LLM-as-a-Judge (arXiv 2306.05685), Table 8
Parent   LLaMA (not Alpaca), every weight trained; the 33B came with v1.3
New      about 70K (v1.3: 125K) ShareGPT conversations of several turns, 2048 tokens, judged by GPT-4
Missing  the conversations, whose release is not in our sources: supply ShareGPT-format records with --data
Ours     this is v1.1 and later; a conversation too long is cut at the end, where the pipeline splits it into chunks of
         whole pairs beforehand; warm-up follows the scripts (0.04), the README says 0.03; that 33B has the rate and
         batch of 13B is unverified; the desk size
"""

from camelid.dialogue.published import VICUNA_1_1
from camelid.recipe import *
from camelid.recipes.llama import llama

SHARED = Released(
    name="ShareGPT conversations, cleaned", rows=125_000, licence="no release in our sources"
)  # v1.3: about 125K
DATA: dict[Size, Released | DeskConversations] = {
    "7B": SHARED,
    "13B": SHARED,
    "33B": SHARED,
    "desk": DeskConversations(world="small", count=800, turns=3),  # ours: as many answers as the desk Alpaca's records
    "tiny": DeskConversations(world="tiny", count=24, turns=3),  # ours: for tests
}
LENGTH: dict[Size, int] = {"7B": 2048, "13B": 2048, "33B": 2048, "desk": 256, "tiny": 384}  # repository; ours
BATCH: dict[Size, Sequences] = {
    "7B": Sequences(128),  # repository
    "13B": Sequences(128),  # repository
    "33B": Sequences(128),  # unverified: as 13B
    "desk": Sequences(16),  # ours: as the desk Alpaca's
    "tiny": Sequences(8),  # ours: for tests
}
LR: dict[Size, float] = {"7B": 2e-5, "13B": 2e-5, "33B": 2e-5, "desk": 1e-3, "tiny": 1e-3}  # repository; ours


def vicuna(size: Size = "7B") -> Recipe:
    tuned = Finetune(
        name="tuned",
        start=llama(size),
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
    bench = Claim(
        what="Vicuna-13B on MT-bench, where Alpaca-13B has 4.53",
        value=6.39,
        source="arXiv 2306.05685, Table 8, by a public transcription",
    )
    return Recipe(title=f"Vicuna {size}", stages=(tuned,), claims=(bench,))
