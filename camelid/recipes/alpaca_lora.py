"""Alpaca-LoRA: Alpaca reproduced on one consumer GPU by training low-rank adapters only.

Paper    none; the repository tloen/alpaca-lora, March 2023, after Hu et al. 2021 (arXiv 2106.09685)
Parent   LLaMA, its weights frozen in int8
New      adapters of rank 8 on two of the seven linears; the prompt itself is learned too; length 256
Missing  no benchmark was published: its README only says that outputs are comparable to Stanford Alpaca's
Ours     int8 is of weights alone; no 2,000 records are held back unseen; the desk size, its base whole
"""

from camelid.recipe import *
from camelid.recipes.alpaca import BATCH, DATA, PROMPT
from camelid.recipes.llama import llama

LINE = "\n"  # templates/alpaca.json ends both forms with a line break, which Stanford's do not have
LORA: dict[Size, LoRA] = {
    "7B": LoRA(rank=8, alpha=16, dropout=0.05, targets=("q_proj", "v_proj")),  # code: finetune.py
    "desk": LoRA(rank=16, alpha=32, dropout=0.05, targets=EVERY_LINEAR),  # ours: a narrow model needs more directions
    "tiny": LoRA(rank=4, alpha=8, dropout=0.05, targets=("q_proj", "v_proj")),  # ours: for tests
}
BASE: dict[Size, Bits | None] = {
    "7B": "int8",  # code: finetune.py, load_in_8bit
    "desk": None,  # ours: whole
    "tiny": None,  # ours: for tests
}
LR: dict[Size, float] = {"7B": 3e-4, "desk": 2e-3, "tiny": 5e-3}  # code: finetune.py; ours
WARMUP: dict[Size, Steps] = {"7B": Steps(100), "desk": Steps(10), "tiny": Steps(1)}  # code: finetune.py; ours
LENGTH: dict[Size, int] = {"7B": 256, "desk": 256, "tiny": 384}  # code: finetune.py, cutoff_len; ours


def alpaca_lora(size: Size = "7B") -> Recipe:
    tuned = Finetune(
        name="adapted",
        start=llama(size),
        data=DATA[size],
        prompt=replace(
            PROMPT, user=PROMPT.user + LINE, user_with_input=PROMPT.user_with_input + LINE
        ),  # code: templates/alpaca.json
        learn="everything",  # code: finetune.py, train_on_inputs
        length=LENGTH[size],
        over_length="cut",  # code: finetune.py, cutoff_len
        batch=BATCH[size],  # code: finetune.py, 128 as Alpaca's
        train=Epochs(3),  # code: finetune.py
        optim=AdamW(lr=LR[size]),
        schedule=Linear(warmup=WARMUP[size]),  # code: finetune.py leaves the Trainer's default, linear
        adapter=LORA[size],
        base=BASE[size],
    )
    return Recipe(title=f"Alpaca-LoRA {size}", stages=(tuned,))
