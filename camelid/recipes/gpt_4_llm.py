"""GPT-4-LLM: Alpaca's instructions answered anew by GPT-4, a better teacher for the same student.

Paper    Peng et al. 2023, Instruction Tuning with GPT-4 (arXiv 2304.03277)
Parent   LLaMA, every weight trained
New      the instructions stay, the teacher changes: GPT-4 writes every answer
Missing  the 52k answers: supply alpaca_gpt4_data.json with --data; its Chinese twin and the ranked answers likewise
Ours     length and loss on the answer as Alpaca's, unverified here; the desk size, whose teacher is always right where
         the desk Alpaca's is; batch 64 follows from the repository's 16 devices, one record each, four times
         accumulated
"""

from camelid.recipe import *
from camelid.recipes.alpaca import EPOCHS, LENGTH, LR, PROMPT
from camelid.recipes.llama import llama

DATA: dict[Size, Released | DeskTaught] = {
    "7B": Released(name="alpaca_gpt4_data.json", rows=52_000, licence="licence on its card"),  # repository: 52K
    "desk": DeskTaught(world="small", count=2400, wrong=0.02),  # ours: as the desk Alpaca's, but 98% right
    "tiny": DeskTaught(world="tiny", count=48, wrong=0.02),  # ours: for tests
}
BATCH: dict[Size, Sequences] = {
    "7B": Sequences(64),  # derived: 16 devices x 1 x 4; config/ds_config.json says 64 too
    "desk": Sequences(16),  # ours: as the desk Alpaca's
    "tiny": Sequences(16),  # ours: for tests
}


def gpt_4_llm(size: Size = "7B") -> Recipe:
    tuned = Finetune(
        name="tuned",
        start=llama(size),
        data=DATA[size],
        prompt=PROMPT,  # repository: Alpaca's templates
        learn="response",  # unverified: as Alpaca's script
        length=LENGTH[size],  # unverified: as Alpaca
        over_length="cut",
        batch=BATCH[size],
        train=EPOCHS[size],  # repository: 3, as Alpaca
        optim=AdamW(lr=LR[size]),  # repository: 2e-5, as Alpaca
        schedule=Cosine(warmup=0.03),  # repository
        pad="[PAD]",  # unverified: as Alpaca's script
    )
    helpful = Claim(
        what="% of 252 tasks on which people find it more helpful than Alpaca, which has 19.74",
        value=54.12,
        source="repository, helpfulness",
    )
    return Recipe(title=f"GPT-4-LLM {size}", stages=(tuned,), claims=(helpful,))
