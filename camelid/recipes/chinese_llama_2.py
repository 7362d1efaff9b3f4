"""Chinese-Llama-2: adapters against full tuning in Chinese, side by side on Llama 2.

Paper    none; the repository longyuewangdcu/Chinese-Llama-2, July 2023 (Macau and Monash)
Parent   Llama 2 7B, its weights frozen; every weight trained in the variant +full
New      the two recipes share script, template and rate; the prompt is stored apart from what is learned
Missing  51K records of Chinese Alpaca (+full: COIG and pairs of translated documents): supply them with --data; 400 GB
         of literary text, read in November 2023, with settings that are not in our sources
Ours     the LoRA script runs on two nodes too; the end token is a control token, where the records end in "</s>" as
         text; records come as instruction, input and output, where the original stores prefix and text; the "### Hint"
         of its translations is not built in; the desk size, in the desk world's second language
"""

from camelid.recipe import *
from camelid.recipes.alpaca import PROMPT
from camelid.recipes.llama_2 import llama_2

DATA: dict[Size, Released | DeskInstructions] = {
    "7B": Released(name="Chinese Alpaca", rows=51_000, licence="licence on its card"),  # README: 51K
    "desk": DeskInstructions(world="small", count=1200, told="second reading"),  # ours: half of the desk Alpaca's
    "tiny": DeskInstructions(world="tiny", count=32, told="second reading"),  # ours: for tests
}
MORE: dict[Size, Released | DeskInstructions] = DATA | {
    "7B": Released(name="COIG, document pairs", rows=None, licence="licences on their cards")
}  # README: how many is not published
LORA: dict[Size, LoRA] = {
    "7B": LoRA(rank=8, alpha=16, dropout=0.05, targets=("q_proj", "v_proj")),  # repository: scripts
    "desk": LoRA(rank=16, alpha=32, dropout=0.05, targets=("q_proj", "v_proj")),  # ours: twice the rank
    "tiny": LoRA(rank=4, alpha=8, dropout=0.05, targets=("q_proj", "v_proj")),  # ours: for tests
}
LENGTH: dict[Size, int] = {"7B": 4096, "desk": 256, "tiny": 384}  # repository: block; ours
BATCH: dict[Size, Sequences] = {
    "7B": Sequences(2 * 8 * 8 * 2),  # repository: 2 x 8 on 8 devices of 2 nodes; full tuning: 8 x 2 on as many
    "desk": Sequences(16),  # ours: as the desk Alpaca's
    "tiny": Sequences(16),  # ours: for tests
}
EPOCHS: dict[Size, Epochs] = {"7B": Epochs(3), "desk": Epochs(6), "tiny": Epochs(2)}  # repository; ours
LR: dict[Size, float] = {"7B": 2e-5, "desk": 1e-3, "tiny": 5e-3}  # repository; ours
NONE = Claim(what="no measure of quality was published", value=None, source="README: showcases only")


def tuned(size: Size) -> Finetune:
    return Finetune(
        name="tuned",
        start=llama_2(size),
        data=DATA[size],
        prompt=PROMPT,
        learn="response",  # repository: the text field only
        length=LENGTH[size],
        over_length="cut",
        batch=BATCH[size],
        train=EPOCHS[size],
        optim=AdamW(lr=LR[size]),
        schedule=Cosine(warmup=0.03),  # repository
        adapter=LORA[size],
    )


def chinese_llama_2(size: Size = "7B") -> Recipe:
    return Recipe(title=f"Chinese-Llama-2 {size}", stages=(tuned(size),), claims=(NONE,))


def full(size: Size = "7B") -> Recipe:
    """Every weight is trained, at the same rate, batch and number of epochs."""
    whole = replace(tuned(size), name="tuned", adapter=None, data=MORE[size])
    return Recipe(title=f"Chinese-Llama-2 {size}, full tuning", stages=(whole,), claims=(NONE,))
