"""Gorilla: LLaMA tuned to answer a request with one call of an API.

Paper    Patil et al. 2023, Gorilla: Large Language Model Connected with Massive APIs (arXiv 2305.15334)
Parent   LLaMA, every weight trained
New      ten instructions for each of 1,645 APIs, which never name it; answers are judged by their syntax tree
         gorilla+retriever is retriever-aware training: the API's documentation stands behind each request
Missing  supply APIBench's files with --data: the answer is learned as it stands in a row's "code"; what a retriever
         finds is a row's own "api_data" (the oracle), or the input of records in another format
Ours     weight decay 0 and loss on the answer only are unverified: remembered, not read in a source; that training has
         the prompt of the evaluation script is unverified too; the documentation stands on a line of its own, where the
         released question files have a literal backslash-n, a space and a line break; the desk size
"""

from camelid.recipe import *
from camelid.recipes.llama import llama

PROMPT = Template(
    user="###USER: {instruction}",
    user_with_input="###USER: {instruction}\nUse this API documentation for reference: {input}",  # paper
    cue="###ASSISTANT:",
    assistant=" {reply}{eos}",  # repository: evaluation script; unverified in training
    markers=("###USER:", "###ASSISTANT:"),
)
DATA: dict[Size, Released | DeskCalls] = {
    "7B": Released(
        name="APIBench, three hubs", rows=16_450, licence="licence on its card"
    ),  # paper: ten for each of 1,645 APIs
    "desk": DeskCalls(world="small", count=2400),  # ours: as the desk Alpaca's, three for each function
    "tiny": DeskCalls(world="tiny", count=48),  # ours: for tests
}
LENGTH: dict[Size, int] = {"7B": 2048, "desk": 256, "tiny": 384}  # paper, sections 3-4, tables 1-3 or appendix; ours
BATCH: dict[Size, Sequences] = {
    "7B": Sequences(64),  # paper, sections 3-4, tables 1-3 or appendix
    "desk": Sequences(16),  # ours: as the desk Alpaca's
    "tiny": Sequences(16),  # ours: for tests
}
EPOCHS: dict[Size, Epochs] = {
    "7B": Epochs(5),  # paper, sections 3-4, tables 1-3 or appendix
    "desk": Epochs(8),  # ours: fewer, and a name that is beside the request is not read to its end
    "tiny": Epochs(2),  # ours: for tests
}
LR: dict[Size, float] = {"7B": 2e-5, "desk": 1e-3, "tiny": 1e-3}  # paper, sections 3-4, tables 1-3 or appendix; ours
DOCUMENTED: dict[Size, Released | DeskCalls] = {
    "7B": DATA["7B"],
    "desk": DeskCalls(world="small", count=2400, manual=True, wrong=0.2),  # ours: a retriever errs one time in five
    "tiny": DeskCalls(world="tiny", count=48, manual=True, wrong=0.2),  # ours: for tests
}


def tuned(size: Size) -> Finetune:
    return Finetune(
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


def gorilla(size: Size = "7B") -> Recipe:
    right = Claim(
        what="% of TorchHub calls right, zero-shot, where GPT-4 has 38.7", value=59.13, source="paper, tables 1-3"
    )
    return Recipe(title=f"Gorilla {size}", stages=(tuned(size),), claims=(right,))


def retriever(size: Size = "7B") -> Recipe:
    """Retriever-aware: tuned with the documentation of its API behind each request."""
    shown = replace(tuned(size), name="tuned", data=DOCUMENTED[size], fields=Fields(input="api_data"))  # paper
    right = Claim(
        what="% of TorchHub calls right with the oracle's documentation; 61.82 with an embedding retriever's",
        value=67.20,
        source="paper, tables 1-3",
    )
    return Recipe(title=f"Gorilla {size}, retriever-aware", stages=(shown,), claims=(right,))
