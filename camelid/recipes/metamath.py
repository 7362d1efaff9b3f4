"""MetaMath: Llama 2 tuned on word problems of which each was asked in four ways, forward and backward.

Paper    Yu et al. 2023, MetaMath: Bootstrap Your Own Mathematical Questions (arXiv 2309.12284)
Parent   Llama 2, every weight trained in 7B and 13B, adapters on an NF4 base in 70B (QLoRA)
New      answer augmentation, rephrasing, self-verification and FOBAR make 395k records of 15k questions
Missing  the 395k records, MetaMathQA: supply them with --data, as columns query and response or in a known format
Ours     that QLoRA's 4 bits are its NF4 here too, and that the adapters' learning rate falls by a cosine, is unverified;
         a question stands whole in the instruction, where the released loader takes what follows its first line break
         for an input; the desk size: problems of two steps, every path right, where the authors filter what a teacher wrote
"""

from camelid.recipe import *
from camelid.recipes.alpaca import PROMPT as ALPACA
from camelid.recipes.llama_2 import llama_2

PROMPT = replace(ALPACA, user_with_input="")  # repository: the form without an input
FIELDS = Fields(instruction="query", output="response")  # repository: columns of MetaMathQA
QA = Released(name="MetaMathQA", rows=395_000, licence="licence on its card")  # paper, table 1
DATA: dict[Size, Released | DeskSums] = {
    "7B": QA,
    "13B": QA,
    "70B": QA,
    "desk": DeskSums(world="small", count=2400, seeds=300),  # ours: as many as the desk Alpaca's
    "tiny": DeskSums(world="tiny", count=48, seeds=12),  # ours: for tests
}
LENGTH: dict[Size, int] = {"7B": 512, "13B": 512, "70B": 512, "desk": 256, "tiny": 384}  # repository; ours
BATCH: dict[Size, Sequences] = {
    "7B": Sequences(4 * 4 * 8),  # repository: 4 x 4 on 8 devices
    "13B": Sequences(4 * 4 * 8),  # repository: 4 x 4 on 8 devices
    "70B": Sequences(128),  # unverified: as 7B
    "desk": Sequences(16),  # ours: as the desk Alpaca's
    "tiny": Sequences(16),  # ours: for tests
}
LR: dict[Size, float] = {"7B": 2e-5, "13B": 2e-5, "70B": 1e-4, "desk": 1e-3, "tiny": 1e-3}  # paper or repository; ours
WARMUP: dict[Size, float] = {"7B": 0.03, "13B": 0.03, "70B": 0.0, "desk": 0.03, "tiny": 0.03}  # paper or repository
LORA: dict[Size, LoRA | None] = {
    "7B": None,
    "13B": None,
    "70B": LoRA(rank=96, alpha=16, dropout=0.05, targets=EVERY_LINEAR),  # paper or repository
    "desk": None,
    "tiny": None,
}
BASE: dict[Size, Bits | None] = {
    "7B": None,
    "13B": None,
    "70B": "nf4",  # paper or repository: QLoRA; unverified: which 4 bits
    "desk": None,
    "tiny": None,
}
PAD: dict[Size, str | None] = {
    "7B": "[PAD]",
    "13B": "[PAD]",
    "70B": None,
    "desk": "[PAD]",
    "tiny": "[PAD]",
}  # repository: train_math.py


def metamath(size: Size = "7B") -> Recipe:
    tuned = Finetune(
        name="tuned",
        start=llama_2(size),
        data=DATA[size],
        prompt=PROMPT,
        fields=FIELDS,
        learn="response",  # repository: train_math.py
        length=LENGTH[size],
        over_length="cut",
        batch=BATCH[size],
        train=Epochs(3),  # paper or repository
        optim=AdamW(lr=LR[size]),
        schedule=Cosine(warmup=WARMUP[size]),
        adapter=LORA[size],
        pad=PAD[size],
        base=BASE[size],
    )
    right = Claim(
        what="% of GSM8K by the 7B, where the question's own answers alone give 41.6 and answer augmentation 59.6",
        value=66.5,
        source="paper, tables 2 and 3 (the ablation's own figure for all four is 64.4)",
    )
    return Recipe(title=f"MetaMath {size}", stages=(tuned,), claims=(right,))
