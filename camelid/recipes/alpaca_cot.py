"""Alpaca-CoT: adapters on LLaMA, tuned on instructions mixed with chains of thought.

Paper    none; the repository PhoebusSi/Alpaca-CoT, March 2023
Parent   LLaMA, its weights frozen
New      74,771 records of nine data sets whose answers are reasoned out, beside Alpaca's 52,002; one record format for
         dozens of instruction sets
Missing  the records, the mix named alpaca-cot: supply them with --data
Ours     dialogues that the original rewrites from text to roles are not rewritten; loss on the answer, warm-up and the
         fall of the rate are unverified: as Alpaca-LoRA's; no 2,000 records are held back; the published 30B is LLaMA's
         33B; the desk size, whose chains of thought are its word problems
"""

from camelid.recipe import *
from camelid.recipes.alpaca import PROMPT
from camelid.recipes.llama import llama

MIX = Blend(
    portions=(
        Portion(data=Released(name="Alpaca", rows=52_002, licence="CC BY-NC 4.0")),  # README
        Portion(data=Released(name="CoT, nine data sets", rows=74_771, licence="licences on their cards")),  # README
    )
)
DATA: dict[Size, Blend] = {
    "7B": MIX,
    "13B": MIX,
    "33B": MIX,
    "desk": Blend(
        portions=(
            Portion(data=DeskInstructions(world="small", count=1600)),  # ours: two thirds of the desk Alpaca's
            Portion(data=DeskSums(world="small", count=800, seeds=400, ways=("answers", "rephrased"))),  # ours
        )
    ),
    "tiny": Blend(
        portions=(
            Portion(data=DeskInstructions(world="tiny", count=32)),  # ours: for tests
            Portion(data=DeskSums(world="tiny", count=16, seeds=8, ways=("answers", "rephrased"))),  # ours: for tests
        )
    ),
}
SMALL = LoRA(rank=8, alpha=16, dropout=0.05, targets=("q_proj", "v_proj"))  # repository: uniform_finetune.py
LORA: dict[Size, LoRA] = {
    "7B": SMALL,  # repository: uniform_finetune.py
    "13B": SMALL,  # repository: uniform_finetune.py
    "33B": SMALL,  # repository: uniform_finetune.py
    "desk": LoRA(rank=16, alpha=32, dropout=0.05, targets=EVERY_LINEAR),  # ours: as the desk Alpaca-LoRA's
    "tiny": LoRA(rank=4, alpha=8, dropout=0.05, targets=("q_proj", "v_proj")),  # ours: for tests
}
LENGTH: dict[Size, int] = {"7B": 512, "13B": 512, "33B": 512, "desk": 256, "tiny": 384}  # repository: cutoff_len; ours
BATCH: dict[Size, Sequences] = {
    "7B": Sequences(4 * 32),  # repository: 4 x 32
    "13B": Sequences(4 * 32),  # repository: 4 x 32
    "33B": Sequences(4 * 32),  # repository: 4 x 32
    "desk": Sequences(16),  # ours: as the desk Alpaca's
    "tiny": Sequences(16),  # ours: for tests
}
LR: dict[Size, float] = {"7B": 3e-4, "13B": 3e-4, "33B": 3e-4, "desk": 2e-3, "tiny": 5e-3}  # repository; ours
WARMUP: dict[Size, Steps] = {
    "7B": Steps(100),
    "13B": Steps(100),
    "33B": Steps(100),
    "desk": Steps(10),
    "tiny": Steps(1),
}  # unverified: as Alpaca-LoRA; ours


def alpaca_cot(size: Size = "7B") -> Recipe:
    adapted = Finetune(
        name="adapted",
        start=llama(size),
        data=DATA[size],
        prompt=PROMPT,
        learn="response",  # unverified
        length=LENGTH[size],
        over_length="cut",
        batch=BATCH[size],
        train=Epochs(3),  # repository: uniform_finetune.py
        optim=AdamW(lr=LR[size]),
        schedule=Linear(warmup=WARMUP[size]),  # unverified: as Alpaca-LoRA
        adapter=LORA[size],
    )
    clearer = Claim(what="no number for the LLaMA models: the gain in reasoning is told by examples", value=None,
                    source="README")  # fmt: skip
    return Recipe(title=f"Alpaca-CoT {size}", stages=(adapted,), claims=(clearer,))
