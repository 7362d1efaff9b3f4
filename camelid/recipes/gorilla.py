"""Gorilla, without retriever: LLaMA tuned to answer a request with one call of an API.

Paper    Patil et al. 2023, Gorilla: Large Language Model Connected with Massive APIs (arXiv 2305.15334)
Parent   LLaMA, every weight trained
New      ten instructions for each of 1,645 APIs, which never name it; answers are judged by their syntax tree
Missing  retriever-aware training and the judging of calls come later; supply APIBench's records, as alpaca or messages,
         with --data
Ours     weight decay 0 and loss on the answer only are unverified: remembered, not read in a source; that training has
         the prompt of the evaluation script is unverified too; the desk size answers instructions of the desk world,
         which has no APIs yet
"""

from camelid.recipe import *
from camelid.recipes.llama import llama

PROMPT = Template(
    user="###USER: {instruction}",
    cue="###ASSISTANT:",
    assistant=" {reply}{eos}",  # repository: evaluation script; unverified in training
    markers=("###USER:", "###ASSISTANT:"),
)
DATA: dict[Size, Released | DeskInstructions] = {
    "7B": Released(
        name="APIBench, three hubs", rows=16_450, licence="licence on its card"
    ),  # paper: ten for each of 1,645 APIs
    "desk": DeskInstructions(world="small", count=2400),  # ours: as the desk Alpaca's
    "tiny": DeskInstructions(world="tiny", count=48),  # ours: for tests
}
LENGTH: dict[Size, int] = {"7B": 2048, "desk": 256, "tiny": 384}  # paper, sections 3-4, tables 1-3 or appendix; ours
BATCH: dict[Size, Sequences] = {
    "7B": Sequences(64),  # paper, sections 3-4, tables 1-3 or appendix
    "desk": Sequences(16),  # ours: as the desk Alpaca's
    "tiny": Sequences(16),  # ours: for tests
}
EPOCHS: dict[Size, Epochs] = {
    "7B": Epochs(5),  # paper, sections 3-4, tables 1-3 or appendix
    "desk": Epochs(3),  # ours: as the desk Alpaca's
    "tiny": Epochs(2),  # ours: for tests
}
LR: dict[Size, float] = {"7B": 2e-5, "desk": 1e-3, "tiny": 1e-3}  # paper, sections 3-4, tables 1-3 or appendix; ours


def gorilla(size: Size = "7B") -> Recipe:
    tuned = Finetune(
        name="tuned",
        start=llama(size),
        data=DATA[size],
        prompt=PROMPT,
        learn="response",  # unverified: remembered of Vicuna's code base
        length=LENGTH[size],
        over_length="cut",
        batch=BATCH[size],
        train=EPOCHS[size],
        optim=AdamW(lr=LR[size]),  # its decay of 0 is unverified: remembered
        schedule=Cosine(warmup=0.03),  # paper, sections 3-4, tables 1-3 or appendix
    )
    right = Claim(
        what="% of TorchHub calls right, zero-shot, where GPT-4 has 38.7", value=59.13, source="paper, tables 1-3"
    )
    return Recipe(title=f"Gorilla {size}", stages=(tuned,), claims=(right,))
