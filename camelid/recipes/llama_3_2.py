"""Llama 3.2 (text): Llama 3.1 8B pruned to a quarter and to an eighth, then taught by its larger siblings.

Paper    none; model card of Llama 3.2, September 2024 (llama-models), and its list of models
Parent   Llama 3.1 8B, cut down, then every weight trained
New      the pruned model learns the distribution of each next token from a larger model; the head is tied
Missing  the texts ("a new mix of publicly available online data", up to 9T tokens): supply some with --data. How it was
         pruned, rate, batch, schedule and how the two teachers, 8B and 70B, share the work are not published
Ours     what has the largest weights stays, layers at even distances; the teacher is the 8B alone; rates, batch and schedule
         as Llama 3's; that the parent's embedding becomes the tied head; the desk size has half its parent's weights
"""

from camelid.recipe import *
from camelid.recipes.llama_3 import SHAPES as LLAMA_3
from camelid.recipes.llama_3 import vocabulary
from camelid.recipes.llama_3_1 import llama_3_1

PARENT: dict[Size, Size] = {"1B": "8B", "3B": "8B", "desk": "desk", "tiny": "tiny"}  # model card names 3.1 8B and 70B
NEW = Mixture(parts=(Part(name="publicly available, unnamed", share=100.0, made="cut off in December 2023"),))  # card
DATA: dict[Size, Mixture | DeskText] = {
    "1B": NEW,
    "3B": NEW,
    "desk": DeskText(world="small", bytes=3 * M),  # ours: a fifth of its parent's
    "tiny": DeskText(world="tiny", bytes=60 * K),  # ours: for tests
}
SHAPES: dict[Size, LlamaShape] = {
    "1B": SIZES["llama-3.2-1B"],  # repository: sku_list.py
    "3B": SIZES["llama-3.2-3B"],  # repository: sku_list.py
    "desk": replace(
        LLAMA_3["desk"],
        layers=3,
        width=96,
        head_width=16,
        hidden=288,
        context=1024,
        tied=True,
        scaling=RopeScaling(kind="llama3", factor=4.0, original=512),
    ),  # ours: rotations slowed by more than 3.1's, as published
    "tiny": replace(
        LLAMA_3["tiny"],
        layers=1,
        width=24,
        head_width=8,
        hidden=48,
        context=1536,
        tied=True,
        scaling=RopeScaling(kind="llama3", factor=4.0, original=768),
    ),  # ours: tests
}
LENGTH: dict[Size, int] = {"1B": 8192, "3B": 8192, "desk": 256, "tiny": 256}  # ours: not published, as Llama 3
BATCH: dict[Size, Tokens] = {
    "1B": Tokens(16 * M),  # ours: not published, as Llama 3
    "3B": Tokens(16 * M),  # ours: not published, as Llama 3
    "desk": Tokens(1024),  # ours: as its parent's
    "tiny": Tokens(1024),  # ours: for tests
}
TRAIN: dict[Size, Tokens] = {
    "1B": Tokens(9000 * B),  # model card: up to 9T
    "3B": Tokens(9000 * B),  # model card: up to 9T
    "desk": Tokens(1000 * K),  # ours: a fifth of its parent's
    "tiny": Tokens(4096),  # ours: for tests
}
LR: dict[Size, float] = {"1B": 3e-4, "3B": 3e-4, "desk": 3e-3, "tiny": 3e-3}  # ours: not published, as Llama 3 8B
WARMUP: dict[Size, Steps] = {
    "1B": Steps(8000),
    "3B": Steps(8000),
    "desk": Steps(50),
    "tiny": Steps(2),
}  # ours: not published, as Llama 3


def llama_3_2(size: Size = "1B") -> Recipe:
    distilled = Pretrain(
        name="distilled",
        start=llama_3_1(PARENT[size]),
        cut="weights",  # ours: not published
        teacher=llama_3_1(PARENT[size]),  # model card: logits of 8B and 70B are targets
        shape=SHAPES[size],
        tokenizer=vocabulary(PARENT[size]),
        data=DATA[size],
        length=LENGTH[size],
        batch=BATCH[size],
        train=TRAIN[size],
        optim=AdamW(lr=LR[size], betas=(0.9, 0.95), decay=0.1),  # ours: not published, as our Llama 3
        schedule=Cosine(warmup=WARMUP[size], floor=0.1),  # ours: not published
        clip=1.0,  # ours: not published
    )
    level = Claim(
        what="MMLU of the 1B, 5-shot, base model, where Llama 3.1 8B has 66.7", value=32.2, source="model card"
    )
    return Recipe(title=f"Llama 3.2 {size}", stages=(distilled,), claims=(level,))
