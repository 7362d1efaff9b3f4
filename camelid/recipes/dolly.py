"""Dolly's recipe on LLaMA: 15,000 instructions that people wrote. The true Dolly is no LLaMA.

Paper    none; the repository databrickslabs/dolly, v1 March and v2 April 2023
Parent   LLaMA 7B here; in the original GPT-J 6B (v1) and Pythia 2.8B, 6.9B and 12B (v2), although it is at times named
         among LLaMA's children
New      the first such set that people wrote and that may be used commercially (CC BY-SA 3.0); control tokens mark the
         prompt's headings, and one ends the answer
Missing  the records: supply databricks-dolly-15k with --data, with its own columns or in a known format
Ours     the parent, and with it the vocabulary; how many rows there are is unverified (15,011 as remembered of the
         card): the README says about 15,000; 200 rows are not held back; the desk size
"""

from camelid.recipe import *
from camelid.recipes.llama import llama

INTRO = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
PROMPT = Template(
    opening="",
    user=INTRO + "{### Instruction:}\n{instruction}\n\n",
    user_with_input=INTRO + "{### Instruction:}\n{instruction}\n\nInput:\n{input}\n\n",
    cue="{### Response:\n}",
    assistant="{reply}\n\n{### End}",
    stops=("{### End}",),
)  # repository: training/consts.py
DATA: dict[Size, Released | DeskInstructions] = {
    "7B": Released(name="databricks-dolly-15k", rows=15_000, licence="CC BY-SA 3.0"),  # README: about 15k
    "desk": DeskInstructions(world="small", count=2400),  # ours: as the desk Alpaca's
    "tiny": DeskInstructions(world="tiny", count=48),  # ours: for tests
}
LENGTH: dict[Size, int] = {"7B": 2048, "desk": 256, "tiny": 384}  # unverified: the context of its bases; ours
BATCH: dict[Size, Sequences] = {
    "7B": Sequences(6 * 8),  # repository: 6 on 8 A100
    "desk": Sequences(16),  # ours: as the desk Alpaca's
    "tiny": Sequences(16),  # ours: for tests
}
LR: dict[Size, float] = {"7B": 5e-6, "desk": 1e-3, "tiny": 1e-3}  # repository: run; ours
WARMUP: dict[Size, Steps] = {"7B": Steps(50), "desk": Steps(10), "tiny": Steps(1)}  # repository: run; ours


def dolly(size: Size = "7B") -> Recipe:
    tuned = Finetune(
        name="tuned",
        start=llama(size),
        data=DATA[size],
        prompt=PROMPT,
        fields=Fields(instruction="instruction", input="context", output="response"),  # repository: columns
        learn="response",  # repository: from the response key on
        length=LENGTH[size],
        over_length="drop",  # repository: rows cut by the limit are dropped
        batch=BATCH[size],
        train=Epochs(2),  # repository: run
        optim=AdamW(lr=LR[size]),
        schedule=Constant(warmup=WARMUP[size]),  # repository: DeepSpeed's warm-up, which stays at the peak
        controls=("### End", "### Instruction:", "### Response:\n"),  # repository: training/consts.py
    )
    none = Claim(what="no benchmark was published: not state of the art, by its authors' own words", value=None,
                 source="README")  # fmt: skip
    return Recipe(title=f"Dolly on LLaMA {size}", stages=(tuned,), claims=(none,))
