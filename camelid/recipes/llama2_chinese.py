"""Llama2-Chinese: quick adapters in Chinese on Llama 2, by the community that later trained Atom.

Paper    none; the repository FlagAlpha/Llama2-Chinese, July 2023
Parent   Llama 2 (in the original its chat model, which is not declared here), its weights frozen in 4 bits
New      every token is learned, prompts included; no Chinese piece is added
Missing  the dialogues, whose number is not published: supply them with --data
Ours     the parent is the base model; that its 4 bits are NF4, and the fall of the rate after warm-up, is unverified; a
         space before an answer belongs to the answer; the desk size, its base whole, in the desk world's second language
"""

from camelid.recipe import *
from camelid.recipes.llama_2 import llama_2

PROMPT = Template(
    opening="",
    user="{bos}Human: {instruction}\n{eos}",
    user_with_input="{bos}Human: {instruction}\n{input}\n{eos}",
    cue="{bos}Assistant:",
    assistant=" {reply}\n{eos}",  # repository: README
    markers=("Human:", "Assistant:"),
)
RECORDS = Released(name="Chinese dialogues of the community", rows=None, licence="no release in our sources")
DATA: dict[Size, Released | DeskInstructions] = {
    "7B": RECORDS,
    "13B": RECORDS,
    "desk": DeskInstructions(world="small", count=700, told="second language"),  # ours: most of what there is
    "tiny": DeskInstructions(world="tiny", count=32, told="second language"),  # ours: for tests
}
LORA: dict[Size, LoRA] = {
    "7B": LoRA(rank=8, alpha=32, dropout=0.05, targets=EVERY_LINEAR),  # repository: finetune_lora.sh
    "13B": LoRA(rank=8, alpha=32, dropout=0.05, targets=EVERY_LINEAR),  # repository: finetune_lora.sh
    "desk": LoRA(rank=16, alpha=32, dropout=0.05, targets=EVERY_LINEAR),  # ours: as the desk Alpaca-LoRA's
    "tiny": LoRA(rank=4, alpha=8, dropout=0.05, targets=EVERY_LINEAR),  # ours: for tests
}
BASE: dict[Size, Bits | None] = {
    "7B": "nf4",  # repository: finetune_lora.sh, 4-bit; unverified: which 4 bits
    "13B": "nf4",  # repository: finetune_lora.sh, 4-bit; unverified: which 4 bits
    "desk": None,  # ours: whole, as the desk Alpaca-LoRA's
    "tiny": None,  # ours: for tests
}
LENGTH: dict[Size, int] = {"7B": 2048, "13B": 2048, "desk": 256, "tiny": 384}  # repository: block_size; ours
BATCH: dict[Size, Sequences] = {
    "7B": Sequences(1 * 8 * 2),  # repository: 1 x 8 on 2 devices
    "13B": Sequences(1 * 8 * 2),  # repository: 1 x 8 on 2 devices
    "desk": Sequences(16),  # repository, as 7B
    "tiny": Sequences(16),  # repository, as 7B
}
EPOCHS: dict[Size, Epochs] = {
    "7B": Epochs(10),  # repository: finetune_lora.sh
    "13B": Epochs(10),  # repository: finetune_lora.sh
    "desk": Epochs(10),  # repository, as 7B
    "tiny": Epochs(2),  # ours: for tests
}
LR: dict[Size, float] = {"7B": 1e-4, "13B": 1e-4, "desk": 2e-3, "tiny": 5e-3}  # repository; ours
WARMUP: dict[Size, Steps] = {
    "7B": Steps(400),
    "13B": Steps(400),
    "desk": Steps(20),
    "tiny": Steps(1),
}  # repository; ours


def llama2_chinese(size: Size = "7B") -> Recipe:
    adapted = Finetune(
        name="adapted",
        start=llama_2(size),
        data=DATA[size],
        prompt=PROMPT,
        learn="everything",  # repository: labels are all tokens
        length=LENGTH[size],
        over_length="cut",
        batch=BATCH[size],
        train=EPOCHS[size],
        optim=AdamW(lr=LR[size]),
        schedule=Linear(warmup=WARMUP[size]),  # unverified: the shape after warm-up
        adapter=LORA[size],
        base=BASE[size],
    )
    level = Claim(
        what="C-Eval of the 13B chat model, where Llama-2-13B has 38.2",
        value=38.1,
        source="README of YuLan-Chat, a third party's measurement",
    )
    return Recipe(title=f"Llama2-Chinese {size}", stages=(adapted,), claims=(level,))
