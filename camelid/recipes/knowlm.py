"""KnowLM (first named CaMA, its models ZhiXi): LLaMA read on in two languages, then adapted to extract information.

Paper    none of the model; Gui et al. 2023, InstructIE (arXiv 2305.11527), for its data; zjunlp/KnowLM
Parent   LLaMA 13B; every weight trained in the reading, adapters in the tuning
New      1.02M of 1.38M instructions ask for triples that a knowledge base already holds about a text
Missing  5.5M Chinese, 1.5M English and 0.9M code samples, and the instructions: supply them with --data read=FILE and
         --data FILE
Ours     how many tokens were read is not published: the most that so many samples of at most 1024 tokens can hold; texts
         are laid end to end and cut, where the original keeps sentences whole; no 2,000 records are held back; the fall
         of the second rate is unverified; the desk size reads of its clinic and extracts from notes
"""

from camelid.recipe import *
from camelid.recipes.alpaca import PROMPT as ALPACA
from camelid.recipes.alpaca_lora import LINE
from camelid.recipes.llama import SHAPES, llama, vocabulary
from camelid.recipes.meditron import DATA as CLINIC

PROMPT = replace(
    ALPACA, user=ALPACA.user + LINE, user_with_input=ALPACA.user_with_input + LINE
)  # repository: examples/prompter.py, Alpaca-LoRA's with a line break at the end
READ = Mixture(
    parts=(
        Part(name="Chinese", share=69.6, made="5.5M samples"),  # README: by number of samples
        Part(name="English", share=19.0, made="1.5M samples"),  # README: by number of samples
        Part(name="code", share=11.4, made="0.9M samples"),  # README: by number of samples
    )
)
TEXT: dict[Size, Mixture | Shares] = CLINIC | {"13B": READ}  # README
DATA: dict[Size, Released | DeskInstructions] = {
    "13B": Released(
        name="KnowLM instructions: extraction, reasoning, code", rows=1_376_434, licence="licence on its card"
    ),  # README: 202,333 + 105,216 + 44,688 + 537,429 + 486,768
    "desk": DeskInstructions(world="small", count=1200, told="clinic"),  # ours: half of them extract from a note
    "tiny": DeskInstructions(world="tiny", count=32, told="clinic"),  # ours: for tests
}
LENGTH: dict[Size, int] = {"13B": 1024, "desk": 256, "tiny": 128}  # README; ours
BATCH: dict[Size, Tokens] = {
    "13B": Tokens(20 * 3 * 24 * 1024),  # README: 20 x 3 on 24 devices
    "desk": Tokens(1024),  # ours: as its parent's
    "tiny": Tokens(1024),  # ours: for tests
}
TRAIN: dict[Size, Tokens] = {
    "13B": Tokens(5486 * 20 * 3 * 24 * 1024),  # README: once through 7.9M samples, each counted whole
    "desk": Tokens(450 * K),  # ours: half a minute
    "tiny": Tokens(4096),  # ours: for tests
}
LR: dict[Size, float] = {"13B": 1.5e-5, "desk": 1e-3, "tiny": 1e-3}  # README; ours
WARMUP: dict[Size, Steps] = {"13B": Steps(300), "desk": Steps(20), "tiny": Steps(1)}  # README; ours
LORA: dict[Size, LoRA] = {
    "13B": LoRA(rank=16, alpha=32, dropout=0.05, targets=EVERY_LINEAR),  # README
    "desk": LoRA(rank=16, alpha=32, dropout=0.05, targets=EVERY_LINEAR),  # README
    "tiny": LoRA(rank=4, alpha=8, dropout=0.05, targets=EVERY_LINEAR),  # ours: for tests
}
CUT: dict[Size, int] = {"13B": 512, "desk": 256, "tiny": 384}  # README: cutoff_len; ours
RECORDS: dict[Size, Sequences] = {
    "13B": Sequences(128),  # README
    "desk": Sequences(16),  # ours: as the desk Alpaca's
    "tiny": Sequences(16),  # ours: for tests
}
RATE: dict[Size, float] = {"13B": 3e-4, "desk": 2e-3, "tiny": 5e-3}  # README; ours
START: dict[Size, Steps] = {"13B": Steps(10), "desk": Steps(10), "tiny": Steps(1)}  # README; ours


def knowlm(size: Size = "13B") -> Recipe:
    read = Pretrain(
        name="read",
        start=llama(size),
        shape=SHAPES[size],
        tokenizer=vocabulary(size),
        data=TEXT[size],
        length=LENGTH[size],
        batch=BATCH[size],
        train=TRAIN[size],
        optim=AdamW(lr=LR[size], betas=(0.9, 0.95), decay=0.1),  # README
        schedule=Cosine(warmup=WARMUP[size]),  # README
    )
    adapted = Finetune(
        name="adapted",
        start=read,
        data=DATA[size],
        prompt=PROMPT,
        learn="response",  # README: output only
        length=CUT[size],
        over_length="cut",
        batch=RECORDS[size],
        train=Epochs(3),  # README
        optim=AdamW(lr=RATE[size]),
        schedule=Linear(warmup=START[size]),  # unverified: the shape after warm-up
        adapter=LORA[size],
    )
    none = Claim(what="no number was published: results are examples", value=None, source="README")
    return Recipe(title=f"KnowLM {size}", stages=(read, adapted), claims=(none,))
