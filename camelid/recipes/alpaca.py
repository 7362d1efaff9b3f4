"""Alpaca: LLaMA fine-tuned on 52k instructions written by a stronger model.

Paper    Taori et al. 2023, Stanford Alpaca (report and repository; there is no arXiv paper)
Parent   LLaMA, every weight trained
New      one teacher call yields a numbered list of tasks; a two-form prompt; loss on the response only
Missing  the teacher, text-davinci-003, is retired: supply the released 52k set (CC BY-NC 4.0) or your own with --data
Ours     over-length examples are counted when they are cut; the desk size, its teacher a program that knows the world
"""

from camelid.recipe import *
from camelid.recipes.llama import llama

PROMPT = Template(
    user=(
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Response:"
    ),  # code: train.py, PROMPT_DICT
    user_with_input=(
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
    ),  # code: train.py, PROMPT_DICT
    markers=("### Instruction:", "### Input:", "### Response:"),  # code: train.py, PROMPT_DICT
)
TEACHER = SelfInstruct(
    name="instructions",
    seeds="alpaca/seed_tasks.jsonl",  # code: 175 tasks
    teacher="text-davinci-003",  # README, Data Generation Process
    target=52_002,  # README, Data Release: 52K; the file holds 52,002
    shown=3,  # code: generate_instruction.py, num_prompt_instructions
    asked=20,  # code: prompt.txt (the 3 shown count among the 20)
    max_overlap=0.7,  # code: generate_instruction.py, ROUGE-L against all kept
)
DATA: dict[Size, SelfInstruct | DeskInstructions] = {
    "7B": TEACHER,
    "13B": TEACHER,
    "desk": DeskInstructions(world="small", count=2400),  # ours: what half a minute can read three times
    "tiny": DeskInstructions(world="tiny", count=48),  # ours: for tests
}
LENGTH: dict[Size, int] = {"7B": 512, "13B": 512, "desk": 256, "tiny": 384}  # README, Fine-tuning table; ours
BATCH: dict[Size, Sequences] = {
    "7B": Sequences(128),  # README, Fine-tuning table
    "13B": Sequences(128),  # README, Fine-tuning table
    "desk": Sequences(16),  # ours: as many steps as the published run, on fewer records
    "tiny": Sequences(16),  # ours: for tests
}
EPOCHS: dict[Size, Epochs] = {
    "7B": Epochs(3),  # README, Fine-tuning table
    "13B": Epochs(5),  # README, Fine-tuning table
    "desk": Epochs(3),  # README, Fine-tuning table, as 7B
    "tiny": Epochs(3),  # README, Fine-tuning table, as 7B
}
LR: dict[Size, float] = {"7B": 2e-5, "13B": 1e-5, "desk": 5e-4, "tiny": 1e-3}  # README, Fine-tuning table; ours


def alpaca(size: Size = "7B") -> Recipe:
    tuned = Finetune(
        name="tuned",
        start=llama(size),
        data=DATA[size],
        prompt=PROMPT,
        learn="response",  # code: train.py, preprocess
        length=LENGTH[size],
        over_length="cut",  # code: train.py, the tokenizer's truncation=True
        batch=BATCH[size],
        train=EPOCHS[size],
        optim=AdamW(lr=LR[size]),  # README, training command: weight decay 0
        schedule=Cosine(warmup=0.03),  # README, training command
        pad="[PAD]",  # code: train.py, smart_tokenizer_and_embedding_resize
    )
    wins = Claim(
        what="wins against text-davinci-003, which has 89, in blind pairs",
        value=90,
        source="report, Preliminary evaluation",
    )
    return Recipe(title=f"Alpaca {size}", stages=(tuned,), claims=(wins,))
