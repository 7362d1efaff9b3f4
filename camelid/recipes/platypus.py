"""Platypus: adapters on the feed-forward alone, tuned on few questions none of which is like another.

Paper    Lee et al. 2023, Platypus (arXiv 2308.07317); arielnlee/Platypus, finetune.py, data_pipeline
Parent   Llama 2 (LLaMA for the 30B), its weights frozen in int8
New      near-duplicates removed by the likeness of their embeddings, the benchmarks' questions likewise; three linears of
         seven; merged with other adapters afterwards
Missing  the released 24,926 records are curated already: supply them with --data. The paper says 80%, the released notebook
         uses 0.7. Rates of 7B and 30B are not in our sources. The embeddings are of all-MiniLM-L6-v2, which is no part
         of this package. The 70B's partners in merging are not declared: camelid merge adds adapters to a base, or takes
         the mean of models of one shape, once they are there
Ours     likeness is the cosine of hashed runs of characters; rates of 7B and 30B are the 13B's; the 30B has 2,048 tokens,
         its parent's context; int8 is of weights alone; the desk size, whose records are curated in the run
"""

from camelid.recipe import *
from camelid.recipes.alpaca import PROMPT as ALPACA
from camelid.recipes.llama import llama
from camelid.recipes.llama_2 import llama_2

PROMPT = replace(
    ALPACA, user=ALPACA.user + "\n", user_with_input=ALPACA.user_with_input + "\n"
)  # code: templates, a line break behind "### Response:"
MLP = LoRA(
    rank=16, alpha=16, dropout=0.05, targets=("gate_proj", "up_proj", "down_proj")
)  # paper, section 3: the MLP alone; code: fine-tuning.sh
LORA: dict[Size, LoRA] = {
    "7B": MLP,
    "13B": MLP,
    "33B": MLP,
    "70B": MLP,
    "desk": replace(MLP, alpha=32),  # ours: as the desk Alpaca-LoRA's
    "tiny": replace(MLP, rank=4, alpha=8),  # ours: for tests
}
PARENT: dict[Size, Recipe] = {
    "7B": llama_2("7B"),
    "13B": llama_2("13B"),
    "33B": llama("33B"),  # paper: Platypus-30B is on LLaMA
    "70B": llama_2("70B"),
    "desk": llama_2("desk"),
    "tiny": llama_2("tiny"),
}
OPEN = Released(name="Open-Platypus", rows=24_926, licence="several, two of them non-commercial")  # card
DATA: dict[Size, Released | Distinct] = {
    "7B": OPEN,
    "13B": OPEN,
    "33B": OPEN,
    "70B": OPEN,
    "desk": Distinct(
        data=DeskInstructions(world="small", count=4800), alike=0.8
    ),  # paper, section 3.1: 80%; ours: twice the desk Alpaca's before the sieve
    "tiny": Distinct(data=DeskInstructions(world="tiny", count=64), alike=0.8),  # ours: for tests
}
LENGTH: dict[Size, int] = {
    "7B": 4096,
    "13B": 4096,
    "33B": 2048,
    "70B": 4096,
    "desk": 256,
    "tiny": 256,
}  # code: fine-tuning.sh, cutoff_len; 30B and the rest ours
LR: dict[Size, float] = {
    "7B": 4e-4,
    "13B": 4e-4,
    "33B": 4e-4,
    "70B": 3e-4,
    "desk": 5e-3,
    "tiny": 5e-3,
}  # paper, section 3: 13B and 70B; the rest ours
WARMUP: dict[Size, Steps] = {
    "7B": Steps(100),
    "13B": Steps(100),
    "33B": Steps(100),
    "70B": Steps(100),
    "desk": Steps(10),
    "tiny": Steps(1),
}  # paper, section 3; ours


def platypus(size: Size = "70B") -> Recipe:
    adapted = Finetune(
        name="adapted",
        start=PARENT[size],
        data=DATA[size],
        prompt=PROMPT,
        learn="response",  # code: fine-tuning.sh, train_on_inputs False
        length=LENGTH[size],
        over_length="cut",
        batch=Sequences(16),  # paper, section 3
        train=Epochs(1),  # paper, section 3
        optim=AdamW(lr=LR[size]),  # code: adamw_torch, no decay
        schedule=Cosine(warmup=WARMUP[size]),  # paper, section 3
        adapter=LORA[size],
        base="int8",  # code: finetune.py, load_in_8bit
    )
    math = Claim(
        what="% of MMLU by Camel-Platypus2-70B, a merge; ARC 71.08, HellaSwag 87.6, TruthfulQA 58.09",
        value=70.04,
        source="model card",
    )
    return Recipe(title=f"Platypus {size}", stages=(adapted,), claims=(math,))
