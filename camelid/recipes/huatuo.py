"""HuaTuo (BenTsao): adapters on LLaMA, tuned on questions made from a medical knowledge graph.

Paper    Wang et al. 2023, HuaTuo: Tuning LLaMA Model with Chinese Medical Knowledge (arXiv 2304.06975)
Parent   LLaMA, its weights frozen in int8
New      GPT-3.5 turns entries of CMeKG into questions and answers; the question itself is the instruction
Missing  the released 8,658 records: supply llama_data.json with --data
Ours     int8 is of weights alone; the template leaves an input out, so records with one are refused rather than shortened;
         no 500 records are held back; how the rate falls after warm-up is unverified; the desk size, tuned on facts of
         the desk world, its base whole
"""

from camelid.recipe import *
from camelid.recipes.llama import llama

PROMPT = Template(
    user="下面是一个问题，运用医学知识来正确回答提问.\n### 问题:\n{instruction}\n### 回答:\n",  # repository: templates/
    markers=("### 问题:", "### 回答:"),
)
FACTS = ("people", "places", "things")  # ours: what the desk world's knowledge base tells of
LORA: dict[Size, LoRA] = {
    "7B": LoRA(rank=8, alpha=16, dropout=0.05, targets=("q_proj", "v_proj")),  # paper or repository
    "desk": LoRA(rank=16, alpha=32, dropout=0.05, targets=EVERY_LINEAR),  # ours: as the desk Alpaca-LoRA's
    "tiny": LoRA(rank=4, alpha=8, dropout=0.05, targets=("q_proj", "v_proj")),  # ours: for tests
}
BASE: dict[Size, Bits | None] = {
    "7B": "int8",  # paper or repository
    "desk": None,  # ours: whole, as the desk Alpaca-LoRA's
    "tiny": None,  # ours: for tests
}
DATA: dict[Size, Released | DeskInstructions] = {
    "7B": Released(
        name="HuaTuo llama_data.json", rows=8_658, licence="licence on its card"
    ),  # repository: data/, its rows counted
    "desk": DeskInstructions(world="small", count=600, families=FACTS),  # ours: the world's facts
    "tiny": DeskInstructions(world="tiny", count=48, families=FACTS),  # ours: for tests
}
LENGTH: dict[Size, int] = {"7B": 256, "desk": 384, "tiny": 384}  # paper or repository; ours
BATCH: dict[Size, Sequences] = {
    "7B": Sequences(128),  # paper or repository
    "desk": Sequences(16),  # ours: as the desk Alpaca's
    "tiny": Sequences(16),  # ours: for tests
}
EPOCHS: dict[Size, Epochs] = {
    "7B": Epochs(10),  # paper or repository
    "desk": Epochs(3),  # ours: as the desk Alpaca's
    "tiny": Epochs(2),  # ours: for tests
}
LR: dict[Size, float] = {"7B": 3e-4, "desk": 5e-3, "tiny": 5e-3}  # paper or repository; ours


def huatuo(size: Size = "7B") -> Recipe:
    adapted = Finetune(
        name="adapted",
        start=llama(size),
        data=DATA[size],
        prompt=PROMPT,
        learn="response",  # paper or repository: output only
        length=LENGTH[size],
        over_length="cut",  # paper or repository
        batch=BATCH[size],
        train=EPOCHS[size],
        optim=AdamW(lr=LR[size]),
        schedule=Linear(warmup=0.1),  # paper or repository: warm-up; unverified: the shape after it
        adapter=LORA[size],
        base=BASE[size],
    )
    usable = Claim(
        what="usability (SUS, 1 to 3), where LLaMA has 1.21; both unverified",
        value=2.12,
        source="unverified: Table 4 from memory only",
    )
    return Recipe(title=f"HuaTuo {size}", stages=(adapted,), claims=(usable,))
