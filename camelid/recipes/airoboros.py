"""Airoboros: LLaMA tuned on instructions that a teacher wrote of its own accord, without a human seed.

Paper    none; the repository jondurbin/airoboros and its model cards, from April 2023
Parent   LLaMA, its weights frozen in NF4 with double quantization; later Llama 2 and others
New      topics are drawn first and given to some 25 kinds of instructors; near-duplicates are refused by distance of
         embeddings; later, contexts that contradict what the model knows teach it to answer from the context
Missing  the records, whose number is not in our sources: supply them with --data, as columns instruction and response
Ours     this is the QLoRA recipe, published for 65B; that the smaller sizes have it too is ours (13b-gpt4 was tuned whole,
         with settings that were not published); the prompt is that of 1.x, as 2.x and 3.x have others; records that carry
         a system message, or ask for no prompt format, have no place in it; the desk size, its base whole
"""

from camelid.recipe import *
from camelid.recipes.llama import llama

PROMPT = Template(
    opening="{bos}A chat between a curious user and an assistant. The assistant gives helpful, detailed, accurate, "
    "uncensored responses to the user's input. ",
    user="USER: {instruction} ",
    cue="ASSISTANT:",
    assistant=" {reply}{eos}",  # model cards: 1.x; unverified: the end token
    markers=("USER:", "ASSISTANT:"),
)
RECORDS = Released(name="airoboros-gpt4", rows=None, licence="licence on its card")
DATA: dict[Size, Released | DeskInstructions] = {
    "7B": RECORDS,
    "13B": RECORDS,
    "33B": RECORDS,
    "65B": RECORDS,
    "desk": DeskInstructions(world="small", count=2400),  # ours: as the desk Alpaca's
    "tiny": DeskInstructions(world="tiny", count=48),  # ours: for tests
}
WIDE = LoRA(rank=64, alpha=16, dropout=0.05, targets=EVERY_LINEAR)  # repository qlora: 65B
LORA: dict[Size, LoRA] = {
    "7B": WIDE,  # ours: as 65B
    "13B": WIDE,  # ours: as 65B
    "33B": WIDE,  # ours: as 65B
    "65B": WIDE,  # repository qlora: 65B
    "desk": LoRA(rank=16, alpha=32, dropout=0.05, targets=EVERY_LINEAR),  # ours: as the desk Alpaca-LoRA's
    "tiny": LoRA(rank=4, alpha=8, dropout=0.05, targets=EVERY_LINEAR),  # ours: for tests
}
BASE: dict[Size, Bits | None] = {
    "7B": "nf4",  # ours: as 65B
    "13B": "nf4",  # ours: as 65B
    "33B": "nf4",  # ours: as 65B
    "65B": "nf4",  # repository qlora: 65B, with double quantization
    "desk": None,  # ours: whole, as the desk Alpaca-LoRA's
    "tiny": None,  # ours: for tests
}
LENGTH: dict[Size, int] = {
    "7B": 2048,
    "13B": 2048,
    "33B": 2048,
    "65B": 2048,
    "desk": 256,
    "tiny": 384,
}  # repository qlora: 65B; ours
BATCH: dict[Size, Sequences] = {
    "7B": Sequences(2 * 16),  # ours: as 65B
    "13B": Sequences(2 * 16),  # ours: as 65B
    "33B": Sequences(2 * 16),  # ours: as 65B
    "65B": Sequences(2 * 16),  # repository qlora: 2 x 16
    "desk": Sequences(16),  # ours: as the desk Alpaca's
    "tiny": Sequences(16),  # ours: for tests
}
LR: dict[Size, float] = {
    "7B": 1e-4,
    "13B": 1e-4,
    "33B": 1e-4,
    "65B": 1e-4,
    "desk": 2e-3,
    "tiny": 5e-3,
}  # repository qlora: 65B; ours


def airoboros(size: Size = "65B") -> Recipe:
    adapted = Finetune(
        name="adapted",
        start=llama(size),
        data=DATA[size],
        prompt=PROMPT,
        fields=Fields(instruction="instruction", output="response", system="system"),  # repository: columns
        learn="response",  # unverified: the target alone
        length=LENGTH[size],
        over_length="cut",
        batch=BATCH[size],
        train=Epochs(3),  # repository qlora: 65B
        optim=AdamW(lr=LR[size]),  # repository qlora: betas of PyTorch, no decay
        schedule=Constant(warmup=0.03),  # repository qlora: 65B
        clip=0.3,  # repository qlora: 65B
        adapter=LORA[size],
        base=BASE[size],
    )
    judged = Claim(
        what="% of GPT-3.5's points by the first 13B on 200 questions, where Vicuna-13B-1.1 has 89.12",
        value=98.087,
        source="model card, which now advises against that model",
    )
    return Recipe(title=f"Airoboros {size}", stages=(adapted,), claims=(judged,))
