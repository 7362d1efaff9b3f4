"""BELLE: LLaMA tuned on Chinese instructions written by a teacher from Chinese seed tasks.

Paper    Ji et al. 2023 (arXiv 2303.14742, 2304.07854, 2304.08109); LianjiaTech/BELLE
Parent   LLaMA (not Alpaca), every weight trained: the 7B arm with 2M records of the study of LoRA against full tuning.
         Others of the name start from BLOOMZ-7B1-mt, Llama 2 or a LLaMA of a larger vocabulary, and have 13B
New      175 Chinese seed tasks, near-duplicates refused by BM25; loss on answer and end token only
Missing  the 2M records: supply them with --data. The vocabulary-extended parent is not declared yet
Ours     an input stands on a line of its own below its instruction; the desk size, in the desk world's second language
"""

from camelid.recipe import *
from camelid.recipes.llama import llama

PROMPT = Template(
    opening="",  # repository: ungrouped training has no BOS
    user="Human: \n{instruction}\n\n",
    user_with_input="Human: \n{instruction}\n{input}\n\n",
    cue="Assistant: \n",
    assistant="{reply}{eos}",  # repository or papers
    markers=("Human:", "Assistant:"),
)
DATA: dict[Size, Released | DeskInstructions] = {
    "7B": Released(name="BELLE train_2M_CN", rows=2_000_000, licence="licence on its card"),  # repository or papers: 2M
    "desk": DeskInstructions(world="small", count=2400, told="second reading"),  # ours: as the desk Alpaca's
    "tiny": DeskInstructions(world="tiny", count=48, told="second reading"),  # ours: for tests
}
LENGTH: dict[Size, int] = {"7B": 1024, "desk": 256, "tiny": 384}  # paper, study of LoRA against full tuning; ours
BATCH: dict[Size, Sequences] = {
    "7B": Sequences(32),  # paper, study of LoRA against full tuning
    "desk": Sequences(16),  # ours: as the desk Alpaca's
    "tiny": Sequences(16),  # ours: for tests
}
LR: dict[Size, float] = {"7B": 5e-6, "desk": 1e-3, "tiny": 1e-3}  # paper, study of LoRA against full tuning; ours


def belle(size: Size = "7B") -> Recipe:
    tuned = Finetune(
        name="tuned",
        start=llama(size),
        data=DATA[size],
        prompt=PROMPT,
        learn="assistant",  # repository or papers: each assistant turn and its end
        length=LENGTH[size],
        over_length="cut",
        batch=BATCH[size],
        train=Epochs(3),  # paper, study of LoRA against full tuning
        optim=AdamW(lr=LR[size]),
        schedule=Cosine(warmup=0.03),  # paper, study of LoRA against full tuning
    )
    full = Claim(
        what="full tuning on 2M records, scored by ChatGPT, where LoRA has 0.609",
        value=0.710,
        source="paper's table; the README prints another row of it wrong",
    )
    return Recipe(title=f"BELLE {size}", stages=(tuned,), claims=(full,))
