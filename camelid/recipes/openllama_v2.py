"""OpenLLaMA v2: OpenLLaMA on a better mixture, with a vocabulary that keeps spaces and so can write code.

Paper    none; the repository openlm-research/open_llama and its README, July 2023 (Apache 2.0)
Parent   none
New      Falcon's RefinedWeb for CommonCrawl and C4, StarCoder's data for Github; spaces are kept; there is no 13B
Missing  the proportions, which were not published: one part stands for all; supply texts with --data
Ours     as in our OpenLLaMA; the desk size has the same text as LLaMA's desk size, in another draw
"""

from camelid.recipe import *
from camelid.recipes.llama import DATA as LLAMA_DATA
from camelid.recipes.openllama import BATCH, DEVIATION, LENGTH, LR, SHAPES, TRAIN, WARMUP

MIXTURE = Mixture(
    parts=(
        Part(
            name="RefinedWeb, StarCoder data, RedPajama without its crawl, C4 and Github",
            share=100.0,
            made="shares not published",
        ),  # README, Dataset and Training
    )
)
DATA: dict[Size, Mixture | DeskText] = LLAMA_DATA | {"3B": MIXTURE, "7B": MIXTURE}  # README


def openllama_v2(size: Size = "7B") -> Recipe:
    pieces = TrainTokenizer(
        name="pieces",
        kind="sentencepiece",  # facts: settings of LLaMA's, spaces kept
        data=DATA[size],
        vocab=SHAPES[size].vocab,
        seed=2,  # ours: a vocabulary of its own
    )
    pretrained = Pretrain(
        name="pretrained",
        shape=SHAPES[size],
        tokenizer=pieces,
        data=DATA[size],
        length=LENGTH[size],
        batch=BATCH[size],
        train=TRAIN[size],  # README: 1T
        optim=AdamW(lr=LR[size], betas=(0.9, 0.95), decay=0.1),  # README: LLaMA's optimizer
        schedule=Cosine(warmup=WARMUP[size], floor=0.1),  # README: LLaMA's schedule
        clip=1.0,  # README: LLaMA's hyperparameters
        deviation=DEVIATION[size],
        seed=2,  # ours: weights of its own
    )
    better = Claim(what="mean of 22 scores of the 7B, where v1 has 0.55", value=0.56, source="README, Evaluation")
    return Recipe(title=f"OpenLLaMA v2 {size}", stages=(pieces, pretrained), claims=(better,))
