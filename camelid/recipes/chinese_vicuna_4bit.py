"""Chinese-Vicuna on four bits: the same tuning, its base in NF4 and its moments in eight bits, paged.

Paper    Fan et al. 2025, Chinese-Vicuna (arXiv 2504.12737); Facico/Chinese-Vicuna, finetune_4bit.py
Parent   LLaMA, its weights frozen in NF4
New      two changes to Chinese-Vicuna: the base's bits and the optimizer
Missing  as Chinese-Vicuna; whether finetune_4bit.py changes other numbers is not in our sources
Ours     double quantization is unverified; the rest as Chinese-Vicuna
"""

from camelid.recipe import *
from camelid.recipes.alpaca import BATCH
from camelid.recipes.alpaca_lora import LENGTH, LR, WARMUP
from camelid.recipes.chinese_vicuna import DATA, LORA, PROMPT, SIZED
from camelid.recipes.llama import llama


def chinese_vicuna_4bit(size: Size = "7B") -> Recipe:
    adapted = Finetune(
        name="adapted",
        start=llama(size),
        data=DATA[size],
        prompt=PROMPT,
        learn="everything",  # code: by its collator, as finetune.py
        length=LENGTH[SIZED[size]],  # code: cutoff_len 256, as finetune.py; ours
        over_length="cut",
        batch=BATCH[size],  # code: 128, as finetune.py; ours
        train=Epochs(3),  # code: as finetune.py
        optim=AdamW8bit(lr=LR[SIZED[size]], paged=True),  # code: finetune_4bit.py, paged_adamw_8bit
        schedule=Linear(warmup=WARMUP[SIZED[size]]),  # code: 100 steps, as finetune.py; ours
        adapter=LORA[size],
        base="nf4",  # code: finetune_4bit.py
    )
    none = Claim(what="no benchmark of its own", value=None, source="README")
    return Recipe(title=f"Chinese-Vicuna 4-bit {size}", stages=(adapted,), claims=(none,))
