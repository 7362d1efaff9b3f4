"""Platypus: adapters on the feed-forward alone, tuned on few questions none of which is like another.

Paper    Lee et al. 2023, Platypus (arXiv 2308.07317); arielnlee/Platypus, finetune.py, data_pipeline
Parent   Llama 2 (LLaMA for the 30B), its weights frozen in int8
New      near-duplicates removed by the likeness of their embeddings, the benchmarks' questions likewise; three linears of
         seven; merged with other fine-tunes afterwards: platypus+merged is one half this, one half Alpaca-LoRA on GPT-4's
         answers, as GPlatty-30B is of Platypus-30B and gpt4-alpaca-lora-30b
Missing  the released 24,926 records are curated already: supply them with --data. The paper says 80%, the released notebook
         uses 0.7. Rates of 7B and 30B are not in our sources. The embeddings are of all-MiniLM-L6-v2, which is no part
         of this package. With what the 70B of the claim was merged is not in our sources, nor how the partner of the 30B
         was trained: camelid merge takes the folders of any two models of one shape
Ours     the partner's settings are Alpaca-LoRA's, its parent is Platypus's at every size; likeness is the cosine of hashed
         runs of characters; rates of 7B and 30B are the 13B's; the 30B has 2,048 tokens, its parent's context; int8 is of
         weights alone; the desk size, whose records are curated in the run
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


ANSWERS = Released(name="alpaca_gpt4_data.json", rows=52_000, licence="licence on its card")  # GPT-4-LLM: 52K
GPT_4: dict[Size, Released | DeskTaught] = {
    "7B": ANSWERS,
    "13B": ANSWERS,
    "33B": ANSWERS,
    "70B": ANSWERS,
    "desk": DeskTaught(world="small", count=2400, wrong=0.02),  # ours: as the desk GPT-4-LLM's
    "tiny": DeskTaught(world="tiny", count=48, wrong=0.02),  # ours: for tests
}
ALPACA_LORA = LoRA(rank=8, alpha=16, dropout=0.05, targets=("q_proj", "v_proj"))  # ours: Alpaca-LoRA's
PARTNER: dict[Size, LoRA] = {
    "7B": ALPACA_LORA,
    "13B": ALPACA_LORA,
    "33B": ALPACA_LORA,
    "70B": ALPACA_LORA,
    "desk": LoRA(rank=16, alpha=32, dropout=0.05, targets=EVERY_LINEAR),  # ours: the desk Alpaca-LoRA's
    "tiny": LoRA(rank=4, alpha=8, dropout=0.05, targets=("q_proj", "v_proj")),  # ours: for tests
}
PARTNER_LENGTH: dict[Size, int] = {
    "7B": 256,
    "13B": 256,
    "33B": 256,
    "70B": 256,
    "desk": 256,
    "tiny": 384,
}  # ours: Alpaca-LoRA's
PARTNER_BATCH: dict[Size, Sequences] = {
    "7B": Sequences(128),
    "13B": Sequences(128),
    "33B": Sequences(128),
    "70B": Sequences(128),
    "desk": Sequences(16),
    "tiny": Sequences(16),
}  # ours: Alpaca-LoRA's
PARTNER_LR: dict[Size, float] = {
    "7B": 3e-4,
    "13B": 3e-4,
    "33B": 3e-4,
    "70B": 3e-4,
    "desk": 2e-3,
    "tiny": 5e-3,
}  # ours: Alpaca-LoRA's


def adapted(size: Size) -> Finetune:
    return Finetune(
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


def partner(size: Size) -> Finetune:
    return Finetune(
        name="partner",
        start=PARENT[size],
        data=GPT_4[size],
        prompt=PROMPT,  # Alpaca-LoRA's templates, which are the same
        learn="everything",  # ours: Alpaca-LoRA's
        length=PARTNER_LENGTH[size],
        over_length="cut",
        batch=PARTNER_BATCH[size],
        train=Epochs(3),  # ours: Alpaca-LoRA's
        optim=AdamW(lr=PARTNER_LR[size]),
        schedule=Linear(warmup=WARMUP[size]),  # ours: Alpaca-LoRA's
        adapter=PARTNER[size],
        base="int8",  # ours: Alpaca-LoRA's
    )


def platypus(size: Size = "70B") -> Recipe:
    math = Claim(
        what="% of MMLU by Camel-Platypus2-70B, a merge; ARC 71.08, HellaSwag 87.6, TruthfulQA 58.09",
        value=70.04,
        source="model card",
    )
    return Recipe(title=f"Platypus {size}", stages=(adapted(size),), claims=(math,))


def merged(size: Size = "33B") -> Recipe:
    """One half of it, one half of adapters tuned on GPT-4's answers to Alpaca's instructions, as GPlatty-30B."""
    imitation, curated = partner(size), adapted(size)
    both = Merge(
        name="merged",
        start=curated,
        partner=imitation,
        shares=(0.5, 0.5),  # paper: linear, equal weights
    )
    gain = Claim(what="points that GPlatty-30B has over its parts, about", value=2, source="paper")
    return Recipe(title=f"GPlatty {size}", stages=(imitation, curated, both), claims=(gain,))
