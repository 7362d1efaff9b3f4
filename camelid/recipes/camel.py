"""CAMEL: LLaMA read on in clinical notes, then tuned on questions that a teacher asked about such notes.

Paper    none; the repository starmpcc/CAMEL and its page, May 2023 (KAIST); not the role-playing project of that name
Parent   LLaMA 7B, every weight trained in both stages
New      3.4B tokens of hospital notes first; 100K instructions of 13 kinds over 9,000 discharge notes after it
Missing  MIMIC-III and MIMIC-IV need credentials, and the instructions are made of them: supply texts with --data
         read=FILE and records with --data FILE
Ours     warm-up and the fall of the second rate are unverified: as the first's; the loader's mask over padding, which its
         code builds and never applies, changes nothing here, where nothing is padded; the desk size, a clinic of its own
"""

from camelid.recipe import *
from camelid.recipes.alpaca import PROMPT
from camelid.recipes.llama import SHAPES, llama, vocabulary

MIMIC = Mixture(
    parts=(
        Part(name="MIMIC-III notes", share=38.2, made="404 notes of test sets removed"),  # README: 1.3B of 3.4B
        Part(name="MIMIC-IV notes", share=61.8, made="___ becomes [ANON]"),  # README: 2.1B of 3.4B
    )
)
TEXT: dict[Size, Mixture | DeskText] = {
    "7B": MIMIC,
    "desk": DeskText(world="small", bytes=1200 * K, told="clinic"),  # ours: no replay, as published
    "tiny": DeskText(world="tiny", bytes=12 * K, told="clinic"),  # ours: for tests
}
DATA: dict[Size, Released | DeskInstructions] = {
    "7B": Released(name="CAMEL instructions on discharge notes", rows=100_000, licence="needs credentials"),  # README
    "desk": DeskInstructions(world="small", count=900, told="clinic"),  # ours: a quarter of the illnesses is held out
    "tiny": DeskInstructions(world="tiny", count=32, told="clinic"),  # ours: for tests
}
LENGTH: dict[Size, int] = {"7B": 2048, "desk": 256, "tiny": 128}  # repository; ours
BATCH: dict[Size, Tokens] = {
    "7B": Tokens(2 * 8 * 8 * 2048),  # repository: 2 x 8 on 8 devices
    "desk": Tokens(1024),  # ours: as its parent's
    "tiny": Tokens(1024),  # ours: for tests
}
TRAIN: dict[Size, Tokens] = {
    "7B": Tokens(3400 * M),  # README: 3.4B, once
    "desk": Tokens(450 * K),  # ours: half a minute
    "tiny": Tokens(4096),  # ours: for tests
}
LR: dict[Size, float] = {"7B": 2e-5, "desk": 1e-3, "tiny": 1e-3}  # repository; ours
WINDOW: dict[Size, int] = {"7B": 2048, "desk": 256, "tiny": 384}  # repository; ours
RECORDS: dict[Size, Sequences] = {
    "7B": Sequences(128),  # repository
    "desk": Sequences(16),  # ours: as the desk Alpaca's
    "tiny": Sequences(16),  # ours: for tests
}


def camel(size: Size = "7B") -> Recipe:
    read = Pretrain(
        name="read",
        start=llama(size),
        shape=SHAPES[size],
        tokenizer=vocabulary(size),
        data=TEXT[size],
        length=LENGTH[size],
        batch=BATCH[size],
        train=TRAIN[size],
        optim=AdamW(lr=LR[size]),  # repository: no decay
        schedule=Cosine(warmup=0.03),  # repository
    )
    tuned = Finetune(
        name="tuned",
        start=read,
        data=DATA[size],
        prompt=PROMPT,
        learn="response",  # repository: output only
        length=WINDOW[size],
        over_length="cut",
        batch=RECORDS[size],
        train=Epochs(3),  # repository
        optim=AdamW(lr=LR[size]),
        schedule=Cosine(warmup=0.03),  # unverified: as the reading's
        pad="[PAD]",  # repository: id 32000
    )
    judged = Claim(
        what="points of 10 by GPT-4 on 1,000 clinical questions, where without the notes it has 6.71, Alpaca 5.40",
        value=6.75,
        source="README",
    )
    return Recipe(title=f"CAMEL {size}", stages=(read, tuned), claims=(judged,))
