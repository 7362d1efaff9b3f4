"""Chinese-Vicuna: Chinese instructions by adapters on a base of eight bits, within the 11 GB of one 2080Ti.

Paper    Fan et al. 2025, Chinese-Vicuna (arXiv 2504.12737); Facico/Chinese-Vicuna, finetune.py, prompt.py
Parent   LLaMA, its weights frozen in int8
New      Alpaca-LoRA's economy for another language; further adapters continue from this one (medicine, law)
Missing  0.69M to 0.70M records, BELLE's 0.5M and the GuanacoDataset: supply them with --data
Ours     all tokens are learned, as the released code does: it makes a mask, and its collator makes the labels anew; int8
         is of weights alone, where bitsandbytes rounds inputs to eight bits too; the fall of the rate is the Trainer's
         default; the desk size, in the desk world's one language
"""

from camelid.recipe import *
from camelid.recipes.alpaca import BATCH
from camelid.recipes.alpaca import PROMPT as ALPACA
from camelid.recipes.alpaca_lora import LENGTH, LR, WARMUP
from camelid.recipes.alpaca_lora import LORA as ALPACA_LORA
from camelid.recipes.llama import llama

PROMPT = replace(
    ALPACA,
    user_with_input=(
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:{instruction}\n\n### Input:{input}\n\n### Response:"
    ),
)  # code: prompt.py: with an input, no line break behind "Instruction:" and "Input:"
LORA: dict[Size, LoRA] = {
    "7B": ALPACA_LORA["7B"],  # code: finetune.py, as Alpaca-LoRA: r 8, alpha 16, dropout 0.05, q and v
    "13B": ALPACA_LORA["7B"],  # code: finetune.py, as 7B
    "desk": ALPACA_LORA["desk"],  # ours: as the desk Alpaca-LoRA's
    "tiny": ALPACA_LORA["tiny"],  # ours: for tests
}
MERGED = Released(
    name="BELLE 0.5M and GuanacoDataset, merged", rows=690_000, licence="licence on its card"
)  # README: 0.69M to 0.70M
DATA: dict[Size, Released | DeskInstructions] = {
    "7B": MERGED,
    "13B": MERGED,
    "desk": DeskInstructions(world="small", count=2400),  # ours: as the desk Alpaca's
    "tiny": DeskInstructions(world="tiny", count=48),  # ours: for tests
}
SIZED: dict[Size, Size] = {"7B": "7B", "13B": "7B", "desk": "desk", "tiny": "tiny"}  # one set of numbers for both


def chinese_vicuna(size: Size = "7B") -> Recipe:
    adapted = Finetune(
        name="adapted",
        start=llama(size),
        data=DATA[size],
        prompt=PROMPT,
        learn="everything",  # code: finetune.py, by its collator
        length=LENGTH[SIZED[size]],  # code: finetune.py, cutoff_len 256; ours
        over_length="cut",
        batch=BATCH[size],  # code: finetune.py, 128; ours
        train=Epochs(3),  # code: finetune.py
        optim=AdamW(lr=LR[SIZED[size]]),  # code: finetune.py, 3e-4; ours
        schedule=Linear(warmup=WARMUP[SIZED[size]]),  # code: finetune.py, 100 steps; ours
        adapter=LORA[size],
        base="int8",  # code: finetune.py, load_in_8bit
    )
    elo = Claim(what="no benchmark of its own; Anima's README gives it an Elo", value=623.62, source="Anima, README")
    return Recipe(title=f"Chinese-Vicuna {size}", stages=(adapted,), claims=(elo,))
